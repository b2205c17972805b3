//! Secrets: sealed before they come near the log, opened only for the program that is started with them.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use byname_api::error::{Code, Error, Result};
use byname_api::identity::Secret;
use byname_api::launch::EnvValue;
use byname_api::object::{Kind, MAX_SECRET_BYTES, Spec};
use byname_api::request::Op;
use byname_name::{Name, NameKey};
use byname_registry::{Node as Object, Tree};

use crate::Inner;

const SEALED: &str = "secret";
const FINGERPRINT: &str = "secret fingerprint";

impl Inner {
    /// Replaces the values of secrets in these changes by what may be in the log: `FINGERPRINT.SEALED`. A value that is
    /// there already stays as it is, so that declaring it again changes nothing.
    pub(crate) fn seal_secrets(&self, tree: &Tree, ops: &mut [Op]) -> Result<()> {
        let mut made: HashMap<NameKey, Kind> = HashMap::new();
        for op in ops {
            let (name, spec) = match op {
                Op::Add { name, spec } | Op::Declare { name, spec } => (&*name, spec),
                Op::Put { name, spec, .. } | Op::Modify { name, spec, .. } => (&*name, spec),
                Op::Delete { .. } | Op::Check { .. } => continue,
            };
            let key = name.key();
            let there = || tree.follow(name, true, None).ok().and_then(|end| tree.get(&end)).map(|node| node.kind());
            let kind = spec.kind.or_else(|| made.get(&key).copied()).or_else(there);
            if let Some(kind) = spec.kind {
                made.insert(key, kind);
            }
            if kind == Some(Kind::Secret) {
                self.seal_value(tree, name, spec)?;
            }
        }
        Ok(())
    }

    fn seal_value(&self, tree: &Tree, name: &Name, spec: &mut Spec) -> Result<()> {
        spec.fingerprint = None;
        let Some(value) = spec.value.take() else { return Ok(()) };
        if value.len() > MAX_SECRET_BYTES {
            return Err(Error::new(Code::TooLarge, "a secret is 64 KiB at most").field("value"));
        }
        let identity = self.own_identity()?;
        let mac = identity.key.mac(FINGERPRINT, value.as_bytes())?;
        let fingerprint = hex::encode(mac.get(..8).unwrap_or_default());
        let old = tree.get(name).filter(|node| node.spec.fingerprint.as_deref() == Some(fingerprint.as_str()));
        let same = old.and_then(|node| tree.secret(node.id));
        spec.value = Some(match same {
            Some(sealed) => sealed.to_string(),
            None => {
                let sealed = identity.key.seal(SEALED, value.as_bytes())?;
                format!("{fingerprint}.{}", STANDARD_NO_PAD.encode(sealed))
            }
        });
        Ok(())
    }

    fn open_secret(&self, tree: &Tree, node: &Object) -> Result<String> {
        let identity = self.own_identity()?;
        let text = tree.secret(node.id);
        let sealed = text.as_deref().and_then(|text| text.split_once('.')).map(|(_, sealed)| sealed);
        let sealed = sealed.and_then(|sealed| STANDARD_NO_PAD.decode(sealed).ok());
        let sealed =
            sealed.ok_or_else(|| Error::new(Code::NotFound, format!("the secret `{}` has no value", node.name)))?;
        let value = identity.key.open(SEALED, &sealed)?;
        String::from_utf8(value).map_err(|_| Error::internal("a secret is no text"))
    }

    /// The values that a service's environment names, if the service may have them.
    pub(crate) fn secrets_for(&self, tree: &Tree, service: &Object) -> Result<BTreeMap<String, Secret>> {
        let mut values = BTreeMap::new();
        let env = service.spec.launch.as_ref().and_then(|launch| launch.env.as_ref());
        for (variable, value) in env.into_iter().flatten() {
            let EnvValue::Secret { secret } = value else { continue };
            let name = Name::parse(secret)?;
            let refused = || {
                Error::new(
                    Code::Denied,
                    format!(
                        "`{}` may not have the secret `{name}`, or there is none: `byname acl grant {} read {name}`",
                        service.name, service.name
                    ),
                )
                .field(format!("launch.env.{variable}"))
            };
            let node = tree.resolve(&name).map_err(|_| refused())?.node;
            if node.kind() != Kind::Secret || !self.service_may_use(tree, service, &node) {
                return Err(refused());
            }
            values.insert(variable.clone(), Secret(self.open_secret(tree, &node)?));
        }
        Ok(values)
    }
}
