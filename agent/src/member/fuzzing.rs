//! Doors to this module's private parsers for `integration/fuzz`. They do nothing but call, and are never in a shipped
//! binary.

use std::collections::BTreeMap;
use std::fs::File;

use uuid::Uuid;

use super::mark::{self, Geometry, MarkImage};
use super::store::MemberSpec;
use super::{ExpectedDrive, MemberId, expected};
use crate::hardware::Device;
use crate::hardware::signatures::{Findings, examine};

/// A mark as it was read: member, released, start and length in bytes.
pub type Read = (MemberId, bool, u64, u64);

/// The mark on a drive of `size` bytes with blocks of `block` bytes.
///
/// # Errors
/// Where it could not be read.
pub fn mark(drive: &File, size: u64, block: u64) -> Result<Option<Read>, String> {
    let found = mark::read(drive, Geometry { size, block }).map_err(|error| error.to_string())?;
    Ok(found.map(|mark| (mark.member, mark.released, mark.start, mark.length)))
}

/// The blocks of the mark that is made for a blank drive.
#[must_use]
pub fn image(size: u64, block: u64, member: MemberId, label: &str) -> Option<BTreeMap<u64, Vec<u8>>> {
    let image = MarkImage::new(Geometry { size, block }, Uuid::from_u128(7), member, label).ok()?;
    Some(image.blocks().clone())
}

/// The blocks of the table that says that the member was released.
///
/// # Errors
/// Where the drive does not carry the member's mark.
pub fn released(drive: &File, size: u64, block: u64, member: MemberId) -> Result<BTreeMap<u64, Vec<u8>>, String> {
    MarkImage::released(drive, Geometry { size, block }, member)
        .map(|image| image.blocks().clone())
        .map_err(|error| error.to_string())
}

/// What an interrupted preparation sees of its drive: everything but its own mark.
#[must_use]
pub fn examine_without_mark(drive: &File, size: u64, block: u64, member: MemberId, label: &str) -> Option<Findings> {
    let image = MarkImage::new(Geometry { size, block }, Uuid::from_u128(7), member, label).ok()?;
    Some(examine(&image.hide_from(drive), size))
}

/// A member's file, written again.
///
/// # Errors
/// Where it is none.
pub fn spec(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let spec: MemberSpec = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    serde_json::to_vec_pretty(&spec).map_err(|error| error.to_string())
}

/// In what a device differs from the drive that is meant.
#[must_use]
pub fn disagreement(device: &Device, drive: &ExpectedDrive) -> Option<String> {
    expected::disagreement(device, drive)
}
