//! A bundle without what could tell whose it is.
//!
//! Every place of a bundle is one of these: a name or an id, which is replaced wherever else it stands too; a model,
//! a firmware, a number or a word of the kernel, which stays; or a text of which nothing is known, of which only
//! common words stay. Bytes of which nothing is known become zeros. It reads and writes nothing but the bundle.

use std::collections::BTreeMap;

use super::words::Words;
use super::{Answer, Bundle, Bytes, Opened, Run, Table, hex, texts, unhex};
use crate::hardware::signatures::Findings;

/// The bundle with other words, and which they are.
pub(super) fn anonymise(bundle: &Bundle) -> (Bundle, Words) {
    let mut words = Words::default();
    // Only takes note of the words.
    rewrite(bundle, &mut words);
    words.settle();
    (rewrite(bundle, &mut words), words)
}

fn rewrite(bundle: &Bundle, words: &mut Words) -> Bundle {
    Bundle {
        bundle: bundle.bundle,
        agent: bundle.agent.clone(),
        files: map(&bundle.files, |path, answer| {
            let bytes = told(answer, words, |bytes, words| file(path, bytes, words));
            (path.clone(), bytes)
        }),
        folders: map(&bundle.folders, |path, names| (words.bus(path), names.clone())),
        links: map(&bundle.links, |path, to| (words.bus(path), words.bus(to))),
        inodes: map(&bundle.inodes, |path, inode| {
            let other = if path.starts_with("/sys/") {
                words.bus(path)
            } else {
                words.path(path)
            };
            (other, *inode)
        }),
        included: bundle.included.iter().map(|path| words.path(path)).collect(),
        devices: map(&bundle.devices, |path, opened| {
            (path.clone(), device(opened, words))
        }),
        nvme: map(&bundle.nvme, |node, answer| {
            let answers = told(answer, words, |answers, words| {
                map(answers, |question, answer| {
                    let bytes = told(answer, words, |bytes, words| nvme(question, bytes, words));
                    (question.clone(), bytes)
                })
            });
            (node.clone(), answers)
        }),
        programs: map(&bundle.programs, |line, answer| {
            (line.clone(), told(answer, words, run))
        }),
        mounts: bundle.mounts.iter().map(|table| mounts(table, words)).collect(),
    }
}

fn map<T, U>(
    of: &BTreeMap<String, T>,
    mut each: impl FnMut(&String, &T) -> (String, U),
) -> BTreeMap<String, U> {
    of.iter().map(|(key, value)| each(key, value)).collect()
}

fn told<T, U>(answer: &Answer<T>, words: &mut Words, of: impl FnOnce(&T, &mut Words) -> U) -> Answer<U> {
    match answer {
        Answer::Told(told) => Answer::Told(of(told, words)),
        Answer::Failed { failed } => {
            let mut failed = failed.clone();
            failed.text = words.loosely(&failed.text);
            Answer::Failed { failed }
        }
    }
}

fn file(path: &str, content: &Bytes, words: &mut Words) -> Bytes {
    let bytes = content.bytes();
    let attribute = path
        .strip_prefix("/sys/class/block/")
        .or_else(|| path.strip_prefix("/sys/class/nvme/"))
        .and_then(|below| below.split_once('/'))
        .map(|(_, attribute)| attribute);
    match (attribute, content) {
        (Some("device/vpd_pg80"), _) => unit_serial(&bytes, words),
        // Rotation rate and form factor.
        (Some("device/vpd_pgb1"), _) => content.clone(),
        (_, Bytes::Rows { length, .. }) => Bytes::of(&vec![0; *length]),
        (Some(attribute), _) => {
            let text = String::from_utf8_lossy(&bytes);
            Bytes::Text(texts::attribute(attribute, &text, words))
        }
        (None, _) => {
            let text = String::from_utf8_lossy(&bytes);
            Bytes::Text(match path {
                "/proc/swaps" => texts::swaps(&text, words),
                _ if path.starts_with("/run/udev/data/") => texts::udev(&text, words),
                _ => words.strictly(&text),
            })
        }
    }
}

