//! The words of the command line.

pub(crate) mod declare;
pub(crate) mod help;
pub(crate) mod keep;
pub(crate) mod serve;
pub(crate) mod trust;
pub(crate) mod who;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, CommandFactory, Parser, Subcommand};

use byname_api::object::{InstanceId, Kind, Version};
use byname_api::span::Span;

use crate::screen::Format;
use declare::{DeclareArgs, LaunchArgs, word};
pub(crate) use help::{HelpArgs, ManArgs};
pub(crate) use keep::ReportArgs;
use keep::{DrainArgs, LockArgs, RunArgs, SearchArgs, UndrainArgs, UnlockArgs, WatchArgs};
use serve::{AgentArgs, DevArgs, ServerArgs};
use trust::{AclCommand, AuditArgs, CaCommand, CertCommand, ClusterCommand, SecretCommand, TicketCommand};
use who::{GroupCommand, LoginArgs, LogoutArgs, PasskeyCommand, PasswdArgs, PrincipalCommand};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default());

/// Byname: one name for everything, and a name starts what it names.
#[derive(Debug, Parser)]
#[command(name = "byname", version, styles = STYLES, disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct GlobalArgs {
    /// Where to ask: unix:///PATH, https://HOST:PORT, dns:NAME or http://HOST:PORT, several with commas [BYNAME_SERVER]
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// The file that holds the bearer token [BYNAME_TOKEN_FILE; the token itself: BYNAME_TOKEN]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Use the session that `byname login` gave this principal; over TCP the last one is used by itself [BYNAME_AS]
    #[arg(long = "as", global = true, value_name = "PRINCIPAL", conflicts_with = "token_file")]
    pub principal_as: Option<String>,
    /// The file with the root certificates of the server's trust domain [BYNAME_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A client certificate: a folder of `byname cert get`, or the file of a chain [BYNAME_IDENTITY]
    #[arg(long, global = true, value_name = "DIR|FILE")]
    pub cert: Option<PathBuf>,
    /// The key of the client certificate, when it is not key.pem beside it
    #[arg(long, global = true, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Read names and patterns without `/` in front against this name [BYNAME_ROOT; `byname context`; default /]
    #[arg(long, global = true, value_name = "NAME")]
    pub root: Option<String>,
    /// Form of the output [BYNAME_OUTPUT; default table]
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say where a name answers, and start it when it does not run
    #[command(
        long_about = "Say where a name answers, and start it when it does not run.\n\n\
            A service gives the addresses of an instance; when none runs, one is started and find waits until it is \
            ready. Aliases are followed. A record gives its value, a group its members, a computer its addresses.\n\n\
            With `-o name` each endpoint is one line, HOST:PORT, ready for a script.",
        after_long_help = "Examples:\n  byname find /BVODS/QS\n  curl http://$(byname find -o name /BVODS/QS)/\n  \
            byname find --no-start --all /CMS/Host1"
    )]
    Find(FindArgs),
    /// Show all about one name
    #[command(
        long_about = "Show all about one name: what is declared, its state, its instances and its forms in other \
            worlds. An alias is shown itself, not what it stands for.",
        after_long_help = "Examples:\n  byname show /BVODS/QS\n  byname show -o json /BVODS/QS"
    )]
    Show(ReadArgs),
    /// List names
    #[command(
        long_about = "List the names that match a pattern, sorted.\n\n\
            `*` is any run inside a label, `?` one character, `[a-z]` a class, `{a,b}` a choice and `**` any number \
            of labels; `*` alone is every name. Put patterns in quotes. Without a pattern: everything beneath the \
            context.",
        after_long_help = "Examples:\n  byname list '/BVODS/**'\n  byname list -o name '/CMS/*'\n  \
            byname list --set bvods"
    )]
    List(ListArgs),
    /// Find names by their attributes
    #[command(
        long_about = "Find names by their attributes, with a filter as LDAP has it (RFC 4515).\n\n\
            Besides those declared, every object has the attributes name, cn (its last label), kind, owner, state, \
            target, member, address, value and version. A table has a column for each attribute that the filter \
            names. Put filters in quotes.",
        after_long_help = "Examples:\n  byname search team=media\n  \
            byname search '(&(kind=service)(tier>=2)(!(state=running)))' --under /BVODS\n  \
            byname search -o name 'title=*demand*'"
    )]
    Search(SearchArgs),
    /// Tell what changes, as it changes
    #[command(
        long_about = "Tell what changes among the names that match, a line for each change, until it is interrupted. \
            When the connection breaks it goes on where it was, and nothing is lost.\n\n\
            `created`, `changed` and `deleted` are changes of what is declared, `state` those of instances and locks; \
            `present` is what --initial tells first. With `-o json` each line has `at`: --from goes on behind it.",
        after_long_help = "Examples:\n  byname watch\n  byname watch --initial '/BVODS/**'\n  \
            byname watch -o json '/conf/*' | while read -r line; do …; done\n  byname watch --count 1 /conf/motd"
    )]
    Watch(WatchArgs),
    /// Show the state of services
    #[command(
        long_about = "Show the state of the services that match, a line for each instance.",
        after_long_help = "Examples:\n  byname status\n  byname status '/BVODS/**'"
    )]
    Status(StatusArgs),
    /// Tell the story of a service's last starts
    #[command(
        long_about = "Tell the story of a service's last starts: what happened when, how it ended, its last lines, \
            and what to do.",
        after_long_help = "Example:\n  byname why /BVODS/QS"
    )]
    Why(NameArgs),
    /// Print what a service's programs wrote
    #[command(
        long_about = "Print what a service's programs wrote to standard output and standard error, as it was written.",
        after_long_help = "Examples:\n  byname logs /BVODS/QS\n  byname logs -f -n 20 /BVODS/QS"
    )]
    Logs(LogsArgs),

    /// Start services and wait until they are ready
    #[command(
        long_about = "Start services, even those that are manual or held, and wait until they are ready.",
        after_long_help = "Examples:\n  byname launch /BVODS/QS\n  byname launch '/CMS/*'"
    )]
    Launch(ActArgs),
    /// Stop services and wait until they have ended
    #[command(
        long_about = "Stop every instance of services and wait until they have ended.\n\n\
            A service that is to run always, or that is stopped with --hold, stays stopped until `launch` or `reset`; \
            any other is started again by the next find.",
        after_long_help = "Examples:\n  byname stop /BVODS/QS\n  byname stop --hold '/CMS/*'"
    )]
    Stop(StopArgs),
    /// Stop services, then start them again
    #[command(
        long_about = "Stop services, then start them and wait until they are ready: the way to apply a changed launch.",
        after_long_help = "Example:\n  byname restart /BVODS/QS"
    )]
    Restart(ActArgs),
    /// Stop services and forget their failures and holds
    #[command(
        long_about = "Stop services, forget their endpoints, and clear the restart budget and the hold: the way back \
            from `failed`.",
        after_long_help = "Example:\n  byname reset /BVODS/QS"
    )]
    Reset(ActArgs),
    /// Run a command under a name
    #[command(
        long_about = "Run a command under a name, in the foreground. The name is advertised when the command takes \
            connections, kept as long as it runs, and withdrawn at its end; the status is that of the command.\n\n\
            A free port is picked when none is given: it is in PORT, and ${PORT} expands in the arguments. SIGINT and \
            SIGTERM are passed on.",
        after_long_help = "Examples:\n  byname run /web -- python3 -m http.server '${PORT}'\n  \
            byname run /db --port 5432 -- postgres -D /var/lib/db"
    )]
    Run(RunArgs),
    /// Say where a service answers that Byname did not start
    #[command(
        long_about = "Say where a service answers. Without --ttl the command stays, renews what it said until it is \
            interrupted, and then withdraws it. With --ttl it says it once, for so long.\n\n\
            A name that nobody added is made, and vanishes with its last instance. Within a program that Byname \
            launched, its ticket is taken from BYNAME_TICKET_FD, and the command ends at once; the credential that it \
            is exchanged for is written to --credential-file, for `byname ticket verify`.",
        after_long_help = "Examples:\n  byname advertise /BVODS/QS --port 8080\n  \
            byname advertise /web --endpoint http://192.0.2.7:80 --ttl 5m"
    )]
    Advertise(AdvertiseArgs),
    /// Take back what was advertised
    #[command(
        long_about = "Take back what was advertised: every advertised instance of the service, or one.",
        after_long_help = "Example:\n  byname withdraw /web"
    )]
    Withdraw(WithdrawArgs),
    /// Say what load a running copy has
    #[command(
        long_about = "Say what load a running copy of a service has, or that it was used. The load decides where \
            `choose = \"least-loaded\"` leads; a use puts off `idle_stop`.\n\n\
            Within a program that Byname launched the instance is its own.",
        after_long_help = "Examples:\n  byname report /BVODS/QS --load 0.7\n  byname report \"$BYNAME_NAME\" --uses 1\n  byname report \"$BYNAME_NAME\" --health warning --note 'the queue is long'"
    )]
    Report(ReportArgs),
    /// Empty a host before it is serviced
    #[command(
        long_about = "Empty a host: no new copies are started there. Those that shall always run are started elsewhere \
            first and stopped here then; those that run on demand are stopped when nobody is connected to them, and \
            whatever is left when the time is up is stopped, too. It is waited for, and what is left is told; an \
            interrupt ends the waiting and not the drain. The host stays drained until `undrain`.",
        after_long_help = "Examples:\n  byname drain mojave\n  byname drain --timeout 30s --no-wait /computers/mojave"
    )]
    Drain(DrainArgs),
    /// Let a host be used again
    #[command(after_long_help = "Example:\n  byname undrain mojave")]
    Undrain(UndrainArgs),
    /// Hold the lock of a name, or run a command while it is held
    #[command(
        long_about = "Hold the lock of a name: one holder at a time, in the whole fleet. Without a command it is held \
            until the interrupt, and its fencing token is printed. With a command it is held while that runs; \
            BYNAME_FENCE is in its environment, signals are passed on, its status is the status, and it is told to \
            end (SIGTERM) if the lock is lost.\n\n\
            The token is greater than that of every earlier lock: what the lock guards shall refuse a smaller one \
            than the greatest it has seen.",
        after_long_help = "Examples:\n  byname lock /jobs/nightly -- ./nightly.sh\n  \
            byname lock --wait 1m --ttl 10s /jobs/nightly"
    )]
    Lock(LockArgs),
    /// Take a lock away from its holder
    #[command(
        long_about = "Take a lock away from its holder, with --break. Without it, it only says who holds the lock: a \
            holder lets go when it ends.",
        after_long_help = "Examples:\n  byname unlock /jobs/nightly\n  byname unlock --break /jobs/nightly"
    )]
    Unlock(UnlockArgs),

    /// Add a name
    #[command(
        long_about = "Add a name. Missing parents are made as directories.\n\n\
            The kind is told by what is given: a value makes a record, a target an alias, a member a group, an \
            address a computer, a junction server a junction, a program or command a service; nothing makes a \
            directory.",
        after_long_help = "Examples:\n  byname add /conf/motd --value 'Hello'\n  \
            byname add /web --ready http -- python3 -m http.server '${PORT}'\n  \
            byname add /db --program redis --copies 0..1 --idle-stop 10m\n  \
            byname add /pg --program postgres --listen 127.0.0.1:5432\n  \
            byname add /dns --junction-server /byname/resolvers --interface dns"
    )]
    Add(Box<AddArgs>),
    /// Change what is declared about a name
    #[command(
        long_about = "Change what is declared about a name: the fields that are given, and nothing else. --unset \
            takes a field back to unsaid, by its path as `show` prints it. Changes of a launch take effect at the \
            next start.\n\n\
            Without any field the declaration is opened in an editor (VISUAL, EDITOR, vi). Then the difference is \
            shown and applied, if nobody has changed the name meanwhile.",
        after_long_help = "Examples:\n  byname edit /conf/motd --value 'Good evening'\n  byname edit /db\n  \
            byname edit /db --copies 1..2 --unset launch.idle_stop\n  byname edit /db --attr owner-team=media"
    )]
    Edit(Box<EditArgs>),
    /// Delete names
    #[command(
        long_about = "Delete names. A name with children needs -r, a running service --stop.",
        after_long_help = "Examples:\n  byname delete /conf/motd\n  byname delete -r --stop /BVODS"
    )]
    Delete(DeleteArgs),
    /// Give an object another name
    #[command(
        long_about = "Give an object another name. Whoever asks for NEWNAME is answered for TARGET.",
        after_long_help = "Example:\n  byname alias /CMS/Host1 /BVODS/VFS1/CMS"
    )]
    Alias(AliasArgs),
    /// Make the tree as files declare it
    #[command(
        long_about = "Make the tree as files declare it: all of it or, when anything is wrong, nothing. Only declared \
            fields change, so applying twice changes nothing the second time.\n\n\
            A folder stands for its *.toml files. `./x` in a command, its arguments, environment or directory is \
            relative to the file's folder. Objects are marked with the apply set (--set), so that --prune can delete \
            what was declared before and is no longer.",
        after_long_help = "Examples:\n  byname apply -f examples/bvods\n  byname apply -f tree.toml --dry-run\n  \
            byname apply -f examples/bvods --prune\n  generate | byname apply -f -"
    )]
    Apply(ApplyArgs),

    /// Sign in, for the commands that follow
    #[command(
        long_about = "Sign in at a server. The session is kept for this user in ~/.local/state/byname/sessions, and \
            commands over TCP to the same address use it by themselves until it ends. Over the unix socket they stay \
            who the kernel says, and use it only with --as PRINCIPAL (BYNAME_AS).\n\n\
            The password is not shown to the server (OPAQUE). --passkey signs in on a page of the server's: compare \
            the code there with the one printed here.",
        after_long_help = "Examples:\n  byname login /people/liu\n  byname login --passkey /people/liu\n  \
            byname login /people/liu --password-file - < password"
    )]
    Login(LoginArgs),
    /// End the session
    #[command(
        long_about = "End the session that `byname login` gave, and forget it. --everywhere ends every session and \
            certificate of a principal; for another than yourself that needs the right `admin` to it.",
        after_long_help = "Examples:\n  byname logout\n  byname logout --everywhere\n  \
            byname logout --everywhere /people/liu"
    )]
    Logout(LogoutArgs),
    /// Show who the server takes you for
    #[command(
        long_about = "Show who the server takes you for, how that was proved, until when, and the groups that you are \
            in.",
        after_long_help = "Examples:\n  byname whoami\n  byname --as /people/liu whoami"
    )]
    Whoami,
    /// Set a password
    #[command(
        long_about = "Set your password, or with the right `admin` that of another principal. The server is not shown \
            it (OPAQUE). The principal's other sessions end.",
        after_long_help = "Examples:\n  byname passwd\n  byname passwd /people/liu\n  \
            byname passwd /people/liu --remove"
    )]
    Passwd(PasswdArgs),
    /// Make, list and take away passkeys
    #[command(
        subcommand_required = true,
        long_about = "Make, list and take away passkeys and security keys (WebAuthn), with which one signs in on a page.",
        after_long_help = "Examples:\n  byname passkey add\n  byname passkey list /people/liu"
    )]
    Passkey {
        /// What to do.
        #[command(subcommand)]
        command: PasskeyCommand,
    },
    /// Add and look after those who can sign in
    #[command(
        long_about = "Add and look after those who can sign in: people, and machines that are no computers of the tree.",
        after_long_help = "Examples:\n  byname principal add /people/liu\n  byname principal list"
    )]
    Principal {
        /// What to do.
        #[command(subcommand)]
        command: PrincipalCommand,
    },
    /// Say who is in a group
    #[command(
        long_about = "Say who is in a group. Access control lists may name groups, and groups may be in groups. The \
            members of /byname/admins may do everything.",
        after_long_help = "Examples:\n  byname group add /groups/media /people/liu\n  \
            byname group show --all /groups/media"
    )]
    Group {
        /// What to do.
        #[command(subcommand)]
        command: GroupCommand,
    },

    /// Say who may do what with a name
    #[command(
        long_about = "Say who may do what with a name and with what is beneath it.\n\n\
            The nearest list, from the name up to the root, that says something about the caller and the right \
            decides. Within one list an entry that names the caller goes before one that names a group, and that \
            before `authenticated` and `anyone`; among equals a refusal goes before a grant. Owners have every right. \
            Where no list says anything, who has signed in may find, list and read.",
        after_long_help = "Examples:\n  byname acl show /BVODS/QS\n  \
            byname acl grant /people/liu launch,modify /BVODS/QS\n  \
            byname acl explain /people/liu launch /BVODS/QS"
    )]
    Acl {
        /// What to do.
        #[command(subcommand)]
        command: AclCommand,
    },
    /// Search and verify the audit log
    #[command(
        long_about = "Search the audit log: who did what, when, what proved it, and how it ended; the newest first. \
            --verify recomputes the chain of the log too; the status is 1 when it is not intact.",
        after_long_help = "Examples:\n  byname audit --by /people/liu --since 2h\n  \
            byname audit --outcome denied --name '/BVODS/**'\n  byname audit --verify --limit 1\n  byname audit --verify --data /var/lib/byname"
    )]
    Audit(AuditArgs),
    /// Set values that are never shown
    #[command(
        long_about = "Set values that are kept sealed and never shown, for launched programs.",
        after_long_help = "Example:\n  byname secret set /BVODS/db-password"
    )]
    Secret {
        /// What to do.
        #[command(subcommand)]
        command: SecretCommand,
    },
    /// Have yourself introduced to a service, and be sure of each other
    #[command(
        long_about = "Have yourself introduced to a service, so that both sides know each other, over any protocol.",
        after_long_help = "Examples:\n  byname ticket pair /BVODS/QS\n  byname ticket verify - < shown"
    )]
    Ticket {
        /// What to do.
        #[command(subcommand)]
        command: TicketCommand,
    },
    /// Get, renew and show certificates
    #[command(
        long_about = "Get, renew and show certificates of names (X.509 with a SPIFFE id).",
        after_long_help = "Examples:\n  byname cert get\n  byname cert show"
    )]
    Cert {
        /// What to do.
        #[command(subcommand)]
        command: CertCommand,
    },
    /// Keep the root of a trust domain, off line
    #[command(
        long_about = "Keep the root of a trust domain on a machine without a network. These commands read and write \
            files and ask no server.",
        after_long_help = "Examples:\n  byname ca init /media/safe/ca --domain corp.example\n  \
            byname ca sign request.pem --dir /media/safe/ca --issuing --out issuing.pem"
    )]
    Ca {
        /// What to do.
        #[command(subcommand)]
        command: CaCommand,
    },
    /// The servers of the cluster, and hosts that join
    #[command(
        long_about = "See and change the servers of the cluster, invite hosts, make backups, and start again from one.",
        after_long_help = "Examples:\n  byname cluster status\n  byname cluster invite --agent --computer mojave\n  \
            byname cluster backup names.backup"
    )]
    Cluster {
        /// What to do.
        #[command(subcommand)]
        command: ClusterCommand,
    },

    /// Run a server and an agent for this user, without any configuration
    #[command(
        long_about = "Run a server and an agent in one process for this user, without any configuration. Its programs \
            may be any command. Names and running programs survive it; start it again to go on.",
        after_long_help = "Examples:\n  byname dev\n  byname dev --data /tmp/d --listen 127.0.0.1:0"
    )]
    Dev(DevArgs),
    /// Run a server
    #[command(
        long_about = "Run a server: it holds the tree and decides what is started where.",
        after_long_help = "Example:\n  byname server --data /var/lib/byname"
    )]
    Server(ServerArgs),
    /// Run the agent of this host
    #[command(
        long_about = "Run the agent of this host: it starts and watches what the server orders, from its own \
            catalogue of programs.",
        after_long_help = "Example:\n  byname agent --data /var/lib/byname-agent --server unix:///run/byname/byname.sock"
    )]
    Agent(AgentArgs),
    /// Check files before they are used
    #[command(
        long_about = "Check tree files, programs.d catalogues and client.toml without asking a server. Prints `ok` or \
            each mistake with its line and column.",
        after_long_help = "Examples:\n  byname validate examples/bvods\n  byname validate /etc/byname"
    )]
    Validate(ValidateArgs),
    /// Show or set what relative names are read against
    #[command(
        long_about = "Show or set what names and patterns without `/` in front are read against. It is noted for this \
            user, in ~/.local/state/byname/context.\n\n\
            --root counts more, then BYNAME_ROOT, then what is set here, then `root` in client.toml.",
        after_long_help = "Examples:\n  byname context\n  byname context /BVODS\n  byname context --unset"
    )]
    Context(ContextArgs),
    /// Show the versions of this command and of the server
    #[command(
        long_about = "Show the versions of this command and, when one can be reached, of the server, with what the \
            server says about itself (-o json)."
    )]
    Version,
    /// Print the completion script for a shell
    #[command(
        long_about = "Print the completion script for a shell. On a tab it asks the server which names there are, \
            label by label, for half a second at most.",
        after_long_help = "Examples:\n  source <(byname completions bash)\n  \
            byname completions bash > ~/.local/share/bash-completion/completions/byname\n  \
            byname completions zsh > ~/.zfunc/_byname\n  \
            byname completions fish > ~/.config/fish/completions/byname.fish"
    )]
    Completions(CompletionsArgs),
    /// Write the manual pages
    #[command(
        long_about = "Write the manual pages: byname.1 and a page for each command into a folder, or byname.1 to \
            standard output.",
        after_long_help = "Examples:\n  byname man /usr/local/share/man/man1\n  byname man | man -l -"
    )]
    Man(ManArgs),
    /// Show help for a command
    Help(HelpArgs),
}

