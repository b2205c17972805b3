//! `ca`: the root of a trust domain, kept off line. Files only: no server is asked.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use byname_api::Error;
use byname_api::object::{Kind, Spec};
use byname_api::span::Timestamp;
use byname_identity::authority::{self, RootFiles, Sign, Subject, Usage};
use byname_identity::certified::{self, About, Statement};
use byname_name::Name;

use super::{cert, clock};
use crate::cli::trust::{CaCommand, CertifyArgs};
use crate::failure::{Failure, Outcome};
use crate::reach::write_file;
use crate::screen::{Format, Screen};
use crate::{prompt, tree_files};

/// The most bytes of a request or a certificate's file.
const MAX_BYTES: usize = 1 << 20;
/// How long an issuing authority holds when nothing is said: a year.
const ISSUING: Duration = Duration::from_secs(366 * 86_400);
/// How long a certificate holds when nothing is said: it is carried by hand.
const CERTIFICATE: Duration = Duration::from_secs(90 * 86_400);

/// Runs it.
pub(crate) fn run(screen: &mut Screen, command: CaCommand, context: &Name) -> Outcome {
    match command {
        CaCommand::Init { dir, domain } => init(screen, &dir, &domain),
        CaCommand::Sign { request, dir, issuing, under, for_hosts, name, id, validity, out } => {
            let resolved = |text: &str, field: &str| {
                Name::resolve(context, text).map_err(|e| Error::from(e).field(field.to_owned()))
            };
            let (what, usual) = match name {
                Some(name) if !issuing => {
                    let name = resolved(&name, "name")?;
                    let subject = Subject {
                        name,
                        id,
                        instance: None,
                        dns: Vec::new(),
                        addresses: Vec::new(),
                        usage: Usage::Both,
                    };
                    (Sign::Certificate(subject), CERTIFICATE)
                }
                _ => (Sign::Issuing { under: resolved(&under, "under")?, hosts: for_hosts }, ISSUING),
            };
            let root = RootFiles::open(&dir)?;
            let request = prompt::whole(&request, MAX_BYTES, "request")?;
            let validity = validity.map_or(usual, |span| span.duration());
            let signed = root.sign(request.as_bytes(), &what, validity, clock())?;
            written(screen, out.as_deref(), &signed)
        }
        CaCommand::Show { path } => show(screen, &path),
        CaCommand::Certify(args) => certify(screen, &args, context),
    }
}

fn init(screen: &mut Screen, dir: &Path, domain: &str) -> Outcome {
    let root = RootFiles::init(dir, domain, clock())?;
    let described = authority::show(root.root_pem())?;
    let fingerprint = described.first().map(|one| one.fingerprint.clone()).unwrap_or_default();
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({
            "domain": root.domain(), "folder": dir, "sha256": fingerprint,
        }))?,
        Format::Name => screen.line(&fingerprint)?,
        Format::Table => {
            screen.line(&format!("made the root of {} in {}", root.domain(), dir.display()))?;
            screen.line(&format!("sha-256 {fingerprint}"))?;
        }
    }
    Ok(())
}

fn show(screen: &mut Screen, path: &Path) -> Outcome {
    let file = if path.is_dir() { path.join("root.pem") } else { path.to_owned() };
    let text = prompt::whole(&file, MAX_BYTES, "path")?;
    if text.starts_with(certified::PREFIX) {
        let message = "this is a signed statement: a server says whether it holds (`byname show NAME`)";
        return Err(Failure::usage(message));
    }
    cert::print(screen, &authority::show(&text).map_err(|e| e.within(file.display()))?)
}

fn certify(screen: &mut Screen, args: &CertifyArgs, context: &Name) -> Outcome {
    let root = RootFiles::open(&args.dir)?;
    let now = clock();
    let validity = args.validity.map_or(CERTIFICATE.as_millis(), |span| u128::from(span.as_millis()));
    let not_after = Timestamp(now.0.saturating_add(u64::try_from(validity).unwrap_or(u64::MAX)));
    let sign = |about: About, name: Name, members: Vec<String>| {
        let statement = Statement { domain: root.domain().to_owned(), about, name, members, not_after };
        certified::sign(&root, &statement)
    };
    let resolved =
        |text: &str, field: &str| Name::resolve(context, text).map_err(|e| Error::from(e).field(field.to_owned()));
    if let Some(group) = &args.group {
        let members = args.members.iter().map(|m| Ok(resolved(m, "members")?.to_string()));
        let signed = sign(About::Group, resolved(group, "group")?, members.collect::<byname_api::Result<_>>()?)?;
        return written(screen, args.out.as_deref(), &format!("{signed}\n"));
    }
    if let Some(principal) = &args.principal {
        let signed = sign(About::Principal, resolved(principal, "principal")?, args.keys.clone())?;
        return written(screen, args.out.as_deref(), &format!("{signed}\n"));
    }
    let file: Vec<_> = args.file.iter().cloned().collect();
    let mut tables: BTreeMap<String, Spec> = BTreeMap::new();
    for table in tree_files::read(&file, context)? {
        let kind = table.spec.kind();
        if kind != Kind::Group {
            continue;
        }
        let signed = sign(About::Group, table.name.clone(), table.spec.members.clone().unwrap_or_default());
        let signed = signed.map_err(|e| Failure::Files(vec![table.mistake(&e)]))?;
        let spec = Spec { members: table.spec.members, certified: Some(signed), ..Spec::of(kind) };
        tables.insert(table.name.to_string(), spec);
    }
    if tables.is_empty() {
        return Err(Failure::usage("the file declares no group"));
    }
    let text = toml::to_string(&tables).map_err(|e| Failure::System(e.to_string()))?;
    written(screen, args.out.as_deref(), &text)
}

