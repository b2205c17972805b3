//! Stable sockets themselves: handed to programs, in conflict with others, and of the unix kind.

pub(crate) const TESTS: &[crate::Test] = crate::tests![];
