//! Runs a simulated fleet against a controller: N agents with M drives each in one process, over real mutual TLS.
//!
//! Join tokens come from the controller's own program, so it is given the controller's data folder; where
//! `deploy/standalone/up` made the instance, `--state` says all of it. Identities are kept in `--keep`, so that a
//! second run needs no enrolment (the controller takes 20 of one address at once, then one a second).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use smart_storage_benches::fleet::{Controller, SimulatedNode};
use tokio::signal::unix::{SignalKind, signal};

/// Runs simulated agents against a controller until Ctrl-C or `--seconds`.
#[derive(Debug, Parser)]
#[command(name = "simulated-fleet", version)]
struct Args {
    /// State folder of deploy/standalone/up: says controller, enrolment, data folder and program at once
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The agents' port, HOST:PORT
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "state")]
    controller: Option<String>,
    /// The enrolment port, HOST:PORT
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "state")]
    enrolment: Option<String>,
    /// The controller's data folder, for join tokens
    #[arg(long, value_name = "DIR", required_unless_present = "state")]
    data_dir: Option<PathBuf>,
    /// The controller's program, for join tokens
    #[arg(long, value_name = "FILE", required_unless_present = "state")]
    program: Option<PathBuf>,
    /// How many nodes
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// How many drives each of them has
    #[arg(long, default_value_t = 24)]
    drives: usize,
    /// Names of the nodes: PREFIX00000, PREFIX00001, ...
    #[arg(long, default_value = "simulated-")]
    prefix: String,
    /// Where the identities are kept for the next run; a temporary folder where it is not said
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Drives of the whole fleet that change each second, each one delta
    #[arg(long, default_value_t = 0)]
    changes: u64,
    /// Ends after so many seconds with everybody connected
    #[arg(long)]
    seconds: Option<u64>,
    /// Also tell the memory and the writes of this process (the controller), from /proc
    #[arg(long, value_name = "PID")]
    watch: Option<u32>,
}

/// Where everything is.
struct Target {
    controller: Controller,
    data_dir: PathBuf,
    program: PathBuf,
    pid: Option<u32>,
}

impl Target {
    fn of(args: &Args) -> Result<Self> {
        let ports = args.state.as_deref().map(ports).transpose()?.unwrap_or_default();
        let port = |name: &str| ports.get(name).map(|port| format!("127.0.0.1:{port}"));
        let below = |path: &str| args.state.as_ref().map(|state| state.join(path));
        let said = "say it with a flag, or say --state";
        let pid = below("run/controller.pid").and_then(|file| fs::read_to_string(file).ok());
        Ok(Self {
            controller: Controller {
                streams: args.controller.clone().or_else(|| port("agent")).context(said)?,
                enrolment: args.enrolment.clone().or_else(|| port("enrol")).context(said)?,
            },
            data_dir: args
                .data_dir
                .clone()
                .or_else(|| below("controller"))
                .context(said)?,
            program: args
                .program
                .clone()
                .or_else(|| below("bin/smart-storage-controller"))
                .context(said)?,
            pid: args.watch.or_else(|| pid?.trim().parse().ok()),
        })
    }

    /// Makes a token for `node`, in place of an older one.
    fn token(&self, node: &str, file: &Path) -> Result<()> {
        let made = Command::new(&self.program)
            .args(["join-token", node, "--data-dir"])
            .arg(&self.data_dir)
            .output()
            .with_context(|| self.program.display().to_string())?;
        ensure!(
            made.status.success(),
            "join-token {node}: {}",
            String::from_utf8_lossy(&made.stderr).trim()
        );
        fs::write(file, made.stdout).with_context(|| file.display().to_string())
    }
}

/// The file `ports` of a state folder.
fn ports(state: &Path) -> Result<BTreeMap<String, u16>> {
    let file = state.join("ports");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, port)| Ok((name.to_owned(), port.trim().parse()?)))
        .collect()
}

