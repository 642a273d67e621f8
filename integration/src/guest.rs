//! A machine of its own for the suites about hardware: QEMU without KVM, a Debian kernel, systemd-udevd, and any set
//! of drives, which can be plugged, pulled, broken and slowed while it runs.
//!
//! The image is made by `integration/guest/build`; the test talks to the guest through qemu-guest-agent and to the
//! hardware through QMP. Nothing of the host is opened but files below the guest's own folder. A guest that is dropped
//! is killed and its folder removed; its console is kept in `smart-storage-it-logs/guests` in the folder for temporary
//! files.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::drives::run;

mod door;
mod machine;

pub use door::{Door, Qmp};
pub use machine::{Disk, Kernel, Machine, Namespace, Spindle, scsi_disk};

/// As long as a guest may take until it is ready; seconds on an idle machine.
const BOOT: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(20);
/// The console's last word of the start.
const READY: &str = "GUEST-READY";

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    name: String,
    folder: PathBuf,
    process: Child,
    qmp: Qmp,
    door: Option<Door>,
    forwarded: BTreeSet<u16>,
}

/// Where images and packages are kept: `integration/test` says where.
///
/// # Errors
/// `SMART_STORAGE_GUEST` is not set.
pub fn images() -> Result<PathBuf> {
    let folder = env::var_os("SMART_STORAGE_GUEST").context("SMART_STORAGE_GUEST is not set")?;
    Ok(PathBuf::from(folder))
}

impl Guest {
    /// Switches a machine on in `folder`, which must exist and stays. It is not waited for.
    ///
    /// # Errors
    /// QEMU refuses it; the error carries what it said.
    pub fn switch_on(machine: &Machine, folder: &Path) -> Result<Self> {
        let folder = folder.join(&machine.name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let said = folder.join("qemu.log");
        // It ends with the test's thread, also where that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(machine.arguments(&images()?, &folder)?);
        let mut process = command
            .stdin(Stdio::null())
            .stdout(File::create(&said)?)
            .stderr(File::options().append(true).open(&said)?)
            .process_group(0)
            .spawn()
            .context("qemu-system-x86_64")?;
        let qmp = match Qmp::connect(&folder.join("qmp.sock"), || Ok(process.try_wait()?.is_none())) {
            Ok(qmp) => qmp,
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                let words = fs::read_to_string(&said).unwrap_or_default();
                return Err(error.context(format!("{}: {}", machine.name, words.trim())));
            }
        };
        Ok(Self {
            name: machine.name.clone(),
            folder,
            process,
            qmp,
            door: None,
            forwarded: BTreeSet::new(),
        })
    }

    /// Switches it on and waits until it is ready.
    ///
    /// # Errors
    /// It does not come up; the error carries the end of its console.
    pub fn boot(machine: &Machine, folder: &Path) -> Result<Self> {
        let mut guest = Self::switch_on(machine, folder)?;
        guest.ready()?;
        Ok(guest)
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// It does not come up; the error carries the end of its console.
    pub fn ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while !self.console().contains(READY) {
            if let Some(status) = self.process.try_wait()? {
                bail!("{}: QEMU ended with {status}: {}", self.name, self.last_words());
            }
            ensure!(
                start.elapsed() < BOOT,
                "{}: not up after {BOOT:?}: {}",
                self.name,
                self.last_words()
            );
            sleep(PAUSE);
        }
        self.door = Some(Door::connect(&self.folder.join("door.sock"))?);
        println!("  {}: booted after {:.2?}", self.name, start.elapsed());
        Ok(())
    }

    /// Its name, which is its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell script in it and answers its standard output.
    ///
    /// # Errors
    /// It ends with another status than 0; the error carries what it said.
    pub fn sh(&mut self, script: &str) -> Result<String> {
        let (status, out, err) = self.try_sh(script)?;
        ensure!(
            status == 0,
            "{}: {script:?} ended with {status}: {out}{err}",
            self.name
        );
        Ok(out)
    }

