//! A controller here, and guests whose agents call it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use smart_storage_integration::{Cluster, Guest, Kernel, Machine, Setup, drives::run, eventually, guest};
use tempfile::TempDir;

use crate::reading::list;

/// Where the guest keeps what outlives its boots.
const STATE: &str = "/var/lib/smart-storage";
const PATIENCE: Duration = Duration::from_secs(120);

/// An instance whose nodes are guests.
pub struct Bed {
    pub cluster: Cluster,
    pub folder: TempDir,
    programs: PathBuf,
}

impl Bed {
    pub async fn start(suite: &str) -> Result<Self> {
        let cluster = Cluster::start(suite, Setup::BARE).await?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("smart-storage-it-guests.{}.", std::process::id()))
            .tempdir()?;
        let programs = guest::programs(folder.path())?;
        Ok(Self {
            cluster,
            folder,
            programs,
        })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A node of the cluster: a machine with a disk of its own for the agent, which knows how to enrol.
    pub fn node(&self, name: &str, kernel: Kernel) -> Result<Machine> {
        let mut machine = Machine::new(name, kernel);
        let (first, last) = self.cluster.ports();
        machine.host_ports(first, last);
        machine.own_disk("programs", &self.programs, false);
        machine.own_disk("state", &self.state_of(name)?, true);
        Ok(machine)
    }

    /// Made once for a node, and kept over its boots.
    fn state_of(&self, name: &str) -> Result<PathBuf> {
        let image = self.path().join(format!("{name}-state.img"));
        if image.exists() {
            return Ok(image);
        }
        let root = self.path().join(format!("{name}-state"));
        fs::create_dir_all(&root)?;
        let state = self.cluster.state();
        let token = run(Command::new(state.join("bin/smart-storage-controller"))
            .args(["join-token", name, "--data-dir"])
            .arg(state.join("controller")))?;
        fs::write(root.join("join-token"), token)?;
        fs::copy(state.join("controller/pki/ca.crt"), root.join("ca.crt"))?;
        let (from, to) = (state.join("weed/security/node"), root.join("security"));
        run(Command::new("cp").arg("-r").arg(&from).arg(&to))?;
        // It names its certificates by where they lie.
        let file = to.join("security.toml");
        let words = fs::read_to_string(&file)?;
        let here = from.to_str().context("a path that is no text")?;
        fs::write(&file, words.replace(here, &format!("{STATE}/security")))?;
        guest::filesystem(&image, 128, &root)?;
        fs::remove_dir_all(&root)?;
        Ok(image)
    }

    /// Starts the agent in a guest. `environment` comes before the program's name, `more` behind its flags.
    pub fn start_agent(&self, guest: &mut Guest, environment: &str, more: &str) -> Result<()> {
        let port = |name: &str| -> Result<&str> { self.cluster.variable(name) };
        let agent = port("SMART_STORAGE_AGENT_ADDR")?;
        let enrol = format!("127.0.0.1:{}", self.cluster.ports().0 + 3);
        let name = guest.name().to_owned();
        guest.sh(&format!(
            "cd /; chmod 700 {STATE}; mkdir -p {STATE}/agent; env {environment} setsid /opt/smart-storage-agent \
             --node-name {name} --data-dir {STATE}/agent --controller-addr {agent} --enrol-addr {enrol} \
             --ca-file {STATE}/ca.crt --join-token-file {STATE}/join-token --health-addr 127.0.0.1:9081 \
             --metrics-addr 127.0.0.1:9080 --weed /opt/weed --weed-security {STATE}/security {more} \
             >>{STATE}/agent.log 2>&1 </dev/null & echo $! >/run/agent.pid"
        ))?;
        Ok(())
    }

    /// Ends the agent of a guest.
    pub fn stop_agent(guest: &mut Guest) -> Result<()> {
        let script =
            "kill $(cat /run/agent.pid); while pidof smart-storage-agent; do sleep 0.1; done >/dev/null";
        guest.sh(script).map(drop)
    }

    /// A counter of what the agent of a guest watched.
    pub fn counted(guest: &mut Guest, what: &str) -> Result<u64> {
        counted_at(guest, 9080, what)
    }

    /// What the agent of a guest wrote last.
    pub fn agent_log(guest: &mut Guest) -> String {
        guest
            .sh(&format!(
                "tail -n 30 {STATE}/agent.log; find {STATE}/agent -name \"*.log\" | xargs tail -n 15"
            ))
            .unwrap_or_default()
    }

