//! Made-up machines: each [`Drive`] is a set of names, which four devices share between them: a SATA disk with a
//! volume group, an NVMe namespace with a mark, a virtio disk with a file system, and a loop device.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::super::*;
use crate::hardware::Mark;
use crate::hardware::ioctl::{LoopStatus, NvmeRead};
use crate::hardware::signatures::{Entry, Findings, Signature, Table as PartitionTable, TableKind};
use record::question;

/// Names of one owner.
#[derive(Debug, Clone)]
pub(super) struct Drive {
    pub(super) serial: String,
    pub(super) wwn: String,
    pub(super) nguid: String,
    pub(super) table: String,
    pub(super) filesystem: String,
    pub(super) label: String,
    pub(super) group: String,
    pub(super) folder: String,
}

pub(super) fn drives() -> impl Strategy<Value = Vec<Drive>> {
    let uuid = || "[1-9a-f][0-9a-f]{7}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";
    let drive = (
        "[A-Z]{2}[A-Z0-9]{5,9}[0-9]|[A-Z]{2}[0-9]{4}-[A-Z0-9]{6}[0-9]|WD [A-Z]{3}[0-9]{5}",
        "5[0-9a-f]{15}",
        "[1-9a-f][0-9a-f]{31}",
        uuid(),
        uuid(),
        "[A-Z][a-z]{4}[0-9]{3}( [a-z]{4}[0-9]{2})?",
        "[a-z]{4}[0-9]{3}(-[a-z]{3}[0-9])?",
        "[a-z]{5}[0-9]{2}",
    )
        .prop_map(
            |(serial, wwn, nguid, table, filesystem, label, group, folder)| Drive {
                serial,
                wwn,
                nguid,
                table,
                filesystem,
                label,
                group,
                folder,
            },
        );
    let relation = prop_oneof![
        4 => Just("of its own"),
        1 => Just("says nothing"),
        1 => Just("the same again"),
        1 => Just("the serial number is a name"),
    ];
    proptest::collection::vec((drive, relation), 1..4).prop_map(|drives| {
        let mut all: Vec<Drive> = Vec::new();
        for (mut drive, relation) in drives {
            match relation {
                "says nothing" => {
                    drive.serial = "unknown".into();
                    drive.wwn = "0".repeat(16);
                }
                "the same again" => {
                    if let Some(first) = all.first() {
                        (drive.serial, drive.wwn) = (first.serial.clone(), first.wwn.clone());
                        drive.filesystem.clone_from(&first.filesystem);
                    }
                }
                "the serial number is a name" => drive.serial.clone_from(&drive.wwn),
                _ => {}
            }
            all.push(drive);
        }
        all
    })
}

impl Drive {
    pub(super) fn example() -> Self {
        Self {
            serial: "SATA-hdd0".into(),
            wwn: "500ee01fb131f08e".into(),
            nguid: "00112233445566778899aabbccddeeff".into(),
            table: "12024357-8345-194b-b199-a5e80f77344b".into(),
            filesystem: "a829c476-9f1b-410d-a7eb-b0ffbc89b6f3".into(),
            label: "secret label".into(),
            group: "group-0".into(),
            folder: "alice".into(),
        }
    }

    /// What must not be left.
    pub(super) fn secrets(&self) -> Vec<String> {
        let mut all = vec![
            self.nguid.clone(),
            self.table.clone(),
            self.table.replace('-', ""),
            self.filesystem.clone(),
            self.label.clone(),
            self.group.clone(),
            self.folder.clone(),
        ];
        if self.serial != "unknown" {
            all.extend([
                self.serial.clone(),
                self.serial.replace(' ', "_"),
                self.wwn.clone(),
            ]);
            // The part that smartctl tells as a number.
            all.push(u64::from_str_radix(&self.wwn[7..], 16).unwrap().to_string());
        }
        all.retain(|secret| secret.len() > 5);
        all
    }

    fn mapped(&self) -> String {
        format!("{}-lv0", self.group.replace('-', "--"))
    }
}

struct Maker(Bundle);

impl Maker {
    fn file(&mut self, path: &str, content: impl AsRef<[u8]>) {
        let bytes = Bytes::of(content.as_ref());
        self.0.files.insert(path.to_owned(), Answer::Told(bytes));
    }

    fn link(&mut self, path: &str, to: &str) {
        self.0.links.insert(path.to_owned(), to.to_owned());
    }

    fn folder(&mut self, path: &str, names: &[&str]) {
        let folder = self
            .0
            .folders
            .entry(path.to_owned())
            .or_insert(Answer::Told(BTreeSet::new()));
        if let Answer::Told(all) = folder {
            all.extend(names.iter().map(|name| (*name).to_owned()));
        }
    }

