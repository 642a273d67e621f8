//! A machine in a file: what the kernel, the devices and the programs of one host answered when its drives were
//! probed, with every name that could tell whose it is replaced.
//!
//! It holds answers, never conclusions: the probes of [`super::linux`] run over a bundle as they run over a kernel, and
//! come to the same devices. Of what is written on a drive it has what was recognised there, never the bytes. The file
//! is JSON with sorted keys, made to be read, compared and kept:
//!
//! | key | what |
//! |---|---|
//! | `bundle` | version of this format: 1 |
//! | `agent` | version of the agent that made it |
//! | `files` | content of files under `/sys`, `/run/udev` and `/proc`: text, or hexadecimal rows of 32 bytes, where rows of zeros are left out |
//! | `folders` | names in folders, as far as they were wanted |
//! | `links` | where paths lead |
//! | `inodes` | block devices and lengths of files |
//! | `included` | backing files of loop devices that count as drives |
//! | `devices` | what was recognised on each device, and whether it could be opened exclusively |
//! | `nvme` | answers of NVMe controllers |
//! | `programs` | command lines, exit status and output |
//! | `mounts` | lines of mount tables that speak of devices |
//!
//! What was not there is left out; what failed is `{"failed": {...}}`. The devices that a bundle shows are those of the
//! machine but for the names; of a drive with very many mounts, others may be told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::host::{Inode, Live, Look};
use super::linux::{Linux, LinuxConfig};
use super::{Depth, Fault, Hardware as _};

mod anonymise;
mod record;
mod replay;
mod texts;
mod words;

use record::Recorder;
use replay::Replay;
use words::Words;

const VERSION: u32 = 1;

/// What a host answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bundle {
    bundle: u32,
    agent: String,
    #[serde(default)]
    files: BTreeMap<String, Answer<Bytes>>,
    #[serde(default)]
    folders: BTreeMap<String, Answer<BTreeSet<String>>>,
    #[serde(default)]
    links: BTreeMap<String, String>,
    #[serde(default)]
    inodes: BTreeMap<String, Inode>,
    #[serde(default)]
    included: BTreeSet<String>,
    #[serde(default)]
    devices: BTreeMap<String, Opened>,
    #[serde(default)]
    nvme: BTreeMap<String, Answer<BTreeMap<String, Answer<Bytes>>>>,
    #[serde(default)]
    programs: BTreeMap<String, Answer<Run>>,
    #[serde(default)]
    mounts: Vec<Table>,
}

/// What came back, or why nothing did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Failed { failed: Trouble },
    Told(T),
}

/// An error, so that it can be answered again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trouble {
    /// What was tried, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    doing: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    errno: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    text: String,
}

/// The kinds of errors without a number that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    NotFound,
    TimedOut,
}

/// Bytes, in the form that reads best.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Text(String),
    Rows {
        length: usize,
        hex: BTreeMap<String, String>,
    },
    Json {
        json: Value,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Opened {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    look: Option<Answer<Look>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exclusively: Option<Answer<Done>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Done {
    Done,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    /// None where a signal ended it.
    status: Option<i32>,
    stdout: Bytes,
}

/// A mount table: those of its lines that speak of devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    foreign_pid: Option<u32>,
    lines: Answer<Vec<String>>,
}

impl From<&io::Error> for Trouble {
    fn from(error: &io::Error) -> Self {
        let errno = error.raw_os_error();
        let kind = match error.kind() {
            _ if errno.is_some() => None,
            io::ErrorKind::NotFound => Some(Kind::NotFound),
            io::ErrorKind::TimedOut => Some(Kind::TimedOut),
            _ => None,
        };
        Self {
            doing: None,
            errno,
            kind,
            text: error.to_string(),
        }
    }
}

impl From<&Trouble> for io::Error {
    fn from(trouble: &Trouble) -> Self {
        let kind = match (trouble.errno, trouble.kind) {
            (Some(errno), _) => return Self::from_raw_os_error(errno),
            (None, Some(Kind::NotFound)) => io::ErrorKind::NotFound,
            (None, Some(Kind::TimedOut)) => io::ErrorKind::TimedOut,
            (None, None) => io::ErrorKind::Other,
        };
        Self::new(kind, trouble.text.clone())
    }
}

impl<T> Answer<T> {
    fn of(result: Result<T, &io::Error>) -> Self {
        match result {
            Ok(told) => Self::Told(told),
            Err(error) => Self::Failed { failed: error.into() },
        }
    }

    fn get(&self) -> io::Result<&T> {
        match self {
            Self::Told(told) => Ok(told),
            Self::Failed { failed } => Err(failed.into()),
        }
    }
}

const ROW_BYTES: usize = 32;

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        let plain = |text: &&str| !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t');
        if let Some(text) = std::str::from_utf8(bytes).ok().filter(plain) {
            return Self::Text(text.to_owned());
        }
        let rows = bytes.chunks(ROW_BYTES).zip((0..).step_by(ROW_BYTES));
        let hex = rows
            .filter(|(row, _)| row.iter().any(|byte| *byte != 0))
            .map(|(row, at)| (format!("{at:04x}"), hex(row)))
            .collect();
        Self::Rows {
            length: bytes.len(),
            hex,
        }
    }

    /// A program's output: as JSON, where that is what it is.
    fn of_output(bytes: &[u8]) -> Self {
        match serde_json::from_slice(bytes) {
            Ok(json @ Value::Object(_)) => Self::Json { json },
            _ => Self::of(bytes),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Json { json } => json.to_string().into_bytes(),
            Self::Rows { length, hex } => {
                let mut bytes = vec![0; (*length).min(MAX_BYTES)];
                for (at, row) in hex {
                    let at = usize::from_str_radix(at, 16).unwrap_or(usize::MAX);
                    for (slot, byte) in bytes.iter_mut().skip(at).zip(unhex(row)) {
                        *slot = byte;
                    }
                }
                bytes
            }
        }
    }
}

