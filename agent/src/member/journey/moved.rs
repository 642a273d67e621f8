//! A drive that moves between nodes, and copies of it: what one node's journal says of a drive may be older than what
//! the drive has become on another, and nothing that has served data is ever formatted.
//!
//! A node is a data folder here: the drives are the same machine's.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use tokio::sync::watch;

use super::bed::{Bed, checksum, checksum_of_drive, image_of, run};
use crate::inventory::Inventory;
use crate::member::store::Phase;
use crate::member::{EnsureMember, FileSystem, MemberError, MemberId, MemberState, pause, stop_all};

const SIZE: u64 = 600 << 20;

const BOTH: [FileSystem; 2] = [FileSystem::Xfs, FileSystem::Ext4];

/// A machine on which the storage process ends at once: nobody asks for it here.
async fn bed() -> Bed {
    let mut bed = Bed::new();
    bed.weed = PathBuf::from("/bin/false");
    bed.stop_agent().await;
    bed.start_agent();
    bed
}

/// Another node's agent takes over: its data folder comes from `from`, this one's goes `to`.
async fn move_to(bed: &mut Bed, to: &str, from: &str) {
    bed.stop_agent().await;
    stop_all(&bed.config()).await.unwrap();
    let data = bed.config().data_dir;
    fs::rename(&data, data.with_file_name(to)).unwrap();
    let _ = fs::rename(data.with_file_name(from), &data);
    bed.start_agent();
    bed.watcher.probe_now().await.unwrap();
}

/// The first node's agent dies at this point of taking a fresh drive.
async fn begun(bed: &mut Bed, point: &'static str, file_system: FileSystem) -> (String, EnsureMember) {
    let name = bed.attach(SIZE);
    let order = EnsureMember {
        file_system,
        ..bed.order(&name).await
    };
    let armed = pause::when(point, |_| panic!("the crash of this test"));
    let crashed = bed.members().ensure(order.clone()).await.unwrap_err();
    drop(armed);
    assert_eq!(crashed.reason, "Internal", "{crashed:?}");
    assert_eq!(phase(bed, order.member_id), Some(Phase::Formatting));
    (name, order)
}

fn phase(bed: &Bed, id: MemberId) -> Option<Phase> {
    let text = fs::read(bed.config().data_dir.join(format!("members/{id}.json"))).ok()?;
    let spec: crate::member::store::MemberSpec = serde_json::from_slice(&text).unwrap();
    Some(spec.journal.phase)
}

async fn ensured(bed: &Bed, order: &EnsureMember, may_prepare: bool) -> Result<(), MemberError> {
    let order = EnsureMember {
        may_prepare,
        ..order.clone()
    };
    bed.members().ensure(order).await
}

/// It was refused so, it is not said to be prepared, and nothing of it is mounted.
fn refused(bed: &Bed, order: &EnsureMember, result: Result<(), MemberError>, reason: &str, says: &str) {
    let error = result.unwrap_err();
    eprintln!("{}: {}", error.reason, error.message);
    assert_eq!((error.reason, error.retryable), (reason, false), "{error:?}");
    assert!(error.message.contains(says), "{error:?}");
    assert_ne!(phase(bed, order.member_id), Some(Phase::Finished));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(&order.member_id.to_string()), "{table}");
}

/// What is on the drive stays out of the next step's way.
fn detached(bed: &mut Bed, name: &str) {
    let _ = Command::new("partx")
        .args(["-d", &format!("/dev/{name}")])
        .output();
    run("losetup", &["-d", &format!("/dev/{name}")]);
    bed.loops.retain(|known| known != name);
}

