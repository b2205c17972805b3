//! The words of the commands about what somebody may do and what proves it: access control lists, secrets, tickets,
//! certificates, authorities, invitations and the audit log.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use byname_api::access::Rights;
use byname_api::audit::Outcome;
use byname_api::caller::Right;
use byname_api::object::{InstanceId, ObjectId};
use byname_api::span::Span;

/// Who gets or loses what.
#[derive(Debug, Args)]
pub(crate) struct EntryArgs {
    /// A principal, group, service or computer; `authenticated`, `anyone` or uid:NUMBER
    pub who: String,
    /// The rights, with commas: find, list, read, add, modify, delete, launch, advertise, admin, or all
    #[arg(value_parser = rights)]
    pub rights: Rights,
    /// The name; what is beneath it inherits
    pub name: String,
    /// Only as far as an authority off line has signed who it is (`byname ca certify`)
    #[arg(long)]
    pub certified: bool,
}

/// `acl`.
#[derive(Debug, Subcommand)]
pub(crate) enum AclCommand {
    /// Show who may do what with a name, and what you may
    #[command(
        long_about = "Show the access control lists that decide about a name: its own and those it inherits, the \
            nearest first, with their owners; and what you may do. The name need not exist.",
        after_long_help = "Examples:\n  byname acl show /BVODS/QS\n  byname acl show -o name /BVODS/QS"
    )]
    Show {
        /// The name
        name: String,
    },
    /// Give rights to a name and to what is beneath it
    #[command(
        long_about = "Give somebody rights to a name and to what is beneath it. A refusal of the same rights in the \
            same list is taken back.",
        after_long_help = "Examples:\n  byname acl grant /people/liu launch,modify /BVODS/QS\n  \
            byname acl grant anyone find /BVODS\n  byname acl grant /groups/operators all /BVODS --certified"
    )]
    Grant(EntryArgs),
    /// Take back what a list says about somebody
    #[command(
        long_about = "Take back what the list of a name says about somebody, grants and refusals: all of it, or only \
            about these rights. What is inherited then decides.",
        override_usage = "byname acl revoke [OPTIONS] WHO [RIGHTS] NAME",
        after_long_help = "Examples:\n  byname acl revoke /people/liu /BVODS/QS\n  \
            byname acl revoke /people/liu launch /BVODS/QS"
    )]
    Revoke {
        /// Whom it is about, perhaps which rights, and the name
        #[arg(required = true, num_args = 2..=3, value_names = ["WHO", "RIGHTS|NAME", "NAME"])]
        entry: Vec<String>,
    },
    /// Refuse rights to a name and to what is beneath it
    #[command(
        long_about = "Refuse somebody rights to a name and to what is beneath it, whatever is granted further up. A \
            grant of the same rights in the same list is taken back.",
        after_long_help = "Example:\n  byname acl deny /groups/guests read /BVODS/accounts"
    )]
    Deny(EntryArgs),
    /// Say whether somebody has a right, and why
    #[command(
        long_about = "Say whether somebody has a right to a name, and what decides it: the entry, the object that has \
            it, and the groups in between. The status is 0 for yes and 4 for no.",
        after_long_help = "Examples:\n  byname acl explain /people/liu launch /BVODS/QS\n  \
            byname acl explain anyone find /BVODS/QS && echo public"
    )]
    Explain {
        /// Who would ask
        who: String,
        /// The right
        #[arg(value_parser = right)]
        right: Right,
        /// The name
        name: String,
    },
}

