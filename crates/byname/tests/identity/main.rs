//! Who is who, with whole programs: real servers, agents and commands, and clients that know nothing of Byname (openssl,
//! curl, Python's standard library, a SPIFFE library, a browser). `make test` installs what they need.

mod audit;
mod browser;
mod introduction;
mod join;
mod secrets;
mod sign_in;
mod spiffe;
mod support;
mod tls;
