//! The three published APIs that share this core, by the names that the database stores.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Surface {
    Redirect,
    Notifications,
    Webhooks,
}

impl Surface {
    pub const ALL: [Surface; 3] = [Surface::Redirect, Surface::Notifications, Surface::Webhooks];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Notifications => "notifications",
            Self::Webhooks => "webhooks",
        }
    }

    /// Whether deliveries are signed with a secret that the partner chose and changes, instead of a key of our making.
    pub fn signs_with_partners_secret(self) -> bool {
        self == Self::Webhooks
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|surface| surface.as_str() == text)
    }
}
