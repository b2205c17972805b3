//! From declared checks to what is to be done: ports, variables, and the host's own policy for commands.

use std::collections::BTreeMap;

use byname_api::Error;
use byname_api::agent::StartOrder;
use byname_api::launch::{Check, CheckKind, EnvValue};
use byname_api::service::Endpoint;

use crate::Config;
use crate::catalogue::{Catalogue, denied};
use crate::folder::{StoredCheck, StoredProbe, StoredRun};
use crate::plan::{expand, user};
use crate::wire::{Text, Work};

/// The checks of an order that its agent makes. What a check runs is the host's decision as much as the program itself.
///
/// # Errors
///
/// `denied` when the host does not run such a command; `invalid-argument` for an endpoint that is not there.
pub(crate) fn plan(
    order: &StartOrder,
    endpoints: &[Endpoint],
    variables: &BTreeMap<String, String>,
    work: &Work,
    config: &Config,
    catalogue: &Catalogue,
) -> Result<Vec<StoredCheck>, Error> {
    let mut planned = Vec::new();
    for (at, check) in order.launch.check.iter().flatten().enumerate() {
        let field = |name: &str| format!("launch.check[{at}].{name}");
        let endpoint = || {
            let found = check.endpoint_in(endpoints, |e| &e.protocol);
            found.map(Into::into).ok_or_else(|| Error::invalid(field("endpoint"), "there is no such endpoint"))
        };
        let probe = match check.kind {
            CheckKind::Ttl => continue,
            CheckKind::Tcp => StoredProbe::Tcp { endpoint: endpoint()? },
            CheckKind::Http => {
                let status = check.status.unwrap_or_default();
                let path = check.path.clone().unwrap_or_else(|| "/".into());
                StoredProbe::Http { endpoint: endpoint()?, path, from: status.from, to: status.to }
            }
            CheckKind::Grpc => {
                StoredProbe::Grpc { endpoint: endpoint()?, service: check.service.clone().unwrap_or_default() }
            }
            CheckKind::Command => {
                let run = command(order, check, variables, work, config, catalogue);
                StoredProbe::Command(Box::new(run.map_err(|(name, error)| error.field(field(name)))?))
            }
        };
        planned.push(StoredCheck {
            probe,
            interval_ms: check.interval().as_millis(),
            timeout_ms: check.timeout().as_millis(),
            rise: check.rise(),
            fall: check.fall(),
            restart: check.restart.unwrap_or(false),
        });
    }
    Ok(planned)
}

/// What a check of kind `command` runs. On an error, which field it is about.
fn command(
    order: &StartOrder,
    check: &Check,
    variables: &BTreeMap<String, String>,
    work: &Work,
    config: &Config,
    catalogue: &Catalogue,
) -> Result<StoredRun, (&'static str, Error)> {
    let entry = match (&check.program, &check.command) {
        (Some(program), _) => {
            let named = |error| ("program", error);
            Some((program.as_str(), catalogue.entry(program, &order.name, &config.computer).map_err(named)?))
        }
        (None, Some(_)) if config.allow_commands => None,
        (None, _) => {
            let message = format!(
                "`{}` runs no plain commands: name a `program` of its catalogue in {}",
                config.computer,
                catalogue.place()
            );
            return Err(("command", denied("command", message)));
        }
    };
    let mut argv = match entry {
        Some((_, entry)) => entry.command.clone(),
        None => check.command.clone().unwrap_or_default(),
    };
    for arg in check.args.iter().flatten() {
        if let Some((program, entry)) = entry {
            entry.check_arg(program, arg).map_err(|error| ("args", error))?;
        }
        argv.push(arg.clone());
    }
    let declared = order.launch.env.as_ref();
    let fits = |key: &str| match declared.and_then(|env| env.get(key)) {
        // It is written down, and read by whichever agent comes.
        Some(EnvValue::Secret { .. }) => false,
        // What the program may be given, another one of the catalogue need not be.
        Some(EnvValue::Text(_)) => entry.is_none_or(|(program, entry)| entry.check_env(program, key).is_ok()),
        None => true,
    };
    let mut env: Vec<(Text, Text)> =
        work.env.iter().filter(|(key, _)| key.as_os_str().to_str().is_none_or(fits)).cloned().collect();
    let mut run = StoredRun {
        argv: Vec::new(),
        env: Vec::new(),
        directory: work.directory.clone(),
        identity: work.identity.clone(),
    };
    if let Some((program, entry)) = entry {
        for (key, value) in &entry.env {
            env.retain(|(known, _)| known.as_os_str() != key.as_str());
            env.push((key.clone().into(), expand(value, variables).into()));
        }
        if entry.user.is_some() {
            let account = user(Some((program, entry)), order.launch.user.as_deref(), config);
            run.identity = account.map_err(|error| ("program", error))?.map(|account| account.identity);
        }
        if let Some(directory) = &entry.directory {
            run.directory = Some(directory.clone().into());
        }
    }
    run.argv = argv.iter().map(|word| expand(word, variables).into()).collect();
    run.env = env;
    Ok(run)
}
