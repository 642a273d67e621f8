//! Reading a drive past the page cache: what the medium says now, not what somebody read of it a while ago.
//!
//! A page that was cached before another path, another node or the backing file changed the medium still shows the
//! old bytes; a proof must not rest on it. Bytes that another program wrote and the kernel still holds back are
//! seen: it writes them out before such a read. It only reads.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use crate::hardware::signatures::Source;

/// Address, offset and length are multiples of this: it suits direct I/O on any drive.
const PAGE: usize = 4096;

/// The same device as an open descriptor's, read directly.
pub(super) struct Direct {
    file: File,
    /// Kept between reads: a proof makes thousands of them.
    buffer: RefCell<Vec<u8>>,
}

impl Direct {
    /// Opens the very device of `drive` once more, read-only and past the page cache.
    pub fn of(drive: &File) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", drive.as_raw_fd());
        let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if file.metadata()?.rdev() != drive.metadata()?.rdev() {
            return Err(io::Error::other("the device was exchanged while it was open"));
        }
        Ok(Self {
            file,
            buffer: RefCell::default(),
        })
    }
}

impl Source for Direct {
    fn read_exact_at(&self, offset: u64, wanted: &mut [u8]) -> io::Result<()> {
        let start = offset / PAGE as u64 * PAGE as u64;
        let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
        let span = (skip + wanted.len()).div_ceil(PAGE) * PAGE;
        let mut buffer = self.buffer.borrow_mut();
        if buffer.len() < span + PAGE {
            buffer.resize(span + PAGE, 0);
        }
        let shift = buffer.as_ptr().align_offset(PAGE);
        let aligned = buffer
            .get_mut(shift..shift + span)
            .ok_or_else(|| io::Error::other("no aligned buffer"))?;
        let mut filled = 0;
        while filled < skip + wanted.len() {
            let rest = aligned.get_mut(filled..).unwrap_or_default();
            match self.file.read_at(rest, start + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        let found = aligned
            .get(skip..skip + wanted.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        wanted.copy_from_slice(found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_stretch_is_read_whatever_its_alignment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drive");
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        let direct = match Direct::of(&file) {
            Ok(direct) => direct,
            // tmpfs of older kernels knows no direct I/O.
            Err(error) if error.raw_os_error() == Some(22) => return,
            Err(error) => panic!("{error}"),
        };
        for (offset, length) in [(0, 10), (4095, 2), (513, 9000), (99_000, 1000), (0, 100_000)] {
            let mut found = vec![0; length];
            direct.read_exact_at(offset as u64, &mut found).unwrap();
            assert!(found == bytes[offset..offset + length], "{offset}+{length}");
        }
        let mut beyond = [0; 10];
        assert!(direct.read_exact_at(99_995, &mut beyond).is_err());
    }
}
