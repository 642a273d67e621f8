use proptest::prelude::*;

use super::*;

/// Every text through one kind of place, after both passes.
fn renamed(texts: &[String], place: impl Fn(&mut Words, &str) -> String) -> Vec<String> {
    let mut words = Words::default();
    for text in texts {
        place(&mut words, text);
    }
    words.settle();
    texts.iter().map(|text| place(&mut words, text)).collect()
}

fn shape(text: &str) -> String {
    let hexadecimal = text
        .chars()
        .all(|c| c.is_ascii_hexdigit() || !c.is_alphanumeric());
    text.chars()
        .map(|c| match c {
            '0'..='9' => '0',
            'a'..='f' if hexadecimal => 'f',
            'A'..='F' if hexadecimal => 'F',
            'a'..='z' => 'z',
            'A'..='Z' => 'Z',
            other => other,
        })
        .collect()
}

/// Equal ones stay equal, different ones different.
fn keeps_equalities(before: &[String], after: &[String]) -> Result<(), TestCaseError> {
    for (a, new_a) in before.iter().zip(after) {
        for (b, new_b) in before.iter().zip(after) {
            prop_assert_eq!(a == b, new_a == new_b, "{} {} -> {} {}", a, b, new_a, new_b);
        }
    }
    Ok(())
}

