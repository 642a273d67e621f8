//! The storage process of a member: started, found again, noticed when it ends, stopped.
//!
//! It outlives this agent: it has a process group of its own, no parent-death signal, and its output goes to a
//! file. After a restart it is found in the process table by its data folder, which is its identity; there is no
//! file of process numbers that could be stale. A process is signalled through its pidfd only, taken before the
//! identity was read: never a number that may be somebody else's by now.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::mount::DATA;
use super::store::MemberSpec;
use super::{MemberConfig, MemberId};

/// A log longer than this is cut to its last part.
const LOG_LIMIT: u64 = 8 << 20;

/// What is kept of a log that was cut.
const LOG_KEPT: u64 = 1 << 20;

/// Ports are looked for from here on, below the kernel's ephemeral range.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

/// Between the polite signal and the other one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a process could not be started, found or stopped.
#[derive(Debug, Error)]
pub(super) enum ProcessError {
    #[error("the storage program {0} is not there; install SeaweedFS (weed) or name its path")]
    NoProgram(PathBuf),
    #[error("{}: {source}; the storage program would run open to everybody without it", file.display())]
    NoSecurity { file: PathBuf, source: io::Error },
    #[error("no free pair of TCP ports between {FIRST_PORT} and {}", FIRST_PORT + PORTS)]
    NoPort,
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    #[error("process {0} is still there after SIGKILL: it waits for the drive")]
    Stuck(u32),
}

/// A storage process that is there.
#[derive(Debug)]
pub(super) struct Running {
    pub pid: u32,
    /// What it was started with, without the program.
    pub arguments: Vec<String>,
    /// When it was started.
    pub started: Instant,
    pidfd: AsyncFd<OwnedFd>,
    /// Where this agent started it itself: to be reaped.
    child: Option<Child>,
}

/// The command line (without the program) of a member's process.
pub(super) fn arguments(config: &MemberConfig, spec: &MemberSpec, ports: (u16, u16)) -> Vec<String> {
    let weed = &spec.order.weed;
    let mount_point = config.mount_point(spec.order.member_id);
    let mut arguments = vec!["-logtostderr=true".to_owned()];
    // A path only: command lines can be read by everybody.
    if let Some(folder) = &config.weed_security {
        arguments.push(format!("-config_dir={}", folder.display()));
    }
    arguments.extend([
        "volume".to_owned(),
        data_argument(&mount_point),
        format!("-disk={}", weed.disk_tag),
        format!("-max={}", weed.max_volumes),
        format!(
            "-minFreeSpace={}MiB",
            weed.min_free_bytes.div_ceil(1 << 20).max(1)
        ),
        "-index=leveldb".to_owned(),
        "-preStopSeconds=1".to_owned(),
        format!("-port={}", ports.0),
        format!("-port.grpc={}", ports.1),
        "-ip=127.0.0.1".to_owned(),
        "-ip.bind=127.0.0.1".to_owned(),
        format!("-master={}", weed.masters.join(",")),
    ]);
    for (flag, value) in [("dataCenter", &weed.data_center), ("rack", &weed.rack)] {
        if !value.is_empty() {
            arguments.push(format!("-{flag}={value}"));
        }
    }
    arguments
}

fn data_argument(mount_point: &Path) -> String {
    format!("-dir={}", mount_point.join(DATA).display())
}

/// Two free ports for a member: always tried in the same order for the same member.
pub(super) fn choose_ports(id: MemberId) -> Result<(u16, u16), ProcessError> {
    let (high, low) = id.uuid().as_u64_pair();
    let start = u16::try_from((high ^ low) % u64::from(PORTS / 2)).unwrap_or(0);
    (0..PORTS / 2)
        .map(|step| FIRST_PORT + (start + step) % (PORTS / 2) * 2)
        .map(|http| (http, http + 1))
        .find(|ports| are_free(*ports))
        .ok_or(ProcessError::NoPort)
}

