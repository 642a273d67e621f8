//! A disk of paper: it remembers what was synced and what was only written, and fails at the operation that a test
//! names. What a power cut leaves of it is chosen by the test.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend;

use super::super::Place;

/// Sectors are written whole or not at all.
const SECTOR: usize = 512;

/// What goes wrong from some operation on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Every write says "no space".
    Full,
    /// Writes where there was something before still work: a file system has those blocks already.
    NoNewBlocks,
    /// One operation says "no space", the next works.
    Once,
    /// The power goes: nothing works any more.
    Cut,
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Default)]
struct Sheet {
    /// What surely survives.
    stable: Vec<u8>,
    /// What is read.
    live: Vec<u8>,
    /// The way from one to the other.
    unsynced: Vec<Op>,
    operations: u64,
    fault: Option<(Fault, u64)>,
    /// Up to here there were blocks when the disk filled up.
    blocks: u64,
    dead: bool,
}

/// Clones are one disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Paper(Arc<Mutex<Sheet>>);

fn apply(bytes: &mut Vec<u8>, op: &Op) {
    let length = |n: u64| usize::try_from(n).unwrap();
    match op {
        Op::Length(to) => bytes.resize(length(*to), 0),
        Op::Write(at, data) => {
            let (begin, end) = (length(*at), length(*at) + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[begin..end].copy_from_slice(data);
        }
    }
}

impl Paper {
    /// A disk with these bytes on it.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        let sheet = Sheet {
            live: bytes.clone(),
            stable: bytes,
            ..Sheet::default()
        };
        Self(Arc::new(Mutex::new(sheet)))
    }

    /// From the `after`-th operation from now on, this goes wrong.
    pub(super) fn fails(&self, fault: Fault, after: u64) {
        let mut sheet = self.0.lock();
        sheet.fault = Some((fault, sheet.operations + after));
        sheet.blocks = 0;
    }

    /// There is room again.
    pub(super) fn heals(&self) {
        self.0.lock().fault = None;
    }

    /// Whether the fault has struck.
    pub(super) fn struck(&self) -> bool {
        let sheet = self.0.lock();
        sheet.fault.is_some_and(|(_, at)| sheet.operations > at)
    }

    /// How a store gets at it.
    pub(super) fn place(&self) -> Place {
        let paper = self.clone();
        Place::other(Box::new(move || {
            Ok(redb::Builder::new().create_with_backend(paper.clone())?)
        }))
    }

    /// How many writes were not synced.
    pub(super) fn unsynced(&self) -> usize {
        self.0.lock().unsynced.len()
    }

    /// The disk after the power came back: of the writes that were not synced, those that `survives` names; of the
    /// one called `torn` only the first sectors.
    pub(super) fn after_the_cut(&self, survives: impl Fn(usize) -> bool, torn: Option<usize>) -> Self {
        let sheet = self.0.lock();
        let mut bytes = sheet.stable.clone();
        for (number, op) in sheet.unsynced.iter().enumerate() {
            match op {
                Op::Write(at, data) if torn == Some(number) => {
                    let kept = data.len() / 2 / SECTOR * SECTOR;
                    apply(&mut bytes, &Op::Write(*at, data[..kept].to_vec()));
                }
                op if survives(number) => apply(&mut bytes, op),
                _ => {}
            }
        }
        Self::of(bytes)
    }

    /// The disk as it would be read now, on another one.
    pub(super) fn copy(&self) -> Self {
        Self::of(self.0.lock().live.clone())
    }
}

impl Sheet {
    /// Counts one operation; whether it works.
    fn spend(&mut self, op: Option<&Op>) -> Result<(), Error> {
        if self.dead {
            return Err(ErrorKind::BrokenPipe.into());
        }
        self.operations += 1;
        let Some((fault, at)) = self.fault else {
            return Ok(());
        };
        if self.operations <= at {
            return Ok(());
        }
        match fault {
            Fault::Cut => {
                self.dead = true;
                self.unsynced.extend(op.cloned());
                Err(ErrorKind::BrokenPipe.into())
            }
            Fault::Once if self.operations > at + 1 => Ok(()),
            Fault::NoNewBlocks => {
                if self.blocks == 0 {
                    self.blocks = self.live.len() as u64;
                }
                let reaches = match op {
                    Some(Op::Write(offset, data)) => offset + data.len() as u64,
                    Some(Op::Length(to)) => *to,
                    None => 0,
                };
                if reaches > self.blocks {
                    return Err(ErrorKind::StorageFull.into());
                }
                Ok(())
            }
            Fault::Full | Fault::Once => Err(ErrorKind::StorageFull.into()),
        }
    }

    fn change(&mut self, op: Op) -> Result<(), Error> {
        self.spend(Some(&op))?;
        apply(&mut self.live, &op);
        self.unsynced.push(op);
        Ok(())
    }
}

impl StorageBackend for Paper {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.0.lock().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let sheet = self.0.lock();
        let begin = usize::try_from(offset).unwrap();
        let found = sheet.live.get(begin..begin + out.len());
        out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.0.lock().change(Op::Length(len))
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut sheet = self.0.lock();
        sheet.spend(None)?;
        for op in std::mem::take(&mut sheet.unsynced) {
            apply(&mut sheet.stable, &op);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.0.lock().change(Op::Write(offset, data.to_vec()))
    }
}
