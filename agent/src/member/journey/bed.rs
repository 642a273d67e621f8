//! One machine for the tests that need real drives: loop devices over files of its own, an agent's members on them.
//! It puts everything away when it is dropped, also after a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::hardware::linux::{Linux, LinuxConfig};
use crate::hardware::{Device, Hardware};
use crate::inventory::Inventory;
use crate::member::{
    EnsureMember, ExpectedDrive, FileSystem, MemberConfig, MemberId, MemberReport, MemberState, Members,
    WeedVolume, process, stop_all,
};
use crate::watcher::{Watcher, WatcherConfig, WatcherHandle};

pub const GIB: u64 = 1 << 30;

/// One machine with an agent's members on it; puts everything away when it is dropped.
pub struct Bed {
    pub folder: Folder,
    pub loops: Vec<String>,
    master: Option<Child>,
    master_address: String,
    pub inventory: watch::Receiver<Arc<Inventory>>,
    pub watcher: WatcherHandle,
    pub hardware: Arc<dyn Hardware>,
    members: Option<Members>,
    /// The storage program; where a test needs none, one that ends at once.
    pub weed: PathBuf,
}

/// The machine's folder: made and removed by this bed, or lent by another one.
pub enum Folder {
    Own(TempDir),
    Lent(PathBuf),
}

impl Folder {
    pub fn path(&self) -> &Path {
        match self {
            Self::Own(folder) => folder.path(),
            Self::Lent(path) => path,
        }
    }
}

