//! A storage system that is down, hangs, is slow, answers nonsense, or has no room for its own books: it is said where
//! people look, asked again with patience, made good when it is back, and nothing of others is touched meanwhile.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use smart_storage_integration::{
    Cluster, MIB, Setup,
    drives::run,
    eventually,
    needs::INSTANCE,
    proxy::{Fault, Proxy},
    skipped,
};

use crate::reading::{list, text};

const SETUP: Setup = Setup {
    demo_drives: true,
    examples: false,
};
/// The pool looks at its backend every fifteen seconds, and gives each part three to answer.
const SAID_WITHIN: Duration = Duration::from_secs(60);
/// The longest pause between two tries is a minute and a fifth.
const WELL_WITHIN: Duration = Duration::from_secs(120);
const PARTS: [&str; 3] = ["SeaweedFS master", "SeaweedFS filer", "SeaweedFS S3 gateway"];
const POOL: &str = "unifiedpools/files";

/// The three doors of SeaweedFS with a proxy in front of each.
struct Doors {
    master: Proxy,
    filer: Proxy,
    s3: Proxy,
}

impl Doors {
    async fn of(cluster: &Cluster) -> Result<Self> {
        let core = cluster.security()?.join("core");
        let at = |name: &str| -> Result<String> { Ok(format!("127.0.0.1:{}", cluster.port(name)?)) };
        Ok(Self {
            master: Proxy::start(at("weed-master-grpc")?, Some(&core)).await?,
            filer: Proxy::start(at("weed-filer-grpc")?, Some(&core)).await?,
            s3: Proxy::start(at("weed-s3")?, None).await?,
        })
    }

    fn spoil(&self, fault: Fault) {
        for door in [&self.master, &self.filer, &self.s3] {
            door.spoil(fault);
        }
    }

    /// Waits until the operator has asked every part twice since now: whatever it says then is of this fault.
    async fn is_met(&self) -> Result<()> {
        let counts = || [&self.master, &self.filer, &self.s3].map(|door| door.count(is_health));
        let before = counts();
        eventually(SAID_WITHIN, "every part was asked again", || async {
            let met = counts()
                .into_iter()
                .zip(before)
                .all(|(now, before)| now >= before + 2);
            Ok(met.then_some(()))
        })
        .await
    }

    fn config(&self, cluster: &Cluster) -> Result<Value> {
        let address = |name: &str, proxy: &Proxy| -> Result<String> {
            Ok(format!("127.0.0.1:{}.{}", cluster.port(name)?, proxy.port()))
        };
        Ok(json!({
            "master": address("weed-master", &self.master)?,
            "filer": address("weed-filer", &self.filer)?,
            "s3": format!("http://127.0.0.1:{}", self.s3.port()),
        }))
    }
}

/// The calls by which the operator asks whether a part serves.
fn is_health(path: &str) -> bool {
    ["GetMasterConfiguration", "GetFilerConfiguration", "/healthz"]
        .iter()
        .any(|end| path.ends_with(end))
}

async fn create(cluster: &Cluster, plural: &str, object: &Value) -> Result<()> {
    let path = format!("/apis/storage.billyronks.io/v1/{plural}");
    let request = http::Request::post(path)
        .header("Content-Type", "application/json")
        .body(serde_json::to_vec(object)?)?;
    cluster.kube().await?.request::<Value>(request).await?;
    Ok(())
}

/// A pool of the three demo drives and a class for it.
async fn pool(cluster: &Cluster, config: &Value) -> Result<()> {
    let group = "storage.billyronks.io/v1";
    let class = json!({"apiVersion": group, "kind": "UnifiedStorageClass", "metadata": {"name": "files"},
        "spec": {"storageType": "file", "tier": "auto", "backend": "seaweedfs", "reclaimPolicy": "Delete", "isDefault": true}});
    create(cluster, "unifiedstorageclasses", &class).await?;
    let pool = json!({"apiVersion": group, "kind": "UnifiedPool", "metadata": {"name": "files"},
        "spec": {"poolType": "file", "backend": {"type": "seaweedfs", "config": config},
            "driveSelector": {"driveTypes": ["unknown"], "matchLabels": {"storage.billyronks.io/transport": "loop"}},
            "capacity": {"minDrives": 1, "maxDrives": 3}}});
    create(cluster, "unifiedpools", &pool).await?;
    eventually(Duration::from_secs(60), "the pool has its drives", || async {
        let pool = cluster.object(POOL).await?;
        ensure!(pool.pointer("/status/driveCount") == Some(&json!(3)), "{pool}");
        ready(&pool)
    })
    .await
}

