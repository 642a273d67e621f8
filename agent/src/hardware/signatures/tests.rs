use std::collections::BTreeMap;
use std::io::Cursor;

use proptest::prelude::*;

use super::blank::sample_offsets;
use super::*;

const MIB: u64 = 1 << 20;

/// A device of any size that is zero but for these stretches.
#[derive(Default)]
struct Sparse {
    size: u64,
    stretches: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    fn new(size: u64) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    fn with(mut self, offset: u64, bytes: &[u8]) -> Self {
        self.stretches.insert(offset, bytes.to_vec());
        self
    }

    fn examine(&self) -> Findings {
        examine(self, self.size)
    }
}

impl Source for Sparse {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset + buf.len() as u64 > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.fill(0);
        for (start, bytes) in &self.stretches {
            for (at, byte) in (*start..).zip(bytes) {
                if let Some(slot) = at.checked_sub(offset).and_then(|i| buf.get_mut(i as usize)) {
                    *slot = *byte;
                }
            }
        }
        Ok(())
    }
}

/// A source that fails from some offset on.
struct Broken {
    readable: u64,
}

impl Source for Broken {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        if offset + buf.len() as u64 > self.readable {
            Err(io::Error::other("medium error"))
        } else {
            Ok(())
        }
    }
}

fn gpt_image(type_guid: &str, id: uuid::Uuid, name: &str) -> Vec<u8> {
    let size = 64 * MIB as usize;
    let mut image = vec![0_u8; size];
    let mbr = gpt::mbr::ProtectiveMBR::with_lb_size((size / 512 - 1) as u32);
    mbr.overwrite_lba0(&mut Cursor::new(image.as_mut_slice()))
        .unwrap();
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(gpt::disk::LogicalBlockSize::Lb512)
        .create_from_device(Cursor::new(image.as_mut_slice()), Some(uuid::Uuid::from_u128(7)))
        .unwrap();
    let kind = gpt::partition_types::Type {
        guid: type_guid.parse().unwrap(),
        os: gpt::partition_types::OperatingSystem::None,
    };
    let number = disk.add_partition(name, 32 * MIB, kind, 0, Some(2048)).unwrap();
    let mut partitions = disk.take_partitions();
    partitions.get_mut(&number).unwrap().part_guid = id;
    disk.update_partitions(partitions).unwrap();
    disk.write().unwrap();
    image
}

#[test]
fn zeros_are_blank_whatever_the_size() {
    for size in [
        512,
        4096,
        MIB,
        31 * MIB,
        32 * MIB,
        33 * MIB + 512,
        100 * MIB,
        20_000_000_000_000,
    ] {
        let findings = Sparse::new(size).examine();
        assert_eq!(findings.blank(), Some(true), "{size}: {findings:?}");
    }
}

#[test]
fn a_device_of_no_size_is_never_blank() {
    assert_eq!(Sparse::new(0).examine().blank(), None);
}

#[test]
fn what_could_not_be_read_is_never_blank() {
    for readable in [0, 512, MIB, 50 * MIB, 99 * MIB] {
        let findings = examine(&Broken { readable }, 100 * MIB);
        assert_eq!(findings.blank(), None, "{readable}: {findings:?}");
        assert!(!findings.errors.is_empty());
    }
}

