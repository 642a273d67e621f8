//! Other words for those that could tell whose a machine is: serial numbers, unique ids, labels, names.
//!
//! A word is a run of letters and digits, or a UUID; an id is the same word however it is written (case, dashes,
//! `0x`). Equal words get equal replacements and different ones different, wherever they stand; the length stays, a
//! digit stays a digit, a letter a letter of its case, hexadecimal stays hexadecimal. What says nothing ("unknown", all
//! zero) stays as it is. The replacements come of a random key that is kept nowhere.
//!
//! Two passes over the same texts: the first only takes note of the words, [`Words::settle`] gives each its
//! replacement, the second writes. So a serial number is known in a text that comes before its own field.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};

use crate::hardware::sysfs::meaningful;

mod kept;
mod pieces;

use kept::{is_common, is_folder, is_kernel_name, is_short, looks_like_id};
use pieces::{Piece, pieces, words};

/// Which words are known, and what stands for them.
#[derive(Debug, Default)]
pub(super) struct Words {
    known: BTreeMap<String, Word>,
    /// Whole values of fields whose words were replaced, as words: swept as a whole out of texts.
    values: BTreeSet<Vec<String>>,
    /// Words of models, vendors and firmware: these stay.
    plain: BTreeSet<String>,
    taken: BTreeSet<String>,
    settled: bool,
    key: RandomState,
}

#[derive(Debug, Default)]
struct Word {
    /// It was the content of a field that names something, and not only part of a text.
    field: bool,
    /// Characters at the beginning that stay: whose product it is.
    vendor: usize,
    replacement: String,
}

impl Words {
    /// A field that names something: every word of it is replaced.
    pub(super) fn field(&mut self, text: &str) -> String {
        if meaningful(text).is_none() {
            return text.to_owned();
        }
        let value: Vec<String> = words(text).map(canonical).collect();
        if !self.settled {
            self.values.insert(value);
        }
        self.each(text, |_| true)
    }

    /// A field that holds one id in hexadecimal digits, whatever stands between them.
    pub(super) fn id(&mut self, text: &str) -> String {
        self.id_of(text, 0)
    }

    /// A world-wide name: the part that says whose product it is stays.
    pub(super) fn wwn(&mut self, text: &str) -> String {
        let trimmed = text.trim();
        if let Some(rest) = trimmed.strip_prefix("nvme.") {
            return text.replacen(rest, &self.nvme_wwid(rest), 1);
        }
        if trimmed.starts_with("t10.") {
            return self.strictly(text);
        }
        let digits = canonical(bare(trimmed));
        let vendor = match (digits.len(), digits.as_bytes().first()) {
            (16, _) if trimmed.starts_with("eui.") => 6,
            (16, Some(b'5')) | (32, Some(b'6')) => 7,
            _ => 0,
        };
        self.id_of(text, vendor)
    }

    /// A model, vendor or firmware: it stays, and so do its words elsewhere.
    pub(super) fn plain(&mut self, text: &str) {
        self.plain.extend(words(text).map(canonical));
    }

    /// A path: the names of folders that every system has stay, and below `/dev` those that the kernel gives.
    pub(super) fn path(&mut self, text: &str) -> String {
        if let Some(mapped) = text.strip_prefix("/dev/mapper/") {
            return format!("/dev/mapper/{}", self.field(mapped));
        }
        let node = text.starts_with("/dev/");
        self.each(text, |word| !(is_folder(word) || node && is_kernel_name(word)))
    }

    /// A path below `/sys`: only what is an id in it is replaced.
    pub(super) fn bus(&mut self, text: &str) -> String {
        self.sweep(text, |word| word.len() >= 12 && looks_like_id(word))
    }

    /// A text of which nothing is known: only what is known to be common or plain stays.
    pub(super) fn strictly(&mut self, text: &str) -> String {
        self.sweep(text, |word| !is_short(word))
    }

    /// A text in words: what was a field elsewhere is replaced, and what looks like an id.
    pub(super) fn loosely(&mut self, text: &str) -> String {
        self.sweep(text, looks_like_id)
    }

    /// Words that were replaced.
    pub(super) fn replaced(&self) -> usize {
        self.known.values().filter(|word| word.field).count()
    }

