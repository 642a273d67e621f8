//! The agent in namespaces of its own, as a pod of a DaemonSet has them: its own network, its own mounts, and the host
//! below `/host`. Announcements of the kernel reach it all the same.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use smart_storage_integration::{Disk, Guest, Kernel, MIB, needs::GUEST, skipped};

use super::bed::Bed;

const PATIENCE: Duration = Duration::from_secs(60);

/// A root of its own with the host at `/host`, and the programs that a pod's image would have.
const POD: &str = "
    mkdir -p /pod && mount -t tmpfs pod /pod && cd /pod && mkdir -p host usr opt proc dev tmp state run/udev
    for name in bin sbin lib lib64; do ln -s usr/$name $name; done
    cat >/pod-init <<'INIT'
#!/bin/sh
ifconfig lo 127.0.0.1 up
mount --rbind / /pod/host
mount --rbind /dev /pod/dev
for name in usr opt run/udev; do mount --bind /$name /pod/$name; done
mount -t proc proc /pod/proc
exec chroot /pod /opt/smart-storage-agent --node-name pod --host-root /host --data-dir /state \\
    --controller-addr 127.0.0.1:1 --enrol-addr 127.0.0.1:1 --ca-file /host/var/lib/smart-storage/ca.crt \\
    --join-token-file /host/var/lib/smart-storage/join-token --health-addr 127.0.0.1:9081 \\
    --metrics-addr 127.0.0.1:9080
INIT
    chmod +x /pod-init
    setsid unshare --mount --net /pod-init >/run/pod.log 2>&1 </dev/null & echo $! >/run/pod.pid";

/// Asks the agent for its numbers, in its own network.
const NUMBERS: &str = "nsenter -t $(pidof smart-storage-agent) -n wget -q -O - http://127.0.0.1:9080/metrics | grep ^smart_storage_agent_";

fn has(guest: &mut Guest, drives: u32) -> Result<()> {
    guest
        .wait_for(&format!(
            "{NUMBERS} | grep -qx 'smart_storage_agent_drives {drives}'"
        ))
        .with_context(|| guest.sh("cat /run/pod.log").unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_a_pod_s_namespaces_hears_everything() -> Result<()> {
    if skipped("hardware: pod", &GUEST)? {
        return Ok(());
    }
    let bed = Bed::start("pod").await?;
    let mut machine = bed.node("pod", Kernel::Linux6_1)?;
    machine.slot("hp0");
    let mut guest = Guest::boot(&machine, bed.path())?;
    guest.sh(POD)?;
    has(&mut guest, 3)?;
    let networks = guest.sh(
        "for pid in $(pidof smart-storage-agent) self; do readlink /proc/$pid/ns/net; done | uniq | wc -l",
    )?;
    ensure!(networks.trim() == "2", "it shares the host's network");
    let disk = Disk::blank(bed.path(), "fast", 64 * MIB)?;
    guest.insert(&disk)?;
    guest.plug(&json!({"driver": "nvme", "id": "fast", "bus": "hp0", "serial": "FAST", "drive": "fast"}))?;
    has(&mut guest, 4)?;
    guest.pull("fast", PATIENCE)?;
    has(&mut guest, 3)?;
    // So do mounts of the host's namespace, which is not its own.
    let probes = "smart_storage_agent_watched_total{what=\"probe\"}";
    let before = guest.sh(&format!("{NUMBERS} | grep -F '{probes}' | cut -d ' ' -f 2"))?;
    guest.sh("mkdir -p /mnt/seen && mount --bind /var/lib/smart-storage /mnt/seen")?;
    guest.wait_for(&format!(
        "[ $({NUMBERS} | grep -F '{probes}' | cut -d ' ' -f 2) -gt {} ]",
        before.trim()
    ))?;
    // What came and went was announced, not found by looking for it.
    let counted = guest.sh(NUMBERS)?;
    let is = |what: &str, count: &str| {
        let name = format!("smart_storage_agent_watched_total{{what=\"{what}\"}} {count}");
        counted.lines().any(|line| line == name)
    };
    ensure!(is("rescan", "1") && !is("event", "0"), "{counted}");
    Ok(())
}
