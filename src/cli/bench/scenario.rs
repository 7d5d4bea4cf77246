//! What there is to measure: the built-in scenarios, and those that an operator describes in a file.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// How a scenario goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// As fast as it goes: each client waits for its answer and asks again.
    FullPath,
    /// At a fixed rate, whatever the answers do.
    Latency,
    /// Much waits in the database and is drained by claims.
    Backlog,
    /// As `full-path`, with some callbacks hanging and with none.
    Hanging,
    /// As `full-path`, with an eye on memory and connections.
    Callbacks,
    /// From nothing to the first accepted request.
    Start,
    /// Events published on the operator's side, in batches or one by one.
    Publish,
    /// As `publish`, each event for several callbacks.
    FanOut,
    /// One partner's few events while another's callback hangs with much that is due.
    Neighbour,
}

/// One load. In a file each member but `name` and `kind` may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    pub kind: Kind,
    #[serde(default = "defaults::clients")]
    pub clients: u16,
    /// Each of its own partner (of `fan-out` several of one), at an origin of its own.
    #[serde(default = "defaults::callbacks")]
    pub callbacks: u16,
    /// Of `latency` and `neighbour`: requests a second.
    #[serde(default = "defaults::rate_per_s")]
    pub rate_per_s: u32,
    /// How many events; when absent, as many as keep the server busy for `--seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<u32>,
    #[serde(default = "defaults::hanging_percent")]
    pub hanging_percent: f64,
    #[serde(default = "defaults::hang_ms")]
    pub hang_ms: u32,
    /// Of `publish`, `fan-out` and what publishes to arrays: events in one request, a batch if there are several.
    #[serde(default = "defaults::batch_events")]
    pub batch_events: u16,
    /// Of `fan-out`: callbacks that each event is for, all of one partner.
    #[serde(default = "defaults::callbacks_per_event")]
    pub callbacks_per_event: u16,
    /// Of `publish` and `fan-out`: the ordering keys of each callback's events, which take turns; of none no event has one.
    #[serde(default, skip_serializing_if = "is_none")]
    pub ordering_keys: u16,
    /// Of `publish` and `hanging`: callbacks of event notifications, which take arrays of so many events at most; `hanging` publishes then, and does
    /// not cancel. Of 1 they are callbacks of redirect sessions.
    #[serde(default = "defaults::batch_size", skip_serializing_if = "is_one")]
    pub batch_size: u16,
    /// Of those that cancel: each request has an `x-request-id` of its own, and its answer is kept for a repeat.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub request_ids: bool,
    /// The receivers forget some arrivals, so that the run has to fail. For checking the check.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lose: bool,
}

fn is_none(count: &u16) -> bool {
    *count == 0
}

fn is_one(count: &u16) -> bool {
    *count == 1
}

/// Deliveries that publishing has under way.
const PUBLISHED_AT_ONCE: u16 = 4_000;

mod defaults {
    pub fn clients() -> u16 {
        64
    }
    pub fn callbacks() -> u16 {
        64
    }
    pub fn rate_per_s() -> u32 {
        200
    }
    pub fn hanging_percent() -> f64 {
        1.0
    }
    pub fn hang_ms() -> u32 {
        10_000
    }
    pub fn batch_events() -> u16 {
        500
    }
    pub fn callbacks_per_event() -> u16 {
        10
    }
    pub fn batch_size() -> u16 {
        1
    }
}

/// What a partner of the bench has: so many callbacks, which take so many events at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    pub fan_out: u16,
    pub batch_size: u16,
}

impl Scenario {
    fn new(name: &str, kind: Kind) -> Scenario {
        Scenario {
            name: name.to_owned(),
            kind,
            clients: defaults::clients(),
            callbacks: defaults::callbacks(),
            rate_per_s: defaults::rate_per_s(),
            events: None,
            hanging_percent: defaults::hanging_percent(),
            hang_ms: defaults::hang_ms(),
            batch_events: defaults::batch_events(),
            callbacks_per_event: defaults::callbacks_per_event(),
            ordering_keys: 0,
            batch_size: defaults::batch_size(),
            request_ids: false,
            lose: false,
        }
    }

    /// How many callbacks each event is for.
    pub fn fan_out(&self) -> u16 {
        if self.kind == Kind::FanOut { self.callbacks_per_event } else { 1 }
    }

    /// What its callbacks are like.
    pub fn shape(&self) -> Shape {
        Shape { fan_out: self.fan_out(), batch_size: self.batch_size }
    }

    /// How many deliveries one request of publishing is about.
    fn request_deliveries(&self) -> u16 {
        self.batch_events.saturating_mul(self.fan_out())
    }

