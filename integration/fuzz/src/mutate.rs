//! From inputs that are known to new ones: bytes that are flipped, cut, doubled, spliced and overwritten with words
//! and extreme numbers; and, where the format is known, whole parts of it moved about.

pub mod drive;
pub mod frames;
pub mod json;

use crate::{Format, rng::Rng};

/// No input is longer.
pub const LONGEST: usize = 64 << 10;

/// What inputs are made of.
pub struct Maker<'a> {
    /// Inputs that are known.
    pub corpus: &'a [Vec<u8>],
    /// Words that the target's language is made of.
    pub words: &'a [&'static str],
    /// What the target reads.
    pub format: Format,
}

impl Maker<'_> {
    /// A new input.
    pub fn make(&self, rng: &mut Rng) -> Vec<u8> {
        let mut input = rng.pick(self.corpus).cloned().unwrap_or_default();
        let other = rng.pick(self.corpus).cloned().unwrap_or_default();
        if !rng.once_in(4) {
            match self.format {
                Format::Bytes | Format::Text => {}
                Format::Json => input = json::change(rng, &input, &other, self.words),
                Format::Http => input = http(rng, &input, &other, self.words),
                Format::Frames => input = frames::change(rng, &input, &other),
                Format::Drive => input = drive::change(rng, &input, &other, self.words),
            }
        }
        // Formats with a structure are broken by bytes less often, or nothing ever gets past the first check.
        let rounds = match self.format {
            Format::Bytes | Format::Text => 1 + rng.below(6),
            _ if rng.once_in(3) => 1 + rng.below(3),
            _ => 0,
        };
        for _ in 0..rounds {
            bytes(rng, &mut input, &other, self.words);
        }
        input.truncate(LONGEST);
        input
    }
}

/// One change of bytes.
pub fn bytes(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8], words: &[&str]) {
    let at = rng.below(input.len() + 1);
    let end = (at + rng.length(64)).min(input.len());
    match rng.below(14) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'\\', b' ', b'\n']).unwrap_or(&0);
            }
        }
        2 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = rng.number() as u8;
            }
        }
        3 | 4 => extreme_number(rng, input, at),
        5 => drop(input.drain(at.min(end)..end)),
        6 => {
            let twice = input.get(at.min(end)..end).unwrap_or_default().to_vec();
            insert(input, at, &twice);
        }
        7 => input.truncate(at),
        8 => {
            let from = rng.below(other.len() + 1);
            let to = (from + rng.length(512)).min(other.len());
            insert(input, at, other.get(from..to).unwrap_or_default());
        }
        9 => {
            let from = rng.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(other.get(from..).unwrap_or_default());
        }
        10 | 11 => {
            let word = rng.pick(words).copied().unwrap_or_default();
            if rng.once_in(2) {
                insert(input, at, word.as_bytes());
            } else {
                overwrite(input, at, word.as_bytes());
            }
        }
        12 => replace_digits(rng, input, at),
        _ => {
            let most = if rng.once_in(50) { 20_000 } else { 64 };
            let count = rng.length(most);
            let byte = rng.number() as u8;
            insert(input, at, &vec![byte; count]);
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, new: &[u8]) {
    if input.len() + new.len() <= LONGEST {
        let at = at.min(input.len());
        drop(input.splice(at..at, new.iter().copied()));
    }
}

fn overwrite(input: &mut [u8], at: usize, new: &[u8]) {
    for (slot, byte) in input.iter_mut().skip(at).zip(new) {
        *slot = *byte;
    }
}

fn extreme_number(rng: &mut Rng, input: &mut [u8], at: usize) {
    let number = rng.extreme();
    let bytes = if rng.once_in(4) {
        number.to_be_bytes()
    } else {
        number.to_le_bytes()
    };
    let width = *rng.pick(&[1_usize, 2, 4, 8]).unwrap_or(&8);
    let bytes = if rng.once_in(4) {
        bytes.get(8 - width..)
    } else {
        bytes.get(..width)
    };
    overwrite(input, at, bytes.unwrap_or_default());
}

/// The first number in digits after `at` becomes another one.
fn replace_digits(rng: &mut Rng, input: &mut Vec<u8>, at: usize) {
    let digit = |byte: &u8| byte.is_ascii_digit();
    let Some(start) = input.iter().skip(at).position(digit).map(|offset| at + offset) else {
        return;
    };
    let count = input.iter().skip(start).take_while(|byte| digit(byte)).count();
    let number = number_text(rng);
    drop(input.splice(start..start + count, number.bytes()));
}

/// A number as people and programs write them.
pub fn number_text(rng: &mut Rng) -> String {
    match rng.below(12) {
        0 => "-1".to_owned(),
        1 => "18446744073709551616".to_owned(),
        2 => "9223372036854775808".to_owned(),
        3 => "-9223372036854775809".to_owned(),
        4 => "1e999".to_owned(),
        5 => "0.1".to_owned(),
        6 => "340282366920938463463374607431768211456".to_owned(),
        7 => "-0".to_owned(),
        8 => "9007199254740993".to_owned(),
        9 => format!("{}e{}", rng.below(10), rng.below(400)),
        _ => rng.extreme().to_string(),
    }
}

/// A request (or several, see [`crate::http`]): its head by words and bytes, its body as JSON.
fn http(rng: &mut Rng, input: &[u8], other: &[u8], words: &[&str]) -> Vec<u8> {
    let mut requests = crate::http::split(input);
    let others = crate::http::split(other);
    if requests.is_empty() {
        requests.push(Vec::new());
    }
    let which = rng.below(requests.len());
    let stranger = rng.pick(&others).cloned().unwrap_or_default();
    match rng.below(12) {
        0 => requests.insert(which, stranger),
        1 => drop(requests.remove(which)),
        2 => {
            let to = rng.below(requests.len());
            requests.swap(which, to);
        }
        _ => {
            if let Some(request) = requests.get_mut(which) {
                *request = one_request(rng, request, &stranger, words);
            }
        }
    }
    requests.join(crate::http::BETWEEN)
}

fn one_request(rng: &mut Rng, request: &[u8], stranger: &[u8], words: &[&str]) -> Vec<u8> {
    let (head, body) = crate::http::head_and_body(request);
    let (other_head, other_body) = crate::http::head_and_body(stranger);
    let (mut head, mut body) = (head.to_vec(), body.to_vec());
    match rng.below(8) {
        0 => head = other_head.to_vec(),
        1 => body = other_body.to_vec(),
        2 | 3 => {
            for _ in 0..=rng.below(2) {
                bytes(rng, &mut head, other_head, words);
            }
        }
        _ => body = json::change(rng, &body, other_body, words),
    }
    [head, body].join(b"\n\n".as_slice())
}