/// VPD page 0x80: four bytes of header, then the serial number.
fn unit_serial(page: &[u8], words: &mut Words) -> Bytes {
    let (header, text) = page.split_at_checked(4).unwrap_or((page, &[]));
    Bytes::of(&[header, &field(text, words)].concat())
}

/// A field of text within bytes: as long as before.
fn field(bytes: &[u8], words: &mut Words) -> Vec<u8> {
    let text: String = bytes
        .iter()
        .map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' })
        .collect();
    words.field(&text).into_bytes()
}

fn nvme(question: &str, content: &Bytes, words: &mut Words) -> Bytes {
    let mut bytes = content.bytes();
    match question {
        // It has counters and nothing else.
        "SMART log" => return content.clone(),
        "identify controller" => {
            for (from, count) in [(24, 40), (64, 8)] {
                let text = bytes.get(from..from + count).unwrap_or_default();
                words.plain(&String::from_utf8_lossy(text));
            }
            // Serial number; NQN of the subsystem; globally unique id of the replaceable unit; what the vendor likes.
            within(&mut bytes, 4, 24, |serial| field(serial, words));
            within(&mut bytes, 768, 1024, |nqn| {
                let text = String::from_utf8_lossy(nqn);
                words.strictly(&text).into_bytes()
            });
            within(&mut bytes, 112, 128, |id| unhex(&words.id(&hex(id))));
            within(&mut bytes, 3072, 4096, |vendor| vec![0; vendor.len()]);
        }
        _ => bytes.fill(0),
    }
    Bytes::of(&bytes)
}

fn within(bytes: &mut [u8], from: usize, to: usize, replace: impl FnOnce(&[u8]) -> Vec<u8>) {
    let to = to.min(bytes.len());
    if let Some(part) = bytes.get_mut(from..to) {
        let new = replace(part);
        for (slot, byte) in part.iter_mut().zip(new) {
            *slot = byte;
        }
    }
}

fn device(opened: &Opened, words: &mut Words) -> Opened {
    Opened {
        look: opened.look.as_ref().map(|look| {
            told(look, words, |look, words| {
                let mut look = look.clone();
                findings(&mut look.findings, words);
                look
            })
        }),
        exclusively: opened
            .exclusively
            .as_ref()
            .map(|answer| told(answer, words, |done, _| *done)),
    }
}

fn findings(findings: &mut Findings, words: &mut Words) {
    for signature in &mut findings.signatures {
        signature.description = texts::description(&signature.description, words);
        replace(&mut signature.filesystem_uuid, words);
    }
    if let Some(table) = &mut findings.table {
        replace(&mut table.uuid, words);
        for entry in &mut table.entries {
            replace(&mut entry.uuid, words);
            entry.name = words.field(&entry.name);
        }
    }
    if let Some(mark) = &mut findings.mark {
        mark.member_id = words.id(&mark.member_id);
        mark.label = words.field(&mark.label);
    }
}

fn replace(id: &mut Option<String>, words: &mut Words) {
    *id = id.as_deref().map(|id| words.id(id));
}

fn run(run: &Run, words: &mut Words) -> Run {
    let stdout = match &run.stdout {
        Bytes::Json { json } => Bytes::Json {
            json: texts::json("", json, words),
        },
        Bytes::Text(text) => Bytes::Text(words.loosely(text)),
        Bytes::Rows { length, .. } => Bytes::of(&vec![0; *length]),
    };
    Run {
        status: run.status,
        stdout,
    }
}

fn mounts(table: &Table, words: &mut Words) -> Table {
    Table {
        path: table.path.clone(),
        foreign_pid: table.foreign_pid,
        lines: told(&table.lines, words, |lines, words| {
            lines.iter().map(|line| texts::mount(line, words)).collect()
        }),
    }
}