/// `find`.
#[derive(Debug, Args)]
pub(crate) struct FindArgs {
    /// The name
    pub name: String,
    /// Only look: start nothing
    #[arg(long)]
    pub no_start: bool,
    /// Every instance, not only those that the service's `choose` picks
    #[arg(long)]
    pub all: bool,
    /// Wait so long at most, such as 10s
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Span>,
    /// Ask the majority of servers, so that the answer is the newest
    #[arg(long)]
    pub consistent: bool,
    /// This instance does not answer: look at it and find another
    #[arg(long, value_name = "INSTANCE")]
    pub failed: Option<InstanceId>,
}

/// `show`.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// The name
    pub name: String,
    /// Ask the majority of servers, so that the answer is the newest
    #[arg(long)]
    pub consistent: bool,
}

/// `why`.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The service
    pub name: String,
}

/// `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The pattern
    pub pattern: Option<String>,
    /// At most so many names; all when unsaid
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Go on where a limited list ended (`next` of its JSON form)
    #[arg(long, value_name = "TOKEN")]
    pub next: Option<String>,
    /// Only what this apply set declared
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// Ask the majority of servers, so that the answer is the newest
    #[arg(long)]
    pub consistent: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Names or patterns; every service beneath the context when there is none
    pub patterns: Vec<String>,
    /// Ask the majority of servers, so that the answer is the newest
    #[arg(long)]
    pub consistent: bool,
}

