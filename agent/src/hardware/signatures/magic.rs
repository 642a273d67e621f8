//! The places where known formats keep their superblocks, and what they say there.
//!
//! Copies of superblocks count as much as the first one: a file system whose beginning was zeroed is still
//! somebody's data. Offsets are from the formats' own headers (Linux' `include/uapi`, lvm2, mdadm, cryptsetup, zfs,
//! drbd, ceph, spdk).

use super::{Signature, Source, View};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Formats that are told by constant bytes at constant places, and no more is read from them.
const CONSTANT: &[(u64, &[u8], &str)] = &[
    (0, b"bluestore block device\n", "Ceph BlueStore"),
    // Since Squid, copies of the label lie at whole powers of ten GiB.
    (1 << 30, b"bluestore block device\n", "Ceph BlueStore"),
    (10 << 30, b"bluestore block device\n", "Ceph BlueStore"),
    (100 << 30, b"bluestore block device\n", "Ceph BlueStore"),
    (1000 << 30, b"bluestore block device\n", "Ceph BlueStore"),
    (0, b"SPDKBLOB", "SPDK blobstore (a Mayastor pool)"),
    (0, b"HM\x01\x00", "LVM1 physical volume"),
    (0, b"HM\x02\x00", "LVM1 physical volume"),
    (0, b"verity\0\0", "dm-verity hash tree"),
    (0, b"integrt\0", "dm-integrity device"),
    (0, b"dmvdo001", "VDO device"),
    (0, b"hsqs", "squashfs file system"),
    (0, b"\x45\x3d\xcd\x28", "cramfs file system"),
    (0, b"\xeb\x48\x90LILO", "LILO boot loader"),
    (3, b"NTFS    ", "NTFS file system"),
    (3, b"EXFAT   ", "exFAT file system"),
    (3, b"-FVE-FS-", "BitLocker volume"),
    (3, b"ReFS\0", "ReFS file system"),
    (32, b"ORCLDISK", "Oracle ASM disk"),
    (32, b"NXSB", "APFS container"),
    (54, b"FAT12   ", "FAT file system"),
    (54, b"FAT16   ", "FAT file system"),
    (82, b"FAT32   ", "FAT file system"),
    // The copy of the boot sector, for sectors of 512 and of 4096 bytes.
    (6 * 512 + 82, b"FAT32   ", "FAT file system"),
    (6 * 4096 + 82, b"FAT32   ", "FAT file system"),
    (12 * 512 + 3, b"EXFAT   ", "exFAT file system"),
    (12 * 4096 + 3, b"EXFAT   ", "exFAT file system"),
    (516, b"!Stra0tis\x86\xff\x02^\x41rh", "Stratis pool member"),
    (1024, b"\xe2\xe1\xf5\xe0", "EROFS file system"),
    (1024, b"H+\0\x04", "HFS+ file system"),
    (1024, b"HX\0\x05", "HFSX file system"),
    (
        4 * KIB + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        "bcache device",
    ),
    (
        4 * KIB + 24,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
        "bcachefs file system",
    ),
    (8 * KIB + 52, b"ReIsEr", "ReiserFS file system"),
    (64 * KIB + 52, b"ReIsEr", "ReiserFS file system"),
    (32 * KIB, b"JFS1", "JFS file system"),
    (32 * KIB + 1, b"CD001", "ISO 9660 file system"),
    (32 * KIB + 1, b"BEA01", "UDF file system"),
    (64 * KIB, b"\x01\x16\x19\x70", "GFS2 file system"),
    (KIB, b"OCFSV2", "OCFS2 file system"),
    (2 * KIB, b"OCFSV2", "OCFS2 file system"),
    (4 * KIB, b"OCFSV2", "OCFS2 file system"),
    (MIB, b"\x0d\xd0\x01\xc0", "VMFS volume member"),
    (2 * MIB, b"\x5e\xf1\xab\x2f", "VMFS file system"),
];

/// Everything that is recognised in this stretch.
pub(super) fn recognise<S: Source + ?Sized>(view: &View<'_, S>, partition: Option<u32>) -> Vec<Signature> {
    let mut found = Found {
        base: view.base,
        partition,
        signatures: Vec::new(),
    };
    for (offset, bytes, description) in CONSTANT {
        if view.is(*offset, bytes) {
            found.add(*offset, *description, None);
        }
    }
    for probe in [
        ext,
        ntfs_copy,
        xfs,
        btrfs,
        f2fs,
        nilfs,
        swap,
        lvm2,
        md,
        luks,
        zfs,
        drbd,
        firmware_raid,
    ] {
        probe(view, &mut found);
    }
    found.signatures
}

struct Found {
    base: u64,
    partition: Option<u32>,
    signatures: Vec<Signature>,
}