    /// What every device has.
    fn disk(&mut self, name: &str, number: &str, at: &str, findings: Findings) -> String {
        let class = format!("/sys/class/block/{name}");
        let own = format!("{at}/block/{name}");
        self.folder("/sys/block", &[name]);
        self.0.inodes.insert(format!("/sys/block/{name}"), Inode::Other);
        self.link(&class, &own);
        self.file(&format!("{class}/dev"), format!("{number}\n"));
        self.file(&format!("{class}/size"), "131072\n");
        self.file(&format!("{class}/queue/logical_block_size"), "512\n");
        self.folder(&format!("{class}/holders"), &[]);
        let look = Look {
            size_bytes: 131_072 * 512,
            loop_status: name.starts_with("loop").then_some(LoopStatus {
                backing_device: 65024,
                backing_inode: 17,
                offset: 0,
                size_limit: 0,
            }),
            findings,
        };
        let opened = Opened {
            look: Some(Answer::Told(look)),
            exclusively: Some(Answer::Told(Done::Done)),
        };
        self.0.devices.insert(format!("/dev/{name}"), opened);
        class
    }

    fn program(&mut self, line: &str, status: i32, json: Value) {
        let run = Run {
            status: Some(status),
            stdout: Bytes::Json { json },
        };
        self.0.programs.insert(line.to_owned(), Answer::Told(run));
    }
}

fn findings(signatures: Vec<Signature>, table: Option<PartitionTable>) -> Findings {
    Findings {
        size_bytes: 131_072 * 512,
        mark: table.as_ref().and_then(|table| {
            let entry = table.entries.first()?;
            (entry.type_id == smart_storage_proto::MEMBER_PARTITION_TYPE).then(|| Mark {
                member_id: entry.uuid.clone().unwrap_or_default(),
                label: entry.name.clone(),
                partition: 1,
                released: false,
            })
        }),
        signatures,
        table,
        ..Findings::default()
    }
}

fn signature(description: String, filesystem_uuid: Option<&str>, partition: Option<u32>) -> Signature {
    Signature {
        description,
        filesystem_uuid: filesystem_uuid.map(str::to_owned),
        offset: 1024,
        partition,
    }
}

fn table(uuid: &str, type_id: &str, entry: &str, name: &str) -> Option<PartitionTable> {
    Some(PartitionTable {
        kind: TableKind::Gpt,
        uuid: Some(uuid.to_owned()),
        entries: vec![Entry {
            number: 1,
            type_id: type_id.to_owned(),
            uuid: Some(entry.to_owned()),
            name: name.to_owned(),
            start_bytes: 1 << 20,
            length_bytes: 16 << 20,
        }],
        primary_valid: true,
        backup_valid: true,
    })
}

/// The machine that has these drives.
pub(super) fn bundle(drives: &[Drive]) -> Bundle {
    let mut maker = Maker(Bundle::new());
    let mut lines = Vec::new();
    for (drive, at) in drives.iter().zip(0_u8..) {
        let letter = char::from(b'a' + at);
        sata(&mut maker, drive, &format!("sd{letter}"), at);
        nvme(&mut maker, drive, at);
        virtio(&mut maker, drive, &format!("vd{letter}"), at);
        looped(&mut maker, drive, at);
        let (folder, mapped) = (&drive.folder, drive.mapped());
        lines.push(format!(
            "36 35 253:{at} / /mnt/{folder} rw,noatime master:1 - ext4 /dev/mapper/{mapped} rw,x={folder}"
        ));
        lines.push(format!(
            "37 35 254:{at} /sub\\040{folder} /var/lib/{folder} ro - xfs /dev/vd{letter} rw"
        ));
    }
    maker.0.mounts.push(Table {
        path: "/proc/1/mountinfo".into(),
        foreign_pid: None,
        lines: Answer::Told(lines),
    });
    maker.file(
        "/proc/swaps",
        "Filename\tType\tSize\tUsed\tPriority\n/dev/dm-0 partition 1 0 -2\n",
    );
    maker.0
}

