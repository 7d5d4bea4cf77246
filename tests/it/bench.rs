//! `herald bench` from outside: what it writes, and that it notices a loss. Each process makes a server and a PostgreSQL, so there are few.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::herald::DEV_KEY;

const PATIENCE: Duration = Duration::from_secs(120);
const EVENTS: u64 = 60;
const CALLBACKS: u64 = 3;

/// What a bench wrote, and how it ended.
struct Bench {
    code: i32,
    report: Value,
    page: String,
}

impl Bench {
    /// Runs these little scenarios.
    async fn of(scenarios: &[Value], flags: &[&str]) -> Bench {
        let file = |ending: &str| -> PathBuf {
            std::env::temp_dir().join(format!("herald-bench-test-{}.{ending}", Uuid::new_v4()))
        };
        let (load, report, page) = (file("load.json"), file("json"), file("html"));
        std::fs::write(&load, json!(scenarios).to_string()).unwrap();
        let running = Command::new(env!("CARGO_BIN_EXE_herald"))
            .args(["bench", "--repeat", "1", "--seconds", "0.2", "--file"])
            .arg(&load)
            .arg("--json")
            .arg(&report)
            .arg("--html")
            .arg(&page)
            .args(flags)
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, running).await.expect("it ends").unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains('\r'), "no progress bar where nobody looks");
        let read =
            |file: &Path| std::fs::read_to_string(file).unwrap_or_else(|_| panic!("no report: {said}"));
        let bench = Bench {
            code: output.status.code().unwrap(),
            report: serde_json::from_str(&read(&report)).unwrap(),
            page: read(&page),
        };
        for file in [load, report, page] {
            std::fs::remove_file(file).unwrap();
        }
        bench
    }

    fn chapter(&self, name: &str) -> Chapter<'_> {
        let (chapters, name) = (self.report["chapters"].as_array().unwrap(), format!("small-{name}"));
        Chapter(chapters.iter().find(|chapter| chapter["scenario"]["name"] == name).unwrap())
    }
}

struct Chapter<'a>(&'a Value);

impl Chapter<'_> {
    /// A member of a figure's median.
    fn figure(&self, name: &str, member: &str) -> f64 {
        let medians = self.0["medians"].as_array().unwrap();
        let found = medians.iter().find(|median| median["name"] == name);
        let found = found.unwrap_or_else(|| panic!("no {name}: {:#}", self.0));
        found[member].as_f64().unwrap_or_else(|| panic!("{name} has no {member}: {found}"))
    }

    fn count(&self, what: &str) -> u64 {
        self.0["runs"][0]["tally"][what].as_u64().unwrap()
    }

    /// So many were asked for, and all of them arrived.
    fn assert_whole(&self, events: u64) {
        assert_eq!(self.0["status"], "ok", "{:#}", self.0);
        let counts = ["accepted", "arrived", "refused", "lost", "invented"].map(|what| self.count(what));
        assert_eq!(counts, [events, events, 0, 0, 0], "{:#}", self.0);
    }

    /// Above nought, each with the bare loop's counterpart.
    fn assert_beside_bare(&self, figures: &[&str]) {
        for figure in figures {
            for member in ["value", "bare", "ratio"] {
                assert!(self.figure(figure, member) > 0.0, "{member} of {figure}");
            }
        }
    }
}

