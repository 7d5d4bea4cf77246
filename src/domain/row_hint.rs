//! Where the store last saw something.

/// Where the store last saw a row, in words that the store alone understands. Rows move; the default is nowhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowHint {
    pub page: u32,
    pub slot: u16,
}
