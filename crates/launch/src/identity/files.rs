//! The folder that BYNAME_IDENTITY names.
//!
//! ```text
//! cert.pem   -> ..data/cert.pem      the chain
//! key.pem    -> ..data/key.pem       the key, for the program's user alone
//! bundle.pem -> ..data/bundle.pem    whom to trust
//! ..data     -> ..7
//! ..6/  ..7/                         the generation before, for whoever is just reading it, and the present one
//! ```
//!
//! A renewal makes a new generation and renames one link, as Kubernetes does for its mounts. So whoever opens `..data`
//! once and reads in it gets three files that belong together, and whoever watches the folder sees one event.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use byname_api::identity::Secret;

use super::Svid;
use crate::folder::{About, Place};
use crate::wire;

const DATA: &str = "..data";
const SHOWN: [&str; 3] = ["cert.pem", "key.pem", "bundle.pem"];

/// The files of one instance.
#[derive(Default)]
pub(crate) struct Files {
    place: Option<Place>,
    generation: u64,
    written: Option<Arc<Svid>>,
    gone: bool,
}

impl Files {
    /// Those of an earlier life of the agent, and what is in them.
    pub(crate) fn open(place: Place) -> (Files, Option<Arc<Svid>>) {
        let link = std::fs::read_link(place.dir.join(DATA)).ok();
        let generation = link.and_then(|to| to.to_str()?.strip_prefix("..")?.parse().ok()).unwrap_or(0);
        let svid = read(&place.dir.join(DATA)).map(Arc::new);
        (Files { place: Some(place), generation, written: svid.clone(), gone: false }, svid)
    }

    pub(crate) fn has_place(&self) -> bool {
        self.place.is_some()
    }

    pub(crate) fn place(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Puts a certificate in place of the one before, unless it is there already or nobody will read it.
    pub(crate) fn write(&mut self, svid: &Arc<Svid>) -> io::Result<()> {
        let Some(place) = self.place.as_ref().filter(|_| !self.gone) else { return Ok(()) };
        if self.written.as_ref().is_some_and(|written| Arc::ptr_eq(written, svid)) {
            return Ok(());
        }
        let next = self.generation + 1;
        place.make(&place.dir)?;
        let new = place.dir.join(format!("..{next}"));
        if new.exists() {
            // An agent was stopped while it wrote.
            std::fs::remove_dir_all(&new)?;
        }
        place.make(&new)?;
        let about = About { spiffe: svid.spiffe.clone(), issued: svid.issued, expires: svid.expires };
        let contents = [svid.chain_pem.as_bytes(), svid.key_pem.0.as_bytes(), svid.bundle_pem.as_bytes()];
        for (name, content) in SHOWN.into_iter().zip(contents) {
            let mode = if name == "key.pem" { 0o600 } else { 0o644 };
            let mut file = File::options().write(true).create_new(true).mode(mode).open(new.join(name))?;
            if let Some((uid, gid)) = place.owner.filter(|_| name == "key.pem") {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            } else if place.owner.is_some() {
                // Whatever the agent's umask is.
                file.set_permissions(Permissions::from_mode(mode))?;
            }
            file.write_all(content)?;
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(new.join("about"))?;
        file.write_all(&wire::seal("identity", &about)?)?;
        replace_link(&place.dir, DATA, &format!("..{next}"))?;
        if self.written.is_none() {
            for name in SHOWN {
                replace_link(&place.dir, name, &format!("{DATA}/{name}"))?;
            }
        }
        if let Some(before) = self.generation.checked_sub(1) {
            let _ = std::fs::remove_dir_all(place.dir.join(format!("..{before}")));
        }
        self.generation = next;
        self.written = Some(svid.clone());
        Ok(())
    }

    /// Removes them for good.
    pub(crate) fn remove(&mut self) {
        self.gone = true;
        self.written = None;
        if let Some(place) = &self.place {
            let _ = std::fs::remove_dir_all(&place.dir);
        }
    }
}

impl Place {
    /// Makes a folder that the program's user can read and not change.
    fn make(&self, dir: &Path) -> io::Result<()> {
        let mode = if self.owner.is_some() { 0o755 } else { 0o700 };
        match DirBuilder::new().mode(mode).create(dir) {
            Ok(()) if self.owner.is_some() => std::fs::set_permissions(dir, Permissions::from_mode(mode)),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }
}

fn replace_link(dir: &Path, name: &str, to: &str) -> io::Result<()> {
    match symlink(to, dir.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let new = dir.join("..new");
    let _ = std::fs::remove_file(&new);
    symlink(to, &new)?;
    std::fs::rename(new, dir.join(name))
}

fn read(dir: &Path) -> Option<Svid> {
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let About { spiffe, issued, expires } = wire::unseal("identity", &std::fs::read(dir.join("about")).ok()?)?;
    Svid::of(spiffe, text("cert.pem")?, Secret(text("key.pem")?), text("bundle.pem")?, issued, expires)
}

#[cfg(test)]
mod tests {
    use byname_api::span::Timestamp;

    use super::*;

    fn svid(n: u8) -> Arc<Svid> {
        let pem = |label: &str| format!("-----BEGIN {label}-----\nAQI{}\n-----END {label}-----\n", (b'A' + n) as char);
        let (cert, key) = (pem("CERTIFICATE"), Secret(pem("PRIVATE KEY")));
        Arc::new(Svid::of("spiffe://d/a".into(), cert.clone(), key, cert, Timestamp(1), Timestamp(2)).unwrap())
    }

    #[test]
    fn a_reader_that_goes_through_one_link_never_sees_two_generations() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { dir: dir.path().join("identity"), owner: None };
        let mut files = Files::default();
        files.place(place.clone());
        files.write(&svid(0)).unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let reader = std::thread::spawn({
            let (dir, stop) = (place.dir.clone(), stop.clone());
            move || {
                let mut seen = 0u32;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let data = dir.join(std::fs::read_link(dir.join(DATA)).unwrap());
                    let read = |name| std::fs::read_to_string(data.join(name));
                    // Two generations may pass between the link and the file; then it is not there at all.
                    let (Ok(cert), Ok(key)) = (read("cert.pem"), read("key.pem")) else { continue };
                    assert_eq!(cert.lines().nth(1), key.lines().nth(1));
                    seen += 1;
                }
                seen
            }
        });
        for n in 0..200 {
            files.write(&svid(n % 20)).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
        assert_eq!(std::fs::read_dir(&place.dir).unwrap().count(), 3 + 1 + 2, "links, and two generations");
        assert_eq!(std::fs::metadata(place.dir.join("key.pem")).unwrap().permissions().mode() & 0o777, 0o600);

        let last = files.written.clone().unwrap();
        let (mut again, found) = Files::open(place.clone());
        assert_eq!(found.as_deref(), Some(&*last));
        again.write(&svid(5)).unwrap();
        assert_eq!(Files::open(place.clone()).1.as_deref(), Some(&*svid(5)));
        again.remove();
        again.write(&svid(6)).unwrap();
        assert!(!place.dir.exists());
    }
}
