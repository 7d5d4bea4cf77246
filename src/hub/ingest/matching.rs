//! Who takes the events of a group, and how each delivery begins.
//!
//! Routes that were read once are remembered. Others may change them at any moment: the insert looks whether they still hold, and writes nothing
//! if they do not; the group then forgets them and begins again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sqlx::PgConnection;

use super::super::handoff::room_for;
use super::group::Birth;
use crate::domain::Error;
use crate::domain::event::NewEvent;
use crate::domain::id::{DeliveryId, IdMap, IdSet, PartnerId, SubscriptionId};
use crate::domain::publication::Publication;
use crate::domain::route::{Route, Routes};
use crate::store::events::{Begins, NewDelivery};
use crate::store::routes;

/// Memory for what is remembered, about.
const REMEMBERED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a type of a partner's events takes of it, with its place in two maps, and each of its routes.
const TYPE_BYTES: usize = 256;
const ROUTE_BYTES: usize = size_of::<Route>();
/// An event that matches more subscriptions gets no queue rows with its commit, unless it has an ordering key: they follow in chunks.
const AT_ONCE_MAX: usize = 1_000;
/// Nor more than so many deliveries of one group: thousands of events may match hundreds each, and everybody waits for their commit. What matches
/// only a few is not worth a chunk of its own.
const GROUP_AT_ONCE_MAX: usize = 20_000;
const FEW: usize = 10;

/// The routes of the types of partners' events that were asked for lately.
#[derive(Default)]
pub(super) struct KnownRoutes {
    by_partner: IdMap<PartnerId, HashMap<String, Arc<Routes>>>,
    /// What counts against [`REMEMBERED_BYTES_MAX`].
    bytes: usize,
}

impl KnownRoutes {
    /// The routes of each of these events, in order. Those that are not remembered are read.
    pub(super) async fn find(
        &mut self,
        db: &mut PgConnection,
        events: &[NewEvent],
    ) -> Result<Vec<Arc<Routes>>, Error> {
        let mut found: Vec<_> = events.iter().map(|event| self.get(event)).collect();
        let unknown = events.iter().zip(&found).filter(|(_, routes)| routes.is_none());
        let unknown: BTreeSet<_> = unknown.map(|(event, _)| (event.partner, event.kind.as_str())).collect();
        if !unknown.is_empty() {
            let asked: Vec<_> = unknown.into_iter().collect();
            let read = routes::read(db, &asked).await?.into_iter().map(Arc::new);
            let read: HashMap<_, _> = asked.iter().copied().zip(read).collect();
            for (event, found) in events.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                *found = read.get(&(event.partner, event.kind.as_str())).cloned();
            }
            read.into_iter().for_each(|((partner, kind), routes)| self.remember(partner, kind, routes));
        }
        let unread = || Error::internal("routes were not read");
        found.into_iter().map(|routes| routes.ok_or_else(unread)).collect()
    }

    fn get(&self, event: &NewEvent) -> Option<Arc<Routes>> {
        self.by_partner.get(&event.partner)?.get(&event.kind).cloned()
    }

    /// How many subscriptions a publication matches, if that is remembered.
    pub(super) fn count(&self, partner: PartnerId, publication: &Publication) -> Option<i32> {
        let routes = self.by_partner.get(&partner)?.get(publication.kind.as_str())?;
        i32::try_from(routes.of(&publication.attributes).count()).ok()
    }

    /// Where there would be too much, all is forgotten: that costs a read each, once. What is too much by itself is not remembered. In the place of
    /// what was remembered under this name there is nothing, or it would not have been read.
    fn remember(&mut self, partner: PartnerId, kind: &str, routes: Arc<Routes>) {
        let bytes = bytes(&routes);
        if bytes > REMEMBERED_BYTES_MAX {
            return;
        }
        if self.bytes + bytes > REMEMBERED_BYTES_MAX {
            *self = Self::default();
        }
        self.bytes += bytes;
        self.by_partner.entry(partner).or_default().insert(kind.to_owned(), routes);
    }

    /// Forgets what was remembered of the partners of these events.
    pub(super) fn forget(&mut self, partners: &[PartnerId]) {
        for forgotten in partners.iter().filter_map(|partner| self.by_partner.remove(partner)) {
            self.bytes -= forgotten.values().map(|routes| bytes(routes)).sum::<usize>();
        }
    }
}

/// Campaigns' names may be long, and many.
fn bytes(routes: &Routes) -> usize {
    let name = |name: &String| size_of::<String>() + name.capacity();
    let names = routes.all.iter().filter_map(|route| route.campaigns.as_ref()).flatten();
    TYPE_BYTES + routes.all.len() * ROUTE_BYTES + names.map(name).sum::<usize>()
}