    /// Runs a shell script in it and answers its exit status, standard output and standard error.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn try_sh(&mut self, script: &str) -> Result<(i64, String, String)> {
        let name = self.name.clone();
        let door = self.door.as_mut().with_context(|| format!("{name} is not up"))?;
        door.sh(script).with_context(|| format!("{name}: {script:?}"))
    }

    /// Runs a script whose output is JSON.
    ///
    /// # Errors
    /// It answers something else.
    pub fn json(&mut self, script: &str) -> Result<Value> {
        let (_, out, err) = self.try_sh(script)?;
        serde_json::from_str(&out).with_context(|| format!("{script:?} answered {out:?}, {err:?}"))
    }

    /// One command to the hardware.
    ///
    /// # Errors
    /// QEMU refuses it.
    pub fn qmp(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.qmp.call(command, arguments)
    }

    /// Sets a property of a device while it runs, for example an NVMe controller's `smart_critical_warning`.
    ///
    /// # Errors
    /// There is no such device or property.
    pub fn set(&mut self, device: &str, property: &str, value: &Value) -> Result<()> {
        let path = format!("/machine/peripheral/{device}");
        self.qmp(
            "qom-set",
            &json!({"path": path, "property": property, "value": value}),
        )?;
        Ok(())
    }

    /// Plugs a device in: `properties` are those of QEMU's `device_add`.
    ///
    /// # Errors
    /// QEMU refuses it.
    pub fn plug(&mut self, properties: &Value) -> Result<()> {
        self.qmp("device_add", properties)?;
        Ok(())
    }

    /// Makes a disk known to QEMU under its own name, as the `drive` of a device that is plugged in later.
    ///
    /// # Errors
    /// QEMU refuses it, for example because another guest has it.
    pub fn insert(&mut self, disk: &Disk) -> Result<()> {
        self.qmp("blockdev-add", &disk.node())?;
        Ok(())
    }

    /// Lets a disk go whose device is gone, so that another guest can have it. QEMU may hold it a little longer than
    /// the device is there.
    ///
    /// # Errors
    /// A device still has it.
    pub fn eject(&mut self, disk: &Disk) -> Result<()> {
        let start = Instant::now();
        loop {
            match self.qmp("blockdev-del", &json!({"node-name": disk.name})) {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > Duration::from_secs(30) => return Err(error),
                Err(_) => sleep(PAUSE),
            }
        }
    }

    /// Pulls a device and waits until QEMU has let it go.
    ///
    /// # Errors
    /// It stays.
    pub fn pull(&mut self, device: &str, deadline: Duration) -> Result<()> {
        self.qmp("device_del", &json!({"id": device}))?;
        self.qmp.event("DEVICE_DELETED", deadline, |data| {
            data.get("device").and_then(Value::as_str) == Some(device)
        })
    }

    /// A port of the host's loopback becomes that port of the guest's.
    ///
    /// # Errors
    /// Something of the host listens there.
    pub fn forward(&mut self, port: u16) -> Result<()> {
        let line = format!("hostfwd_add net0 tcp:127.0.0.1:{port}-10.0.2.15:{port}");
        let said = self.qmp("human-monitor-command", &json!({"command-line": line}))?;
        let said = said.as_str().unwrap_or_default().trim();
        ensure!(said.is_empty(), "{line}: {said}");
        self.forwarded.insert(port);
        Ok(())
    }

    /// The guest's ports that the host has.
    #[must_use]
    pub fn forwarded(&self) -> &BTreeSet<u16> {
        &self.forwarded
    }

    /// A port of the host's loopback, behind which another guest may be, is found on this one's.
    ///
    /// # Errors
    /// The guest does not take the rule.
    pub fn reach(&mut self, port: u16) -> Result<()> {
        let rule = format!("ip daddr 127.0.0.1 tcp dport {port} dnat to 10.0.2.2");
        self.sh(&format!("nft add rule ip host out {rule}")).map(drop)
    }

    /// What the kernel calls the NVMe controller with this serial: its numbers are others at each boot.
    ///
    /// # Errors
    /// There is none.
    pub fn controller(&mut self, serial: &str) -> Result<String> {
        let found = self.sh(&format!(
            "grep -lw {serial} /sys/class/nvme/nvme*/serial | cut -d / -f 5"
        ))?;
        let name = found.lines().next().context("no controller has that serial")?;
        Ok(name.to_owned())
    }

    /// Waits until a script succeeds in it.
    ///
    /// # Errors
    /// It never does.
    pub fn wait_for(&mut self, script: &str) -> Result<()> {
        let start = Instant::now();
        while self.try_sh(script)?.0 != 0 {
            ensure!(start.elapsed() < BOOT, "{}: never true: {script}", self.name);
            sleep(PAUSE);
        }
        Ok(())
    }

    /// The power fails: QEMU ends at once, and what the guest had not written is lost.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn cut_power(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// How it ended, if it did: a guest that resets itself ends.
    ///
    /// # Errors
    /// The process cannot be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// Everything that came on its console.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = fs::read(self.folder.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn last_words(&self) -> String {
        let console = self.console();
        let qemu = fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
        let lines: Vec<&str> = console.lines().chain(qemu.lines()).collect();
        let from = lines.len().saturating_sub(25);
        lines.get(from..).unwrap_or_default().join("\n")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let logs = env::temp_dir().join("smart-storage-it-logs").join("guests");
        let _ = fs::create_dir_all(&logs);
        let _ = fs::copy(
            self.folder.join("console.log"),
            logs.join(format!("{}.log", self.name)),
        );
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The programs under test as a disk that every guest can have: the agent of `SMART_STORAGE_BIN`, without what only a
/// debugger reads, and weed. Made anew in `folder`.
///
/// # Errors
/// One of them is not there.
pub fn programs(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("programs");
    let image = folder.join("programs.img");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    let bins = PathBuf::from(env::var_os("SMART_STORAGE_BIN").context("SMART_STORAGE_BIN is not set")?);
    let agent = bins.join("smart-storage-agent");
    run(Command::new("strip")
        .arg("-o")
        .arg(root.join("smart-storage-agent"))
        .arg(&agent))?;
    if let Some(weed) = env::var_os("WEED") {
        fs::copy(&weed, root.join("weed")).with_context(|| format!("{}", weed.display()))?;
    }
    filesystem(&image, 320, &root)?;
    fs::remove_dir_all(&root)?;
    Ok(image)
}

/// A file with an ext4 of `mebibytes` that holds what is in `root`.
///
/// # Errors
/// mke2fs says no.
pub fn filesystem(image: &Path, mebibytes: u64, root: &Path) -> Result<()> {
    File::create(image)?.set_len(mebibytes << 20)?;
    run(Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0", "-d"])
        .arg(root)
        .arg(image))?;
    Ok(())
}
