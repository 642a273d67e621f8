//! A storage system that is down, hangs, is slow, answers nonsense, forgets, or has no room for its own books: it is
//! said where people look, asked again with patience, made good when it is back, and nothing of others is touched.

mod bed;
mod foreign;

use std::{
    fs,
    path::{Path, PathBuf},
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
    Cluster, S3, Setup, drives::run, eventually, needs::INSTANCE, proxy::Fault, skipped,
};
use smart_storage_proto::v1::{GetStorageRequest, ListPoolsRequest, ListStorageRequest};
use tokio::time::timeout;

use self::bed::{Doors, POOL, SAID_WITHIN, WELL_WITHIN, ask, condition, gone, is_health, pool, ready};
use crate::reading::{list, text};

const SETUP: Setup = Setup {
    demo_drives: true,
    examples: false,
};
const PARTS: [&str; 3] = [
    "SeaweedFS master at ",
    "SeaweedFS filer at ",
    "SeaweedFS S3 gateway at ",
];
const HELP: &str = "see that it runs and can be reached there";
const WALK: [Fault; 8] = [
    Fault::Reset,
    Fault::Hang,
    Fault::Status(500),
    Fault::Status(404),
    Fault::Garbage,
    Fault::Truncated,
    Fault::Page,
    Fault::Slow(Duration::from_secs(30)),
];
/// One call of the operator to SeaweedFS lasts up to ten seconds: who waited for one would answer later than this.
const WITHOUT_THE_BACKEND: Duration = Duration::from_secs(9);

/// Pool, volume and claim say that the backend is away: one reason for all that can be wrong with it, the parts that
/// are ill and no others, and what helps; and these words.
async fn is_said(cluster: &Cluster, id: &str, parts: &[&str], these: &str) -> Result<()> {
    let what = format!("{parts:?}: pool, volume and claim say so");
    eventually(SAID_WITHIN, &what, || async {
        let volume = format!("unifiedvolumes/{id}");
        let claim = cluster.rest()?.get(&format!("/v1/storage/{id}")).await?;
        for object in [cluster.object(POOL).await?, cluster.object(&volume).await?, claim] {
            let ready = condition(&object, "Ready").context("no condition Ready")?;
            let words = text(ready, "/message")?;
            ensure!(text(ready, "/status")? == "False", "{object}");
            ensure!(text(ready, "/reason")? == "BackendUnreachable", "{object}");
            for part in PARTS {
                ensure!(words.contains(part) == parts.contains(&part), "{part}: {object}");
            }
            ensure!(words.contains(HELP) && words.contains(these), "{object}");
            ensure!(!words.contains("<html>"), "a page for people: {object}");
        }
        Ok(Some(()))
    })
    .await?;
    // What was made stays made: only that it cannot be reached is new.
    let volume = cluster.object(&format!("unifiedvolumes/{id}")).await?;
    ensure!(text(&volume, "/status/phase")? == "Degraded", "{volume}");
    let claim = cluster.rest()?.get(&format!("/v1/storage/{id}")).await?;
    ensure!(text(&claim, "/phase")? == "Ready", "{claim}");
    Ok(())
}

async fn is_well(cluster: &Cluster, ids: &[String]) -> Result<()> {
    eventually(WELL_WITHIN, "everything is well again", || async {
        ready(&cluster.object(POOL).await?)?;
        for id in ids {
            let claim = cluster.rest()?.get(&format!("/v1/storage/{id}")).await?;
            ensure!(text(&claim, "/phase")? == "Ready", "{claim}");
            ready(&claim)?;
            ready(&cluster.object(&format!("unifiedvolumes/{id}")).await?)?;
        }
        Ok(Some(()))
    })
    .await
}