#[test]
fn an_id_is_the_same_however_it_is_written() {
    let mut words = Words::default();
    let id = "5000c500a1b2c3d4";
    let nguid = "0123abcd-0011-2233-4455-66778899aabb";
    for _ in 0..2 {
        words.wwn(&format!("naa.{id}"));
        words.id(nguid);
        words.settle();
    }
    let new = words.wwn(&format!("naa.{id}"));
    let digits = new.strip_prefix("naa.").unwrap().to_owned();
    assert!(digits.starts_with("5000c50") && digits != id, "{digits}");
    assert_eq!(
        words.field(&format!("0x{}", id.to_uppercase())),
        format!("0x{}", digits.to_uppercase())
    );
    assert_eq!(
        words.strictly(&format!("disk/by-id/scsi-3{id}-part1")),
        format!("disk/by-id/scsi-3{digits}-part1")
    );
    let new = words.id(nguid);
    let bare = new.replace('-', "");
    assert_eq!(
        words.wwn(&format!("eui.{}", nguid.replace('-', ""))),
        format!("eui.{bare}")
    );
    let pairs = |text: &str| {
        text.as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(words.id(&pairs(&nguid.replace('-', ""))), pairs(&bare));
    assert_eq!(words.loosely(&format!("label {nguid}.")), format!("label {new}."));
}

#[test]
fn a_serial_number_is_found_within_other_texts() {
    let mut words = Words::default();
    words.plain("TESTCORP HDD7200");
    for serial in ["SATA-hdd0", "WD WCC4N1234567", "NVSER0001"] {
        words.field(serial);
    }
    words.settle();
    let (sata, wd, nvme) = (
        words.field("SATA-hdd0"),
        words.field("WD WCC4N1234567"),
        words.field("NVSER0001"),
    );
    assert_eq!(
        words.strictly("disk/by-id/scsi-SATA_TESTCORP_HDD7200_SATA-hdd0"),
        format!("disk/by-id/scsi-SATA_TESTCORP_HDD7200_{sata}")
    );
    assert_eq!(
        words.strictly("ata-TESTCORP_HDD7200_WD_WCC4N1234567"),
        format!("ata-TESTCORP_HDD7200_{}", wd.replace(' ', "_"))
    );
    let hex = |text: &str| super::super::hex(text.as_bytes());
    let text = |serial: &str| format!("serial {} model {}", hex(serial), hex("HDD7200"));
    assert_eq!(words.loosely(&text("NVSER0001")), text(&nvme));
    assert_eq!(
        words.wwn(&format!("nvme.1b36-{}-51454d55-00000001", hex("NVSER0001"))),
        format!("nvme.1b36-{}-51454d55-00000001", hex(&nvme))
    );
    assert!(words.leaks("x_NVSER0001") && !words.leaks(&format!("TESTCORP_HDD7200_{nvme}")));
}

#[test]
fn what_udev_files_of_a_real_disk_loses_its_names_and_nothing_else() {
    // Debian 12 in a virtual machine.
    let text = "S:disk/by-id/wwn-0x500ee01fb131f08e\nS:disk/by-id/scsi-3500ee01fb131f08e\n\
        S:disk/by-id/scsi-SATA_TESTCORP_HDD7200_SATA-hdd0\nS:disk/by-id/scsi-1ATA_TESTCORP_HDD7200_SATA-hdd0\n\
        S:disk/by-diskseq/14\nS:disk/by-path/pci-0000:00:1f.2-ata-1.0\nI:12407688\nE:SCSI_VENDOR=ATA\n\
        E:SCSI_VENDOR_ENC=ATA\\x20\\x20\\x20\\x20\\x20\nE:SCSI_IDENT_SERIAL=SATA-hdd0\n\
        E:SCSI_IDENT_LUN_T10=ATA_TESTCORP_HDD7200_SATA-hdd0\nE:SCSI_IDENT_LUN_NAA_REG=500ee01fb131f08e\n\
        E:ID_MODEL=TESTCORP_HDD7200\nE:ID_MODEL_ENC=TESTCORP\\x20HDD7200\nE:ID_TYPE=disk\nE:ID_BUS=ata\n\
        E:ID_WWN=0x500ee01fb131f08e\nE:ID_SERIAL=TESTCORP_HDD7200_SATA-hdd0\nE:ID_SERIAL_SHORT=SATA-hdd0\n\
        E:ID_PATH=pci-0000:00:1f.2-ata-1.0\nE:MPATH_SBIN_PATH=/sbin\nG:systemd\nQ:systemd\nV:1\n";
    let mut words = Words::default();
    let place = super::super::texts::udev;
    place(text, &mut words);
    words.settle();
    let after = place(text, &mut words);
    let (serial, wwn) = (words.field("SATA-hdd0"), words.field("500ee01fb131f08e"));
    assert_eq!(
        after,
        text.replace("SATA-hdd0", &serial)
            .replace("500ee01fb131f08e", &wwn)
    );
    assert!(wwn.starts_with("500ee01"));
}

#[test]
fn places_of_the_kernel_and_common_words_stay_and_the_rest_does_not() {
    let path = |text: &str| renamed(&[text.to_owned()], Words::path).remove(0);
    for stays in [
        "/",
        "/dev/sda1",
        "/dev/nvme0n1p2",
        "/var/lib/kubelet",
        "/boot/efi",
        "/dev/root",
    ] {
        assert_eq!(path(stays), stays);
    }
    for goes in [
        "/mnt/backup",
        "/dev/mapper/vg0-lv0",
        "/dev/vg0/lv0",
        "/home/alice",
        "/mnt/sda1",
    ] {
        assert_ne!(path(goes), goes);
    }
    let link = |text: &str| renamed(&[text.to_owned()], Words::strictly).remove(0);
    for stays in [
        "disk/by-path/pci-0000:00:1f.2-ata-1.0",
        "wwn",
        "disk/by-path/virtio-pci-0000:00:05.0-part3",
    ] {
        assert_eq!(link(stays), stays);
    }
    let iscsi = link("ip-10.1.2.3:3260-iscsi-iqn.2003-01.example.target");
    assert!(
        !iscsi.contains("10.1.2.3") && !iscsi.contains("example"),
        "{iscsi}"
    );
    let loosely = renamed(&["traddr=203.0.113.7,trsvcid=4420".to_owned()], Words::loosely).remove(0);
    assert!(!loosely.contains("203.0.113.7"), "{loosely}");
    let bus = |text: &str| renamed(&[text.to_owned()], Words::bus).remove(0);
    let sys = "/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda";
    assert_eq!(bus(sys), sys);
    let vmbus = "/sys/devices/LNXSYSTM:00/VMBUS:01/f8b3781a-1e82-4818-a1c3-63d806ec15bb/host0";
    assert_ne!(bus(vmbus), vmbus);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn names_keep_their_equalities_and_their_shape(
        names in proptest::collection::vec("[A-Za-z0-9]{1,3}|[A-Za-z0-9 ._-]{1,16}|[0-9a-f]{8}|[1-9]{12}", 1..24),
    ) {
        let after = renamed(&names, Words::field);
        keeps_equalities(&names, &after)?;
        for (before, after) in names.iter().zip(&after) {
            let words = |text: &str| super::words(text).map(shape).collect::<Vec<_>>();
            prop_assert_eq!(words(before).len(), words(after).len());
            prop_assert_eq!(shape(before).len(), shape(after).len());
            prop_assert_eq!(meaningful(before).is_some(), meaningful(after).is_some(), "{} -> {}", before, after);
            if meaningful(before).is_none() {
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn ids_keep_their_equalities_and_stay_hexadecimal(
        ids in proptest::collection::vec("[0-9a-f]{16}|[0-9a-f]{32}|naa\\.5[0-9a-f]{15}|naa\\.6[0-9a-f]{31}|eui\\.[0-9a-f]{16}", 1..16),
    ) {
        let after = renamed(&ids, Words::wwn);
        keeps_equalities(&ids, &after)?;
        for (before, after) in ids.iter().zip(&after) {
            prop_assert_eq!(shape(bare(before)), shape(bare(after)));
            prop_assert_ne!(before, after);
        }
    }

    #[test]
    fn what_says_nothing_stays(text in "0{0,20}|[0: -]{0,16}|unknown|None|N/A|naa\\.0{16}|0x0+|\\PC{0,4}") {
        if meaningful(&text).is_none() {
            for place in [Words::field, Words::id, Words::wwn] {
                prop_assert_eq!(&renamed(std::slice::from_ref(&text), place)[0], &text);
            }
        }
    }

    #[test]
    fn no_text_panics_and_none_loses_what_is_between_the_words(text in "\\PC{0,60}|[ -~]{0,60}") {
        for place in [Words::field, Words::id, Words::wwn, Words::path, Words::bus, Words::strictly, Words::loosely] {
            let after = renamed(std::slice::from_ref(&text), place).remove(0);
            prop_assert_eq!(after.chars().count(), text.chars().count());
        }
    }
}
