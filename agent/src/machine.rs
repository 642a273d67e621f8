//! What a Hello says of the machine. Read once at the start; what cannot be read is left empty.

use std::{
    fs,
    path::{Path, PathBuf},
};

use smart_storage_proto::{PROTOCOL_VERSION, agent::v1 as pb};

use crate::config::Config;

/// The agent's Hello.
#[must_use]
pub fn hello(config: &Config) -> pb::Hello {
    let host = |path: &str| line(&config.host_root.join(path));
    pb::Hello {
        protocol_version: PROTOCOL_VERSION,
        node_name: config.node_name.clone(),
        // The kernel is one for all containers: its own files need no host root.
        boot_id: line(Path::new("/proc/sys/kernel/random/boot_id")),
        capabilities: capabilities(config),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        system: Some(pb::SystemInfo {
            hostname: line(Path::new("/proc/sys/kernel/hostname")),
            kernel_release: line(Path::new("/proc/sys/kernel/osrelease")),
            architecture: std::env::consts::ARCH.to_owned(),
            os_name: os_name(&text(&config.host_root.join("etc/os-release"))),
            cpus: std::thread::available_parallelism()
                .ok()
                .and_then(|n| u32::try_from(n.get()).ok())
                .unwrap_or(0),
            memory_bytes: memory(&text(Path::new("/proc/meminfo"))),
            machine_id: [host("sys/class/dmi/id/product_uuid"), host("etc/machine-id")]
                .into_iter()
                .find(|id| !id.is_empty())
                .map(|id| id.to_ascii_lowercase()),
        }),
    }
}

fn capabilities(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let programs = [
        ("weed", config.weed.as_path()),
        ("mkfs.xfs", Path::new("mkfs.xfs")),
        ("mkfs.ext4", Path::new("mkfs.ext4")),
    ];
    for (capability, program) in programs {
        if is_there(program) {
            found.push(capability.to_owned());
        }
    }
    if config.simulate.is_some() {
        found.push("simulated".to_owned());
    }
    found
}

/// A path is looked at, a bare name is looked for in `PATH` and where mkfs lies for root.
fn is_there(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    folders.iter().any(|folder| folder.join(program).is_file())
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn line(path: &Path) -> String {
    text(path).trim().to_owned()
}

fn os_name(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or_default().trim_matches('"').to_owned()
}

fn memory(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_and_the_distributions_words_are_read() {
        assert_eq!(memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), 16 << 20);
        assert_eq!(memory("nonsense"), 0);
        assert_eq!(
            os_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            "Debian GNU/Linux 12"
        );
    }
}
