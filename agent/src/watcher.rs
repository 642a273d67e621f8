//! Keeps the node's picture true: the kernel's announcements, I/O errors in its log, changed tables of mounts and swap
//! areas, and a slow rescan lead to probes, and their findings to a new [`Inventory`] in a watch channel, only where it is different.
//!
//! One thread of its own waits in `poll` for all of them (libudev's types belong to one thread) and does nothing
//! while nothing happens; each probe runs in a short-lived thread, so that a dying drive that never answers holds up
//! neither events nor other drives. Announcements that the kernel dropped lead to a full rescan and a fault. It never
//! writes to a device, and it starts no program by itself: that is decided in [`crate::hardware`].

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::{oneshot, watch};

use crate::hardware::uevent::Monitor;
use crate::hardware::{Depth, Device, Fault, Hardware, HolderKind, Probe, Surroundings};
use crate::inventory::{self, Finding, Inventory};

mod handle;
mod schedule;

pub use handle::{Counters, WatcherGone, WatcherHandle};
use handle::{Message, Sender, SharedCounters};
use schedule::{Limits, Schedule};

/// Mount tables of busy nodes change all the time: they are read at most this often.
const TABLES_QUIET: Duration = Duration::from_millis(100);
/// So does the kernel's log where it rains.
const LOG_QUIET: Duration = Duration::from_millis(100);
/// A list of drives that cannot be read is tried again after this.
const RETRY_LIST: Duration = Duration::from_secs(10);
/// A probe reads small buffers only.
const PROBE_STACK_BYTES: usize = 512 << 10;

/// How to watch.
#[derive(Debug, Clone)]
pub struct WatcherConfig {
    /// Time between full rescans; announcements do not wait for it.
    pub discover_interval: Duration,
}

/// Watches the drives of one machine.
pub struct Watcher {
    hardware: Arc<dyn Hardware>,
    sender: Sender,
    inbox: mpsc::Receiver<Message>,
    out: watch::Sender<Arc<Inventory>>,
    counters: Arc<SharedCounters>,
    schedule: Schedule,
    around: Arc<Surroundings>,
    interval: Duration,
    rescan_at: Instant,
    tables_at: Option<Instant>,
    log_at: Option<Instant>,
    /// Drives of the first round that were not probed yet; none when that round is over.
    first_round: Option<BTreeSet<String>>,
    waiting: Vec<(BTreeSet<String>, oneshot::Sender<()>)>,
    list_fault: Option<Fault>,
    event_fault: Option<Fault>,
    log_fault: Option<Fault>,
    lost_fault: bool,
}

impl Watcher {
    /// Begins to watch. The first picture is empty and not `complete`; the first complete one follows when every
    /// drive has been probed once.
    ///
    /// # Errors
    /// Where no thread or descriptor can be had. A kernel that cannot be listened to is a fault in the picture.
    pub fn spawn(
        hardware: Arc<dyn Hardware>,
        config: WatcherConfig,
    ) -> io::Result<(watch::Receiver<Arc<Inventory>>, WatcherHandle)> {
        Self::spawn_with(hardware, config, Limits::default())
    }

    fn spawn_with(
        hardware: Arc<dyn Hardware>,
        config: WatcherConfig,
        limits: Limits,
    ) -> io::Result<(watch::Receiver<Arc<Inventory>>, WatcherHandle)> {
        let (messages, inbox) = mpsc::channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (out, pictures) = watch::channel(Arc::new(Inventory::default()));
        let counters = Arc::new(SharedCounters::default());
        let sender = Sender { messages, wake };
        let watcher = Self {
            hardware,
            sender: sender.clone(),
            inbox,
            out,
            counters: counters.clone(),
            schedule: Schedule::new(limits),
            around: Arc::default(),
            interval: config.discover_interval,
            rescan_at: Instant::now(),
            tables_at: None,
            log_at: None,
            first_round: Some(BTreeSet::new()),
            waiting: Vec::new(),
            list_fault: None,
            event_fault: None,
            log_fault: None,
            lost_fault: false,
        };
        std::thread::Builder::new()
            .name("watcher".into())
            .spawn(move || watcher.run())?;
        Ok((pictures, WatcherHandle::new(sender, counters)))
    }

