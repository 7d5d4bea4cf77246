//! Integration tests, one binary.

mod outbound;
