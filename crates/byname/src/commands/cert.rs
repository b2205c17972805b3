//! `cert`: certificates of names, in a folder: cert.pem, key.pem and bundle.pem.

use std::path::{Path, PathBuf};

use byname_api::identity::{CertifyReply, CertifyRequest};
use byname_api::span::Span;
use byname_api::{Code, Error};
use byname_identity::authority::{self, Description};
use byname_name::{Name, spiffe};

use super::Session;
use crate::cli::trust::CertCommand;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::reach::{Identity, write_file};
use crate::screen::{Format, Screen, printable};

/// `get` and `renew`.
pub(crate) async fn run(session: &mut Session, command: CertCommand, env: &Environment) -> Outcome {
    match command {
        CertCommand::Get { name, out, validity } => {
            let principal = name.as_deref().map(|text| session.name(text)).transpose()?;
            get(session, principal, &folder(env, out.as_deref())?, validity).await
        }
        CertCommand::Renew { out, validity } => {
            let folder = folder(env, out.as_deref())?;
            let principal = holder(&folder)?;
            get(session, Some(principal), &folder, validity).await
        }
        CertCommand::Request { out } => request(&mut session.screen, env, out.as_deref()),
        CertCommand::Show { file } => show(&mut session.screen, env, file.as_deref()),
    }
}

/// The folder that is meant, when none is given.
///
/// # Errors
///
/// Nobody knows where this user's state is.
pub(crate) fn folder(env: &Environment, given: Option<&Path>) -> Outcome<PathBuf> {
    let own = || Some(env.state_dir()?.join("identity"));
    let unknown = || Failure::usage("neither HOME nor XDG_STATE_HOME is set: say where with --out DIR");
    given.map(Path::to_owned).or_else(own).ok_or_else(unknown)
}

/// Whose certificate is in a folder.
fn holder(folder: &Path) -> Outcome<Name> {
    let chain = Identity::at(folder, None).chain;
    let text = std::fs::read_to_string(&chain).map_err(|e| {
        let message = format!("cannot read {}: {e}; `byname cert get` makes the first one", chain.display());
        Error::new(Code::NotFound, message)
    })?;
    let described = authority::show(&text).map_err(|e| e.within(chain.display()))?;
    let named = described.first().and_then(|one| {
        let id = one.uris.first()?;
        let domain = id.strip_prefix("spiffe://")?.split('/').next()?;
        spiffe::from_id(id, domain).ok()
    });
    // The id of a root is that of the whole domain.
    named.filter(|name| !name.is_root()).ok_or_else(|| {
        Error::new(Code::InvalidArgument, format!("{} holds no name (a SPIFFE id)", chain.display())).into()
    })
}

/// Makes a key, has it certified, and writes what belongs together. The key is this host's alone.
async fn get(session: &mut Session, principal: Option<Name>, folder: &Path, validity: Option<Span>) -> Outcome {
    let key = authority::new_key()?;
    let request =
        CertifyRequest { request: key.request_pem, instance: None, principal, validity, audience: Vec::new() };
    let reply = session.service.certify(&session.cx, request).await?;
    let unwritable = |e: std::io::Error| Failure::System(format!("cannot write to {}: {e}", folder.display()));
    for (file, text, mode) in
        [("key.pem", &key.key_pem, 0o600), ("cert.pem", &reply.chain, 0o644), ("bundle.pem", &reply.bundle, 0o644)]
    {
        write_file(&folder.join(file), text.as_bytes(), mode).map_err(unwritable)?;
    }
    let CertifyReply { spiffe, expires, .. } = &reply;
    let screen = &mut session.screen;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({ "spiffe": spiffe, "expires": expires, "folder": folder }))?,
        Format::Name => screen.line(&folder.display().to_string())?,
        Format::Table => {
            screen.line(&format!("certified {} until {expires}", printable(spiffe)))?;
            screen.flush()?;
            screen.say(&format!("byname: it is in {0}: use it with --cert {0} or BYNAME_IDENTITY", folder.display()));
        }
    }
    Ok(())
}

/// `cert request`. A key that is there already is some certificate's.
pub(crate) fn request(screen: &mut Screen, env: &Environment, out: Option<&Path>) -> Outcome {
    let folder = folder(env, out)?;
    let file = folder.join("key.pem");
    if file.exists() {
        return Err(Error::new(Code::AlreadyExists, format!("there is a key already: {}", file.display())).into());
    }
    let key = authority::new_key()?;
    let unwritable = |e: std::io::Error| Failure::System(format!("cannot write to {}: {e}", folder.display()));
    write_file(&file, key.key_pem.as_bytes(), 0o600).map_err(unwritable)?;
    let file = folder.join("request.pem");
    write_file(&file, key.request_pem.as_bytes(), 0o644).map_err(unwritable)?;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({ "request": file }))?,
        Format::Name | Format::Table => screen.line(&file.display().to_string())?,
    }
    Ok(())
}

