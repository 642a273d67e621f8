//! The agent's program: reads its configuration, binds its two ports, and ties the pieces together.
//!
//! Drives come from the watcher, go through the inventory to the session; orders come from the session and go to the
//! members; members' reports go to the session. It ends on SIGTERM or SIGINT; the members' storage processes go on
//! without it, and the next start takes them over. Exit status: 64 for a wrong flag, 1 for what fails after that.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use clap::Parser as _;
use smart_storage_agent::{
    config::{Args, Command, Config},
    enrol::Enrolment,
    hardware::{
        Hardware, bundle,
        linux::{Linux, LinuxConfig},
        sim,
    },
    inventory::Inventory,
    machine,
    member::{self, EnsureMember, MemberConfig, MemberId, MemberReports, Members},
    session::{self, Actions, Refused, Session},
    telemetry::{self, Health, Metrics},
    watcher::{Watcher, WatcherConfig, WatcherGone, WatcherHandle},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit status of a wrong command line (sysexits' EX_USAGE).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    member::fault::announce();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            say(text.lines().next().unwrap_or("wrong arguments"));
            return ExitCode::from(USAGE);
        }
        Err(help) => {
            // Nobody is left to be told that standard output is closed.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let (command, level, json) = (args.command.clone(), args.log_level.clone(), args.log_json);
    let config = match Config::from_args(args) {
        Ok(config) => config,
        Err(errors) => {
            errors.iter().for_each(|error| say(&format!("error: {error}")));
            return ExitCode::from(USAGE);
        }
    };
    let done = telemetry::init_logs(&level, json)
        .map_err(anyhow::Error::msg)
        .and_then(|()| match command {
            Some(Command::StopMembers) => stop_members(&config),
            Some(Command::Capture { output }) => capture(&config, output.as_deref()),
            None => start(config),
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    // Idle almost always: two workers so that one slow moment does not delay heartbeats.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("agent")
        .enable_all()
        .build()
}

fn bind(flag: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(addr).with_context(|| format!("{flag}: {addr}"))?;
    listener.set_nonblocking(true).with_context(|| flag.to_owned())?;
    Ok(listener)
}

/// Two agents of one data folder would fight over the same members.
fn lock(config: &Config) -> anyhow::Result<File> {
    let wrong = || format!("--data-dir: {}", config.data_dir.display());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .with_context(wrong)?;
    let path = config.data_dir.join("agent.lock");
    let lock = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(wrong)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => {
            Err(anyhow::anyhow!("another agent runs with it").context(wrong()))
        }
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(wrong),
    }
}

fn member_config(config: &Config) -> MemberConfig {
    MemberConfig {
        host_root: config.host_root.clone(),
        weed_security: config.weed_security.clone(),
        simulated: config.simulate.is_some(),
        ..MemberConfig::new(&config.data_dir, &config.weed)
    }
}

fn stop_members(config: &Config) -> anyhow::Result<()> {
    if !config.data_dir.exists() {
        return Ok(());
    }
    let _lock = lock(config)?;
    let stopped = runtime()?.block_on(member::stop_all(&member_config(config)))?;
    for id in stopped {
        info!(member = %id, "stopped");
    }
    Ok(())
}

fn linux_config(config: &Config) -> LinuxConfig {
    LinuxConfig {
        host_root: config.host_root.clone(),
        include_loop: config.include_loop.clone(),
        health_interval: config.health_interval,
    }
}

fn capture(config: &Config, output: Option<&Path>) -> anyhow::Result<()> {
    let captured = bundle::capture(linux_config(config))?;
    match output {
        Some(path) => File::create_new(path)
            .and_then(|mut file| file.write_all(captured.text.as_bytes()))
            .with_context(|| format!("--output: {}", path.display()))?,
        None => io::stdout()
            .write_all(captured.text.as_bytes())
            .context("standard output")?,
    }
    say(&format!(
        "{} drives: {}",
        captured.drives.len(),
        captured.drives.join(" ")
    ));
    say(&format!(
        "{} words of serial numbers, ids, labels, names and paths are replaced; models and firmware are not",
        captured.replaced
    ));
    for fault in captured.faults {
        let device = if fault.device.is_empty() {
            "the node"
        } else {
            &fault.device
        };
        say(&format!("not seen: {device}, {}: {}", fault.probe, fault.detail));
    }
    Ok(())
}

fn start(config: Config) -> anyhow::Result<()> {
    let health = bind("--health-addr", config.health_addr)?;
    let metrics = bind("--metrics-addr", config.metrics_addr)?;
    let _lock = lock(&config)?;
    let hardware: Arc<dyn Hardware> = match &config.simulate {
        Some(file) => sim::open(file).context("--simulate")?,
        None => Arc::new(Linux::new(linux_config(&config))),
    };
    let runtime = runtime()?;
    let ended = runtime.block_on(run(config, hardware, health, metrics));
    // A probe of a dying drive may never come back: nobody waits for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn run(
    config: Config,
    hardware: Arc<dyn Hardware>,
    health_port: TcpListener,
    metrics_port: TcpListener,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = CancellationToken::new();
    let health = Health::default();
    let (metrics, registry) = Metrics::register();
    info!(node = %config.node_name, version = env!("CARGO_PKG_VERSION"), "agent starts");

    let watching = WatcherConfig {
        discover_interval: config.discover_interval,
    };
    let (inventory, watcher) = Watcher::spawn(Arc::clone(&hardware), watching).context("watcher")?;
    let members = Members::start(member_config(&config), hardware, inventory.clone()).context("members")?;
    let members = Arc::new(members);
    health.bad(PROBED, "not every drive has been probed yet");
    tokio::spawn(count(
        inventory.clone(),
        members.reports(),
        health.clone(),
        metrics.clone(),
    ));

    let session = Session {
        controllers: config.controllers.clone(),
        enrolment: Enrolment {
            addr: config.enrol_addr.clone(),
            node: config.node_name.clone(),
            token_file: config.join_token_file.clone(),
            ca_file: config.ca_file.clone(),
        },
        data_dir: config.data_dir.clone(),
        hello: machine::hello(&config),
        inventory,
        members: members.reports(),
        actions: Arc::new(Machine {
            watcher: watcher.clone(),
            members,
        }),
        health: health.clone(),
        metrics: metrics.clone(),
        clock: SystemTime::now,
    };
    let ports = [
        (health_port, telemetry::health_router(health)),
        (
            metrics_port,
            telemetry::metrics_router(registry, move || metrics.watcher(watcher.counters())),
        ),
    ];
    for (port, router) in ports {
        let port = tokio::net::TcpListener::from_std(port)?;
        tokio::spawn(async move { axum::serve(port, router).await });
    }
    let streaming = tokio::spawn(session::run(session, shutdown.clone()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("agent ends");
    shutdown.cancel();
    streaming.await.context("session")
}

/// The name of the first round's check in `/readyz`.
const PROBED: &str = "drives";

/// Keeps what can be counted about pictures and members up to date.
async fn count(
    mut inventory: watch::Receiver<Arc<Inventory>>,
    mut members: watch::Receiver<MemberReports>,
    health: Health,
    metrics: Metrics,
) {
    loop {
        let picture = inventory.borrow_and_update().clone();
        metrics.picture(&picture);
        if picture.complete {
            health.good(PROBED);
        }
        let reports = members.borrow_and_update().clone();
        metrics.reports(&reports);
        let changed = tokio::select! {
            changed = inventory.changed() => changed,
            changed = members.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Carries out the controller's orders on this machine.
struct Machine {
    watcher: WatcherHandle,
    members: Arc<Members>,
}

fn gone(error: WatcherGone) -> Refused {
    Refused {
        reason: "WatcherGone".to_owned(),
        message: format!("{error}; restart the agent"),
        retryable: false,
    }
}

#[tonic::async_trait]
impl Actions for Machine {
    async fn probe_now(&self) -> Result<(), Refused> {
        self.watcher.probe_now().await.map_err(gone)
    }

    async fn ensure(&self, order: EnsureMember) -> Result<(), Refused> {
        self.members.ensure(order).await.map_err(Refused::from)
    }

    async fn release(&self, member: MemberId) -> Result<(), Refused> {
        self.members.release(member).await.map_err(Refused::from)
    }

    fn discover_interval(&self, interval: Duration) {
        if let Err(error) = self.watcher.set_discover_interval(interval) {
            warn!(error = %error, "the rescan interval is not changed");
        }
    }
}
