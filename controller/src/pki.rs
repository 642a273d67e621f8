//! The installation's own certificate authority, the server's certificate, and the nodes' certificates.
//!
//! [`Authority`] is the CA as it lies in `<data-dir>/pki`; [`Pki`] adds the server's certificate and the TLS
//! configurations of the ports, which it swaps when the certificate is renewed. Time comes in as a parameter.
//! It never decides who may have a certificate (tokens and the agents' port do), and a key never leaves its file
//! but into rustls.

mod files;
pub mod seaweedfs;

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _,
};
use smart_storage_proto::tls::{self, ALPN_H2, ALPN_HTTP11, Identity, TlsError};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use self::files::{content_error, file_error, read};
use crate::listen::TlsSource;

pub use self::files::{private_dir, write_private};

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

/// The CA: its certificate, and the key it signs with.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("hash", &self.hash())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// The CA in `<data_dir>/pki`: loaded, or made where there is none. Two processes may do so at once.
    ///
    /// # Errors
    /// [`PkiError`] naming the file.
    pub fn open(data_dir: &Path, now: SystemTime) -> Result<Self, PkiError> {
        let dir = data_dir.join("pki");
        private_dir(&dir)?;
        let lock_path = dir.join(".lock");
        let lock = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|e| file_error(&lock_path, e))?;
        lock.lock().map_err(|e| file_error(&lock_path, e))?;
        files::sweep(&dir);
        files::sweep(&data_dir.join("join-tokens"));
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        match (certificate.exists(), key.exists()) {
            (true, true) => {}
            (false, false) => Self::make(&certificate, &key, now)?,
            // The key is written first: alone it signed nothing yet.
            (false, true) => Self::make(&certificate, &key, now)?,
            (true, false) => return Err(PkiError::HalfAuthority(key)),
        }
        Self::load(&certificate, &key)
    }

    fn make(certificate: &Path, key: &Path, now: SystemTime) -> Result<(), PkiError> {
        let pair = KeyPair::generate().map_err(PkiError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("smart-storage CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        valid(&mut params, now, CA_LIFE);
        let made = params.self_signed(&pair).map_err(PkiError::Make)?;
        write_private(key, pair.serialize_pem().as_bytes())?;
        crate::fault::point("ca-key-written");
        write_private(certificate, made.pem().as_bytes())?;
        crate::fault::point("ca-written");
        Ok(())
    }

    fn load(certificate_path: &Path, key_path: &Path) -> Result<Self, PkiError> {
        let pem = read(certificate_path)?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| content_error(certificate_path, &e))?;
        let key = KeyPair::from_pem(&read(key_path)?).map_err(|e| content_error(key_path, &e))?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|e| content_error(certificate_path, &e))?;
        if parsed.public_key().subject_public_key.data.as_ref() != rcgen::PublicKeyData::der_bytes(&key) {
            return Err(content_error(key_path, &"is not the key of ca.crt"));
        }
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|e| content_error(certificate_path, &e))?;
        Ok(Self {
            certificate,
            pem,
            issuer,
        })
    }

    /// The CA's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA's certificate as PEM, as it lies in `ca.crt`.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the certificate (DER), lower-case hex: what a join token pins.
    #[must_use]
    pub fn hash(&self) -> String {
        sha256_hex(&self.certificate)
    }

    /// Signs a node's certificate: client authentication only, [`NODE_LIFE`], named `node` whatever the request says.
    ///
    /// # Errors
    /// [`PkiError::Request`] where the request is broken or not signed by its own key.
    pub fn sign_node(
        &self,
        node: &str,
        request: &[u8],
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(PkiError::Request)?;
        let mut params = CertificateParams::default();
        // X.520 ends common names at 64 characters; the URI is what counts.
        params.distinguished_name = name(&node.chars().take(64).collect::<String>());
        let uri = format!("{NODE_URI}{node}")
            .as_str()
            .try_into()
            .map_err(PkiError::Make)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        valid(&mut params, now, NODE_LIFE);
        let made = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(PkiError::Make)?;
        Ok(made.into())
    }

    fn make_server(
        &self,
        names: &[SanType],
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, KeyPair), PkiError> {
        let pair = KeyPair::generate().map_err(PkiError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("smart-storage controller");
        params.subject_alt_names = names.to_vec();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        valid(&mut params, now, SERVER_LIFE);
        let made = params.signed_by(&pair, &self.issuer).map_err(PkiError::Make)?;
        Ok((made.into(), pair))
    }
}

/// CA, server certificate and the ports' TLS configurations.
pub struct Pki {
    authority: Arc<Authority>,
    dir: PathBuf,
    names: Vec<SanType>,
    identity: ArcSwap<Identity>,
    public: TlsSource,
    enrolment: TlsSource,
    agents: TlsSource,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki")
            .field("dir", &self.dir)
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
        let authority = Arc::new(Authority::open(data_dir, now)?);
        let dir = data_dir.join("pki");
        let names = server_names(extra_names)?;
        let identity = match load_server(&dir, &authority)? {
            Some(identity) if server_is_good(&identity, &names, now) => identity,
            _ => new_server(&dir, &authority, &names, now)?,
        };
        let [public, enrolment, agents] = configurations(&authority, &identity)?;
        Ok(Self {
            authority,
            dir,
            names,
            identity: ArcSwap::from_pointee(identity),
            public: Arc::new(ArcSwap::from(public)),
            enrolment: Arc::new(ArcSwap::from(enrolment)),
            agents: Arc::new(ArcSwap::from(agents)),
        })
    }

    /// The CA.
    #[must_use]
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
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

    /// TLS 1.3 of the agents' port: HTTP/2, a client certificate of our CA always.
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
        if server_is_good(&self.identity.load(), &self.names, now) {
            return Ok(false);
        }
        let identity = new_server(&self.dir, &self.authority, &self.names, now)?;
        let [public, enrolment, agents] = configurations(&self.authority, &identity)?;
        self.identity.store(Arc::new(identity));
        self.public.store(public);
        self.enrolment.store(enrolment);
        self.agents.store(agents);
        Ok(true)
    }

    /// Looks every hour whether the server's certificate is to be renewed, until `shutdown`.
    pub async fn keep_fresh(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(3600)) => {}
            }
            match self.renew_server(SystemTime::now()) {
                Ok(true) => info!("server certificate renewed"),
                Ok(false) => {}
                Err(error) => warn!(error = %error, "server certificate not renewed"),
            }
        }
    }
}

fn configurations(
    authority: &Authority,
    identity: &Identity,
) -> Result<[Arc<rustls::ServerConfig>; 3], PkiError> {
    let ca = [authority.certificate.clone()];
    Ok([
        Arc::new(tls::server(identity, &[ALPN_H2, ALPN_HTTP11])?),
        Arc::new(tls::server(identity, &[ALPN_H2])?),
        Arc::new(tls::mutual_server(identity, &ca)?),
    ])
}

fn new_server(
    dir: &Path,
    authority: &Authority,
    names: &[SanType],
    now: SystemTime,
) -> Result<Identity, PkiError> {
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
        // The CA goes along: an agent that holds only its hash looks for it in the chain.
        chain: vec![leaf, authority.certificate.clone()],
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
        X509Certificate::from_der(&authority.certificate),
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

/// SHA-256, lower-case hex.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests;
