//! What the built-in scenarios are expected to reach. A rate is judged by its ratio to the bare loop, because that is what two machines have
//! in common; the rest by its value.

use serde::Serialize;

use super::report::Figure;
use super::scenario::{Kind, Scenario, built_in};

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Goal {
    pub floor: f64,
    pub target: f64,
    /// Whether it is the ratio that is meant.
    #[serde(rename = "ofRatio")]
    pub of_ratio: bool,
    #[serde(rename = "lessIsBetter")]
    pub less_is_better: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Target,
    Floor,
    BelowFloor,
}

impl Goal {
    fn at_least(floor: f64, target: f64) -> Goal {
        Goal { floor, target, of_ratio: false, less_is_better: false }
    }

    fn at_most(floor: f64, target: f64) -> Goal {
        Goal { less_is_better: true, ..Goal::at_least(floor, target) }
    }

    fn of_ratio(self) -> Goal {
        Goal { of_ratio: true, ..self }
    }

    pub fn judge(&self, figure: &Figure) -> Verdict {
        let value = if self.of_ratio { figure.ratio.unwrap_or(0.0) } else { figure.value };
        let reaches = |goal: f64| if self.less_is_better { value <= goal } else { value >= goal };
        match (reaches(self.target), reaches(self.floor)) {
            (true, _) => Verdict::Target,
            (false, true) => Verdict::Floor,
            (false, false) => Verdict::BelowFloor,
        }
    }
}

/// The goal of a figure, if it has one. Loads that an operator made up have none.
pub fn goal(scenario: &Scenario, figure: &str) -> Option<Goal> {
    if !built_in().contains(scenario) {
        return None;
    }
    Some(match (scenario.kind, figure) {
        (Kind::FullPath, "delivered_per_s") => Goal::at_least(0.15, 0.20).of_ratio(),
        (Kind::Publish, "delivered_per_s") if scenario.batch_events > 1 => {
            Goal::at_least(0.30, 0.43).of_ratio()
        }
        (Kind::Backlog, "drained_per_s") => Goal::at_least(25_000.0, 40_000.0),
        (Kind::Latency, "arrival_p99") if scenario.rate_per_s == 200 => Goal::at_most(5.0, 2.0),
        (Kind::Latency, "arrival_p99") if scenario.rate_per_s == 5_000 => Goal::at_most(8.0, 3.0),
        (Kind::Hanging, "healthy_share") => Goal::at_least(85.0, 95.0),
        (Kind::Neighbour, "neighbour_p99" | "neighbour_p99_draining") => Goal::at_most(1_000.0, 250.0),
        (Kind::Callbacks, "memory_idle") => Goal::at_most(40.0, 20.0),
        (Kind::Callbacks, "memory_at_rate") => Goal::at_most(200.0, 100.0),
        (Kind::Start, "first_accepted") => Goal::at_most(1_000.0, 300.0),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_judged_by_what_its_goal_is_about() {
        let figure = |value| Figure::new("x", "/s", value);
        for (goal, figure, verdict) in [
            (Goal::at_least(1.0, 2.0), figure(2.0), Verdict::Target),
            (Goal::at_least(1.0, 2.0), figure(1.9), Verdict::Floor),
            (Goal::at_least(1.0, 2.0), figure(0.9), Verdict::BelowFloor),
            (Goal::at_most(5.0, 2.0), figure(2.0), Verdict::Target),
            (Goal::at_most(5.0, 2.0), figure(5.1), Verdict::BelowFloor),
            (Goal::at_least(0.1, 0.2).of_ratio(), figure(15.0).beside(100.0), Verdict::Floor),
            (Goal::at_least(0.1, 0.2).of_ratio(), figure(15.0), Verdict::BelowFloor),
        ] {
            assert_eq!(goal.judge(&figure), verdict, "{goal:?} {figure:?}");
        }
    }
}
