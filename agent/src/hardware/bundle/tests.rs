use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::hardware::{Device, HolderKind, Surroundings, sim};
use crate::watcher::{Watcher, WatcherConfig};

mod zoo;

use zoo::Drive;

/// What the agent sees of a machine.
fn view(machine: &Linux) -> (Surroundings, Vec<Device>) {
    let around = machine.surroundings();
    let depth = Depth {
        reread: true,
        health: true,
        wake: false,
    };
    let devices = machine
        .list()
        .unwrap()
        .iter()
        .map(|name| machine.probe(name, &around, depth, Instant::now()).unwrap())
        .collect();
    (around, devices)
}

fn devices(bundle: &Bundle) -> Vec<Device> {
    view(&bundle.clone().machine()).1
}

fn reread(bundle: &Bundle) -> Bundle {
    Bundle::parse(bundle.text().unwrap().as_bytes()).unwrap().unwrap()
}

#[test]
fn a_recorded_machine_shows_the_devices_that_the_machine_showed() {
    let root = tempfile::tempdir().unwrap();
    zoo::host_tree(root.path(), "0\n");
    let config = LinuxConfig {
        host_root: root.path().to_owned(),
        ..LinuxConfig::default()
    };
    let recorder = Arc::new(Recorder::new(Live::new(root.path())));
    let recording = Linux::over(Arc::clone(&recorder) as _, config.clone());
    let seen = view(&recording);
    // Outside programs are asked of this machine's nodes, which are not there: the second answer is the same.
    let live = view(&Linux::new(config));
    assert_eq!(seen, live);
    assert_eq!(seen.1.len(), 2);
    assert!(
        seen.1
            .iter()
            .any(|device| device.evidence.serial.as_deref() == Some("SATA-hdd0"))
    );
    let bundle = reread(&recorder.take());
    let (around, replayed) = view(&bundle.machine());
    assert_eq!((around.mounts.len(), replayed), (seen.0.mounts.len(), seen.1));
}