/// `cert show`.
pub(crate) fn show(screen: &mut Screen, env: &Environment, file: Option<&Path>) -> Outcome {
    let file = match file {
        Some(file) => file.to_owned(),
        None => folder(env, None)?.join("cert.pem"),
    };
    let text = std::fs::read_to_string(&file).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::Error(Error::new(Code::NotFound, format!("there is no {}", file.display())))
        }
        _ => Failure::System(format!("cannot read {}: {e}", file.display())),
    })?;
    let described = authority::show(&text).map_err(|e| e.within(file.display()))?;
    print(screen, &described)
}

/// Certificates and requests as they describe themselves.
pub(super) fn print(screen: &mut Screen, described: &[Description]) -> Outcome {
    match screen.format {
        Format::Json => {
            let objects: Vec<serde_json::Value> = described.iter().map(object).collect();
            screen.json(&objects)?;
        }
        Format::Name => {
            for one in described {
                screen.line(&printable(one.uris.first().unwrap_or(&one.subject)))?;
            }
        }
        Format::Table => {
            for one in described {
                screen.pairs(&one.sort.to_string(), &lines(one))?;
            }
        }
    }
    Ok(())
}

fn lines(one: &Description) -> Vec<(String, String)> {
    let addresses: Vec<String> = one.addresses.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        ("subject", one.subject.clone()),
        ("issuer", one.issuer.clone().unwrap_or_default()),
        ("id", one.uris.join(", ")),
        ("dns", one.dns.join(", ")),
        ("addresses", addresses.join(", ")),
        ("key", one.key.clone()),
        ("usage", one.usage.join(", ")),
        ("only for", one.constraints.join(", ")),
        ("serial", one.serial.clone()),
    ];
    if let Some((from, until)) = &one.validity {
        lines.extend([("from", from.to_string()), ("until", until.to_string())]);
    }
    lines.push(("sha-256", one.fingerprint.clone()));
    let said = lines.into_iter().filter(|(_, value)| !value.is_empty());
    said.map(|(key, value)| (key.to_owned(), printable(&value))).collect()
}

fn object(one: &Description) -> serde_json::Value {
    serde_json::json!({
        "sort": one.sort.to_string(),
        "subject": one.subject,
        "issuer": one.issuer,
        "uris": one.uris,
        "dns": one.dns,
        "addresses": one.addresses,
        "key": one.key,
        "usage": one.usage,
        "constraints": one.constraints,
        "serial": one.serial,
        "not_before": one.validity.map(|v| v.0),
        "not_after": one.validity.map(|v| v.1),
        "sha256": one.fingerprint,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::fake::run_in;

    #[tokio::test]
    async fn a_certificate_is_written_with_its_key_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::with_state(dir.path());
        let done = run_in("cert get --validity 12h", &env).await;
        assert_eq!(
            done.out, "certified spiffe://byname.internal/people/liu until 2023-11-14T22:13:20.000Z\n",
            "{}",
            done.talk
        );
        assert_eq!(done.log, ["certify principal=None validity=Some(Span(43200000))"]);
        let folder = dir.path().join("byname/identity");
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!((read("cert.pem").as_str(), read("bundle.pem").as_str()), ("the chain\n", "the roots\n"));
        assert!(read("key.pem").starts_with("-----BEGIN PRIVATE KEY-----"));
        let mode = |file: &str| std::fs::metadata(folder.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("key.pem"), mode("cert.pem")), (0o600, 0o644));
        let done = run_in(&format!("cert get --name people/ann --out {}/new", dir.path().display()), &env).await;
        assert_eq!(done.log, ["certify principal=Some(\"/people/ann\") validity=None"]);
    }

    #[test]
    fn a_request_is_made_once_with_a_key_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (mut screen, out, _) = Screen::captured(Format::Table, false);
        request(&mut screen, &Environment::default(), Some(dir.path())).unwrap();
        let file = dir.path().join("request.pem");
        assert_eq!(out.take(), format!("{}\n", file.display()));
        let described = authority::show(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(described[0].sort, authority::Sort::Request);
        let again = request(&mut screen, &Environment::default(), Some(dir.path())).unwrap_err();
        assert_eq!(again.exit_status(), 6);
    }

    #[tokio::test]
    async fn a_renewal_is_for_whoever_the_old_one_is_of() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::with_state(dir.path());
        let done = run_in("cert renew", &env).await;
        assert!(done.status == 3 && done.talk.contains("byname cert get"), "{}", done.talk);
        let folder = dir.path().join("byname/identity");
        std::fs::create_dir_all(&folder).unwrap();
        let (mut screen, out, _) = Screen::captured(Format::Name, false);
        let root = authority::Authority::create("corp.example", super::super::clock()).unwrap();
        std::fs::write(folder.join("cert.pem"), root.root_pem()).unwrap();
        assert_eq!(run_in("cert renew", &env).await.status, 2, "a root is nobody's certificate");
        show(&mut screen, &env, None).unwrap();
        assert_eq!(out.take(), "spiffe://corp.example\n");
    }
}
