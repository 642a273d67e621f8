//! The public side under abuse: whatever comes to a port, memory and log stay small, the answer is a clear refusal,
//! and a witness goes on being served.

#![allow(
    clippy::indexing_slicing,
    reason = "bytes that the tests made, and whose length they know"
)]

/// What should hold; where it does not, that is a finding, and the others are looked at all the same.
macro_rules! expect {
    ($holds:expr, $($words:tt)+) => {
        let holds: bool = $holds;
        if !holds {
            crate::abuse::found(format!($($words)+));
        }
    };
}

mod crowd;
mod elsewhere;
mod frames;
mod requests;
mod target;
mod witness;

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use smart_storage_integration::{Cluster, MIB, Need, Setup, needs::INSTANCE, skipped};

static FINDINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn found(finding: String) {
    println!("    FINDING: {finding}");
    FINDINGS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(finding);
}

use self::{target::Target, witness::Witness};
use crate::trust;

/// What the whole of it may cost the controller, kept and at its peak.
const KEPT: u64 = 64 * MIB;
const PEAK: u64 = 128 * MIB;
/// Lines of the log that all of it may be, without the witness's own.
const LINES: usize = 300;

/// Runs an attack, and then waits until the witness was served again.
macro_rules! under {
    ($witness:ident, $target:ident, $what:literal, $attack:expr) => {{
        let begin = Instant::now();
        if let Err(error) = $attack.await {
            found(format!("{}: {error:#}", $what));
        }
        println!(
            "  {}: {:.1?}, {} MiB",
            $what,
            begin.elapsed(),
            $target.memory()?.0 / MIB
        );
        $witness.is_served($what).await?;
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn abuse_costs_little_and_others_are_served() -> Result<()> {
    if skipped("abuse", &INSTANCE)? {
        return Ok(());
    }
    target::many_files()?;
    let cluster = Cluster::start("abuse", Setup::DEMO).await?;
    let target = Target::of(&cluster)?;
    let witness = Witness::start(&cluster).await?;
    witness.is_served("before").await?;
    let (memory, descriptors) = (target.memory()?.0, target.descriptors()?);
    let lines = target.log()?.lines().count();
    target.forget_peak()?;

    // Half a minute of waiting goes on beside the others.
    let slow = tokio::spawn({
        let target = target.clone();
        async move { crowd::slow_loris(&target).await }
    });
    under!(witness, target, "tokens", requests::tokens(&target));
    under!(witness, target, "paths", requests::paths(&target));
    under!(witness, target, "labels", requests::labels(&target));
    under!(witness, target, "depths", requests::depths(&target));
    under!(witness, target, "giants", requests::giants(&target));
    under!(
        witness,
        target,
        "wrong protocols",
        frames::wrong_protocols(&target)
    );
    under!(witness, target, "slow loris", async { slow.await? });
    under!(witness, target, "frames of HTTP/2", frames::http2(&target));

    let begin = Instant::now();
    let mut crowd = crowd::idle(&target).await.context("the crowd")?;
    println!(
        "  a crowd of {} in {:.1?}: {} MiB, {} open files",
        crowd.len(),
        begin.elapsed(),
        target.memory()?.0 / MIB,
        target.descriptors()?
    );
    witness.is_served("in a crowd").await?;
    witness.is_served("in a crowd, still").await?;
    let standing = crowd::standing(&mut crowd).await;
    println!("  {standing} of {} still stand", crowd.len());
    ensure!(
        standing < 8000,
        "{standing} idle connections are kept: the ports are not bounded"
    );
    drop(crowd);
    crowd::dispersed(&target, descriptors).await?;
    counted(&target).await?;
    let streams = trust::counted(&cluster, trust::WELCOMED).await?;
    ensure!(
        streams == 1,
        "the agent had {streams} streams, and should have noticed nothing"
    );

    let seen = witness.end().await?;
    let (kept, peak) = target.memory()?;
    let log = target.log()?;
    let fresh: Vec<_> = log
        .lines()
        .skip(lines)
        .filter(|line| !line.contains("witness-"))
        .collect();
    println!(
        "  the witness: {seen:?}; {} MiB before, {} after, {} at most; {} lines in the log",
        memory / MIB,
        kept / MIB,
        peak / MIB,
        fresh.len()
    );
    let findings = FINDINGS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(findings.is_empty(), "{} findings: {findings:#?}", findings.len());
    ensure!(!log.contains("panicked"), "the log tells of a panic");
    ensure!(
        fresh.len() < LINES,
        "a flood of {} lines, such as: {:#?}",
        fresh.len(),
        &fresh[fresh.len() - 20..]
    );
    ensure!(kept < memory + KEPT, "{memory} bytes became {kept}");
    ensure!(peak < memory + PEAK, "{memory} bytes became {peak} at the peak");
    Ok(())
}

/// Whatever was refused is counted by its reason.
async fn counted(target: &Target) -> Result<()> {
    let metrics = target.url("http", "metrics", "/metrics")?;
    let text = reqwest::get(metrics).await?.text().await?;
    for (reason, least) in [
        ("idle_when_full", 5000),
        ("not_tls", 1),
        ("idle", 1),
        ("handshake_time", 1),
        ("http", 1),
    ] {
        let of_reason = format!("reason=\"{reason}\"}} ");
        let all: u64 = text
            .lines()
            .filter(|line| line.starts_with("smart_storage_connections_refused_total{"))
            .filter_map(|line| line.split_once(&of_reason)?.1.parse::<u64>().ok())
            .sum();
        println!("  refused for {reason}: {all}");
        ensure!(
            all >= least,
            "{all} connections refused for {reason}, not {least}: {text}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_from_another_machine_is_refused_whatever_it_says() -> Result<()> {
    if skipped("abuse: elsewhere", &[Need::Root])? {
        return Ok(());
    }
    tokio::time::timeout(Duration::from_secs(120), elsewhere::plain_http_is_refused()).await?
}
