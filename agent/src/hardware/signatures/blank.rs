//! What has to be zero for a device to be called blank, and where it is looked at.
//!
//! Two ways of reading. A [`Reading::GLANCE`] is for the picture: cheap enough for every change of a drive. A
//! [`Reading::PROOF`] is for the moment before the first write: a device of up to 16 GiB is read whole. A larger one
//! cannot be (28 hours for a disk of 20 TB): of it the first and the last 64 MiB are read, and 4096 samples of 64 KiB,
//! one in each of 4096 equal stretches, half a minute on a spinning disk. So on a large device data in one piece of
//! a 2048th of its size (2 GiB of 4 TiB) is always found, data in a thousandth of its places with 98 of 100 chances,
//! and less than that may be missed: whoever wrote it left neither a known signature nor a byte at either end.

use super::Source;

/// Bytes at either end of the device that must be zero for it to look blank.
pub const EDGE_BYTES: u64 = 16 << 20;
const CHUNK_BYTES: u64 = 1 << 20;

/// How much of a device is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Devices of up to this many bytes are read whole.
    pub whole: u64,
    /// Bytes that are read at either end of a larger one.
    pub edge: u64,
    /// Number of samples between the edges.
    pub samples: u64,
    /// Size of a sample, and what its offset is a multiple of.
    pub sample: u64,
}

impl Reading {
    /// For the picture: about 33 MiB.
    pub const GLANCE: Self = Self {
        whole: 2 * EDGE_BYTES,
        edge: EDGE_BYTES,
        samples: 256,
        sample: 4096,
    };
    /// For the proof: up to 16 GiB, of larger devices 384 MiB.
    pub const PROOF: Self = Self {
        whole: 16 << 30,
        edge: 64 << 20,
        samples: 4096,
        sample: 64 << 10,
    };
}

/// Offset of the first non-zero byte among those that are read.
pub(super) fn first_data<S: Source + ?Sized>(
    source: &S,
    size: u64,
    reading: Reading,
) -> Result<Option<u64>, String> {
    let mut buf = vec![0_u8; CHUNK_BYTES as usize];
    let mut probe = |offset: u64, length: u64| -> Result<Option<u64>, String> {
        let part = buf.get_mut(..length as usize).unwrap_or_default();
        source
            .read_exact_at(offset, part)
            .map_err(|error| format!("reading {length} bytes at byte {offset}: {error}"))?;
        Ok(first_nonzero(part).map(|at| offset + at as u64))
    };
    let (head_end, tail_start) = if size <= reading.whole {
        (size, size)
    } else {
        let head_end = reading.edge.min(size);
        (head_end, size.saturating_sub(reading.edge).max(head_end))
    };
    for (start, end) in [(0, head_end), (tail_start, size)] {
        let mut at = start;
        while at < end {
            let length = CHUNK_BYTES.min(end - at);
            if let Some(found) = probe(at, length)? {
                return Ok(Some(found));
            }
            at += length;
        }
    }
    for at in sample_offsets(head_end, tail_start, reading) {
        if let Some(found) = probe(at, reading.sample)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Offsets of the samples in `start..end`, aligned, all within it, one in each of equal stretches. Where in its
/// stretch differs from one to the next, so that data at even distances is not passed over by all of them; equal
/// devices are always sampled at equal places.
pub(super) fn sample_offsets(start: u64, end: u64, reading: Reading) -> impl Iterator<Item = u64> {
    let Reading { samples, sample, .. } = reading;
    let first = start.div_ceil(sample);
    let room = (end / sample).saturating_sub(first);
    let count = samples.min(room);
    // u128 because of exabyte devices.
    let border = move |n: u64| (u128::from(room) * u128::from(n) / u128::from(count.max(1))) as u64;
    (0..count).map(move |n| {
        let width = (border(n + 1) - border(n)).max(1);
        (first + border(n) + scatter(n) % width) * sample
    })
}

/// A number that looks random and is not (the finalizer of splitmix64).
const fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    // Stretch by stretch, because comparing slices is fast: this runs over gigabytes.
    let zero = |chunk: &&[u8]| ZEROS.get(..chunk.len()) == Some(*chunk);
    let clean = bytes.chunks(ZEROS.len()).take_while(zero).map(<[u8]>::len).sum();
    bytes
        .get(clean..)?
        .iter()
        .position(|byte| *byte != 0)
        .map(|at| clean + at)
}
