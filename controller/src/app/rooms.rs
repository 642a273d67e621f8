//! How many connections each port may have, so that all of them together never take the process's last descriptor.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::listen;

/// How many connections each port may have.
pub(super) struct Rooms {
    /// Of a thousand.
    share: u64,
}

/// What one port may have where there is enough for all: people's ports have room for clients that keep their
/// connections, the agents' for a fleet; who asks for health or metrics comes and goes.
const fn wished(flag: &str) -> u64 {
    match flag.as_bytes() {
        b"--agent-addr" => 4096,
        b"--api-addr" | b"--grpc-addr" => 2048,
        b"--kube-api-addr" => 1024,
        b"--enrol-addr" => 512,
        _ => 128,
    }
}

const FLAGS: [&str; 7] = [
    "--api-addr",
    "--grpc-addr",
    "--agent-addr",
    "--enrol-addr",
    "--kube-api-addr",
    "--health-addr",
    "--metrics-addr",
];
/// Descriptors for the store, the backends and what lingers.
const SPARE: u64 = 512;

impl Rooms {
    /// All ports together never take the last descriptor of the process.
    pub(super) fn within(descriptors: u64) -> Self {
        let all: u64 = FLAGS.iter().map(|flag| wished(flag)).sum();
        let share = descriptors.saturating_sub(SPARE) * 1000 / all;
        if share < 1000 {
            tracing::warn!(
                descriptors,
                wanted = all + SPARE,
                "few open files: ports take fewer connections"
            );
        }
        Self {
            share: share.min(1000),
        }
    }

    pub(super) fn of(&self, flag: &str) -> listen::Limits {
        let connections = usize::try_from(wished(flag) * self.share / 1000).unwrap_or(usize::MAX);
        listen::Limits {
            connections: connections.max(8),
            ..listen::Limits::default()
        }
    }
}

/// Open files that this process may have; it asks for all that it can get.
pub(super) fn descriptors() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    // Refused only where the present limit is the most already.
    let _ = setrlimit(Resource::Nofile, most);
    getrlimit(Resource::Nofile)
        .current
        .unwrap_or(u64::MAX)
        .min(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_shared_in_proportion_and_some_are_spared() {
        let plenty = Rooms::within(1 << 20);
        assert_eq!(plenty.of("--api-addr").connections, 2048);
        assert_eq!(plenty.of("--metrics-addr").connections, 128);
        for descriptors in [1024, 4096, 9000] {
            let rooms = Rooms::within(descriptors);
            let all: usize = FLAGS.iter().map(|flag| rooms.of(flag).connections).sum();
            assert!(all as u64 <= descriptors - SPARE, "{all} of {descriptors}");
            assert!(rooms.of("--agent-addr").connections > rooms.of("--api-addr").connections);
        }
    }
}