/// As if neither the drive nor the other node had been there.
async fn let_go(bed: &mut Bed, id: MemberId, name: &str) {
    bed.members().release(id).await.unwrap();
    detached(bed, name);
    fs::remove_dir_all(bed.folder.path().join("node-b")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_member_that_served_on_another_node_is_never_formatted_by_the_node_that_began() {
    let mut bed = bed().await;
    for file_system in BOTH {
        for may_prepare in [false, true] {
            let what = format!("{file_system:?}, may prepare: {may_prepare}");
            let (name, order) = begun(&mut bed, "member-identity-written", file_system).await;
            let id = order.member_id;
            move_to(&mut bed, "node-a", "none").await;
            assert_eq!(phase(&bed, id), None);
            ensured(&bed, &order, false).await.unwrap();
            assert_eq!(phase(&bed, id), Some(Phase::Finished), "{what}");
            bed.reaches(id, |report| report.reason == "ProcessExited").await;
            let kept = bed.mount_point(id).join("data/kept");
            fs::write(&kept, what.as_bytes()).unwrap();
            move_to(&mut bed, "node-b", "node-a").await;

            assert_eq!(phase(&bed, id), Some(Phase::Formatting));
            let ensured = ensured(&bed, &order, may_prepare).await;
            bed.reaches(id, |report| report.reason == "ProcessExited").await;
            assert_eq!(fs::read(&kept).ok().as_deref(), Some(what.as_bytes()), "{what}");
            assert_eq!(ensured, Ok(()), "{what}");
            assert_eq!(phase(&bed, id), Some(Phase::Finished), "{what}");
            let_go(&mut bed, id, &name).await;
        }
    }
    bed.put_away().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_file_system_without_its_identity_is_finished_by_the_node_that_began_and_by_no_other() {
    let mut bed = bed().await;
    for file_system in BOTH {
        let (name, order) = begun(&mut bed, "member-formatted", file_system).await;
        let id = order.member_id;
        move_to(&mut bed, "node-a", "none").await;
        for may_prepare in [true, false] {
            let result = ensured(&bed, &order, may_prepare).await;
            refused(
                &bed,
                &order,
                result,
                "NotFinished",
                "bring it back to the node that began",
            );
            assert_eq!(phase(&bed, id), None);
            let reports = bed.members().reports().borrow().clone();
            assert!(
                reports
                    .get(&id)
                    .is_none_or(|report| report.state == MemberState::Found),
                "{reports:?}"
            );
        }
        move_to(&mut bed, "node-b", "node-a").await;
        let result = ensured(&bed, &order, false).await;
        refused(&bed, &order, result, "NotFinished", "release the member");
        assert_eq!(phase(&bed, id), Some(Phase::Formatting));
        ensured(&bed, &order, true).await.unwrap();
        assert_eq!(phase(&bed, id), Some(Phase::Finished));
        bed.reaches(id, |report| report.reason == "ProcessExited").await;
        let_go(&mut bed, id, &name).await;
    }
    bed.put_away().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_member_whose_end_cannot_be_recorded_is_left_as_it_is_and_recorded_later() {
    let mut bed = bed().await;
    let name = bed.attach(SIZE);
    let order = bed.order(&name).await;
    let id = order.member_id;
    // The record's new file cannot be made where there is a folder.
    let in_the_way = bed.config().data_dir.join(format!("members/{id}.new"));
    let (folder, kept) = (in_the_way.clone(), bed.mount_point(id).join("data/kept"));
    let armed = pause::when("member-identity-written", move |_| {
        fs::create_dir(&folder).unwrap();
        fs::write(&kept, b"bytes").unwrap();
    });
    let result = bed.members().ensure(order.clone()).await;
    drop(armed);
    let error = result.unwrap_err();
    assert_eq!((error.reason, error.retryable), ("StoreFailed", true));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(&id.to_string()), "{table}");
    fs::remove_dir(in_the_way).unwrap();
    bed.members().ensure(order).await.unwrap();
    assert_eq!(phase(&bed, id), Some(Phase::Finished));
    bed.reaches(id, |report| report.reason == "ProcessExited").await;
    assert_eq!(fs::read(bed.mount_point(id).join("data/kept")).unwrap(), b"bytes");
    bed.members().release(id).await.unwrap();
    bed.put_away().await;
}

/// What may lie on an unfinished member's drive when its preparation goes on, made below the mounted file system or
/// on the partition itself.
type Left = (&'static str, Option<fn(&std::path::Path)>, Option<&'static str>);

const LEFT: [Left; 5] = [
    (
        "leftovers of the interrupted run",
        Some(|root| {
            let _ = fs::create_dir(root.join("data"));
            fs::write(root.join("member.new"), b"{").unwrap();
        }),
        None,
    ),
    ("no whole file system", None, None),
    (
        "data of nobody",
        Some(|root| {
            let _ = fs::create_dir(root.join("data"));
            fs::write(root.join("data/1.dat"), b"somebody's").unwrap();
        }),
        Some("it holds data (data)"),
    ),
    (
        "what fsck found",
        Some(|root| {
            fs::create_dir_all(root.join("lost+found")).unwrap();
            fs::write(root.join("lost+found/#12"), b"somebody's").unwrap();
        }),
        Some("it holds data (lost+found)"),
    ),
    (
        "another member's",
        Some(|root| {
            let other = "{\"member_id\": \"3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21\", \"pool\": \"p\", \"cluster_id\": \"c\"}";
            fs::write(root.join("member.json"), other).unwrap();
        }),
        Some("belongs to member 3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21 of pool p"),
    ),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn an_unfinished_file_system_is_made_again_only_where_it_is_nobodys() {
    let mut bed = bed().await;
    for file_system in BOTH {
        for (what, fill, says) in LEFT {
            let (name, order) = begun(&mut bed, "member-formatted", file_system).await;
            let (id, partition) = (order.member_id, format!("/dev/{name}p1"));
            bed.stop_agent().await;
            stop_all(&bed.config()).await.unwrap();
            if let Some(fill) = fill {
                let at = bed.folder.path().join("filled");
                fs::create_dir_all(&at).unwrap();
                run("mount", &[&partition, at.to_str().unwrap()]);
                fill(&at);
                run("umount", &[at.to_str().unwrap()]);
            } else {
                let drive = fs::OpenOptions::new().write(true).open(&partition).unwrap();
                // XFS: being made, as an interrupted `mkfs` leaves it. ext4: no group descriptors.
                match file_system {
                    FileSystem::Xfs => drive.write_all_at(&[1], 126).unwrap(),
                    FileSystem::Ext4 => drive.write_all_at(&[0xff; 4096], 4096).unwrap(),
                }
                drive.sync_all().unwrap();
            }
            bed.start_agent();
            bed.watcher.probe_now().await.unwrap();
            let result = ensured(&bed, &order, true).await;
            eprintln!("{file_system:?}, {what}: {result:?}");
            match says {
                None => {
                    assert_eq!(result, Ok(()), "{file_system:?}, {what}");
                    assert_eq!(phase(&bed, id), Some(Phase::Finished));
                    bed.reaches(id, |report| report.reason == "ProcessExited").await;
                }
                Some(says) => {
                    refused(&bed, &order, result, "WrongIdentity", says);
                    let at = bed.folder.path().join("filled");
                    run("mount", &["-o", "ro", &partition, at.to_str().unwrap()]);
                    let left = ["data/1.dat", "lost+found/#12", "member.json"];
                    let left = left.iter().any(|file| at.join(file).exists());
                    run("umount", &[at.to_str().unwrap()]);
                    assert!(left, "{file_system:?}, {what}: its data is gone");
                }
            }
            bed.members().release(id).await.unwrap();
            detached(&mut bed, &name);
        }
    }
    bed.put_away().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn neither_a_member_nor_its_copy_is_mounted_whichever_is_probed_first() {
    let mut bed = bed().await;
    let name = bed.attach(SIZE);
    let order = bed.order(&name).await;
    let id = order.member_id;
    bed.members().ensure(order.clone()).await.unwrap();
    bed.reaches(id, |report| report.reason == "ProcessExited").await;
    bed.stop_agent().await;
    stop_all(&bed.config()).await.unwrap();
    checksum_of_drive(&name);
    let (image, copy) = (image_of(&name), bed.folder.path().join("img/copy.img"));
    run(
        "cp",
        &["--sparse=always", image.to_str().unwrap(), copy.to_str().unwrap()],
    );
    let copied = bed.attach_file(&copy);
    bed.watcher.probe_now().await.unwrap();
    let whole = bed.inventory.borrow().clone();
    let before = (checksum(&image), checksum(&copy));
    for first in [&name, &copied] {
        // At the start of an agent: one of them was probed, the other one still is.
        let partial = Inventory {
            complete: false,
            devices: [(first.clone(), Arc::clone(&whole.devices[first]))].into(),
            faults: Vec::new(),
        };
        let (pictures, seen) = watch::channel(Arc::new(partial));
        let real = std::mem::replace(&mut bed.inventory, seen);
        bed.start_agent();
        bed.reaches(id, |report| report.reason == "Looking").await;
        pictures.send(Arc::clone(&whole)).unwrap();
        let said = bed.reaches(id, |report| report.reason != "Looking").await;
        assert_eq!(
            (said.state, said.reason.as_str()),
            (MemberState::Failed, "DuplicateMark")
        );
        bed.stop_agent().await;
        bed.inventory = real;
        assert_eq!((checksum(&image), checksum(&copy)), before, "{first} first");
    }
    // Nor by a node that has no record of it.
    fs::remove_file(bed.config().data_dir.join(format!("members/{id}.json"))).unwrap();
    let partial = Inventory {
        complete: false,
        devices: [(copied.clone(), Arc::clone(&whole.devices[&copied]))].into(),
        faults: Vec::new(),
    };
    let (pictures, seen) = watch::channel(Arc::new(partial));
    let real = std::mem::replace(&mut bed.inventory, seen);
    bed.start_agent();
    let looking = ensured(&bed, &order, false).await.unwrap_err();
    assert_eq!((looking.reason, looking.retryable), ("Looking", true));
    pictures.send(whole).unwrap();
    assert_eq!(
        ensured(&bed, &order, false).await.unwrap_err().reason,
        "DuplicateMark"
    );
    bed.stop_agent().await;
    bed.inventory = real;
    assert_eq!((checksum(&image), checksum(&copy)), before);
    detached(&mut bed, &copied);
    detached(&mut bed, &name);
    bed.put_away().await;
}
