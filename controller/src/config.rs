//! The configuration in two stages: as typed (flags and environment, [`Flags`]) and as meant ([`Config`]).
//!
//! Everything is read and judged before a port is bound or a file is written. A wrong value is one line that names
//! the flag, and exit status 64.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::backend::seaweedfs::Security;

/// Exit status for a wrong flag (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Knows every drive in the fleet, and hands the right ones safely to the right storage system.
#[derive(Debug, Parser)]
#[command(
    name = "smart-storage-controller",
    version,
    about,
    args_conflicts_with_subcommands = true
)]
pub struct CommandLine {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of a run.
    #[command(flatten)]
    pub flags: Flags,
}

/// What the binary can do beside running.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a join token for one node and print it. The token works for that node's name only, as often as needed.
    JoinToken {
        /// The node's name.
        node: String,
        /// Data folder of the controller.
        #[arg(long, env = "DATA_DIR", default_value = "/var/lib/smart-storage")]
        data_dir: PathBuf,
    },
    /// Make (or complete) the certificates, keys and security.toml files of a SeaweedFS in a folder: core for master,
    /// filer, S3 and shell; node for volume servers; mount for hosts that mount; controller for --seaweedfs-security.
    SeaweedfsSecurity {
        /// The folder.
        dir: PathBuf,
        /// A further DNS name or address of master and filer. This machine's own are in the certificate anyway.
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
}

/// The flags as typed. Each is also an environment variable: `--api-addr` is `API_ADDR`.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// REST, TLS; plain HTTP for peers on loopback.
    #[arg(long, env = "API_ADDR", default_value = "0.0.0.0:8090")]
    pub api_addr: String,
    /// Public gRPC for automation, TLS; plain for peers on loopback.
    #[arg(long, env = "GRPC_ADDR", default_value = "0.0.0.0:8091")]
    pub grpc_addr: String,
    /// The agents' stream, mTLS.
    #[arg(long, env = "AGENT_ADDR", default_value = "0.0.0.0:8092")]
    pub agent_addr: String,
    /// Enrolment of agents, TLS.
    #[arg(long, env = "ENROL_ADDR", default_value = "0.0.0.0:8093")]
    pub enrol_addr: String,
    /// Standalone only: the embedded Kubernetes API for kubectl, TLS and token.
    #[arg(long, env = "KUBE_API_ADDR", default_value = "127.0.0.1:8094")]
    pub kube_api_addr: String,
    /// /healthz and /readyz.
    #[arg(long, env = "HEALTH_ADDR", default_value = "0.0.0.0:8081")]
    pub health_addr: String,
    /// /metrics.
    #[arg(long, env = "METRICS_ADDR", default_value = "0.0.0.0:8080")]
    pub metrics_addr: String,
    /// Namespace of Mayastor's DiskPools.
    #[arg(long, env = "MAYASTOR_NAMESPACE", default_value = "mayastor")]
    pub mayastor_namespace: String,
    /// Default master of SeaweedFS pools: host:port.grpcPort.
    #[arg(long, env = "SEAWEEDFS_MASTER", default_value = "127.0.0.1:9333.19333")]
    pub seaweedfs_master: String,
    /// Default filer of SeaweedFS pools: host:port.grpcPort.
    #[arg(long, env = "SEAWEEDFS_FILER", default_value = "127.0.0.1:8888.18888")]
    pub seaweedfs_filer: String,
    /// Default S3 endpoint of SeaweedFS pools: a URL.
    #[arg(long, env = "SEAWEEDFS_S3", default_value = "http://127.0.0.1:8333")]
    pub seaweedfs_s3: String,
    /// security.toml with the certificates and keys for SeaweedFS. Without it gRPC there is plain and the filer open.
    #[arg(long, env = "SEAWEEDFS_SECURITY", value_name = "FILE")]
    pub seaweedfs_security: Option<PathBuf>,
    /// Make a StorageNode for every agent that enrols.
    #[arg(long, env = "AUTO_DISCOVER", num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub auto_discover: String,
    /// Seconds between full rescans that agents are told to make.
    #[arg(long, env = "DISCOVER_INTERVAL", default_value = "300")]
    pub discover_interval: String,
    /// Log filter: info, debug, or a tracing directive.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Log as JSON lines.
    #[arg(long, env = "LOG_JSON", num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub log_json: String,
    /// No Kubernetes: embedded API and store in --data-dir.
    #[arg(long, env = "STANDALONE", num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub standalone: String,
    /// Embedded store and PKI.
    #[arg(long, env = "DATA_DIR", default_value = "/var/lib/smart-storage")]
    pub data_dir: PathBuf,
}