/// `logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The service
    pub name: String,
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with the last so many lines; everything that is kept when unsaid
    #[arg(short = 'n', long, value_name = "LINES")]
    pub lines: Option<u32>,
}

/// `launch`, `restart` and `reset`.
#[derive(Debug, Args)]
pub(crate) struct ActArgs {
    /// Names or patterns
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Wait so long at most for each
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Span>,
}

/// `stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// What `launch` takes too.
    #[command(flatten)]
    pub act: ActArgs,
    /// Keep it stopped until `launch` or `reset`
    #[arg(long)]
    pub hold: bool,
    /// Kill it without asking it to end first
    #[arg(long)]
    pub now: bool,
}

/// `advertise`.
#[derive(Debug, Args)]
pub(crate) struct AdvertiseArgs {
    /// The service
    pub name: String,
    /// Where it answers: tcp://HOST:PORT, HOST:PORT or unix:/PATH; may be repeated
    #[arg(long = "endpoint", value_name = "ENDPOINT", required_unless_present = "port")]
    pub endpoints: Vec<String>,
    /// The TCP port on this computer where it answers
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Say it once, for so long, instead of staying
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<Span>,
    /// Its share among several copies
    #[arg(long, value_name = "N")]
    pub weight: Option<u32>,
    /// The process that answers, for people to see
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Within a launched program: where to keep what its ticket is exchanged for [BYNAME_CREDENTIAL_FILE]
    #[arg(long, value_name = "FILE")]
    pub credential_file: Option<PathBuf>,
}