    /// How many publish at once: no more than are needed to have [`PUBLISHED_AT_ONCE`] deliveries under way, beyond that requests only wait.
    pub fn publishers(&self) -> u16 {
        self.clients.min((PUBLISHED_AT_ONCE / self.request_deliveries()).max(1))
    }

    /// How many callbacks hang: of nought per cent none, of more at least one.
    pub fn hanging_callbacks(&self) -> u16 {
        if self.hanging_percent == 0.0 {
            return 0;
        }
        ((f64::from(self.callbacks) * self.hanging_percent / 100.0).round() as u16).clamp(1, self.callbacks)
    }

    /// In a sentence, for the list.
    pub fn describe(&self) -> String {
        let Scenario { clients, callbacks, rate_per_s, .. } = self;
        match self.kind {
            Kind::FullPath => {
                format!(
                    "{clients} clients cancel sessions: accepted, delivered to {callbacks} callbacks, recorded"
                )
            }
            Kind::Latency => format!("{rate_per_s} cancels a second, on schedule: from asked to arrived"),
            Kind::Backlog => {
                "the server is stopped with its hands full; the next one drains by claims".to_owned()
            }
            Kind::Hanging => format!(
                "{} of {callbacks} callbacks{} hang for {} s: what the healthy ones get, against none hanging",
                self.hanging_callbacks(),
                self.arrays(),
                f64::from(self.hang_ms) / 1_000.0
            ),
            Kind::Callbacks => format!("{callbacks} callbacks: the server's memory, connections opened"),
            Kind::Start => {
                "from the start of the process to the first accepted request, warm data".to_owned()
            }
            Kind::Neighbour => format!(
                "{rate_per_s} events a second of one partner while another's callback hangs with much that is due"
            ),
            Kind::FanOut => format!(
                "{} events a request on the operator's side, each for {} of {callbacks} callbacks",
                self.batch_events, self.callbacks_per_event
            ),
            Kind::Publish if self.batch_events == 1 => format!(
                "{} clients publish one event a request on the operator's side, {callbacks} callbacks",
                self.publishers()
            ),
            Kind::Publish => {
                format!(
                    "{} events a request on the operator's side, {callbacks} callbacks{}",
                    self.batch_events,
                    self.arrays()
                )
            }
        }
    }

    fn arrays(&self) -> String {
        if self.batch_size > 1 { format!(" that take {} at once", self.batch_size) } else { String::new() }
    }

    fn check(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("scenario {:?}: {what}", self.name));
        if self.name.is_empty() || self.name.len() > 60 {
            return wrong("a name has 1 to 60 characters");
        }
        if self.clients == 0 || self.callbacks == 0 || self.rate_per_s == 0 || self.events == Some(0) {
            return wrong("clients, callbacks, ratePerS and events are at least 1");
        }
        if self.kind == Kind::Neighbour && self.callbacks < 2 {
            return wrong("callbacks is at least 2");
        }
        if self.kind == Kind::FanOut
            && (self.callbacks_per_event == 0 || !self.callbacks.is_multiple_of(self.callbacks_per_event))
        {
            return wrong("callbacks is a multiple of callbacksPerEvent");
        }
        if !(1..=200).contains(&self.batch_size) {
            return wrong("batchSize is 1 to 200");
        }
        if self.batch_size > 1 && !matches!(self.kind, Kind::Publish | Kind::Hanging) {
            return wrong("batchSize is for the kinds publish and hanging");
        }
        if !(1..=10_000).contains(&self.batch_events) {
            return wrong("batchEvents is 1 to 10000");
        }
        if !(0.0..=100.0).contains(&self.hanging_percent) {
            return wrong("hangingPercent is 0 to 100");
        }
        Ok(())
    }
}

/// The scenarios that come with the program, cheap ones first.
pub fn built_in() -> Vec<Scenario> {
    let new = Scenario::new;
    vec![
        new("start", Kind::Start),
        new("latency-200", Kind::Latency),
        Scenario { rate_per_s: 5_000, ..new("latency-5000", Kind::Latency) },
        new("full-path", Kind::FullPath),
        new("publish", Kind::Publish),
        Scenario { batch_events: 1, ..new("publish-single", Kind::Publish) },
        Scenario { callbacks: 60, batch_events: 50, ..new("fan-out", Kind::FanOut) },
        Scenario { callbacks: 1_000, ..new("callbacks", Kind::Callbacks) },
        Scenario { callbacks: 1_000, ..new("hanging", Kind::Hanging) },
        Scenario { callbacks: 1_000, hanging_percent: 50.0, ..new("hanging-half", Kind::Hanging) },
        new("backlog", Kind::Backlog),
        Scenario { callbacks: 2, rate_per_s: 10, ..new("neighbour", Kind::Neighbour) },
    ]
}

