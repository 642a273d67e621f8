use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;
use crate::hardware::host::Live;

/// A `/sys` in a folder, made of attribute files.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for folder in ["sys/block", "sys/class/block", "sys/class/nvme", "sys/dev/block"] {
            fs::create_dir_all(tree.0.path().join(folder)).unwrap();
        }
        tree
    }

    fn file(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.0.path().join("sys").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A whole device below `devices/<parent>/block/<name>`.
    fn disk(&self, parent: &str, name: &str, number: &str) -> &Self {
        let own = format!("devices/{parent}/block/{name}");
        self.file(&format!("{own}/dev"), format!("{number}\n"));
        self.file(&format!("{own}/size"), "2048\n");
        let root = self.0.path().join("sys");
        symlink(root.join(&own), root.join("block").join(name)).unwrap();
        symlink(root.join(&own), root.join("class/block").join(name)).unwrap();
        symlink(root.join(&own), root.join("dev/block").join(number)).unwrap();
        fs::create_dir_all(root.join(format!("devices/{parent}"))).unwrap();
        let _ = symlink(
            root.join(format!("devices/{parent}")),
            root.join(&own).join("device"),
        );
        self
    }

    fn sys(&self) -> Sysfs {
        Sysfs::new(Arc::new(Live::new(self.0.path())))
    }
}

#[test]
fn what_is_no_drive_is_not_listed() {
    let tree = Tree::new();
    for (index, name) in [
        "sda",
        "zram0",
        "ram0",
        "dm-0",
        "md127",
        "sr0",
        "nvme0n1",
        "nvme0c0n1",
        "loop0",
        "mmcblk0boot0",
    ]
    .into_iter()
    .enumerate()
    {
        tree.disk(&format!("x/{name}.d"), name, &format!("8:{index}"));
    }
    tree.file("devices/x/nvme0c0n1.d/block/nvme0c0n1/hidden", "1\n");
    assert_eq!(tree.sys().drives(None).unwrap(), ["nvme0n1", "sda"]);
}

#[test]
fn loop_devices_count_only_over_files_under_the_folder() {
    let tree = Tree::new();
    let folder = tree.0.path().join("demo");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.img"), "").unwrap();
    symlink(&folder, tree.0.path().join("link")).unwrap();
    let cases = [
        ("loop0", folder.join("a.img").display().to_string()),
        ("loop1", "/elsewhere/b.img".to_owned()),
        ("loop2", format!("{} (deleted)", folder.join("c.img").display())),
        ("loop3", format!("{}-other/d.img", folder.display())),
        ("loop4", format!("{}/../demo/../e.img", folder.display())),
        ("loop5", String::new()),
    ];
    for (index, (name, file)) in cases.iter().enumerate() {
        tree.disk("virtual", name, &format!("7:{index}"));
        if !file.is_empty() {
            tree.file(
                &format!("devices/virtual/block/{name}/loop/backing_file"),
                format!("{file}\n"),
            );
        }
    }
    fs::write(tree.0.path().join("e.img"), "").unwrap();
    assert_eq!(tree.sys().drives(Some(&folder)).unwrap(), ["loop0"]);
    assert_eq!(
        tree.sys().drives(Some(&tree.0.path().join("link"))).unwrap(),
        ["loop0"]
    );
    assert!(tree.sys().drives(None).unwrap().is_empty());
    let device = tree.sys().device("loop0").unwrap();
    assert_eq!(
        (device.transport, device.kind),
        (Transport::Loop, Kind::Unspecified)
    );
    assert_eq!(device.evidence.bus_path, None);
    assert!(device.evidence.backing_file.unwrap().ends_with("a.img"));
}

#[test]
fn persistent_memory_tells_its_namespace_s_uuid() {
    let tree = Tree::new();
    let parent = "LNXSYSTM:00/ndbus0/region0/pfn0.0";
    tree.disk(parent, "pmem0", "259:0");
    assert_eq!(
        tree.sys().device("pmem0").unwrap().evidence.wwn,
        None,
        "it has no labels"
    );
    tree.file(
        &format!("devices/{parent}/uuid"),
        "e2f421fe-47f1-43aa-b365-72f0bf41c277\n",
    );
    let device = tree.sys().device("pmem0").unwrap();
    assert_eq!((device.transport, device.kind), (Transport::Nvdimm, Kind::Pmem));
    assert_eq!(
        device.evidence.wwn.as_deref(),
        Some("e2f421fe47f143aab36572f0bf41c277")
    );
}

