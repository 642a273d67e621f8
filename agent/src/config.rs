//! The agent's configuration in two stages: as typed ([`Args`]) and as meant ([`Config`]).
//!
//! Everything is judged before anything is bound or written, and every wrong value is named by its flag.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Parser, Subcommand};

use crate::enrol::{self, JoinToken};

/// Flags and environment, as typed.
#[derive(Debug, Parser)]
#[command(
    name = "smart-storage-agent",
    version,
    about = "Finds drives, reports them, and serves the ones it is told to"
)]
pub struct Args {
    /// The controller's agent ports, HOST:PORT, comma-separated; tried in turn
    #[arg(long, env = "CONTROLLER_ADDR", default_value = "127.0.0.1:8092")]
    pub controller_addr: String,
    /// The controller's enrolment port, HOST:PORT
    #[arg(long, env = "ENROL_ADDR", default_value = "127.0.0.1:8093")]
    pub enrol_addr: String,
    /// CA certificate (PEM) to trust at enrolment; without it the join token's hash pins the CA
    #[arg(long, env = "CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// File with the join token of this node
    #[arg(long, env = "JOIN_TOKEN_FILE")]
    pub join_token_file: Option<PathBuf>,
    /// Folder for identity, members and mounts
    #[arg(
        long,
        global = true,
        env = "DATA_DIR",
        default_value = "/var/lib/smart-storage-agent"
    )]
    pub data_dir: PathBuf,
    /// Name of this node; default: the host name
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Seconds between full rescans, until the controller says otherwise
    #[arg(long, env = "DISCOVER_INTERVAL", default_value = "300")]
    pub discover_interval: String,
    /// Seconds between two questions for a drive's health; one that announces a change is asked at once
    #[arg(long, env = "HEALTH_INTERVAL", default_value = "3600")]
    pub health_interval: String,
    /// Where the host's /dev, /sys, /proc and /run/udev are
    #[arg(long, global = true, env = "HOST_ROOT", default_value = "/")]
    pub host_root: PathBuf,
    /// Where /healthz and /readyz are answered
    #[arg(long, env = "HEALTH_ADDR", default_value = "0.0.0.0:9081")]
    pub health_addr: String,
    /// Where /metrics is answered
    #[arg(long, env = "METRICS_ADDR", default_value = "0.0.0.0:9080")]
    pub metrics_addr: String,
    /// Log filter: error, warn, info, debug, trace, or directives
    #[arg(long, global = true, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Log JSON
    #[arg(long, global = true, env = "LOG_JSON")]
    pub log_json: bool,
    /// Loop devices whose backing file lies under DIR count as drives
    #[arg(long, global = true, env = "INCLUDE_LOOP", value_name = "DIR")]
    pub include_loop: Option<PathBuf>,
    /// Drives from a JSON file instead of the machine: a description, which is read again when it changes, or a
    /// bundle that `capture` made
    #[arg(long, env = "SIMULATE", value_name = "FILE")]
    pub simulate: Option<PathBuf>,
    /// The storage program: a path, or a name to look for in PATH
    #[arg(long, global = true, env = "WEED", default_value = "weed")]
    pub weed: PathBuf,
    /// Folder with the security.toml of the storage program; default: where it looks by itself
    #[arg(long, global = true, env = "WEED_SECURITY", value_name = "DIR")]
    pub weed_security: Option<PathBuf>,
    /// What to do; nothing: run
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else the program can do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Stop every member of this node and unmount it; its data and its mark stay
    StopMembers,
    /// Write down what this machine's drives answer, for --simulate, with other serial numbers, ids and names
    Capture {
        /// File to make; default: standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// The configuration, as meant.
#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port` of each controller.
    pub controllers: Vec<String>,
    /// `host:port` of the enrolment port.
    pub enrol_addr: String,
    /// CA to trust at enrolment.
    pub ca_file: Option<PathBuf>,
    /// Where the join token is.
    pub join_token_file: Option<PathBuf>,
    /// The agent's folder.
    pub data_dir: PathBuf,
    /// The node's name.
    pub node_name: String,
    /// Time between full rescans.
    pub discover_interval: Duration,
    /// Time between two questions for a drive's health.
    pub health_interval: Duration,
    /// Where the host's folders are.
    pub host_root: PathBuf,
    /// Address of the health port.
    pub health_addr: SocketAddr,
    /// Address of the metrics port.
    pub metrics_addr: SocketAddr,
    /// Loop devices over files below it are drives.
    pub include_loop: Option<PathBuf>,
    /// Drives come from this file.
    pub simulate: Option<PathBuf>,
    /// The storage program.
    pub weed: PathBuf,
    /// Folder with its security.toml.
    pub weed_security: Option<PathBuf>,
}

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {reason}")]
pub struct ConfigError {
    /// The flag as it is written.
    pub flag: &'static str,
    /// What is wrong with its value.
    pub reason: String,
}

