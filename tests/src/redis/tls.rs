//! Who signs the certificates of servers behind TLS.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use redis::{Client, ConnectionInfo, RedisResult, TlsCertificates};
use tempfile::TempDir;

/// A certificate authority, and the folder of all that it signed.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// What a server shows to its clients, and whom it trusts itself: files in the folder of the authority.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    /// The only host that it is of.
    pub host: String,
    chain: PathBuf,
    key: PathBuf,
    roots: PathBuf,
}

impl Authority {
    /// One that nobody trusts yet.
    ///
    /// # Panics
    /// If there is no randomness or no temporary folder.
    #[must_use]
    pub fn new() -> Self {
        let mut params = params_of(Vec::new(), "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let authority = Self { issuer, folder: tempfile::tempdir().expect("a temporary folder") };
        fs::write(authority.roots(), authority.issuer.pem()).expect("a temporary folder can be written");
        authority
    }

    /// The file with its own certificate: who is given that, as `store.ca`, trusts it.
    #[must_use]
    pub fn roots(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate of this host, a name or an address.
    pub(super) fn certificate(&self, host: &str) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let signed = params_of(vec![host.to_owned()], host).signed_by(&key, &self.issuer).expect("a certificate");
        let file = |ending: &str, text: String| {
            let path = self.folder.path().join(format!("{host}.{ending}"));
            fs::write(&path, text).expect("a temporary folder can be written");
            path
        };
        Certificate {
            host: host.to_owned(),
            chain: file("pem", signed.pem()),
            key: file("key", key.serialize_pem()),
            roots: self.roots(),
        }
    }
}

/// A certificate for these hosts. Named apart from others: servers take one that is called as who signed it for its own signer.
fn params_of(hosts: Vec<String>, name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(hosts).expect("names or addresses");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificate {
    /// The settings of a server that takes connections on this port over TLS alone, and makes none without it: neither to its
    /// master or replicas, nor to the others of its cluster or to those whom it watches. It asks nobody else for a certificate.
    pub(super) fn settings(&self, port: u16) -> String {
        let files = [("cert-file", &self.chain), ("key-file", &self.key), ("ca-cert-file", &self.roots)];
        let files = files.map(|(name, path): (_, &PathBuf)| format!("tls-{name} \"{}\"\n", path.display())).concat();
        let kinds = "tls-auth-clients no\ntls-replication yes\ntls-cluster yes\n";
        format!("port 0\ntls-port {port}\n{files}{kinds}")
    }

    /// A client that trusts who signed it, and nobody else.
    pub(super) fn client(&self, server: ConnectionInfo) -> RedisResult<Client> {
        let roots = fs::read(&self.roots)?;
        Client::build_with_tls(server, TlsCertificates { client_tls: None, root_cert: Some(roots) })
    }
}
