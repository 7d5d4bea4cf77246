//! Many finished deliveries sent again by one job, which is counted first and can be watched and stopped.

use chrono::{DateTime, Utc};

use super::Violations;
use super::delivery::DeliveryState;
use super::surface::Surface;

/// Where a replay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayState {
    /// What fits is being counted. A dry run ends here.
    Counting,
    /// It is being put into the queue, oldest first.
    Queueing,
    Done,
    /// Stopped before its end. What it had queued by then is sent nevertheless.
    Cancelled,
}

impl ReplayState {
    pub const ALL: [Self; 4] = [Self::Counting, Self::Queueing, Self::Done, Self::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counting => "counting",
            Self::Queueing => "queueing",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Which finished deliveries are sent again. Absent members do not narrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// How they ended: one of [`Selection::STATES`].
    pub state: DeliveryState,
    pub subscription: Option<(Surface, String)>,
    pub event_type: Option<String>,
    /// Of events that happened then or later.
    pub from: Option<DateTime<Utc>>,
    /// Of events that happened before; `None` for all until now.
    pub until: Option<DateTime<Utc>>,
}

impl Selection {
    /// Cancelled deliveries have no subscription any more, and expired ones no event.
    pub const STATES: [DeliveryState; 2] = [DeliveryState::Dead, DeliveryState::Delivered];

    /// Errors: members that contradict each other, or that are too little. Nobody sends again by mistake all that ever arrived.
    pub fn check(self) -> Result<Self, Violations> {
        let mut violations = Violations::default();
        if self.state == DeliveryState::Delivered && self.from.is_none() {
            violations.add("from", "is required with state delivered");
        }
        if let (Some(from), Some(until)) = (self.from, self.until)
            && from >= until
        {
            violations.add("until", "must be later than from");
        }
        if violations.is_empty() { Ok(self) } else { Err(violations) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_is_sent_again_only_from_a_moment_on() {
        let at = |second| DateTime::from_timestamp(second, 0);
        let of = |state, from, until| Selection { state, subscription: None, event_type: None, from, until };
        for (selection, complaint) in [
            (of(DeliveryState::Dead, None, None), None),
            (of(DeliveryState::Dead, at(1), at(2)), None),
            (of(DeliveryState::Dead, None, at(2)), None),
            (of(DeliveryState::Delivered, at(1), None), None),
            (of(DeliveryState::Delivered, None, at(2)), Some("from")),
            (of(DeliveryState::Dead, at(2), at(2)), Some("until")),
            (of(DeliveryState::Delivered, at(3), at(2)), Some("until")),
        ] {
            let told = selection.clone().check().err();
            let fields = told.as_ref().and_then(|told| told.iter().next()).map(|one| one.field.as_str());
            assert_eq!(fields, complaint, "{selection:?}");
        }
    }
}
