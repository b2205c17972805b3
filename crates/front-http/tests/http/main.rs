//! The HTTP front end over real sockets, with a name service that keeps everything in a map.

mod identity;
mod interface;
mod listener;
mod support;
