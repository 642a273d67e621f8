//! The CA: what it signs with, whom it trusts beside itself, and how it is read from its files.
//!
//! `ca.crt` is the one file that says which CA it is: the first certificate in it signs, all of them are trusted.
//! `ca.key` is the first one's key. Where a rotation was cut off between the two, the key is still called
//! `ca.next.key`, and loading finishes the step. `ca.cross.crt` is the first one's key signed by the CA before it,
//! for those who trust only that one.

use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    CA_LIFE, NODE_LIFE, NODE_URI, PkiError, SERVER_LIFE, TOKEN_URI,
    files::{self, content_error, file_error, private_dir, read, write_private},
    name, serial, sha256_hex, valid,
};

/// The files of the CA.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// The trusted certificates, the signing one first.
    pub(super) certificate: PathBuf,
    /// The signing one's key.
    pub(super) key: PathBuf,
    /// The key of a CA that is about to sign.
    pub(super) next_key: PathBuf,
    /// The signing one's key, signed by the CA before it.
    pub(super) cross: PathBuf,
    lock: PathBuf,
}

impl Files {
    pub(super) fn below(data_dir: &Path) -> Result<Self, PkiError> {
        let dir = data_dir.join("pki");
        private_dir(&dir)?;
        Ok(Self {
            certificate: dir.join("ca.crt"),
            key: dir.join("ca.key"),
            next_key: dir.join("ca.next.key"),
            cross: dir.join("ca.cross.crt"),
            lock: dir.join(".lock"),
        })
    }

    /// Nobody else makes, reads or rotates the CA while the answer lives.
    pub(super) fn lock(&self) -> Result<File, PkiError> {
        let lock = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.lock)
            .map_err(|e| file_error(&self.lock, e))?;
        lock.lock().map_err(|e| file_error(&self.lock, e))?;
        Ok(lock)
    }
}

/// The CA: its certificate, the key it signs with, and the CAs that are trusted beside it.
pub struct Authority {
    trusted: Vec<CertificateDer<'static>>,
    certificate: CertificateDer<'static>,
    cross: Option<CertificateDer<'static>>,
    pem: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("hash", &self.hash())
            .field("trusted", &self.trusted.len())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// The CA in `<data_dir>/pki`: loaded, or made where there is none. Two processes may do so at once.
    ///
    /// # Errors
    /// [`PkiError`] naming the file.
    pub fn open(data_dir: &Path, now: SystemTime) -> Result<Self, PkiError> {
        let files = Files::below(data_dir)?;
        let _lock = files.lock()?;
        files::sweep(&data_dir.join("pki"));
        files::sweep(&data_dir.join("join-tokens"));
        if !files.certificate.exists() {
            // The key is written first: alone it signed nothing yet.
            let made = NewAuthority::make(now)?;
            write_private(&files.key, made.key.serialize_pem().as_bytes())?;
            crate::fault::point("ca-key-written");
            write_private(&files.certificate, made.certificate.pem().as_bytes())?;
            crate::fault::point("ca-written");
        }
        Self::load(&files)
    }

