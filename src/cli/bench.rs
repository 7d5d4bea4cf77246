//! `herald bench`: how fast a server is, and whether it keeps its promise meanwhile. One command starts receivers and a load driver, against a
//! server that runs already or one that it starts for itself.
//!
//! It stands outside: it knows the published APIs, and of the process what the operating system tells. Every rate is measured beside a bare
//! loop of POSTs to the same receivers in the same run, because a ratio travels between machines and a rate does not.

mod client;
mod goals;
mod html;
mod ledger;
mod load;
mod measure;
mod plot;
mod progress;
mod receiver;
mod report;
mod scenario;
mod server;
mod stage;
mod statistics;
mod text;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::clock;
use crate::domain::time::wire_time;
use ledger::Tally;
use measure::{Measure, Measured};
use progress::Progress;
use report::{Chapter, Conditions, Ended, Report};
use scenario::Scenario;
use server::Server;
use stage::Stage;

#[derive(clap::Args)]
pub struct BenchArgs {
    /// Scenarios by name, or `list` to see which there are [default: all]
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,

    /// Scenarios from a JSON file instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// About how long each measured stretch takes
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,

    /// How often each scenario is run; the medians are reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,

    /// Requests a second of the latency scenario, instead of 200 and 5000
    #[arg(long, value_name = "PER_S", conflicts_with = "file", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,

    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the report as an HTML page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// The API of a server that runs already [default: one is started]
    #[arg(long, value_name = "URL", requires_all = ["operator", "api_key"])]
    api: Option<String>,

    /// The same server's operator side
    #[arg(long, value_name = "URL", requires = "api")]
    operator: Option<String>,

    /// A key of the same server with the scopes operator and producer
    #[arg(long, value_name = "KEY", env = "HERALD_BENCH_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
}

/// Exits 0 when everything accepted arrived and nothing else did, 1 otherwise, 2 when it was asked wrongly.
pub async fn run(args: BenchArgs) -> ExitCode {
    let scenarios = match scenarios(&args) {
        Ok(scenarios) => scenarios,
        Err(wrong) => {
            eprintln!("herald bench: {wrong}");
            return ExitCode::from(2);
        }
    };
    if args.scenarios.iter().any(|name| name == "list") {
        for scenario in scenarios {
            println!("{:14} {}", scenario.name, scenario.describe());
        }
        return ExitCode::SUCCESS;
    }
    match bench(&args, scenarios).await {
        Ok(report) if report.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("herald bench: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn scenarios(args: &BenchArgs) -> Result<Vec<Scenario>, String> {
    if !(args.seconds > 0.0 && args.seconds <= 3_600.0) {
        return Err("--seconds is above 0 and at most 3600".to_owned());
    }
    let known = match (&args.file, args.rate) {
        (Some(file), _) => scenario::from_file(file)?,
        (None, Some(rate_per_s)) => scenario::at_rate(scenario::built_in(), rate_per_s),
        (None, None) => scenario::built_in(),
    };
    let listed: Vec<String> = args.scenarios.iter().filter(|name| *name != "list").cloned().collect();
    scenario::chosen(known, &listed)
}

async fn bench(args: &BenchArgs, scenarios: Vec<Scenario>) -> Result<Report, String> {
    let conditions = conditions(args);
    let progress = Progress::new();
    let mut chapters = Vec::new();
    let mut stage = Stage::new(server(args, progress).await?);
    let all = async {
        for scenario in scenarios {
            chapters.push(chapter(args, scenario, &mut stage, progress).await);
        }
    };
    let interrupted = tokio::select! {
        () = all => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    let struck = stage.strike().await;
    progress.clear();
    if interrupted {
        return Err("interrupted".to_owned());
    }
    let report = Report { conditions, chapters };
    print!("{}", text::render(&report));
    if let Some(file) = &args.json {
        let json = serde_json::to_vec_pretty(&report).map_err(|error| error.to_string())?;
        write(file, &json)?;
    }
    if let Some(file) = &args.html {
        write(file, html::render(&report).as_bytes())?;
    }
    struck.map(|()| report)
}

async fn server(args: &BenchArgs, progress: Progress) -> Result<Server, String> {
    match (&args.api, &args.operator, &args.api_key) {
        (Some(api), Some(operator), Some(key)) => Server::running(api, operator, key).await,
        _ => {
            progress.say("starting a server");
            Server::start().await
        }
    }
}

async fn chapter(args: &BenchArgs, scenario: Scenario, stage: &mut Stage, progress: Progress) -> Chapter {
    let (mut runs, mut ended, mut events) = (Vec::new(), Ended::Through, None);
    for number in 1..=args.repeat {
        let title = format!("{}, {number} of {}", scenario.name, args.repeat);
        let mut measure = Measure {
            stage: &mut *stage,
            scenario: &scenario,
            seconds: args.seconds,
            progress,
            title,
            events,
            aside: Tally::default(),
        };
        let measured = measure.run().await;
        events = measure.events;
        match measured {
            Ok(Measured::Run(run)) => runs.push(*run),
            Ok(Measured::Unavailable(why)) => ended = Ended::Unavailable(why),
            Err(problem) => ended = Ended::Broken(problem),
        }
        if !matches!(ended, Ended::Through) {
            break;
        }
    }
    Chapter::new(scenario, runs, ended)
}

fn conditions(args: &BenchArgs) -> Conditions {
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    Conditions {
        version: env!("CARGO_PKG_VERSION"),
        begun: wire_time(clock::now()),
        cpus: std::thread::available_parallelism().map_or(1, Into::into),
        load_average: load.and_then(|load| load.split_whitespace().next()?.parse().ok()),
        optimized: !cfg!(debug_assertions),
        seconds: args.seconds,
        repeat: args.repeat,
    }
}

fn write(file: &std::path::Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(file, bytes).map_err(|error| format!("{}: {error}", file.display()))
}
