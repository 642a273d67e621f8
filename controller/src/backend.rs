//! The systems that hold the bytes, as the reconcilers see them.
//!
//! A backend makes a volume exist (`ensure_volume`), grows it, says what it holds, hands out keys for it and
//! removes it; every call may be repeated and heals what a crash left half done. What a backend says about
//! itself it says as it was seen, never guessed.
//!
//! It never decides where a volume goes (core's placement does), never keeps a secret (the caller's Secret
//! does), and never touches a thing that does not carry this cluster's mark.

pub mod http;
pub mod seaweedfs;

use std::{fmt, time::SystemTime};

use ring::rand::{SecureRandom as _, SystemRandom};

use self::seaweedfs::SeaweedFs;

/// Whether trying the same thing again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Yes, later: something was away, slow, full or in the middle of a change.
    Transient,
    /// No: somebody has to change something first.
    Permanent,
}

/// What went wrong, in the form that a condition and the requeue need.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    /// Whether the reconciler should come back by itself.
    pub severity: Severity,
    /// A stable CamelCase word for `reason`.
    pub reason: &'static str,
    /// The whole story, with the server's words; no secret is ever in it.
    pub message: String,
}

/// The claim that a volume was made for: written on the volume, for whoever finds it later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The claim's namespace.
    pub namespace: String,
    /// The claim's name.
    pub name: String,
    /// The claim's uid.
    pub uid: String,
}

/// A file volume as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// `uv-` and at most 60 of `[a-z0-9-]`: name of the directory, the collection, the bucket and the identity.
    pub name: String,
    /// Which pool's drives: the disk type tag of its volume servers, lower case.
    pub disk_tag: String,
    /// Bytes; more than zero.
    pub quota_bytes: u64,
    /// SeaweedFS's three digits (other data centers, other racks, other servers): `000` is one copy.
    pub replication: String,
    /// How many slots are taken at a time; a multiple of the copies.
    pub growth_count: u32,
    /// Which installation of this operator the volume belongs to.
    pub cluster_id: String,
    /// Whom it was made for.
    pub owner: Owner,
}

/// A volume that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Its directory, `/buckets/<name>`.
    pub path: String,
    /// What users get: mounting the directory itself would reset its quota.
    pub data_path: String,
    /// The S3 bucket and the collection.
    pub bucket: String,
    /// The capacity that the server enforces now, bytes.
    pub quota_bytes: u64,
    /// The servers (`ip:port`) that hold its slots now.
    pub servers: Vec<String>,
}

/// How a user reaches a volume. Keys are not part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// By HTTP at the filer: for reading, with the volume's own token.
    pub filer: Option<FilerAccess>,
    /// By S3, with the volume's own keys.
    pub s3: Option<S3Access>,
    /// The command that mounts it; `<DIRECTORY>` is the user's.
    pub mount: Option<String>,
}

/// The filer's part of [`Access`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilerAccess {
    /// `http://host:port`.
    pub url: String,
    /// The directory under it.
    pub path: String,
}

/// The S3 part of [`Access`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Access {
    /// URL of the gateway; path-style requests.
    pub endpoint: String,
    /// The bucket that the keys are good for.
    pub bucket: String,
}

/// A pair of S3 keys, chosen by us and kept by the caller: so a crash between the two writes heals, whichever
/// of them came first.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// 20 of `[A-Z0-9]`; no secret.
    pub access_key: String,
    /// 40 letters and digits.
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// The system's source of randomness failed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system gave no random bytes")]
pub struct NoRandomness;

impl Credentials {
    /// New keys from the system's randomness.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self {
            access_key: random_text(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 20)?,
            secret_key: random_text(
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
                40,
            )?,
        })
    }
}

/// `alphabet` has a power of two of letters, so that every one is equally likely.
fn random_text(alphabet: &[u8], length: usize) -> Result<String, NoRandomness> {
    let mut bytes = vec![0; length];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    let letter = |byte: u8| {
        alphabet
            .get(usize::from(byte) % alphabet.len())
            .copied()
            .unwrap_or(b'A')
    };
    Ok(bytes.into_iter().map(|byte| char::from(letter(byte))).collect())
}

