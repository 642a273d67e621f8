//! The whole journey on real drives: loop devices over files of this test's own, a real storage program.
//!
//! Run as root: `SMART_STORAGE_TEST_WEED=<path of weed> cargo test -p smart-storage-agent --lib journey -- --ignored
//! --test-threads=1`.

mod bed;
mod corpus;
mod exchange;
mod in_use;
mod moved;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use bed::{Bed, Folder, GIB, kill, run, until};

use super::{EnsureMember, FileSystem, MemberState, stop_all};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, loop devices and weed"]
async fn a_blank_drive_becomes_a_member_and_stays_one_through_kills_restarts_and_a_dead_file_system() {
    let mut bed = Bed::new();
    bed.start_master().await;
    let name = bed.attach(2 * GIB);
    let order = bed.order(&name).await;
    let id = order.member_id;
    let began = Instant::now();
    bed.members().ensure(order.clone()).await.unwrap();
    let first = bed.online(id).await;
    eprintln!("online after {:?}: {first:?}", began.elapsed());
    assert_eq!(
        (first.device.as_str(), first.pool.as_str()),
        (name.as_str(), "demo")
    );
    assert!(first.capacity_bytes > GIB);

    // The same order again changes nothing.
    let reports = bed.members().reports();
    bed.members().ensure(order.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!reports.has_changed().unwrap());
    bed.pictured("the mark is seen without being asked for", |picture| {
        let mark = picture
            .devices
            .get(&name)
            .and_then(|device| device.evidence.mark.clone());
        mark.is_some_and(|mark| mark.member_id == id.to_string() && !mark.released)
    })
    .await;
    let mount_point = bed.mount_point(id);
    fs::write(mount_point.join("data/kept"), b"bytes").unwrap();
    fs::File::open(mount_point.join("data/kept"))
        .unwrap()
        .sync_all()
        .unwrap();

    // The storage process is killed: another one, the same address.
    let [pid] = bed.process_of(id)[..] else {
        panic!("one process")
    };
    kill(pid, "KILL");
    bed.reaches(id, |report| report.state != MemberState::Online)
        .await;
    assert_eq!(bed.online(id).await.endpoint, first.endpoint);
    let [second] = bed.process_of(id)[..] else {
        panic!("one process")
    };
    assert_ne!(second, pid);

    // The agent goes and comes back: the same process.
    bed.stop_agent().await;
    bed.start_agent();
    bed.online(id).await;
    assert_eq!(bed.process_of(id), [second]);

    // The file system dies: said, stopped, and left as it is; mounted again by hand, all is well.
    let began = Instant::now();
    run(
        "xfs_io",
        &["-x", "-c", "shutdown -f", mount_point.to_str().unwrap()],
    );
    let dead = bed
        .reaches(id, |report| report.state == MemberState::Failed)
        .await;
    eprintln!(
        "dead file system noticed after {:?}: {}",
        began.elapsed(),
        dead.message
    );
    assert_eq!(dead.reason, "FileSystemDead");
    until("the process is stopped", || async {
        bed.process_of(id).is_empty()
    })
    .await;
    run("umount", &[mount_point.to_str().unwrap()]);
    let _ = Command::new("mount")
        .args([&format!("/dev/{name}p1"), mount_point.to_str().unwrap()])
        .status();
    let again = bed.online(id).await;
    assert_eq!(
        (&again.filesystem_uuid, &again.endpoint),
        (&first.filesystem_uuid, &first.endpoint)
    );
    assert_eq!(fs::read(mount_point.join("data/kept")).unwrap(), b"bytes");

    // Unmounted under the process: stopped, mounted, started again; nothing was written to the bare folder.
    run("umount", &["-l", mount_point.to_str().unwrap()]);
    assert!(
        fs::write(mount_point.join("stray"), b"x").is_err(),
        "the bare mount point is immutable"
    );
    bed.reaches(id, |report| report.state != MemberState::Online)
        .await;
    bed.online(id).await;
    assert_eq!(fs::read(mount_point.join("data/kept")).unwrap(), b"bytes");

    // Everything is put away and brought back by the mark alone.
    bed.stop_agent().await;
    stop_all(&bed.config()).await.unwrap();
    assert!(bed.process_of(id).is_empty());
    assert!(!mount_point.exists());

    // Its drive is away: missing. It comes back under whatever name: the same member.
    run("losetup", &["-d", &format!("/dev/{name}")]);
    bed.watcher.probe_now().await.unwrap();
    bed.start_agent();
    bed.reaches(id, |report| report.state == MemberState::Missing)
        .await;
    let stranger = bed.attach(64 << 20);
    let image = bed.folder.path().join("img/0.img");
    let name = bed.attach_file(&image);
    let back = bed.online(id).await;
    assert_eq!(
        (back.device.as_str(), back.filesystem_uuid.as_str()),
        (name.as_str(), first.filesystem_uuid.as_str())
    );
    assert_ne!(name, stranger);
    assert_eq!(fs::read(mount_point.join("data/kept")).unwrap(), b"bytes");

    // Released: nothing of it is left but the data and the mark that says so.
    bed.members().release(id).await.unwrap();
    bed.members().release(id).await.unwrap();
    assert!(!mount_point.exists() && bed.process_of(id).is_empty());
    bed.pictured("the release is seen without being asked for", |picture| {
        let mark = picture
            .devices
            .get(&name)
            .and_then(|device| device.evidence.mark.clone());
        mark.is_some_and(|mark| mark.member_id == id.to_string() && mark.released)
    })
    .await;
    bed.reaches(id, |report| report.state == MemberState::Released)
        .await;
    let error = bed
        .members()
        .ensure(EnsureMember {
            member_id: id,
            ..bed.order(&name).await
        })
        .await
        .unwrap_err();
    assert_eq!(error.reason, "Released");
    bed.put_away().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, loop devices and weed"]
async fn ext4_members_die_and_come_back_alike() {
    let mut bed = Bed::new();
    bed.start_master().await;
    let name = bed.attach(GIB);
    let order = EnsureMember {
        file_system: FileSystem::Ext4,
        ..bed.order(&name).await
    };
    let id = order.member_id;
    bed.members().ensure(order).await.unwrap();
    let first = bed.online(id).await;
    let mount_point = bed.mount_point(id);
    run(
        "xfs_io",
        &["-x", "-c", "shutdown -f", mount_point.to_str().unwrap()],
    );
    bed.reaches(id, |report| report.reason == "FileSystemDead").await;
    until("the process is stopped", || async {
        bed.process_of(id).is_empty()
    })
    .await;
    run("umount", &[mount_point.to_str().unwrap()]);
    assert_eq!(bed.online(id).await.filesystem_uuid, first.filesystem_uuid);
    bed.members().release(id).await.unwrap();
    bed.put_away().await;
}

/// The other process of the crash test: one agent that takes the drive, serves it and lets it go again, until the
/// environment's fault point kills it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the crash test only"]
async fn one_agent_run() {
    let Some(order) = std::env::var_os("SMART_STORAGE_TEST_ORDER") else {
        return;
    };
    let order: EnsureMember = serde_json::from_slice(&fs::read(order).unwrap()).unwrap();
    let folder = PathBuf::from(std::env::var_os("SMART_STORAGE_TEST_FOLDER").unwrap());
    let mut bed = Bed::over(Folder::Lent(folder));
    bed.start_agent();
    bed.watcher.probe_now().await.unwrap();
    bed.members().ensure(order.clone()).await.unwrap();
    bed.online(order.member_id).await;
    if std::env::var_os("SMART_STORAGE_TEST_RELEASE").is_some() {
        bed.members().release(order.member_id).await.unwrap();
    }
    // Goes as a killed agent goes: nothing is put away.
    std::process::exit(0);
}

#[cfg(feature = "fault-points")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, loop devices and weed"]
async fn a_crash_at_any_point_is_followed_by_the_rest() {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;
    for point in super::fault::POINTS {
        let releasing = super::fault::POINTS.iter().position(|known| known == point)
            >= super::fault::POINTS
                .iter()
                .position(|known| *known == "member-releasing-recorded");
        let mut bed = Bed::new();
        bed.start_master().await;
        let name = bed.attach(600 << 20);
        let order = bed.order(&name).await;
        let id = order.member_id;
        bed.stop_agent().await;
        let order_path = bed.folder.path().join("order.json");
        fs::write(&order_path, serde_json::to_vec(&order).unwrap()).unwrap();
        let mut agent = Command::new(std::env::current_exe().unwrap());
        agent
            .args([
                "--ignored",
                "--exact",
                "member::journey::one_agent_run",
                "--test-threads=1",
            ])
            .env("SMART_STORAGE_FAULT", point)
            .env("SMART_STORAGE_TEST_ORDER", &order_path)
            .env("SMART_STORAGE_TEST_FOLDER", bed.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if releasing {
            agent.env("SMART_STORAGE_TEST_RELEASE", "1");
        }
        let status = tokio::task::spawn_blocking(move || agent.status().unwrap())
            .await
            .unwrap();
        assert_eq!(
            status.signal(),
            Some(6),
            "{point}: the agent was to die there: {status}"
        );

        bed.start_agent();
        bed.watcher.probe_now().await.unwrap();
        if releasing {
            bed.members()
                .release(id)
                .await
                .unwrap_or_else(|error| panic!("{point}: {error:?}"));
            let mark = bed.seen(&name).await.evidence.mark.unwrap();
            assert!(mark.released, "{point}");
            assert!(bed.process_of(id).is_empty(), "{point}");
        } else {
            let now = bed.order(&name).await;
            let again = EnsureMember { member_id: id, ..now };
            bed.members()
                .ensure(again)
                .await
                .unwrap_or_else(|error| panic!("{point}: {error:?}"));
            bed.online(id).await;
            assert_eq!(bed.process_of(id).len(), 1, "{point}");
            assert_eq!(
                bed.seen(&name).await.evidence.mark.unwrap().member_id,
                id.to_string(),
                "{point}"
            );
        }
        eprintln!("{point}: converged");
        bed.put_away().await;
    }
}