impl Found {
    /// Copies of the same thing say nothing new.
    fn add(&mut self, offset: u64, description: impl Into<String>, filesystem_uuid: Option<String>) {
        let description = description.into();
        if !self
            .signatures
            .iter()
            .any(|s| s.description == description && s.filesystem_uuid == filesystem_uuid)
        {
            let offset = self.base.saturating_add(offset);
            self.signatures.push(Signature {
                description,
                filesystem_uuid,
                offset,
                partition: self.partition,
            });
        }
    }
}

fn labelled(what: &str, label: Option<String>) -> String {
    match label {
        Some(label) => format!("{what} file system \"{label}\""),
        None => format!("{what} file system"),
    }
}

fn ext<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    // The first superblock, then the copy at the start of group 1 for blocks of 1, 2 and 4 KiB.
    for (offset, copy) in [
        (KIB, false),
        (8193 * KIB, true),
        (32 * MIB, true),
        (128 * MIB, true),
    ] {
        if !view.is(offset + 0x38, b"\x53\xef") {
            continue;
        }
        // Magic alone is two bytes: block size, revision and inode size have to make sense as well.
        let sane = view.u32_le(offset + 0x18).is_some_and(|log| log <= 6)
            && view.u32_le(offset + 0x4c).is_some_and(|revision| revision <= 1)
            && view.u32_le(offset + 0x20).is_some_and(|blocks| blocks > 0);
        if !sane {
            found.add(offset, "something with the ext2 signature", None);
            continue;
        }
        let feature = |at: u64| view.u32_le(offset + at).unwrap_or(0);
        let (compat, incompat, ro_compat) = (feature(0x5c), feature(0x60), feature(0x64));
        let what = if incompat & 0x8 != 0 {
            "ext journal"
        } else if incompat & 0x2c0 != 0 || ro_compat & 0x478 != 0 {
            "ext4"
        } else if compat & 0x4 != 0 {
            "ext3"
        } else {
            "ext2"
        };
        let label = view.text(offset + 0x78, 16);
        let description = if copy && found.signatures.is_empty() {
            format!(
                "{} (a copy of its superblock at byte {offset})",
                labelled(what, label)
            )
        } else {
            labelled(what, label)
        };
        found.add(offset, description, view.uuid(offset + 0x68));
        return;
    }
}

/// NTFS keeps a copy of its boot sector in the last sector of its volume; mkntfs gives it the whole device.
fn ntfs_copy<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    for block in [512, 4096] {
        if let Some(at) = (view.length / block).checked_sub(1).map(|last| last * block)
            && view.is(at + 3, b"NTFS    ")
        {
            found.add(at, "NTFS file system", None);
        }
    }
}

fn xfs<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    if view.is(0, b"XFSB") {
        found.add(0, labelled("XFS", view.text(108, 12)), view.uuid(32));
        return;
    }
    // mkfs makes four allocation groups by default, and each begins with a copy of the superblock.
    let quarter = view.length / 4;
    for group in 1..4_u64 {
        let near = group.saturating_mul(quarter) / (4 * KIB) * (4 * KIB);
        for offset in [near, near.saturating_add(4 * KIB)] {
            if offset > 0 && view.is(offset, b"XFSB") {
                let words = format!("XFS file system (a copy of its superblock at byte {offset})");
                found.add(offset, words, view.uuid(offset + 32));
                return;
            }
        }
    }
}

fn btrfs<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    for offset in [64 * KIB, 64 * MIB, 256 << 30] {
        if view.is(offset + 0x40, b"_BHRfS_M") {
            found.add(
                offset,
                labelled("btrfs", view.text(offset + 0x12b, 256)),
                view.uuid(offset + 0x20),
            );
            return;
        }
    }
}

fn f2fs<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    for offset in [KIB, 5 * KIB] {
        if view.is(offset, b"\x10\x20\xf5\xf2") {
            found.add(offset, "F2FS file system", view.uuid(offset + 108));
            return;
        }
    }
}

fn nilfs<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    // A two-byte magic: believed only together with the one revision there is.
    if view.is(KIB + 6, b"\x34\x34") && view.u32_le(KIB) == Some(2) {
        found.add(KIB, "NILFS2 file system", view.uuid(KIB + 152));
    }
}

fn swap<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    const MAGICS: [(&[u8], &str); 6] = [
        (b"SWAPSPACE2", "swap area"),
        (b"SWAP-SPACE", "swap area"),
        (b"S1SUSPEND\0", "suspended system in a swap area"),
        (b"S2SUSPEND\0", "suspended system in a swap area"),
        (b"ULSUSPEND\0", "suspended system in a swap area"),
        (b"LINHIB0001", "suspended system in a swap area"),
    ];
    for page in [4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB] {
        for (bytes, description) in MAGICS {
            if view.is(page - 10, bytes) {
                found.add(page - 10, description, view.uuid(KIB + 12));
                return;
            }
        }
    }
}