/// `withdraw`.
#[derive(Debug, Args)]
pub(crate) struct WithdrawArgs {
    /// The service
    pub name: String,
    /// Only this instance
    #[arg(long)]
    pub instance: Option<InstanceId>,
}

/// `add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The new name
    pub name: String,
    /// The kind
    #[arg(long, value_parser = word::<Kind>(Kind::ALL.map(Kind::as_str)))]
    pub kind: Option<Kind>,
    /// What is declared.
    #[command(flatten)]
    pub declare: DeclareArgs,
    /// How it is started.
    #[command(flatten)]
    pub launch: LaunchArgs,
}

/// `edit`.
#[derive(Debug, Args)]
pub(crate) struct EditArgs {
    /// The name
    pub name: String,
    /// Take a field back to unsaid, by its path: ttl, launch.limits, attributes.title; may be repeated
    #[arg(long, value_name = "FIELD")]
    pub unset: Vec<String>,
    /// Only if it has this version, as `show` prints it
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<Version>,
    /// What is declared.
    #[command(flatten)]
    pub declare: DeclareArgs,
    /// How it is started.
    #[command(flatten)]
    pub launch: LaunchArgs,
}

/// `delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The names; all of them are deleted or none
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Everything beneath them too
    #[arg(short, long)]
    pub recursive: bool,
    /// Stop what runs
    #[arg(long)]
    pub stop: bool,
    /// Only if it has this version (for a single name)
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<Version>,
}

