//! The installation's own certificate authority, the server's certificate, and the nodes' certificates.
//!
//! [`Authority`] is the CA as it lies in `<data-dir>/pki`; [`Pki`] adds the server's certificate and the TLS
//! configurations of the ports, which it swaps when the certificate is renewed or the CA is another one
//! ([`rotation`]); connections that are open stay. Time comes in as a parameter. It never decides who may have a
//! certificate (tokens and the agents' port do), and a key never leaves its file but into rustls.

mod authority;
mod files;
mod holders;
pub mod rotation;
pub mod seaweedfs;

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SerialNumber};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use smart_storage_proto::tls::{self, ALPN_H2, ALPN_HTTP11, Identity, TlsError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use self::files::read;
use crate::listen::TlsSource;

pub use self::{
    authority::Authority,
    files::{private_dir, write_private},
};

/// Life of the CA.
pub const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Life of the server's certificate; it is renewed when a third is left.
pub const SERVER_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Life of a node's certificate; agents renew at half of it.
pub const NODE_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Certificates begin this much in the past, for clocks that differ a little.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// What a node's certificate calls its node, before the name.
pub const NODE_URI: &str = "spiffe://smart-storage/node/";
/// What a node's certificate calls the join token that it goes back to, before the token's id.
pub const TOKEN_URI: &str = "spiffe://smart-storage/token/";
/// How often a running controller looks whether the CA was rotated.
const LOOK: Duration = Duration::from_secs(2);
/// How often the server's certificate is looked at, in looks.
const RENEWAL_LOOKS: u32 = 1800;

/// What went wrong with certificates or their files.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or folder of the PKI cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is there, and is not what its name says.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which one.
        path: PathBuf,
        /// What was found wrong.
        reason: String,
    },
    /// Half of the CA is missing: making another one would lock out every enrolled agent.
    #[error("{}: the other half of the CA is there and this file is not; restore it, or remove both", .0.display())]
    HalfAuthority(PathBuf),
    /// A certificate could not be made.
    #[error("certificate not made: {0}")]
    Make(#[source] rcgen::Error),
    /// A signing request is broken, or its sender does not hold the key.
    #[error("signing request refused: {0}")]
    Request(#[source] rcgen::Error),
    /// rustls refuses the material.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The machine gave no randomness.
    #[error("no randomness")]
    Randomness,
}

/// CA, server certificate and the ports' TLS configurations.
pub struct Pki {
    data_dir: PathBuf,
    names: Vec<SanType>,
    authority: ArcSwap<Authority>,
    identity: ArcSwap<Identity>,
    public: TlsSource,
    enrolment: TlsSource,
    agents: TlsSource,
    trust: watch::Sender<Vec<Vec<u8>>>,
    /// One change of certificates at a time.
    changing: Mutex<()>,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki")
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl Pki {
    /// Loads or makes everything in `<data_dir>/pki`. The server's certificate is for `localhost`, `127.0.0.1`,
    /// `::1`, the machine's host name and `extra_names` (DNS names or addresses).
    ///
    /// # Errors
    /// [`PkiError`] naming the file.
    pub fn open(data_dir: &Path, extra_names: &[String], now: SystemTime) -> Result<Self, PkiError> {
        let authority = Authority::open(data_dir, now)?;
        let names = server_names(extra_names)?;
        let identity = server_identity(data_dir, &authority, &names, now)?;
        let [public, enrolment, agents] = configurations(&authority, &identity)?;
        let (trust, _) = watch::channel(authority.hashes());
        Ok(Self {
            data_dir: data_dir.to_owned(),
            names,
            authority: ArcSwap::from_pointee(authority),
            identity: ArcSwap::from_pointee(identity),
            public: Arc::new(ArcSwap::from(public)),
            enrolment: Arc::new(ArcSwap::from(enrolment)),
            agents: Arc::new(ArcSwap::from(agents)),
            trust,
            changing: Mutex::new(()),
        })
    }

    /// The CA as it is now.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// The controller's data folder.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// SHA-256 of each trusted CA certificate (DER), the one that signs first; changes when the CA rotates.
    #[must_use]
    pub fn trust(&self) -> watch::Receiver<Vec<Vec<u8>>> {
        self.trust.subscribe()
    }

    /// TLS of the public ports (REST, gRPC, kube API): HTTP/2 and HTTP/1.1, no client certificate asked for.
    #[must_use]
    pub fn public(&self) -> TlsSource {
        Arc::clone(&self.public)
    }

    /// TLS of the enrolment port: HTTP/2, no client certificate.
    #[must_use]
    pub fn enrolment(&self) -> TlsSource {
        Arc::clone(&self.enrolment)
    }

    /// TLS 1.3 of the agents' port: HTTP/2, a client certificate of a trusted CA always.
    #[must_use]
    pub fn agents(&self) -> TlsSource {
        Arc::clone(&self.agents)
    }

    /// The server's certificate and key as they are now.
    #[must_use]
    pub fn server(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// Makes a new server certificate where less than a third of its life is left, and swaps it into all ports.
    /// Says whether it did.
    ///
    /// # Errors
    /// [`PkiError`]; the old certificate stays in use.
    pub fn renew_server(&self, now: SystemTime) -> Result<bool, PkiError> {
        let _one = self.changing.lock();
        if server_is_good(&self.identity.load(), &self.names, now) {
            return Ok(false);
        }
        let authority = self.authority.load();
        let identity = new_server(&self.data_dir, &authority, &self.names, now)?;
        self.show(configurations(&authority, &identity)?, identity);
        Ok(true)
    }

    /// Takes the CA over where its files say another one than before. Says whether they did.
    ///
    /// # Errors
    /// [`PkiError`]; everything stays as it was.
    pub fn look(&self, now: SystemTime) -> Result<bool, PkiError> {
        let _one = self.changing.lock();
        let path = self.data_dir.join("pki/ca.crt");
        if read(&path)? == self.authority.load().pem() {
            return Ok(false);
        }
        let authority = Authority::open(&self.data_dir, now)?;
        let identity = server_identity(&self.data_dir, &authority, &self.names, now)?;
        let ports = configurations(&authority, &identity)?;
        info!(signs = %authority.hash(), trusted = authority.trusted().len(), "the CA is another one");
        let hashes = authority.hashes();
        self.authority.store(Arc::new(authority));
        self.show(ports, identity);
        // Agents are told when both sides are ready for what they will show.
        self.trust.send_replace(hashes);
        Ok(true)
    }

    fn show(&self, [public, enrolment, agents]: [Arc<rustls::ServerConfig>; 3], identity: Identity) {
        self.identity.store(Arc::new(identity));
        self.public.store(public);
        self.enrolment.store(enrolment);
        self.agents.store(agents);
    }

    /// The CA to sign with: one that goes signs nothing any more, however short ago it was rotated.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn signing(&self, now: SystemTime) -> Result<Arc<Authority>, PkiError> {
        self.look(now)?;
        Ok(self.authority())
    }

    /// Remembers that `node` has this certificate.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn holds(&self, node: &str, leaf: &CertificateDer<'_>) -> Result<(), PkiError> {
        let authority = self.authority();
        let (Some(signer), Some(not_after)) = (authority.signer(leaf), not_after(leaf)) else {
            return Ok(());
        };
        holders::note(&self.data_dir, node, &signer, not_after)
    }

    /// Remembers that `node` says it has stored a certificate of the CA with this hash.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn holds_of(&self, node: &str, signer: &[u8], not_after: u64) -> Result<(), PkiError> {
        let not_after = i64::try_from(not_after).unwrap_or(i64::MAX);
        holders::note(&self.data_dir, node, &hex(signer), not_after)
    }

    /// Looks all the time whether the CA was rotated, and every hour whether the server's certificate is to be
    /// renewed, until `shutdown`.
    pub async fn keep_fresh(self: Arc<Self>, shutdown: CancellationToken) {
        let mut failed = String::new();
        for looked in 1_u32.. {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = SystemTime::now();
            let done = self.look(now).and_then(|_| {
                if looked.is_multiple_of(RENEWAL_LOOKS) && self.renew_server(now)? {
                    info!("server certificate renewed");
                }
                Ok(())
            });
            let words = done.map_or_else(|error| error.to_string(), |()| String::new());
            // Once, not at every look.
            if !words.is_empty() && words != failed {
                warn!(error = %words, "certificates stay as they are");
            }
            failed = words;
        }
    }
}