fn sata(maker: &mut Maker, drive: &Drive, name: &str, at: u8) {
    let Drive {
        serial,
        wwn,
        group,
        label,
        ..
    } = drive;
    let content = findings(
        vec![signature(
            format!("LVM physical volume of {group}"),
            None,
            Some(1),
        )],
        table(
            &drive.table,
            "0fc63daf-8483-4772-8e79-3d69d8477de4",
            &drive.filesystem,
            label,
        ),
    );
    let number = format!("8:{}", u32::from(at) * 16);
    let class = maker.disk(
        name,
        &number,
        &format!("/sys/devices/pci0/ata{at}/host0/target0:0:0/0:0:0:0"),
        content,
    );
    maker.file(&format!("{class}/device/model"), "TESTCORP HDD7200\n");
    maker.file(&format!("{class}/device/wwid"), format!("naa.{wwn}\n"));
    let length = u8::try_from(serial.len()).unwrap();
    let page = [&[0, 0x80, 0, length][..], serial.as_bytes()].concat();
    maker.file(&format!("{class}/device/vpd_pg80"), page);
    let part = format!("{name}1");
    maker.folder(&class, &[&part]);
    maker.file(&format!("{class}/{part}/partition"), "1\n");
    let dm = format!("dm-{at}");
    maker.folder(&format!("/sys/class/block/{part}/holders"), &[&dm]);
    maker.file(&format!("/sys/class/block/{dm}/dev"), format!("253:{at}\n"));
    maker.file(
        &format!("/sys/class/block/{dm}/dm/name"),
        format!("{}\n", drive.mapped()),
    );
    maker.file(
        &format!("/sys/class/block/{dm}/dm/uuid"),
        "LVM-AbCdEf0123456789\n",
    );
    let linked = serial.replace(' ', "_");
    maker.file(
        &format!("/run/udev/data/b{number}"),
        format!(
            "S:disk/by-id/ata-TESTCORP_HDD7200_{linked}\nS:disk/by-id/scsi-3{wwn}\nS:disk/by-id/wwn-0x{wwn}\n\
            S:disk/by-partlabel/{}\nI:12345\nE:ID_SERIAL=TESTCORP_HDD7200_{linked}\nE:ID_SERIAL_SHORT={linked}\n\
            E:ID_WWN=0x{wwn}\nE:ID_PART_TABLE_UUID={}\nE:NEW_THING=x-{wwn}\nG:systemd\n",
            label.replace(' ', "\\x20"),
            drive.table,
        ),
    );
    let part_of_name = |from: usize, to: usize| u64::from_str_radix(&wwn[from..to], 16).unwrap();
    maker.program(
        &format!("smartctl --json -a -n standby /dev/{name}"),
        4,
        json!({
            "device": {"name": format!("/dev/{name}"), "type": "sat"},
            "model_name": "TESTCORP HDD7200",
            "serial_number": serial,
            "wwn": {"naa": part_of_name(0, 1), "oui": part_of_name(1, 7), "id": part_of_name(7, 16)},
            "something_new": [format!("about {serial}"), format!("0x{wwn}")],
            "temperature": {"current": 30 + at},
        }),
    );
}

fn nvme(maker: &mut Maker, drive: &Drive, at: u8) {
    let Drive {
        serial, nguid, group, ..
    } = drive;
    let (controller, name) = (format!("nvme{at}"), format!("nvme{at}n1"));
    let uuid = &drive.filesystem;
    let content = findings(
        Vec::new(),
        table(
            &drive.table,
            smart_storage_proto::MEMBER_PARTITION_TYPE,
            uuid,
            &format!("01234567/{group}"),
        ),
    );
    let bus = format!("/sys/devices/pci0/0000:0{at}:00.0");
    let class = maker.disk(
        &name,
        &format!("259:{at}"),
        &format!("{bus}/nvme/{controller}"),
        content,
    );
    maker.link(&format!("{class}/device"), &format!("{bus}/nvme/{controller}"));
    maker.link(&format!("/sys/class/nvme/{controller}/device"), &bus);
    let dashed = uuid::Uuid::parse_str(nguid).unwrap().to_string();
    let spaced: Vec<String> = drive
        .wwn
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8_lossy(pair).into_owned())
        .collect();
    for (attribute, text) in [
        ("nguid", dashed),
        ("uuid", uuid.clone()),
        ("eui", spaced.join(" ")),
        ("wwid", format!("eui.{nguid}")),
        ("nsid", "1".to_owned()),
        ("device/serial", format!("{serial:20}")),
        ("device/model", "QEMU NVMe Ctrl".to_owned()),
    ] {
        maker.file(&format!("{class}/{attribute}"), text + "\n");
    }
    maker.file(&format!("/sys/class/nvme/{controller}/transport"), "pcie\n");
    maker.file(
        &format!("/sys/class/nvme/{controller}/subsysnqn"),
        format!("nqn.2019-08.org.qemu:{serial}\n"),
    );
    maker.file(
        &format!("/run/udev/data/b259:{at}"),
        format!(
            "S:disk/by-id/nvme-eui.{nguid}\nS:disk/by-id/nvme-nvme.1b36-{}-51454d55-00000001\nE:ID_WWN=eui.{nguid}\n",
            hex(serial.as_bytes())
        ),
    );
    let mut identify = vec![0_u8; 4096];
    identify[4..24].copy_from_slice(&format!("{serial:20}").into_bytes());
    identify[24..64].copy_from_slice(&format!("{:40}", "QEMU NVMe Ctrl").into_bytes());
    identify[64..72].copy_from_slice(b"10.0.2  ");
    identify[280..288].copy_from_slice(&67_108_864_u64.to_le_bytes());
    identify[516..520].copy_from_slice(&256_u32.to_le_bytes());
    let nqn = format!("nqn.2019-08.org.qemu:{serial}");
    identify[768..768 + nqn.len()].copy_from_slice(nqn.as_bytes());
    identify[3072..3072 + serial.len()].copy_from_slice(serial.as_bytes());
    let mut log = vec![0_u8; 512];
    log[1..3].copy_from_slice(&323_u16.to_le_bytes());
    let answers = [(NvmeRead::Controller, identify), (NvmeRead::SmartLog, log)]
        .map(|(what, bytes)| (question(what), Answer::Told(Bytes::of(&bytes))));
    maker
        .0
        .nvme
        .insert(format!("/dev/{controller}"), Answer::Told(answers.into()));
    maker.program(
        &format!("nvme smart-log /dev/{controller} -o json"),
        0,
        json!({"critical_warning": 0, "temperature": 323, "media_errors": at}),
    );
}