/// Whether both ports can be listened on now.
pub(super) fn are_free(ports: (u16, u16)) -> bool {
    [ports.0, ports.1]
        .into_iter()
        .all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

/// The program as a path: as given, or found in `PATH` and the folders where it usually is.
pub(super) fn find_program(program: &Path) -> Option<PathBuf> {
    let usable = |path: &Path| path.is_file();
    if program.as_os_str().as_bytes().contains(&b'/') {
        return usable(program).then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = [
        "/usr/local/bin",
        "/usr/bin",
        "/bin",
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
    ]
    .map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|folder| folder.join(program))
        .find(|path| usable(path))
}

/// The log file of a member's process.
pub(super) fn log_path(config: &MemberConfig, id: MemberId) -> PathBuf {
    config.data_dir.join("log").join(format!("weed-volume-{id}.log"))
}

/// Starts the process on a file system that was just found to be the member's.
pub(super) fn start(
    config: &MemberConfig,
    spec: &MemberSpec,
    ports: (u16, u16),
) -> Result<Running, ProcessError> {
    let program = find_program(&config.weed_program)
        .ok_or_else(|| ProcessError::NoProgram(config.weed_program.clone()))?;
    // Where it cannot read the file it says so in its log only, and serves everybody.
    if let Some(file) = config
        .weed_security
        .as_ref()
        .map(|folder| folder.join("security.toml"))
    {
        File::open(&file).map_err(|source| ProcessError::NoSecurity { file, source })?;
    }
    let log = open_log(&log_path(config, spec.order.member_id)).map_err(at("opening the log"))?;
    let arguments = arguments(config, spec, ports);
    let child = Command::new(&program)
        .args(&arguments)
        .current_dir(&config.data_dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(at("opening the log"))?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(at("starting the storage program"))?;
    let pid = child.id();
    let pidfd = open_pidfd(pid).map_err(at("opening the pidfd"))?;
    Ok(Running {
        pid,
        arguments,
        started: Instant::now(),
        pidfd,
        child: Some(child),
    })
}

/// Finds the member's process in the process table: one that an earlier agent started.
///
/// Command lines are read of processes only that may be one, by their program's name or by the folder they were started
/// in (the name may have been another then): reading that of a process that hangs in the kernel may never come back.
pub(super) fn find(config: &MemberConfig, id: MemberId) -> io::Result<Vec<Running>> {
    let wanted = data_argument(&config.mount_point(id));
    let name = config.weed_program.file_name().unwrap_or_default().as_bytes();
    let folder = config.data_dir.canonicalize().ok();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if !may_be(Path::new("/proc"), pid, name, folder.as_deref())
            || !is_server(&command_line(pid), &wanted)
        {
            continue;
        }
        // The identity is read once more behind the pidfd, which cannot come to mean another process.
        let Ok(pidfd) = open_pidfd(pid) else { continue };
        let line = command_line(pid);
        if is_server(&line, &wanted) && !is_zombie(pid) {
            let now = Instant::now();
            found.push(Running {
                pid,
                arguments: line.into_iter().skip(1).collect(),
                started: now.checked_sub(age(pid)).unwrap_or(now),
                pidfd,
                child: None,
            });
        }
    }
    Ok(found)
}

/// Whether a process has the program's name, as far as the kernel keeps it, or works in this folder.
fn may_be(proc: &Path, pid: u32, name: &[u8], folder: Option<&Path>) -> bool {
    const KEPT: usize = 15;
    let process = proc.join(pid.to_string());
    let comm = fs::read(process.join("comm")).unwrap_or_default();
    comm.strip_suffix(b"\n") == Some(name.get(..KEPT).unwrap_or(name))
        || folder.is_some_and(|folder| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder))
}

/// How long ago a process was started; zero where that cannot be told.
fn age(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    ticks
        .and_then(|ticks| age_of(&stat, &uptime, u64::try_from(ticks).ok()?))
        .unwrap_or_default()
}

fn age_of(stat: &str, uptime: &str, ticks_per_second: u64) -> Option<Duration> {
    // Field 22; the second one, in brackets, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    let seconds = uptime.split(['.', ' ']).next()?.parse::<u64>().ok()?;
    let started = ticks.checked_div(ticks_per_second)?;
    Some(Duration::from_secs(seconds.saturating_sub(started)))
}

fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
    text.split(|byte| *byte == 0)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

fn is_server(line: &[String], wanted: &str) -> bool {
    line.iter().any(|part| part == "volume") && line.iter().any(|part| part == wanted)
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

fn open_pidfd(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let number = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(number, PidfdFlags::empty())?;
    #[expect(
        deprecated,
        reason = "its successor is `unsafe`; an OwnedFd that nobody replaces is what that asks for"
    )]
    AsyncFd::new(pidfd)
}

