//! `herald keys rotate`: the administrative face of `hub::rotation`.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

use crate::cli::bar::bar;
use crate::cli::database::DatabaseArgs;
use crate::domain::key_ring::{KeyRing, KeyRingError};
use crate::domain::time::wire_time;
use crate::hub::rotation::{Done, Rotation};

const SHOW_EVERY: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub struct RotateArgs {
    /// The ring that every server has, its first key the one to encrypt with. Prefer the variable
    #[arg(long, value_name = "KEYS", env = "HERALD_SECRET_KEYS", hide_env_values = true)]
    secret_keys: Option<String>,
    /// Only say whether it can be done, and how much there is
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub async fn run(args: RotateArgs) -> Result<(), String> {
    let keys = KeyRing::parse(args.secret_keys.as_deref().unwrap_or_default())
        .map_err(|error| format!("HERALD_SECRET_KEYS cannot be used: {error}; {}", KeyRingError::HINT))?;
    let rotation = Rotation::new(&args.database.open().await?, keys);
    let survey = rotation.survey().await.map_err(|refused| refused.to_string())?;
    if args.check {
        println!("{} values to encrypt again", survey.values);
        return Ok(());
    }
    let mut progress = Progress::new(survey.values);
    let done = rotation.run(|values| progress.more(values)).await;
    progress.clear();
    told(done.map_err(|refused| format!("{refused}; what was done stays done, come again for the rest"))?)
}

fn told(done: Done) -> Result<(), String> {
    println!("{} values encrypted again", done.sealed_anew);
    match done.answers_left_until {
        Some(until) if done.answers_left > 0 => println!(
            "Keep the old keys in the ring until {}: {} remembered answers need them.",
            wire_time(until),
            done.answers_left
        ),
        _ if done.broken == 0 => println!("Nothing needs the old keys any more."),
        _ => {}
    }
    if done.broken == 0 {
        return Ok(());
    }
    let named = done.broken_named.join("\n  ");
    Err(format!("{} values do not open and are left as they are:\n  {named}", done.broken))
}

/// A line on standard error that rewrites itself, if somebody is there to look at it.
struct Progress {
    all: u64,
    done: u64,
    shown: Option<Instant>,
}

impl Progress {
    fn new(all: u64) -> Self {
        Self { all, done: 0, shown: stderr().is_terminal().then(Instant::now) }
    }

    fn more(&mut self, values: u64) {
        self.done += values;
        if self.shown.is_some_and(|shown| shown.elapsed() >= SHOW_EVERY) {
            self.shown = Some(Instant::now());
            // A terminal that went away has nobody in front of it.
            let _gone =
                write!(stderr(), "\r\x1b[K{}{} of {} values", bar(self.done, self.all), self.done, self.all);
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            let _gone = write!(stderr(), "\r\x1b[K");
        }
    }
}
