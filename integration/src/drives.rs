//! Drives made for a test: sparse files in the instance's `drives` folder behind loop devices.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// A loop device over a file of the test's own. It stays attached until [`LoopDrive::detach`] or until its instance
/// is taken down.
#[derive(Debug, Clone)]
pub struct LoopDrive {
    /// The kernel's name, for example `loop3`.
    pub device: String,
    /// The file behind it.
    pub file: PathBuf,
}

impl LoopDrive {
    /// Makes a sparse file of `bytes` (where there is none yet) and attaches it.
    ///
    /// # Errors
    /// The file cannot be made or no loop device is free.
    pub fn attach(folder: &Path, name: &str, bytes: u64) -> Result<Self> {
        let file = folder.join(format!("{name}.img"));
        if !file.exists() {
            File::create(&file)?.set_len(bytes)?;
        }
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&file))?;
        let device = device.trim().trim_start_matches("/dev/").to_owned();
        Ok(Self { device, file })
    }

    /// The loop device over `file`, when it is attached.
    ///
    /// # Errors
    /// `/sys/block` cannot be read.
    pub fn find(file: &Path) -> Result<Option<Self>> {
        for entry in fs::read_dir("/sys/block")? {
            let entry = entry?;
            let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) else {
                continue;
            };
            if Path::new(backing.trim_end()) == file {
                let device = entry.file_name().to_string_lossy().into_owned();
                return Ok(Some(Self {
                    device,
                    file: file.to_owned(),
                }));
            }
        }
        Ok(None)
    }

    /// Takes the device away, and the partitions that were added to it by hand.
    ///
    /// # Errors
    /// losetup says no, for example because it is mounted.
    pub fn detach(&self) -> Result<()> {
        let path = format!("/dev/{}", self.device);
        Command::new("partx")
            .args(["-d", &path])
            .output()
            .context("partx")?;
        run(Command::new("losetup").args(["-d", &path]))?;
        Ok(())
    }
}

/// Runs a program to its end and answers its standard output.
///
/// # Errors
/// It cannot be started, or ends with another status than 0: then the error carries what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
