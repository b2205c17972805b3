//! A root on a machine without a network: a folder with `root.key` (mode 0600) and `root.pem`, and requests that are
//! carried to it as files.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use byname_api::error::{Code, Error, Result};
use byname_api::span::Timestamp;
use byname_name::Name;
use rcgen::Issuer;
use zeroize::Zeroizing;

use super::issuing;
use super::profile::{Scope, date, internal, leaf};
use super::{Roots, SigningRequest, Subject, key_pair, new_root, public_key_of, sign_issuing};
use crate::{pem, private_file};

const KEY: &str = "root.key";
const CERTIFICATE: &str = "root.pem";

/// A root's folder, read.
pub struct RootFiles {
    folder: PathBuf,
    domain: String,
    root_pem: String,
    root_key_pem: Zeroizing<String>,
}

/// What the root signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// An issuing authority.
    Issuing {
        /// The names that it may certify: these and what is beneath them; `/` for the whole domain.
        under: Name,
        /// Hosts outside the domain that certificates of name servers may hold too.
        hosts: Vec<String>,
    },
    /// A certificate for one name, without an authority between.
    Certificate(Subject),
}

impl RootFiles {
    /// Makes a root for a trust domain in a folder, which is made if it is missing.
    ///
    /// # Errors
    ///
    /// `already-exists` when there is a root: it is never written over. `invalid-argument` when `domain` is none.
    pub fn init(folder: &Path, domain: &str, now: Timestamp) -> Result<Self> {
        let (root_key_pem, root_pem) = new_root(domain, now)?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
            Error::new(Code::Internal, format!("the folder {} cannot be made: {error}", folder.display()))
        })?;
        if folder.join(CERTIFICATE).exists() {
            let what = format!("there is a root already: {}", folder.join(CERTIFICATE).display());
            return Err(Error::new(Code::AlreadyExists, what));
        }
        // The key first: a certificate without its key would look like a root.
        private_file::create(&folder.join(KEY), root_key_pem.as_bytes(), private_file::PRIVATE)?;
        private_file::create(&folder.join(CERTIFICATE), root_pem.as_bytes(), private_file::PUBLIC)?;
        RootFiles::open(folder)
    }

    /// Reads a root's folder.
    ///
    /// # Errors
    ///
    /// `not-found` without a root, `denied` when others may read its key, `invalid-argument` when the files are damaged
    /// or do not belong together.
    pub fn open(folder: &Path) -> Result<Self> {
        let key_path = folder.join(KEY);
        let missing = |path: &Path| Error::new(Code::NotFound, format!("there is no {}", path.display()));
        let key = private_file::read(&key_path)?.ok_or_else(|| missing(&key_path))?;
        let path = folder.join(CERTIFICATE);
        let certificate = private_file::read_public(&path)?.ok_or_else(|| missing(&path))?;
        let text = |bytes: Vec<u8>, path: &Path| {
            String::from_utf8(bytes).map_err(|_| Error::invalid("root", format!("{} is no PEM text", path.display())))
        };
        let (root_key_pem, root_pem) = (Zeroizing::new(text(key, &key_path)?), text(certificate, &path)?);
        let roots = Roots::from_pem(&root_pem).map_err(|error| error.within(path.display()))?;
        let domain = roots.domain().ok_or_else(|| {
            Error::invalid("root", format!("{} names no trust domain (a URI `spiffe://DOMAIN`)", path.display()))
        })?;
        if Some(key_pair(&root_key_pem)?.public_key_raw()) != roots.ders().next().and_then(public_key_of).as_deref() {
            let what = format!("{} is not the key of {}", key_path.display(), path.display());
            return Err(Error::invalid("root", what));
        }
        Ok(RootFiles { folder: folder.to_owned(), domain: domain.to_owned(), root_pem, root_key_pem })
    }

    /// Signs a request (PKCS#10, PEM or DER), of which only the key counts. Gives the certificate in PEM, for `validity`
    /// or until the root's own end.
    ///
    /// # Errors
    ///
    /// `invalid-argument` when it is no good request, or the name or the subtree cannot be certified; `unavailable` when
    /// the root has expired.
    pub fn sign(&self, request: &[u8], what: &Sign, validity: Duration, now: Timestamp) -> Result<String> {
        let request = SigningRequest::parse(request)?;
        match what {
            Sign::Issuing { under, hosts } => {
                let scope = Scope { under: under.clone(), hosts: hosts.clone() };
                sign_issuing(&self.domain, &self.root_pem, &self.root_key_pem, &request, &scope, validity, now)
            }
            Sign::Certificate(subject) => {
                let root_der = pem::certificates(&self.root_pem)?.swap_remove(0);
                let root_end = issuing::validity(&root_der)?.1;
                if now >= root_end {
                    let what = format!("the root of {} expired on {root_end}", self.domain);
                    return Err(Error::new(Code::Unavailable, what));
                }
                let mut params = leaf(&self.domain, subject, now, validity)?;
                params.not_after = params.not_after.min(date(root_end)?);
                let issuer = Issuer::from_ca_cert_der(&root_der, key_pair(&self.root_key_pem)?).map_err(internal)?;
                let signed = params.signed_by(request.key(), &issuer).map_err(internal)?;
                Ok(pem::encode(pem::CERTIFICATE, signed.der()))
            }
        }
    }

    /// The trust domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The root's certificate, PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The root's private key, PKCS#8 in PEM.
    pub(crate) fn root_key_pem(&self) -> &str {
        &self.root_key_pem
    }
}