/// `alias`.
#[derive(Debug, Args)]
pub(crate) struct AliasArgs {
    /// The name that it stands for
    pub target: String,
    /// The new name
    pub newname: String,
}

/// `apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// A file, a folder of *.toml files, or - for standard input; may be repeated
    #[arg(short = 'f', long = "file", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    /// Only print the difference
    #[arg(long)]
    pub dry_run: bool,
    /// Delete what this apply set declared before and does not any more
    #[arg(long)]
    pub prune: bool,
    /// With --prune: stop services that run
    #[arg(long, requires = "prune")]
    pub stop: bool,
    /// The apply set; by default named like the folder or file, `stdin` for standard input
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
}

/// `validate`.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Files, or folders of *.toml files; - for standard input
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// `context`.
#[derive(Debug, Args)]
pub(crate) struct ContextArgs {
    /// The name to read relative names against; a relative one is read against the present context
    pub name: Option<String>,
    /// Forget what was set
    #[arg(long, conflicts_with = "name")]
    pub unset: bool,
}

/// `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    pub shell: String,
}

/// The commands by what they are for, as the help lists them.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Ask", &["find", "show", "list", "search", "status", "why", "logs", "watch"]),
    (
        "Run",
        &[
            "launch",
            "stop",
            "restart",
            "reset",
            "run",
            "advertise",
            "withdraw",
            "report",
            "lock",
            "unlock",
            "drain",
            "undrain",
        ],
    ),
    ("Change the tree", &["add", "edit", "delete", "alias", "apply"]),
    ("Who is who", &["login", "logout", "whoami", "passwd", "passkey", "principal", "group"]),
    ("Trust", &["acl", "audit", "secret", "ticket", "cert", "ca", "cluster"]),
    ("Serve", &["dev", "server", "agent"]),
    ("More", &["context", "validate", "version", "completions", "man", "help"]),
];

