//! The two commands and what they leave behind: the first quarter of an hour of every user.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use smart_storage_integration::{
    Cluster, Need, Setup,
    cluster::NODE,
    drives::{LoopDrive, run},
    eventually,
    needs::INSTANCE,
    skipped,
};

use crate::reading::{complaints, list, text};

/// The kernel's name of the whole drive that holds `/`, where there is one.
fn root_drive() -> Result<Option<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"))
        .context("no root mount")?;
    let number = line.split(' ').nth(2).context("no device number")?;
    let Ok(path) = fs::canonicalize(Path::new("/sys/dev/block").join(number)) else {
        return Ok(None);
    };
    let whole = if path.join("partition").exists() {
        path.parent().map(Path::to_path_buf)
    } else {
        Some(path)
    };
    Ok(whole.and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned())))
}

/// Every drive of the machine itself is listed with what holds it and refused; the demo drives are taken.
async fn drives_are_told_apart(cluster: &Cluster) -> Result<()> {
    let demo: Vec<_> = ["demo-1", "demo-2", "demo-3"]
        .iter()
        .filter_map(|name| LoopDrive::find(&cluster.state().join(format!("drives/{name}.img"))).transpose())
        .collect::<Result<_>>()?;
    ensure!(
        demo.len() == 3,
        "three demo drives are attached, not {}",
        demo.len()
    );
    for drive in cluster.drives().await? {
        let device = text(&drive, "/device")?;
        let used = text(&drive, "/use/state")?;
        if demo.iter().any(|demo| demo.device == device) {
            ensure!(used == "Claimed", "{device} is {used}");
            ensure!(text(&drive, "/use/pool")? == "demo-file", "{drive}");
        } else {
            ensure!(used != "Claimed", "a drive of the machine was taken: {drive}");
        }
    }
    if let Some(device) = root_drive()? {
        let drive = cluster
            .drive(&device)
            .await?
            .with_context(|| format!("{device} is not listed"))?;
        ensure!(text(&drive, "/use/state")? == "InUse", "{drive}");
        ensure!(
            text(&drive, "/use/holder")?.contains('/'),
            "the holder names the mount: {drive}"
        );
        ensure!(drive.get("claimable") == Some(&Value::Bool(false)), "{drive}");
        ensure!(!list(&drive, "/refusals").is_empty(), "{drive}");
    }
    Ok(())
}

