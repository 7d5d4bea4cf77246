//! `herald bench` from outside: what it writes, and that it notices a loss.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

/// A private PostgreSQL is made for each.
const PATIENCE: Duration = Duration::from_secs(120);
const EVENTS: u64 = 60;

/// Runs one little scenario; the exit code, the JSON report and the page.
async fn bench(scenario: &Value) -> (i32, Value, String) {
    let file =
        |ending: &str| std::env::temp_dir().join(format!("herald-bench-test-{}.{ending}", Uuid::new_v4()));
    let (load, report, page) = (file("load.json"), file("json"), file("html"));
    std::fs::write(&load, json!([scenario]).to_string()).unwrap();
    let running = Command::new(env!("CARGO_BIN_EXE_herald"))
        .args(["bench", "--repeat", "1", "--seconds", "0.2", "--file"])
        .arg(&load)
        .arg("--json")
        .arg(&report)
        .arg("--html")
        .arg(&page)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, running).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let read = |file: &std::path::Path| {
        std::fs::read_to_string(file).unwrap_or_else(|_| panic!("no report: {said}"))
    };
    let found = (serde_json::from_str(&read(&report)).unwrap(), read(&page));
    for file in [load, report, page] {
        std::fs::remove_file(file).unwrap();
    }
    (output.status.code().unwrap(), found.0, found.1)
}

fn scenario(kind: &str) -> Value {
    json!({ "name": "small", "kind": kind, "clients": 4, "callbacks": 3, "events": EVENTS, "ratePerS": 100 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_counts_everything_that_it_asked_for_and_writes_a_report() {
    let (code, report, page) = bench(&scenario("latency")).await;
    let chapter = &report["chapters"][0];
    assert_eq!((code, chapter["status"].as_str()), (0, Some("ok")), "{report:#}");
    let tally = &chapter["runs"][0]["tally"];
    assert_eq!((tally["accepted"].as_u64(), tally["arrived"].as_u64()), (Some(EVENTS), Some(EVENTS)));
    assert_eq!((tally["lost"].as_u64(), tally["invented"].as_u64()), (Some(0), Some(0)));
    let p99 =
        chapter["medians"].as_array().unwrap().iter().find(|median| median["name"] == "arrival_p99").unwrap();
    for member in ["value", "bare", "ratio"] {
        assert!(p99[member].as_f64().is_some_and(|value| value > 0.0), "{member}: {p99}");
    }
    assert_eq!(report["conditions"]["repeat"], 1);
    assert!(page.contains("<svg") && page.contains("arrival_p99"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_events_are_told_from_the_backlog_beside_them() {
    let mut small = scenario("neighbour");
    small["hangMs"] = 2_000.into();
    let (code, report, _) = bench(&small).await;
    let chapter = &report["chapters"][0];
    assert_eq!((code, chapter["status"].as_str()), (0, Some("ok")), "{report:#}");
    // A hundred a second for a fifth of a second, beside the backlog.
    let tally = &chapter["runs"][0]["tally"];
    assert_eq!(
        (tally["accepted"].as_u64(), tally["arrived"].as_u64()),
        (Some(EVENTS + 20), Some(EVENTS + 20))
    );
    let named = |name: &str| {
        let found = chapter["medians"].as_array().unwrap().iter().find(|median| median["name"] == name);
        found.unwrap()["value"].as_f64().unwrap()
    };
    assert!(named("neighbour_p99") > 0.0 && named("recovered_per_s") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_whose_receivers_forget_fails() {
    let mut lossy = scenario("full-path");
    lossy["lose"] = true.into();
    let (code, report, _) = bench(&lossy).await;
    let chapter = &report["chapters"][0];
    assert_eq!((code, chapter["status"].as_str()), (1, Some("failed")), "{report:#}");
    let tally = &chapter["runs"][0]["tally"];
    assert!(tally["lost"].as_u64().unwrap() > 0, "{tally}");
    assert!(chapter["message"].as_str().unwrap().contains("lost"), "{chapter:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scenario_that_is_not_there_is_a_mistake_of_the_caller() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_herald")).args(["bench", "no-such"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no-such") && said.contains("herald bench list"), "{said}");
}