    /// Creates an object of our group.
    pub async fn create(&self, kind: &str, object: &Value) -> Result<Value> {
        let path = format!("/apis/storage.billyronks.io/v1/{kind}");
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(object)?)?;
        Ok(self.cluster.kube().await?.request::<Value>(request).await?)
    }

    /// The drives of a node, as REST shows them.
    pub async fn drives(&self, node: &str) -> Result<Vec<Value>> {
        let node = self.cluster.rest()?.get(&format!("/v1/nodes/{node}")).await?;
        Ok(list(&node, "/drives").to_vec())
    }

    /// Waits until a node shows at least so many drives, and answers all of them.
    pub async fn see(&self, guest: &mut Guest, count: usize) -> Result<Vec<Value>> {
        let name = guest.name().to_owned();
        let seen = eventually(PATIENCE, &format!("{name} shows {count} drives"), || async {
            let drives = self.drives(&name).await?;
            ensure!(drives.len() >= count, "{} drives", drives.len());
            Ok(Some(drives))
        })
        .await;
        seen.with_context(|| Self::agent_log(guest))
    }

    /// Waits until every drive of a node was asked for its health, and answers all of them.
    pub async fn asked(&self, guest: &mut Guest) -> Result<Vec<Value>> {
        let name = guest.name().to_owned();
        let asked = eventually(PATIENCE, &format!("{name}'s drives were asked"), || async {
            let drives = self.drives(&name).await?;
            for drive in &drives {
                let nvme = drive.get("drive_type").and_then(Value::as_str) == Some("nvme");
                let said = drive.get("namespaces").is_some_and(Value::is_u64);
                ensure!(said || !nvme, "{drive}");
            }
            Ok(Some(drives))
        })
        .await;
        asked.with_context(|| Self::agent_log(guest))
    }
}

/// Where a second agent of a guest answers: one that knows no controller, and so rescans as often as it was told to.
const OTHER: u16 = 9180;

/// Lets a second agent start and rescan every second, `rounds` times, with something done in each round; answers what it
/// wrote.
pub fn rescanned(
    guest: &mut Guest,
    rounds: u64,
    mut each: impl FnMut(&mut Guest) -> Result<()>,
) -> Result<String> {
    let name = guest.name().to_owned();
    guest.sh(&format!(
        "rm -rf /tmp/other; setsid /opt/smart-storage-agent --node-name {name} --data-dir /tmp/other --controller-addr \
         127.0.0.1:9 --enrol-addr 127.0.0.1:9 --ca-file {STATE}/ca.crt --join-token-file {STATE}/join-token \
         --health-addr 127.0.0.1:9181 --metrics-addr 127.0.0.1:{OTHER} --discover-interval 1 --weed /opt/weed \
         >/tmp/other.log 2>&1 </dev/null & echo $! >/run/other.pid"
    ))?;
    guest.wait_for(&format!(
        "wget -q -O - http://127.0.0.1:{OTHER}/metrics >/dev/null || ! [ -e /proc/$(cat /run/other.pid) ]"
    ))?;
    let lives = guest.try_sh("[ -e /proc/$(cat /run/other.pid) ]")?.0 == 0;
    ensure!(lives, "{}", guest.sh("cat /tmp/other.log")?);
    for round in 1..=rounds {
        each(guest)?;
        guest.wait_for(&format!(
            "[ $(wget -q -O - http://127.0.0.1:{OTHER}/metrics | sed -n '/watched_total.*\"rescan\"/s/.* //p') -gt {round} ]"
        ))?;
    }
    let probes = counted_at(guest, OTHER, "probe")?;
    ensure!(probes > rounds, "{probes} probes");
    guest.sh(
        "kill $(cat /run/other.pid); while [ -e /proc/$(cat /run/other.pid) ]; do sleep 0.1; done; cat /tmp/other.log",
    )
}

/// A counter of what the agent watched whose metrics are at this port of the guest.
fn counted_at(guest: &mut Guest, port: u16, what: &str) -> Result<u64> {
    let text = guest.sh(&format!("wget -q -O - http://127.0.0.1:{port}/metrics"))?;
    let line = text.lines().find(|line| {
        line.starts_with("smart_storage_agent_watched_total") && line.contains(&format!("\"{what}\""))
    });
    let line = line.with_context(|| format!("no {what} in {text}"))?;
    Ok(line.rsplit_once(' ').context("no number")?.1.parse()?)
}