fn virtio(maker: &mut Maker, drive: &Drive, name: &str, at: u8) {
    let words = format!("ext4 file system \"{}\"", drive.label);
    let content = findings(vec![signature(words, Some(&drive.filesystem), None)], None);
    let class = maker.disk(
        name,
        &format!("254:{at}"),
        &format!("/sys/devices/pci0/virtio{at}"),
        content,
    );
    maker.file(&format!("{class}/queue/rotational"), "1\n");
    // /sys does not show it here.
    maker.file(
        &format!("/run/udev/data/b254:{at}"),
        format!(
            "E:ID_SERIAL_SHORT={}\nE:ID_FS_UUID={}\n",
            drive.serial, drive.filesystem
        ),
    );
}

fn looped(maker: &mut Maker, drive: &Drive, at: u8) {
    let name = format!("loop{at}");
    let class = maker.disk(
        &name,
        &format!("7:{at}"),
        "/sys/devices/virtual",
        findings(Vec::new(), None),
    );
    let file = format!("/srv/{}/{}.img", drive.folder, drive.label);
    maker.file(&format!("{class}/loop/backing_file"), format!("{file}\n"));
    maker.0.inodes.insert(
        file.clone(),
        Inode::File {
            length: 131_072 * 512,
        },
    );
    maker.0.included.insert(file);
}

/// A host in a folder: a SATA disk that may sleep, and a virtio disk. Neither can be opened.
pub(super) fn host_tree(root: &Path, rotational: &str) {
    let sys = root.join("sys");
    let disk = |name: &str, at: &str, files: &[(&str, &[u8])]| {
        let own = sys.join("devices").join(at).join("block").join(name);
        for folder in ["queue", "holders", "device"] {
            fs::create_dir_all(own.join(folder)).unwrap();
        }
        for folder in ["block", "class/block"] {
            fs::create_dir_all(sys.join(folder)).unwrap();
            symlink(&own, sys.join(folder).join(name)).unwrap();
        }
        for (file, content) in files {
            fs::write(own.join(file), content).unwrap();
        }
    };
    disk(
        "sda",
        "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0",
        &[
            ("dev", b"8:0\n"),
            ("size", b"131072\n"),
            ("queue/rotational", rotational.as_bytes()),
            ("queue/logical_block_size", b"512\n"),
            ("device/model", b"TESTCORP HDD7200\n"),
            ("device/wwid", b"naa.500ee01fb131f08e\n"),
            ("device/vpd_pg80", b"\0\x80\0\x09SATA-hdd0"),
        ],
    );
    disk(
        "vda",
        "pci0000:00/0000:00:05.0/virtio2",
        &[
            ("dev", b"254:0\n"),
            ("size", b"131072\n"),
            ("serial", b"VIRT0001"),
        ],
    );
    fs::create_dir_all(root.join("proc/1")).unwrap();
    let mounts = "27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 8:0 / /mnt/secretbox rw - ext4 /dev/sda rw\n";
    fs::write(root.join("proc/1/mountinfo"), mounts).unwrap();
    fs::write(root.join("proc/swaps"), "Filename Type Size Used Priority\n").unwrap();
}