    /// Reads it, under the lock.
    pub(super) fn load(files: &Files) -> Result<Self, PkiError> {
        let pem = read(&files.certificate)?;
        let trusted = certificates(&files.certificate, &pem)?;
        let certificate = trusted
            .first()
            .cloned()
            .ok_or_else(|| content_error(&files.certificate, &"no certificate in it"))?;
        let key = signing_key(files, &certificate)?;
        let cross = cross(files, &certificate, &trusted)?;
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|e| content_error(&files.certificate, &e))?;
        Ok(Self {
            trusted,
            certificate,
            cross,
            pem,
            issuer,
        })
    }

    /// The certificate of the CA that signs.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Every CA that is trusted, the one that signs first; two while the CA rotates.
    #[must_use]
    pub fn trusted(&self) -> &[CertificateDer<'static>] {
        &self.trusted
    }

    /// The trusted certificates as PEM, as they lie in `ca.crt`.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the signing certificate (DER), lower-case hex: what a join token pins.
    #[must_use]
    pub fn hash(&self) -> String {
        sha256_hex(&self.certificate)
    }

    /// SHA-256 of each trusted certificate (DER), the one that signs first.
    #[must_use]
    pub fn hashes(&self) -> Vec<Vec<u8>> {
        let digest = |ca: &CertificateDer<'_>| ring::digest::digest(&ring::digest::SHA256, ca);
        self.trusted
            .iter()
            .map(|ca| digest(ca).as_ref().to_vec())
            .collect()
    }

    /// The hash of the trusted CA that signed `leaf`.
    #[must_use]
    pub fn signer(&self, leaf: &CertificateDer<'_>) -> Option<String> {
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        let signed = |ca: &&CertificateDer<'static>| is_signed_by(&leaf, ca);
        self.trusted.iter().find(signed).map(|ca| sha256_hex(ca))
    }

    /// What a server shows with this leaf: whoever trusts one of our CAs finds a path, and whoever holds only the
    /// hash of one finds it.
    pub(super) fn chain(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        let mut chain = vec![leaf];
        chain.extend(self.cross.clone());
        chain.extend(self.trusted.iter().cloned());
        chain
    }

    /// Signs a node's certificate: client authentication only, [`NODE_LIFE`], named `node` whatever the request says,
    /// and bound to the join token with this id.
    ///
    /// # Errors
    /// [`PkiError::Request`] where the request is broken or not signed by its own key.
    pub fn sign_node(
        &self,
        node: &str,
        token: &str,
        request: &[u8],
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(PkiError::Request)?;
        let mut params = CertificateParams::default();
        // X.520 ends common names at 64 characters; the URI is what counts.
        params.distinguished_name = name(&node.chars().take(64).collect::<String>());
        let uri = |text: String| text.as_str().try_into().map(SanType::URI).map_err(PkiError::Make);
        params.subject_alt_names = vec![
            uri(format!("{NODE_URI}{node}"))?,
            uri(format!("{TOKEN_URI}{token}"))?,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        leaf(&mut params)?;
        valid(&mut params, now, NODE_LIFE);
        let made = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(PkiError::Make)?;
        Ok(made.into())
    }

    pub(super) fn make_server(
        &self,
        names: &[SanType],
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, KeyPair), PkiError> {
        let pair = KeyPair::generate().map_err(PkiError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("smart-storage controller");
        params.subject_alt_names = names.to_vec();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf(&mut params)?;
        valid(&mut params, now, SERVER_LIFE);
        let made = params.signed_by(&pair, &self.issuer).map_err(PkiError::Make)?;
        Ok((made.into(), pair))
    }

    /// The key of `next`, signed by this CA: those who trust only this one accept what the next one signs.
    pub(super) fn cross_sign(
        &self,
        next: &NewAuthority,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let mut params = next.params.clone();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        valid(&mut params, now, CA_LIFE);
        let made = params
            .signed_by(&next.key, &self.issuer)
            .map_err(PkiError::Make)?;
        Ok(made.into())
    }
}

fn leaf(params: &mut CertificateParams) -> Result<(), PkiError> {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    Ok(())
}

/// A CA that is in no file yet.
pub(super) struct NewAuthority {
    params: CertificateParams,
    pub(super) key: KeyPair,
    pub(super) certificate: rcgen::Certificate,
}

impl NewAuthority {
    pub(super) fn make(now: SystemTime) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(PkiError::Make)?;
        let mut params = CertificateParams::default();
        // Each has a name of its own: programs look for the issuer by its name.
        let number = sha256_hex(rcgen::PublicKeyData::der_bytes(&key));
        params.distinguished_name = name(&format!(
            "smart-storage CA {}",
            number.get(..8).unwrap_or_default()
        ));
        // One CA below it: the one that follows it, while both are trusted.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        valid(&mut params, now, CA_LIFE);
        let certificate = params.self_signed(&key).map_err(PkiError::Make)?;
        Ok(Self {
            params,
            key,
            certificate,
        })
    }
}

fn certificates(path: &Path, pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| content_error(path, &e))
}

fn is_signed_by(leaf: &X509Certificate<'_>, ca: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(ca).is_ok_and(|(_, ca)| leaf.verify_signature(Some(ca.public_key())).is_ok())
}

/// The key that belongs to `certificate`. One that a rotation has not moved to its place yet is moved.
fn signing_key(files: &Files, certificate: &CertificateDer<'_>) -> Result<KeyPair, PkiError> {
    if !files.key.exists() && !files.next_key.exists() {
        return Err(PkiError::HalfAuthority(files.key.clone()));
    }
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|e| content_error(&files.certificate, &e))?;
    for path in [&files.key, &files.next_key] {
        if !path.exists() {
            continue;
        }
        let key = KeyPair::from_pem(&read(path)?).map_err(|e| content_error(path, &e))?;
        if parsed.public_key().subject_public_key.data.as_ref() == rcgen::PublicKeyData::der_bytes(&key) {
            if path == &files.next_key {
                fs::rename(&files.next_key, &files.key).map_err(|e| file_error(&files.next_key, e))?;
            }
            return Ok(key);
        }
    }
    Err(content_error(
        &files.key,
        &"is not the key of the first certificate in ca.crt",
    ))
}

/// The cross certificate, where it is the signing CA's and by another one that is trusted.
fn cross(
    files: &Files,
    certificate: &CertificateDer<'_>,
    trusted: &[CertificateDer<'_>],
) -> Result<Option<CertificateDer<'static>>, PkiError> {
    if !files.cross.exists() {
        return Ok(None);
    }
    // One that cannot be read is of no use to anybody, and nothing but a rotation makes another.
    let Some(cross) = certificates(&files.cross, &read(&files.cross)?)?
        .into_iter()
        .next()
    else {
        return Ok(None);
    };
    let (_, own) =
        X509Certificate::from_der(certificate).map_err(|e| content_error(&files.certificate, &e))?;
    let (_, parsed) = X509Certificate::from_der(&cross).map_err(|e| content_error(&files.cross, &e))?;
    let fits =
        parsed.public_key() == own.public_key() && trusted.iter().skip(1).any(|ca| is_signed_by(&parsed, ca));
    Ok(fits.then_some(cross.clone()))
}