/// `secret`.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Set the value of a secret, and make it when it is not there
    #[command(
        long_about = "Set the value of a secret, and make it when it is not there. The value is asked for, or read \
            from a file as it is. Nobody is shown it again: only launched programs get it, by `env = {NAME = {secret = \
            \"/NAME\"}}`, and `show` tells its fingerprint.",
        after_long_help = "Examples:\n  byname secret set /BVODS/db-password\n  \
            pwgen 32 1 | byname secret set /BVODS/db-password --file -"
    )]
    Set {
        /// The name
        name: String,
        /// The file that holds the value; - for standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// `ticket`.
#[derive(Debug, Subcommand)]
pub(crate) enum TicketCommand {
    /// Have yourself introduced to a service
    #[command(
        long_about = "Have yourself introduced to a running service: the server makes a pair of secrets. Show the \
            ticket to the service; it asks the server who you are and answers with the proof. Whoever answers with \
            that proof is the service.\n\nWith `-o name` it is one line: TICKET PROOF INSTANCE ADDRESS.",
        after_long_help = "Examples:\n  byname ticket pair /BVODS/QS\n  \
            read -r ticket proof instance address < <(byname ticket pair -o name /BVODS/QS)"
    )]
    Pair {
        /// The service
        name: String,
        /// Which instance; one that the service's `choose` gives when unsaid
        #[arg(long)]
        instance: Option<InstanceId>,
    },
    /// Say who showed a ticket, within the service
    #[command(
        long_about = "Say who showed a ticket, and with which proof to answer. It is for the program that the ticket \
            was shown to: its instance is taken from BYNAME_INSTANCE, and the credential that its own ticket was \
            exchanged for from the file in BYNAME_CREDENTIAL_FILE. A ticket is good once.\n\n\
            With `-o name` it is one line: PROOF CLIENT.",
        after_long_help = "Examples:\n  byname ticket verify - < shown\n  \
            byname ticket verify --instance if22399v7dn45 --credential credential - < shown"
    )]
    Verify {
        /// The ticket; - for standard input, which keeps it from those who list processes
        #[arg(default_value = "-")]
        ticket: String,
        /// The instance that asks
        #[arg(long)]
        instance: Option<InstanceId>,
        /// The file that holds its credential
        #[arg(long, value_name = "FILE")]
        credential: Option<PathBuf>,
    },
    /// Refuse from now on what an instance holds
    #[command(
        long_about = "Refuse from now on what an instance holds: its ticket, credential, sessions and certificates. A \
            name stands for every instance of the service.",
        after_long_help = "Examples:\n  byname ticket revoke if22399v7dn45\n  byname ticket revoke /BVODS/QS"
    )]
    Revoke {
        /// The instance, or the name of a service
        #[arg(value_name = "INSTANCE|NAME")]
        of: String,
    },
}

/// `cert`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Get a certificate for yourself
    #[command(
        long_about = "Get a certificate for yourself, or with the right `admin` for another principal. A key is made, \
            and never leaves the folder: cert.pem, key.pem (mode 0600), and bundle.pem with the root certificates of \
            the trust domain. --cert FOLDER or BYNAME_IDENTITY then uses it.",
        after_long_help = "Examples:\n  byname cert get\n  \
            byname cert get --name /machines/backup --out /etc/backup/identity --validity 12h"
    )]
    Get {
        /// For which principal; yourself when unsaid
        #[arg(long, value_name = "PRINCIPAL")]
        name: Option<String>,
        /// The folder [default: ~/.local/state/byname/identity]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// How long it shall hold; a day at most
        #[arg(long, value_name = "TIME")]
        validity: Option<Span>,
    },
    /// Get a new certificate with the one that is there
    #[command(
        long_about = "Get a new certificate for the same principal, and prove who asks with the one that is in the \
            folder.",
        after_long_help = "Examples:\n  byname cert renew\n  byname cert renew --out /etc/backup/identity"
    )]
    Renew {
        /// The folder [default: ~/.local/state/byname/identity]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// How long it shall hold; a day at most
        #[arg(long, value_name = "TIME")]
        validity: Option<Span>,
    },
    /// Make a key, and a request to carry to `byname ca sign`
    #[command(
        long_about = "Make a key, and the request for its certificate that is carried to `byname ca sign`: key.pem (mode \
            0600) and request.pem. What comes back belongs into cert.pem beside them. No server is asked.",
        after_long_help = "Example:\n  byname cert request --out /etc/backup/identity"
    )]
    Request {
        /// The folder [default: ~/.local/state/byname/identity]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Show what is in a certificate
    #[command(
        long_about = "Show what is in a certificate: whose it is, until when, and its fingerprint. No server is asked.",
        after_long_help = "Examples:\n  byname cert show\n  byname cert show /etc/backup/identity/cert.pem"
    )]
    Show {
        /// The file, PEM [default: ~/.local/state/byname/identity/cert.pem]
        file: Option<PathBuf>,
    },
}