impl Running {
    /// Comes back when the process has ended; no polling.
    pub async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Whether it has ended, and how, where that can be told.
    pub fn reap(&mut self) -> Option<String> {
        match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(Some(status)) => Some(status.to_string()),
                Ok(None) => None,
                Err(error) => Some(format!("its end could not be read: {error}")),
            },
            None => (command_line(self.pid).iter().all(String::is_empty) || is_zombie(self.pid))
                .then(|| "it ended; it was started by an earlier agent".to_owned()),
        }
    }

    /// Asks it to stop, then makes it; an error only where it outlives both.
    pub async fn stop(&mut self) -> Result<(), ProcessError> {
        for signal in [Signal::TERM, Signal::KILL] {
            match pidfd_send_signal(self.pidfd.get_ref(), signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(ProcessError::Io("signalling the storage process", error.into())),
            }
            if tokio::time::timeout(PATIENCE, self.ended()).await.is_ok() {
                self.reap();
                return Ok(());
            }
        }
        Err(ProcessError::Stuck(self.pid))
    }
}

/// Asks the process how it is: the HTTP status of `/healthz`, within two seconds.
pub(super) async fn health(port: u16) -> io::Result<u16> {
    health_of(port, "/healthz").await
}

/// The HTTP status of a path on this machine, within two seconds.
pub(super) async fn health_of(port: u16, path: &str) -> io::Result<u16> {
    const LIMIT: Duration = Duration::from_secs(2);
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 64];
        let mut length = 0;
        while length < 12 {
            match stream.read(answer.get_mut(length..).unwrap_or_default()).await? {
                0 => break,
                count => length += count,
            }
        }
        parse_status(answer.get(..length).unwrap_or_default())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
    };
    tokio::time::timeout(LIMIT, exchange)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn parse_status(answer: &[u8]) -> Option<u16> {
    let mut words = std::str::from_utf8(answer.get(..12)?).ok()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Cuts a log that has grown too long to its last part. The process appends, so it goes on at the new end.
pub(super) fn bound_log(path: &Path) -> io::Result<()> {
    let length = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?.len(),
    };
    if length <= LOG_LIMIT {
        return Ok(());
    }
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.seek(SeekFrom::Start(length - LOG_KEPT))?;
    let mut kept = Vec::new();
    (&mut file).take(LOG_KEPT).read_to_end(&mut kept)?;
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&kept)
}