#[test]
fn every_known_format_is_named() {
    let cases: &[(u64, &[u8], &str)] = &[
        (0, b"XFSB", "XFS file system"),
        (64 * 1024 + 0x40, b"_BHRfS_M", "btrfs file system"),
        (64 * MIB + 0x40, b"_BHRfS_M", "btrfs file system"),
        (4086, b"SWAPSPACE2", "swap area"),
        (65526, b"SWAPSPACE2", "swap area"),
        (0, b"LUKS\xba\xbe\x00\x02", "LUKS2 encrypted volume"),
        (0, b"LUKS\xba\xbe\x00\x01", "LUKS1 encrypted volume"),
        (
            0x4000,
            b"SKUL\xba\xbe",
            "LUKS2 encrypted volume (its second header)",
        ),
        (0, b"bluestore block device\n", "Ceph BlueStore"),
        (0, b"SPDKBLOB", "SPDK blobstore (a Mayastor pool)"),
        (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0", "MD RAID member"),
        (200 * MIB - 8192, b"\xfc\x4e\x2b\xa9\x01\0\0\0", "MD RAID member"),
        (
            200 * MIB - 65536,
            b"\xfc\x4e\x2b\xa9\0\0\0\0",
            "MD RAID member (version 0.90)",
        ),
        (128 * 1024, b"\x0c\xb1\xba\0\0\0\0\0", "ZFS pool member"),
        (
            200 * MIB - 256 * 1024 + 130 * 1024,
            b"\0\0\0\0\0\xba\xb1\x0c",
            "ZFS pool member",
        ),
        (200 * MIB - 4096 + 60, b"\x83\x74\x02\x6d", "DRBD device"),
        (
            4120,
            b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
            "bcache device",
        ),
        (1024, b"\x10\x20\xf5\xf2", "F2FS file system"),
        (3, b"NTFS    ", "NTFS file system"),
        (3, b"EXFAT   ", "exFAT file system"),
        (82, b"FAT32   ", "FAT file system"),
        (32769, b"CD001", "ISO 9660 file system"),
        (MIB, b"\x0d\xd0\x01\xc0", "VMFS volume member"),
        (0, b"HM\x01\0", "LVM1 physical volume"),
        (
            200 * MIB - 1024,
            b"Intel Raid ISM Cfg Sig. ",
            "Intel firmware RAID member",
        ),
        (
            100 * MIB,
            b"XFSB",
            "XFS file system (a copy of its superblock at byte 104857600)",
        ),
    ];
    for (offset, bytes, description) in cases {
        let findings = Sparse::new(200 * MIB).with(*offset, bytes).examine();
        let names: Vec<_> = findings
            .signatures
            .iter()
            .map(|s| s.description.as_str())
            .collect();
        assert_eq!(names, [*description]);
        assert_eq!(findings.blank(), Some(false));
    }
}

#[test]
fn ext_file_systems_are_told_apart_by_their_features() {
    let superblock = |compat: u32, incompat: u32, ro_compat: u32| {
        let mut bytes = vec![0_u8; 1024];
        bytes[0x18] = 2;
        bytes[0x20] = 1;
        bytes[0x38..0x3a].copy_from_slice(b"\x53\xef");
        bytes[0x4c] = 1;
        bytes[0x5c..0x60].copy_from_slice(&compat.to_le_bytes());
        bytes[0x60..0x64].copy_from_slice(&incompat.to_le_bytes());
        bytes[0x64..0x68].copy_from_slice(&ro_compat.to_le_bytes());
        bytes[0x68..0x78].fill(0x11);
        bytes[0x78..0x7c].copy_from_slice(b"data");
        bytes
    };
    for (sb, name) in [
        (superblock(0, 2, 1), "ext2 file system \"data\""),
        (superblock(4, 2, 1), "ext3 file system \"data\""),
        (superblock(4, 0x42, 0x79), "ext4 file system \"data\""),
    ] {
        let first = Sparse::new(300 * MIB).with(1024, &sb).examine();
        assert_eq!(first.signatures[0].description, name);
        assert_eq!(
            first.signatures[0].filesystem_uuid.as_deref(),
            Some("11111111-1111-1111-1111-111111111111")
        );
        let copy = Sparse::new(300 * MIB).with(128 * MIB, &sb).examine();
        assert!(
            copy.signatures[0].description.starts_with(name),
            "behind zeros: {copy:?}"
        );
    }
}

#[test]
fn an_lvm_volume_names_its_group() {
    let mut label = vec![0_u8; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[20] = 32;
    label[24..32].copy_from_slice(b"LVM2 001");
    label[72..80].copy_from_slice(&MIB.to_le_bytes());
    label[104..112].copy_from_slice(&4096_u64.to_le_bytes());
    let mut header = vec![0_u8; 512];
    header[4..20].copy_from_slice(b" LVM2 x[5A%r0N*>");
    header[40..48].copy_from_slice(&512_u64.to_le_bytes());
    let device = Sparse::new(100 * MIB)
        .with(512, &label)
        .with(4096, &header)
        .with(4608, b"vg0 {\nid = 1");
    assert_eq!(
        device.examine().signatures[0].description,
        "LVM physical volume of vg0"
    );
}

#[test]
fn our_mark_is_found_in_either_copy_and_in_no_damaged_one() {
    let id = uuid::Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef);
    let image = gpt_image(smart_storage_proto::MEMBER_PARTITION_TYPE, id, "c0ffee00/demo");
    let expected = Mark {
        member_id: id.to_string(),
        label: "c0ffee00/demo".into(),
        partition: 1,
        released: false,
    };
    let check = |image: &[u8], mark: Option<&Mark>, words: &str| {
        let findings = examine(image, image.len() as u64);
        assert_eq!(findings.mark.as_ref(), mark);
        assert_eq!(findings.table.as_ref().unwrap().description(), words);
        assert_eq!(findings.blank(), Some(false));
    };
    check(&image, Some(&expected), "GPT partition table with 1 partition");
    let mut without_primary = image.clone();
    without_primary[..MIB as usize].fill(0);
    check(
        &without_primary,
        Some(&expected),
        "GPT partition table with 1 partition (only the backup at the end is left)",
    );
    let mut without_backup = image.clone();
    let end = image.len() - MIB as usize;
    without_backup[end..].fill(0);
    check(
        &without_backup,
        Some(&expected),
        "GPT partition table with 1 partition (backup missing or damaged)",
    );
    let mut damaged = without_backup;
    damaged[1024 + 40] ^= 1;
    check(&damaged, None, "GPT partition table with 1 partition (damaged)");
    let released = gpt_image(smart_storage_proto::RELEASED_PARTITION_TYPE, id, "c0ffee00/demo");
    check(
        &released,
        Some(&Mark {
            released: true,
            ..expected
        }),
        "GPT partition table with 1 partition",
    );
}

#[test]
fn what_lies_in_a_partition_is_found_without_the_kernels_help() {
    let mut image = gpt_image(
        "0fc63daf-8483-4772-8e79-3d69d8477de4",
        uuid::Uuid::from_u128(1),
        "data",
    );
    let start = MIB as usize;
    image[start..start + 4].copy_from_slice(b"XFSB");
    image[start + 32..start + 48].fill(0x22);
    // A copy within the partition that happens to lie where a copy of the whole device's would.
    let half = image.len() / 2 / 2;
    image[half..half + 4].copy_from_slice(b"XFSB");
    let findings = examine(image.as_slice(), image.len() as u64);
    assert_eq!(findings.mark, None);
    assert_eq!(findings.signatures.len(), 1, "{findings:?}");
    assert_eq!(findings.signatures[0].partition, Some(1));
    assert_eq!(findings.signatures[0].offset, MIB);
    assert_eq!(
        findings.signatures[0].filesystem_uuid.as_deref(),
        Some("22222222-2222-2222-2222-222222222222")
    );
    assert_eq!(
        findings.table.unwrap().uuid.as_deref(),
        Some("00000000-0000-0000-0000-000000000007")
    );
}

#[test]
fn an_mbr_with_logical_partitions_is_read_to_its_end_and_a_loop_is_cut() {
    let entry = |kind: u8, start: u32, sectors: u32| {
        let mut entry = [0_u8; 16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors.to_le_bytes());
        entry
    };
    let sector = |entries: &[[u8; 16]]| {
        let mut sector = vec![0_u8; 512];
        sector[440..444].copy_from_slice(&0xdead_beef_u32.to_le_bytes());
        sector[446..446 + entries.len() * 16].copy_from_slice(&entries.concat());
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    };
    let device = Sparse::new(100 * MIB)
        .with(0, &sector(&[entry(0x83, 2048, 2048), entry(0x05, 8192, 16384)]))
        .with(
            8192 * 512,
            &sector(&[entry(0x83, 64, 1024), entry(0x05, 4096, 4096)]),
        )
        .with(
            12288 * 512,
            &sector(&[entry(0x82, 64, 1024), entry(0x05, 4096, 4096)]),
        );
    let findings = device.examine();
    let table = findings.table.unwrap();
    assert_eq!(table.uuid.as_deref(), Some("deadbeef"));
    assert_eq!(
        table.entries.iter().map(|e| e.number).collect::<Vec<_>>(),
        [1, 2, 5, 6]
    );
    assert_eq!(table.description(), "MBR partition table with 4 partitions");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn one_byte_anywhere_at_the_edges_is_never_blank(at in 0..2 * EDGE_BYTES, byte in 1..=u8::MAX, extra in 0..3 * MIB) {
        let size = 2 * EDGE_BYTES + extra / 512 * 512;
        let offset = if at < EDGE_BYTES { at } else { size - 2 * EDGE_BYTES + at };
        let findings = Sparse::new(size).with(offset, &[byte]).examine();
        prop_assert_eq!(findings.blank(), Some(false));
    }

    #[test]
    fn random_bytes_never_panic_and_are_never_blank(
        mut bytes in proptest::collection::vec(any::<u8>(), 512..200_000),
        magic in proptest::sample::select(vec![
            (0_usize, &b"XFSB"[..]), (512, b"EFI PART"), (0, b"LABELONE"), (512, b"LABELONE"), (1080, b"\x53\xef"),
            (510, b"\x55\xaa"), (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"), (65600, b"_BHRfS_M"),
        ]),
    ) {
        if let Some(slot) = bytes.get_mut(magic.0..magic.0 + magic.1.len()) {
            slot.copy_from_slice(magic.1);
        }
        bytes[0] |= 1;
        let findings = examine(bytes.as_slice(), bytes.len() as u64);
        prop_assert_ne!(findings.blank(), Some(true));
        let _ = findings.summary();
    }

    #[test]
    fn a_mangled_partition_table_never_panics(at in 0_usize..20_000, byte in any::<u8>(), word in any::<u64>()) {
        let mut image = gpt_image(smart_storage_proto::MEMBER_PARTITION_TYPE, uuid::Uuid::from_u128(9), "x/y");
        image[at] = byte;
        image[512 + at % 400..][..8].copy_from_slice(&word.to_le_bytes());
        let findings = examine(image.as_slice(), image.len() as u64);
        prop_assert_eq!(findings.blank(), Some(false));
    }

    #[test]
    fn samples_stay_between_the_edges_and_no_long_stretch_is_without_one(
        start in 0..u64::MAX / 2, length in 0..u64::MAX / 2
    ) {
        for reading in [Reading::GLANCE, Reading::PROOF] {
            let offsets: Vec<_> = sample_offsets(start, start + length, reading).collect();
            prop_assert!(offsets.iter().all(|at| *at >= start && at + reading.sample <= start + length));
            prop_assert!(offsets.is_sorted());
            // Two stretches, and what alignment takes.
            let longest = length / reading.samples * 2 + 4 * reading.sample;
            let ends = [start, start + length];
            let gaps: Vec<_> = ends[..1].iter().chain(&offsets).zip(offsets.iter().chain(&ends[1..])).collect();
            prop_assert!(gaps.iter().all(|(a, b)| *b - *a <= longest + reading.sample));
        }
    }
}

#[test]
fn a_byte_in_a_sampled_block_is_seen() {
    let size = 1 << 40;
    for reading in [Reading::GLANCE, Reading::PROOF] {
        let offsets: Vec<_> = sample_offsets(reading.edge, size - reading.edge, reading).collect();
        assert_eq!(offsets.len() as u64, reading.samples);
        for at in offsets.iter().step_by(250) {
            let findings = examine_as(&Sparse::new(size).with(at + 17, &[1]), size, reading);
            assert_eq!(findings.unknown_data_at, Some(at + 17));
        }
    }
}

#[test]
fn data_in_one_piece_of_a_thousandth_of_a_large_device_is_always_found_by_the_proof() {
    let size: u64 = 40 << 40;
    let piece = vec![0xa5_u8; 1];
    let ends: Vec<_> = sample_offsets(64 << 20, size - (64 << 20), Reading::PROOF).collect();
    // The longest piece that lies between two samples.
    let longest = ends
        .windows(2)
        .map(|pair| pair[1] - pair[0] - Reading::PROOF.sample)
        .max()
        .unwrap();
    assert!(longest < size / 2000, "{longest}");
    // And what lies between samples is not seen: the limit that the documentation names.
    let hidden = ends[100] + Reading::PROOF.sample;
    assert!(hidden < ends[101]);
    let found = examine_closely(&Sparse::new(size).with(hidden, &piece), size);
    assert_eq!(found.blank(), Some(true));
}

#[test]
fn the_proof_reads_every_byte_of_a_small_device_and_the_glance_does_not() {
    let size = 3 << 30;
    let glance: Vec<_> = sample_offsets(EDGE_BYTES, size - EDGE_BYTES, Reading::GLANCE).collect();
    let between = glance[7] + 4096;
    assert!(between < glance[8]);
    let device = Sparse::new(size).with(between, &[1]);
    assert_eq!(device.examine().blank(), Some(true));
    assert_eq!(examine_closely(&device, size).unknown_data_at, Some(between));
}
