//! Time of check, time of use: whatever happens to a drive between the plan and the first write, at whatever moment,
//! nothing is written, and the refusal says what changed. After the first write, nothing is ever written to another
//! drive than the one that carries the mark.
//!
//! The moments are the fault points of `fault.rs`, enumerated; the changes are a list here. What the kernel refuses
//! while we hold the drive (an exchange, an exclusive open, a mount) cannot happen at that moment: that is asserted
//! too.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::bed::{Bed, checksum, checksum_of_drive, image_of, run, until};
use super::corpus::{Site, Undo, holder, unsampled};
use crate::member::{EnsureMember, FileSystem, MemberId, fault, pause, stop_all};

const MIB: u64 = 1 << 20;

/// Size of the drives: small, because there are many, and each is read whole.
const SIZE: u64 = 96 * MIB;

/// Before the agent is asked at all.
const PLANNED: &str = "planned";

/// What can happen to a drive, and the refusal: its reason, and words that name it.
struct Change {
    what: &'static str,
    /// Does it; none where the kernel does not let it happen.
    make: fn(&Scene) -> Option<Undo>,
    refusals: &'static [(&'static str, &'static str)],
}

/// Where it happens.
#[derive(Clone)]
struct Scene {
    name: String,
    image: PathBuf,
    /// Another drive's file: bytes that are somebody's.
    other: PathBuf,
    folder: PathBuf,
}

impl Scene {
    fn dev(&self) -> String {
        format!("/dev/{}", self.name)
    }

    fn site(&self) -> Site {
        Site {
            name: self.name.clone(),
            size: SIZE,
            folder: self.folder.clone(),
        }
    }

    fn works(&self, program: &str, arguments: &[&str]) -> bool {
        Command::new(program)
            .args(arguments)
            .output()
            .unwrap()
            .status
            .success()
    }

    /// Detaches the drive and attaches another file under the same name.
    fn exchange(&self) -> Option<Undo> {
        let _ = Command::new("partx").args(["-d", &self.dev()]).output();
        self.works("losetup", &["-d", &self.dev()]);
        self.works("losetup", &[&self.dev(), self.other.to_str().unwrap()])
            .then(Undo::default)
    }

    /// As [`Scene::exchange`], and nobody tells the kernel that the old drive's partition is gone.
    fn exchange_below_the_partition(&self) -> bool {
        self.works("losetup", &["-d", &self.dev()]);
        self.works("losetup", &[&self.dev(), self.other.to_str().unwrap()])
    }

    /// Does this once nobody holds the drive: the picture looks at it after each event, and a loop device that is
    /// detached while it is open stays under its file until it is closed.
    async fn until_done(&self, what: impl Fn(&Self) -> bool) {
        until("the drive can be exchanged", || async { what(self) }).await;
    }

    /// Every byte of both drives.
    fn bytes(&self) -> (String, String) {
        if image_of_attached(&self.name).as_deref() == Some(&self.image) {
            checksum_of_drive(&self.name);
        }
        (checksum(&self.image), checksum(&self.other))
    }
}

impl Scene {
    /// Every byte of both drives as they will be once this has reached the drive at its place.
    fn bytes_after(&self, written: &[u8]) -> (String, String) {
        use std::os::unix::fs::FileExt;
        let reference = self.folder.join("reference.img");
        let file = fs::File::create(&reference).unwrap();
        file.set_len(SIZE).unwrap();
        file.write_all_at(written, unsampled(SIZE)).unwrap();
        (checksum(&reference), checksum(&self.other))
    }
}

fn image_of_attached(name: &str) -> Option<PathBuf> {
    Path::new(&format!("/sys/block/{name}/loop/backing_file"))
        .exists()
        .then(|| image_of(name))
}

fn exclusive(scene: &Scene) -> Option<Undo> {
    let flag = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap();
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flag)
        .open(scene.dev())
        .ok()?;
    Some(Undo::default().then(move || drop(file)))
}

fn file_of(path: &Path) -> fs::File {
    fs::OpenOptions::new().write(true).open(path).unwrap()
}

/// What is written stays in the page cache: the agent itself has to bring it to light.
const LATE: &str = "written and not yet on the medium";