fn at(what: &'static str) -> impl FnOnce(io::Error) -> ProcessError {
    move |error| ProcessError::Io(what, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::store::{Phase, tests::spec};

    const MEMBER: &str = "3f0c2b9e-6a52-4b8e-9d57-0a3f5c1e7d21";

    #[test]
    fn the_command_line_is_the_measured_one() {
        let mut config = MemberConfig::new("/d", "weed");
        let mut spec = spec(MEMBER, Phase::Finished);
        assert_eq!(
            arguments(&config, &spec, (21_000, 21_001)).join(" "),
            format!(
                "-logtostderr=true volume -dir=/d/mounts/{MEMBER}/data -disk=fast -max=30 -minFreeSpace=64MiB \
                 -index=leveldb -preStopSeconds=1 -port=21000 -port.grpc=21001 -ip=127.0.0.1 -ip.bind=127.0.0.1 \
                 -master=127.0.0.1:9333.19333"
            )
        );
        spec.order.weed.rack = "rack-7".into();
        spec.order.weed.data_center = "dc1".into();
        assert!(
            arguments(&config, &spec, (1, 2)).ends_with(&["-dataCenter=dc1".into(), "-rack=rack-7".into()])
        );
        config.weed_security = Some("/etc/seaweedfs".into());
        let line = arguments(&config, &spec, (1, 2)).join(" ");
        assert!(
            line.starts_with("-logtostderr=true -config_dir=/etc/seaweedfs volume "),
            "{line}"
        );
    }

    #[test]
    fn a_process_is_known_by_its_whole_data_argument_only() {
        let line = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_server(
            &line("weed -v=1 volume -dir=/d/a/data -max=1"),
            "-dir=/d/a/data"
        ));
        assert!(!is_server(&line("weed volume -dir=/d/a/data2"), "-dir=/d/a/data"));
        assert!(!is_server(&line("grep -dir=/d/a/data"), "-dir=/d/a/data"));
    }

    #[test]
    fn only_the_program_or_what_works_in_the_folder_is_looked_into() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data");
        let process = |pid: u32, comm: &str, cwd: &Path| {
            let own = root.path().join(pid.to_string());
            fs::create_dir(&own).unwrap();
            fs::write(own.join("comm"), format!("{comm}\n")).unwrap();
            std::os::unix::fs::symlink(cwd, own.join("cwd")).unwrap();
        };
        process(1, "weed", Path::new("/"));
        process(2, "postgres", Path::new("/"));
        process(3, "weed-4.48", &folder);
        process(4, "a-name-of-more-", Path::new("/"));
        let may_be = |pid, name: &str| may_be(root.path(), pid, name.as_bytes(), Some(&folder));
        assert!(may_be(1, "weed"));
        assert!(!may_be(2, "weed") && !may_be(2, "") && !may_be(2, "post"));
        assert!(may_be(3, "weed"), "an earlier agent called it otherwise");
        assert!(may_be(4, "a-name-of-more-than-fifteen"));
        assert!(!may_be(5, "weed"), "it has ended");
    }

    #[test]
    fn the_age_of_a_process_is_read_behind_whatever_it_is_called() {
        let stat = "7 (we ) ed) S 1 7 7 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 9 0 12345 1 1";
        assert_eq!(age_of(stat, "1000.57 3.2\n", 100), Some(Duration::from_secs(877)));
        assert_eq!(age_of(stat, "100.57 3.2\n", 100), Some(Duration::ZERO));
        assert_eq!(age_of("7 (weed) S", "1000.57", 100), None);
        assert_eq!(age_of(stat, "", 100), None);
        assert!(age(std::process::id()) < Duration::from_secs(3_600));
        assert!(age(1) >= age(std::process::id()));
    }

    #[test]
    fn ports_that_are_taken_are_passed_over() {
        let id = MemberId::parse(MEMBER).unwrap();
        let first = choose_ports(id).unwrap();
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first.1)).unwrap();
        assert!(!are_free(first));
        assert_ne!(choose_ports(id).unwrap(), first);
    }

    #[test]
    fn a_status_line_is_read_and_rubbish_is_not() {
        assert_eq!(parse_status(b"HTTP/1.1 200 OK"), Some(200));
        assert_eq!(parse_status(b"HTTP/1.1 503 Service"), Some(503));
        assert_eq!(parse_status(b"SSH-2.0-OpenSSH"), None);
        assert_eq!(parse_status(b"HTTP"), None);
    }

    #[test]
    fn a_long_log_keeps_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        bound_log(&path).unwrap();
        let mut log = open_log(&path).unwrap();
        log.set_len(LOG_LIMIT).unwrap();
        log.write_all(b"the end").unwrap();
        bound_log(&path).unwrap();
        log.write_all(b"!").unwrap();
        let text = fs::read(&path).unwrap();
        assert_eq!(text.len() as u64, LOG_KEPT + 1);
        assert!(text.ends_with(b"the end!"));
    }

    #[tokio::test]
    async fn a_process_is_found_by_its_folder_and_its_end_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("weed");
        fs::write(&script, "#!/bin/sh\nwhile :; do sleep 1; done\n").unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let config = MemberConfig::new(folder.path(), &script);
        let spec = spec(MEMBER, Phase::Finished);
        let mut running = start(&config, &spec, (1, 2)).unwrap();
        // Between exec and its end the kernel shows no command line for a moment.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let pids = || {
            find(&config, spec.order.member_id)
                .unwrap()
                .iter()
                .map(|found| found.pid)
                .collect::<Vec<_>>()
        };
        while pids() != [running.pid] {
            assert!(std::time::Instant::now() < deadline, "{:?}", pids());
        }
        assert_eq!(running.reap(), None);
        running.stop().await.unwrap();
        assert!(find(&config, spec.order.member_id).unwrap().is_empty());
        let open = MemberConfig {
            weed_security: Some(folder.path().join("gone")),
            ..config.clone()
        };
        let error = start(&open, &spec, (1, 2)).unwrap_err();
        assert!(matches!(error, ProcessError::NoSecurity { .. }), "{error}");
    }
}