/// kubectl finds its way: columns, apply, wait, explain, delete.
async fn kubectl_works(cluster: &Cluster) -> Result<()> {
    for (kind, columns) in [
        ("usc", "TYPE TIER BACKEND PHASE AGE"),
        ("sn", "NODE DRIVES NVME CAPACITY PHASE AGE"),
        ("up", "TYPE BACKEND DRIVES CAPACITY PHASE AGE"),
        ("pm", "POOL NODE DRIVE PHASE AGE"),
        ("uclaim", "TYPE CLASS CAPACITY VOLUME PHASE AGE"),
        ("uv", "TYPE BACKEND POOL CAPACITY CLAIM PHASE AGE"),
    ] {
        let table = cluster.kubectl(["get", kind])?;
        let head = table.lines().next().unwrap_or_default();
        let found: Vec<_> = head.split_whitespace().skip(1).collect();
        ensure!(found.join(" ") == columns, "{kind} shows {head:?}");
        ensure!(table.lines().count() > 1, "{kind} shows nothing: {table}");
    }
    cluster.kubectl(["get", "usc,sn,up,pm,uclaim,uv"])?;
    let manifest = cluster.state().join("second.yaml");
    fs::write(
        &manifest,
        "apiVersion: storage.billyronks.io/v1\nkind: UnifiedStorageClaim\nmetadata: {name: second, namespace: default}\n\
         spec: {storageType: file, className: demo-file, capacity: 64Mi}\n",
    )?;
    let file = manifest.to_string_lossy();
    cluster.kubectl(["apply", "-f", &file])?;
    cluster.kubectl(["wait", "--for=condition=Ready", "--timeout=30s", "uclaim/second"])?;
    let again = cluster.kubectl(["apply", "-f", &file])?;
    ensure!(again.contains("unchanged"), "{again}");
    let description = cluster.kubectl(["describe", "uclaim/second"])?;
    ensure!(description.contains("Ready"), "{description}");
    let explained = cluster.kubectl(["explain", "unifiedpool.spec.driveSelector"])?;
    for field in ["driveTypes", "minTier", "matchLabels", "DESCRIPTION"] {
        ensure!(explained.contains(field), "no {field} in {explained}");
    }
    cluster.kubectl(["delete", "--timeout=30s", "uclaim/second"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_machine_becomes_storage_and_is_bare_again() -> Result<()> {
    if skipped("journey", &INSTANCE)? {
        return Ok(());
    }
    let mut cluster = Cluster::start("journey", Setup::DEMO).await?;
    let state = cluster.state().to_owned();

    drives_are_told_apart(&cluster).await?;
    let claim = cluster
        .object("namespaces/default/unifiedstorageclaims/demo")
        .await?;
    ensure!(
        text(&claim, "/status/phase")? == "Ready",
        "{}",
        complaints(&claim)
    );
    for name in ["GRPC", "CA", "AGENT_ADDR", "METRICS_URL", "HEALTH_URL"] {
        cluster.variable(&format!("SMART_STORAGE_{name}"))?;
    }
    if !skipped("journey: kubectl", &[Need::Kubectl])? {
        kubectl_works(&cluster).await?;
    }

    let before = cluster.pid("controller")?;
    let again = cluster.up().await?;
    ensure!(
        again.matches("already up").count() == 6,
        "the second up starts nothing: {again}"
    );
    ensure!(
        again.contains(NODE),
        "the second up shows the drives too: {again}"
    );
    ensure!(
        cluster.pid("controller")? == before,
        "the second up leaves the controller alone"
    );

    cluster.down().await?;
    for name in ["demo-1", "demo-2", "demo-3"] {
        let left = LoopDrive::find(&state.join(format!("drives/{name}.img")))?;
        ensure!(left.is_none(), "{left:?} is still attached");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(
        !mounts.contains(&*state.to_string_lossy()),
        "a mount is left: {mounts}"
    );
    ensure!(cluster.member_pids()?.is_empty(), "a member still runs");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_before_anything_starts() -> Result<()> {
    if skipped("journey: ports", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("ports", Setup::BARE).await?;
    let other = cluster.state().with_extension("other");
    let api = cluster
        .variable("SMART_STORAGE_URL")?
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .to_owned();
    let mut second = cluster.up_command();
    let output = second.arg("--state").arg(&other).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "two instances on the same ports");
    ensure!(
        said.contains(&format!("port {api} of controller is taken by smart-storage")),
        "{said}"
    );
    ensure!(said.contains("--api-port"), "{said}");
    ensure!(
        !other.join("run/weed-master.pid").exists(),
        "something was started"
    );
    fs::remove_dir_all(&other)?;

    let output = cluster.up_command().args(["--api-port", "none"]).output()?;
    ensure!(
        output.status.code() == Some(64),
        "a wrong value is a usage error: {output:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_flags_end_with_64_before_anything_is_written() -> Result<()> {
    if skipped("journey: flags", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("flags", Setup::BARE).await?;
    let folder = cluster.state().join("never");
    let data = folder.to_string_lossy();
    for (program, flag, arguments) in [
        (
            "controller",
            "--api-addr",
            vec!["--standalone", "--data-dir", &data, "--api-addr", "nowhere"],
        ),
        (
            "agent",
            "--controller-addr",
            vec!["--data-dir", &data, "--controller-addr", "", "--node-name", "x"],
        ),
    ] {
        let program = cluster.state().join(format!("bin/smart-storage-{program}"));
        let output = Command::new(program).args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(64), "{said} {output:?}");
        ensure!(said.contains(flag), "{said} names {flag}");
        ensure!(!folder.exists(), "something was written");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_has_no_child_processes() -> Result<()> {
    if skipped("journey: idle", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("idle", Setup::BARE).await?;
    let agent = cluster.pid("agent")?.to_string();
    eventually(Duration::from_secs(20), "the agent has no child", || async {
        let children = Command::new("ps")
            .args(["-o", "comm=", "--ppid", &agent])
            .output()?;
        Ok(children.stdout.is_empty().then_some(()))
    })
    .await?;
    let nothing = run(Command::new("sh").args(["-c", &format!("ps -o comm= --ppid {agent} || true")]))?;
    ensure!(nothing.is_empty(), "{nothing}");
    Ok(())
}
