//! The words of the commands about people and machines: signing in, passwords, passkeys, principals and groups.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Where a password comes from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PasswordArgs {
    /// Read the password from the first line of this file instead of asking for it; - for standard input
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// `login`.
#[derive(Debug, Default, Args)]
pub(crate) struct LoginArgs {
    /// Who signs in
    pub principal: Option<String>,
    /// With a password; the default
    #[arg(long)]
    pub password: bool,
    /// With a passkey or security key, on a page of the server's
    #[arg(long, conflicts_with_all = ["password", "password_file"])]
    pub passkey: bool,
    /// Only print the page's address: open no browser
    #[arg(long, requires = "passkey")]
    pub no_browser: bool,
    /// The password.
    #[command(flatten)]
    pub file: PasswordArgs,
}

/// `logout`.
#[derive(Debug, Default, Args)]
pub(crate) struct LogoutArgs {
    /// With --everywhere: whose sessions and certificates end; your own when unsaid
    #[arg(requires = "everywhere")]
    pub principal: Option<String>,
    /// End every session and certificate of the principal, not only the session that is used here
    #[arg(long)]
    pub everywhere: bool,
}

/// `passwd`.
#[derive(Debug, Default, Args)]
pub(crate) struct PasswdArgs {
    /// Whose password; your own when unsaid
    pub principal: Option<String>,
    /// Take the password away
    #[arg(long, conflicts_with = "password_file")]
    pub remove: bool,
    /// The new password.
    #[command(flatten)]
    pub file: PasswordArgs,
}

/// `passkey`.
#[derive(Debug, Subcommand)]
pub(crate) enum PasskeyCommand {
    /// Print the address of a page where a passkey is made
    #[command(
        long_about = "Print the address of a page where a passkey or security key is made for a principal. It is good \
            once and for ten minutes: hand it to nobody else.",
        after_long_help = "Examples:\n  byname passkey add\n  byname passkey add /people/liu"
    )]
    Add {
        /// For whom; yourself when unsaid
        principal: Option<String>,
        /// Only print the page's address: open no browser
        #[arg(long)]
        no_browser: bool,
    },
    /// List the passkeys of a principal
    #[command(after_long_help = "Example:\n  byname passkey list /people/liu")]
    List {
        /// Whose; your own when unsaid
        principal: Option<String>,
    },
    /// Take a passkey away
    #[command(after_long_help = "Examples:\n  byname passkey remove 'blue key'\n  \
                                 byname passkey remove 'blue key' /people/liu")]
    Remove {
        /// Its label, as `passkey list` shows it
        label: String,
        /// Whose; your own when unsaid
        principal: Option<String>,
    },
}

/// `principal`.
#[derive(Debug, Subcommand)]
pub(crate) enum PrincipalCommand {
    /// Add somebody who can sign in
    #[command(
        long_about = "Add somebody who can sign in: a person, or a machine that is no computer of the tree. `byname \
            passwd` or `byname passkey add` then gives a way to do it.",
        after_long_help = "Examples:\n  byname principal add /people/liu --attribute mail=liu@corp.example\n  \
            byname passwd /people/liu"
    )]
    Add {
        /// The new name
        name: String,
        /// An attribute, NAME=VALUE; may be repeated
        #[arg(long = "attribute", visible_alias = "attr", value_name = "NAME=VALUE")]
        attributes: Vec<String>,
        /// It may not sign in yet
        #[arg(long)]
        disabled: bool,
    },
    /// List principals
    #[command(after_long_help = "Examples:\n  byname principal list\n  byname principal list '/people/*'")]
    List {
        /// The pattern; everything beneath the context when unsaid
        pattern: Option<String>,
    },
    /// Show a principal and how it can sign in
    #[command(after_long_help = "Example:\n  byname principal show /people/liu")]
    Show {
        /// The name
        name: String,
    },
    /// Let a principal sign in no more
    #[command(
        long_about = "Let a principal sign in no more, by whatever means. Its sessions and certificates are refused \
            from then on.",
        after_long_help = "Example:\n  byname principal disable /people/liu"
    )]
    Disable {
        /// The name
        name: String,
    },
    /// Let a disabled principal sign in again
    #[command(after_long_help = "Example:\n  byname principal enable /people/liu")]
    Enable {
        /// The name
        name: String,
    },
    /// Delete a principal
    #[command(
        long_about = "Delete a principal. Lists and groups that name it mean nobody from then on, even when the name \
            is used again.",
        after_long_help = "Example:\n  byname principal delete /people/liu"
    )]
    Delete {
        /// The name
        name: String,
    },
}

/// `group`.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Add members to a group, and make it when it is not there
    #[command(
        long_about = "Add members to a group, and make the group when it is not there. Members are principals, \
            services, computers and other groups.",
        after_long_help = "Examples:\n  byname group add /groups/media /people/liu /people/ann\n  \
            byname group add /byname/admins /people/ann"
    )]
    Add {
        /// The group
        group: String,
        /// The members
        #[arg(required = true, value_name = "MEMBER")]
        members: Vec<String>,
    },
    /// Take members out of a group
    #[command(after_long_help = "Example:\n  byname group remove /groups/media /people/liu")]
    Remove {
        /// The group
        group: String,
        /// The members
        #[arg(required = true, value_name = "MEMBER")]
        members: Vec<String>,
    },
    /// Show the members of a group
    #[command(
        long_about = "Show the members of a group, in order. --all follows the groups among them, and says through \
            which each member is in.",
        after_long_help = "Examples:\n  byname group show /groups/media\n  byname group show --all /byname/admins"
    )]
    Show {
        /// The group
        group: String,
        /// The members of its groups, too
        #[arg(long)]
        all: bool,
    },
    /// List groups
    #[command(after_long_help = "Examples:\n  byname group list\n  byname group list '/groups/*'")]
    List {
        /// The pattern; everything beneath the context when unsaid
        pattern: Option<String>,
    },
}
