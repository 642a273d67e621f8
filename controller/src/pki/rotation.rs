//! Another CA in place of the present one, while everybody stays connected.
//!
//! [`rotate`] makes a new CA that signs from now on, and both are trusted: agents get new certificates over their
//! open streams, and a server certificate whose chain leads to either CA. [`finish`] ends the trust in the old one,
//! once nobody's certificate hangs on it. Both may run beside a controller, which looks at `ca.crt` all the time.
//!
//! A rotation is a list of [`Step`]s made before the first is done; after each of them the PKI can be used, and the
//! interrupted command can be given again. The old CA's key is gone with the last step of [`rotate`].

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use smart_storage_proto::tls::certificate_pem;

use super::{
    Authority, PkiError,
    authority::{Files, NewAuthority},
    files::{file_error, sync_dir, write_private},
    holders, sha256_hex,
};

/// Why the CA was not rotated, or the rotation not finished.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Two CAs are trusted already.
    #[error(
        "a rotation of the CA is under way: {old} is still trusted beside {new}; end it with `rotate-ca --finish` first"
    )]
    UnderWay {
        /// The CA that goes, first digits of its hash.
        old: String,
        /// The CA that came.
        new: String,
    },
    /// One CA is trusted: there is nothing to end.
    #[error("no rotation of the CA is under way: begin one with `rotate-ca`")]
    NotBegun,
    /// Nodes would be locked out.
    #[error(
        "nodes whose certificate is of the old CA: {}; they get a new one within seconds of connecting. Start their \
         agents and try again, wait until their certificates have run out (a day), or lock them out with --force: \
         they come back with a new join token only",
        .0.join(", ")
    )]
    StillHeld(Vec<String>),
    /// The files.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// What a rotation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Hash of the CA that signs now.
    pub signs: String,
    /// Hash of the other CA: still trusted after [`rotate`], not trusted any more after [`finish`].
    pub other: String,
}

/// One change of one file, whole or not at all.
pub(super) enum Step {
    Write(PathBuf, String),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Step {
    pub(super) fn apply(&self) -> Result<(), PkiError> {
        match self {
            Self::Write(path, text) => write_private(path, text.as_bytes()),
            Self::Rename(from, to) => fs::rename(from, to)
                .and_then(|()| sync_dir(to))
                .map_err(|e| file_error(from, e)),
            Self::Remove(path) => match fs::remove_file(path).and_then(|()| sync_dir(path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path, error)),
                _ => Ok(()),
            },
        }
    }
}

/// Makes a new CA that signs from now on; the present one stays trusted.
///
/// # Errors
/// [`RotateError::UnderWay`] while the rotation before is not finished; [`RotateError::Pki`] naming the file.
pub fn rotate(data_dir: &Path, now: SystemTime) -> Result<Rotated, RotateError> {
    Authority::open(data_dir, now)?;
    let files = Files::below(data_dir)?;
    let _lock = files.lock()?;
    let old = Authority::load(&files)?;
    let (steps, rotated) = rotate_steps(&files, &old, now)?;
    steps.iter().try_for_each(Step::apply)?;
    Ok(rotated)
}

pub(super) fn rotate_steps(
    files: &Files,
    old: &Authority,
    now: SystemTime,
) -> Result<(Vec<Step>, Rotated), RotateError> {
    if let [new, old, ..] = old.trusted() {
        let short = |ca: &[u8]| sha256_hex(ca).get(..16).unwrap_or_default().to_owned();
        return Err(RotateError::UnderWay {
            old: short(old),
            new: short(new),
        });
    }
    let new = NewAuthority::make(now)?;
    let cross = old.cross_sign(&new, now)?;
    let steps = vec![
        Step::Write(files.next_key.clone(), new.key.serialize_pem()),
        Step::Write(files.cross.clone(), certificate_pem(&cross)),
        // From here on it is the new one.
        Step::Write(files.certificate.clone(), new.certificate.pem() + old.pem()),
        Step::Rename(files.next_key.clone(), files.key.clone()),
    ];
    let rotated = Rotated {
        signs: sha256_hex(new.certificate.der()),
        other: old.hash(),
    };
    Ok((steps, rotated))
}

/// Ends the trust in the old CA. `force` also where nodes still have certificates of it.
///
/// # Errors
/// [`RotateError::NotBegun`], [`RotateError::StillHeld`] with the nodes' names, [`RotateError::Pki`].
pub fn finish(data_dir: &Path, force: bool, now: SystemTime) -> Result<Rotated, RotateError> {
    let files = Files::below(data_dir)?;
    let _lock = files.lock()?;
    let authority = Authority::load(&files)?;
    let (steps, rotated) = finish_steps(&files, &authority)?;
    let held = holders::of_others(data_dir, &authority.hash(), now)?;
    if !(held.is_empty() || force) {
        return Err(RotateError::StillHeld(held));
    }
    steps.iter().try_for_each(Step::apply)?;
    holders::sweep(data_dir, &authority.hash(), now)?;
    Ok(rotated)
}

pub(super) fn finish_steps(
    files: &Files,
    authority: &Authority,
) -> Result<(Vec<Step>, Rotated), RotateError> {
    let [new, old, ..] = authority.trusted() else {
        return Err(RotateError::NotBegun);
    };
    let steps = vec![
        Step::Write(files.certificate.clone(), certificate_pem(new)),
        // It leads to a CA that nobody trusts any more.
        Step::Remove(files.cross.clone()),
    ];
    let rotated = Rotated {
        signs: sha256_hex(new),
        other: sha256_hex(old),
    };
    Ok((steps, rotated))
}