/// The configuration as meant.
#[derive(Clone, Debug)]
pub struct Config {
    /// REST.
    pub api_addr: SocketAddr,
    /// Public gRPC.
    pub grpc_addr: SocketAddr,
    /// The agents' stream.
    pub agent_addr: SocketAddr,
    /// Enrolment.
    pub enrol_addr: SocketAddr,
    /// The embedded Kubernetes API.
    pub kube_api_addr: SocketAddr,
    /// Health.
    pub health_addr: SocketAddr,
    /// Metrics.
    pub metrics_addr: SocketAddr,
    /// Default endpoints of SeaweedFS pools.
    pub seaweedfs: SeaweedDefaults,
    /// Make a StorageNode for every agent that enrols.
    pub auto_discover: bool,
    /// Between full rescans that agents are told to make.
    pub discover_interval: Duration,
    /// Log filter.
    pub log_level: String,
    /// Log as JSON lines.
    pub log_json: bool,
    /// Embedded store and PKI.
    pub data_dir: PathBuf,
}

/// Where SeaweedFS is, for pools that do not say it themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeaweedDefaults {
    /// host:port.grpcPort
    pub master: String,
    /// host:port.grpcPort
    pub filer: String,
    /// URL
    pub s3: String,
    /// security.toml; none: everything is open.
    pub security: Option<PathBuf>,
}

/// Why a configuration cannot be meant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {what}")]
pub struct ConfigError {
    flag: &'static str,
    what: String,
}

fn wrong(flag: &'static str, what: impl Into<String>) -> ConfigError {
    ConfigError {
        flag,
        what: what.into(),
    }
}

impl TryFrom<Flags> for Config {
    type Error = ConfigError;

    fn try_from(flags: Flags) -> Result<Self, ConfigError> {
        if !switch("--standalone", &flags.standalone)? {
            return Err(wrong(
                "--standalone",
                "this version runs without Kubernetes only: add --standalone (running in a cluster does not work yet)",
            ));
        }
        if flags.data_dir.as_os_str().is_empty() {
            return Err(wrong(
                "--data-dir",
                "is empty: name a folder for the store and the PKI",
            ));
        }
        let config = Self {
            api_addr: address("--api-addr", &flags.api_addr)?,
            grpc_addr: address("--grpc-addr", &flags.grpc_addr)?,
            agent_addr: address("--agent-addr", &flags.agent_addr)?,
            enrol_addr: address("--enrol-addr", &flags.enrol_addr)?,
            kube_api_addr: address("--kube-api-addr", &flags.kube_api_addr)?,
            health_addr: address("--health-addr", &flags.health_addr)?,
            metrics_addr: address("--metrics-addr", &flags.metrics_addr)?,
            seaweedfs: SeaweedDefaults {
                master: weed_address("--seaweedfs-master", &flags.seaweedfs_master)?,
                filer: weed_address("--seaweedfs-filer", &flags.seaweedfs_filer)?,
                s3: url("--seaweedfs-s3", &flags.seaweedfs_s3)?,
                security: security("--seaweedfs-security", flags.seaweedfs_security)?,
            },
            auto_discover: switch("--auto-discover", &flags.auto_discover)?,
            discover_interval: interval("--discover-interval", &flags.discover_interval)?,
            log_level: flags.log_level,
            log_json: switch("--log-json", &flags.log_json)?,
            data_dir: flags.data_dir,
        };
        config.ports_differ()?;
        Ok(config)
    }
}