const EXIT_STATUS: &str =
    "Exit status: 0 ok, 1 other error, 2 usage, 3 not found, 4 denied, 5 unavailable or timeout, 6 conflict.";

/// The command line with what its manual page adds.
pub(crate) fn manual() -> clap::Command {
    let mut command = Cli::command().about("one name for everything, and a name starts what it names");
    command = command.after_long_help(format!(
        "{EXIT_STATUS} `run` and `lock` end with the status of the command that they ran.\n\n\
         A server is found by --server, BYNAME_SERVER, /etc/byname/client.toml, /run/byname/byname.sock, or at the \
         socket of this user's `byname dev`, in this order. BYNAME_ROOT, BYNAME_OUTPUT, BYNAME_AS, \
         BYNAME_CA, BYNAME_IDENTITY (--cert), BYNAME_TOKEN and BYNAME_TOKEN_FILE stand for the options of these names."
    ));
    command
}

/// The command line as clap knows it, with the commands of `--help` in groups.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let help = grouped_help(&command);
    command.override_help(help)
}

/// What `byname` alone prints.
pub(crate) fn short_help() -> &'static str {
    "Byname: one name for everything, and a name starts what it names.\n\n\
     \x20 byname dev                          run a server for yourself\n\
     \x20 byname apply -f examples/bvods      make the tree as files declare it\n\
     \x20 byname find /BVODS/QS               where is it? starts it when it does not run\n\
     \x20 byname list '/BVODS/**'             which names are there\n\
     \x20 byname status                       what runs\n\
     \x20 byname watch                        what changes, as it changes\n\n\
     All commands: byname help"
}

