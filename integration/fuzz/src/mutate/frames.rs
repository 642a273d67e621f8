//! Protobuf: an input is a list of messages, each with its length before it. Frames are moved about; fields of one
//! message are doubled, dropped, renumbered, exchanged and given extreme numbers, with all outer lengths set right.

use crate::rng::Rng;

/// Puts messages together as an input.
pub fn join<'a>(messages: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut input = Vec::new();
    for message in messages {
        write_varint(&mut input, message.len() as u64);
        input.extend_from_slice(message);
    }
    input
}

/// The messages of an input; one that is cut off is the last.
#[must_use]
pub fn split(mut input: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = read_varint(input) {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
        let (message, tail) = rest.split_at(length);
        messages.push(message);
        input = tail;
    }
    messages
}

#[derive(Clone, Debug)]
enum Payload {
    Varint(u64),
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Field {
    number: u64,
    payload: Payload,
}

/// One change of an input.
pub fn change(rng: &mut Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut messages: Vec<Vec<u8>> = split(input).into_iter().map(<[u8]>::to_vec).collect();
    let others = split(other);
    let which = rng.below(messages.len());
    match rng.below(8) {
        0 => {
            let stranger = rng.pick(&others).map(|m| m.to_vec()).unwrap_or_default();
            messages.insert(which.min(messages.len()), stranger);
        }
        1 if !messages.is_empty() => drop(messages.remove(which)),
        2 if !messages.is_empty() => {
            let to = rng.below(messages.len());
            messages.swap(which, to);
        }
        3 => {
            if let Some(twice) = messages.get(which).cloned() {
                messages.insert(which, twice);
            }
        }
        _ => {
            let stranger = rng.pick(&others).copied().unwrap_or_default();
            if let Some(message) = messages.get_mut(which) {
                *message = within(rng, message, stranger, 0);
            }
        }
    }
    join(messages.iter().map(Vec::as_slice))
}

/// One change of a message, at any depth.
pub fn within(rng: &mut Rng, message: &[u8], stranger: &[u8], depth: u32) -> Vec<u8> {
    let Some(mut fields) = parse(message) else {
        return message.to_vec();
    };
    let which = rng.below(fields.len());
    let foreign = parse(stranger).unwrap_or_default();
    let inner = match fields.get(which).map(|field| &field.payload) {
        Some(Payload::Bytes(bytes)) if depth < 6 && !rng.once_in(3) && parse(bytes).is_some() => Some(bytes.clone()),
        _ => None,
    };
    if let (Some(bytes), Some(field)) = (inner, fields.get_mut(which)) {
        let below = foreign.iter().find_map(|other| match &other.payload {
            Payload::Bytes(bytes) if other.number == field.number => Some(bytes.clone()),
            _ => None,
        });
        field.payload = Payload::Bytes(within(rng, &bytes, &below.unwrap_or_default(), depth + 1));
        return print(&fields);
    }
    alter(rng, &mut fields, which, &foreign);
    print(&fields)
}

fn alter(rng: &mut Rng, fields: &mut Vec<Field>, which: usize, foreign: &[Field]) {
    match rng.below(8) {
        0 if !fields.is_empty() => drop(fields.remove(which)),
        1 => {
            if let Some(field) = fields.get(which).cloned() {
                let most = if rng.once_in(20) { 3000 } else { 6 };
                let times = rng.length(most);
                fields.extend(std::iter::repeat_n(field, times));
            }
        }
        2 => {
            if let Some(field) = fields.get_mut(which) {
                field.number = 1 + rng.below(24) as u64;
            }
        }
        3 => fields.extend(rng.pick(foreign).cloned()),
        4 => {
            let number = 1 + rng.below(24) as u64;
            let payload = Payload::Varint(rng.extreme());
            fields.push(Field { number, payload });
        }
        _ => {
            let Some(field) = fields.get_mut(which) else { return };
            let swapped = foreign.iter().find(|other| other.number == field.number);
            match &mut field.payload {
                Payload::Varint(number) => *number = rng.extreme(),
                Payload::Bytes(bytes) => match swapped.map(|other| other.payload.clone()) {
                    Some(other) if rng.once_in(2) => field.payload = other,
                    _ => super::bytes(rng, bytes, &[], &["unknown", "0000000000000000", "naa.", "eui.", "../"]),
                },
                Payload::Fixed(bytes) => super::bytes(rng, bytes, &[], &[]),
            }
        }
    }
}

fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (tag, rest) = read_varint(bytes)?;
        let number = tag >> 3;
        let (payload, rest) = match tag & 7 {
            0 => {
                let (value, rest) = read_varint(rest)?;
                (Payload::Varint(value), rest)
            }
            1 => (Payload::Fixed(rest.get(..8)?.to_vec()), rest.get(8..)?),
            5 => (Payload::Fixed(rest.get(..4)?.to_vec()), rest.get(4..)?),
            2 => {
                let (length, rest) = read_varint(rest)?;
                let length = usize::try_from(length).ok()?;
                (Payload::Bytes(rest.get(..length)?.to_vec()), rest.get(length..)?)
            }
            _ => return None,
        };
        if number == 0 {
            return None;
        }
        fields.push(Field { number, payload });
        bytes = rest;
    }
    Some(fields)
}

fn print(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        let (kind, fixed) = match &field.payload {
            Payload::Varint(_) => (0, None),
            Payload::Bytes(_) => (2, None),
            Payload::Fixed(bytes) if bytes.len() == 8 => (1, Some(bytes)),
            Payload::Fixed(bytes) => (5, Some(bytes)),
        };
        write_varint(&mut bytes, (field.number << 3) | kind);
        match &field.payload {
            Payload::Varint(value) => write_varint(&mut bytes, *value),
            Payload::Bytes(inner) => {
                write_varint(&mut bytes, inner.len() as u64);
                bytes.extend_from_slice(inner);
            }
            Payload::Fixed(_) => bytes.extend_from_slice(fixed.map(Vec::as_slice).unwrap_or_default()),
        }
    }
    bytes
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index).min(63);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..).unwrap_or_default()));
        }
    }
    None
}

fn write_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value as u8) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
