//! Every class of drive.

use anyhow::Result;
use serde_json::json;
use smart_storage_integration::{
    Disk, Guest, Kernel, MIB,
    guest::{Namespace, Spindle},
    needs::GUEST,
    skipped,
};

use super::bed::Bed;

#[tokio::test(flavor = "multi_thread")]
async fn every_class_of_drive_is_what_the_guest_s_own_tools_say() -> Result<()> {
    if skipped("hardware: classes", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("classes").await?;
    let mut machine = bed.node("zoo", Kernel::Linux6_1)?;
    let disk = |name: &str| Disk::blank(bed.path(), name, 64 * MIB);
    let namespace = |name: &str, properties| -> Result<Namespace> {
        Ok(Namespace {
            disk: disk(name)?,
            properties,
        })
    };
    machine.nvme(
        "two",
        "NVSER0001",
        &[
            namespace("two-1", json!({"nsid": 1}))?,
            namespace(
                "two-2",
                json!({"nsid": 2, "logical_block_size": 4096, "physical_block_size": 4096}),
            )?,
        ],
    );
    machine.nvme(
        "ids",
        "WWN42",
        &[namespace(
            "ids-1",
            json!({
                "nsid": 1, "eui64": 0x0011_2233_4455_6677_u64, "uuid": "c0ffee00-1111-2222-3333-444444444444",
            }),
        )?],
    );
    machine.nvme("zns", "ZNS0", &[namespace("zns-1", json!({
        "nsid": 1, "zoned": true, "zoned.zone_size": 4 * MIB, "zoned.zone_capacity": 3 * MIB, "zoned.max_open": 8,
        "zoned.max_active": 12, "logical_block_size": 4096, "physical_block_size": 4096,
    }))?]);
    machine.nvme_pair("mp", "MP0", &namespace("mp-1", json!({"nsid": 1}))?);
    machine.sata(
        &disk("hdd")?,
        "SATA-hdd",
        Some(0x5000_c500_1111_0001),
        Spindle::Rpm(7200),
    );
    machine.sata(
        &disk("ssd")?,
        "SATA-ssd",
        Some(0x5000_c500_1111_0002),
        Spindle::Flash,
    );
    machine.sas(
        &disk("sas")?,
        "SAS-hdd",
        Some(0x5000_c500_2222_0001),
        Spindle::Rpm(10_000),
    );
    machine.sas(
        &disk("sasssd")?,
        "SAS-ssd",
        Some(0x5000_c500_2222_0002),
        Spindle::Flash,
    );
    machine.virtio_scsi(
        &disk("vscsi")?,
        Some("VSCSI-1"),
        Some(0x5000_c500_3333_0001),
        Spindle::Rpm(7200),
    );
    machine.virtio_scsi(&disk("bare")?, None, None, Spindle::Rpm(7200));
    machine.virtio_blk(&disk("vblk")?, Some("VBLK-1"));
    machine.virtio_blk(&disk("vbare")?, None);
    machine.usb(&disk("stick")?, "USB-1");
    machine.nvdimm(&Disk::blank(bed.path(), "pmem", 64 * MIB)?)?;
    let mut guest = Guest::boot(&machine, bed.path())?;
    println!(
        "{}",
        guest.sh("lsblk -o NAME,SIZE,ROTA,MODEL,SERIAL,WWN,TRAN,ZONED,FSTYPE,MOUNTPOINTS")?
    );
    bed.start_agent(&mut guest, "", "")?;
    let drives = bed.see(&mut guest, 15).await?;
    for drive in drives {
        println!("{drive}");
    }
    println!("{}", Bed::agent_log(&mut guest));
    Ok(())
}