    /// Gives every word that was noted its replacement.
    pub(super) fn settle(&mut self) {
        self.settled = true;
        let originals: Vec<(String, usize)> = self
            .known
            .iter()
            .map(|(original, word)| (original.clone(), word.vendor))
            .collect();
        for (original, vendor) in originals {
            let replacement = self.choose(&original, vendor);
            if let Some(word) = self.known.get_mut(&original) {
                word.replacement = replacement;
            }
        }
    }

    /// Whether a word of the text is one that ought to have been replaced, and is long enough to be sure of it.
    pub(super) fn leaks(&self, text: &str) -> bool {
        words(text).map(canonical).any(|word| {
            let sure = word.len() >= 8 && word.chars().any(|c| c.is_ascii_digit());
            let own = self.known.get(&word).is_some_and(|known| known.field);
            sure && own && !self.is_plain(&word) && !is_kernel_name(&word) && !self.taken.contains(&word)
        })
    }

    fn id_of(&mut self, text: &str, vendor: usize) -> String {
        let id = bare(text.trim_matches(|c: char| c.is_whitespace() || c == '\0'));
        let is_id = id
            .chars()
            .all(|c| c.is_ascii_hexdigit() || matches!(c, '-' | ':' | ' '));
        if meaningful(text).is_none() {
            return text.to_owned();
        }
        if !is_id {
            return self.field(text);
        }
        if !self.settled {
            self.values.insert(vec![canonical(id)]);
        }
        text.replacen(id, &self.replace(id, true, vendor), 1)
    }

    /// `<vendor>-<serial>-<model>-<namespace>`, serial and model as hexadecimal digits of their text.
    fn nvme_wwid(&mut self, rest: &str) -> String {
        let parts: Vec<&str> = rest.split('-').collect();
        if let [vendor, serial, rest @ ..] = parts.as_slice()
            && let Some(text) = ascii(serial)
        {
            let serial = super::hex(self.field(&text).as_bytes());
            return [&[*vendor, &serial], rest].concat().join("-");
        }
        self.field(rest)
    }

    fn sweep(&mut self, text: &str, unknown: impl Fn(&str) -> bool) -> String {
        let pieces = pieces(text);
        let found: Vec<String> = words(text).map(canonical).collect();
        let mut whole = vec![false; found.len()];
        for value in &self.values {
            let common = value
                .iter()
                .all(|word| self.is_plain(word) || is_kernel_name(word));
            if common || value.iter().map(String::len).sum::<usize>() < 4 {
                continue;
            }
            for (at, _) in found
                .windows(value.len().max(1))
                .enumerate()
                .filter(|(_, window)| *window == value.as_slice())
            {
                whole
                    .iter_mut()
                    .skip(at)
                    .take(value.len())
                    .for_each(|w| *w = true);
            }
        }
        let mut whole = whole.into_iter();
        let mut out = String::with_capacity(text.len());
        for piece in pieces {
            match piece {
                Piece::Between(text) => out.push_str(text),
                Piece::Word(word) => {
                    let whole = whole.next().unwrap_or(false);
                    out.push_str(&self.swept(word, whole, &unknown));
                }
            }
        }
        out
    }

    fn swept(&mut self, word: &str, whole: bool, unknown: impl Fn(&str) -> bool) -> String {
        let name = canonical(word);
        if whole {
            return self.replace(word, true, 0);
        }
        // The hexadecimal digits of a text that is known.
        if let Some(text) = ascii(word).filter(|text| text.len() >= 3) {
            let value: Vec<String> = words(&text).map(canonical).collect();
            if self.values.contains(&value) {
                return super::hex(self.field(&text).as_bytes());
            }
            if !value.is_empty() && value.iter().all(|word| self.is_plain(word)) {
                return word.to_owned();
            }
        }
        if self.is_plain(&name) && !self.known.get(&name).is_some_and(|known| known.field) {
            return word.to_owned();
        }
        let known = self.known.get(&name).is_some_and(|known| known.field);
        let swept = known && name.len() >= 4 && !is_common(&name) && !is_kernel_name(&name);
        if swept || (!known && !self.is_plain(&name) && !is_kernel_name(&name) && unknown(&name)) {
            self.replace(word, false, 0)
        } else {
            word.to_owned()
        }
    }

