//! Hundreds of deaths: controller and agent are killed at random moments while requests go on, drives come and go and
//! data is written. Whatever was acknowledged is there, once; nothing else is.
//!
//! `SMART_STORAGE_SEED` repeats a run's choices (what the machine makes of them differs), `SMART_STORAGE_KILLS` sets
//! how many there are; each has to come within a few seconds, so that the suite has a bound.

mod load;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use smart_storage_integration::{Cluster, Component, S3, Setup, checker, needs::INSTANCE, quietly, skipped};

use self::load::{Asked, Worker};
use crate::{
    every_step::{put_away, release, take},
    reading::{list, noise, text},
};

/// What fits into the minutes of every run; a thousand are one by hand.
const KILLS: u32 = 300;
const WORKERS: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(180);
/// What a kill may take. After that many times it no more is killed, however few it were.
const BOUND_FOR_EACH: Duration = Duration::from_secs(3);

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice of their own for one of several who throw.
    fn of(seed: u64, thrower: u64) -> Self {
        Self(seed ^ thrower.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Less than `below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below.max(1)
    }

    /// How long a program lives, and whether that is counted from its being ready: most die young, the others live
    /// long enough to finish something, on a slow machine (where to be ready took `grew_up_in`) as well.
    fn life(&mut self, grew_up_in: Duration) -> (bool, Duration) {
        let slow = u64::try_from(grew_up_in.as_millis())
            .unwrap_or(u64::MAX)
            .min(10_000);
        match self.below(100) {
            0..60 => (false, Duration::from_millis(self.below(700))),
            _ => (true, Duration::from_millis(self.below(1500 + 2 * slow))),
        }
    }
}

fn number(name: &str, usual: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}: {text:?}")),
        Err(_) => Ok(usual),
    }
}

/// Kills and starts one program until there were enough deaths.
async fn haunt(
    mut component: Component,
    mut dice: Dice,
    left: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
) -> Result<(Component, u32)> {
    let (mut deaths, mut born, mut grew_up_in) = (0, Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed)
        && left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
    {
        let (grown_up, life) = dice.life(grew_up_in);
        if grown_up {
            component.ready(PATIENCE).await?;
            grew_up_in = born.elapsed();
        }
        tokio::time::sleep(life).await;
        if let Some(status) = component.ended()? {
            anyhow::bail!("{} ended by itself: {status}", component.name());
        }
        component.kill()?;
        component.start()?;
        born = Instant::now();
        deaths += 1;
    }
    component.ready(PATIENCE).await?;
    Ok((component, deaths))
}

/// One drive after the other is attached, claimed by a pool, released and taken away.
async fn drives_come_and_go(instance: Cluster, stop: Arc<AtomicBool>) -> Result<u32> {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let drive = instance.attach(&format!("chaos-{rounds}"), 600 << 20)?;
        take(&instance, load::PATIENCE).await?;
        release(&instance, load::PATIENCE).await?;
        put_away(&drive)?;
        rounds += 1;
    }
    Ok(rounds)
}

/// What was acknowledged, against what is there.
async fn is_as_acknowledged(cluster: &Cluster, all: &[Asked], demo: &str) -> Result<()> {
    let rest = cluster.rest()?;
    let mut wanted = BTreeSet::from([demo.to_owned()]);
    for asked in all.iter().filter(|asked| !asked.deleted) {
        let claim = rest.get(&format!("/v1/storage/{}", asked.id)).await?;
        ensure!(
            text(&claim, "/name")? == asked.name
                && text(&claim, "/phase")? == "Ready"
                && claim.get("capacity_bytes").and_then(Value::as_u64) == Some(asked.bytes),
            "{asked:?} was acknowledged, and there is {claim}"
        );
        for (path, seed) in &asked.files {
            let file = format!("/buckets/{}/data/{path}", asked.id);
            ensure!(
                cluster.filer()?.get(&file).await? == noise(*seed, load::FILE_BYTES),
                "{file} is not what was written"
            );
        }
        if let (Some((key, secret)), Some((path, seed))) = (&asked.keys, asked.files.first_key_value()) {
            let endpoint = text(&claim, "/access/s3/endpoint")?;
            let s3 = S3::new(cluster.http().clone(), endpoint, &asked.id, key, secret)?;
            let (status, bytes) = s3.get(&format!("data/{path}")).await?;
            ensure!(
                status.is_success() && bytes == noise(*seed, load::FILE_BYTES),
                "the last keys of {} open nothing: {status}",
                asked.id
            );
        }
        wanted.insert(asked.id.clone());
    }
    let volumes = cluster.object("unifiedvolumes").await?;
    let there: BTreeSet<String> = list(&volumes, "/items")
        .iter()
        .map(|volume| Ok(text(volume, "/metadata/name")?.to_owned()))
        .collect::<Result<_>>()?;
    ensure!(
        there == wanted,
        "acknowledged and not there: {:?}; there and not acknowledged: {:?}",
        wanted.difference(&there),
        there.difference(&wanted)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn random_deaths_under_load_lose_double_and_leak_nothing() -> Result<()> {
    if skipped("chaos", &INSTANCE)? {
        return Ok(());
    }
    let kills = u32::try_from(number("SMART_STORAGE_KILLS", KILLS.into())?)?;
    let usual = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    let seed = number("SMART_STORAGE_SEED", usual)?;
    println!("  {kills} kills, SMART_STORAGE_SEED={seed}");
    let cluster = Cluster::start("chaos", Setup::DEMO).await?;
    let demo = cluster
        .object("namespaces/default/unifiedstorageclaims/demo")
        .await?;
    let demo = text(&demo, "/status/volumeName")?.to_owned();
    let controller = Component::take_over(&cluster, "controller").await?;
    let agent = Component::take_over(&cluster, "agent").await?;

    let start = Instant::now();
    let (left, stop) = (Arc::new(AtomicU32::new(kills)), Arc::new(AtomicBool::new(false)));
    let mut deaths = tokio::task::JoinSet::new();
    for (thrower, component) in [(101, controller), (102, agent)] {
        deaths.spawn(haunt(
            component,
            Dice::of(seed, thrower),
            Arc::clone(&left),
            Arc::clone(&stop),
        ));
    }
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let worker = Worker::new(worker, cluster.another_view(), Dice::of(seed, worker));
        workers.spawn(worker.work(Arc::clone(&stop)));
    }
    let mut coming = tokio::spawn(drives_come_and_go(cluster.another_view(), Arc::clone(&stop)));

    let mut survivors = Vec::new();
    let mut killed = BTreeMap::new();
    let bound = BOUND_FOR_EACH * kills;
    let ends = tokio::time::sleep(bound);
    tokio::pin!(ends);
    while survivors.len() < 2 {
        tokio::select! {
            Some(done) = deaths.join_next() => {
                let (component, deaths) = done??;
                killed.insert(component.name().to_owned(), deaths);
                survivors.push(component);
            }
            Some(done) = workers.join_next(), if !stop.load(Ordering::Relaxed) => {
                let died = kills - left.load(Ordering::Relaxed);
                done?.with_context(|| format!("after {died} kills in {:.0?}, SMART_STORAGE_SEED={seed}", start.elapsed()))?;
                anyhow::bail!("a worker stopped before its time");
            }
            done = &mut coming, if !stop.load(Ordering::Relaxed) => {
                done?.with_context(|| format!("drives that come and go, SMART_STORAGE_SEED={seed}"))?;
                anyhow::bail!("drives stopped to come before their time");
            }
            () = &mut ends, if !stop.load(Ordering::Relaxed) => stop.store(true, Ordering::Relaxed),
        }
    }
    let killing = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    let mut acknowledged = BTreeMap::new();
    while let Some(done) = workers.join_next().await {
        let (asked, counted) = done??;
        all.extend(asked);
        for (what, times) in counted {
            *acknowledged.entry(what).or_insert(0_u32) += times;
        }
    }
    // The pool whose drives come and go was as good as any other while it was there; it goes once it is empty.
    for asked in all.iter_mut().filter(|asked| !asked.deleted) {
        asked.leave("step", &cluster).await?;
    }
    let rounds = coming.await??;
    let converged = checker::converged(&cluster, PATIENCE)
        .await
        .with_context(|| format!("SMART_STORAGE_SEED={seed}"))?;
    quietly(PATIENCE, "all is as it was acknowledged", || async {
        is_as_acknowledged(&cluster, &all, &demo).await.map(Some)
    })
    .await
    .with_context(|| format!("SMART_STORAGE_SEED={seed}"))?;
    println!(
        "  killed {killed:?} in {killing:.0?}, acknowledged {acknowledged:?} and {rounds} drives there and back; \
         converged {converged:.1?} later (SMART_STORAGE_SEED={seed})"
    );
    ensure!(
        killed.values().sum::<u32>() == kills,
        "only {killed:?} of {kills} kills within {bound:?}"
    );
    let asked: u32 = acknowledged.values().sum();
    ensure!(
        asked >= kills / 10,
        "{asked} requests under {kills} kills: that is no load"
    );
    Ok(())
}
