//! The published events of a group: claim the ids that their producers chose, tell repeats from new events, refuse what contradicts.
//!
//! A request is stored whole or not at all. Two requests of one group that chose the same id are settled here, in the order in which they
//! came, by the same rule that holds against what is stored already.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::PublishRequest;
use super::group::Stop;
use super::held::Name;
use super::matching::KnownRoutes;
use crate::domain::event::NewEvent;
use crate::domain::id::{EventId, IdMap, PartnerId};
use crate::domain::publication::{OrderingKey, Publication};
use crate::domain::{Error, Violations};
use crate::store::event_keys::{self, Entry};

/// Where published events say that they come from.
const SOURCE: &str = "/events";

/// What a producer is told of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub id: EventId,
    /// How many subscriptions it matched.
    pub matched: i32,
}

/// An event with the partner that it belongs to.
pub(in crate::hub) struct Owned {
    partner: PartnerId,
    publication: Publication,
    /// Where there is a chosen id.
    content_hash: Option<[u8; 32]>,
}

impl Owned {
    /// Hashes what has to be hashed, so that the one writer does not.
    pub(in crate::hub) fn new(partner: PartnerId, publication: Publication) -> Self {
        let content_hash = publication.key.is_some().then(|| publication.content_hash());
        Self { partner, publication, content_hash }
    }

    pub(super) fn has_chosen_id(&self) -> bool {
        self.publication.key.is_some()
    }

    /// What it may find locked by somebody else.
    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        let id = self.key().map(|(partner, key)| Name::ChosenId(partner, key));
        let line = self.publication.ordering_key.as_ref().map(OrderingKey::digest);
        id.into_iter().chain(line.map(|digest| Name::OrderingKey(self.partner, digest)))
    }

    fn key(&self) -> Option<Key> {
        self.publication.key.as_ref().map(|key| (self.partner, key.as_str().to_owned()))
    }
}

/// An id that a producer chose, within its partner.
type Key = (PartnerId, String);

/// Of each event of a request with a chosen id: the event that it is if nothing stands for that id yet, and its content's hash.
type Identities = Vec<Option<(EventId, [u8; 32])>>;

/// What a chosen id stands for.
#[derive(Clone, Copy)]
struct StandsFor {
    event: EventId,
    content_hash: [u8; 32],
    /// Of an event that is stored already.
    matched: Option<i32>,
}

/// What an id was claimed for.
struct Claim {
    event: EventId,
    /// How many subscriptions that is said to match, if anything is.
    matched: Option<i32>,
}

/// Publishing requests whose chosen ids are claimed.
pub(super) struct Publications<'a> {
    requests: Vec<&'a PublishRequest>,
    /// The ids that are ours.
    claimed: HashMap<Key, Claim>,
    /// What the others stand for.
    standing: HashMap<Key, StandsFor>,
    /// Of each request, in order.
    identities: Vec<Identities>,
}

/// The events to store, and what each request comes to once they are.
pub(super) struct Decided {
    pub events: Vec<NewEvent>,
    pub settled: Vec<Settled>,
    pub claims: Claims,
}

/// The ids of the events to store.
pub(super) struct Claims(Vec<(Key, Claim)>);

impl Claims {
    /// Ids say how many subscriptions their events match by the routes that were remembered when they were claimed. Where there were none, or
    /// others now, that is put right.
    pub(super) async fn put_right(
        self,
        db: &mut PgConnection,
        events: &[NewEvent],
        counts: &[i32],
    ) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let matched: IdMap<_, _> = events.iter().map(|event| event.id).zip(counts.iter().copied()).collect();
        let wrong = self.0.into_iter().filter_map(|(key, claim)| {
            let matched = *matched.get(&claim.event)?;
            (claim.matched != Some(matched)).then_some((key, matched))
        });
        let (keys, counts): (Vec<_>, Vec<_>) = wrong.unzip();
        if keys.is_empty() { Ok(()) } else { event_keys::set_matched(db, &keys, &counts).await }
    }
}

/// What a request comes to.
pub(super) enum Settled {
    /// Of each event which one it is, and how many it matched if it was stored before.
    Accepted(Vec<(EventId, Option<i32>)>),
    Refused(Violations),
}

impl Settled {
    pub(super) fn receipts(self, matched_now: &IdMap<EventId, i32>) -> Result<Vec<Receipt>, Error> {
        let events = match self {
            Self::Accepted(events) => events,
            Self::Refused(violations) => return Err(Error::Conflict(violations)),
        };
        let receipt = |(id, matched): (EventId, Option<i32>)| {
            let matched = matched.or_else(|| matched_now.get(&id).copied());
            let matched =
                matched.ok_or_else(|| Error::internal("an event was answered for and not stored"))?;
            Ok(Receipt { id, matched })
        };
        events.into_iter().map(receipt).collect()
    }
}