fn fleet(args: &Args, target: &Target, keep: &Path) -> Result<Vec<SimulatedNode>> {
    let mut nodes = Vec::with_capacity(args.nodes);
    for number in 0..args.nodes {
        let name = format!("{}{number:05}", args.prefix);
        let folder = keep.join(&name);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let token = folder.join("token");
        if !token.exists() {
            target.token(&name, &token)?;
        }
        nodes.push(SimulatedNode::new(
            &name,
            number,
            args.drives,
            &target.controller,
            &folder,
            Some(&token),
        ));
    }
    Ok(nodes)
}

/// One line about the fleet, and about the controller where its pid is known.
fn progress(nodes: &[SimulatedNode], since: Instant, pid: Option<u32>) -> String {
    let sum = |of: fn(&SimulatedNode) -> u64| nodes.iter().map(of).sum::<u64>();
    let connected = nodes.iter().filter(|node| node.is_connected()).count();
    let mut line = format!(
        "{:>5} s  {connected} of {} connected, {} welcomed, {} refused, {} not reached, {} snapshots, {} deltas",
        since.elapsed().as_secs(),
        nodes.len(),
        sum(|node| node.streams("welcomed")),
        sum(|node| node.streams("refused")),
        sum(|node| node.streams("connect_failed")),
        sum(|node| node.messages("snapshot")),
        sum(|node| node.messages("delta")),
    );
    if let Some((resident, written)) = pid.and_then(|pid| weigh(pid).ok()) {
        line.push_str(&format!(
            "; controller: {} MiB resident, {written} bytes written",
            resident >> 20
        ));
    }
    line
}

/// Resident bytes, and bytes that it has caused to be written to a drive, of a process.
fn weigh(pid: u32) -> io::Result<(u64, u64)> {
    let number = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
            .ok_or_else(|| io::Error::other(format!("no {name}")))
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    Ok((number(&status, "VmRSS:")? << 10, number(&io, "write_bytes:")?))
}

fn say(line: &str) {
    use io::Write as _;
    // Where standard output is closed there is nobody to tell.
    let _ = writeln!(io::stdout(), "{line}");
}

fn main() -> Result<()> {
    let args = Args::parse();
    let target = Target::of(&args)?;
    let temporary = tempfile::tempdir()?;
    let keep = args.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(&args, &target, &keep))
}

async fn run(args: &Args, target: &Target, keep: &Path) -> Result<()> {
    let nodes = fleet(args, target, keep)?;
    say(&format!(
        "{} nodes of {} drives, identities in {}",
        nodes.len(),
        args.drives,
        keep.display()
    ));
    let since = Instant::now();
    let mut complete_since = None;
    let tasks: Vec<_> = nodes.iter().map(SimulatedNode::start).collect();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let (mut seconds, mut touched) = (0_u64, 0_usize);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = second.tick() => {}
        }
        for _ in 0..args.changes {
            let node = nodes.get(touched % nodes.len().max(1));
            if let Some(node) = node {
                node.touch(&format!("nvme{}n1", touched / nodes.len().max(1) % args.drives.max(1)));
            }
            touched = touched.wrapping_add(1);
        }
        let complete = nodes.iter().all(SimulatedNode::is_connected);
        if complete && complete_since.is_none() {
            say(&progress(&nodes, since, target.pid));
            say("all connected");
            complete_since = Some(Instant::now());
        } else if seconds.is_multiple_of(if complete { 30 } else { 5 }) {
            say(&progress(&nodes, since, target.pid));
        }
        seconds += 1;
        let over = |since: Instant| args.seconds.is_some_and(|most| since.elapsed().as_secs() >= most);
        if complete_since.is_some_and(over) {
            break;
        }
    }
    say(&progress(&nodes, since, target.pid));
    nodes.iter().for_each(SimulatedNode::stop);
    for task in tasks {
        task.await?;
    }
    Ok(())
}