/// More than anything that is recorded; what a file claims beyond it is not believed.
const MAX_BYTES: usize = 64 << 10;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of hexadecimal digits; what is no digit counts as 0.
fn unhex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits
        .chars()
        .map(|c| c.to_digit(16).unwrap_or(0) as u8)
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect()
}

impl Bundle {
    fn new() -> Self {
        Self {
            bundle: VERSION,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            ..Self::default()
        }
    }

    /// The file's text.
    fn text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// Reads a file's text; none where it is no bundle at all.
    fn parse(bytes: &[u8]) -> Option<Result<Self, String>> {
        #[derive(Deserialize)]
        struct Head {
            bundle: Value,
        }
        let head: Head = serde_json::from_slice(bytes).ok()?;
        if head.bundle != VERSION {
            let detail = format!("a bundle of version {}: this agent reads {VERSION}", head.bundle);
            return Some(Err(detail));
        }
        Some(serde_json::from_slice(bytes).map_err(|error| error.to_string()))
    }

    /// The machine in this bundle.
    fn machine(self) -> Linux {
        let config = LinuxConfig {
            include_loop: (!self.included.is_empty()).then(|| "/".into()),
            ..LinuxConfig::default()
        };
        Linux::over(Arc::new(Replay::new(self)), config)
    }
}

/// The machine that a bundle's text holds; none where it is no bundle.
pub(super) fn machine(bytes: &[u8]) -> Option<Result<Linux, String>> {
    Some(Bundle::parse(bytes)?.map(Bundle::machine))
}

/// What a capture gave.
#[derive(Debug)]
pub struct Captured {
    /// The bundle's text.
    pub text: String,
    /// Kernel names of the drives in it.
    pub drives: Vec<String>,
    /// How many words were replaced.
    pub replaced: usize,
    /// What could not be observed, in the bundle's words.
    pub faults: Vec<Fault>,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The drives could not be listed.
    #[error("{}", .0.detail)]
    List(Fault),
    /// The bundle could not be written as JSON.
    #[error(transparent)]
    Format(#[from] serde_json::Error),
    /// A name was found where none was looked for: nothing is given away.
    #[error("{0} holds a serial number or an id that is replaced elsewhere: please report this")]
    Left(String),
}

/// Probes every drive of the machine once and remembers what it answered.
///
/// It may run beside a running agent. Devices are only opened to read, and a disk that sleeps, or of which nobody can
/// say whether it does, is left alone.
///
/// # Errors
/// Where the drives cannot be listed; everything else that fails is a fault.
pub fn capture(config: LinuxConfig) -> Result<Captured, CaptureError> {
    let recorder = Arc::new(Recorder::new(Live::new(&config.host_root)));
    let linux = Linux::over(Arc::clone(&recorder) as _, config);
    let drives = linux.list().map_err(CaptureError::List)?;
    let around = linux.surroundings();
    let depth = Depth {
        reread: true,
        health: true,
        wake: false,
    };
    for name in &drives {
        linux.probe(name, &around, depth, Instant::now());
    }
    let (bundle, words) = anonymise::anonymise(&recorder.take());
    if let Some(place) = left(&serde_json::to_value(&bundle)?, &words) {
        return Err(CaptureError::Left(place));
    }
    let text = bundle.text()?;
    // What it shows is what the machine showed, in other words.
    let replay = bundle.machine();
    let around = replay.surroundings();
    let mut faults = around.faults.clone();
    for name in &drives {
        let device = replay.probe(name, &around, depth, Instant::now());
        faults.extend(device.into_iter().flat_map(|device| device.faults));
    }
    Ok(Captured {
        text,
        drives,
        replaced: words.replaced(),
        faults,
    })
}

/// Where in the bundle a name is left that ought to have been replaced.
fn left(value: &Value, words: &Words) -> Option<String> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(key, value)| {
            // A key may be what is left: it is not told.
            if words.leaks(key) {
                return Some("a key".to_owned());
            }
            left(value, words).map(|below| format!("{key}: {below}"))
        }),
        Value::Array(values) => values.iter().find_map(|value| left(value, words)),
        Value::String(text) => words.leaks(text).then(|| "a text".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
