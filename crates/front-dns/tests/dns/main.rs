//! The DNS over real sockets, in front of a tree that the test changes. Each test says the line of the standard that it
//! checks.

mod fake;
mod message;
mod records;
mod standards;
mod starts;
mod transfers;