/// A backend that serves file volumes; block and object come as further variants.
#[derive(Clone, Debug)]
pub enum Backend {
    /// SeaweedFS.
    SeaweedFs(SeaweedFs),
}

impl Backend {
    /// The name that classes and pools use.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SeaweedFs(_) => "seaweedfs",
        }
    }

    /// Makes the volume be there as `spec` says, from whatever state it is in.
    ///
    /// # Errors
    /// With [`Severity`]; a thing of somebody else under that name is permanent.
    pub async fn ensure_volume(&self, spec: &VolumeSpec) -> Result<Handle, BackendError> {
        match self {
            Self::SeaweedFs(weed) => Ok(weed.ensure_volume(spec).await?),
        }
    }

    /// Bytes that the volume holds now, one copy, without garbage; some seconds old.
    ///
    /// # Errors
    /// When the backend cannot be asked.
    pub async fn usage(&self, volume: &str) -> Result<u64, BackendError> {
        match self {
            Self::SeaweedFs(weed) => Ok(weed.usage(volume).await?),
        }
    }

    /// Removes the volume with its data, keys and rules. What is not there is removed.
    ///
    /// # Errors
    /// With [`Severity`]; a thing without this cluster's mark is refused.
    pub async fn delete_volume(&self, volume: &str, cluster_id: &str) -> Result<(), BackendError> {
        match self {
            Self::SeaweedFs(weed) => Ok(weed.delete_volume(volume, cluster_id).await?),
        }
    }

    /// Whether what is there under the volume's name may be this claim's: data that was kept for another claim is
    /// neither given to it nor deleted with it.
    ///
    /// # Errors
    /// With [`Severity`].
    pub async fn may_belong_to(&self, volume: &str, claim_uid: &str) -> Result<bool, BackendError> {
        match self {
            Self::SeaweedFs(weed) => weed
                .may_belong_to(volume, claim_uid)
                .await
                .map_err(|error| seaweedfs::DeleteVolumeError::from(error).into()),
        }
    }

    /// Takes the volume's keys away and marks its data as kept on purpose.
    ///
    /// # Errors
    /// With [`Severity`].
    pub async fn retain_volume(&self, volume: &str, cluster_id: &str) -> Result<(), BackendError> {
        match self {
            Self::SeaweedFs(weed) => Ok(weed.retain_volume(volume, cluster_id).await?),
        }
    }

    /// Makes `credentials` the only keys that are good for the volume, and good for nothing else. With other
    /// keys than before this is a rotation: the old ones stop working.
    ///
    /// # Errors
    /// With [`Severity`].
    pub async fn ensure_identity(&self, volume: &str, credentials: &Credentials) -> Result<(), BackendError> {
        match self {
            Self::SeaweedFs(weed) => Ok(weed.ensure_identity(volume, credentials).await?),
        }
    }

    /// A token for reading the volume through the filer, where one is asked for: `old` as long as it is good for a
    /// while, else a new one.
    #[must_use]
    pub fn filer_token(&self, volume: &str, old: Option<&str>, now: SystemTime) -> Option<String> {
        match self {
            Self::SeaweedFs(weed) => weed.token(volume, old, now),
        }
    }

    /// How the volume is reached.
    #[must_use]
    pub fn access(&self, volume: &str) -> Access {
        match self {
            Self::SeaweedFs(weed) => weed.access(volume),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_have_their_length_and_differ() {
        let (one, two) = (Credentials::generate().unwrap(), Credentials::generate().unwrap());
        assert_eq!((one.access_key.len(), one.secret_key.len()), (20, 40));
        assert_ne!(one, two);
    }

    #[test]
    fn a_secret_is_not_printed() {
        let keys = Credentials {
            access_key: "AK".into(),
            secret_key: "hush".into(),
        };
        assert!(!format!("{keys:?}").contains("hush"));
    }
}