/// The same with one latency scenario, at this rate.
pub fn at_rate(mut known: Vec<Scenario>, rate_per_s: u32) -> Vec<Scenario> {
    known.retain(|scenario| scenario.kind != Kind::Latency);
    let name = format!("latency-{rate_per_s}");
    known.push(Scenario { rate_per_s, ..Scenario::new(&name, Kind::Latency) });
    known
}

/// Those of `known` that are asked for by name, or by the beginning of one up to a dash; all when none is named.
pub fn chosen(known: Vec<Scenario>, names: &[String]) -> Result<Vec<Scenario>, String> {
    let is = |scenario: &Scenario, name: &str| {
        scenario.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    if let Some(name) = names.iter().find(|name| !known.iter().any(|scenario| is(scenario, name))) {
        return Err(format!("there is no scenario {name}; see `herald bench list`"));
    }
    let wanted = |scenario: &Scenario| names.is_empty() || names.iter().any(|name| is(scenario, name));
    Ok(known.into_iter().filter(wanted).collect())
}

/// What a file describes: a JSON array of scenarios.
pub fn from_file(file: &Path) -> Result<Vec<Scenario>, String> {
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| said(&error))?;
    parse(&text).map_err(|error| said(&error))
}

fn parse(text: &str) -> Result<Vec<Scenario>, String> {
    let scenarios: Vec<Scenario> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    scenarios.iter().try_for_each(Scenario::check)?;
    if scenarios.is_empty() {
        return Err("describes no scenario".to_owned());
    }
    Ok(scenarios)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[&str]) -> Result<Vec<String>, String> {
        let wanted: Vec<String> = of.iter().map(|name| (*name).to_owned()).collect();
        Ok(chosen(built_in(), &wanted)?.into_iter().map(|scenario| scenario.name).collect())
    }

    #[test]
    fn a_name_chooses_its_scenarios_and_no_others() {
        assert_eq!(names(&["latency"]).unwrap(), ["latency-200", "latency-5000"]);
        assert_eq!(names(&["latency-200", "start"]).unwrap(), ["start", "latency-200"]);
        assert_eq!(names(&[]).unwrap().len(), built_in().len());
        assert!(names(&["start", "late"]).unwrap_err().contains("no scenario late"));
    }

    #[test]
    fn one_rate_makes_one_latency_scenario() {
        let known = at_rate(built_in(), 70);
        let latency: Vec<_> = known.iter().filter(|scenario| scenario.kind == Kind::Latency).collect();
        assert_eq!(latency.len(), 1);
        assert_eq!((latency[0].name.as_str(), latency[0].rate_per_s), ("latency-70", 70));
    }

    #[test]
    fn a_file_says_what_differs_from_the_usual() {
        let read = parse(r#"[{"name":"ours","kind":"hanging","callbacks":20,"hangingPercent":10}]"#).unwrap();
        assert_eq!((read[0].kind, read[0].hanging_callbacks(), read[0].clients), (Kind::Hanging, 2, 64));
        for (percent, hang) in [(0.0, 0), (0.1, 1), (5.0, 1), (8.0, 2), (100.0, 20)] {
            let scenario = Scenario { hanging_percent: percent, ..read[0].clone() };
            assert_eq!(scenario.hanging_callbacks(), hang, "{percent}% of 20");
        }
        for (text, complaint) in [
            ("[]", "no scenario"),
            (r#"[{"name":"x"}]"#, "kind"),
            (r#"[{"name":"x","kind":"fast"}]"#, "fast"),
            (r#"[{"name":"x","kind":"start","colour":1}]"#, "colour"),
            (r#"[{"name":"x","kind":"start","clients":0}]"#, "at least 1"),
            (r#"[{"name":"x","kind":"publish","batchEvents":10001}]"#, "batchEvents"),
            (r#"[{"name":"x","kind":"neighbour","callbacks":1}]"#, "at least 2"),
            (r#"[{"name":"x","kind":"fan-out","callbacks":15}]"#, "a multiple"),
            (r#"[{"name":"x","kind":"fan-out","callbacksPerEvent":0}]"#, "a multiple"),
            (r#"[{"name":"x","kind":"hanging","hangingPercent":101}]"#, "hangingPercent"),
            (r#"[{"name":"x","kind":"publish","batchSize":201}]"#, "batchSize is 1"),
            (r#"[{"name":"x","kind":"start","batchSize":2}]"#, "batchSize is for"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }

    #[test]
    fn what_comes_with_the_program_passes_its_own_check() {
        for scenario in built_in() {
            scenario.check().unwrap();
            assert!(!scenario.describe().is_empty());
        }
    }
}