    fn is_plain(&self, word: &str) -> bool {
        let plain = |word: &str| is_common(word) || self.plain.contains(word);
        // udev writes `0ATA`, `1ATA` and `SATA` for a SCSI id of the vendor ATA.
        plain(word) || word.strip_prefix(['0', '1', 's']).is_some_and(plain)
    }

    /// The text with every word replaced that is `own`.
    fn each(&mut self, text: &str, own: impl Fn(&str) -> bool) -> String {
        let mut out = String::with_capacity(text.len());
        for piece in pieces(text) {
            match piece {
                Piece::Word(word) if own(&word.to_ascii_lowercase()) => {
                    out.push_str(&self.replace(word, true, 0));
                }
                Piece::Word(text) | Piece::Between(text) => out.push_str(text),
            }
        }
        out
    }

    fn replace(&mut self, written: &str, field: bool, vendor: usize) -> String {
        let name = canonical(written);
        if meaningful(&name).is_none() {
            return written.to_owned();
        }
        if !self.settled {
            let word = self.known.entry(name).or_default();
            word.field |= field;
            word.vendor = word.vendor.max(vendor);
            return written.to_owned();
        }
        if !self.known.contains_key(&name) {
            let replacement = self.choose(&name, vendor);
            let word = Word {
                field,
                vendor,
                replacement,
            };
            self.known.insert(name.clone(), word);
        }
        let replacement = self.known.get(&name).map_or("", |word| word.replacement.as_str());
        as_written(written, replacement)
    }

    /// A word of the same shape that nobody has, if it can be no original either.
    fn choose(&mut self, original: &str, vendor: usize) -> String {
        // Words of one or two characters may be all taken but the originals.
        const STRICT: u32 = 500;
        const TRIES: u32 = 5000;
        let mut candidate = String::new();
        for attempt in 0..TRIES {
            candidate = self.candidate(original, vendor, attempt);
            let original_too = self.known.contains_key(&candidate) || self.is_plain(&candidate);
            let free = !self.taken.contains(&candidate) && meaningful(&candidate).is_some();
            if free && (attempt > STRICT || !original_too) {
                break;
            }
        }
        self.taken.insert(candidate.clone());
        candidate
    }

    fn candidate(&self, original: &str, vendor: usize, attempt: u32) -> String {
        let hexadecimal = original.chars().all(|c| c.is_ascii_hexdigit());
        let letters = if hexadecimal { 6 } else { 26 };
        let replace = |(at, c): (usize, char)| {
            let chance = self.key.hash_one((original, attempt, at));
            let (first, count) = match c {
                _ if at < vendor => return c,
                '0'..='9' => (b'0', 10),
                _ => (b'a', letters),
            };
            char::from(first + (chance % count) as u8)
        };
        original.chars().enumerate().map(replace).collect()
    }
}

/// The word as every other way of writing it: lower case, no dashes.
fn canonical(word: &str) -> String {
    word.chars()
        .filter(|c| !matches!(c, '-' | ':' | ' '))
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// The replacement in the way that the word was written.
fn as_written(written: &str, replacement: &str) -> String {
    let mut with = replacement.chars();
    written
        .chars()
        .map(|c| match c {
            '-' | ':' | ' ' => c,
            _ => match with.next() {
                Some(new) if c.is_uppercase() => new.to_ascii_uppercase(),
                Some(new) => new,
                None => c,
            },
        })
        .collect()
}

/// Without what says which sort of id it is.
fn bare(text: &str) -> &str {
    ["naa.", "eui.", "uuid.", "0x", "0X"]
        .iter()
        .fold(text, |text, prefix| text.strip_prefix(prefix).unwrap_or(text))
}

/// The printable text that these hexadecimal digits are.
fn ascii(digits: &str) -> Option<String> {
    let hexadecimal = digits.len().is_multiple_of(2) && digits.chars().all(|c| c.is_ascii_hexdigit());
    let bytes = hexadecimal.then(|| super::unhex(digits))?;
    let text = String::from_utf8(bytes).ok()?;
    (!text.is_empty() && text.chars().all(|c| matches!(c, ' '..='~'))).then_some(text)
}

#[cfg(test)]
mod tests;