fn configurations(
    authority: &Authority,
    identity: &Identity,
) -> Result<[Arc<rustls::ServerConfig>; 3], PkiError> {
    Ok([
        Arc::new(tls::server(identity, &[ALPN_H2, ALPN_HTTP11])?),
        Arc::new(tls::server(identity, &[ALPN_H2])?),
        Arc::new(tls::mutual_server(identity, authority.trusted())?),
    ])
}

fn server_identity(
    data_dir: &Path,
    authority: &Authority,
    names: &[SanType],
    now: SystemTime,
) -> Result<Identity, PkiError> {
    match load_server(&data_dir.join("pki"), authority)? {
        Some(identity) if server_is_good(&identity, names, now) => Ok(identity),
        _ => new_server(data_dir, authority, names, now),
    }
}

fn new_server(
    data_dir: &Path,
    authority: &Authority,
    names: &[SanType],
    now: SystemTime,
) -> Result<Identity, PkiError> {
    let dir = data_dir.join("pki");
    let (certificate, pair) = authority.make_server(names, now)?;
    write_private(&dir.join("server.key"), pair.serialize_pem().as_bytes())?;
    crate::fault::point("server-key-written");
    write_private(
        &dir.join("server.crt"),
        tls::certificate_pem(&certificate).as_bytes(),
    )?;
    crate::fault::point("server-written");
    Ok(identity(authority, certificate, pair.serialize_der()))
}