/// Writes what was signed to a file, or to standard output.
fn written(screen: &mut Screen, out: Option<&Path>, text: &str) -> Outcome {
    let Some(out) = out else { return Ok(screen.raw(text.as_bytes())?) };
    write_file(out, text.as_bytes(), 0o644)
        .map_err(|e| Failure::System(format!("cannot write {}: {e}", out.display())))?;
    screen.say(&format!("byname: wrote {}", out.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::FromArgMatches;

    fn ca(line: &str) -> (Outcome, String, String) {
        let words = std::iter::once("byname").chain(line.split(' '));
        let cli = Cli::from_arg_matches(&crate::cli::command().get_matches_from(words)).unwrap();
        let Some(crate::cli::Command::Ca { command }) = cli.command else { panic!("{line}") };
        let (mut screen, out, talk) = Screen::captured(cli.global.output.unwrap_or_default(), false);
        let outcome = run(&mut screen, command, &Name::root());
        (outcome, out.take(), talk.take())
    }

    #[test]
    fn a_root_signs_what_is_carried_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root").display().to_string();
        let (outcome, out, _) = ca(&format!("ca init {root} --domain corp.example"));
        outcome.unwrap();
        assert!(out.starts_with("made the root of corp.example in "), "{out}");
        let fingerprint = out.lines().nth(1).unwrap().trim_start_matches("sha-256 ").to_owned();
        let again = ca(&format!("ca init {root} --domain corp.example")).0.unwrap_err();
        assert_eq!(again.exit_status(), 6);
        let (outcome, shown, _) = ca(&format!("ca show {root}"));
        outcome.unwrap();
        assert!(shown.starts_with("root\n") && shown.contains(&fingerprint), "{shown}");

        let request = dir.path().join("request.pem");
        std::fs::write(&request, authority::new_key().unwrap().request_pem).unwrap();
        let signed = dir.path().join("signed.pem").display().to_string();
        let (outcome, out, talk) =
            ca(&format!("ca sign {} --dir {root} --name people/liu --out {signed}", request.display()));
        outcome.unwrap();
        assert_eq!((out.as_str(), talk), ("", format!("byname: wrote {signed}\n")));
        let (_, shown, _) = ca(&format!("ca show -o name {signed}"));
        assert_eq!(shown, "spiffe://corp.example/people/liu\n");
        let (outcome, out, _) =
            ca(&format!("ca sign {} --dir {root} --issuing --under /BVODS --for-host lan", request.display()));
        outcome.unwrap();
        let described = authority::show(&out).unwrap();
        assert_eq!(described[0].constraints, ["bvods.corp.example", "localhost", "lan"]);
        assert_eq!(ca(&format!("ca show {root}/none")).0.unwrap_err().exit_status(), 2);
        assert_eq!(ca(&format!("ca sign {signed} --dir {root} --issuing")).0.unwrap_err().exit_status(), 2);
    }

    #[test]
    fn membership_is_signed_for_one_group_or_for_those_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display().to_string();
        ca(&format!("ca init {root} --domain corp.example")).0.unwrap();
        let roots = authority::Roots::from_pem(&std::fs::read_to_string(dir.path().join("root.pem")).unwrap()).unwrap();
        let (outcome, out, _) = ca(&format!("ca certify --dir {root} --group g --members /b a --validity 1d"));
        outcome.unwrap();
        let read = certified::verify(&roots, &out, clock()).unwrap();
        assert_eq!((read.name.as_str(), read.members), ("/g", vec!["/a".into(), "/b".into()]));
        let file = dir.path().join("groups.toml");
        std::fs::write(&file, "['/g']\nkind = 'group'\nmembers = ['/a']\n['/x']\nkind = 'directory'\n").unwrap();
        let (outcome, out, _) = ca(&format!("ca certify --dir {root} {}", file.display()));
        outcome.unwrap();
        let (declared, mistakes) = tree_files::parse(out.as_bytes(), Path::new("-"), Path::new("/"), &Name::root());
        assert_eq!((declared.len(), mistakes.len()), (1, 0), "{out}");
        let statement = declared[0].spec.certified.as_deref().unwrap();
        assert_eq!(certified::verify(&roots, statement, clock()).unwrap().members, ["/a"]);
        let (outcome, ..) = ca(&format!("ca certify --dir {root} --principal /p --key-id sha256:00"));
        outcome.unwrap();
    }
}