    fn run(mut self) {
        // Listen first, list afterwards: what appears in between is in both.
        let monitor = self.hardware.has_events().then(Monitor::listen);
        let monitor = match monitor {
            Some(Err(error)) => {
                tracing::warn!(%error, "kernel events cannot be heard");
                let detail = format!("kernel events cannot be heard, only rescans find changes: {error}");
                self.event_fault = Some(Fault::failed(Probe::Uevent, "", detail));
                None
            }
            Some(Ok(monitor)) => Some(monitor),
            None => None,
        };
        let tables: Vec<File> = self
            .hardware
            .watched_tables()
            .iter()
            .filter_map(|path| File::open(path).ok())
            .collect();
        let hardware = Arc::clone(&self.hardware);
        let mut log = hardware.log().unwrap_or_else(|fault| {
            self.log_fault = Some(fault);
            None
        });
        // What was logged before, for the first probes.
        self.read_log(&mut log, Instant::now());
        self.around = Arc::new(self.hardware.surroundings());
        self.rescan(Instant::now(), Depth::default());
        loop {
            self.start_probes(Instant::now());
            let quiet = self.log_at.is_some();
            let heard = self.wait(monitor.as_ref(), &tables, log.filter(|_| !quiet));
            let now = Instant::now();
            if heard.events
                && let Some(monitor) = &monitor
            {
                self.take_events(monitor, now);
            }
            if heard.tables {
                self.tables_at.get_or_insert(now + TABLES_QUIET);
            }
            if heard.log {
                self.log_at.get_or_insert(now + LOG_QUIET);
            }
            if self.log_at.is_some_and(|at| at <= now) {
                self.log_at = None;
                self.read_log(&mut log, now);
            }
            if self.take_messages(now) {
                return;
            }
            if self.tables_at.is_some_and(|at| at <= now) {
                self.tables_at = None;
                self.read_surroundings(now);
            }
            if self.rescan_at <= now {
                self.read_surroundings(now);
                self.rescan(now, Depth::default());
            }
            for name in self.schedule.newly_stuck(now) {
                self.report_stuck(&name);
                self.feel([name], now);
            }
        }
    }

