//! Why the server, or a command that works on its database, could not start. Each message says what to do, and none repeats a password.

use sqlx::migrate::MigrateError;

use crate::domain::Error;
use crate::engine::outbound::OutboundError;
use crate::hub::ring_fit::Misfit;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "the database cannot be used: {0}; see that PostgreSQL 14 or newer runs there and that DATABASE_URL is right"
    )]
    Database(#[from] sqlx::Error),
    #[error("the database cannot be read: {}; see that DATABASE_URL's user owns the database", .0.chain())]
    Read(#[from] Error),
    #[error(
        "this database was upgraded by a newer Herald, whose migration {0} is unknown to this one: run that version, or restore a backup from \
         before the upgrade"
    )]
    NewerSchema(i64),
    #[error(
        "migration {0} of this database is not the one that this Herald has: run the version that made it, or restore its backup"
    )]
    OtherSchema(i64),
    #[error(
        "the database's schema cannot be brought up to date: {0}; what the last migration began is undone. See that DATABASE_URL's user owns the \
         database, that this is PostgreSQL 14 or newer with room on its disk, and start again"
    )]
    Migrate(#[source] MigrateError),
    #[error("callbacks cannot be called: {0}")]
    Outbound(#[source] OutboundError),
    #[error(
        "callbacks cannot be called, because TLS cannot be set up: {0}; no setting changes that: run another build of Herald, and report this one"
    )]
    Tls(String),
    #[error("HERALD_SECRET_KEYS, or the keys in the data folder where that is not set: {0}")]
    Keys(#[source] Misfit),
    #[error("{setting}: {wrong}")]
    Setting { setting: &'static str, wrong: String },
}

impl From<MigrateError> for StartError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(version) => Self::NewerSchema(version),
            MigrateError::VersionMismatch(version) => Self::OtherSchema(version),
            error => Self::Migrate(error),
        }
    }
}

impl From<OutboundError> for StartError {
    fn from(error: OutboundError) -> Self {
        match error {
            OutboundError::BadRoot(reason) => Self::Setting {
                setting: "HERALD_EGRESS_CA_FILE",
                wrong: format!(
                    "a certificate in it cannot be trusted: {reason}; it takes certificates of authorities, X.509 in PEM"
                ),
            },
            OutboundError::Tls(reason) => Self::Tls(reason),
            OutboundError::NoRoots => Self::Outbound(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_server_from_starting_is_said_with_what_to_do() {
        for (error, said) in [
            (
                StartError::from(MigrateError::VersionMissing(99)),
                &["newer Herald", "99", "restore a backup"][..],
            ),
            (MigrateError::VersionMismatch(7).into(), &["migration 7", "restore its backup"]),
            (
                MigrateError::Execute(sqlx::Error::PoolTimedOut).into(),
                &["brought up to date", "owns the database", "start again"],
            ),
            (OutboundError::BadRoot("odd".to_owned()).into(), &["HERALD_EGRESS_CA_FILE", "odd", "PEM"]),
            (OutboundError::Tls("odd".to_owned()).into(), &["TLS", "odd", "another build"]),
            (OutboundError::NoRoots.into(), &["ca-certificates"]),
        ] {
            let message = error.to_string();
            assert!(said.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}
