//! What is wrong with the configuration, said so that it can be put right in one go.
//!
//! A problem names the setting, what is wrong with it and what to write instead. Values are repeated only for settings
//! that hold no secret, and with control characters escaped; which settings those are is the caller's knowledge.

use std::fmt;

/// One setting that cannot stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Name of the environment variable, which is also how the documentation names the setting.
    pub setting: &'static str,
    pub wrong: String,
    pub instead: String,
}

/// All problems of a configuration; at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot stand:")?;
        for Problem { setting, wrong, instead } in &self.0 {
            write!(f, "\n  {setting} {wrong}.\n    Instead: {instead}.")?;
        }
        Ok(())
    }
}
