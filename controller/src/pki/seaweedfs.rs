//! Keys and certificates of a SeaweedFS that stands beside this installation: a CA of its own, and one folder for
//! each role with a `security.toml` that names all the role needs and nothing more.
//!
//! | folder | who | may open gRPC of |
//! |---|---|---|
//! | `core` | master, filer, S3 gateway, `weed shell` | everything |
//! | `node` | volume servers | master, other volume servers |
//! | `mount` | `weed mount` on a trusted host | filer |
//! | `controller` | this controller | master, filer |
//!
//! SeaweedFS tells its peers apart by common name and does not look at host names; the controller does, and only
//! `core` has some. What is there and good stays as it is: making it again changes nothing. It never prints a key.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use smart_storage_proto::tls;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    Authority, PkiError,
    files::{file_error, private_dir, read, write_private},
    has_names, name, serial, server_names, unix, valid,
};

/// Life of a role's certificate. Nobody renews it while the servers run: making the folder again does, once a third
/// of it is left, and the servers read it anew by themselves.
pub const PEER_LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// Signing keys of SeaweedFS's tokens, by their names in `security.toml`.
const SIGNING: [&str; 4] = [
    "jwt.signing",
    "jwt.signing.read",
    "jwt.filer_signing",
    "jwt.filer_signing.read",
];

struct Role {
    folder: &'static str,
    /// Sections of gRPC servers and clients, and whom the servers let in.
    grpc: &'static [(&'static str, &'static str)],
    signing: &'static [&'static str],
}

const ROLES: [Role; 4] = [
    Role {
        folder: "core",
        grpc: &[
            ("master", "core,node,controller"),
            ("volume", "core,node"),
            ("filer", "core,mount,controller"),
            ("s3", "core"),
            ("client", ""),
        ],
        signing: &SIGNING,
    },
    Role {
        folder: "node",
        grpc: &[("volume", "core,node")],
        signing: &["jwt.signing", "jwt.signing.read"],
    },
    Role {
        folder: "mount",
        grpc: &[("client", "")],
        signing: &["jwt.signing.read"],
    },
    Role {
        folder: "controller",
        grpc: &[("client", "")],
        signing: &["jwt.filer_signing", "jwt.filer_signing.read"],
    },
];

/// Makes or completes the folder `dir`. The servers' certificate is for this machine's names and `extra_names`.
///
/// # Errors
/// [`PkiError`] naming the file.
pub fn make(dir: &Path, extra_names: &[String], now: SystemTime) -> Result<(), PkiError> {
    private_dir(dir)?;
    let dir = fs::canonicalize(dir).map_err(|error| file_error(dir, error))?;
    let authority = Authority::open(&dir, now)?;
    let names = server_names(extra_names)?;
    for section in SIGNING {
        signing_key(&dir, section)?;
    }
    for role in &ROLES {
        let folder = dir.join(role.folder);
        private_dir(&folder)?;
        let names = if role.folder == "core" {
            names.as_slice()
        } else {
            &[]
        };
        authority.ensure_peer(&folder, role.folder, names, now)?;
        write_changed(&folder.join("ca.crt"), authority.pem())?;
        write_changed(&folder.join("security.toml"), &security(&dir, role)?)?;
    }
    Ok(())
}

/// The key of a section: 32 random bytes as hexadecimal digits, made once.
fn signing_key(dir: &Path, section: &str) -> Result<String, PkiError> {
    let folder = dir.join("keys");
    private_dir(&folder)?;
    let path = folder.join(section);
    if path.exists() {
        let key = read(&path)?.trim().to_owned();
        if !key.is_empty() {
            return Ok(key);
        }
    }
    let mut bytes = [0_u8; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| PkiError::Randomness)?;
    let key = bytes.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    write_private(&path, key.as_bytes())?;
    Ok(key)
}

fn security(dir: &Path, role: &Role) -> Result<String, PkiError> {
    let folder = dir.join(role.folder);
    let path = |file: &str| quoted(&folder.join(file).display().to_string());
    let mut text = String::from(
        "# Made by smart-storage-controller seaweedfs-security; written anew when it is made again.\n",
    );
    for section in role.signing {
        let _ = write!(
            text,
            "[{section}]\nkey = {}\n",
            quoted(&signing_key(dir, section)?)
        );
    }
    let _ = write!(text, "[grpc]\nca = {}\n", path("ca.crt"));
    for (section, allowed) in role.grpc {
        let _ = write!(
            text,
            "[grpc.{section}]\ncert = {}\nkey = {}\n",
            path("tls.crt"),
            path("tls.key")
        );
        if !allowed.is_empty() {
            let _ = writeln!(text, "allowed_commonNames = {}", quoted(allowed));
        }
    }
    Ok(text)
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

fn write_changed(path: &Path, text: &str) -> Result<(), PkiError> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    write_private(path, text.as_bytes())
}