/// The deliveries of a group's events, as they are to be stored.
#[derive(Default)]
pub(super) struct Matched {
    /// How many subscriptions each event matched, in order.
    pub counts: Vec<i32>,
    /// In the order of their events.
    pub deliveries: Vec<NewDelivery>,
    /// How many there are with those of each event.
    pub ends: Vec<usize>,
    /// Events whose deliveries follow in chunks.
    pub large: Vec<Large>,
    /// Whether deliveries that could be sent at once found no room and are left to whoever has some.
    pub overflow: bool,
    /// What all deliveries that could be sent at once would take of the room.
    pub room_wanted: usize,
}

/// An event by its place in the group, and everybody whom it matched.
pub(super) struct Large {
    pub event: usize,
    pub subscriptions: Vec<SubscriptionId>,
}

/// Matches events with the routes that were found for them. The first deliveries get the room there is in memory; whether any of them has to wait for
/// others with its ordering key, only the database knows.
pub(super) fn match_all(events: &[NewEvent], routes: &[Arc<Routes>], birth: &Birth) -> Matched {
    let mut matched = Matched { deliveries: Vec::with_capacity(events.len()), ..Matched::default() };
    let set_aside: IdSet<_> = birth.set_aside.iter().collect();
    let mut room = birth.room;
    for (place, (event, routes)) in events.iter().zip(routes).enumerate() {
        let count = routes.of(&event.attributes).count();
        matched.counts.push(i32::try_from(count).unwrap_or(i32::MAX));
        let of_the_group = matched.deliveries.len() + count;
        let is_large = count > AT_ONCE_MAX || of_the_group > GROUP_AT_ONCE_MAX && count > FEW;
        if is_large && event.ordering_key.is_none() {
            let subscriptions = routes.of(&event.attributes).map(|route| route.subscription).collect();
            matched.large.push(Large { event: place, subscriptions });
            matched.ends.push(matched.deliveries.len());
            continue;
        }
        let needs = room_for(event.payload.len());
        for route in routes.of(&event.attributes) {
            let at_once = !route.holds && !route.gathers && !set_aside.contains(&route.subscription);
            matched.room_wanted += if at_once { needs } else { 0 };
            let begins = match at_once {
                _ if route.holds => Begins::Held,
                true if room >= needs => Begins::Leased,
                _ => Begins::Due,
            };
            match begins {
                Begins::Leased => room -= needs,
                _ => matched.overflow |= at_once,
            }
            matched.deliveries.push(NewDelivery {
                id: DeliveryId::beside(event.id),
                partner: event.partner,
                event: event.id,
                subscription: route.subscription,
                gathers: route.gathers,
                begins,
            });
        }
        matched.ends.push(matched.deliveries.len());
    }
    matched
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::LeaseTerms;
    use super::super::birth::tests::event;
    use super::*;
    use crate::domain::id::NodeId;
    use crate::domain::publication::{Attributes, EventType, OrderingKey};

    fn route() -> Route {
        Route { subscription: SubscriptionId::new(), holds: false, gathers: false, campaigns: None }
    }

    fn routes(all: Vec<Route>) -> Arc<Routes> {
        Arc::new(Routes { version: 1, all })
    }

    fn birth(room: usize, set_aside: &[SubscriptionId]) -> Birth {
        let lease = LeaseTerms { node: NodeId::new(), duration: Duration::from_secs(30) };
        Birth { lease, room, set_aside: set_aside.into() }
    }

    fn begun(matched: &Matched) -> Vec<Begins> {
        matched.deliveries.iter().map(|delivery| delivery.begins).collect()
    }

    #[test]
    fn the_first_that_can_be_sent_get_the_room() {
        use Begins::{Due, Held, Leased};
        let [plain, aside] = [route(), route()];
        let [holds, gathers] = [Route { holds: true, ..route() }, Route { gathers: true, ..route() }];
        let both = Route { holds: true, gathers: true, ..route() };
        let events = [event(1), event(1), event(1)];
        let all = vec![holds, gathers, both, aside.clone(), plain];
        let found = [routes(all.clone()), routes(vec![]), routes(all)];
        for (room, begins, overflow) in [
            (9, [Held, Due, Held, Due, Leased, Held, Due, Held, Due, Leased], false),
            (2, [Held, Due, Held, Due, Leased, Held, Due, Held, Due, Leased], false),
            (1, [Held, Due, Held, Due, Leased, Held, Due, Held, Due, Due], true),
            (0, [Held, Due, Held, Due, Due, Held, Due, Held, Due, Due], true),
        ] {
            let matched = match_all(&events, &found, &birth(room, &[aside.subscription]));
            assert_eq!(begun(&matched), begins, "room for {room}");
            assert_eq!((matched.overflow, &matched.counts[..]), (overflow, &[5, 0, 5][..]));
            assert!(matched.large.is_empty());
        }
    }

    #[test]
    fn a_large_event_needs_more_room_than_a_small_one() {
        let events = [event(4_096), event(1)];
        let found = [routes(vec![route()]), routes(vec![route()])];
        let begun = |room| begun(&match_all(&events, &found, &birth(room, &[])));
        assert_eq!(begun(3), [Begins::Leased, Begins::Leased]);
        assert_eq!(begun(2), [Begins::Leased, Begins::Due]);
        assert_eq!(begun(1), [Begins::Due, Begins::Leased]);
    }

    #[test]
    fn what_matches_very_many_follows_in_chunks_unless_it_is_ordered() {
        let many = routes((0..=AT_ONCE_MAX).map(|_| route()).collect());
        let ordered = NewEvent { ordering_key: OrderingKey::parse("k".to_owned()).ok(), ..event(1) };
        let events = [event(1), ordered, event(1)];
        let matched = match_all(&events, &[many.clone(), many, routes(vec![route()])], &birth(10, &[]));
        assert_eq!(matched.counts, [1_001, 1_001, 1]);
        assert_eq!((matched.large.len(), matched.large[0].event), (1, 0));
        assert_eq!(matched.large[0].subscriptions.len(), 1_001);
        assert_eq!(matched.ends, [0, 1_001, 1_002]);
        assert!(matched.deliveries.iter().all(|delivery| delivery.event != events[0].id));
        assert!(begun(&matched)[..10].iter().all(|begins| *begins == Begins::Leased), "it took no room");
    }

    #[test]
    fn many_events_that_match_many_each_follow_in_chunks_as_well() {
        let (many, few) = (routes((0..500).map(|_| route()).collect()), routes(vec![route(), route()]));
        let events: Vec<_> = (0..60).map(|_| event(1)).collect();
        let found: Vec<_> =
            (0..60).map(|place| if place < 50 { many.clone() } else { few.clone() }).collect();
        let matched = match_all(&events, &found, &birth(10, &[]));
        let large: Vec<_> =
            matched.large.iter().map(|large| (large.event, large.subscriptions.len())).collect();
        assert_eq!(large, (40..50).map(|place| (place, 500)).collect::<Vec<_>>());
        assert_eq!(matched.deliveries.len(), GROUP_AT_ONCE_MAX + 20);
        assert_eq!(matched.counts, [vec![500; 50], vec![2; 10]].concat());
    }

    #[test]
    fn what_a_publication_matches_is_known_by_the_routes_that_are_remembered() {
        let mut known = KnownRoutes::default();
        let (partner, spring) = (PartnerId::new(), Some(vec!["spring".to_owned()]));
        let all = vec![route(), Route { campaigns: spring, ..route() }, Route { holds: true, ..route() }];
        known.remember(partner, "paid", routes(all));
        let count = |partner, kind: &str, campaign: Option<&str>| {
            let mut attributes = Attributes::default();
            if let Some(name) = campaign {
                attributes.add("campaignName", name.to_owned()).unwrap();
            }
            let kind = EventType::parse(kind.to_owned()).unwrap();
            let (line, ordering_key, key) = (None, None, None);
            let data = b"1".to_vec();
            known.count(
                partner,
                &Publication { line, partner: None, kind, data, attributes, ordering_key, key },
            )
        };
        assert_eq!(count(partner, "paid", None), Some(2));
        assert_eq!(count(partner, "paid", Some("spring")), Some(3));
        assert_eq!(count(partner, "other", None), None);
        assert_eq!(count(PartnerId::new(), "paid", None), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_in_bytes() {
        let mut known = KnownRoutes::default();
        let events: Vec<_> = (0..3).map(|_| event(1)).collect();
        let named = |bytes: usize| {
            let campaigns = Some(vec!["n".repeat(bytes)]);
            routes(vec![Route { campaigns, ..route() }])
        };
        let remember = |known: &mut KnownRoutes, event: &NewEvent, bytes| {
            known.remember(event.partner, &event.kind, named(bytes));
        };
        let half = REMEMBERED_BYTES_MAX / 2;
        remember(&mut known, &events[0], half);
        remember(&mut known, &events[1], REMEMBERED_BYTES_MAX);
        assert!(known.get(&events[1]).is_none(), "it is too much by itself");
        assert!(known.get(&events[0]).is_some(), "and displaces nobody");
        remember(&mut known, &events[2], half);
        assert!(known.get(&events[0]).is_none() && known.get(&events[2]).is_some());
        known.remember(events[0].partner, "other", routes(vec![]));
        known.forget(&[events[2].partner, events[1].partner]);
        assert_eq!((known.bytes, known.by_partner.len()), (TYPE_BYTES, 1));
    }
}
