//! The protocol of the Tcl-DP name server, spoken with the real binary.

mod raw;
mod tcl;
mod wire;
