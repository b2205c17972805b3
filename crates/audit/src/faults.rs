//! Tests of a disk that is full, fails and comes back.
