//! Sealing anew, with the ring's first key, what its other keys have sealed.
//!
//! It may run while nodes work and be ended at any moment: each value is replaced by itself, only where it still is what was read, and what
//! is sealed with the first key already is not touched. There is nothing to remember between two runs. What must not happen is that a
//! value is sealed with a key that a node at work does not have, or that a node goes on sealing with an old one; so the nodes are looked
//! at first, and again at the end.

use sqlx::{PgConnection, PgPool};

use crate::domain::Error;
use crate::domain::key_ring::{KeyRing, key_id_of};
use crate::hub::ring_fit::{self, Misfit};
use crate::store::nodes;
use crate::store::sealed::{self, SEALED_COLUMNS, SealedColumn, SealedValue};
use crate::store::sessions;

/// Values that are read, sealed and written together.
const BATCH: i64 = 250;
/// Walks over all columns at most. A second one finds what a transaction wrote that was open during the first.
const PASSES_MAX: usize = 5;
/// Values that do not open are named up to this number.
const NAMED_MAX: usize = 20;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(
        "node {node} does not have this ring ({own}): it has {theirs}. Give every node the same keys in the same order, restart it, and come again"
    )]
    OtherRing { node: uuid::Uuid, own: String, theirs: String },
    #[error(
        "{values} values in {column} are sealed with key `{key_id}`, which is not in the ring; put it behind the others"
    )]
    UnknownKey { column: String, values: i64, key_id: String },
    #[error("HERALD_SECRET_KEYS: {0}")]
    Misfit(Misfit),
    #[error("{}", .0.chain())]
    Failed(#[from] Error),
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Survey {
    pub values: u64,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub sealed_anew: u64,
    /// Values that their key does not open: altered, or of another key with the same id. The first of them by name.
    pub broken: u64,
    pub broken_named: Vec<String>,
    /// Remembered answers that an older key has sealed. They are forgotten after a day.
    pub answers_left: u64,
    pub answers_left_until: Option<chrono::DateTime<chrono::Utc>>,
}

pub struct Rotation {
    /// Of one session. Looking through a column of millions takes longer than other statements may.
    pool: PgPool,
    keys: KeyRing,
}

impl Rotation {
    pub fn new(pool: &PgPool, keys: KeyRing) -> Self {
        Self { pool: sessions::unhurried(pool), keys }
    }

    /// Looks whether it can be done. Errors: why not.
    pub async fn survey(&self) -> Result<Survey, Refused> {
        let mut db = self.pool.acquire().await.map_err(Error::from)?;
        self.compare_rings(&mut db).await?;
        let mut values = 0;
        for column in SEALED_COLUMNS {
            for (header, count) in sealed::stale_headers(&mut db, column, &self.keys.current_header()).await?
            {
                if !self.keys.knows_key_of(&header) {
                    let key_id = key_id_of(&header).unwrap_or("?").to_owned();
                    return Err(Refused::UnknownKey { column: name(column), values: count, key_id });
                }
                values += u64::try_from(count).map_err(Error::internal)?;
            }
        }
        drop(db);
        match ring_fit::fit(&self.pool, &self.keys).await?.misfit {
            Some(misfit) => Err(Refused::Misfit(misfit)),
            None => Ok(Survey { values }),
        }
    }

    /// Does it. `progress` is told how many values were looked at, after each batch.
    pub async fn run(&self, mut progress: impl FnMut(u64)) -> Result<Done, Refused> {
        let mut db = self.pool.acquire().await.map_err(Error::from)?;
        let mut done = Done::default();
        for _ in 0..PASSES_MAX {
            let (before, mut broken) = (done.sealed_anew, Vec::new());
            for column in SEALED_COLUMNS {
                self.walk(&mut db, column, &mut done, &mut broken, &mut progress).await?;
            }
            done.broken = broken.len() as u64;
            broken.truncate(NAMED_MAX);
            done.broken_named = broken;
            if done.sealed_anew == before {
                break;
            }
        }
        self.compare_rings(&mut db).await?;
        let (left, until) = sealed::stale_answers(&mut db, &self.keys.current_header()).await?;
        done.answers_left = u64::try_from(left).map_err(Error::internal)?;
        done.answers_left_until = until;
        Ok(done)
    }

    async fn walk(
        &self,
        db: &mut PgConnection,
        column: SealedColumn,
        done: &mut Done,
        broken: &mut Vec<String>,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), Error> {
        let (header, mut after) = (self.keys.current_header(), None);
        loop {
            let batch = sealed::list_stale(db, column, &header, after, BATCH).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = Some(last.place());
            let read = batch.len() as u64;
            let values = self.seal_anew(column, batch, broken);
            done.sealed_anew += sealed::replace(db, column, &values).await?;
            progress(read);
        }
    }

    fn seal_anew(
        &self,
        column: SealedColumn,
        batch: Vec<SealedValue>,
        broken: &mut Vec<String>,
    ) -> Vec<(SealedValue, Vec<u8>)> {
        let mut values = Vec::with_capacity(batch.len());
        for stale in batch {
            match self.keys.open(&stale.identity, &stale.sealed) {
                Ok(plain) => {
                    let fresh = self.keys.seal(&stale.identity, plain.expose());
                    values.push((stale, fresh));
                }
                Err(error) => broken.push(format!("{} ({}): {error}", stale.identity, column.column)),
            }
        }
        values
    }

    /// Every node at work must have this very ring, so that all open what is written here, and none writes with another key.
    async fn compare_rings(&self, db: &mut PgConnection) -> Result<(), Refused> {
        let own = self.keys.fingerprints();
        for node in nodes::present(db).await? {
            if node.ring.as_ref() != Some(&own) {
                let theirs = node.ring.map_or_else(|| "not told".to_owned(), |ring| ring.join(", "));
                return Err(Refused::OtherRing { node: node.id, own: own.join(", "), theirs });
            }
        }
        Ok(())
    }
}

fn name(column: SealedColumn) -> String {
    format!("{}.{}", column.table, column.column)
}
