//! The first moments: a controller that dies while it makes its authority, its token and its store, a node that dies
//! (or whose controller dies) while it enrols. The next start makes the rest; what was told once stays true.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use smart_storage_integration::{
    Component, Rest, cluster::free_ports, component::FAULT, drives::run, quietly,
};

use crate::reading::text;

const PATIENCE: Duration = Duration::from_secs(60);
/// The files of the authority, and no others.
const PKI: [&str; 5] = [".lock", "ca.crt", "ca.key", "server.crt", "server.key"];
/// What is told to others at the first start, and has to be the same ever after.
const TOLD: [&str; 3] = ["pki/ca.crt", "admin.token", "cluster-id"];

fn binary(name: &str) -> Result<String> {
    let folder = env::var("SMART_STORAGE_BIN").context("SMART_STORAGE_BIN: where the two programs are")?;
    Ok(format!("{folder}/{name}"))
}

/// A controller alone, with a data folder of its own.
struct Alone {
    folder: tempfile::TempDir,
    controller: Component,
    base: u16,
}

impl Alone {
    fn new() -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir()?;
        let base = free_ports()?;
        let mut line = vec![
            binary("smart-storage-controller")?,
            "--standalone".into(),
            "--auto-discover".into(),
            "--data-dir".into(),
            folder.path().join("data").display().to_string(),
        ];
        let ports = ["api", "grpc", "agent", "enrol", "kube-api", "health", "metrics"];
        for (offset, name) in (0..).zip(ports) {
            line.extend([format!("--{name}-addr"), format!("127.0.0.1:{}", base + offset)]);
        }
        let controller = Component::new("controller", line, folder.path().join("controller.log"))?;
        Ok(Self {
            folder,
            controller,
            base,
        })
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn rest(&self) -> Result<Rest> {
        let token = fs::read_to_string(self.data().join("admin.token"))?;
        Ok(Rest::new(
            reqwest::Client::new(),
            &format!("http://127.0.0.1:{}", self.base),
            token.trim(),
        ))
    }

    fn told(&self) -> Result<Vec<String>> {
        let read = |name: &&str| Ok(fs::read_to_string(self.data().join(name))?);
        TOLD.iter().map(read).collect()
    }

    /// Its files are whole, private, and no more than they should be; and it lets its owner in, over TLS.
    async fn is_whole(&self) -> Result<()> {
        let pki = names(&self.data().join("pki"))?;
        ensure!(pki == PKI.map(str::to_owned).into(), "{pki:?}");
        for name in names(&self.data())? {
            ensure!(!name.ends_with("new"), "{name} was left behind");
        }
        for name in ["pki/ca.key", "pki/server.key", "admin.token", "store.redb"] {
            let mode = fs::metadata(self.data().join(name))?.permissions().mode();
            ensure!(mode & 0o077 == 0, "{name} can be read by others: {mode:o}");
        }
        let ca = reqwest::Certificate::from_pem(&fs::read(self.data().join("pki/ca.crt"))?)?;
        let http = reqwest::Client::builder().tls_certs_only([ca]).build()?;
        let token = fs::read_to_string(self.data().join("admin.token"))?;
        let answer = http
            .get(format!("https://127.0.0.1:{}/v1/nodes", self.base))
            .bearer_auth(token.trim())
            .send()
            .await?;
        ensure!(answer.status() == StatusCode::OK, "{answer:?}");
        Ok(())
    }

    fn join_token(&self, node: &str, fault: Option<&str>) -> Command {
        let mut command = Command::new(binary("smart-storage-controller").unwrap_or_default());
        command.args(["join-token", node, "--data-dir"]).arg(self.data());
        if let Some(fault) = fault {
            command.env(FAULT, fault);
        }
        command
    }
}

fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    Ok(entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

fn passed_by(component: &Component, during: &str) -> Result<Vec<String>> {
    let points: BTreeMap<String, String> = component.points()?;
    let mine: Vec<String> = points
        .into_iter()
        .filter(|(_, by)| by == during)
        .map(|(point, _)| point)
        .collect();
    ensure!(!mine.is_empty(), "no point is passed by {during}");
    Ok(mine)
}

/// Starts a controller in an empty folder, armed; whether it died there.
async fn dies_at_its_first_start(alone: &mut Alone, point: &str, pass: u32) -> Result<bool> {
    alone.controller.arm(point, pass)?;
    alone.controller.start()?;
    let deadline = std::time::Instant::now() + PATIENCE;
    while !alone.controller.revive().await? {
        if alone.controller.is_ready().await {
            alone.controller.disarm();
            // What comes to the point after that is no first start any more.
            return alone.controller.revive().await;
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "it neither died nor came up"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_dies_while_it_makes_its_first_files_makes_the_rest_at_the_next_start() -> Result<()>
{
    let mut points = passed_by(&Alone::new()?.controller, "FirstStart")?;
    points.push("store-after-commit".to_owned());
    let mut deaths = 0;
    for point in &points {
        for pass in 1.. {
            let mut alone = Alone::new()?;
            let died = dies_at_its_first_start(&mut alone, point, pass)
                .await
                .with_context(|| format!("{point}:{pass}"))?;
            ensure!(died || pass > 1, "nothing came to {point}");
            if !died {
                break;
            }
            deaths += 1;
            alone
                .is_whole()
                .await
                .with_context(|| format!("{point}:{pass}"))?;
            let told = alone.told()?;
            alone.controller.kill()?;
            alone.controller.start()?;
            alone.controller.ready(PATIENCE).await?;
            ensure!(told == alone.told()?, "{point}: it is another controller now");
        }
    }
    println!(
        "  died {deaths} times at {} points of the first start",
        points.len()
    );
    Ok(())
}

/// An agent of a machine without drives.
fn agent(alone: &Alone, node: &str) -> Result<Component> {
    let folder = alone.folder.path().join(node);
    fs::create_dir(&folder)?;
    let path = |name: &str| folder.join(name).display().to_string();
    fs::write(folder.join("drives.json"), r#"{"devices": []}"#)?;
    fs::write(
        folder.join("token"),
        run(&mut alone.join_token(node, None))?.trim(),
    )?;
    let at = |offset: u16| format!("127.0.0.1:{}", alone.base + offset);
    let line = [
        ("--node-name", node.to_owned()),
        ("--data-dir", path("data")),
        ("--controller-addr", at(2)),
        ("--enrol-addr", at(3)),
        ("--join-token-file", path("token")),
        ("--health-addr", at(7)),
        ("--metrics-addr", at(8)),
        ("--simulate", path("drives.json")),
    ];
    let mut words = vec![binary("smart-storage-agent")?];
    words.extend(
        line.into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]),
    );
    Component::new("agent", words, folder.join("agent.log"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_whose_maker_died_is_replaced_by_the_next() -> Result<()> {
    let mut alone = Alone::new()?;
    alone.controller.start()?;
    alone.controller.ready(PATIENCE).await?;
    let mut points = passed_by(&alone.controller, "JoinToken")?;
    points.push("file-unnamed".to_owned());
    for point in points {
        let died = alone.join_token("node", Some(&point)).status()?;
        ensure!(died.signal() == Some(6), "{point}: {died}");
        let token = run(&mut alone.join_token("node", None))?;
        ensure!(token.starts_with("node."), "{point}: {token}");
        let kept = names(&alone.data().join("join-tokens"))?;
        ensure!(kept == BTreeSet::from(["node".to_owned()]), "{point}: {kept:?}");
    }
    let mut agent = agent(&alone, "node")?;
    agent.start()?;
    agent.ready(PATIENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_becomes_a_node_whoever_dies_while_it_enrols() -> Result<()> {
    let mut alone = Alone::new()?;
    alone.controller.start()?;
    alone.controller.ready(PATIENCE).await?;
    let mut steps: Vec<(bool, String, u32)> = Vec::new();
    for point in passed_by(&alone.controller, "Enrolment")? {
        steps.push((true, point, 1));
    }
    for point in passed_by(&agent(&alone, "nobody")?, "Enrolment")? {
        let passes = if point == "identity-file-unnamed" { 2 } else { 1 };
        steps.extend((1..=passes).map(|pass| (false, point.clone(), pass)));
    }
    for (number, (controller_s, point, pass)) in steps.iter().enumerate() {
        let node = format!("node-{number}");
        let mut agent = agent(&alone, &node)?;
        let victim = if *controller_s {
            &mut alone.controller
        } else {
            &mut agent
        };
        victim.arm(point, *pass)?;
        agent.start()?;
        let deadline = std::time::Instant::now() + PATIENCE;
        let victim = if *controller_s {
            &mut alone.controller
        } else {
            &mut agent
        };
        while !victim
            .has_died()
            .with_context(|| format!("{node}: {point}:{pass}"))?
        {
            ensure!(
                std::time::Instant::now() < deadline,
                "nothing came to {point}:{pass}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        victim.start()?;
        alone.controller.ready(PATIENCE).await?;
        agent.ready(PATIENCE).await?;
        let rest = alone.rest()?;
        quietly(PATIENCE, &format!("{node} is there after {point}"), || async {
            let shown = rest.get(&format!("/v1/nodes/{node}")).await?;
            ensure!(
                ["Ready", "Degraded"].contains(&text(&shown, "/phase")?),
                "{shown}"
            );
            Ok(Some(()))
        })
        .await?;
        let identity = names(&alone.folder.path().join(&node).join("data/identity"))?;
        let wanted = ["ca.pem", "identity.pem"].map(str::to_owned);
        ensure!(identity == wanted.into(), "{point}: {identity:?}");
    }
    let nodes = alone.rest()?.get("/v1/nodes").await?;
    let shown = nodes.pointer("/items").and_then(|items| items.as_array());
    ensure!(
        shown.map(Vec::len) == Some(steps.len()),
        "one node for each enrolment: {nodes}"
    );
    println!("  died at {} steps of an enrolment", steps.len());
    Ok(())
}
