//! Readable scripts of commands with their full output.
