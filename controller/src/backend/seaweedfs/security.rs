//! What this adapter shows to SeaweedFS, and what users are handed of it: certificates for gRPC and signed tokens
//! (JWT, HS256), from the very `security.toml` that SeaweedFS's own programs read.
//!
//! A user's token opens the filer's HTTP for reading one volume and nothing else. There is none for writing, on
//! purpose: SeaweedFS 4.48 lets a token's path be limited, but whoever may write may also say `?collection=` or
//! `x-seaweedfs-destination` and so fill another volume instead of their own. Writing goes through S3 and mounts.
//!
//! It never puts a key into an error, a log or a `Debug` line, and it makes no keys (`pki::seaweedfs` does).

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::json;
use tonic::{
    Request, Status,
    service::Interceptor,
    transport::{Certificate, ClientTlsConfig, Identity},
};

/// Life of a user's token. It cannot be taken back, only run out.
pub const TOKEN_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Life of the tokens that this adapter signs for its own calls.
const CALL_LIFE: Duration = Duration::from_secs(60);

/// What cannot be used of a `security.toml`. Nothing of its content is in it.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// It, or a file that it names, cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no TOML.
    #[error("{}: is no TOML", .0.display())]
    Malformed(PathBuf),
    /// A certificate for gRPC is only half there.
    #[error("{}: {missing} is missing: grpc.ca, grpc.client.cert and grpc.client.key go together", path.display())]
    Half {
        /// The file.
        path: PathBuf,
        /// The key that is not there.
        missing: &'static str,
    },
}

/// How one SeaweedFS is spoken to. The default is what SeaweedFS does without a `security.toml`: everything open.
#[derive(Clone, Default)]
pub struct Security {
    tls: Option<ClientTlsConfig>,
    write: Option<Arc<hmac::Key>>,
    read: Option<Arc<hmac::Key>>,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("tls", &self.tls.is_some())
            .field("write", &self.write.is_some())
            .field("read", &self.read.is_some())
            .finish()
    }
}

impl Security {
    /// From a `security.toml`. Files that it names lie beside it where their paths are not absolute.
    ///
    /// # Errors
    /// [`SecurityError`] naming the file.
    pub fn load(path: &Path) -> Result<Self, SecurityError> {
        let text = read(path)?;
        let table: toml::Table = text
            .parse()
            .map_err(|_| SecurityError::Malformed(path.to_owned()))?;
        let value = |key: &str| lookup(&table, key);
        let key = |name: &str| {
            value(name).map(|secret| Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())))
        };
        Ok(Self {
            tls: tls(
                path,
                value("grpc.ca"),
                value("grpc.client.cert"),
                value("grpc.client.key"),
            )?,
            write: key("jwt.filer_signing.key"),
            read: key("jwt.filer_signing.read.key"),
        })
    }

    /// TLS of the gRPC channels, where it is on.
    pub(super) fn tls(&self) -> Option<ClientTlsConfig> {
        self.tls.clone()
    }

    /// A token of our own for reading anything on the filer, good for a minute.
    pub(super) fn own_read_token(&self, now: SystemTime) -> Option<String> {
        let key = self.read.as_deref()?;
        Some(sign(key, &json!({ "exp": unix(now + CALL_LIFE) })))
    }

    /// A token for reading what lies under `folder`, where the filer asks for one.
    #[must_use]
    pub fn token(&self, folder: &str, now: SystemTime) -> Option<String> {
        self.token_until(folder, unix(now + TOKEN_LIFE))
    }

    fn token_until(&self, folder: &str, end: u64) -> Option<String> {
        let claims = json!({
            "exp": end,
            "allowed_prefixes": [folder],
            "allowed_methods": ["GET", "HEAD"],
        });
        Some(sign(self.read.as_deref()?, &claims))
    }

    /// Whether `token` is just what [`Security::token`] gave, and at least half of its life is left.
    #[must_use]
    pub fn is_fresh(&self, token: &str, folder: &str, now: SystemTime) -> bool {
        let Some(end) = end_of(token) else {
            return false;
        };
        end >= unix(now + TOKEN_LIFE / 2) && self.token_until(folder, end).as_deref() == Some(token)
    }
}

/// Signs the calls that change identities: the filer wants a token for them beside the certificate.
#[derive(Clone)]
pub(super) struct Signer(pub(super) Security);