/// Collects what is wrong, so that all of it can be told at once.
struct Judge(Vec<ConfigError>);

impl Judge {
    fn wrong(&mut self, flag: &'static str, reason: impl Into<String>) {
        self.0.push(ConfigError {
            flag,
            reason: reason.into(),
        });
    }

    fn take<T: Default>(&mut self, flag: &'static str, value: Result<T, String>) -> T {
        value.unwrap_or_else(|reason| {
            self.wrong(flag, reason);
            T::default()
        })
    }
}

impl Config {
    /// What `args` mean on this host.
    ///
    /// # Errors
    /// Every wrong value, each with its flag.
    pub fn from_args(args: Args) -> Result<Self, Vec<ConfigError>> {
        let mut judge = Judge(Vec::new());
        let unset = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = |judge: &mut Judge, flag, text: &str| {
            text.parse().unwrap_or_else(|_| {
                judge.wrong(flag, format!("{text:?} is no address: write IP:PORT"));
                unset
            })
        };
        let config = Self {
            controllers: judge.take(
                "--controller-addr",
                args.controller_addr
                    .split(',')
                    .map(|one| host_port(one.trim()))
                    .collect(),
            ),
            enrol_addr: judge.take("--enrol-addr", host_port(&args.enrol_addr)),
            node_name: judge.take("--node-name", node_name(args.node_name)),
            discover_interval: judge.take("--discover-interval", seconds(&args.discover_interval)),
            health_interval: judge.take("--health-interval", seconds(&args.health_interval)),
            health_addr: address(&mut judge, "--health-addr", &args.health_addr),
            metrics_addr: address(&mut judge, "--metrics-addr", &args.metrics_addr),
            ca_file: args.ca_file,
            join_token_file: args.join_token_file,
            data_dir: args.data_dir,
            host_root: args.host_root,
            include_loop: args.include_loop,
            simulate: args.simulate,
            weed: args.weed,
            weed_security: args.weed_security,
        };
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&args.log_level) {
            judge.wrong("--log-level", error.to_string());
        }
        let runs = args.command.is_none();
        if let Some(Command::Capture { output }) = &args.command {
            config.judge_capture(&mut judge, output.as_deref());
        }
        config.judge_files(&mut judge);
        if runs {
            config.judge_token(&mut judge);
            if let Some(folder) = &config.weed_security {
                judge.take(
                    "--weed-security",
                    readable(&folder.join("security.toml")).map(drop),
                );
            }
        }
        if judge.0.is_empty() {
            Ok(config)
        } else {
            Err(judge.0)
        }
    }

    fn judge_files(&self, judge: &mut Judge) {
        let folders = [
            ("--host-root", Some(&self.host_root)),
            ("--include-loop", self.include_loop.as_ref()),
        ];
        for (flag, folder) in folders {
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                judge.wrong(flag, format!("{} is no folder", folder.display()));
            }
        }
        if self.data_dir.exists() && !self.data_dir.is_dir() {
            judge.wrong("--data-dir", format!("{} is no folder", self.data_dir.display()));
        }
        if let Some(file) = &self.simulate {
            judge.take("--simulate", readable(file).map(drop));
        }
        if let Some(file) = &self.ca_file {
            let ca =
                readable(file).and_then(|pem| enrol::certificates(&pem).map_err(|e| e.to_string()).map(drop));
            judge.take("--ca-file", ca);
        }
    }

    fn judge_capture(&self, judge: &mut Judge, output: Option<&Path>) {
        if let Some(file) = output.filter(|file| file.symlink_metadata().is_ok()) {
            judge.wrong("--output", format!("{} is there already", file.display()));
        }
        if self.simulate.is_some() {
            judge.wrong("--simulate", "a capture is of this machine");
        }
    }

    fn judge_token(&self, judge: &mut Judge) {
        // An enrolled agent runs on without its token, until its certificate is refused.
        if enrol::is_enrolled(&self.data_dir) {
            return;
        }
        match &self.join_token_file {
            None => judge.wrong(
                "--join-token-file",
                format!(
                    "missing, and {} holds no identity: make a token with `smart-storage-controller join-token {}`",
                    self.data_dir.display(),
                    self.node_name
                ),
            ),
            Some(file) => {
                let token = readable(file).and_then(|text| JoinToken::parse(&text).map_err(|e| e.to_string()));
                match token {
                    Err(reason) => judge.wrong("--join-token-file", reason),
                    Ok(token) if token.node() != self.node_name => judge.wrong(
                        "--join-token-file",
                        format!("the token is for node {:?}, this is {:?}", token.node(), self.node_name),
                    ),
                    Ok(_) => {}
                }
            }
        }
    }
}