#[test]
#[ignore = "needs root and loop devices"]
fn real_loop_devices_are_shown_as_they_are_and_only_their_names_are_others() {
    let folder = tempfile::Builder::new().prefix("secretfolder").tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let attach = |name: &str| {
        let path = folder.path().join(name);
        fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
        run("losetup", &["--find", "--show", path.to_str().unwrap()])
    };
    let loops: Vec<String> = ["blank", "mounted", "volume"].map(attach).into();
    let mount_point = folder.path().join("secretpoint");
    fs::create_dir(&mount_point).unwrap();
    run("mkfs.ext4", &["-q", "-F", "-L", "secretlabel", &loops[1]]);
    run("mkswap", &["-L", "secretswap", &loops[2]]);
    run("mount", &[&loops[1], mount_point.to_str().unwrap()]);
    let config = LinuxConfig {
        include_loop: Some(folder.path().to_owned()),
        ..LinuxConfig::default()
    };
    let ours = |mut seen: Vec<Device>| {
        seen.retain(|device| loops.contains(&device.dev_path));
        seen
    };
    let live = ours(view(&Linux::new(config.clone())).1);
    let recorder = Arc::new(Recorder::new(Live::new(&config.host_root)));
    let recording = Linux::over(Arc::clone(&recorder) as _, config.clone());
    view(&recording);
    let recorded = recorder.take();
    let captured = capture(config);
    run("umount", &[&loops[1]]);
    loops
        .iter()
        .for_each(|device| drop(run("losetup", &["--detach", device])));
    assert_eq!(live.len(), 3);
    assert_eq!(live, ours(devices(&reread(&recorded))));
    let (other, mut words) = anonymise::anonymise(&recorded);
    let mut expected: Vec<Device> = live
        .into_iter()
        .map(|device| renamed(device, &mut words))
        .collect();
    let mut found: Vec<Device> = ours(devices(&reread(&other))).into_iter().map(sorted).collect();
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(found, expected);
    let text = captured.unwrap().text;
    assert!(text.contains("swap area") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn the_watcher_takes_a_bundle_for_a_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("machine.json");
    let bundle = zoo::bundle(&[Drive::example()]);
    fs::write(&path, bundle.text().unwrap()).unwrap();
    let config = WatcherConfig {
        discover_interval: Duration::from_secs(3600),
    };
    let (mut pictures, _handle) = Watcher::spawn(sim::open(&path).unwrap(), config).unwrap();
    let expected = devices(&bundle);
    // Health comes after the first round.
    let shown = pictures.wait_for(|picture| {
        let what = |device: &Device| {
            let device = sorted(device.clone());
            (device.evidence, device.usage, device.health)
        };
        let seen = picture.devices.values().map(|device| what(device));
        picture.complete && seen.eq(expected.iter().map(what))
    });
    let waiting = tokio::time::timeout(Duration::from_secs(20), shown);
    assert!(waiting.await.expect("in time").is_ok());
}

#[test]
fn a_capture_is_of_other_names_and_tells_what_it_could_not_see() {
    let root = tempfile::tempdir().unwrap();
    zoo::host_tree(root.path(), "1\n");
    let captured = capture(LinuxConfig {
        host_root: root.path().to_owned(),
        ..LinuxConfig::default()
    })
    .unwrap();
    assert_eq!(captured.drives, ["sda", "vda"]);
    for name in ["SATA-hdd0", "VIRT0001", "secretbox", "500ee01fb131f08e"] {
        assert!(!captured.text.contains(name), "{name}: {}", captured.text);
    }
    assert!(captured.text.contains("TESTCORP HDD7200"));
    // A disk that may sleep is asked first, and what cannot be asked is not read.
    let asleep = captured
        .faults
        .iter()
        .find(|fault| fault.device == "sda" && fault.detail.starts_with("reading /dev/sda"));
    assert!(
        asleep
            .unwrap()
            .detail
            .contains("nobody can say whether it sleeps"),
        "{:?}",
        captured.faults
    );
    assert!(captured.faults.iter().any(|fault| fault.device == "vda"));
}

#[test]
fn a_simulated_machine_may_be_a_bundle_and_another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("machine.json");
    let write = |text: &str| fs::write(&path, text).unwrap();
    write(&zoo::bundle(&[Drive::example()]).text().unwrap());
    let machine = sim::open(&path).unwrap();
    assert_eq!(machine.list().unwrap(), ["loop0", "nvme0n1", "sda", "vda"]);
    assert!(!machine.has_events() && machine.settled("sda") && machine.watched_tables().is_empty());
    let refused = |text: &str| {
        write(text);
        sim::open(&path).err().unwrap().to_string()
    };
    assert!(refused(r#"{"bundle": 2}"#).contains("version 2"));
    assert!(refused(r#"{"bundle": 1, "agent": "1", "fyles": {}}"#).contains("fyles"));
    write(r#"{"devices": [{"name": "sdz"}]}"#);
    assert_eq!(sim::open(&path).unwrap().list().unwrap(), ["sdz"]);
}

#[test]
fn errors_come_back_as_they_were() {
    let errors = [
        io::Error::from_raw_os_error(nix::libc::EBUSY),
        io::Error::new(io::ErrorKind::NotFound, "nvme is not installed"),
        io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        io::Error::other("it is device 8:0, not 8:16"),
    ];
    for error in errors {
        let again = io::Error::from(&Trouble::from(&error));
        assert_eq!(again.to_string(), error.to_string());
        assert_eq!(
            (again.kind(), again.raw_os_error()),
            (error.kind(), error.raw_os_error())
        );
    }
}

/// Every bundle in `agent/fixtures` shows the devices in the file beside it.
///
/// `UPDATE_FIXTURES=1 cargo test -p smart-storage-agent --lib every_captured_machine` writes these files anew: read
/// the difference before you keep it.
#[test]
fn every_captured_machine_shows_its_devices() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut bundles: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.ends_with(".json") && !name.ends_with(".devices.json")
        })
        .collect();
    bundles.sort();
    assert!(!bundles.is_empty());
    let mut wrong = Vec::new();
    for path in bundles {
        let machine = machine(&fs::read(&path).unwrap()).expect("a bundle").unwrap();
        let seen = serde_json::to_string_pretty(&view(&machine).1).unwrap() + "\n";
        let beside = path.with_extension("devices.json");
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            fs::write(&beside, &seen).unwrap();
        }
        if fs::read_to_string(&beside).unwrap_or_default() != seen {
            wrong.push(beside);
        }
    }
    assert!(
        wrong.is_empty(),
        "other devices than in {wrong:?}; UPDATE_FIXTURES=1 writes them anew"
    );
}

/// Bytes and words of one moment and one drive: nothing moves in between, temperature and hours neither.
#[test]
fn in_every_captured_machine_the_ioctl_and_nvme_cli_agree_field_by_field() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut compared = 0;
    for guest in ["guest-linux-6.1.json", "guest-linux-6.12.json"] {
        let bundle: Bundle = serde_json::from_slice(&fs::read(folder.join(guest)).unwrap()).unwrap();
        for (node, answers) in &bundle.nvme {
            let log = answers.get().unwrap()["SMART log"].get().unwrap().bytes();
            let line = format!("nvme smart-log {node} -o json");
            let printed = bundle.programs[&line].get().unwrap().output().stdout;
            let native = crate::hardware::nvme::health(&log).unwrap();
            let mut program = crate::hardware::nvme_cli::smart_log(&printed).unwrap();
            assert_eq!(program.source, "nvme-cli");
            program.source.clone_from(&native.source);
            assert_eq!(native, program, "{guest} {node}");
            assert!(native.temperature_celsius.is_some() && native.media_errors.is_some());
            compared += 1;
        }
    }
    assert!(compared >= 8, "{compared} controllers");
}