fn ready(object: &Value) -> Result<Option<()>> {
    let ready = condition(object, "Ready").context("no condition Ready")?;
    ensure!(text(ready, "/status")? == "True", "{ready}");
    Ok(Some(()))
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let mut conditions = list(object, "/status/conditions").iter();
    conditions.find(|condition| text(condition, "/type").is_ok_and(|found| found == kind))
}

/// Asks for a claim; acknowledged means nothing more than that here.
async fn ask(cluster: &Cluster, name: &str) -> Result<String> {
    let ask = json!({"name": name, "storage_type": "file", "capacity_bytes": 8 * MIB});
    let claim = cluster.rest()?.post("/v1/storage", &ask).await?;
    Ok(text(&claim, "/id")?.to_owned())
}

async fn gone(cluster: &Cluster, id: &str) -> Result<()> {
    let (rest, path) = (cluster.rest()?, format!("/v1/storage/{id}"));
    eventually(WELL_WITHIN, &format!("{id} is gone"), || async {
        let (status, claim) = rest.call(Method::GET, &path, None).await?;
        ensure!(status == StatusCode::NOT_FOUND, "{claim}");
        let buckets = cluster.filer()?.list("/buckets").await?;
        ensure!(!buckets.contains(&id.to_owned()), "its bucket is there");
        Ok(Some(()))
    })
    .await
}

/// Things of others, made by hand beside ours.
async fn make_foreign(cluster: &Cluster) -> Result<()> {
    let filer = cluster.filer()?;
    cluster.weed_shell("s3.bucket.create -name somebody-else")?;
    cluster.weed_shell("s3.configure -user stranger -access_key STRANGER -secret_key hush -buckets somebody-else -actions Read,Write -apply")?;
    cluster
        .weed_shell("fs.configure -locationPrefix=/theirs/ -collection=theirs -volumeGrowthCount=1 -apply")?;
    for path in [
        "/buckets/somebody-else/kept",
        "/theirs/kept",
        // Looks like one of ours, and carries no mark.
        "/buckets/uv-00000000-0000-4000-8000-000000000000/data/kept",
    ] {
        let status = filer.put(path, path.as_bytes().to_vec()).await?;
        ensure!(status.is_success(), "{path}: {status}");
    }
    Ok(())
}

/// What is there of them.
async fn foreign(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let filer = cluster.filer()?;
    let mut seen = BTreeMap::new();
    for path in [
        "/buckets/somebody-else/kept",
        "/theirs/kept",
        "/buckets/uv-00000000-0000-4000-8000-000000000000/data/kept",
        "/etc/iam/identities/stranger.json",
    ] {
        seen.insert(path.to_owned(), String::from_utf8(filer.get(path).await?)?);
    }
    let lines = |said: String, wanted: &str| -> String {
        said.lines()
            .filter(|line| line.contains(wanted))
            .map(str::trim)
            .collect::<Vec<_>>()
            .join("; ")
    };
    seen.insert(
        "rule".to_owned(),
        lines(cluster.weed_shell("fs.configure")?, "theirs"),
    );
    let collections = cluster.weed_shell("collection.list")?;
    ensure!(
        collections.contains("\"theirs\""),
        "their collection is gone: {collections}"
    );
    Ok(seen)
}

/// Pool and claim say that the backend is away, with one word for all that can be wrong with it.
async fn is_said(cluster: &Cluster, id: &str, parts: &[&str]) -> Result<()> {
    let volume = format!("unifiedvolumes/{id}");
    eventually(
        SAID_WITHIN,
        &format!("{parts:?}: pool and volume say so"),
        || async {
            for path in [POOL, &volume] {
                let object = cluster.object(path).await?;
                let ready = condition(&object, "Ready").context("no condition Ready")?;
                ensure!(text(ready, "/status")? == "False", "{path}: {ready}");
                ensure!(text(ready, "/reason")? == "BackendUnreachable", "{path}: {ready}");
                for part in parts {
                    ensure!(
                        text(ready, "/message")?.contains(part),
                        "{path} names {part}: {ready}"
                    );
                }
                ensure!(
                    !text(ready, "/message")?.contains("<html>"),
                    "a page for people: {ready}"
                );
            }
            Ok(Some(()))
        },
    )
    .await?;
    // What was made stays what it was: only that it cannot be reached is new.
    let object = cluster.object(&volume).await?;
    ensure!(text(&object, "/status/phase")? == "Ready", "{object}");
    Ok(())
}

