//! TLS to a server: whom to believe, and what to show.
#![cfg_attr(not(test), expect(dead_code, reason = "the clerk does not take connections of others yet"))]

use std::io;

use byname_api::{Code, Error, Result};
use byname_identity::authority::Roots;
use byname_identity::tls::{ClientStream, Connector, Identity, Trust};
use tokio::net::TcpStream;

use crate::reach::Target;

/// The most bytes of a file with certificates or a key.
const MAX_BYTES: usize = 1 << 20;

/// Makes connections to the servers of a trust domain.
pub(crate) struct Dialer(Connector);

impl Dialer {
    /// One that believes the target's roots and shows its certificate.
    ///
    /// # Errors
    ///
    /// `invalid-argument` with the file that cannot be used, or when no roots are known.
    pub(crate) fn to(target: &Target) -> Result<Dialer> {
        let Some(ca) = &target.ca else {
            let message = "the root certificates of this server's trust domain are not known: --ca FILE (BYNAME_CA) says \
                           where they are, and `byname cert get` on a host that knows them writes bundle.pem";
            return Err(Error::new(Code::InvalidArgument, message).field("ca"));
        };
        let roots = Roots::from_pem(&crate::prompt::whole(ca, MAX_BYTES, "ca")?).map_err(|e| e.within(ca.display()))?;
        let identity = target.identity.as_ref().map(|own| {
            let chain_pem = crate::prompt::whole(&own.chain, MAX_BYTES, "cert")?;
            let key_pem = crate::prompt::whole(&own.key, MAX_BYTES, "key")?;
            Ok::<_, Error>(Identity { chain_pem, key_pem })
        });
        Ok(Dialer(Connector::new(Trust::Bundle(roots), identity.transpose()?.as_ref())?))
    }

    /// A connection whose other end is a name server of the trust domain. `host` has no brackets.
    ///
    /// # Errors
    ///
    /// Nobody answers there, or it is somebody else; [`byname_identity::tls::reason`] has the sentence.
    pub(crate) async fn dial(&self, host: &str, port: u16) -> io::Result<ClientStream<TcpStream>> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        self.0.connect(stream, host).await
    }
}

#[cfg(test)]
mod tests {
    use byname_identity::authority::{Authority, new_key};

    use super::*;
    use crate::reach;

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let authority = Authority::create("corp.example", crate::commands::clock()).unwrap();
        let ca = file("ca.pem", &authority.root_pem());
        let wrong = |target: &Target| Dialer::to(target).err().map(|e| e.at_field().unwrap_or_default().to_owned());
        assert_eq!(wrong(&Target::default()).as_deref(), Some("ca"));
        let target = Target { ca: Some(ca), ..Target::default() };
        assert_eq!(wrong(&target), None);
        let chain = file("cert.pem", &authority.issuing_pem());
        let key = dir.path().join("key.pem");
        let target = Target { identity: Some(reach::Identity { chain, key }), ..target };
        assert_eq!(wrong(&target).as_deref(), Some("key"));
        file("key.pem", &new_key().unwrap().key_pem);
        assert_eq!(wrong(&target).as_deref(), Some("key"), "the key of another");
        file("ca.pem", "nonsense");
        assert!(wrong(&target).is_some());
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_of_the_connection() {
        let authority = Authority::create("corp.example", crate::commands::clock()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, authority.root_pem()).unwrap();
        let dialer = Dialer::to(&Target { ca: Some(ca), ..Target::default() }).unwrap();
        // A listener that was closed: nobody else is given its port so soon.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = dialer.dial("127.0.0.1", port).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
