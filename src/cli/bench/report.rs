//! What a whole bench comes to: figures by run, their medians, and beside each what the bare loop of the same run did.

use serde::Serialize;

use super::goals::{Goal, Verdict, goal};
use super::ledger::Tally;
use super::scenario::Scenario;
use super::statistics::median;

/// One measured number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub value: f64,
    /// The bare loop's counterpart, measured in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bare: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl Figure {
    pub fn new(name: &'static str, unit: &'static str, value: f64) -> Figure {
        Figure { name, unit, value, bare: None, ratio: None }
    }

    pub fn beside(self, bare: f64) -> Figure {
        let ratio = (bare > 0.0).then(|| self.value / bare);
        Figure { bare: Some(bare), ratio, ..self }
    }
}

/// One repetition of a scenario.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    pub figures: Vec<Figure>,
    pub tally: Tally,
    /// At the shares of `statistics::CURVE_SHARES`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub latency_ms: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bare_latency_ms: Vec<f64>,
    /// Arrivals in each tenth of a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arrivals_per_100ms: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// Something was lost or invented, or the scenario could not be carried through.
    Failed,
    /// This server does not offer what the scenario needs.
    Unavailable,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Median {
    #[serde(flatten)]
    pub figure: Figure,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// One scenario with all its runs.
#[derive(Debug, Clone, Serialize)]
pub struct Chapter {
    pub scenario: Scenario,
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    pub medians: Vec<Median>,
    pub runs: Vec<Run>,
}

/// How a scenario ended.
pub enum Ended {
    Through,
    Unavailable(String),
    Broken(String),
}

impl Chapter {
    pub fn new(scenario: Scenario, runs: Vec<Run>, ended: Ended) -> Chapter {
        let (status, message) = match ended {
            Ended::Unavailable(why) => (Status::Unavailable, Some(why)),
            Ended::Broken(why) => (Status::Failed, Some(why)),
            Ended::Through => match runs.iter().find_map(|run| complaint(&run.tally)) {
                Some(complaint) => (Status::Failed, Some(complaint)),
                None => (Status::Ok, None),
            },
        };
        let medians = medians(&scenario, &runs);
        Chapter { scenario, status, message, medians, runs }
    }
}

fn complaint(tally: &Tally) -> Option<String> {
    let Tally { lost, invented, accepted, refused, .. } = tally;
    if *accepted == 0 {
        return Some(format!("nothing was accepted, {refused} were refused"));
    }
    (!tally.is_clean())
        .then(|| format!("of {accepted} accepted events {lost} were lost; {invented} were invented"))
}

/// Ratios have medians of their own: each belongs to its run's bare loop.
fn medians(scenario: &Scenario, runs: &[Run]) -> Vec<Median> {
    let Some(first) = runs.first() else { return Vec::new() };
    let of = |name: &str, take: &dyn Fn(&Figure) -> Option<f64>| {
        let figures = runs.iter().flat_map(|run| &run.figures).filter(|figure| figure.name == name);
        median(&figures.filter_map(take).collect::<Vec<_>>())
    };
    let middle = |figure: &Figure| {
        let figure = Figure {
            value: of(figure.name, &|figure| Some(figure.value)).unwrap_or(figure.value),
            bare: of(figure.name, &|figure| figure.bare),
            ratio: of(figure.name, &|figure| figure.ratio),
            ..figure.clone()
        };
        let goal = goal(scenario, figure.name);
        let verdict = goal.map(|goal| goal.judge(&figure));
        Median { figure, goal, verdict }
    };
    first.figures.iter().map(middle).collect()
}

/// Under which conditions.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conditions {
    pub version: &'static str,
    pub begun: String,
    pub cpus: usize,
    /// Of the last minute before the bench began; beyond nought, others had a share of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_average: Option<f64>,
    pub optimized: bool,
    pub seconds: f64,
    pub repeat: u32,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub conditions: Conditions,
    pub chapters: Vec<Chapter>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.chapters.iter().all(|chapter| chapter.status != Status::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::built_in;
    use super::*;

    fn scenario(name: &str) -> Scenario {
        built_in().into_iter().find(|scenario| scenario.name == name).unwrap()
    }

    fn run(value: f64, bare: f64, tally: Tally) -> Run {
        Run {
            figures: vec![Figure::new("delivered_per_s", "/s", value).beside(bare)],
            tally,
            ..Run::default()
        }
    }

    #[test]
    fn a_median_ratio_is_the_median_of_the_runs_own_ratios() {
        let clean = Tally { accepted: 1, ..Tally::default() };
        let runs = vec![run(100.0, 1_000.0, clean), run(300.0, 1_000.0, clean), run(200.0, 500.0, clean)];
        let chapter = Chapter::new(scenario("full-path"), runs, Ended::Through);
        let figure = &chapter.medians[0].figure;
        assert_eq!((figure.value, figure.bare, figure.ratio), (200.0, Some(1_000.0), Some(0.3)));
        assert_eq!(chapter.status, Status::Ok);
    }

    #[test]
    fn one_lost_event_in_one_run_fails_the_scenario() {
        let clean = Tally { accepted: 1, ..Tally::default() };
        for tally in [Tally { lost: 1, ..clean }, Tally { invented: 1, ..clean }, Tally::default()] {
            let runs = vec![run(1.0, 1.0, clean), run(1.0, 1.0, tally)];
            let chapter = Chapter::new(scenario("full-path"), runs, Ended::Through);
            assert_eq!(chapter.status, Status::Failed);
            assert!(chapter.message.is_some());
        }
    }

    #[test]
    fn what_a_server_does_not_offer_is_no_failure() {
        let of = |ended| Chapter::new(scenario("publish"), Vec::new(), ended).status;
        assert_eq!(of(Ended::Unavailable("no".to_owned())), Status::Unavailable);
        assert_eq!(of(Ended::Broken("no".to_owned())), Status::Failed);
    }
}
