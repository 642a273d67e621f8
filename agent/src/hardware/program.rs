//! Runs one outside program to its end, bounded in time and in output.
//!
//! Nothing is run while the node is idle: the callers decide when, and this only how. A program that hangs (on a
//! dying drive) is killed; should even that not end it, it is left to the kernel and never waited for.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Longest that a health program may take: a drive in error recovery may need half a minute.
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_OUTPUT: usize = 4 << 20;

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
        .and_then(|mut pipe| read_until(&mut pipe, deadline));
    let ended = answer.is_ok() && wait_until(&mut child, deadline)?;
    if !ended {
        let _ = child.kill();
        // In uninterruptible sleep it does not even die: give it a moment, and leave the rest to the kernel.
        wait_until(&mut child, Instant::now() + Duration::from_secs(1))?;
    }
    let stdout = answer?;
    match child.try_wait()? {
        Some(status) if ended => Ok(Output {
            status: status.code(),
            stdout,
        }),
        _ => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", timeout.as_secs()),
        )),
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

fn wait_until(child: &mut std::process::Child, deadline: Instant) -> io::Result<bool> {
    if child.try_wait()?.is_some() {
        return Ok(true);
    }
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid else { return Ok(false) };
    let watch = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    readable(watch.as_fd(), deadline)?;
    Ok(child.try_wait()?.is_some())
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
    fn a_program_that_is_missing_is_not_found() {
        assert_eq!(
            run("no-such-program-here", &[]).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
