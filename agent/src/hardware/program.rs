//! Runs one outside program to its end, bounded in time and in output.
//!
//! Nothing is run while the node is idle: the callers decide when, and this only how. A program that hangs (on a
//! dying drive) is killed; should even that not end it, nobody waits for it but a thread that takes note of its end.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Longest that a health program may take: a drive in error recovery may need half a minute.
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_OUTPUT: usize = 4 << 20;
/// How long a killed one is waited for.
const DEATH: Duration = Duration::from_secs(1);
/// A thread that only waits for one.
const REAPER_STACK_BYTES: usize = 64 << 10;

/// What a program answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    /// Exit status; none where a signal ended it.
    pub(super) status: Option<i32>,
    /// Standard output.
    pub(super) stdout: Vec<u8>,
}

/// Where a program is, if it is installed.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // System programs are not on every service's PATH.
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Runs it.
///
/// # Errors
/// `NotFound` where it is not installed, `TimedOut` where it was killed.
pub(super) fn run(name: &str, arguments: &[&str]) -> io::Result<Output> {
    let path = find(name)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{name} is not installed")))?;
    run_at(&path, arguments, TIMEOUT)
}

fn run_at(path: &std::path::Path, arguments: &[&str], timeout: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + timeout;
    let mut child = Command::new(path)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let answer = child
        .stdout
        .take()
        .ok_or_else(|| io::Error::other("no pipe"))
        .and_then(|mut pipe| read_until(&mut pipe, deadline))
        .and_then(|stdout| Ok((stdout, wait_until(&mut child, deadline)?)));
    if let Ok((stdout, Some(status))) = answer {
        let status = status.code();
        return Ok(Output { status, stdout });
    }
    end(child, DEATH);
    Err(answer.err().unwrap_or_else(|| {
        let detail = format!("no answer within {} s", timeout.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, detail)
    }))
}

/// Kills it. In uninterruptible sleep it does not even die: after a moment the rest is left to a thread.
fn end(mut child: Child, patience: Duration) {
    let _ = child.kill();
    if matches!(wait_until(&mut child, Instant::now() + patience), Ok(Some(_))) {
        return;
    }
    let id = child.id();
    let reaper = std::thread::Builder::new()
        .name("reaper".into())
        .stack_size(REAPER_STACK_BYTES)
        .spawn(move || child.wait().map(drop));
    if let Err(error) = reaper {
        tracing::warn!(pid = id, %error, "a killed program is not waited for");
    }
}

fn read_until(pipe: &mut (impl Read + AsFd), deadline: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut chunk = vec![0_u8; 16 << 10];
    loop {
        if !readable(pipe.as_fd(), deadline)? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        match pipe.read(&mut chunk)? {
            0 => return Ok(answer),
            n => answer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
        }
        if answer.len() > MAX_OUTPUT {
            return Err(io::Error::other("the answer is too long"));
        }
    }
}

/// How it ended; none where it has not by then.
fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid else { return Ok(None) };
    let watch = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    readable(watch.as_fd(), deadline)?;
    child.try_wait()
}

fn readable(fd: std::os::fd::BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn status_and_output_are_answered() {
        let output = run_at(Path::new("/bin/sh"), &["-c", "echo hi; exit 4"], TIMEOUT).unwrap();
        assert_eq!(
            output,
            Output {
                status: Some(4),
                stdout: b"hi\n".to_vec()
            }
        );
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        for script in ["exec sleep 600", "exec >&-; exec sleep 600"] {
            let error = run_at(Path::new("/bin/sh"), &["-c", script], Duration::from_millis(50)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}");
        }
    }

    #[test]
    fn a_killed_program_is_reaped_also_where_nobody_waits_for_it() {
        for patience in [Duration::ZERO, DEATH] {
            let child = Command::new("/bin/sleep").arg("600").spawn().unwrap();
            let own = PathBuf::from(format!("/proc/{}", child.id()));
            end(child, patience);
            let deadline = Instant::now() + Duration::from_secs(20);
            while own.exists() {
                assert!(Instant::now() < deadline, "a zombie is left");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn a_program_that_is_missing_is_not_found() {
        assert_eq!(
            run("no-such-program-here", &[]).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
