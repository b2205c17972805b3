//! The words of the commands that explain the others: `man` and `help`.

use std::path::PathBuf;

use clap::Args;

/// `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder, made when it is not there
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// `help`.
#[derive(Debug, Args)]
pub(crate) struct HelpArgs {
    /// The command, and what of it
    #[arg(num_args = 0..=2)]
    pub command: Vec<String>,
}
