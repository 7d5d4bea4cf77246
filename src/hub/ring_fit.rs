//! Whether a ring opens what a database holds, before a server uses up the retries of what it can never send. Keys go by their ids, and that
//! another key has the same id is only noticed by trying.

use std::collections::BTreeMap;

use sqlx::PgPool;

use crate::domain::Error;
use crate::domain::key_ring::{KeyRing, key_id_of};
use crate::store::sealed::{self, SEALED_COLUMNS};

/// Values that are tried of each column.
const TRIED: i64 = 4;
/// A single value that does not open may be damaged, and would keep everything else from being delivered.
const IN_VAIN_MIN: u32 = 2;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Fit {
    pub misfit: Option<Misfit>,
    /// Whether any value opens, of whichever key.
    pub opens_something: bool,
}

/// None of the values opens that a key of this id has sealed, as far as they were tried.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error(
        "its key `{key_id}` is not the key `{key_id}` that encrypted what is in the database: none of {tried} values opens. Give every process the \
         keys with which it was run"
    )]
    OtherKey { key_id: String, tried: u32 },
    #[error(
        "the key `{key_id}` is missing, which encrypted what is in the database; put it behind the others"
    )]
    Missing { key_id: String },
}

/// Tries a few values of each column. Errors: the database's.
pub async fn fit(pool: &PgPool, keys: &KeyRing) -> Result<Fit, Error> {
    let mut db = pool.acquire().await?;
    let mut by_key: BTreeMap<String, Tried> = BTreeMap::new();
    for column in SEALED_COLUMNS {
        for value in sealed::list_some(&mut db, column, TRIED).await? {
            // What has no header was not sealed by any key.
            let Some(key_id) = key_id_of(&value.sealed) else { continue };
            let tried = by_key.entry(key_id.to_owned()).or_default();
            tried.values += 1;
            tried.is_known |= keys.knows_key_of(&value.sealed);
            tried.opened |= keys.open(&value.identity, &value.sealed).is_ok();
        }
    }
    let opens_something = by_key.values().any(|tried| tried.opened);
    let misfit = by_key.into_iter().find(|(_, tried)| !tried.opened && tried.values >= IN_VAIN_MIN);
    let misfit = misfit.map(|(key_id, tried)| match tried.is_known {
        true => Misfit::OtherKey { key_id, tried: tried.values },
        false => Misfit::Missing { key_id },
    });
    Ok(Fit { misfit, opens_something })
}

#[derive(Default)]
struct Tried {
    values: u32,
    is_known: bool,
    opened: bool,
}
