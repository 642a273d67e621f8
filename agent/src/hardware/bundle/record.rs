//! A host that is asked through it and remembers what it answered.
//!
//! It is made for one capture and writes nothing anywhere. A disk that may sleep is asked for its power state first,
//! and left alone unless it is awake.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::{Answer, Bundle, Bytes, Done, Run, Table, Trouble};
use crate::hardware::host::{Host, Inode, Live, Look, MountTable, Unread};
use crate::hardware::ioctl::NvmeRead;
use crate::hardware::program::Output;
use crate::hardware::{Device, Transport, mounts, smart};

/// The host, and what it answered so far.
#[derive(Debug)]
pub(super) struct Recorder {
    live: Live,
    seen: Mutex<Bundle>,
}

impl Recorder {
    pub(super) fn new(live: Live) -> Self {
        Self {
            live,
            seen: Mutex::new(Bundle::new()),
        }
    }

    /// Everything that was answered so far.
    pub(super) fn take(&self) -> Bundle {
        std::mem::replace(&mut self.seen.lock(), Bundle::new())
    }

    /// Why the device must not be read now: reading could wake it.
    fn sleeps(&self, device: &Device) -> Option<io::Error> {
        let never = matches!(
            device.transport,
            Transport::Virtio
                | Transport::Loop
                | Transport::Nvdimm
                | Transport::Pcie
                | Transport::NvmeFabrics
        );
        if never || device.rotational == Some(false) {
            return None;
        }
        let answer = self.run("smartctl", &smart::power(device));
        smart::asleep(&answer).map(io::Error::other)
    }
}

/// What is not there is not remembered: a bundle that does not name it says the same.
fn is_there<T>(result: &io::Result<T>) -> bool {
    !matches!(result, Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// The name of a question in the file.
pub(super) fn question(what: NvmeRead) -> String {
    match what {
        NvmeRead::Controller => "identify controller".to_owned(),
        NvmeRead::Namespace(id) => format!("identify namespace {id}"),
        NvmeRead::Descriptors(id) => format!("identification descriptors {id}"),
        NvmeRead::SmartLog => "SMART log".to_owned(),
    }
}

/// The key of a program's run in the file.
pub(super) fn command_line(name: &str, arguments: &[&str]) -> String {
    [&[name], arguments].concat().join(" ")
}

impl Host for Recorder {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let found = self.live.read(path);
        if is_there(&found) {
            let answer = Answer::of(found.as_deref().map(Bytes::of));
            self.seen.lock().files.insert(path.to_owned(), answer);
        }
        found
    }

    fn names(&self, folder: &str, prefix: &str) -> io::Result<Vec<String>> {
        let found = self.live.names(folder, prefix);
        if is_there(&found) {
            let mut seen = self.seen.lock();
            match (seen.folders.get_mut(folder), &found) {
                (Some(Answer::Told(names)), Ok(found)) => names.extend(found.iter().cloned()),
                _ => {
                    let names = found.as_ref().map(|names| names.iter().cloned().collect());
                    seen.folders.insert(folder.to_owned(), Answer::of(names));
                }
            }
        }
        found
    }

    fn resolve(&self, path: &str) -> io::Result<String> {
        let found = self.live.resolve(path)?;
        self.seen.lock().links.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    fn inode(&self, path: &str) -> Option<Inode> {
        let found = self.live.inode(path)?;
        self.seen.lock().inodes.insert(path.to_owned(), found);
        Some(found)
    }

    fn lies_under(&self, file: &str, folder: &Path) -> bool {
        let found = self.live.lies_under(file, folder);
        if found {
            self.seen.lock().included.insert(file.to_owned());
        }
        found
    }

    fn look(&self, device: &Device) -> Result<Look, Unread> {
        let found = match self.sleeps(device) {
            None => self.live.look(device),
            Some(error) => Err(Unread {
                doing: "reading".to_owned(),
                error,
            }),
        };
        let answer = match &found {
            Ok(look) => Answer::Told(look.clone()),
            Err(unread) => Answer::Failed {
                failed: Trouble {
                    doing: Some(unread.doing.clone()),
                    ..Trouble::from(&unread.error)
                },
            },
        };
        let mut seen = self.seen.lock();
        seen.devices.entry(device.dev_path.clone()).or_default().look = Some(answer);
        found
    }

    fn hold(&self, device: &Device) -> io::Result<()> {
        let found = self.live.hold(device);
        let answer = Answer::of(found.as_ref().map(|()| Done::Done));
        let mut seen = self.seen.lock();
        let opened = seen.devices.entry(device.dev_path.clone()).or_default();
        opened.exclusively = Some(answer);
        found
    }

    fn nvme(&self, node: &str, questions: [NvmeRead; 2]) -> io::Result<[io::Result<Vec<u8>>; 2]> {
        let found = self.live.nvme(node, questions);
        let answer = Answer::of(found.as_ref().map(|answers| {
            let answers = answers
                .iter()
                .map(|one| Answer::of(one.as_deref().map(Bytes::of)));
            questions.into_iter().map(question).zip(answers).collect()
        }));
        self.seen.lock().nvme.insert(node.to_owned(), answer);
        found
    }

    fn run(&self, name: &str, arguments: &[&str]) -> io::Result<Output> {
        let line = command_line(name, arguments);
        if let Some(known) = self.seen.lock().programs.get(&line) {
            return known.get().map(Run::output);
        }
        let found = self.live.run(name, arguments);
        let answer = Answer::of(found.as_ref().map(|output| Run {
            status: output.status,
            stdout: Bytes::of_output(&output.stdout),
        }));
        self.seen.lock().programs.insert(line, answer);
        found
    }

    fn mount_tables(&self, show: &mut dyn FnMut(MountTable)) {
        let mut known = BTreeSet::new();
        let mut tables = Vec::new();
        self.live.mount_tables(&mut |table| {
            let lines = Answer::of(table.text.as_ref().map(|text| {
                let text = String::from_utf8_lossy(text);
                let foreign = table.foreign_pid.is_some();
                // A container's table repeats the host's: only what it shows alone is kept.
                let news = |line: &&str| {
                    let mounts = mounts::parse_mountinfo(line);
                    let new = mounts.iter().any(|mount| known.insert(mount.what()));
                    new || (!foreign && !mounts.is_empty())
                };
                text.lines().filter(news).map(str::to_owned).collect::<Vec<_>>()
            }));
            if table.foreign_pid.is_none()
                || lines
                    .get()
                    .map_or_else(|error| refused(&error), |l| !l.is_empty())
            {
                tables.push(Table {
                    path: table.path.clone(),
                    foreign_pid: table.foreign_pid,
                    lines,
                });
            }
            show(table);
        });
        self.seen.lock().mounts = tables;
    }

    fn watched(&self) -> Vec<PathBuf> {
        self.live.watched()
    }

    fn is_live(&self) -> bool {
        true
    }
}

fn refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}
