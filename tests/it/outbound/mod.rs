//! SECURITY rules 1 to 7 against receivers that misbehave, on loopback and therefore under the development
//! policy. What must *not* be called is tested in `tests/netns`, in a network of its own.

mod connections;
mod guard;
pub mod proxy;
pub mod receiver;
mod receivers;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herald::domain::callback_url::CallbackUrl;
use herald::domain::egress::EgressPolicy;
use herald::engine::outbound::{Extras, Limits, Lookup, Outbound, Post, Reply, ReplyKind, Resolve};
use hyper::HeaderMap;

/// Ample for anything that is meant to succeed.
const AMPLE: Duration = Duration::from_secs(20);
/// For receivers that never finish.
const SHORT: Duration = Duration::from_millis(400);

fn outbound(limits: Limits) -> Outbound {
    Outbound::new(Arc::new(EgressPolicy::development()), limits).unwrap()
}

fn outbound_with_names(resolver: impl Resolve + 'static) -> Outbound {
    let extras = Extras { resolver: Arc::new(resolver), ..Extras::default() };
    Outbound::with(Arc::new(EgressPolicy::development()), Limits::default(), extras).unwrap()
}

fn url(raw: &str) -> CallbackUrl {
    CallbackUrl::parse(raw, &EgressPolicy::development()).unwrap()
}

async fn post(outbound: &Outbound, raw: &str, timeout: Duration) -> Reply {
    let body = Bytes::from_static(br#"{"hello":"there"}"#);
    outbound.post(Post { url: &url(raw), headers: HeaderMap::new(), body, timeout, mask: &[] }).await
}

/// The status, or a panic that shows what came instead.
fn status(reply: &Reply) -> u16 {
    match &reply.result {
        ReplyKind::Answered { status, .. } => *status,
        other => panic!("expected an answer, got {other:?}"),
    }
}

/// Lets every task that can run on this single-threaded runtime do so.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// A resolver whose answers a test decides, call by call, whatever the name.
struct Names<F>(F);

impl<F: Fn() -> Vec<&'static str> + Send + Sync> Resolve for Names<F> {
    fn resolve(&self, _name: &str) -> Lookup {
        let addresses = (self.0)().iter().map(|address| address.parse().unwrap()).collect();
        Box::pin(async move { Ok(addresses) })
    }
}