    fn wait(&self, monitor: Option<&Monitor>, tables: &[File], log: Option<BorrowedFd<'_>>) -> Heard {
        let next = [
            Some(self.rescan_at),
            self.tables_at,
            self.log_at,
            self.schedule.next_at(),
        ]
        .into_iter()
        .flatten()
        .min();
        let left = next
            .map(|at| at.saturating_duration_since(Instant::now()))
            .unwrap_or_default();
        // Rounded up, so that it is really due afterwards.
        let left = left + Duration::from_micros(100);
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = vec![PollFd::from_borrowed_fd(self.sender.wake.as_fd(), PollFlags::IN)];
        fds.extend(
            tables
                .iter()
                .map(|table| PollFd::from_borrowed_fd(table.as_fd(), PollFlags::PRI)),
        );
        fds.extend(log.map(|log| PollFd::from_borrowed_fd(log, PollFlags::IN)));
        fds.extend(monitor.map(|monitor| PollFd::from_borrowed_fd(monitor.as_fd(), PollFlags::IN)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Heard::default(),
            Err(error) => {
                // Cannot happen with open descriptors; never spin on it.
                tracing::error!(%error, "poll failed");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.first() == Some(&true) {
            let _ = rustix::io::read(&self.sender.wake, &mut [0_u8; 8]);
        }
        let mut ready = ready.into_iter().skip(1);
        let mut any_of = |count: usize| ready.by_ref().take(count).fold(false, |any, one| any | one);
        Heard {
            tables: any_of(tables.len()),
            log: any_of(usize::from(log.is_some())),
            events: any_of(usize::from(monitor.is_some())),
        }
    }

    /// Takes what is new in the kernel's log into the picture. Nothing is probed for it: that would read, and maybe fail,
    /// and be logged again.
    fn read_log(&mut self, log: &mut Option<BorrowedFd<'_>>, now: Instant) {
        if log.is_none() {
            return;
        }
        match self.hardware.read_log() {
            Ok(names) => self.feel(names, now),
            Err(fault) => {
                tracing::warn!(detail = fault.detail, "the kernel's log");
                self.log_fault = Some(fault);
                *log = None;
                self.publish([]);
            }
        }
    }

    /// What the kernel counted of these drives, into the picture.
    fn feel(&self, names: impl IntoIterator<Item = String>, now: Instant) {
        let picture = self.out.borrow().clone();
        let known = names.into_iter().filter_map(|name| picture.devices.get(&name));
        let felt = known.map(|device| {
            let pulse = self.hardware.pulse(device, now);
            Finding::Seen(Box::new(Device {
                work: pulse.work,
                io_errors: pulse.io_errors,
                ..(**device).clone()
            }))
        });
        let felt: Vec<Finding> = felt.collect();
        if !felt.is_empty() {
            self.publish(felt);
        }
    }

    fn take_events(&mut self, monitor: &Monitor, now: Instant) {
        let (events, lost) = monitor.drain();
        self.counters
            .events
            .fetch_add(events.len() as u64, Ordering::Relaxed);
        let picture = self.out.borrow().clone();
        let mut concerned: std::collections::BTreeMap<String, Depth> = std::collections::BTreeMap::new();
        for event in events {
            let health = Depth {
                reread: false,
                health: event.health,
                wake: false,
            };
            if event.controller {
                let on_it = |device: &&Arc<Device>| {
                    device
                        .nvme
                        .as_ref()
                        .is_some_and(|nvme| nvme.controller == event.name)
                };
                let names = picture
                    .devices
                    .values()
                    .filter(on_it)
                    .map(|device| device.name.clone());
                concerned.extend(names.map(|name| (name, health)));
                continue;
            }
            // A change may mean that somebody wrote: the bytes are read again.
            let depth = Depth {
                reread: true,
                ..health
            };
            let mut names = self.hardware.drives_below(&event.name);
            names.push(event.disk.clone());
            names.extend(holding(&picture, &event.name));
            concerned.extend(names.into_iter().map(|name| (name, depth)));
        }
        for (name, depth) in concerned {
            self.schedule.announced(&name, depth, now);
        }
        if lost {
            tracing::warn!("the kernel dropped announcements; everything is probed again");
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            self.lost_fault = true;
            self.rescan(
                now,
                Depth {
                    reread: true,
                    health: false,
                    wake: false,
                },
            );
            self.publish([]);
        }
    }

    /// True when it is time to end.
    fn take_messages(&mut self, now: Instant) -> bool {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::End => return true,
                Message::Interval(interval) => {
                    self.interval = interval.max(Duration::from_secs(1));
                    self.rescan_at = self.rescan_at.min(now + self.interval);
                }
                Message::ProbeNow(done) => {
                    self.around = Arc::new(self.hardware.surroundings());
                    let names = self.rescan(
                        now,
                        Depth {
                            reread: true,
                            health: false,
                            wake: false,
                        },
                    );
                    self.waiting.push((names, done));
                    self.answer_waiting();
                }
                Message::Probed(name, found) => self.probed(&name, found, now),
            }
        }
        false
    }

    fn probed(&mut self, name: &str, found: Option<Box<Device>>, now: Instant) {
        self.schedule.finished(name);
        let seen = found.is_some();
        let finding = found.map_or_else(|| Finding::Gone(name.to_owned()), Finding::Seen);
        self.end_first_round(name);
        self.publish([finding]);
        if seen && self.schedule.is_done(name) && self.hardware.health_due(name, now) {
            self.schedule.asked(
                name,
                Depth {
                    reread: false,
                    health: true,
                    wake: false,
                },
                now,
            );
        }
        self.answer_waiting();
    }

    fn end_first_round(&mut self, name: &str) {
        if let Some(left) = &mut self.first_round {
            left.remove(name);
            if left.is_empty() {
                self.first_round = None;
            }
        }
    }

    fn answer_waiting(&mut self) {
        let schedule = &self.schedule;
        let (done, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(names, _)| names.iter().all(|name| schedule.is_done(name)));
        self.waiting = waiting;
        for (_, answer) in done {
            // Who asked may have gone.
            let _: Result<(), ()> = answer.send(());
        }
    }

    /// Lists the drives, probes all of them, and drops those that are gone.
    fn rescan(&mut self, now: Instant, depth: Depth) -> BTreeSet<String> {
        self.counters.rescans.fetch_add(1, Ordering::Relaxed);
        self.rescan_at = now + self.interval;
        if !depth.reread {
            self.lost_fault = false;
        }
        let names: BTreeSet<String> = match self.hardware.list() {
            Ok(names) => {
                self.list_fault = None;
                names.into_iter().collect()
            }
            Err(fault) => {
                self.list_fault = Some(fault);
                self.rescan_at = now + self.interval.min(RETRY_LIST);
                self.publish([]);
                return BTreeSet::new();
            }
        };
        let known: Vec<String> = self.out.borrow().devices.keys().cloned().collect();
        let gone: Vec<Finding> = known
            .into_iter()
            .filter(|name| !names.contains(name))
            .map(Finding::Gone)
            .collect();
        for name in &names {
            let health = depth.health || self.hardware.health_due(name, now);
            let first_sight = !self.out.borrow().devices.contains_key(name);
            // A drive is shown first and asked for its health afterwards.
            self.schedule.asked(
                name,
                Depth {
                    health: health && !first_sight,
                    ..depth
                },
                now,
            );
        }
        if let Some(left) = &mut self.first_round {
            // One that is known to be stuck is not waited for again.
            let waited_for = names.iter().filter(|name| !self.schedule.is_done(name));
            *left = waited_for.cloned().collect();
            if left.is_empty() {
                self.first_round = None;
            }
        }
        self.publish(gone);
        // These are not probed, and may say by their silence what is wrong.
        let stuck: Vec<String> = self.schedule.stuck().map(str::to_owned).collect();
        self.feel(stuck, now);
        names
    }

    fn read_surroundings(&mut self, now: Instant) {
        let next = self.hardware.surroundings();
        if *self.around == next {
            return;
        }
        let before = std::mem::replace(&mut self.around, Arc::new(next));
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (
            before.mounts.iter().collect(),
            self.around.mounts.iter().collect(),
        );
        let mut names: BTreeSet<String> = old
            .symmetric_difference(&new)
            .flat_map(|mount| self.hardware.drives_of_mount(mount))
            .collect();
        if before.swaps != self.around.swaps || before.faults != self.around.faults {
            names.extend(self.out.borrow().devices.keys().cloned());
            // A first probe that still runs knows the old ones.
            names.extend(self.schedule.running().map(str::to_owned));
        }
        for name in names {
            self.schedule.asked(&name, Depth::default(), now);
        }
        self.publish([]);
    }

    fn start_probes(&mut self, now: Instant) {
        let hardware = self.hardware.clone();
        for (name, depth) in self.schedule.start(now, |name| hardware.settled(name)) {
            self.counters.probes.fetch_add(1, Ordering::Relaxed);
            let (hardware, around, sender) =
                (self.hardware.clone(), self.around.clone(), self.sender.clone());
            let target = name.clone();
            let probe = move || {
                let found = hardware.probe(&target, &around, depth, now);
                let _ = sender.send(Message::Probed(target, found.map(Box::new)));
            };
            let thread = std::thread::Builder::new()
                .name("probe".into())
                .stack_size(PROBE_STACK_BYTES)
                .spawn(probe);
            if let Err(error) = thread {
                tracing::error!(%error, device = name, "no thread for a probe");
                self.schedule.finished(&name);
                self.schedule
                    .announced(&name, depth, now + Duration::from_secs(1));
            }
        }
    }

    fn report_stuck(&mut self, name: &str) {
        self.counters.stuck.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(device = name, "a probe does not come back");
        let known = self
            .out
            .borrow()
            .devices
            .get(name)
            .map(|device| (**device).clone());
        let mut device = known.unwrap_or_else(|| Device {
            name: name.to_owned(),
            dev_path: format!("/dev/{name}"),
            ..Device::default()
        });
        device.usage.blank = device.usage.blank.filter(|blank| !blank);
        let detail = "the device does not answer a probe; the facts shown are older";
        device.faults.push(Fault::failed(Probe::Sysfs, name, detail));
        self.end_first_round(name);
        self.publish([Finding::Seen(Box::new(device))]);
        self.answer_waiting();
    }

    /// Publishes the picture with these findings in it, where that is another one.
    fn publish(&self, findings: impl IntoIterator<Item = Finding>) {
        let mut faults: Vec<Fault> = self.around.faults.clone();
        faults.extend(self.list_fault.clone());
        faults.extend(self.event_fault.clone());
        faults.extend(self.log_fault.clone());
        if self.lost_fault {
            let detail = "the kernel dropped announcements; everything was probed again";
            faults.push(Fault::failed(Probe::Uevent, "", detail));
        }
        let complete = self.first_round.is_none();
        self.out.send_if_modified(|picture| {
            let mut next = inventory::with_faults(inventory::fold(picture, findings), faults);
            next.complete = complete;
            let different = **picture != next;
            if different {
                *picture = Arc::new(next);
            }
            different
        });
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    events: bool,
    tables: bool,
    log: bool,
}

/// The drives of which the picture says that this device is on or above them.
fn holding(picture: &Inventory, name: &str) -> Vec<String> {
    picture
        .devices
        .values()
        .filter(|device| {
            device
                .usage
                .holders
                .iter()
                .any(|holder| holder.kind == HolderKind::Device && holder.device == name)
        })
        .map(|device| device.name.clone())
        .collect()
}

#[cfg(test)]
mod tests;
