//! A hostile drive as an input: which of its checksums are to be made right, its size, and stretches of bytes on it;
//! everything else is zero.

use crate::rng::Rng;

/// A drive that is zero but for some stretches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Bit 0: blocks of 4096 bytes. Bits 1 and 2: the checksums of the primary and of the backup GPT are made right.
    /// Bit 3: reading fails beyond the middle.
    pub flags: u8,
    /// Bytes.
    pub size: u64,
    /// Offset and bytes.
    pub stretches: Vec<(u64, Vec<u8>)>,
}

impl Image {
    /// Reads an input; whatever it is, it is a drive.
    #[must_use]
    pub fn parse(input: &[u8]) -> Self {
        let number = |at: usize| {
            let bytes = input.get(at..).and_then(|rest| rest.first_chunk::<8>());
            bytes.map(|bytes| u64::from_le_bytes(*bytes))
        };
        let mut image = Self {
            flags: input.first().copied().unwrap_or_default(),
            size: number(1).unwrap_or_default(),
            stretches: Vec::new(),
        };
        let mut at = 9;
        while let (Some(offset), Some(length)) = (number(at), input.get(at + 8..).and_then(|r| r.first_chunk::<2>())) {
            let length = usize::from(u16::from_le_bytes(*length));
            let rest = input.get(at + 10..).unwrap_or_default();
            let bytes = rest.get(..length.min(rest.len())).unwrap_or_default();
            image.stretches.push((offset, bytes.to_vec()));
            at += 10 + length;
        }
        image
    }

    /// The input that is this drive.
    #[must_use]
    pub fn print(&self) -> Vec<u8> {
        let mut input = vec![self.flags];
        input.extend_from_slice(&self.size.to_le_bytes());
        for (offset, bytes) in &self.stretches {
            for (part, chunk) in bytes.chunks(usize::from(u16::MAX)).enumerate() {
                let shift = (part * usize::from(u16::MAX)) as u64;
                input.extend_from_slice(&offset.wrapping_add(shift).to_le_bytes());
                input.extend_from_slice(&(chunk.len() as u16).to_le_bytes());
                input.extend_from_slice(chunk);
            }
        }
        input
    }
}

/// Where formats keep things.
const PLACES: &[u64] = &[
    0, 3, 32, 54, 82, 440, 446, 510, 512, 516, 1024, 1080, 1536, 2048, 4086, 4096, 4120, 8192, 8244, 16384, 32768, 32769,
    65526, 65536, 65600, 131_072, 1 << 20, 2 << 20, 8193 << 10, 32 << 20, 64 << 20, 128 << 20,
];

/// One change of a drive.
pub fn change(rng: &mut Rng, input: &[u8], other: &[u8], words: &[&str]) -> Vec<u8> {
    let mut image = Image::parse(input);
    let stranger = Image::parse(other);
    let which = rng.below(image.stretches.len());
    match rng.below(10) {
        0 => image.flags = rng.number() as u8,
        1 => image.size = size(rng, image.size),
        2 => {
            if let Some((offset, _)) = image.stretches.get_mut(which) {
                *offset = place(rng, image.size);
            }
        }
        3 if !image.stretches.is_empty() => drop(image.stretches.remove(which)),
        4 => image.stretches.extend(rng.pick(&stranger.stretches).cloned()),
        5 => {
            let word = rng.pick(words).copied().unwrap_or_default();
            let offset = place(rng, image.size);
            image.stretches.push((offset, word.bytes().collect()));
        }
        6 => {
            let offset = place(rng, image.size);
            image.stretches.push((offset, vec![rng.number() as u8]));
        }
        _ => {
            if let Some((_, bytes)) = image.stretches.get_mut(which) {
                for _ in 0..=rng.below(3) {
                    super::bytes(rng, bytes, &[], words);
                }
            }
        }
    }
    image.print()
}

fn size(rng: &mut Rng, size: u64) -> u64 {
    match rng.below(6) {
        0 => rng.extreme(),
        1 => size.wrapping_add(512),
        2 => size.wrapping_sub(512),
        3 => size / 2,
        4 => 1 << (9 + rng.below(40)),
        _ => (32 << 20) + rng.below(64 << 20) as u64,
    }
}

fn place(rng: &mut Rng, size: u64) -> u64 {
    let place = rng.pick(PLACES).copied().unwrap_or_default();
    match rng.below(4) {
        0 => size.wrapping_sub(place),
        1 => rng.number() % size.max(1),
        _ => place,
    }
}