/// Everything that people ask of the operator is answered while SeaweedFS answers nothing at all.
async fn answers_go_on(cluster: &Cluster, kept: &str) -> Result<()> {
    let (rest, mut grpc) = (cluster.rest()?, cluster.grpc().await?);
    let brief = timeout(WITHOUT_THE_BACKEND, ask(cluster, "brief"))
        .await
        .context("POST")??;
    for path in ["/v1/storage", "/v1/nodes", "/v1/pools", "/v1/capacity"] {
        timeout(WITHOUT_THE_BACKEND, rest.get(path))
            .await
            .with_context(|| path.to_owned())??;
    }
    let by_grpc = async {
        grpc.list_storage(ListStorageRequest::default()).await?;
        grpc.list_pools(ListPoolsRequest::default()).await?;
        let id = kept.to_owned();
        let storage = grpc.get_storage(GetStorageRequest { id }).await?;
        anyhow::Ok(storage.into_inner())
    };
    timeout(WITHOUT_THE_BACKEND, by_grpc).await.context("gRPC")??;
    let view = cluster.another_view();
    let by_kubectl = tokio::task::spawn_blocking(move || view.kubectl(["get", "uclaim,uv,up", "-A"]));
    let table = timeout(WITHOUT_THE_BACKEND, by_kubectl)
        .await
        .context("kubectl")???;
    ensure!(table.contains(kept), "{table}");
    timeout(WITHOUT_THE_BACKEND, rest.delete(&format!("/v1/storage/{brief}")))
        .await
        .context("DELETE")??;
    eventually(WELL_WITHIN, "what never had a place goes at once", || async {
        let (status, claim) = rest
            .call(Method::GET, &format!("/v1/storage/{brief}"), None)
            .await?;
        ensure!(status == StatusCode::NOT_FOUND, "{claim}");
        Ok(Some(()))
    })
    .await?;
    // This one needs the filer: it is refused with the reason, and changes nothing.
    let path = format!("/v1/storage/{kept}/credentials");
    let (status, answer) = timeout(WITHOUT_THE_BACKEND, rest.call(Method::POST, &path, None))
        .await
        .context("credentials")??;
    let words = answer.to_string();
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status}: {words}");
    ensure!(
        words.contains("SeaweedFS filer at ") && words.contains("the present credentials go on"),
        "{words}"
    );
    Ok(())
}

/// How often something that failed is tried within `elapsed`: at once, and after 1, 2, 4 ... `longest` seconds. Jitter
/// and a slow machine make it less, nothing makes it more.
fn tries_within(elapsed: Duration, longest: f64) -> u64 {
    let (mut pause, mut at, mut tries) = (1.0, 0.0, 1);
    while at + pause <= elapsed.as_secs_f64() {
        at += pause;
        pause = f64::min(pause * 2.0, longest);
        tries += 1;
    }
    tries
}

/// What reached the doors since a moment.
struct Counted<'a> {
    doors: &'a Doors,
    start: Instant,
    before: Counts,
}

#[derive(Debug, Clone, Copy)]
struct Counts {
    /// Questions to master, filer and S3 whether they serve.
    health: [u64; 3],
    /// Calls of the filer for volumes.
    calls: u64,
    /// Of them, deletions of directories.
    deletes: u64,
}

impl Counts {
    fn of(doors: &Doors) -> Self {
        Self {
            health: [&doors.master, &doors.filer, &doors.s3].map(|door| door.count(is_health)),
            calls: doors.filer.count(|path| !is_health(path)),
            deletes: doors.filer.count(|path| path.ends_with("/DeleteEntry")),
        }
    }
}

impl<'a> Counted<'a> {
    fn now(doors: &'a Doors) -> Self {
        Self {
            doors,
            start: Instant::now(),
            before: Counts::of(doors),
        }
    }

    fn deletes(&self) -> u64 {
        Counts::of(self.doors).deletes - self.before.deletes
    }