impl Interceptor for Signer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0.write {
            let token = sign(key, &json!({ "exp": unix(SystemTime::now() + CALL_LIFE) }));
            let value = format!("Bearer {token}")
                .parse()
                .map_err(|_| Status::internal("the token is no header value"))?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

fn read(path: &Path) -> Result<String, SecurityError> {
    fs::read_to_string(path).map_err(|source| SecurityError::File {
        path: path.to_owned(),
        source,
    })
}

/// The text under a dotted key; empty is as good as missing, as it is for SeaweedFS.
fn lookup(table: &toml::Table, key: &str) -> Option<String> {
    let mut parts = key.split('.');
    let mut value = table.get(parts.next()?)?;
    for part in parts {
        value = value.as_table()?.get(part)?;
    }
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn tls(
    path: &Path,
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
) -> Result<Option<ClientTlsConfig>, SecurityError> {
    let half = |missing| SecurityError::Half {
        path: path.to_owned(),
        missing,
    };
    if ca.is_none() && cert.is_none() && key.is_none() {
        return Ok(None);
    }
    let beside = |file: String| read(&path.parent().unwrap_or(Path::new(".")).join(file));
    let ca = beside(ca.ok_or_else(|| half("grpc.ca"))?)?;
    let cert = beside(cert.ok_or_else(|| half("grpc.client.cert"))?)?;
    let key = beside(key.ok_or_else(|| half("grpc.client.key"))?)?;
    let config = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .identity(Identity::from_pem(cert, key));
    Ok(Some(config))
}

fn sign(key: &hmac::Key, claims: &serde_json::Value) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let body = format!(
        "{}.{}",
        encode(br#"{"alg":"HS256","typ":"JWT"}"#),
        encode(claims.to_string().as_bytes())
    );
    let signature = hmac::sign(key, body.as_bytes());
    format!("{body}.{}", encode(signature.as_ref()))
}

/// When a token says it ends.
fn end_of(token: &str) -> Option<u64> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    claims.get("exp")?.as_u64()
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki;

    const FOLDER: &str = "/buckets/uv-1/data";

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn of(text: &str) -> Result<Security, SecurityError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("security.toml");
        fs::write(&path, text).unwrap();
        Security::load(&path)
    }

    #[test]
    fn a_token_is_signed_as_the_standard_says() {
        // The signature was made with `openssl dgst -sha256 -hmac`.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"filer2");
        let token = sign(&key, &json!({"exp": 1}));
        assert_eq!(
            token,
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjF9.f_qk9DhHFEeX08kGr3BpYg1CsxkRcXauIqWk527UHvo"
        );
    }

    #[test]
    fn a_users_token_reads_its_own_folder_and_is_renewed_at_half_its_life() {
        let security =
            of("[jwt.filer_signing]\nkey = \"w\"\n[jwt.filer_signing.read]\nkey = \"r\"\n").unwrap();
        let token = security.token(FOLDER, now()).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["allowed_prefixes"], json!([FOLDER]));
        assert_eq!(claims["allowed_methods"], json!(["GET", "HEAD"]));
        assert_eq!(claims["exp"], 1_800_000_000 + 12 * 3600);
        let fresh = |token: &str, folder: &str, hours: u64| {
            security.is_fresh(token, folder, now() + Duration::from_secs(hours * 3600))
        };
        assert!(fresh(&token, FOLDER, 0) && fresh(&token, FOLDER, 6));
        assert!(!fresh(&token, FOLDER, 7));
        assert!(!fresh(&token, "/buckets/uv-2/data", 0), "another folder's");
        let other = of("[jwt.filer_signing.read]\nkey = \"new\"\n").unwrap();
        assert!(
            !fresh(&other.token(FOLDER, now()).unwrap(), FOLDER, 0),
            "another key's"
        );
        for rubbish in ["", "a.b.c", "a.e30.c", &token[..token.len() - 2]] {
            assert!(!fresh(rubbish, FOLDER, 0), "{rubbish}");
        }
    }

    #[test]
    fn without_keys_there_are_no_tokens() {
        for open in [
            Security::default(),
            of("").unwrap(),
            of("[jwt.filer_signing]\nkey = \"\"\n").unwrap(),
        ] {
            assert_eq!(open.token(FOLDER, now()), None);
            assert_eq!(open.own_read_token(now()), None);
            let request = Signer(open).call(Request::new(())).unwrap();
            assert!(request.metadata().get("authorization").is_none());
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_and_its_content_is_not() {
        assert!(matches!(of("key = 'hush"), Err(SecurityError::Malformed(_))));
        let error = of("[grpc]\nca = \"no-such-file\"\n").unwrap_err().to_string();
        assert!(error.contains("no-such-file"), "{error}");
        for text in [
            "key = 'hush",
            "[grpc.client]\ncert = \"c\"\nkey = \"k\"\n[jwt.filer_signing]\nkey = \"hush\"\n",
        ] {
            assert!(!of(text).unwrap_err().to_string().contains("hush"));
        }
        let secret = of("[jwt.filer_signing]\nkey = \"hush\"\n").unwrap();
        assert!(!format!("{secret:?}").contains("hush"));
    }

    #[test]
    fn what_we_make_ourselves_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        pki::seaweedfs::make(dir.path(), &[], SystemTime::now()).unwrap();
        let security = Security::load(&dir.path().join("controller/security.toml")).unwrap();
        assert!(security.tls().is_some() && security.token(FOLDER, now()).is_some());
        let mount = Security::load(&dir.path().join("mount/security.toml")).unwrap();
        assert!(mount.tls().is_some() && mount.token(FOLDER, now()).is_none());
    }
}