/// The device in the words of the bundle: what every field is, is said here once more.
fn renamed(mut device: Device, words: &mut Words) -> Device {
    let evidence = &mut device.evidence;
    for id in [
        &mut evidence.nguid,
        &mut evidence.eui64,
        &mut evidence.nvme_uuid,
        &mut evidence.partition_table_uuid,
    ] {
        *id = id.as_deref().map(|id| words.id(id));
    }
    for id in &mut evidence.filesystem_uuids {
        *id = words.id(id);
    }
    evidence.wwn = evidence.wwn.as_deref().map(|wwn| words.wwn(wwn));
    evidence.serial = evidence.serial.as_deref().map(|serial| words.field(serial));
    evidence.backing_file = evidence.backing_file.as_deref().map(|file| words.path(file));
    if let Some(mark) = &mut evidence.mark {
        mark.member_id = words.id(&mark.member_id);
        mark.label = words.field(&mark.label);
    }
    if let Some(nvme) = &mut device.nvme {
        nvme.subsystem_nqn = nvme.subsystem_nqn.as_deref().map(|nqn| words.strictly(nqn));
    }
    for holder in &mut device.usage.holders {
        holder.description = holder_in_words(holder.kind, &holder.description, words);
    }
    sorted(device)
}

/// Mounts are told in the order of their names; the picture has every holder sorted.
fn sorted(mut device: Device) -> Device {
    device.usage.holders.sort();
    device
}

fn holder_in_words(kind: HolderKind, text: &str, words: &mut Words) -> String {
    let between = |text: &str, from: &str, to: &str, new: &mut dyn FnMut(&str) -> String| {
        let (before, rest) = text.split_once(from)?;
        let (name, after) = if to.is_empty() {
            (rest, "")
        } else {
            rest.rsplit_once(to)?
        };
        Some(format!("{before}{from}{}{to}{after}", new(name)))
    };
    let new = match kind {
        HolderKind::Signature => Some(texts::description(text, words)),
        HolderKind::Partition => between(text, "\"", "\"", &mut |name| words.field(name)),
        HolderKind::Member => between(text, "member ", " of ", &mut |id| words.id(id))
            .and_then(|text| between(&text, " of ", "", &mut |label| words.field(label))),
        HolderKind::Device => between(text, "LVM logical volume ", " above it", &mut |name| {
            words.field(name)
        }),
        HolderKind::Mount => text.split_once(" mounted on ").map(|(what, place)| {
            let mapped = between(what, " on ", "", &mut |name| words.field(name));
            let what = mapped.unwrap_or_else(|| what.to_owned());
            let place = match place.split_once(" (its ") {
                Some((point, part)) => format!("{} (its {}", words.path(point), words.path(part)),
                None => words.path(place),
            };
            format!("{what} mounted on {place}")
        }),
        _ => None,
    };
    new.unwrap_or_else(|| text.to_owned())
}