impl<'a> Publications<'a> {
    pub(super) async fn lock(
        db: &mut PgConnection,
        routes: &KnownRoutes,
        requests: Vec<&'a PublishRequest>,
    ) -> Result<Self, Stop> {
        let mut claims: HashMap<Key, Entry> = HashMap::new();
        let mut identities = Vec::with_capacity(requests.len());
        for request in &requests {
            let identity = |owned: &Owned| {
                let (partner, key) = owned.key()?;
                let (event, content_hash) = (EventId::new(), owned.content_hash?);
                let matched = || routes.count(partner, &owned.publication);
                let entry = || Entry { partner, key: key.clone(), event, content_hash, matched: matched() };
                claims.entry((partner, key.clone())).or_insert_with(entry);
                Some((event, content_hash))
            };
            identities.push(request.events.iter().map(identity).collect::<Identities>());
        }
        let mut publications =
            Self { requests, claimed: HashMap::new(), standing: HashMap::new(), identities };
        if !claims.is_empty() {
            publications.claim(db, claims).await?;
        }
        Ok(publications)
    }

    async fn claim(&mut self, db: &mut PgConnection, claims: HashMap<Key, Entry>) -> Result<(), Stop> {
        let entries: Vec<Entry> = claims.into_values().collect();
        let ours = event_keys::claim_many(db, &entries).await?;
        let mut others = Vec::new();
        for entry in entries {
            let key = (entry.partner, entry.key);
            if ours.contains(&key) {
                self.claimed.insert(key, Claim { event: entry.event, matched: entry.matched });
            } else {
                others.push(key);
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        for taken in event_keys::find_many(db, &others).await? {
            let wrong_length = |_| Error::internal("a stored content hash is not 32 bytes long");
            let content_hash = <[u8; 32]>::try_from(taken.content_hash).map_err(wrong_length)?;
            let standing =
                StandsFor { event: EventId(taken.event_id), content_hash, matched: Some(taken.matched) };
            self.standing.insert((PartnerId(taken.partner_id), taken.key), standing);
        }
        if others.iter().any(|key| !self.standing.contains_key(key)) {
            // Forgotten between the two statements.
            return Err(Stop::Overtaken);
        }
        Ok(())
    }

    pub(super) async fn decide(
        mut self,
        db: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<Decided, Error> {
        let (mut events, mut all_settled) = (Vec::new(), Vec::with_capacity(self.requests.len()));
        for (request, identities) in self.requests.iter().zip(std::mem::take(&mut self.identities)) {
            all_settled.push(settle(&mut self.standing, request, &identities, now, &mut events));
        }
        Ok(Decided { events, settled: all_settled, claims: self.correct(db).await? })
    }

    /// Ids were claimed for the first that asked; where that request was refused they stand for a later one's event, or for nothing.
    async fn correct(self, db: &mut PgConnection) -> Result<Claims, Error> {
        let (mut wrong, mut right, mut claims) =
            (Vec::new(), Vec::new(), Vec::with_capacity(self.claimed.len()));
        for (key, claim) in self.claimed {
            match self.standing.get(&key) {
                Some(standing) if standing.event == claim.event => {
                    claims.push((key, claim));
                    continue;
                }
                Some(standing) => {
                    let (event, content_hash) = (standing.event, standing.content_hash);
                    let (partner, name) = key.clone();
                    right.push(Entry { partner, key: name, event, content_hash, matched: None });
                    claims.push((key.clone(), Claim { event, matched: None }));
                }
                None => {}
            }
            wrong.push(key);
        }
        if !wrong.is_empty() {
            event_keys::release_many(db, &wrong).await?;
        }
        if !right.is_empty() {
            event_keys::claim_many(db, &right).await?;
        }
        Ok(Claims(claims))
    }
}

/// Decides a request against what stands so far; if nothing contradicts it, its events are added to those to store.
fn settle(
    standing: &mut HashMap<Key, StandsFor>,
    request: &PublishRequest,
    identities: &[Option<(EventId, [u8; 32])>],
    now: DateTime<Utc>,
    events: &mut Vec<NewEvent>,
) -> Settled {
    let mut ours: HashMap<Key, StandsFor> = HashMap::new();
    let (mut accepted, mut fresh) = (Vec::with_capacity(request.events.len()), Vec::new());
    let mut violations = Violations::default();
    for (owned, identity) in request.events.iter().zip(identities) {
        let Some(((event, content_hash), key)) = identity.zip(owned.key()) else {
            let event = EventId::new();
            accepted.push((event, None));
            fresh.push((event, owned));
            continue;
        };
        match standing.get(&key).or_else(|| ours.get(&key)) {
            Some(known) if known.content_hash == content_hash => accepted.push((known.event, known.matched)),
            Some(_) => {
                let field = owned.publication.field("id");
                violations.add(field, "stands for an event with other content already");
            }
            None => {
                ours.insert(key, StandsFor { event, content_hash, matched: None });
                accepted.push((event, None));
                fresh.push((event, owned));
            }
        }
    }
    if !violations.is_empty() {
        return Settled::Refused(violations);
    }
    standing.extend(ours);
    events.extend(fresh.into_iter().map(|(id, owned)| new_event(id, owned, now)));
    Settled::Accepted(accepted)
}

fn new_event(id: EventId, owned: &Owned, now: DateTime<Utc>) -> NewEvent {
    let publication = &owned.publication;
    NewEvent {
        id,
        partner: owned.partner,
        kind: publication.kind.as_str().to_owned(),
        source: SOURCE.to_owned(),
        payload: publication.data.clone(),
        occurred_at: now,
        attributes: publication.attributes.clone(),
        ordering_key: publication.ordering_key.clone(),
    }
}