fn lvm2<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    for offset in [0, 512, 1024, 1536] {
        if view.is(offset, b"LABELONE") && view.is(offset + 24, b"LVM2 001") {
            let description = match volume_group(view, offset) {
                Some(group) => format!("LVM physical volume of {group}"),
                None => "LVM physical volume of no volume group".to_owned(),
            };
            found.add(offset, description, None);
            return;
        }
    }
}

/// The volume group's name is the first word of the metadata text. The way there: label, list of data areas, list
/// of metadata areas, header of the first one, its first text.
fn volume_group<S: Source + ?Sized>(view: &View<'_, S>, label: u64) -> Option<String> {
    let mut at = label + u64::from(view.u32_le(label + 20)?.min(512)) + 40;
    let mut lists_ended = 0;
    for _ in 0..32 {
        let area = view.u64_le(at)?;
        at += 16;
        if area == 0 {
            lists_ended += 1;
            if lists_ended == 2 {
                return None;
            }
        } else if lists_ended == 1 {
            if !view.is(area.checked_add(4)?, b" LVM2 x[5A%r0N*>") {
                return None;
            }
            let text = area.checked_add(view.u64_le(area.checked_add(40)?)?)?;
            let line = view.text(text, 128)?;
            let name = line.split([' ', '{']).next().unwrap_or_default();
            let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.+".contains(c);
            return (!name.is_empty() && name.chars().all(allowed)).then(|| name.to_owned());
        }
    }
    None
}

fn md<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    const MAGIC: u32 = 0xa92b_4efc;
    // Versions 1.1, 1.2 and 1.0 differ in the place only.
    let end = ((view.length / 512).saturating_sub(16) & !7) * 512;
    for offset in [0, 4 * KIB, end] {
        if view.u32_le(offset) == Some(MAGIC) && view.u32_le(offset + 4) == Some(1) {
            let description = match view.text(offset + 32, 32) {
                Some(name) => format!("MD RAID member of {name}"),
                None => "MD RAID member".to_owned(),
            };
            found.add(offset, description, None);
        }
    }
    let Some(old) = (view.length & !(64 * KIB - 1)).checked_sub(64 * KIB) else {
        return;
    };
    if view.u32_le(old) == Some(MAGIC) || view.u32_be(old) == Some(MAGIC) {
        // A 1.x superblock may lie on the same place.
        if view.u32_le(old + 4) != Some(1) {
            found.add(old, "MD RAID member (version 0.90)", None);
        }
    }
}

fn luks<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    if view.is(0, b"LUKS\xba\xbe") {
        let version = view.array::<2>(6).map_or(0, u16::from_be_bytes);
        found.add(0, format!("LUKS{version} encrypted volume"), None);
        return;
    }
    for shift in 14..=22 {
        let offset = 1_u64 << shift;
        if view.is(offset, b"SKUL\xba\xbe") {
            found.add(offset, "LUKS2 encrypted volume (its second header)", None);
            return;
        }
    }
}

fn zfs<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    const LABEL: u64 = 256 * KIB;
    const MAGIC: u64 = 0x00ba_b10c;
    let end = view.length / LABEL * LABEL;
    let labels = [
        Some(0),
        Some(LABEL),
        end.checked_sub(2 * LABEL),
        end.checked_sub(LABEL),
    ];
    for label in labels.into_iter().flatten() {
        let Some(ring) = view.bytes(label + 128 * KIB, 128 << 10) else {
            continue;
        };
        let uberblock = ring.chunks_exact(1024).any(|slot| {
            slot.first_chunk::<8>().is_some_and(|magic| {
                u64::from_le_bytes(*magic) == MAGIC || u64::from_be_bytes(*magic) == MAGIC
            })
        });
        if uberblock {
            found.add(label, "ZFS pool member", None);
            return;
        }
    }
}

fn drbd<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    // Metadata ends the device; the place of the magic moved between versions.
    let Some(last) = (view.length & !(4 * KIB - 1)).checked_sub(4 * KIB) else {
        return;
    };
    let Some(head) = view.bytes(last, 64) else { return };
    let hit = head.chunks_exact(4).any(|word| {
        word.first_chunk::<4>()
            .is_some_and(|w| (0x8374_026b..=0x8374_026d).contains(&u32::from_be_bytes(*w)))
    });
    if hit {
        found.add(last, "DRBD device", None);
    }
}

fn firmware_raid<S: Source + ?Sized>(view: &View<'_, S>, found: &mut Found) {
    if let Some(at) = view.length.checked_sub(1024)
        && view.is(at, b"Intel Raid ISM Cfg Sig. ")
    {
        found.add(at, "Intel firmware RAID member", None);
    }
    if let Some(at) = view.length.checked_sub(512)
        && view.is(at, b"\xde\x11\xde\x11")
    {
        found.add(at, "DDF firmware RAID member", None);
    }
}
