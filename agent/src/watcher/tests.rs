use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use super::*;
use crate::hardware::{Mount, Pulse, Usage};

/// A machine of plain data that counts its probes.
#[derive(Default)]
struct Fake {
    devices: Mutex<BTreeMap<String, Device>>,
    broken: Mutex<Option<Fault>>,
    /// Probes of these never come back until the name is taken out.
    hanging: Mutex<BTreeSet<String>>,
    probes: AtomicU64,
    health: Mutex<BTreeSet<String>>,
}

impl Fake {
    fn with(names: &[&str]) -> Arc<Self> {
        let fake = Self::default();
        for name in names {
            fake.put(name, false);
        }
        Arc::new(fake)
    }

    fn put(&self, name: &str, blank: bool) {
        let usage = Usage {
            blank: Some(blank),
            ..Usage::default()
        };
        self.devices.lock().insert(
            name.into(),
            Device {
                name: name.into(),
                usage,
                ..Device::default()
            },
        );
    }
}

impl Hardware for Fake {
    fn list(&self) -> Result<Vec<String>, Fault> {
        match self.broken.lock().clone() {
            Some(fault) => Err(fault),
            None => Ok(self.devices.lock().keys().cloned().collect()),
        }
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings::default()
    }

    fn probe(&self, name: &str, _: &Surroundings, depth: Depth, _: Instant) -> Option<Device> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        while self.hanging.lock().contains(name) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut device = self.devices.lock().get(name).cloned()?;
        if depth.health {
            self.health.lock().insert(name.into());
        }
        if self.health.lock().contains(name) {
            device.health = Some(crate::hardware::Health {
                source: "test".into(),
                ..Default::default()
            });
        }
        Some(device)
    }

    fn health_due(&self, name: &str, _: Instant) -> bool {
        !self.health.lock().contains(name)
    }

    fn drives_below(&self, name: &str) -> Vec<String> {
        vec![name.into()]
    }

    fn drives_of_mount(&self, _: &Mount) -> Vec<String> {
        Vec::new()
    }

    fn settled(&self, _: &str) -> bool {
        true
    }

    fn has_events(&self) -> bool {
        false
    }

    fn watched_tables(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn log(&self) -> Result<Option<BorrowedFd<'_>>, Fault> {
        Ok(None)
    }

    fn read_log(&self) -> Result<BTreeSet<String>, Fault> {
        Ok(BTreeSet::new())
    }

    fn pulse(&self, device: &Device, _now: Instant) -> Pulse {
        Pulse {
            work: device.work,
            io_errors: device.io_errors.clone(),
        }
    }

    fn other_ports(&self, device: &Device) -> Result<Vec<String>, Fault> {
        let _ = device;
        Ok(Vec::new())
    }
}

const CONFIG: WatcherConfig = WatcherConfig {
    discover_interval: Duration::from_secs(3600),
};

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .unwrap()
}

