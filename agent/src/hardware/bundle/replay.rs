//! A host that answers from a bundle. It asks nobody: no file but the bundle is read, no device opened, no program run.

use std::io;
use std::path::{Path, PathBuf};

use super::record::{command_line, question};
use super::{Answer, Bundle, Bytes, Run};
use crate::hardware::Device;
use crate::hardware::host::{Host, Inode, Look, MountTable, Unread};
use crate::hardware::ioctl::NvmeRead;
use crate::hardware::program::Output;

/// The machine of one bundle.
#[derive(Debug)]
pub(super) struct Replay(Bundle);

impl Replay {
    pub(super) fn new(bundle: Bundle) -> Self {
        Self(bundle)
    }
}

impl Run {
    pub(super) fn output(&self) -> Output {
        Output {
            status: self.status,
            stdout: self.stdout.bytes(),
        }
    }
}

/// What the bundle holds, or that it was not there.
fn held<T>(answer: Option<&Answer<T>>) -> io::Result<&T> {
    answer.ok_or_else(missing)?.get()
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::ENOENT)
}

impl Host for Replay {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        held(self.0.files.get(path)).map(Bytes::bytes)
    }

    fn names(&self, folder: &str, prefix: &str) -> io::Result<Vec<String>> {
        let names = held(self.0.folders.get(folder))?;
        Ok(names
            .iter()
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect())
    }

    fn resolve(&self, path: &str) -> io::Result<String> {
        self.0.links.get(path).cloned().ok_or_else(missing)
    }

    fn inode(&self, path: &str) -> Option<Inode> {
        self.0.inodes.get(path).copied()
    }

    fn lies_under(&self, file: &str, _folder: &Path) -> bool {
        self.0.included.contains(file)
    }

    fn look(&self, device: &Device) -> Result<Look, Unread> {
        let unread = |doing: &str, error| Unread {
            doing: doing.to_owned(),
            error,
        };
        let opened = self.0.devices.get(&device.dev_path);
        match opened.and_then(|opened| opened.look.as_ref()) {
            Some(Answer::Told(look)) => Ok(look.clone()),
            Some(Answer::Failed { failed }) => {
                let doing = failed.doing.as_deref().unwrap_or("opening");
                Err(unread(doing, failed.into()))
            }
            None => Err(unread("opening", missing())),
        }
    }

    fn hold(&self, device: &Device) -> io::Result<()> {
        let opened = self.0.devices.get(&device.dev_path);
        held(opened.and_then(|opened| opened.exclusively.as_ref())).map(drop)
    }

    fn nvme(&self, node: &str, questions: [NvmeRead; 2]) -> io::Result<[io::Result<Vec<u8>>; 2]> {
        let answers = held(self.0.nvme.get(node))?;
        Ok(questions.map(|what| held(answers.get(&question(what))).map(Bytes::bytes)))
    }

    fn run(&self, name: &str, arguments: &[&str]) -> io::Result<Output> {
        match self.0.programs.get(&command_line(name, arguments)) {
            Some(run) => run.get().map(Run::output),
            None => Err(io::Error::other("the bundle does not say what it answered")),
        }
    }

    fn mount_tables(&self, show: &mut dyn FnMut(MountTable)) {
        for table in &self.0.mounts {
            show(MountTable {
                path: table.path.clone(),
                foreign_pid: table.foreign_pid,
                text: table.lines.get().map(|lines| lines.join("\n").into_bytes()),
            });
        }
    }

    fn watched(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn is_live(&self) -> bool {
        false
    }
}