impl Config {
    /// Every port with the flag that sets it.
    #[must_use]
    pub const fn ports(&self) -> [(&'static str, SocketAddr); 7] {
        [
            ("--api-addr", self.api_addr),
            ("--grpc-addr", self.grpc_addr),
            ("--agent-addr", self.agent_addr),
            ("--enrol-addr", self.enrol_addr),
            ("--kube-api-addr", self.kube_api_addr),
            ("--health-addr", self.health_addr),
            ("--metrics-addr", self.metrics_addr),
        ]
    }

    fn ports_differ(&self) -> Result<(), ConfigError> {
        let ports = self.ports();
        for (index, (flag, address)) in ports.iter().enumerate() {
            let twin = ports
                .iter()
                .skip(index + 1)
                .find(|(_, other)| other.port() == address.port() && address.port() != 0);
            if let Some((other, _)) = twin {
                return Err(wrong(
                    flag,
                    format!("port {} is {other}'s too: give each its own", address.port()),
                ));
            }
        }
        Ok(())
    }
}

fn address(flag: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    // ":8090" and "8090" mean every interface, "localhost:8090" loopback.
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port
        .parse::<u16>()
        .map_err(|_| wrong(flag, format!("{text:?} is no address: host:port is expected")))?;
    let ip = match host {
        "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ => return Err(wrong(flag, format!("{host:?} is no IP address to listen on"))),
    };
    Ok(SocketAddr::new(ip, port))
}

fn weed_address(flag: &'static str, text: &str) -> Result<String, ConfigError> {
    let fits = text.rsplit_once(':').is_some_and(|(host, ports)| {
        let mut parts = ports.split('.');
        let both = [parts.next(), parts.next()]
            .iter()
            .all(|p| p.is_some_and(|p| p.parse::<u16>().is_ok()));
        !host.is_empty() && both && parts.next().is_none()
    });
    if fits {
        Ok(text.to_owned())
    } else {
        Err(wrong(
            flag,
            format!(
                "{text:?} is no SeaweedFS address: host:port.grpcPort is expected, as 127.0.0.1:9333.19333"
            ),
        ))
    }
}

fn url(flag: &'static str, text: &str) -> Result<String, ConfigError> {
    match text.parse::<http::Uri>() {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err(wrong(flag, format!("{text:?} is no http or https URL"))),
    }
}

/// It is read again when it is used: here only so that a wrong one is said at the start.
fn security(flag: &'static str, file: Option<PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
    let file = file.filter(|file| !file.as_os_str().is_empty());
    if let Some(file) = &file {
        Security::load(file).map_err(|error| wrong(flag, error.to_string()))?;
    }
    Ok(file)
}

fn switch(flag: &'static str, text: &str) -> Result<bool, ConfigError> {
    match text {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" | "" => Ok(false),
        _ => Err(wrong(flag, format!("{text:?} is neither true nor false"))),
    }
}

fn interval(flag: &'static str, text: &str) -> Result<Duration, ConfigError> {
    match text.parse::<u64>() {
        Ok(seconds @ 10..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong(
            flag,
            format!("{text:?} is no number of seconds from 10 to 86400"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let all = ["smart-storage-controller"].iter().chain(arguments);
        let line = CommandLine::try_parse_from(all).map_err(|e| e.to_string())?;
        Config::try_from(line.flags).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_the_contracts() {
        let config = config(&["--standalone"]).unwrap();
        assert_eq!(config.api_addr.to_string(), "0.0.0.0:8090");
        assert_eq!(config.kube_api_addr.to_string(), "127.0.0.1:8094");
        assert!(!config.auto_discover);
        assert_eq!(config.discover_interval, Duration::from_secs(300));
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        for (flag, value) in [
            ("--api-addr", "nowhere:x"),
            ("--grpc-addr", "1.2.3.4.5:1"),
            ("--discover-interval", "soon"),
            ("--seaweedfs-master", "127.0.0.1:9333"),
            ("--seaweedfs-s3", "ftp://x"),
            ("--seaweedfs-security", "/no/such/security.toml"),
            ("--auto-discover", "perhaps"),
        ] {
            let error = config(&["--standalone", &format!("{flag}={value}")]).unwrap_err();
            assert!(
                error.starts_with(flag) && !error.contains('\n'),
                "{flag}: {error}"
            );
        }
    }

    #[test]
    fn two_listeners_cannot_share_a_port() {
        let error = config(&["--standalone", "--grpc-addr=127.0.0.1:8090"]).unwrap_err();
        assert!(
            error.contains("--api-addr") && error.contains("--grpc-addr"),
            "{error}"
        );
    }

    #[test]
    fn without_kubernetes_support_the_cluster_mode_says_so() {
        assert!(config(&[]).unwrap_err().contains("--standalone"));
    }
}
