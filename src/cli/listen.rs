//! `herald listen`: a small receiver for developers. It prints every callback it gets, says whether the api key and
//! the signature are right, and answers as it was told to: well, badly, late, or with 410.
//!
//! It stands on the partner's side of the wire and knows nothing of the server but the headers that arrive. It binds
//! to 127.0.0.1 only, since it has no reason to trust what it receives nor to be reached from elsewhere.

mod callback;
pub(super) mod printable;
mod receiver;
mod show;

use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::domain::secret::Secret;
use crate::domain::signature::SigningKey;
use callback::Expected;
use receiver::{Behaviour, Receiver};
use show::Format;

/// How long answers under way may take once it is time to stop. A stalled answer is not worth waiting for.
const DRAIN: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub struct ListenArgs {
    /// Port on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 9090)]
    port: u16,

    /// The x-api-key that callbacks must carry
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,

    /// Key to verify webhook-signature with: whsec_…, or the secret of a webhooks subscription. May be repeated
    #[arg(long, value_name = "KEY")]
    signing_key: Vec<String>,

    /// Status to answer with
    #[arg(long, value_name = "STATUS", default_value_t = 204, value_parser = clap::value_parser!(u16).range(200..=599))]
    answer: u16,

    /// Answer 500 to the first N callbacks
    #[arg(long, value_name = "N", default_value_t = 0)]
    fail: u64,

    /// Wait this long before each answer
    #[arg(long, value_name = "MS", default_value_t = 0)]
    stall_ms: u64,

    /// Answer 410, which asks the sender to stop for good
    #[arg(long, conflicts_with = "answer")]
    gone: bool,

    /// Exit once N callbacks were received and answered
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Print one line of JSON per callback, and everything else to standard error
    #[arg(long)]
    json: bool,
}

/// Receives until `--count` is reached or a signal comes; both end well.
pub async fn run(args: ListenArgs) -> ExitCode {
    match listen(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Where even standard error is closed there is nobody left to tell.
            let _ = writeln!(io::stderr(), "herald listen: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn listen(args: ListenArgs) -> Result<(), String> {
    let (count, port, json) = (args.count, args.port, args.json);
    let (answered, answered_so_far) = watch::channel(0);
    let receiver = Receiver::new(expected(&args)?, behaviour(&args)?, format(&args), answered);
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| format!("cannot watch for SIGTERM: {error}"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| format!("cannot watch for SIGINT: {error}"))?;
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| {
        format!("cannot listen on 127.0.0.1:{port} ({error}); choose another with --port")
    })?;
    let address = socket.local_addr().map_err(|error| format!("cannot tell the port: {error}"))?;

    let (stop, stopped) = oneshot::channel::<()>();
    let app = Router::new().fallback(receiver::receive).with_state(Arc::new(receiver));
    let server = tokio::spawn(
        axum::serve(socket, app)
            .with_graceful_shutdown(async {
                // A sender that went away means the same as one that spoke.
                let _ = stopped.await;
            })
            .into_future(),
    );
    show::announce(json, &format!("Listening on http://{address}. Ctrl-C stops."));

    tokio::select! {
        () = enough(answered_so_far, count) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(stop);
    match tokio::time::timeout(DRAIN, server).await {
        Ok(Ok(served)) => served.map_err(|error| format!("stopped receiving: {error}")),
        Ok(Err(panic)) => Err(format!("stopped receiving: {panic}")),
        Err(_still_stalling) => Ok(()),
    }
}

async fn enough(mut answered: watch::Receiver<u64>, count: Option<u64>) {
    let Some(count) = count else { return std::future::pending().await };
    // An error means that the receiver is gone, and then there is nothing to wait for either.
    let _ = answered.wait_for(|answered| *answered >= count).await;
}

/// The error of a key never repeats it, as clap's own would.
fn expected(args: &ListenArgs) -> Result<Expected, String> {
    let key = |text: &String| match text.starts_with("whsec_") {
        true => SigningKey::parse(text).map_err(|error| format!("--signing-key cannot be used: {error}")),
        false => Ok(SigningKey::from_utf8_secret(text)),
    };
    Ok(Expected {
        api_key: args.api_key.clone().map(Secret::from),
        signing_keys: args.signing_key.iter().map(key).collect::<Result<_, _>>()?,
    })
}

fn behaviour(args: &ListenArgs) -> Result<Behaviour, String> {
    let status = if args.gone { Ok(StatusCode::GONE) } else { StatusCode::from_u16(args.answer) };
    Ok(Behaviour {
        answer: status.map_err(|error| format!("--answer: {error}"))?,
        fail_first: args.fail,
        stall: Duration::from_millis(args.stall_ms),
    })
}

fn format(args: &ListenArgs) -> Format {
    if args.json { Format::JsonLines } else { Format::Text }
}
