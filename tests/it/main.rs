//! Integration tests, one binary.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion, also in its helpers")]

mod outbound;