fn readable(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn host_port(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is no address: write HOST:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let good = !host.is_empty() && port > 0 && (bracketed || !host.contains(['/', ':', ' ', '@']));
    if good { Ok(text.to_owned()) } else { Err(wrong()) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("{text:?} is not between 1 and 86400 seconds")),
    }
}

fn node_name(typed: Option<String>) -> Result<String, String> {
    let name = match typed {
        Some(name) => name,
        None => fs::read_to_string("/proc/sys/kernel/hostname")
            .map_err(|error| format!("not given, and no host name: {error}"))?
            .trim()
            .to_ascii_lowercase(),
    };
    if is_node_name(&name) {
        Ok(name)
    } else {
        Err(format!(
            "{name:?} is no node name: at most 253 of a-z, 0-9, '-' and '.'"
        ))
    }
}

/// A DNS subdomain as Kubernetes takes it.
fn is_node_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(arguments: &[&str]) -> Result<Config, Vec<&'static str>> {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        fs::write(&token, format!("node-1.secret.{}", "0".repeat(64))).unwrap();
        let data = dir.path().to_str().unwrap();
        let mut all = vec!["agent", "--node-name", "node-1", "--data-dir", data];
        if !arguments.contains(&"--join-token-file") {
            all.extend(["--join-token-file", token.to_str().unwrap()]);
        }
        // A later flag wins.
        all.retain(|a| !(arguments.contains(&"--node-name") && ["--node-name", "node-1"].contains(a)));
        all.extend(arguments);
        let args = Args::try_parse_from(all).unwrap();
        Config::from_args(args).map_err(|errors| errors.iter().map(|e| e.flag).collect())
    }

    #[test]
    fn the_defaults_are_good() {
        let config = judge(&[]).unwrap();
        assert_eq!(config.controllers, ["127.0.0.1:8092"]);
        assert_eq!(config.discover_interval, Duration::from_secs(300));
        assert_eq!(config.health_interval, Duration::from_secs(3600));
        assert_eq!(config.health_addr.port(), 9081);
    }

    #[test]
    fn every_wrong_value_is_named_by_its_flag() {
        for (flag, value) in [
            ("--controller-addr", "nowhere"),
            ("--controller-addr", "a:1,http://b:2"),
            ("--enrol-addr", "x:0"),
            ("--discover-interval", "0"),
            ("--discover-interval", "often"),
            ("--health-interval", "0"),
            ("--health-addr", "localhost:80"),
            ("--metrics-addr", "9080"),
            ("--host-root", "/no/such/folder"),
            ("--include-loop", "/no/such/folder"),
            ("--simulate", "/no/such/file"),
            ("--ca-file", "/no/such/file"),
            ("--weed-security", "/no/such/folder"),
            ("--join-token-file", "/no/such/file"),
            ("--log-level", "a=b=c"),
        ] {
            assert_eq!(judge(&[flag, value]).unwrap_err(), [flag], "{flag} {value}");
        }
    }

    #[test]
    fn stopping_members_needs_no_token_and_takes_flags_behind_it() {
        let args = Args::try_parse_from(["agent", "stop-members", "--data-dir", "/no/such/folder"]).unwrap();
        assert_eq!(args.command, Some(Command::StopMembers));
        assert_eq!(args.data_dir, Path::new("/no/such/folder"));
        assert!(Config::from_args(args).is_ok());
    }

    #[test]
    fn a_capture_needs_no_token_overwrites_nothing_and_is_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let judge = |file: &str, more: &[&str]| {
            let file = dir.path().join(file);
            let line = ["agent", "capture", "--data-dir", "/no/such/folder", "--output"];
            let words = line
                .into_iter()
                .chain([file.to_str().unwrap()])
                .chain(more.iter().copied());
            let errors = Config::from_args(Args::try_parse_from(words).unwrap()).err();
            errors
                .unwrap_or_default()
                .iter()
                .map(|e| e.flag)
                .collect::<Vec<_>>()
        };
        assert!(judge("new", &[]).is_empty());
        fs::write(dir.path().join("old"), "").unwrap();
        assert_eq!(judge("old", &[]), ["--output"]);
        assert_eq!(
            judge("new", &["--include-loop", "/no/such/folder"]),
            ["--include-loop"]
        );
    }

    #[test]
    fn all_wrong_values_are_told_at_once() {
        let wrong = judge(&["--health-addr", "x", "--metrics-addr", "y"]).unwrap_err();
        assert_eq!(wrong, ["--health-addr", "--metrics-addr"]);
    }

    #[test]
    fn a_token_for_another_node_is_refused_before_it_is_shown() {
        assert_eq!(
            judge(&["--node-name", "node-2"]).unwrap_err(),
            ["--join-token-file"]
        );
        assert_eq!(judge(&["--node-name", "Node_2"]).unwrap_err()[0], "--node-name");
    }
}