fn names(picture: &Inventory) -> Vec<&str> {
    picture.devices.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn the_first_complete_picture_has_every_drive_and_health_follows() {
    let (mut pictures, _handle) = Watcher::spawn(Fake::with(&["sda", "sdb"]), CONFIG).unwrap();
    assert!(!pictures.borrow().complete);
    let picture = within(pictures.wait_for(|picture| picture.complete))
        .await
        .unwrap()
        .clone();
    assert_eq!(names(&picture), ["sda", "sdb"]);
    within(pictures.wait_for(|p| p.devices.values().all(|device| device.health.is_some())))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_without_drives_is_complete_too() {
    let (mut pictures, _handle) = Watcher::spawn(Fake::with(&[]), CONFIG).unwrap();
    within(pictures.wait_for(|picture| picture.complete))
        .await
        .unwrap();
}

#[tokio::test]
async fn probe_now_answers_when_the_new_picture_is_out_and_is_silent_when_nothing_changed() {
    let machine = Fake::with(&["sda", "sdb"]);
    let (mut pictures, handle) = Watcher::spawn(machine.clone(), CONFIG).unwrap();
    within(pictures.wait_for(|p| p.complete && p.devices.values().all(|d| d.health.is_some())))
        .await
        .unwrap();
    pictures.mark_unchanged();
    within(handle.probe_now()).await.unwrap();
    assert!(!pictures.has_changed().unwrap());
    machine.put("sda", true);
    machine.put("sdc", false);
    machine.devices.lock().remove("sdb");
    within(handle.probe_now()).await.unwrap();
    let picture = pictures.borrow_and_update().clone();
    assert_eq!(names(&picture), ["sda", "sdc"]);
    assert_eq!(picture.devices["sda"].usage.blank, Some(true));
    assert!(handle.counters().probes >= 6);
}

#[tokio::test]
async fn a_list_that_cannot_be_read_removes_no_drive() {
    let machine = Fake::with(&["sda"]);
    let (mut pictures, handle) = Watcher::spawn(machine.clone(), CONFIG).unwrap();
    within(pictures.wait_for(|picture| picture.complete))
        .await
        .unwrap();
    *machine.broken.lock() = Some(Fault::failed(Probe::Sysfs, "", "no list"));
    within(handle.probe_now()).await.unwrap();
    let picture = pictures.borrow_and_update().clone();
    assert_eq!((names(&picture), picture.faults.len()), (vec!["sda"], 1));
    *machine.broken.lock() = None;
    within(handle.probe_now()).await.unwrap();
    assert!(pictures.borrow().faults.is_empty());
}

#[tokio::test]
async fn a_drive_that_never_answers_holds_up_no_other_and_says_so() {
    let machine = Fake::with(&["dead", "well"]);
    machine.hanging.lock().insert("dead".into());
    let limits = Limits {
        stuck_after: Duration::from_millis(100),
        at_once: 1,
        ..Limits::default()
    };
    let (mut pictures, handle) = Watcher::spawn_with(machine.clone(), CONFIG, limits).unwrap();
    let picture = within(pictures.wait_for(|p| p.complete)).await.unwrap().clone();
    assert_eq!(names(&picture), ["dead", "well"]);
    assert_eq!(picture.devices["dead"].faults.len(), 1);
    assert_eq!(picture.devices["dead"].usage.blank, None);
    within(handle.probe_now()).await.unwrap();
    machine.hanging.lock().clear();
    within(pictures.wait_for(|p| p.devices["dead"].faults.is_empty()))
        .await
        .unwrap();
    assert!(handle.counters().stuck >= 1);
}

#[tokio::test]
async fn a_rescan_in_the_first_round_waits_for_no_drive_that_is_known_to_be_stuck() {
    let machine = Fake::with(&["dead-1", "dead-2", "well"]);
    machine
        .hanging
        .lock()
        .extend(["dead-1", "dead-2"].map(str::to_owned));
    let limits = Limits {
        stuck_after: Duration::from_millis(300),
        at_once: 1,
        ..Limits::default()
    };
    let (mut pictures, handle) = Watcher::spawn_with(machine.clone(), CONFIG, limits).unwrap();
    within(async {
        while handle.counters().stuck == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    // The second one is not known to be stuck yet, but where this machine stands still: then nothing is shown.
    within(handle.probe_now()).await.unwrap();
    within(pictures.wait_for(|picture| picture.complete))
        .await
        .unwrap();
    assert_eq!(handle.counters().stuck, 2);
    machine.hanging.lock().clear();
}

#[tokio::test]
async fn the_watcher_ends_with_its_last_handle() {
    let (mut pictures, handle) = Watcher::spawn(Fake::with(&["sda"]), CONFIG).unwrap();
    drop(handle.clone());
    within(pictures.wait_for(|picture| picture.complete))
        .await
        .unwrap();
    drop(handle);
    within(async { while pictures.changed().await.is_ok() {} }).await;
}