impl Bed {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("member-journey-")
            .tempdir()
            .unwrap();
        fs::create_dir(folder.path().join("img")).unwrap();
        let mut bed = Self::over(Folder::Own(folder));
        bed.start_agent();
        bed
    }

    /// A machine without an agent on it.
    pub fn over(folder: Folder) -> Self {
        let hardware: Arc<dyn Hardware> = Arc::new(Linux::new(LinuxConfig {
            include_loop: Some(folder.path().join("img")),
            ..LinuxConfig::default()
        }));
        let config = WatcherConfig {
            discover_interval: Duration::from_secs(300),
        };
        let (inventory, watcher) = Watcher::spawn(Arc::clone(&hardware), config).unwrap();
        Self {
            folder,
            loops: Vec::new(),
            master: None,
            master_address: "127.0.0.1:1.2".into(),
            inventory,
            watcher,
            hardware,
            members: None,
            weed: Self::weed(),
        }
    }

    fn weed() -> PathBuf {
        std::env::var_os("SMART_STORAGE_TEST_WEED").map_or_else(|| "weed".into(), PathBuf::from)
    }

    pub fn config(&self) -> MemberConfig {
        MemberConfig {
            check_interval: Duration::from_millis(500),
            ..MemberConfig::new(self.folder.path().join("data"), &self.weed)
        }
    }

    pub fn start_agent(&mut self) {
        let members =
            Members::start(self.config(), Arc::clone(&self.hardware), self.inventory.clone()).unwrap();
        self.members = Some(members);
    }

    pub async fn stop_agent(&mut self) {
        if let Some(members) = self.members.take() {
            members.close().await;
        }
    }

    pub fn members(&self) -> &Members {
        self.members.as_ref().unwrap()
    }

    /// A sparse drive of this size; its kernel name.
    pub fn attach(&mut self, size: u64) -> String {
        let path = self
            .folder
            .path()
            .join("img")
            .join(format!("{}.img", self.loops.len()));
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        self.attach_file(&path)
    }

    pub fn attach_file(&mut self, path: &Path) -> String {
        let name = run("losetup", &["--find", "--show", path.to_str().unwrap()]);
        let name = name.trim().trim_start_matches("/dev/").to_owned();
        self.loops.push(name.clone());
        name
    }

    pub async fn start_master(&mut self) {
        let folder = self.folder.path().join("master");
        fs::create_dir_all(&folder).unwrap();
        let id = MemberId::parse(&Uuid::new_v4().to_string()).unwrap();
        let (http, grpc) = process::choose_ports(id).unwrap();
        let master = Command::new(Self::weed())
            .args([
                "-logtostderr=true",
                "master",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-peers=none",
            ])
            .args([
                "-telemetry=false",
                "-volumeSizeLimitMB=32",
                "-defaultReplication=000",
            ])
            .args([
                format!("-port={http}"),
                format!("-port.grpc={grpc}"),
                format!("-mdir={}", folder.display()),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.master = Some(master);
        self.master_address = format!("127.0.0.1:{http}.{grpc}");
        until("the master answers", || async {
            process::health_of(http, "/cluster/healthz").await.ok() == Some(200)
        })
        .await;
    }

    pub async fn seen(&self, name: &str) -> Device {
        self.watcher.probe_now().await.unwrap();
        let picture = self.inventory.borrow().clone();
        Device::clone(
            picture
                .devices
                .get(name)
                .unwrap_or_else(|| panic!("{name} is not in the picture")),
        )
    }

    /// Waits for a picture that the watcher makes by itself.
    pub async fn pictured(&self, what: &str, wanted: impl Fn(&Inventory) -> bool) {
        let mut inventory = self.inventory.clone();
        let seen = tokio::time::timeout(
            Duration::from_secs(20),
            inventory.wait_for(|picture| wanted(picture)),
        )
        .await;
        assert!(seen.is_ok(), "never: {what}");
    }

    pub async fn order(&self, name: &str) -> EnsureMember {
        let device = self.seen(name).await;
        EnsureMember {
            member_id: MemberId::parse(&Uuid::new_v4().to_string()).unwrap(),
            pool: "demo".into(),
            cluster_id: "0a1b2c3d-0000-4000-8000-000000000000".into(),
            may_prepare: true,
            drive: ExpectedDrive {
                device: name.into(),
                size_bytes: device.size_bytes.unwrap(),
                disk_sequence: device.disk_sequence,
                evidence: device.evidence,
                drive_id: format!("drive-{name}"),
            },
            file_system: FileSystem::Xfs,
            weed: WeedVolume {
                masters: vec![self.master_address.clone()],
                disk_tag: "demo".into(),
                max_volumes: 30,
                data_center: "dc1".into(),
                rack: "r1".into(),
                min_free_bytes: 64 << 20,
            },
        }
    }

    pub async fn reaches(&self, id: MemberId, wanted: impl Fn(&MemberReport) -> bool) -> MemberReport {
        let mut reports = self.members().reports();
        let found = async {
            loop {
                if let Some(report) = reports
                    .borrow_and_update()
                    .get(&id)
                    .filter(|report| wanted(report))
                {
                    return report.clone();
                }
                reports.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(Duration::from_secs(90), found).await {
            Ok(report) => report,
            Err(_) => panic!(
                "it never came to that: {:?}",
                self.members().reports().borrow().get(&id)
            ),
        }
    }

    pub async fn online(&self, id: MemberId) -> MemberReport {
        self.reaches(id, |report| report.state == MemberState::Online)
            .await
    }

    pub fn process_of(&self, id: MemberId) -> Vec<u32> {
        process::find(&self.real_config(), id)
            .unwrap()
            .iter()
            .map(|running| running.pid)
            .collect()
    }

    fn real_config(&self) -> MemberConfig {
        let config = self.config();
        MemberConfig {
            data_dir: config.data_dir.canonicalize().unwrap(),
            ..config
        }
    }

    pub fn mount_point(&self, id: MemberId) -> PathBuf {
        self.real_config().mount_point(id)
    }

    pub async fn put_away(mut self) {
        self.stop_agent().await;
        stop_all(&self.config()).await.unwrap();
        assert!(!self.folder.path().join("data/mounts").exists());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !table.contains(self.folder.path().to_str().unwrap()),
            "a mount is left:\n{table}"
        );
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.members.take().is_some() {
            // A failed test: its tasks end now, then nothing of it may stay behind.
            std::thread::sleep(Duration::from_millis(500));
            let config = self.config();
            let runtime = || tokio::runtime::Runtime::new().unwrap();
            let stopped = std::thread::spawn(move || runtime().block_on(stop_all(&config)));
            eprintln!("put away after a failure: {:?}", stopped.join());
        }
        if let Some(master) = &mut self.master {
            let _ = master.kill();
            let _ = master.wait();
        }
        for name in &self.loops {
            // Detached before, it may be somebody else's by now.
            let backing =
                fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default();
            if !Path::new(backing.trim()).starts_with(self.folder.path()) {
                continue;
            }
            let _ = Command::new("blockdev")
                .args(["--setrw", &format!("/dev/{name}")])
                .status();
            let _ = Command::new("partx")
                .args(["-d", &format!("/dev/{name}")])
                .stderr(Stdio::null())
                .status();
            let _ = Command::new("losetup")
                .args(["-d", &format!("/dev/{name}")])
                .status();
        }
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn kill(pid: u32, signal: &str) {
    run("kill", &[&format!("-{signal}"), &pid.to_string()]);
}

/// The file behind a loop device.
pub fn image_of(name: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap();
    PathBuf::from(text.trim_end())
}

/// A checksum over every byte of a file. Holes are zeros; so are pages of zeros, whether they are allocated or not.
pub fn checksum(file: &Path) -> String {
    use rustix::fs::SeekFrom;
    use std::os::unix::fs::FileExt;
    let file = fs::File::open(file).unwrap();
    let end = file.metadata().unwrap().len();
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(&end.to_le_bytes());
    let mut page = vec![0_u8; 1 << 16];
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
        // Extents may begin anywhere, and zeros around them must not count.
        let mut offset = data / 4096 * 4096;
        while offset < hole {
            let count = (hole - offset).min(page.len() as u64) as usize;
            file.read_exact_at(&mut page[..count], offset).unwrap();
            for (block, number) in page[..count].chunks(4096).zip(offset / 4096..) {
                if block.iter().any(|byte| *byte != 0) {
                    digest.update(&number.to_le_bytes());
                    digest.update(block);
                }
            }
            offset += count as u64;
        }
        at = hole;
    }
    digest
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A checksum of a whole loop drive, once everything that the kernel still held back is on it.
pub fn checksum_of_drive(name: &str) -> String {
    let drive = fs::File::open(format!("/dev/{name}")).unwrap();
    drive.sync_all().unwrap();
    drop(drive);
    checksum(&image_of(name))
}