async fn is_well(cluster: &Cluster, ids: &[String]) -> Result<()> {
    eventually(WELL_WITHIN, "everything is well again", || async {
        ready(&cluster.object(POOL).await?)?;
        for id in ids {
            let claim = cluster.rest()?.get(&format!("/v1/storage/{id}")).await?;
            ensure!(text(&claim, "/phase")? == "Ready", "{claim}");
            ready(&cluster.object(&format!("unifiedvolumes/{id}")).await?)?;
        }
        Ok(Some(()))
    })
    .await
}

/// How often something that failed is tried again within `elapsed` when each pause is twice the one before: 1, 2, 4 ...
/// 60 s. A slower machine tries less often, never more.
fn tries_within(elapsed: Duration) -> u64 {
    let (mut pause, mut at, mut tries) = (1.0, 0.0, 1);
    while at + pause <= elapsed.as_secs_f64() {
        at += pause;
        pause = f64::min(pause * 2.0, 60.0);
        tries += 1;
    }
    tries
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_seaweedfs_answers_is_said_borne_with_patience_and_made_good() -> Result<()> {
    if skipped("backend_faults", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("backend_faults", SETUP).await?;
    let doors = Doors::of(&cluster).await?;
    pool(&cluster, &doors.config(&cluster)?).await?;
    make_foreign(&cluster).await?;
    let theirs = foreign(&cluster).await?;
    let kept = ask(&cluster, "kept").await?;
    cluster.phase(&kept, "Ready", WELL_WITHIN).await?;
    let mut living = vec![kept.clone()];

    let walks = [
        [Fault::Reset, Fault::Hang, Fault::Status(500), Fault::Page],
        [
            Fault::Status(404),
            Fault::Garbage,
            Fault::Slow(Duration::from_secs(30)),
            Fault::Truncated,
        ],
    ];
    for (round, walk) in walks.into_iter().enumerate() {
        let doomed = ask(&cluster, &format!("doomed-{round}")).await?;
        cluster.phase(&doomed, "Ready", WELL_WITHIN).await?;
        // The pool does not know yet: one is asked for and one is given back just now.
        doors.spoil(walk[0]);
        let asked = ask(&cluster, &format!("asked-{round}")).await?;
        cluster.rest()?.delete(&format!("/v1/storage/{doomed}")).await?;
        for fault in walk {
            println!("  {fault:?}");
            doors.spoil(fault);
            doors.is_met().await?;
            is_said(&cluster, &kept, &PARTS).await?;
        }
        let claim = cluster.rest()?.get(&format!("/v1/storage/{asked}")).await?;
        ensure!(
            ["Pending", "Placing", "Provisioning"].contains(&text(&claim, "/phase")?),
            "{claim}"
        );
        let volumes = cluster.object("unifiedvolumes").await?;
        let mut names = list(&volumes, "/items")
            .iter()
            .filter_map(|volume| text(volume, "/metadata/name").ok());
        ensure!(
            names.any(|name| name == doomed),
            "{doomed} is called deleted while nobody can be asked"
        );
        doors.spoil(Fault::None);
        living.push(asked);
        is_well(&cluster, &living).await?;
        gone(&cluster, &doomed).await?;
        let now = foreign(&cluster).await?;
        ensure!(now == theirs, "something of others changed: {now:#?}");
    }
    no_hot_loop(&cluster, &doors, &mut living).await?;
    ensure!(foreign(&cluster).await? == theirs, "something of others changed");
    Ok(())
}

/// Requests are counted against the schedule of the tries, while some volumes wait to be made and some to be deleted.
async fn no_hot_loop(cluster: &Cluster, doors: &Doors, living: &mut Vec<String>) -> Result<()> {
    const EACH: u64 = 5;
    const WINDOW: Duration = Duration::from_secs(20);
    let mut doomed = Vec::new();
    for index in 0..EACH {
        doomed.push(ask(cluster, &format!("late-doomed-{index}")).await?);
    }
    for id in &doomed {
        cluster.phase(id, "Ready", WELL_WITHIN).await?;
    }
    doors.spoil(Fault::Status(503));
    for id in &doomed {
        cluster.rest()?.delete(&format!("/v1/storage/{id}")).await?;
    }
    for index in 0..EACH {
        living.push(ask(cluster, &format!("late-{index}")).await?);
    }
    let start = Instant::now();
    let count = || {
        let health = [&doors.master, &doors.filer, &doors.s3].map(|door| door.count(is_health));
        (doors.filer.count(|path| !is_health(path)), health)
    };
    let before = count();
    // The window is what has passed in the end: a machine that stands still in between only tries less.
    eventually(WINDOW * 4, "a window of tries", || async {
        Ok((start.elapsed() >= WINDOW).then_some(()))
    })
    .await?;
    let (after, elapsed) = (count(), start.elapsed());
    let calls = after.0 - before.0;
    let looks: Vec<u64> = after
        .1
        .iter()
        .zip(before.1)
        .map(|(after, before)| after - before)
        .collect();
    println!(
        "  within {elapsed:.1?}: {calls} calls of the filer for volumes; master, filer and S3 asked how they are {looks:?} times"
    );
    // A try ends at its first call. A volume is woken thrice besides: by its claim, its own status and its pool's.
    let volumes = 2 * EACH;
    let most = volumes * (tries_within(elapsed) + 3);
    ensure!(
        calls <= most,
        "{calls} calls of the filer, {most} are in the schedule"
    );
    ensure!(calls >= volumes, "nothing was tried");
    // An ill part is asked again after two seconds at the earliest.
    let most = elapsed.as_secs() / 2 + 2;
    ensure!(
        looks.iter().all(|looks| (1..=most).contains(looks)),
        "{looks:?}, {most} are in the schedule"
    );
    doors.spoil(Fault::None);
    is_well(cluster, living).await?;
    for id in &doomed {
        gone(cluster, id).await?;
    }
    Ok(())
}

/// The filer's store on a small file system of its own, so that it can be full.
fn small_store(cluster: &Cluster) -> Result<PathBuf> {
    let store = cluster.state().join("weed/filer");
    let aside = cluster.state().join("weed/filer-before");
    fs::rename(&store, &aside)?;
    fs::create_dir(&store)?;
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"])
        .arg(&store))?;
    run(Command::new("cp").arg("-aT").arg(&aside).arg(&store))?;
    Ok(store)
}

fn signal(cluster: &Cluster, component: &str, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(cluster.pid(component)?), signal)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_die_hang_or_have_a_full_disk_are_named_and_everything_converges() -> Result<()> {
    if skipped("backend_faults: parts", &INSTANCE)? {
        return Ok(());
    }
    let mut cluster = Cluster::start("backend_parts", SETUP).await?;
    cluster.kill9("weed-filer").await?;
    let store = small_store(&cluster)?;
    cluster.up().await?;
    pool(&cluster, &json!({})).await?;
    make_foreign(&cluster).await?;
    let theirs = foreign(&cluster).await?;
    let kept = ask(&cluster, "kept").await?;
    cluster.phase(&kept, "Ready", WELL_WITHIN).await?;
    let mut living = vec![kept.clone()];
    for (component, part) in [
        ("weed-filer", "SeaweedFS filer"),
        ("weed-master", "SeaweedFS master"),
        ("weed-s3", "SeaweedFS S3 gateway"),
    ] {
        println!("  {component} dies");
        cluster.kill9(component).await?;
        is_said(&cluster, &kept, &[part]).await?;
        living.push(ask(&cluster, &format!("{component}-dead")).await?);
        cluster.up().await?;
        is_well(&cluster, &living).await?;
        println!("  {component} hangs");
        signal(&cluster, component, Signal::SIGSTOP)?;
        let said = is_said(&cluster, &kept, &[part]).await;
        // It is let go in any case: a stopped process could not be taken down.
        signal(&cluster, component, Signal::SIGCONT)?;
        said?;
        is_well(&cluster, &living).await?;
    }
    ensure!(foreign(&cluster).await? == theirs, "something of others changed");

    println!("  the filer's disk is full");
    let filling = store.join("filling");
    // Until nothing goes in any more: that is how it ends.
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", filling.display()))
        .output()?;
    let asked = ask(&cluster, "no-room-for-it").await?;
    eventually(SAID_WITHIN, "the volume says what the filer lacks", || async {
        let volume = cluster.object(&format!("unifiedvolumes/{asked}")).await?;
        let ready = condition(&volume, "Ready").context("no condition")?;
        ensure!(text(ready, "/reason")? == "BackendFull", "{ready}");
        Ok(Some(()))
    })
    .await?;
    fs::remove_file(&filling)?;
    // Its store stays closed until it is opened anew.
    cluster.kill9("weed-filer").await?;
    cluster.up().await?;
    living.push(asked);
    is_well(&cluster, &living).await?;
    if foreign(&cluster).await? != theirs {
        bail!("something of others changed: {:#?}", foreign(&cluster).await?);
    }
    Ok(())
}