#[test]
fn a_sata_disk_tells_serial_and_wwn_of_its_pages() {
    let tree = Tree::new();
    let parent = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0";
    tree.disk(parent, "sda", "8:0");
    let device = |attr: &str| format!("devices/{parent}/{attr}");
    tree.file(&device("vendor"), "ATA     \n")
        .file(&device("model"), "TESTCORP HDD7200\n")
        .file(&device("rev"), "2.5+\n")
        .file(&device("wwid"), "naa.5000c500a1b2c3d4\n")
        .file(&device("vpd_pg80"), b"\0\x80\0\x0aSATA-hdd0 ")
        .file(&format!("devices/{parent}/block/sda/queue/rotational"), "1\n")
        .file(&format!("devices/{parent}/block/sda/queue/zoned"), "none\n")
        .file(&format!("devices/{parent}/block/sda/diskseq"), "9\n")
        .file(&format!("devices/{parent}/block/sda/ro"), "0\n");
    let found = tree.sys().device("sda").unwrap();
    assert_eq!((found.transport, found.kind), (Transport::Sata, Kind::Hdd));
    assert_eq!(
        (found.major, found.minor, found.size_bytes),
        (8, 0, Some(1 << 20))
    );
    assert_eq!(
        (found.disk_sequence, found.read_only, found.zoned),
        (Some(9), Some(false), Zoned::None)
    );
    assert_eq!(found.evidence.serial.as_deref(), Some("SATA-hdd0"));
    assert_eq!(found.evidence.wwn.as_deref(), Some("naa.5000c500a1b2c3d4"));
    assert_eq!(found.evidence.bus_path, Some(format!("/sys/devices/{parent}")));
    assert_eq!(
        (found.model.as_deref(), found.firmware.as_deref()),
        (Some("TESTCORP HDD7200"), Some("2.5+"))
    );
}

#[test]
fn the_medium_is_told_only_where_it_is_known() {
    let check = |parent: &str, rate: Option<u16>, rotational: &str, expected: (Transport, Kind)| {
        let tree = Tree::new();
        tree.disk(parent, "sda", "8:0");
        tree.file(
            &format!("devices/{parent}/block/sda/queue/rotational"),
            rotational,
        );
        if let Some(rate) = rate {
            let page = [&[0, 0xb1, 0, 60][..], &rate.to_be_bytes()].concat();
            tree.file(&format!("devices/{parent}/vpd_pgb1"), page);
        }
        let found = tree.sys().device("sda").unwrap();
        assert_eq!((found.transport, found.kind), expected, "{parent}");
    };
    let sas = "pci0/host6/port-6:0/end_device-6:0/target6:0:0/6:0:0:0";
    check(sas, Some(1), "0", (Transport::Sas, Kind::Ssd));
    check(sas, Some(7200), "1", (Transport::Sas, Kind::Hdd));
    check(sas, None, "0", (Transport::Sas, Kind::Ssd));
    let virtio = "pci0/virtio2/host6/target6:0:1/6:0:1:0";
    check(virtio, Some(0), "1", (Transport::Scsi, Kind::Unspecified));
    check(virtio, None, "1", (Transport::Scsi, Kind::Unspecified));
    check("pci0/virtio3", None, "1", (Transport::Virtio, Kind::Unspecified));
    check(
        "pci0/usb1/1-1/host7/target7:0:0/7:0:0:0",
        None,
        "1",
        (Transport::Usb, Kind::Unspecified),
    );
    check(
        "platform/host2/session1/target2:0:0/2:0:0:0",
        None,
        "0",
        (Transport::Iscsi, Kind::Unspecified),
    );
}