/// `ca`.
#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Make the root of a trust domain
    #[command(
        long_about = "Make the root of a trust domain: root.pem and root.key (mode 0600) in a new folder. Do it on \
            a machine without a network, and keep the folder there.",
        after_long_help = "Example:\n  byname ca init /media/safe/ca --domain corp.example"
    )]
    Init {
        /// The folder
        dir: PathBuf,
        /// The trust domain, which is also the suffix of names in the DNS
        #[arg(long, value_name = "DOMAIN")]
        domain: String,
    },
    /// Sign a request that was carried here
    #[command(
        long_about = "Sign a request (PKCS#10) that was carried here on a file: for an issuing authority, which then \
            signs for the names beneath --under, or for one name. The chain goes to standard output or to a file.",
        after_long_help = "Examples:\n  byname ca sign request.pem --dir /media/safe/ca --issuing --out issuing.pem\n  \
            byname ca sign request.pem --dir /media/safe/ca --name /people/liu --id o5 --validity 30d"
    )]
    Sign {
        /// The request, PEM; - for standard input
        request: PathBuf,
        /// The folder that `ca init` made
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
        /// For an issuing authority
        #[arg(long, conflicts_with = "name", required_unless_present = "name")]
        issuing: bool,
        /// With --issuing: only for this name and what is beneath it
        #[arg(long, value_name = "NAME", conflicts_with = "name", default_value = "/")]
        under: String,
        /// With --issuing: a host outside of the domain that it may sign for; may be repeated
        #[arg(long = "for-host", value_name = "HOST", conflicts_with = "name")]
        for_hosts: Vec<String>,
        /// For this name
        #[arg(long)]
        name: Option<String>,
        /// With --name: the id of its object, as `byname show` tells it; servers of Byname take nobody at a name alone
        #[arg(long, value_name = "ID", conflicts_with = "issuing")]
        id: Option<ObjectId>,
        /// How long it shall hold [default: 90d; with --issuing a year]
        #[arg(long, value_name = "TIME")]
        validity: Option<Span>,
        /// The file to write the chain to
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show what is in a folder of `ca init`, a certificate or a request
    #[command(after_long_help = "Examples:\n  byname ca show /media/safe/ca\n  byname ca show issuing.pem")]
    Show {
        /// The folder or file
        path: PathBuf,
    },
    /// Sign who is in a group, or with which keys a principal proves itself
    #[command(
        long_about = "Sign who is in a group, or with which keys a principal proves itself, so that a stolen server \
            cannot forge it. The statement goes to standard output or to a file; `byname edit GROUP --certified FILE` \
            hands it to a server, and entries made with `acl grant --certified` ask for it.\n\n\
            A file is one for `byname apply`: what is printed is such a file again, with each of its groups and the \
            statement about it.",
        after_long_help = "Examples:\n  byname ca certify --dir /media/safe/ca --group /byname/admins \
            --members /people/ann /people/bob\n  \
            byname ca certify --dir /media/safe/ca --principal /people/ann --key-id sha256:5f3a…\n  \
            byname ca certify --dir /media/safe/ca groups.toml --out certified.toml"
    )]
    Certify(CertifyArgs),
}