fn identity(authority: &Authority, leaf: CertificateDer<'static>, pkcs8: Vec<u8>) -> Identity {
    Identity {
        // The CAs go along: an agent that holds only a hash looks for it in the chain.
        chain: authority.chain(leaf),
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8)),
    }
}

/// `None`: there is no usable server certificate of this CA; it is made anew, nothing hangs on the old one.
fn load_server(dir: &Path, authority: &Authority) -> Result<Option<Identity>, PkiError> {
    let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
    if !certificate.exists() || !key.exists() {
        return Ok(None);
    }
    let (certificate, key) = (read(&certificate)?, read(&key)?);
    let (Ok(leaf), Ok(pair)) = (
        CertificateDer::from_pem_slice(certificate.as_bytes()),
        KeyPair::from_pem(&key),
    ) else {
        return Ok(None);
    };
    let (Ok((_, leaf_parsed)), Ok((_, ca))) = (
        X509Certificate::from_der(&leaf),
        X509Certificate::from_der(authority.certificate()),
    ) else {
        return Ok(None);
    };
    let ours = leaf_parsed.verify_signature(Some(ca.public_key())).is_ok()
        && leaf_parsed.public_key().subject_public_key.data.as_ref()
            == rcgen::PublicKeyData::der_bytes(&pair);
    Ok(ours.then(|| identity(authority, leaf.clone(), pair.serialize_der())))
}

fn server_is_good(identity: &Identity, names: &[SanType], now: SystemTime) -> bool {
    let Some(leaf) = identity.chain.first() else {
        return false;
    };
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else {
        return false;
    };
    let now = unix(now);
    let left = leaf.validity().not_after.timestamp() - now;
    let third = i64::try_from(SERVER_LIFE.as_secs() / 3).unwrap_or(i64::MAX);
    leaf.validity().not_before.timestamp() <= now && left > third && has_names(&leaf, names)
}

fn has_names(leaf: &X509Certificate<'_>, names: &[SanType]) -> bool {
    let Ok(Some(found)) = leaf.subject_alternative_name() else {
        return names.is_empty();
    };
    names.iter().all(|name| {
        found.value.general_names.iter().any(|have| match (name, have) {
            (SanType::DnsName(a), GeneralName::DNSName(b)) => a.as_str() == *b,
            (SanType::IpAddress(IpAddr::V4(a)), GeneralName::IPAddress(b)) => a.octets().as_slice() == *b,
            (SanType::IpAddress(IpAddr::V6(a)), GeneralName::IPAddress(b)) => a.octets().as_slice() == *b,
            _ => false,
        })
    })
}

fn server_names(extra: &[String]) -> Result<Vec<SanType>, PkiError> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if let Ok(host) = fs::read_to_string("/proc/sys/kernel/hostname") {
        // A host name that is no DNS name (underscores are common) is left out; an asked-for one is an error.
        let host = host.trim().to_owned();
        if !host.is_empty() && rcgen::string::Ia5String::try_from(host.as_str()).is_ok() {
            names.push(host);
        }
    }
    names.extend(extra.iter().cloned());
    names.sort_unstable();
    names.dedup();
    names.iter().map(|name| san(name)).collect()
}

fn san(name: &str) -> Result<SanType, PkiError> {
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.try_into().map_err(PkiError::Make)?)),
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn valid(params: &mut CertificateParams, now: SystemTime, life: Duration) {
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life).into();
}

fn serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| PkiError::Randomness)?;
    // Positive, and never beginning with a zero byte.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn unix(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_secs()).ok())
        .unwrap_or(0)
}

/// End of a certificate's life, seconds of Unix time.
#[must_use]
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// SHA-256, lower-case hex.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests;