fn scenario(kind: &str) -> Value {
    json!({
        "name": format!("small-{kind}"), "kind": kind, "clients": 4, "callbacks": CALLBACKS, "events": EVENTS, "ratePerS": 100,
        "hangingPercent": 34, "hangMs": 500, "batchEvents": 20, "callbacksPerEvent": CALLBACKS,
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: script/test --test it -- --ignored bench::"]
async fn a_bench_counts_everything_that_it_asked_for_and_writes_a_report() {
    let kinds =
        ["latency", "full-path", "publish", "callbacks", "hanging", "neighbour", "fan-out", "hanging"];
    let mut scenarios = kinds.map(scenario);
    scenarios[7]["name"] = "small-arrays".into();
    scenarios[7]["batchSize"] = 5.into();
    scenarios[1]["requestIds"] = true.into();
    scenarios[2]["orderingKeys"] = 2.into();
    // So few that a slow machine keeps up with them.
    scenarios[5]["ratePerS"] = 50.into();
    // By turns to two partners.
    scenarios[6]["callbacks"] = (2 * CALLBACKS).into();
    let bench = Bench::of(&scenarios, &[]).await;
    assert_eq!(bench.code, 0, "{:#}", bench.report);
    assert_eq!(bench.report["conditions"]["repeat"], 1);

    let latency = bench.chapter("latency");
    latency.assert_whole(EVENTS);
    latency.assert_beside_bare(&["arrival_p50", "arrival_p99", "accept_p99", "delivered_per_s"]);

    for kind in ["full-path", "publish"] {
        let chapter = bench.chapter(kind);
        chapter.assert_whole(EVENTS);
        chapter.assert_beside_bare(&["delivered_per_s", "accepted_per_s", "accept_p99"]);
        assert!(chapter.figure("wal_per_delivery", "value") > 0.0);
    }

    let callbacks = bench.chapter("callbacks");
    // One to each beforehand, so that there is a connection to each.
    callbacks.assert_whole(EVENTS + CALLBACKS);
    assert_eq!(callbacks.figure("idle_connections", "value"), CALLBACKS as f64);
    assert!(callbacks.figure("idle_bytes_per_callback", "value") > 0.0);
    assert!(callbacks.figure("connections_opened", "value") >= CALLBACKS as f64);
    assert!(callbacks.figure("memory_at_rate", "value") > 0.0);

    for kind in ["hanging", "arrays"] {
        let hanging = bench.chapter(kind);
        // Of both halves.
        hanging.assert_whole(2 * EVENTS);
        hanging.assert_beside_bare(&["healthy_per_s", "healthy_per_s_none_hanging"]);
    }

    let neighbour = bench.chapter("neighbour");
    // Fifty a second for a fifth of a second, beside the backlog; and for as long as that drains.
    let draining = neighbour.count("accepted") - EVENTS - 10;
    assert!(draining > 0);
    neighbour.assert_whole(EVENTS + 10 + draining);
    neighbour.assert_beside_bare(&["neighbour_p99", "neighbour_p99_draining", "recovered_per_s"]);

    let fan_out = bench.chapter("fan-out");
    fan_out.assert_whole(CALLBACKS * EVENTS);
    fan_out.assert_beside_bare(&["delivered_per_s", "accepted_per_s"]);

    for part in ["asked to arrived, by percentile", "arrivals a second, by second", "has no counterpart"] {
        assert!(bench.page.contains(part), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: script/test --test it -- --ignored bench::"]
async fn what_receivers_forget_fails_a_scenario_and_what_a_server_that_stops_held_does_not() {
    let (mut full_path, mut hanging) = (scenario("full-path"), scenario("hanging"));
    full_path["lose"] = true.into();
    hanging["lose"] = true.into();
    // So that the look at the server's speed is there as well.
    full_path.as_object_mut().unwrap().remove("events");
    let bench = Bench::of(&[full_path, hanging, scenario("start"), scenario("backlog")], &[]).await;
    assert_eq!(bench.code, 1, "{:#}", bench.report);
    // Every tenth, of all that was asked for: in the look beforehand and the run, in the half with none hanging and the other.
    for (kind, accepted, lost) in [("full-path", 400, 40), ("hanging", 2 * EVENTS, 12)] {
        let chapter = bench.chapter(kind);
        assert_eq!(chapter.0["status"], "failed");
        assert!(chapter.count("accepted") >= accepted, "{:#}", chapter.0);
        assert!(chapter.count("lost") >= lost, "{:#}", chapter.0);
        assert!(chapter.0["message"].as_str().unwrap().contains("lost"), "{:#}", chapter.0);
    }

    bench.chapter("start").assert_whole(1);
    assert!(bench.chapter("start").figure("first_accepted", "value") > 0.0);

    let backlog = bench.chapter("backlog");
    backlog.assert_whole(EVENTS);
    assert_eq!(backlog.figure("backlog", "value"), EVENTS as f64);
    backlog.assert_beside_bare(&["drained_per_s", "first_nine_tenths_per_s"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_runs_already_is_measured_and_left_as_it_was() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let flags = ["--api", &app.base, "--operator", &app.operator, "--api-key", DEV_KEY];
    let kinds = ["full-path", "publish", "fan-out", "callbacks", "backlog", "start"];
    let bench = Bench::of(&kinds.map(scenario), &flags).await;
    assert_eq!(bench.code, 0, "{:#}", bench.report);
    for kind in ["full-path", "publish", "callbacks"] {
        bench.chapter(kind).assert_whole(EVENTS);
        bench.chapter(kind).assert_beside_bare(&["delivered_per_s"]);
    }
    for kind in ["backlog", "start"] {
        let chapter = bench.chapter(kind);
        assert_eq!(chapter.0["status"], "unavailable");
        assert!(chapter.0["message"].as_str().unwrap().contains("the bench's own"));
    }
    let left: i64 = sqlx::query_scalar("select count(*) from subscriptions where state <> 'deleted'")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(left, 0, "its subscriptions are gone");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scenario_that_is_not_there_is_a_mistake_of_the_caller() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_herald")).args(["bench", "no-such"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no-such") && said.contains("herald bench list"), "{said}");
}
