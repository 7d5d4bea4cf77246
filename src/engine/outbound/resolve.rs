//! Names to addresses. What comes out is not trusted: `connect` vets every address.
//!
//! A name whose servers are silent blocks a thread for longer than anybody waits for it, and whoever subscribes chooses names. So what takes
//! long leaves its place to others, a name that took long the last time has few places, and who asks for a name that is being looked up
//! waits for that answer. Nothing is remembered of answers: each new connection asks anew (SECURITY rule 1).

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// The seam at which tests give names addresses of their own, different ones from one call to the next if need be.
pub trait Resolve: Send + Sync {
    fn resolve(&self, name: &str) -> Lookup;
}

/// Look-ups under way at once that do not take long; each one takes a thread.
const LOOKUPS_MAX: usize = 64;
/// Of these, look-ups of names that took long the last time.
const OF_SLOW_NAMES_MAX: usize = 16;
/// Those that take long, besides. A name whose servers are silent takes the system's resolver ten seconds and more.
const LONG_MAX: usize = 192;
const LONG: Duration = Duration::from_millis(500);
/// Names that are remembered as slow; beyond that all are forgotten.
const SLOW_NAMES_KNOWN_MAX: usize = 10_000;

/// The system's resolver, asked afresh each time.
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str) -> Lookup {
        let name = name.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

type Found = Result<Vec<IpAddr>, Arc<io::Error>>;
type Answer = Pin<Box<dyn Future<Output = Found> + Send>>;

/// A resolver that is asked by many, of whom none shall wait for the names of others.
pub struct Lookups {
    shared: Arc<Inner>,
}

struct Inner {
    resolver: Box<dyn Resolve>,
    quick: Arc<Semaphore>,
    of_slow_names: Arc<Semaphore>,
    long: Arc<Semaphore>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Weak: a look-up whose askers have all left gives its place in the line up.
    under_way: HashMap<String, WeakShared<Answer>>,
    slow: HashSet<String>,
}

impl Lookups {
    pub fn new(resolver: impl Resolve + 'static) -> Lookups {
        let room = |places| Arc::new(Semaphore::new(places));
        let shared = Inner {
            resolver: Box::new(resolver),
            quick: room(LOOKUPS_MAX),
            of_slow_names: room(OF_SLOW_NAMES_MAX),
            long: room(LONG_MAX),
            known: Mutex::default(),
        };
        Lookups { shared: Arc::new(shared) }
    }

    fn answer(&self, name: &str) -> Shared<Answer> {
        let mut known = self.shared.known();
        if let Some(under_way) = known.under_way.get(name).and_then(WeakShared::upgrade) {
            return under_way;
        }
        let (inner, name) = (Arc::clone(&self.shared), name.to_owned());
        let of = OfName { inner: Arc::clone(&inner), name: name.clone() };
        let answer: Answer = Box::pin(async move { inner.look_up(of).await.map_err(Arc::new) });
        let answer = answer.shared();
        known.under_way.extend(answer.downgrade().map(|weak| (name, weak)));
        answer
    }
}

impl Resolve for Lookups {
    fn resolve(&self, name: &str) -> Lookup {
        let answer = self.answer(name);
        Box::pin(async move { answer.await.map_err(|error| io::Error::new(error.kind(), error)) })
    }
}

/// Takes a look-up out of those under way, however it ends.
struct OfName {
    inner: Arc<Inner>,
    name: String,
}

impl Drop for OfName {
    fn drop(&mut self) {
        self.inner.known().under_way.remove(&self.name);
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while holding the lock, and what is known is sound at every step.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn took_long(&self, name: &str) {
        let slow = &mut self.known().slow;
        if slow.len() >= SLOW_NAMES_KNOWN_MAX {
            slow.clear();
        }
        slow.insert(name.to_owned());
    }

    async fn look_up(self: Arc<Self>, of: OfName) -> io::Result<Vec<IpAddr>> {
        let place = |room: &Arc<Semaphore>| Arc::clone(room).acquire_owned();
        let is_slow = self.known().slow.contains(&of.name);
        let of_slow_name = match is_slow {
            true => Some(place(&self.of_slow_names).await.map_err(io::Error::other)?),
            false => None,
        };
        let quick = place(&self.quick).await.map_err(io::Error::other)?;
        let (inner, name) = (Arc::clone(&self), of.name.clone());
        // In a task of its own, so that the place stays taken while the thread is, also when all askers have left.
        let lookup = tokio::spawn(async move {
            let mut found = pin!(inner.resolver.resolve(&name));
            if let Ok(found) = timeout(LONG, &mut found).await {
                inner.known().slow.remove(&name);
                return found;
            }
            inner.took_long(&name);
            let long = tokio::select! {
                found = &mut found => return found,
                long = place(&inner.long) => long,
            };
            drop((quick, of_slow_name));
            let found = found.await;
            drop(long);
            found
        });
        lookup.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    /// Names that begin with `dead` are never answered.
    #[derive(Clone, Default)]
    struct Names {
        asked: Arc<AtomicUsize>,
    }

    impl Resolve for Names {
        fn resolve(&self, name: &str) -> Lookup {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let dead = name.starts_with("dead");
            Box::pin(async move {
                match dead {
                    true => std::future::pending().await,
                    false => Ok(vec![IpAddr::from([192, 0, 2, 1])]),
                }
            })
        }
    }

    fn ask_for_dead(lookups: &Lookups, which: std::ops::Range<usize>) -> tokio::task::JoinHandle<()> {
        let asked: Vec<_> = which.map(|number| lookups.resolve(&format!("dead-{number}"))).collect();
        tokio::spawn(async move {
            join_all(asked).await;
        })
    }

    #[tokio::test]
    async fn rule_20_names_whose_servers_are_silent_leave_room_for_others() {
        let lookups = Lookups::new(Names::default());
        let dead = ask_for_dead(&lookups, 0..150);
        assert_eq!(lookups.resolve("alive").await.unwrap(), [IpAddr::from([192, 0, 2, 1])]);
        while lookups.shared.long.available_permits() > LONG_MAX - 150 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(lookups.shared.quick.available_permits(), LOOKUPS_MAX, "all of them take long");
        // As many more as there may be of those that take long, so that the rest keep what they have.
        let more = ask_for_dead(&lookups, 150..150 + LONG_MAX - 150 + 40);
        while lookups.shared.quick.available_permits() > LOOKUPS_MAX - 40
            || lookups.shared.known().slow.len() < LONG_MAX + 40
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        lookups.resolve("alive").await.unwrap();
        dead.abort();
        more.abort();
    }

    #[tokio::test]
    async fn rule_20_a_name_that_took_long_has_few_places_until_it_does_not() {
        let lookups = Lookups::new(Names::default());
        {
            let mut known = lookups.shared.known();
            known.slow.extend((0..50).map(|number| format!("dead-{number}")));
            known.slow.insert("alive".to_owned());
        }
        lookups.resolve("alive").await.unwrap();
        assert!(!lookups.shared.known().slow.contains("alive"));
        let dead = ask_for_dead(&lookups, 0..50);
        while lookups.shared.of_slow_names.available_permits() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(lookups.shared.quick.available_permits() >= LOOKUPS_MAX - OF_SLOW_NAMES_MAX);
        dead.abort();
    }

    #[tokio::test]
    async fn who_asks_for_a_name_that_is_being_looked_up_waits_for_that_answer_and_nothing_is_kept() {
        let names = Names::default();
        let lookups = Lookups::new(names.clone());
        let answers = join_all((0..50).map(|_| lookups.resolve("alive"))).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(names.asked.load(Ordering::Relaxed), 1);
        lookups.resolve("alive").await.unwrap();
        assert_eq!(names.asked.load(Ordering::Relaxed), 2);
        assert!(lookups.shared.known().under_way.is_empty());
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_looked_up() {
        let names = Names::default();
        let lookups = Lookups::new(names.clone());
        let dead = ask_for_dead(&lookups, 0..LOOKUPS_MAX);
        while lookups.shared.quick.available_permits() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let waiting = timeout(Duration::from_millis(1), lookups.resolve("late")).await;
        assert!(waiting.is_err() && !lookups.shared.known().under_way.contains_key("late"));
        lookups.resolve("alive").await.unwrap();
        assert_eq!(names.asked.load(Ordering::Relaxed), LOOKUPS_MAX + 1);
        dead.abort();
    }
}