/// Every id and name in the evidence of these devices, written in one way.
fn evidence(devices: &[Device]) -> Vec<String> {
    let bare = |text: &String| {
        let text = text.to_ascii_lowercase().replace('-', "");
        text.trim_start_matches("naa.")
            .trim_start_matches("eui.")
            .to_owned()
    };
    devices
        .iter()
        .flat_map(|device| {
            let evidence = &device.evidence;
            [
                &evidence.nguid,
                &evidence.eui64,
                &evidence.nvme_uuid,
                &evidence.wwn,
                &evidence.serial,
                &evidence.partition_table_uuid,
                &evidence.backing_file,
            ]
            .into_iter()
            .flatten()
            .chain(&evidence.filesystem_uuids)
            .chain(evidence.mark.iter().map(|mark| &mark.member_id))
            .map(bare)
            .collect::<Vec<_>>()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_devices_of_the_anonymised_machine_are_the_machines_devices_in_other_words(drives in zoo::drives()) {
        let bundle = zoo::bundle(&drives);
        let before = devices(&bundle);
        prop_assert_eq!(before.len(), 4 * drives.len());
        let (other, mut words) = anonymise::anonymise(&bundle);
        let other = reread(&other);
        let after: Vec<Device> = devices(&other).into_iter().map(sorted).collect();
        let expected: Vec<Device> = before.iter().cloned().map(|device| renamed(device, &mut words)).collect();
        for (after, expected) in after.iter().zip(&expected) {
            prop_assert_eq!(after, expected);
        }
        let (old, new) = (evidence(&before), evidence(&after));
        prop_assert_eq!(old.len(), new.len());
        for (a, new_a) in old.iter().zip(&new) {
            for (b, new_b) in old.iter().zip(&new) {
                prop_assert_eq!(a == b, new_a == new_b, "{} {} -> {} {}", a, b, new_a, new_b);
            }
        }
        prop_assert_eq!(left(&serde_json::to_value(&other).unwrap(), &words), None);
    }

    #[test]
    fn no_name_is_left_anywhere_in_the_bundle(drives in zoo::drives()) {
        let (other, _) = anonymise::anonymise(&zoo::bundle(&drives));
        let text = other.text().unwrap().to_ascii_lowercase();
        for secret in drives.iter().flat_map(Drive::secrets) {
            let secret = secret.to_ascii_lowercase();
            prop_assert!(!text.contains(&secret), "{} is left in {}", secret, text);
            prop_assert!(!text.contains(&hex(secret.as_bytes())));
            prop_assert!(!text.contains(&hex(secret.to_ascii_uppercase().as_bytes())));
        }
        prop_assert!(text.contains("testcorp hdd7200") && text.contains(&hex(b"10.0.2")));
    }

    #[test]
    fn bytes_come_back_as_they_were(bytes in proptest::collection::vec(any::<u8>(), 0..200), zeros in 0..5000_usize) {
        let all = [bytes.clone(), vec![0; zeros], bytes].concat();
        let text = serde_json::to_string(&Bytes::of(&all)).unwrap();
        let again: Bytes = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(again.bytes(), all);
    }

    #[test]
    fn no_file_panics(text in "[ -~]{0,200}", at in "[0-9a-f]{0,20}", row in "\\PC{0,40}", length in any::<usize>()) {
        let _ = machine(text.as_bytes());
        let rows = serde_json::json!({"length": length, "hex": {at: row}});
        let files = serde_json::json!({"/sys/class/block/sda/device/vpd_pg80": rows});
        let bundle = serde_json::json!({"bundle": 1, "agent": "1", "files": files});
        let parsed = Bundle::parse(bundle.to_string().as_bytes()).unwrap().unwrap();
        let _ = anonymise::anonymise(&parsed);
        let _ = parsed.machine().probe("sda", &Surroundings::default(), Depth::default(), Instant::now());
    }
}
