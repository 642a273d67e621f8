//! Join tokens: what an administrator carries to a machine so that it may enrol under one name.
//!
//! The text is `<node>.<secret>.<sha256 of the CA certificate, hex>`. The controller keeps only the hash of the
//! secret, in `<data-dir>/join-tokens/<node>`; removing that file revokes the token. A token stays good for its
//! node: a machine whose certificate ran out over a weekend shows it again. The secret is never logged.

use std::{fs, io, path::Path, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::identity::is_node_name;
use crate::pki::{self, Authority, PkiError};

const FOLDER: &str = "join-tokens";

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The name cannot be a node's.
    #[error("{0:?} is no node name: at most 253 of a-z, 0-9, '-' and '.'")]
    Name(String),
    /// CA or token file.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// Why a token is not taken.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Not of the form `<node>.<secret>.<hash>`.
    #[error("the join token is malformed")]
    Malformed,
    /// The token is for another node than the one that shows it.
    #[error("the join token was made for node {token:?}, and this node calls itself {claimed:?}")]
    OtherNode {
        /// The token's node.
        token: String,
        /// The sender's name.
        claimed: String,
    },
    /// No such token, or not this secret. Which of both is not said.
    #[error("the join token is not known here")]
    Unknown,
    /// The token's file cannot be read.
    #[error("join tokens cannot be read: {0}")]
    Io(#[source] io::Error),
}

/// Makes a token for `node`, in place of an older one of that name. Answers its whole text, which is kept nowhere.
///
/// # Errors
/// [`CreateError`] where the name is no node name or a file cannot be written.
pub fn create(data_dir: &Path, node: &str, now: SystemTime) -> Result<String, CreateError> {
    if !is_node_name(node) {
        return Err(CreateError::Name(node.to_owned()));
    }
    let authority = Authority::open(data_dir, now)?;
    let mut secret = [0_u8; 32];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| PkiError::Randomness)?;
    let secret = URL_SAFE_NO_PAD.encode(secret);
    let folder = data_dir.join(FOLDER);
    pki::private_dir(&folder)?;
    pki::write_private(&folder.join(node), pki::sha256_hex(secret.as_bytes()).as_bytes())?;
    crate::fault::point("join-token-written");
    Ok(format!("{node}.{secret}.{}", authority.hash()))
}

/// The node that `token` was made for, where the token is good and `claimed` is that node.
///
/// # Errors
/// [`VerifyError`].
pub fn verify(data_dir: &Path, token: &str, claimed: &str) -> Result<String, VerifyError> {
    // Node names have dots; secret and hash have none.
    let (rest, _ca_hash) = token.trim().rsplit_once('.').ok_or(VerifyError::Malformed)?;
    let (node, secret) = rest.rsplit_once('.').ok_or(VerifyError::Malformed)?;
    if !is_node_name(node) {
        return Err(VerifyError::Malformed);
    }
    if node != claimed {
        return Err(VerifyError::OtherNode {
            token: node.to_owned(),
            claimed: claimed.to_owned(),
        });
    }
    let kept = match fs::read_to_string(data_dir.join(FOLDER).join(node)) {
        Ok(kept) => kept,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(VerifyError::Unknown),
        Err(error) => return Err(VerifyError::Io(error)),
    };
    if same(
        kept.trim().as_bytes(),
        pki::sha256_hex(secret.as_bytes()).as_bytes(),
    ) {
        Ok(node.to_owned())
    } else {
        Err(VerifyError::Unknown)
    }
}

/// Equality in a time that depends on the length only.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0_u8, |found, (x, y)| found | (x ^ y));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_node_as_often_as_needed_and_for_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let token = create(dir.path(), "rack.node-1", SystemTime::now()).unwrap();
        for _ in 0..2 {
            assert_eq!(verify(dir.path(), &token, "rack.node-1").unwrap(), "rack.node-1");
        }
        assert!(matches!(
            verify(dir.path(), &token, "node-2"),
            Err(VerifyError::OtherNode { .. })
        ));
    }

    #[test]
    fn a_wrong_secret_and_an_unknown_node_get_the_same_answer() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), "a", SystemTime::now()).unwrap();
        for (token, node) in [("a.wrong.00", "a"), ("b.wrong.00", "b")] {
            assert!(matches!(
                verify(dir.path(), token, node),
                Err(VerifyError::Unknown)
            ));
        }
        for malformed in ["", "a", "a.b", "../../etc.x.y"] {
            assert!(matches!(
                verify(dir.path(), malformed, "a"),
                Err(VerifyError::Malformed)
            ));
        }
    }

    #[test]
    fn the_secret_is_not_on_disk_and_a_newer_token_replaces_the_older() {
        let dir = tempfile::tempdir().unwrap();
        let old = create(dir.path(), "a", SystemTime::now()).unwrap();
        let secret = old.split('.').nth(1).unwrap();
        let kept = fs::read_to_string(dir.path().join("join-tokens/a")).unwrap();
        assert!(!kept.contains(secret));
        let new = create(dir.path(), "a", SystemTime::now()).unwrap();
        assert!(matches!(verify(dir.path(), &old, "a"), Err(VerifyError::Unknown)));
        assert!(verify(dir.path(), &new, "a").is_ok());
    }
}
