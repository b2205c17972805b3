//! The `byname` program: the command line, and the servers behind `dev`, `server` and `agent`.

mod cli;
mod commands;
mod complete;
mod dial;
mod difference;
mod environment;
mod failure;
mod prompt;
mod reach;
mod screen;
mod serve;
mod sessions;
mod tree_files;

#[cfg(test)]
mod fake;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{FromArgMatches, ValueEnum};

use byname_api::Error;
use byname_api::request::Verb;
use byname_client::{Clerk, Options};
use byname_name::Name;

use cli::trust::{AuditArgs, CertCommand, ClusterCommand};
use cli::{Cli, Command};
use commands::{
    Session, acl, act, advertise, apply, audit, cert, change, cluster, credentials, find, group, lock, login, look,
    principal, search, secret, ticket, validate, version, watch, why,
};
use environment::Environment;
use failure::{Failure, Outcome};
use reach::{Asked, Sessions, Target};
use screen::{Format, Screen};

fn main() -> ExitCode {
    // A holder is started for every program, often while somebody waits for it, and stays as long as the program
    // does: it gets nothing of what the rest needs.
    let mut words = std::env::args_os();
    if words.nth(1).is_some_and(|word| word == "hold") {
        byname_launch::hold::main(words);
    }
    let mut env = Environment::read();
    if complete::answered(&env) {
        return ExitCode::SUCCESS;
    }
    let cli = match cli::command().try_get_matches().and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => {
            // 0 for help and version, 2 for a wrong use. Nobody can be told that the output is gone.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // A command that is run asks the same server as the one that runs it.
    env.server = cli.global.server.clone().or(env.server);
    let format = cli.global.output.or_else(|| Format::from_str(env.output.as_deref()?, true).ok());
    let mut screen = Screen::standard(format.unwrap_or_default(), &env);
    match runtime(cli.command.as_ref()) {
        Ok(runtime) => match runtime.block_on(run(cli, &env, screen)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(status) => ExitCode::from(status),
        },
        Err(error) => ExitCode::from(screen.tell(&Failure::from(error))),
    }
}

/// Servers use every processor; a command that asks one question needs one thread.
fn runtime(command: Option<&Command>) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match command {
        Some(Command::Dev(_) | Command::Server(_) | Command::Agent(_)) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build()
}

/// Runs the command and tells what went wrong; the error is the exit status.
async fn run(mut cli: Cli, env: &Environment, mut screen: Screen) -> Result<(), u8> {
    let outcome = match cli.command {
        None => screen.line(cli::short_help()).map_err(Failure::from),
        Some(Command::Help(args)) => help(&args.command),
        Some(Command::Context(args)) => {
            let root = cli.global.root.as_deref();
            commands::context::run(&mut screen, env, &reach::Places::default(), root, &args)
        }
        Some(Command::Completions(args)) => completions(&mut screen, &args.shell),
        Some(Command::Man(args)) => commands::man::run(&mut screen, args.folder.as_deref()),
        Some(Command::Validate(args)) => match context(env, &cli.global) {
            Ok(context) => validate::run(&mut screen, &args.paths, &context),
            Err(e) => Err(e),
        },
        Some(Command::Dev(args)) => serve::dev(args).await,
        Some(Command::Server(args)) => serve::server(args).await,
        Some(Command::Agent(mut args)) => {
            args.server = cli.global.server.or_else(|| env.server.clone());
            args.token = env.token.clone();
            serve::agent(args).await
        }
        Some(Command::Ca { command }) => match context(env, &cli.global) {
            Ok(context) => commands::ca::run(&mut screen, command, &context),
            Err(e) => Err(e),
        },
        Some(Command::Cluster { command: ClusterCommand::Restore { file, data, key } }) => {
            serve::salvage::restore(&mut screen, &file, &data, &key)
        }
        Some(Command::Cluster { command: ClusterCommand::StandAlone { data } }) => {
            serve::salvage::stand_alone(&mut screen, &data).await
        }
        Some(Command::Cert { command: CertCommand::Show { file } }) => cert::show(&mut screen, env, file.as_deref()),
        Some(Command::Audit(AuditArgs { data: Some(data), .. })) => audit::files(&mut screen, &data),
        Some(Command::Version) => {
            let server = match connect(env, &cli.global, Sessions::Tcp) {
                Ok((clerk, _)) => Session::new(clerk, Name::root(), Screen::standard(screen.format, env)).info().await,
                Err(error) => Err(error),
            };
            version::print(&mut screen, server)
        }
        Some(command) => {
            if let Command::Cert { command: CertCommand::Renew { out, .. } } = &command
                && cli.global.cert.is_none()
            {
                cli.global.cert = cert::folder(env, out.as_deref()).ok();
            }
            let sessions = match &command {
                Command::Login(_) => Sessions::Nowhere,
                Command::Logout(args) if args.principal.is_none() => Sessions::Everywhere,
                _ => Sessions::Tcp,
            };
            let session = match (context(env, &cli.global), connect(env, &cli.global, sessions)) {
                (Ok(context), Ok((clerk, target))) => Ok((context, clerk, target)),
                (Err(failure), _) => Err(failure),
                (_, Err(error)) => Err(error.into()),
            };
            match session {
                Ok((context, clerk, target)) => {
                    let ended = target.ended.clone();
                    let mut session = Session { target, ..Session::new(clerk, context, screen) };
                    let outcome = ask(&mut session, command, env).await;
                    screen = session.screen;
                    if let (Some(name), Err(failure)) = (ended, &outcome)
                        && failure.exit_status() == 4
                    {
                        screen.say(&format!(
                            "byname: note: the session of {name} has ended: `byname login {name}` gives another"
                        ));
                    }
                    outcome
                }
                Err(failure) => Err(failure),
            }
        }
    };
    let outcome = outcome.and_then(|()| Ok(screen.flush()?));
    match outcome {
        Ok(()) | Err(Failure::Pipe) => Ok(()),
        Err(failure) => Err(screen.tell(&failure)),
    }
}

/// Runs a command that asks a server.
async fn ask(session: &mut Session, command: Command, env: &Environment) -> Outcome {
    match command {
        Command::Find(args) => find::run(session, args).await,
        Command::Show(args) => look::show(session, args).await,
        Command::List(args) => look::list(session, args).await,
        Command::Search(args) => search::run(session, args).await,
        Command::Watch(args) => {
            let stop = interrupted()?;
            watch::run(session, args, stop).await
        }
        Command::Status(args) => look::status(session, args).await,
        Command::Why(args) => why::why(session, args).await,
        Command::Logs(args) => why::logs(session, args).await,
        Command::Launch(args) => act::run(session, Verb::Launch, args).await,
        Command::Stop(args) => act::stop(session, args).await,
        Command::Restart(args) => act::run(session, Verb::Restart, args).await,
        Command::Reset(args) => act::run(session, Verb::Reset, args).await,
        Command::Advertise(args) => {
            // Listened to from before the first word, so that an early signal withdraws too.
            let stop = interrupted()?;
            advertise::advertise(session, args, env, stop).await
        }
        Command::Withdraw(args) => advertise::withdraw(session, args).await,
        Command::Report(args) => advertise::report(session, args, env).await,
        Command::Drain(args) => commands::drain::drain(session, args).await,
        Command::Undrain(args) => commands::drain::undrain(session, args).await,
        Command::Run(args) => commands::run::run(session, args, env).await,
        Command::Lock(args) => {
            let stop = interrupted()?;
            lock::lock(session, args, stop).await
        }
        Command::Unlock(args) => lock::unlock(session, args).await,
        Command::Add(args) => change::add(session, *args).await,
        Command::Edit(args) => change::edit(session, *args, env).await,
        Command::Delete(args) => change::delete(session, args).await,
        Command::Alias(args) => change::alias(session, args).await,
        Command::Apply(args) => apply::run(session, args).await,
        Command::Login(args) if args.passkey => {
            let stop = interrupted()?;
            login::login(session, args, env, stop).await
        }
        Command::Login(args) => login::login(session, args, env, std::future::pending()).await,
        Command::Logout(args) => login::logout(session, args, env).await,
        Command::Whoami => login::whoami(session).await,
        Command::Passwd(args) => credentials::passwd(session, args, env).await,
        Command::Passkey { command } => credentials::passkey(session, command, env).await,
        Command::Principal { command } => principal::run(session, command).await,
        Command::Group { command } => group::run(session, command).await,
        Command::Acl { command } => acl::run(session, command).await,
        Command::Audit(args) => audit::run(session, args).await,
        Command::Secret { command } => secret::run(session, command, env).await,
        Command::Ticket { command } => ticket::run(session, command, env).await,
        Command::Cert { command } => cert::run(session, command, env).await,
        Command::Cluster { command } => cluster::run(session, command).await,
        Command::Version => {
            let server = session.info().await;
            version::print(&mut session.screen, server)
        }
        Command::Validate(_)
        | Command::Dev(_)
        | Command::Server(_)
        | Command::Agent(_)
        | Command::Ca { .. }
        | Command::Completions(_)
        | Command::Context(_)
        | Command::Man(_)
        | Command::Help(_) => Err(Error::internal("this command asks no server").into()),
    }
}

/// Ends at the first SIGINT or SIGTERM.
fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn connect(
    env: &Environment,
    global: &cli::GlobalArgs,
    sessions: Sessions,
) -> byname_api::Result<(Arc<Clerk>, Target)> {
    let target = target(env, global, sessions)?;
    let options = options(&target)?;
    Ok((Arc::new(Clerk::connect(&target.servers, options)?), target))
}

/// How to connect there.
fn options(target: &Target) -> byname_api::Result<Options> {
    // Over the socket nobody need know whom to believe, and nothing is shown.
    let encrypted = ["https://", "dns:"].iter().any(|begin| target.servers.contains(begin));
    let tls = match (encrypted, &target.ca) {
        (true, Some(ca)) => Some(dial::TlsDial::new(ca, target.identity.as_ref())? as _),
        (true, None) => {
            let message = "the root certificates of this server's trust domain are not known: --ca FILE (BYNAME_CA) \
                           says where they are; `byname cert get` on a host that knows them writes bundle.pem";
            return Err(Error::invalid("ca", message));
        }
        (false, _) => None,
    };
    // Over the socket the kernel says who calls, unless somebody else's session was asked for.
    let local = target.servers.split(',').map(str::trim).all(|s| s.starts_with('/') || s.starts_with("unix:"));
    let token = target.token.clone().filter(|_| !local || target.signed_in.is_some());
    Ok(Options { token, tls, ..Options::default() })
}

/// Where to ask, and what to show there.
fn target(env: &Environment, global: &cli::GlobalArgs, sessions: Sessions) -> byname_api::Result<Target> {
    let places = reach::Places::default();
    let principal = match global.principal_as.as_deref().or(env.principal.as_deref()) {
        Some(text) if sessions != Sessions::Nowhere => {
            let context = reach::context(env, &places, global.root.as_deref())?.0;
            Some(Name::resolve(&context, text).map_err(|e| Error::from(e).field("as"))?)
        }
        _ => None,
    };
    let asked = Asked {
        server: global.server.as_deref(),
        token_file: global.token_file.as_deref(),
        ca: global.ca.as_deref(),
        cert: global.cert.as_deref(),
        key: global.key.as_deref(),
        principal: principal.as_ref(),
        sessions,
    };
    reach::for_command(env, &places, &asked, commands::clock())
}

/// What relative names are read against.
fn context(env: &Environment, global: &cli::GlobalArgs) -> Outcome<Name> {
    Ok(reach::context(env, &reach::Places::default(), global.root.as_deref())?.0)
}

fn help(of: &[String]) -> Outcome {
    let mut command = cli::command();
    if of.is_empty() {
        return Ok(command.print_help()?);
    }
    let mut found = built(&mut command);
    for name in of {
        found = found.find_subcommand_mut(name).ok_or_else(|| {
            Failure::usage(format!("there is no command `{}`; see `byname help`", of.join(" ").escape_debug()))
        })?;
    }
    Ok(found.print_long_help()?)
}

/// The command with what clap hands down to its subcommands: the options of every command.
fn built(command: &mut clap::Command) -> &mut clap::Command {
    command.build();
    command
}

fn completions(screen: &mut Screen, shell: &str) -> Outcome {
    let script = complete::script(shell)
        .ok_or_else(|| Failure::usage(format!("there are no completions for `{}`", shell.escape_debug())))?;
    Ok(screen.raw(&script)?)
}
