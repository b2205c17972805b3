//! The form of a name in the DNS.