impl std::fmt::Debug for RootFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootFiles").field("folder", &self.folder).field("domain", &self.domain).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::bad::{DAY, after, now, subject};
    use super::super::{Authority, Purpose, Usage, external_request, new_key, show, verify};
    use super::*;

    #[test]
    fn a_root_off_line_signs_authorities_and_certificates() {
        let now = now();
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new/root");
        RootFiles::init(&folder, "corp.example", now).unwrap();
        assert_eq!(std::fs::metadata(folder.join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(RootFiles::init(&folder, "corp.example", now).unwrap_err().code(), Code::AlreadyExists);
        let root = RootFiles::open(&folder).unwrap();

        let asked = external_request("corp.example").unwrap();
        assert_eq!(show(&asked.request_pem).unwrap()[0].subject, "CN=corp.example issuing");
        let what = Sign::Issuing { under: Name::parse("/BVODS").unwrap(), hosts: vec!["lan".into()] };
        let issuing = root.sign(asked.request_pem.as_bytes(), &what, DAY * 90, now).unwrap();
        let authority = Authority::external("corp.example", &issuing, &asked.key_pem, root.root_pem(), now).unwrap();
        assert!(authority.permits_host("node1.lan") && authority.under() == &Name::parse("/bvods").unwrap());

        let key = new_key().unwrap();
        let what = Sign::Certificate(Subject { id: None, ..subject("/people/ada", Usage::Client) });
        let leaf = root.sign(key.request_pem.as_bytes(), &what, DAY, now).unwrap();
        let peer = verify(authority.roots(), &pem::certificates(&leaf).unwrap(), Purpose::Client, now).unwrap();
        assert_eq!((peer.name.as_str(), peer.id), ("/people/ada", None));

        let late = root.sign(key.request_pem.as_bytes(), &what, DAY, after(now, DAY * 4_000)).unwrap_err();
        assert_eq!(late.code(), Code::Unavailable);
        let odd = Sign::Issuing { under: Name::parse("/v1.2").unwrap(), hosts: Vec::new() };
        let error = root.sign(key.request_pem.as_bytes(), &odd, DAY, now).unwrap_err();
        assert!(error.message().contains("needs a subtree with a DNS name"), "{error}");
        assert!(!format!("{root:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_folder_that_is_not_right_is_not_used() {
        let now = now();
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(RootFiles::open(folder.path()).unwrap_err().code(), Code::NotFound);
        RootFiles::init(folder.path(), "corp.example", now).unwrap();
        let (_, other) = new_root("corp.example", now).unwrap();
        std::fs::write(folder.path().join(CERTIFICATE), other).unwrap();
        let error = RootFiles::open(folder.path()).unwrap_err();
        assert!(error.message().contains("is not the key of"), "{error}");
        std::fs::set_permissions(folder.path().join(KEY), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(RootFiles::open(folder.path()).unwrap_err().code(), Code::Denied);
    }
}