impl Authority {
    /// `tls.crt` and `tls.key` of one role, for both ends of a connection.
    fn ensure_peer(
        &self,
        folder: &Path,
        role: &str,
        names: &[SanType],
        now: SystemTime,
    ) -> Result<(), PkiError> {
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        if certificate.exists()
            && key.exists()
            && self.is_good_peer(&read(&certificate)?, &read(&key)?, names, now)
        {
            return Ok(());
        }
        let pair = KeyPair::generate().map_err(PkiError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(role);
        params.subject_alt_names = names.to_vec();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        valid(&mut params, now, PEER_LIFE);
        let made = params.signed_by(&pair, &self.issuer).map_err(PkiError::Make)?;
        write_private(&key, pair.serialize_pem().as_bytes())?;
        write_private(&certificate, tls::certificate_pem(&made.into()).as_bytes())
    }

    fn is_good_peer(&self, certificate: &str, key: &str, names: &[SanType], now: SystemTime) -> bool {
        let (Ok(leaf), Ok(pair)) = (
            CertificateDer::from_pem_slice(certificate.as_bytes()),
            KeyPair::from_pem(key),
        ) else {
            return false;
        };
        let (Ok((_, leaf)), Ok((_, ca))) = (
            X509Certificate::from_der(&leaf),
            X509Certificate::from_der(&self.certificate),
        ) else {
            return false;
        };
        let third = i64::try_from(PEER_LIFE.as_secs() / 3).unwrap_or(i64::MAX);
        leaf.verify_signature(Some(ca.public_key())).is_ok()
            && leaf.public_key().subject_public_key.data.as_ref() == pair.der_bytes()
            && leaf.validity().not_before.timestamp() <= unix(now)
            && leaf.validity().not_after.timestamp() - unix(now) > third
            && (names.is_empty() || has_names(&leaf, names))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn everything(dir: &Path) -> Vec<(String, Vec<u8>, u32)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            if path.is_dir() {
                assert_eq!(mode, 0o700, "{}", path.display());
                found.extend(everything(&path));
            } else {
                found.push((path.display().to_string(), fs::read(&path).unwrap(), mode));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn made_again_nothing_changes_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let now = NOW + Duration::from_secs(1_800_000_000);
        make(dir.path(), &[], now).unwrap();
        let first = everything(dir.path());
        assert!(first.iter().all(|(_, _, mode)| *mode == 0o600), "{first:?}");
        make(dir.path(), &[], now + Duration::from_secs(3600)).unwrap();
        assert_eq!(everything(dir.path()), first);
    }

    #[test]
    fn a_certificate_near_its_end_or_for_other_names_is_made_anew_and_the_keys_stay() {
        let dir = tempfile::tempdir().unwrap();
        let now = NOW + Duration::from_secs(1_800_000_000);
        make(dir.path(), &[], now).unwrap();
        let at = |file: &str| fs::read(dir.path().join(file)).unwrap();
        let (core, node, keys) = (at("core/tls.crt"), at("node/tls.crt"), at("keys/jwt.signing"));
        make(dir.path(), &["filer.example".to_owned()], now).unwrap();
        assert_ne!(at("core/tls.crt"), core);
        assert_eq!(at("node/tls.crt"), node);
        make(dir.path(), &[], now + PEER_LIFE * 3 / 4).unwrap();
        assert_ne!(at("node/tls.crt"), node);
        assert_eq!(at("keys/jwt.signing"), keys);
    }

    #[test]
    fn each_role_gets_what_it_needs_and_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &[], NOW + Duration::from_secs(1_800_000_000)).unwrap();
        let text = |role: &str| fs::read_to_string(dir.path().join(role).join("security.toml")).unwrap();
        for role in ["node", "mount"] {
            assert!(
                !text(role).contains("filer_signing"),
                "{role} could sign for every file"
            );
        }
        assert!(!text("mount").contains("[jwt.signing]"));
        for role in ["core", "node", "mount", "controller"] {
            let parsed: toml::Table = text(role).parse().unwrap();
            let ca = parsed["grpc"]["ca"].as_str().unwrap();
            assert!(Path::new(ca).is_absolute() && Path::new(ca).exists(), "{ca}");
        }
        assert!(text("core").contains("allowed_commonNames = \"core,mount,controller\""));
    }
}
