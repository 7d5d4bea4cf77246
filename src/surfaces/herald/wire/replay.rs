//! Replays: what is asked for, and how far it has come.

use serde::Serialize;
use uuid::Uuid;

use crate::domain::Violations;
use crate::domain::delivery::DeliveryState;
use crate::domain::replay::Selection;
use crate::domain::time::wire_time_ms;
use crate::store::replays;
use crate::surfaces::herald::extract::{name, reference};
use crate::surfaces::kit::fields::Fields;

/// A replay as it is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct NewReplay {
    pub of: Selection,
    pub dry_run: bool,
}

impl NewReplay {
    /// Errors: every member that is wrong, or too little.
    pub fn read(body: &[u8]) -> Result<Self, Violations> {
        let mut fields = Fields::parse(body, "body")?;
        let state = fields.optional("state", |word: String| {
            let known = Selection::STATES.into_iter().find(|state| state.as_str() == word);
            known.ok_or("must be dead or delivered")
        });
        let of = Selection {
            state: state.unwrap_or(DeliveryState::Dead),
            subscription: fields.optional("subscription", |text: String| reference(&text)),
            event_type: fields.optional("type", |text: String| name(&text)),
            from: fields.optional("from", Ok::<_, String>),
            until: fields.optional("until", Ok::<_, String>),
        };
        let dry_run = fields.optional("dryRun", Ok::<_, String>).unwrap_or_default();
        if !fields.violations.is_empty() {
            return Err(fields.violations);
        }
        Ok(Self { of: of.check()?, dry_run })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replay {
    id: Uuid,
    state: &'static str,
    dry_run: bool,
    of: Selected,
    matched: i64,
    queued: i64,
    skipped: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reached_at: Option<String>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
}

#[derive(Serialize)]
struct Selected {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

impl From<replays::Replay> for Replay {
    fn from(replay: replays::Replay) -> Self {
        let reached_at = replay.reached_at().map(wire_time_ms);
        let Selection { state, subscription, event_type, from, until } = replay.of;
        Self {
            id: replay.id.0,
            state: replay.state.as_str(),
            dry_run: replay.dry_run,
            of: Selected {
                state: state.as_str(),
                subscription: subscription.map(|(surface, key)| format!("{}/{key}", surface.as_str())),
                r#type: event_type,
                from: from.map(wire_time_ms),
                until: until.map(wire_time_ms),
            },
            matched: replay.matched,
            queued: replay.queued,
            skipped: replay.skipped,
            reached_at,
            created_at: wire_time_ms(replay.created_at),
            ended_at: replay.ended_at.map(wire_time_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::domain::surface::Surface;

    #[test]
    fn a_replay_is_of_everything_dead_unless_it_says_otherwise() {
        let everything = Selection {
            state: DeliveryState::Dead,
            subscription: None,
            event_type: None,
            from: None,
            until: None,
        };
        let plain = NewReplay::read(br#"{"other":1}"#).unwrap();
        assert_eq!(plain, NewReplay { of: everything, dry_run: false });
        let narrow = NewReplay::read(
            br#"{"state":"delivered","subscription":"redirect/a/b","type":"T","from":"2030-01-01T01:00:00+01:00",
                 "until":"2030-01-02T00:00:00Z","dryRun":true}"#,
        );
        let at = |text: &str| text.parse::<DateTime<Utc>>().ok();
        let of = Selection {
            state: DeliveryState::Delivered,
            subscription: Some((Surface::Redirect, "a/b".to_owned())),
            event_type: Some("T".to_owned()),
            from: at("2030-01-01T00:00:00Z"),
            until: at("2030-01-02T00:00:00Z"),
        };
        assert_eq!(narrow.unwrap(), NewReplay { of, dry_run: true });
    }

    #[test]
    fn every_wrong_member_is_named() {
        for (body, fields) in [
            ("", vec!["body"]),
            ("[]", vec!["body"]),
            (r#"{"state":"pending"}"#, vec!["state"]),
            (r#"{"state":null,"dryRun":"yes"}"#, vec!["state", "dryRun"]),
            (
                r#"{"subscription":"redirect","type":"","from":"yesterday","until":7}"#,
                vec!["subscription", "type", "from", "until"],
            ),
            (r#"{"from":"1969-12-31T23:59:59Z","until":"9999-12-31T23:59:59-01:00"}"#, vec!["from", "until"]),
            (r#"{"state":"delivered"}"#, vec!["from"]),
            (r#"{"from":"2030-01-02T00:00:00Z","until":"2030-01-01T00:00:00Z"}"#, vec!["until"]),
            (r#"{"dryRun":true,"dryRun":true}"#, vec!["dryRun"]),
        ] {
            let refused = NewReplay::read(body.as_bytes()).expect_err(body);
            let told: Vec<&str> = refused.iter().map(|one| one.field.as_str()).collect();
            assert_eq!(told, fields, "{body}");
        }
    }
}
