//! Certificates and tokens for those who have proved who they are.

use std::sync::Arc;
use std::time::Duration;

use byname_api::caller::{Caller, Right, Standing};
use byname_api::error::{Code, Error, Result};
use byname_api::identity::{CertifyReply, CertifyRequest, Secret};
use byname_api::object::{InstanceId, Kind, ObjectId};
use byname_api::request::Context;
use byname_api::span::Timestamp;
use byname_identity::authority::{SigningRequest, Subject, Usage};
use byname_name::{Name, spiffe};

use crate::{Inner, start};

/// How long certificates hold: an instance's, a person's, a host's, a server's.
pub(crate) const INSTANCE: Duration = Duration::from_secs(3_600);
const PERSON: Duration = Duration::from_secs(24 * 3_600);
pub(crate) const COMPUTER: Duration = Duration::from_secs(7 * 24 * 3_600);
pub(crate) const SERVER: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The shortest that is worth it.
const SHORTEST: Duration = Duration::from_secs(10);
/// How long a token for an audience holds.
const TOKEN: Duration = Duration::from_secs(300);
/// Audiences of one token.
const AUDIENCES: usize = 16;

impl Inner {
    pub(crate) fn certify(self: &Arc<Self>, cx: &Context, request: &CertifyRequest) -> Result<CertifyReply> {
        let caller = &cx.caller;
        let (name, id, instance) = match (&request.principal, request.instance) {
            (None, Some(instance)) => self.certifiable_instance(caller, instance)?,
            (Some(principal), None) => {
                if caller.name.as_ref() != Some(principal) {
                    self.authorise(caller, Right::Admin, principal)?;
                }
                let node = self.principal(principal)?;
                (node.name.clone(), node.id, None)
            }
            (None, None) => match (&caller.name, caller.id) {
                (Some(name), Some(id)) => (name.clone(), id, caller.instance),
                _ => {
                    return Err(Error::new(
                        Code::InvalidArgument,
                        format!(
                            "`{}` is no principal of the tree: say whose certificate with --name",
                            caller.principal
                        ),
                    )
                    .field("principal"));
                }
            },
            (Some(_), Some(_)) => return Err(Error::invalid("instance", "an instance or a principal, not both")),
        };
        let node = self.view.load().by_id(id);
        let disabled = node.as_ref().is_some_and(|node| node.spec.disabled == Some(true));
        if disabled {
            let error = Error::new(Code::Denied, format!("`{name}` is disabled"));
            self.note_refusal(caller, "certify", Some(&name), &error);
            return Err(error);
        }
        let longest = match (instance, node.as_ref().map(|node| node.kind())) {
            (Some(_), _) => INSTANCE,
            (None, Some(Kind::Computer)) => COMPUTER,
            _ => PERSON,
        };
        let validity = request.validity.map_or(longest, |asked| asked.duration());
        if validity < SHORTEST || validity > longest {
            let most = byname_api::span::Span::from_millis(longest.as_millis() as u64);
            return Err(Error::invalid("validity", format!("from 10s to {most} for this principal")));
        }
        if request.audience.is_empty() {
            return self.certificate_of(&name, Some(id), instance, &request.request, validity);
        }
        self.token_for(&name, id, &request.audience)
    }

    /// An instance's certificate is for itself, for the agent of its host, and for its admins.
    fn certifiable_instance(
        &self,
        caller: &Caller,
        instance: InstanceId,
    ) -> Result<(Name, ObjectId, Option<InstanceId>)> {
        let tree = self.view.load();
        let node = tree.by_instance(instance);
        let found = node.as_ref().and_then(|node| Some((node, node.service.as_deref()?.instance(instance)?)));
        let refusal = || {
            let error = Error::new(Code::Denied, format!("`{}` may not act for instance {instance}", caller.principal));
            self.note_refusal(caller, "certify", None, &error);
            error
        };
        let Some((node, copy)) = found else {
            return Err(match caller.standing {
                Standing::Full => Error::new(Code::NotFound, format!("there is no instance {instance} now")),
                _ => refusal(),
            });
        };
        let host = copy.computer.is_some() && copy.computer == caller.name;
        let may = caller.standing == Standing::Full
            || caller.instance == Some(instance)
            || host
            || self.authorise_in(&tree, caller, Right::Admin, &node.name).is_ok();
        if !may || copy.revoked {
            return Err(refusal());
        }
        Ok((node.name.clone(), node.id, Some(instance)))
    }

    /// Signs one.
    pub(crate) fn certificate_of(
        &self,
        name: &Name,
        id: Option<ObjectId>,
        instance: Option<InstanceId>,
        request: &str,
        validity: Duration,
    ) -> Result<CertifyReply> {
        let identity = self.own_identity()?;
        let authority = identity.authority.load();
        let request = SigningRequest::parse(request.as_bytes()).map_err(|error| error.field("request"))?;
        let subject =
            Subject { name: name.clone(), id, instance, dns: Vec::new(), addresses: Vec::new(), usage: Usage::Both };
        let certificate = authority.certify(&request, &subject, validity, start::now())?;
        metrics::counter!("byname_certificates_total").increment(1);
        Ok(CertifyReply {
            chain: certificate.chain_pem,
            bundle: authority.bundle_pem(),
            spiffe: spiffe_id(name, &identity.domain)?,
            expires: certificate.not_after,
            token: None,
        })
    }

    /// A token instead of a certificate (JWT-SVID).
    fn token_for(&self, name: &Name, id: ObjectId, audience: &[String]) -> Result<CertifyReply> {
        if audience.len() > AUDIENCES || audience.iter().any(|a| a.is_empty() || a.len() > 255) {
            return Err(Error::invalid("audience", "1 to 16 audiences of 1 to 255 bytes"));
        }
        let identity = self.own_identity()?;
        let authority = identity.authority.load();
        let spiffe = spiffe_id(name, &identity.domain)?;
        let now = start::now();
        let token = authority.jwt_key().sign(&identity.domain, name, Some(id), audience, TOKEN, now)?;
        let expires = Timestamp(now.0 + TOKEN.as_millis() as u64);
        Ok(CertifyReply {
            chain: String::new(),
            bundle: authority.bundle_pem(),
            spiffe,
            expires,
            token: Some(Secret(token)),
        })
    }
}

fn spiffe_id(name: &Name, domain: &str) -> Result<String> {
    spiffe::to_id(name, domain)
        .map_err(|why| Error::new(Code::Unsupported, format!("`{name}` has no SPIFFE form: {why}")).field("principal"))
}