    /// Requests against the schedule of the tries, with so many volumes that are to be made, deleted, or looked at as
    /// their pool is ill: a try ends at its first call, and nothing that happens to pool, members or claims makes one
    /// come sooner. `once` were tried once more, before something else was asked of them. The pool looked for leftovers
    /// once, or was about to.
    fn is_patient(&self, volumes: u64, once: u64) -> Result<()> {
        const LEFTOVERS: u64 = 3;
        // Counted before the time is taken: what comes in between is not held against the schedule.
        let (now, elapsed) = (Counts::of(self.doors), self.start.elapsed());
        let calls = now.calls - self.before.calls;
        let looks: Vec<u64> = now
            .health
            .iter()
            .zip(self.before.health)
            .map(|(now, before)| now - before)
            .collect();
        println!(
            "  within {elapsed:.1?}: {calls} calls of the filer for {volumes} volumes; master, filer and S3 asked how they are {looks:?} times"
        );
        let most = volumes * tries_within(elapsed, 60.0) + once + LEFTOVERS;
        ensure!(
            calls <= most,
            "{calls} calls of the filer, {most} are in the schedule: {:#?}",
            self.doors.filer.counts()
        );
        // One more: the last question to a part that was well came just before.
        let most = tries_within(elapsed, 5.0) + 1;
        ensure!(
            looks.iter().all(|looks| (1..=most).contains(looks)),
            "{looks:?}, {most} are in the schedule"
        );
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_seaweedfs_answers_is_said_borne_with_patience_and_made_good() -> Result<()> {
    if skipped("backend_faults", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("backend_faults", SETUP).await?;
    let doors = Doors::of(&cluster).await?;
    pool(&cluster, &doors.config(&cluster)?).await?;
    foreign::make(&cluster).await?;
    let theirs = foreign::picture(&cluster).await?;
    let kept = ask(&cluster, "kept").await?;
    cluster.phase(&kept, "Ready", WELL_WITHIN).await?;
    let mut living = vec![kept.clone()];

    let doomed = ask(&cluster, "doomed").await?;
    cluster.phase(&doomed, "Ready", WELL_WITHIN).await?;
    // The pool does not know yet: one is asked for and one is given back just now.
    doors.spoil(WALK[0]);
    let counted = Counted::now(&doors);
    let asked = ask(&cluster, "asked").await?;
    cluster.rest()?.delete(&format!("/v1/storage/{doomed}")).await?;
    for (step, fault) in (0..).zip(WALK) {
        println!("  {fault:?}");
        doors.spoil(fault);
        let these = if matches!(fault, Fault::Slow(_) | Fault::Page) {
            doors.is_met().await?;
            String::new()
        } else {
            // One that no other step has: whoever repeats it was asked during this one.
            doors.s3.spoil(Fault::Status(550 + step));
            format!("it answers {}", 550 + step)
        };
        is_said(&cluster, &kept, &PARTS, &these).await?;
    }
    counted.is_patient(3, 0)?;
    let claim = cluster.rest()?.get(&format!("/v1/storage/{asked}")).await?;
    ensure!(
        ["Pending", "Placing", "Provisioning"].contains(&text(&claim, "/phase")?),
        "{claim}"
    );
    is_written_down(&cluster, &doomed).await?;
    ensure!(counted.deletes() == 0, "something was deleted blindly");
    doors.spoil(Fault::None);
    living.push(asked);
    is_well(&cluster, &living).await?;
    gone(&cluster, &doomed).await?;
    let deletes = counted.deletes();
    ensure!(deletes == 1, "deleted {deletes} times, asked once");
    let now = foreign::picture(&cluster).await?;
    ensure!(now == theirs, "something of others changed: {now:#?}");
    what_is_not_found_is_not_made_over(&cluster, &doors, &mut living).await?;
    ensure!(
        foreign::picture(&cluster).await? == theirs,
        "something of others changed"
    );
    no_hot_loop(&cluster, &doors, &mut living).await?;
    ensure!(
        foreign::picture(&cluster).await? == theirs,
        "something of others changed"
    );
    Ok(())
}

async fn is_written_down(cluster: &Cluster, id: &str) -> Result<()> {
    let volumes = cluster.object("unifiedvolumes").await?;
    let mut names = list(&volumes, "/items")
        .iter()
        .filter_map(|volume| text(volume, "/metadata/name").ok());
    ensure!(
        names.any(|name| name == id),
        "{id} is called deleted while nobody can be asked"
    );
    Ok(())
}

/// A filer that knows of nothing, and of everything when it is asked to make it: whoever takes "not found" for "make
/// it anew" loses the rules of all.
async fn what_is_not_found_is_not_made_over(
    cluster: &Cluster,
    doors: &Doors,
    living: &mut Vec<String>,
) -> Result<()> {
    println!("  the filer forgets");
    doors.filer.spoil(Fault::Forgets);
    let asked = ask(cluster, "not-found").await?;
    let path = format!("unifiedvolumes/{asked}");
    eventually(SAID_WITHIN, "the volume says what contradicts it", || async {
        let volume = cluster.object(&path).await?;
        let ready = condition(&volume, "Ready").context("no condition Ready")?;
        ensure!(text(ready, "/reason")? == "PlacementRuleFailed", "{volume}");
        ensure!(text(ready, "/message")?.contains("filer.conf"), "{volume}");
        Ok(Some(()))
    })
    .await?;
    let claim = cluster.rest()?.get(&format!("/v1/storage/{asked}")).await?;
    ensure!(text(&claim, "/phase")? == "Provisioning", "{claim}");
    doors.filer.spoil(Fault::None);
    living.push(asked);
    is_well(cluster, living).await
}

/// Some volumes wait to be made and some to be deleted, and only the schedule lets them try.
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
    let counted = Counted::now(doors);
    for id in &doomed {
        cluster.rest()?.delete(&format!("/v1/storage/{id}")).await?;
    }
    for index in 0..EACH {
        living.push(ask(cluster, &format!("late-{index}")).await?);
    }
    // The window is what has passed in the end: a machine that stands still in between only tries less.
    eventually(WINDOW * 4, "a window of tries", || async {
        Ok((counted.start.elapsed() >= WINDOW).then_some(()))
    })
    .await?;
    // Those of before, EACH to be made, and as many to be deleted, which may have been looked at as living ones when
    // their pool turned ill.
    counted.is_patient(u64::try_from(living.len())? + EACH, EACH)?;
    let tried = doors.filer.count(|path| !is_health(path)) - counted.before.calls;
    ensure!(tried >= EACH, "what is to be deleted was not tried: {tried}");
    doors.spoil(Fault::None);
    is_well(cluster, living).await?;
    for id in &doomed {
        gone(cluster, id).await?;
    }
    ensure!(
        counted.deletes() == EACH,
        "deleted {} times, asked {EACH} times",
        counted.deletes()
    );
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

/// A component that stands still. It goes on when this is dropped, whatever happened: stopped, it could not be taken
/// down.
struct Stopped(Pid);

impl Stopped {
    fn new(cluster: &Cluster, component: &str) -> Result<Self> {
        let stopped = Self(Pid::from_raw(cluster.pid(component)?));
        kill(stopped.0, Signal::SIGSTOP)?;
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Err(error) = kill(self.0, Signal::SIGCONT) {
            println!("  {} was stopped and cannot be let go: {error}", self.0);
        }
    }
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
    foreign::make(&cluster).await?;
    let theirs = foreign::picture(&cluster).await?;
    let kept = ask(&cluster, "kept").await?;
    cluster.phase(&kept, "Ready", WELL_WITHIN).await?;
    let user = cluster.s3(&kept).await?;
    ensure!(
        user.put("data/kept", b"kept".to_vec()).await?.is_success(),
        "it is written"
    );
    let mut living = vec![kept.clone()];

    let ill = [("weed-s3", 2), ("weed-master", 0), ("weed-filer", 1)];
    println!("  one after the other dies");
    let mut said = Vec::new();
    for (component, part) in ill {
        cluster.kill9(component).await?;
        said.push(PARTS[part]);
        is_said(&cluster, &kept, &said, "").await?;
        living.push(ask(&cluster, &format!("{component}-dead")).await?);
    }
    cluster.up().await?;
    is_well(&cluster, &living).await?;
    ensure!(
        foreign::picture(&cluster).await? == theirs,
        "something of others changed"
    );

    println!("  one after the other hangs");
    let (mut said, mut stopped) = (Vec::new(), Vec::new());
    for (component, part) in ill {
        stopped.push(Stopped::new(&cluster, component)?);
        said.push(PARTS[part]);
        is_said(&cluster, &kept, &said, "").await?;
    }
    living.push(ask(&cluster, "all-hang").await?);
    answers_go_on(&cluster, &kept).await?;
    drop(stopped);
    is_well(&cluster, &living).await?;
    still_reads(&user).await?;
    ensure!(
        foreign::picture(&cluster).await? == theirs,
        "something of others changed"
    );

    the_books_are_full(&mut cluster, &store, &mut living).await?;
    still_reads(&user).await?;
    if foreign::picture(&cluster).await? != theirs {
        bail!(
            "something of others changed: {:#?}",
            foreign::picture(&cluster).await?
        );
    }
    Ok(())
}

/// The credentials from before are good, and so are the bytes.
async fn still_reads(user: &S3) -> Result<()> {
    eventually(WELL_WITHIN, "the old credentials read the bytes", || async {
        let (status, bytes) = user.get("data/kept").await?;
        ensure!(status.is_success() && bytes == b"kept", "{status}");
        Ok(Some(()))
    })
    .await
}

async fn the_books_are_full(cluster: &mut Cluster, store: &Path, living: &mut Vec<String>) -> Result<()> {
    println!("  the filer's disk is full");
    let doomed = ask(cluster, "doomed").await?;
    cluster.phase(&doomed, "Ready", WELL_WITHIN).await?;
    let filling = store.join("filling");
    // Until nothing goes in any more: that is how it ends.
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", filling.display()))
        .output()?;
    cluster.rest()?.delete(&format!("/v1/storage/{doomed}")).await?;
    // What was open already may have some bytes left, which the first takes.
    let mut asked = Vec::new();
    for index in 0..4 {
        asked.push(ask(cluster, &format!("no-room-{index}")).await?);
    }
    eventually(SAID_WITHIN, "a volume says what the filer lacks", || async {
        let mut said: Vec<Value> = Vec::new();
        for id in &asked {
            let volume = cluster.object(&format!("unifiedvolumes/{id}")).await?;
            said.extend(condition(&volume, "Ready").cloned());
        }
        let full = said.iter().any(|ready| {
            let part = |pointer| text(ready, pointer).unwrap_or_default();
            part("/reason") == "BackendFull"
                && part("/message").contains("SeaweedFS filer")
                && part("/message").contains("make room on the disk")
        });
        ensure!(full, "{said:#?}");
        Ok(Some(()))
    })
    .await?;
    fs::remove_file(&filling)?;
    // Its store stays closed until it is opened anew.
    cluster.kill9("weed-filer").await?;
    cluster.up().await?;
    living.extend(asked);
    is_well(cluster, living).await?;
    gone(cluster, &doomed).await
}