const CHANGES: &[Change] = &[
    Change {
        what: "exchanged",
        make: Scene::exchange,
        refusals: &[("DriveChanged", "backing file"), ("DriveChanged", "exchanged")],
    },
    Change {
        what: "removed",
        make: |scene| {
            assert!(scene.works("losetup", &["-d", &scene.dev()]));
            Some(Undo::default())
        },
        refusals: &[
            ("DriveMissing", "not on this node"),
            ("DriveMissing", "went away"),
            ("DriveMissing", "cannot be opened"),
            ("DriveChanged", "its size is"),
            ("DriveChanged", "exchanged or attached again"),
            ("DriveUnreadable", "it was detached"),
        ],
    },
    Change {
        what: "signature written",
        make: |scene| {
            scene
                .site()
                .write(512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001");
            Some(Undo::default())
        },
        refusals: &[("NotBlank", "LVM physical volume")],
    },
    Change {
        what: "a byte written where every look goes",
        make: |scene| {
            scene.site().write(SIZE - 5000, &[1]);
            Some(Undo::default())
        },
        refusals: &[("NotBlank", "unknown data at byte 100658296")],
    },
    Change {
        what: "a byte written where only the proof looks",
        make: |scene| {
            scene.site().write(unsampled(SIZE), &[1]);
            Some(Undo::default())
        },
        refusals: &[
            ("NotBlank", "unknown data at byte"),
            ("DriveChanged", "somebody wrote to it"),
        ],
    },
    Change {
        what: LATE,
        make: |scene| {
            use std::os::unix::fs::FileExt;
            let file = file_of(Path::new(&scene.dev()));
            file.write_all_at(&[1; 4096], unsampled(SIZE)).unwrap();
            Some(Undo::default().then(move || drop(file)))
        },
        refusals: &[
            ("NotBlank", "unknown data at byte"),
            ("DriveChanged", "somebody wrote to it"),
        ],
    },
    Change {
        what: "written past the page cache",
        make: |scene| {
            use std::os::unix::fs::FileExt;
            let file = file_of(&scene.image);
            file.write_all_at(&[1; 4096], SIZE - MIB).unwrap();
            file.sync_all().unwrap();
            Some(Undo::default())
        },
        refusals: &[("NotBlank", "unknown data at byte 99614720")],
    },
    Change {
        what: "formatted and mounted",
        make: |scene| {
            if !scene.works("mkfs.ext4", &["-q", "-F", "-F", &scene.dev()]) {
                return None;
            }
            let at = scene.folder.join("mounted");
            fs::create_dir_all(&at).unwrap();
            let at = at.to_str().unwrap();
            let mounted = scene.works("mount", &["-o", "ro", &scene.dev(), at]);
            let undo = Undo::default();
            Some(if mounted {
                undo.command("umount", &[at])
            } else {
                undo
            })
        },
        refusals: &[
            ("InUse", "ext4 mounted on"),
            ("InUse", "cannot be opened exclusively"),
            ("NotBlank", "ext4 file system"),
        ],
    },
    Change {
        what: "truncated",
        make: |scene| {
            file_of(&scene.image).set_len(SIZE / 2).unwrap();
            run("losetup", &["-c", &scene.dev()]);
            Some(Undo::default())
        },
        refusals: &[
            ("DriveChanged", "its size is 50331648 bytes"),
            ("DriveChanged", "its size is another"),
        ],
    },
    Change {
        what: "truncated, and the kernel was not told",
        make: |scene| {
            file_of(&scene.image).set_len(SIZE / 2).unwrap();
            Some(Undo::default())
        },
        refusals: &[("DriveUnreadable", "was truncated to 50331648 bytes")],
    },
    Change {
        what: "grown",
        make: |scene| {
            file_of(&scene.image).set_len(SIZE * 2).unwrap();
            run("losetup", &["-c", &scene.dev()]);
            Some(Undo::default())
        },
        refusals: &[
            ("DriveChanged", "its size is 201326592 bytes"),
            ("DriveChanged", "its size is another"),
        ],
    },
    Change {
        what: "made read-only",
        make: |scene| {
            run("blockdev", &["--setro", &scene.dev()]);
            let dev = scene.dev();
            Some(
                Undo::default().then(move || drop(Command::new("blockdev").args(["--setrw", &dev]).output())),
            )
        },
        refusals: &[("ReadOnly", "refuses to write"), ("ReadOnly", "cannot be opened")],
    },
    Change {
        what: "held exclusively by another",
        make: exclusive,
        refusals: &[
            ("InUse", "held exclusively"),
            ("InUse", "cannot be opened exclusively"),
        ],
    },
    Change {
        what: "opened by another program",
        make: |scene| {
            let script = format!("exec 3<{} && echo ready && read x", scene.dev());
            Some(holder(Command::new("sh").args(["-c", &script])))
        },
        refusals: &[("InUse", "is open in sh (process ")],
    },
    Change {
        what: "below another loop device",
        make: |scene| {
            let upper = run("losetup", &["--find", "--show", &scene.dev()]);
            Some(Undo::default().command("losetup", &["--detach", upper.trim()]))
        },
        refusals: &[("InUse", "loop device loop")],
    },
];

/// What may be prevented by the kernel, because we hold the drive.
const PREVENTABLE: &[&str] = &[
    "exchanged",
    "held exclusively by another",
    "formatted and mounted",
];

/// A fresh blank drive beside another one, and the order for it.
async fn stage(bed: &mut Bed) -> (Scene, EnsureMember) {
    let name = bed.attach(SIZE);
    let other = bed.folder.path().join("img/other.img");
    let file = fs::File::create(&other).unwrap();
    file.set_len(SIZE).unwrap();
    use std::os::unix::fs::FileExt;
    // Somebody's, and nothing that a table of signatures knows.
    file.write_all_at(&[0x77; 8192], 50 * MIB).unwrap();
    file.sync_all().unwrap();
    let scene = Scene {
        image: image_of(&name),
        name,
        other,
        folder: bed.folder.path().to_owned(),
    };
    let order = EnsureMember {
        file_system: FileSystem::Ext4,
        ..bed.order(&scene.name).await
    };
    (scene, order)
}

fn clear(scene: &Scene) {
    // Only what is still ours: another test's drive may have come under the name.
    if image_of_attached(&scene.name).is_some_and(|image| image == scene.image || image == scene.other) {
        let _ = Command::new("partx").args(["-d", &scene.dev()]).output();
        let _ = Command::new("losetup").args(["-d", &scene.dev()]).output();
    }
    for file in [&scene.image, &scene.other] {
        fs::remove_file(file).unwrap();
    }
}

#[derive(Default)]
struct Happened {
    /// Kept until the agent has answered.
    _undo: Option<Undo>,
    /// Bytes of both drives when it had happened.
    bytes: Option<(String, String)>,
    prevented: bool,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_drive_that_changes_at_any_moment_before_the_first_write_is_not_written_to() {
    let mut bed = Bed::new();
    let mut complaints = Vec::new();
    let mut prevented = Vec::new();
    for point in [PLANNED].into_iter().chain(fault::before_the_first_write()) {
        for change in CHANGES {
            let (scene, order) = stage(&mut bed).await;
            let happened = Arc::new(Mutex::new(Happened::default()));
            let (make, late) = (change.make, change.what == LATE);
            let act = {
                let (scene, happened) = (scene.clone(), Arc::clone(&happened));
                move || {
                    let undo = make(&scene);
                    let prevented = undo.is_none();
                    if prevented {
                        // The journey is not to go on: the next look is to find something.
                        scene.site().write(0, &[1]);
                    }
                    let bytes = Some(if late {
                        scene.bytes_after(&[1; 4096])
                    } else {
                        scene.bytes()
                    });
                    *happened.lock().unwrap() = Happened {
                        _undo: undo,
                        bytes,
                        prevented,
                    };
                }
            };
            let refusal = if point == PLANNED {
                act();
                bed.members().ensure(order).await
            } else {
                let _armed = pause::when(point, move |_| act());
                bed.members().ensure(order).await
            };
            let after = scene.bytes();
            let happened = std::mem::take(&mut *happened.lock().unwrap());
            let what = format!("{} at {point}", change.what);
            if happened.bytes.is_none() {
                complaints.push(format!("{what}: the point was never passed: {refusal:?}"));
            } else if happened.bytes.as_ref() != Some(&after) {
                complaints.push(format!("{what}: WRITTEN TO: {refusal:?}"));
            }
            match (&refusal, happened.prevented) {
                (Ok(()), _) => complaints.push(format!("{what}: it was TAKEN")),
                (Err(_), true) if PREVENTABLE.contains(&change.what) && point != PLANNED => {
                    prevented.push(what);
                }
                (Err(_), true) => complaints.push(format!("{what}: could not be done")),
                (Err(error), false) => {
                    eprintln!("{what}: {}: {}", error.reason, error.message);
                    let named = change
                        .refusals
                        .iter()
                        .any(|(reason, words)| error.reason == *reason && error.message.contains(words));
                    if !named {
                        complaints.push(format!("{what}: {}: {}", error.reason, error.message));
                    }
                }
            }
            drop(happened);
            clear(&scene);
        }
    }
    eprintln!("prevented by the kernel while the drive is held: {prevented:?}");
    // From the exclusive open on, and not before.
    assert!(!prevented.iter().any(|what| what.contains("member-looked")));
    assert!(bed.members().reports().borrow().is_empty(), "nothing is recorded");
    bed.loops.clear();
    bed.put_away().await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Ends what was begun on the drive, whatever came of it.
async fn end(bed: &mut Bed, scene: &Scene, id: MemberId) {
    bed.stop_agent().await;
    // One that was detached meanwhile is kept until its partition is forgotten, which would outlive it.
    let kept = image_of_attached(&scene.name)
        .filter(|image| *image == scene.image)
        .and_then(|_| fs::File::open(scene.dev()).ok());
    stop_all(&bed.config()).await.unwrap();
    if kept.is_some() {
        let _ = Command::new("partx").args(["-d", &scene.dev()]).output();
    }
    drop(kept);
    let _ = fs::remove_file(bed.config().data_dir.join(format!("members/{id}.json")));
    clear(scene);
    bed.start_agent();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn after_the_first_write_no_other_drive_is_ever_written_to() {
    let mut bed = Bed::new();
    // The storage process is not asked for: one that ends at once will do.
    bed.weed = PathBuf::from("/bin/false");
    bed.stop_agent().await;
    bed.start_agent();
    for point in fault::until_it_is_mounted() {
        for removed_only in [false, true] {
            let (scene, order) = stage(&mut bed).await;
            let id = order.member_id;
            let other = checksum(&scene.other);
            let tried = Arc::new(Mutex::new(None));
            let armed = {
                let (scene, tried) = (scene.clone(), Arc::clone(&tried));
                pause::when(point, move |_| {
                    let exchanged = if removed_only {
                        scene.works("losetup", &["-d", &scene.dev()]);
                        false
                    } else {
                        scene.exchange_below_the_partition()
                    };
                    *tried.lock().unwrap() = Some(exchanged);
                })
            };
            let outcome = bed.members().ensure(order).await;
            drop(armed);
            let what = format!("{point}, removed only: {removed_only}: {outcome:?}");
            assert_eq!(
                *tried.lock().unwrap(),
                Some(false),
                "the drive could be exchanged, or the point was never passed: {what}"
            );
            assert_eq!(checksum(&scene.other), other, "WRITTEN TO: {what}");
            eprintln!("{what}");
            end(&mut bed, &scene, id).await;
        }
    }
    bed.loops.clear();
    bed.put_away().await;
}

/// What lies under the drive's name when the agent comes back after a crash.
#[derive(Clone, Copy, Debug)]
enum Found {
    /// Another drive, and the old one's partition is still in the kernel's table.
    Another,
    /// A copy of what is marked of the drive, and behind the mark somebody's bytes.
    Copy,
    /// Nothing.
    Nothing,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_drive_that_was_exchanged_during_a_crash_is_not_written_to() {
    use std::os::unix::fs::FileExt;
    let mut bed = Bed::new();
    bed.weed = PathBuf::from("/bin/false");
    bed.stop_agent().await;
    bed.start_agent();
    for point in fault::until_it_is_mounted() {
        for found in [Found::Another, Found::Copy, Found::Nothing] {
            let (scene, order) = stage(&mut bed).await;
            let id = order.member_id;
            let armed = pause::when(point, |_| panic!("the crash of this test"));
            let crashed = bed.members().ensure(order.clone()).await.unwrap_err();
            drop(armed);
            assert_eq!(crashed.reason, "Internal", "{point}: {crashed:?}");
            bed.stop_agent().await;
            if matches!(found, Found::Copy) {
                // The first and the last MiB are the mark's; between them lies what must not be lost.
                let (from, to) = (fs::File::open(&scene.image).unwrap(), file_of(&scene.other));
                for at in [0, SIZE - MIB] {
                    let mut bytes = vec![0; MIB as usize];
                    from.read_exact_at(&mut bytes, at).unwrap();
                    to.write_all_at(&bytes, at).unwrap();
                }
                to.sync_all().unwrap();
            }
            let other = checksum(&scene.other);
            if matches!(found, Found::Nothing) {
                let _ = Command::new("partx").args(["-d", &scene.dev()]).output();
                scene
                    .until_done(|scene| {
                        scene.works("losetup", &["-d", &scene.dev()]);
                        image_of_attached(&scene.name).is_none()
                    })
                    .await;
            } else {
                scene.until_done(Scene::exchange_below_the_partition).await;
            }
            bed.start_agent();
            bed.watcher.probe_now().await.unwrap();
            let refusal = bed.members().ensure(order).await;
            let what = format!("{found:?} after a crash at {point}");
            assert_eq!(checksum(&scene.other), other, "{what}: WRITTEN TO: {refusal:?}");
            let error = refusal.expect_err(&what);
            eprintln!("{what}: {}: {}", error.reason, error.message);
            assert!(
                ["DriveChanged", "DriveMissing", "NotBlank"].contains(&error.reason),
                "{what}: {error:?}"
            );
            end(&mut bed, &scene, id).await;
        }
    }
    bed.loops.clear();
    bed.put_away().await;
}
