//! Tests that run the built binary from outside.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod listen;