/// `ca certify`.
#[derive(Debug, Args)]
pub(crate) struct CertifyArgs {
    /// A file with groups and principals, as `byname apply` takes it
    #[arg(required_unless_present_any = ["group", "principal"], conflicts_with_all = ["group", "principal"])]
    pub file: Option<PathBuf>,
    /// The folder that `ca init` made
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// The group
    #[arg(long, value_name = "NAME", conflicts_with = "principal")]
    pub group: Option<String>,
    /// A member; may be repeated
    #[arg(long = "members", visible_alias = "member", value_name = "NAME", requires = "group", num_args = 1..)]
    pub members: Vec<String>,
    /// The principal
    #[arg(long, value_name = "NAME")]
    pub principal: Option<String>,
    /// The id of a key that the principal proves itself with; may be repeated
    #[arg(long = "key-id", value_name = "ID", requires = "principal")]
    pub keys: Vec<String>,
    /// How long the statement shall hold [default: 90d]
    #[arg(long, value_name = "TIME")]
    pub validity: Option<Span>,
    /// The file to write to
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `cluster`.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Print a token with which a host joins
    #[command(
        long_about = "Print a token with which a host joins, alone on a line. It is good once and for an hour, and \
            tells where the servers are and how to know them. Whoever has it can be that host.",
        after_long_help = "Examples:\n  byname cluster invite --agent --computer mojave\n  \
            byname agent --data /var/lib/byname-agent --join \"$(ssh names byname cluster invite)\""
    )]
    Invite {
        /// For an agent; the default
        #[arg(long, conflicts_with = "server_joins")]
        agent: bool,
        /// For a name server
        #[arg(id = "server_joins", long = "name-server")]
        server: bool,
        /// Only for this computer: a label, or /computers/LABEL
        #[arg(long, value_name = "NAME")]
        computer: Option<String>,
        /// How long it is good; a day at most [default: 1h]
        #[arg(long, value_name = "TIME")]
        ttl: Option<Span>,
    },
    /// Show the servers of the cluster
    #[command(
        long_about = "Show the servers of the cluster as the one that is asked sees them: which is the primary, which are \
            heard, and how many entries of the log each lacks (the primary knows).",
        after_long_help = "Examples:\n  byname cluster status\n  byname cluster status -o json"
    )]
    Status,
    /// Take a server out for good
    #[command(
        long_about = "Take a server out of the cluster for good: it has no vote and gets nothing any more, and its \
            certificates are refused. Stop it and destroy its disk: the keys of the cluster are on it. Its number is never \
            used again.",
        after_long_help = "Example:\n  byname cluster remove 3"
    )]
    Remove {
        /// Its number
        server: u64,
    },
    /// Hand the lead to another server
    #[command(after_long_help = "Example:\n  byname cluster transfer 2")]
    Transfer {
        /// The number of the server that shall lead
        server: u64,
    },
    /// Write all that the servers know into a file
    #[command(
        long_about = "Write all that the servers know into a file, while they go on. Secrets in it are sealed under the \
            cluster key: keep a copy of identity/cluster.key from a server's data directory too, somewhere else.",
        after_long_help = "Example:\n  byname cluster backup /backups/names.backup"
    )]
    Backup {
        /// The file; one that is there is replaced when the backup is whole
        file: PathBuf,
    },
    /// Make the data directory of a new cluster from a backup
    #[command(
        long_about = "Make the data directory of a server that begins a new cluster with the content of a backup. No server \
            is asked. Start it with `byname server --data DIR`, and let others join it.",
        after_long_help = "Example:\n  byname cluster restore /backups/names.backup --data /var/lib/byname --key \
            cluster.key"
    )]
    Restore {
        /// The backup
        file: PathBuf,
        /// The new data directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// The cluster's key: identity/cluster.key of any of its servers
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Make the server of a data directory the only one of its cluster
    #[command(
        long_about = "Make the server whose data directory this is the only one of its cluster: for the day on which the \
            disks of the others are lost. What this server had received counts; what only the others had is gone. They \
            must not be started again. The server must not be running.",
        after_long_help = "Example:\n  byname cluster stand-alone --data /var/lib/byname"
    )]
    StandAlone {
        /// The data directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

/// `audit`.
#[derive(Debug, Default, Args)]
pub(crate) struct AuditArgs {
    /// Only what this principal did
    #[arg(long, value_name = "PRINCIPAL")]
    pub by: Option<String>,
    /// Only what was done to names that match
    #[arg(long, value_name = "PATTERN")]
    pub name: Option<String>,
    /// Only this operation: add, find, login, …
    #[arg(long, value_name = "WORD")]
    pub operation: Option<String>,
    /// Only what ended so
    #[arg(long, value_parser = super::declare::word::<Outcome>(Outcome::ALL.map(Outcome::as_str)))]
    pub outcome: Option<Outcome>,
    /// Not before: a time such as 2026-11-24T17:00:00Z, a day, or how long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Not after
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// At most so many records, the newest first
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Verify the whole log: nothing was changed, taken out or cut off
    #[arg(long)]
    pub verify: bool,
    /// With --verify: the files of this data directory, whose server does not run
    #[arg(long, value_name = "DIR", requires = "verify")]
    pub data: Option<PathBuf>,
}

/// Rights with commas.
pub(crate) fn rights(text: &str) -> Result<Rights, String> {
    let rights = Rights::parse(text.split(',').map(str::trim).filter(|word| !word.is_empty()));
    match rights {
        Ok(rights) if rights.is_empty() => Err("give at least one right".into()),
        Ok(rights) => Ok(rights),
        Err(error) => Err(error.message().to_owned()),
    }
}

fn right(text: &str) -> Result<Right, String> {
    text.parse().map_err(|e: byname_api::Error| e.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_words_with_commas() {
        assert_eq!(rights("find, read").unwrap().to_string(), "find,read");
        assert_eq!(rights("all").unwrap(), Rights::ALL);
        for bad in ["", ",", "fly", "find;read"] {
            assert!(rights(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn wrong_uses_are_refused() {
        for line in [
            "login --passkey --password",
            "login --no-browser",
            "logout /people/liu",
            "passkey",
            "passkey remove",
            "principal add",
            "group add /g",
            "acl grant /p fly /n",
            "acl grant /p , /n",
            "acl grant /p read",
            "acl revoke /n",
            "acl revoke a b c d",
            "acl explain /p read,list /n",
            "secret set",
            "ca sign r",
            "ca sign r --issuing --name /n",
            "ca sign r --name /n --under /m",
            "ca certify",
            "ca certify f --group /g",
            "cluster invite --agent --name-server",
            "audit --outcome well",
            "audit --limit 0",
            "find --key k /a",
            "find --as /p --token-file t /a",
        ] {
            let words = std::iter::once("byname").chain(line.split(' '));
            let error = crate::cli::command().try_get_matches_from(words).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