fn grouped_help(command: &clap::Command) -> String {
    let (bold, plain) = ("\x1b[1m\x1b[33m", "\x1b[0m");
    let mut help = String::from("Byname: one name for everything, and a name starts what it names.\n\n");
    help.push_str(&format!("{bold}Usage:{plain} byname [OPTIONS] COMMAND\n"));
    for (title, names) in GROUPS {
        help.push_str(&format!("\n{bold}{title}:{plain}\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(|c| c.get_about()).map(ToString::to_string);
            help.push_str(&format!("  \x1b[32m{name:<12}{plain} {}\n", about.unwrap_or_default()));
        }
    }
    help.push_str(&format!("\n{bold}Options of every command:{plain}\n"));
    let width = 22;
    for (flag, about) in [
        ("    --server URL", "Where to ask: unix:///PATH or https://HOST:PORT [BYNAME_SERVER]"),
        ("    --as PRINCIPAL", "Use the session that `byname login` gave this principal [BYNAME_AS]"),
        ("    --ca FILE", "The root certificates of the server's trust domain [BYNAME_CA]"),
        ("    --cert DIR|FILE", "A client certificate, with --key FILE beside it [BYNAME_IDENTITY]"),
        ("    --token-file FILE", "The file that holds the bearer token [BYNAME_TOKEN_FILE]"),
        ("    --root NAME", "Read names without `/` in front against this name [BYNAME_ROOT]"),
        ("-o, --output FORMAT", "table, json or name [BYNAME_OUTPUT]"),
        ("-h, --help", "This help; after a command, that command's"),
        ("-V, --version", "The version of this command"),
    ] {
        help.push_str(&format!("  \x1b[32m{flag:<width$}{plain} {about}\n"));
    }
    help.push_str(&format!("\n{EXIT_STATUS}\n"));
    help
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_is_in_one_group_and_has_a_summary() {
        let command = command();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut known: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        grouped.sort_unstable();
        known.sort_unstable();
        assert_eq!(grouped, known);
        for sub in command.get_subcommands() {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            assert!((10..=70).contains(&about.len()), "{}: {about}", sub.get_name());
            assert!(!about.ends_with('.'), "{}", sub.get_name());
        }
    }

    #[test]
    fn wrong_uses_are_refused() {
        for line in [
            "find",
            "find /a /b",
            "find --failed x /a",
            "list --limit 0",
            "launch",
            "search",
            "watch --from x --initial",
            "watch --count 0",
            "report /a",
            "report /a --load much",
            "report /a --health good",
            "report /a --load 1 --note why",
            "add /a --check htp",
            "add /a --check http,interval",
            "add /a --check http,rise=two",
            "run /a",
            "run /a --port 1 --endpoint h:1 -- x",
            "run /a --ready-port -- x",
            "lock",
            "unlock",
            "advertise /a",
            "advertise /a --port 0",
            "apply",
            "apply -f x --stop",
            "add /a --kind thing",
            "add /a --copies 3..1",
            "add /a --limit memory=lots",
            "add /a --listen localhost:80",
            "add /a --handover hand",
            "dev --dns localhost",
            "dev --ldap 127.0.0.1:53",
            "completions tcsh",
            "nonsense",
        ] {
            let words = std::iter::once("byname").chain(line.split(' '));
            let error = command().try_get_matches_from(words).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