#[test]
fn an_nvme_namespace_behind_a_subsystem_finds_its_controller_and_paths() {
    let tree = Tree::new();
    let root = tree.0.path().join("sys");
    let subsystem = "virtual/nvme-subsystem/nvme-subsys5";
    tree.file("devices/pci0/0000:06:00.0/nvme/nvme5/transport", "pcie\n")
        .file("devices/pci0/0000:06:00.0/nvme/nvme5/address", "0000:06:00.0\n")
        .file(
            "devices/pci0/0000:06:00.0/nvme/nvme5/subsysnqn",
            "nqn.2014.org:x\n",
        );
    let controller = root.join("devices/pci0/0000:06:00.0/nvme/nvme5");
    symlink(root.join("devices/pci0/0000:06:00.0"), controller.join("device")).unwrap();
    symlink(&controller, root.join("class/nvme/nvme5")).unwrap();
    // The head lies directly below the subsystem, not below a folder `block`.
    let own = format!("devices/{subsystem}/nvme5n1");
    tree.file(&format!("{own}/dev"), "259:0")
        .file(&format!("{own}/size"), "2048")
        .file(&format!("{own}/nsid"), "1")
        .file(&format!("{own}/nguid"), "00112233-4455-6677-8899-aabbccddeeff")
        .file(&format!("{own}/uuid"), "00112233-4455-6677-8899-aabbccddeeff")
        .file(&format!("{own}/eui"), "00 00 00 00 00 00 00 00")
        .file(&format!("{own}/wwid"), "nvme.1b36-4e56-51454d55-00000001")
        .file(&format!("devices/{subsystem}/serial"), "HOTPLUG1            ")
        .file(&format!("devices/{subsystem}/model"), "QEMU NVMe Ctrl");
    symlink(root.join(&own), root.join("block/nvme5n1")).unwrap();
    symlink(root.join(&own), root.join("class/block/nvme5n1")).unwrap();
    symlink(
        root.join(format!("devices/{subsystem}")),
        root.join(&own).join("device"),
    )
    .unwrap();
    symlink(&controller, root.join(format!("devices/{subsystem}/nvme5"))).unwrap();
    for path in ["nvme5c5n1", "nvme5c6n1", "nvme5c5n11"] {
        tree.file(&format!("block/{path}/hidden"), "1");
    }
    let found = tree.sys().device("nvme5n1").unwrap();
    assert_eq!((found.transport, found.kind), (Transport::Pcie, Kind::Nvme));
    assert_eq!(found.paths, ["nvme5c5n1", "nvme5c6n1"]);
    assert_eq!(
        found.evidence.nguid.as_deref(),
        Some("00112233445566778899aabbccddeeff")
    );
    assert_eq!(found.evidence.eui64, None, "all zero is nothing");
    assert_eq!(found.evidence.nvme_uuid, None, "it only repeats the NGUID");
    assert_eq!(found.evidence.wwn, None, "made of serial and model");
    assert_eq!(found.evidence.serial.as_deref(), Some("HOTPLUG1"));
    assert_eq!(found.evidence.nvme_namespace, Some(1));
    assert_eq!(
        found.evidence.bus_path.as_deref(),
        Some("/sys/devices/pci0/0000:06:00.0")
    );
    let nvme = found.nvme.unwrap();
    assert_eq!(
        (nvme.controller.as_str(), nvme.pci_address.as_deref()),
        ("nvme5", Some("0000:06:00.0"))
    );
    assert_eq!(nvme.subsystem_nqn.as_deref(), Some("nqn.2014.org:x"));
}

#[test]
fn partitions_and_mapped_devices_lead_down_to_their_disk() {
    let tree = Tree::new();
    let root = tree.0.path().join("sys");
    tree.disk("pci0/ata1", "sda", "8:0")
        .disk("virtual", "dm-0", "253:0");
    tree.file("devices/pci0/ata1/block/sda/sda1/partition", "1\n");
    let sda1 = root.join("devices/pci0/ata1/block/sda/sda1");
    symlink(&sda1, root.join("class/block/sda1")).unwrap();
    fs::create_dir_all(root.join("devices/virtual/block/dm-0/slaves/sda1")).unwrap();
    fs::create_dir_all(sda1.join("holders/dm-0")).unwrap();
    tree.file("devices/virtual/block/dm-0/dm/name", "vg0-lv0\n")
        .file("devices/virtual/block/dm-0/dm/uuid", "LVM-abc\n");
    let sys = tree.sys();
    assert_eq!(sys.below("dm-0").into_iter().collect::<Vec<_>>(), ["sda"]);
    assert_eq!(sys.partitions("sda").unwrap(), [("sda1".to_owned(), 1)]);
    assert_eq!(sys.holders("sda1").unwrap(), ["dm-0"]);
    assert_eq!(sys.describe_upper("dm-0"), "LVM logical volume vg0-lv0");
    assert_eq!(
        sys.below("nvme0c3n2").into_iter().collect::<Vec<_>>(),
        ["nvme0n2"]
    );
}

#[test]
fn ids_that_say_nothing_are_left_out() {
    for nothing in [
        "",
        "  ",
        "0",
        "0000000000000000",
        "naa.0000000000000000",
        "0x0",
        "unknown",
        "None",
        "N/A",
        "00000000-0000-0000-0000-000000000000",
        "To be filled by O.E.M.",
        "\0\0",
        "00 00 00 00",
    ] {
        assert_eq!(meaningful(nothing), None, "{nothing:?}");
    }
    assert_eq!(meaningful(" S3X9 ").as_deref(), Some("S3X9"));
    assert_eq!(
        meaningful("naa.5000c50000000000").as_deref(),
        Some("naa.5000c50000000000")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn no_attribute_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), name in "[a-z0-9!-]{1,12}") {
        let tree = Tree::new();
        tree.disk("pci0/ata1", "sda", "8:0");
        for attr in ["size", "diskseq", "stat", "ro", "queue/zoned"] {
            tree.file(&format!("devices/pci0/ata1/block/sda/{attr}"), &bytes);
        }
        for attr in ["vpd_pg80", "vpd_pgb1", "wwid", "model"] {
            tree.file(&format!("devices/pci0/ata1/{attr}"), &bytes);
        }
        let sys = tree.sys();
        let _ = (sys.device("sda"), sys.counts("sda"), sys.is_drive(&name, None), head_of_path(&name));
    }
}
