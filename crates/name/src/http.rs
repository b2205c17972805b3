//! The form of a name in a URL path.
