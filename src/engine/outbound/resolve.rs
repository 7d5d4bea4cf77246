//! Names to addresses. What comes out is not trusted: `connect` vets every address.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Semaphore;

pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// The seam at which tests give names addresses of their own, different ones from one call to the next if need be.
pub trait Resolve: Send + Sync {
    fn resolve(&self, name: &str) -> Lookup;
}

/// Look-ups under way at once. Each one blocks a thread for as long as the system's resolver pleases, which is
/// longer than we wait for it; without a bound a dead DNS server would take every blocking thread we have.
const LOOKUPS_MAX: usize = 64;

/// The system's resolver, asked afresh each time.
pub struct SystemResolver {
    slots: Arc<Semaphore>,
}

impl SystemResolver {
    pub fn new() -> SystemResolver {
        SystemResolver { slots: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Default for SystemResolver {
    fn default() -> SystemResolver {
        SystemResolver::new()
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str) -> Lookup {
        let (name, slots) = (name.to_owned(), Arc::clone(&self.slots));
        Box::pin(async move {
            let slot = slots.acquire_owned().await.map_err(io::Error::other)?;
            // In a task of its own, so that the slot stays taken while the thread is, also when the caller has left.
            let lookup = tokio::spawn(async move {
                let found = tokio::net::lookup_host((name.as_str(), 0)).await;
                drop(slot);
                found.map(|addresses| addresses.map(|address| address.ip()).collect())
            });
            lookup.await.map_err(io::Error::other)?
        })
    }
}
