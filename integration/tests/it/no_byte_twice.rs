//! Two hundred ask at once where thirty find room: thirty get it, the others are told with numbers what is missing,
//! and what is given back goes to as many as it is enough for. Ten times, in orders that a seed makes.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use smart_storage_integration::{
    Cluster, MIB, Rest, Setup, cluster::Grpc, eventually, needs::INSTANCE, skipped,
};
use smart_storage_proto::v1::{CreateStorageRequest, DeleteStorageRequest};
use tokio::task::JoinSet;

use crate::reading::{POOL, list, number, text, whole_pool};

const ASKED: usize = 200;
const ROOM: usize = 30;
const GIVEN_BACK: usize = 10;
const SEEDS: u64 = 10;
/// One slot each.
const BYTES: u64 = 4 * MIB;
const SETTLED: Duration = Duration::from_secs(120);
/// Objects, events and statuses that are written for a claim that gets storage, and for one that does not. Whatever is
/// written for each claim whenever another one is served would be hundreds for each.
const WRITES_OF_SERVED: u64 = 8;
const WRITES_OF_WAITING: u64 = 3;
const WRITES_BESIDE: u64 = 100;

/// Numbers that a seed makes.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> Result<usize> {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Ok(usize::try_from(self.0 >> 33)? % sides)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) -> Result<()> {
        for last in (1..items.len()).rev() {
            items.swap(last, self.roll(last + 1)?);
        }
        Ok(())
    }
}

async fn ask(name: String, rest: Rest, mut grpc: Grpc, by_grpc: bool) -> Result<()> {
    if by_grpc {
        let request = CreateStorageRequest {
            name,
            storage_type: "file".to_owned(),
            capacity_bytes: BYTES,
            ..Default::default()
        };
        grpc.create_storage(request).await?;
    } else {
        let request = json!({"name": name, "storage_type": "file", "capacity_bytes": BYTES});
        rest.post("/v1/storage", &request).await?;
    }
    Ok(())
}

async fn all<F>(tasks: impl IntoIterator<Item = F>) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut running: JoinSet<Result<()>> = tasks.into_iter().collect();
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

/// The claims of this seed, and the version of the whole.
struct Claims {
    items: Vec<Value>,
    version: u64,
}

impl Claims {
    async fn of(cluster: &Cluster, prefix: &str) -> Result<Self> {
        let found = cluster.object("namespaces/default/unifiedstorageclaims").await?;
        let items = list(&found, "/items").iter();
        let mine = |claim: &&Value| text(claim, "/metadata/name").is_ok_and(|name| name.starts_with(prefix));
        Ok(Self {
            version: text(&found, "/metadata/resourceVersion")?.parse()?,
            items: items.filter(mine).cloned().collect(),
        })
    }

    fn in_phase(&self, phase: &str) -> Vec<&Value> {
        let there = |claim: &&Value| text(claim, "/status/phase").is_ok_and(|found| found == phase);
        self.items.iter().filter(there).collect()
    }

    fn served(&self) -> Result<BTreeSet<String>> {
        let ready = self.in_phase("Ready");
        ready
            .iter()
            .map(|claim| Ok(text(claim, "/spec/volumeName")?.to_owned()))
            .collect()
    }

    /// So many Ready, and every other one waits with a reason with numbers.
    fn expect(&self, served: usize, waiting: usize) -> Result<()> {
        let (ready, pending) = (self.in_phase("Ready"), self.in_phase("Pending"));
        ensure!(
            (ready.len(), pending.len()) == (served, waiting),
            "{} Ready and {} Pending of {}",
            ready.len(),
            pending.len(),
            self.items.len()
        );
        for claim in pending {
            let conditions = list(claim, "/status/conditions").iter();
            let mut reasons = conditions.filter(|one| text(one, "/type").is_ok_and(|kind| kind == "Placed"));
            let reason = text(reasons.next().context("no condition Placed")?, "/message")?;
            let says = |word: &str| reason.contains(word);
            ensure!(
                (says("needs ") && says(" free") && says(" promised"))
                    && reason.chars().any(|c| c.is_ascii_digit()),
                "{reason}"
            );
        }
        Ok(())
    }
}

/// Bytes of the pool that can be promised, what is promised, and a slot; never more promised than there is.
async fn pool(cluster: &Cluster) -> Result<(u64, u64, u64)> {
    let pool = cluster.object(POOL).await?;
    let of = |name: &str| number(&pool, &format!("/status/{name}"));
    let (total, promised) = (of("totalCapacityBytes")?, of("promisedBytes")?);
    ensure!(promised <= total, "{promised} is promised of {total}");
    Ok((total, promised, of("slotBytes")?))
}

/// The directories of volumes on the filer.
async fn stored(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let found = cluster.filer()?.list("/buckets").await?;
    Ok(found.into_iter().filter(|name| name.starts_with("uv-")).collect())
}

/// Takes everything but the room for thirty.
async fn fill(cluster: &Cluster) -> Result<()> {
    whole_pool(cluster, SETTLED).await?;
    let (total, promised, slot) = pool(cluster).await?;
    let slots = (total - promised) / slot - ROOM as u64;
    let request =
        json!({"name": "filler", "storage_type": "file", "capacity_bytes": slots * slot * 100 / 130});
    let filler = cluster.rest()?.post("/v1/storage", &request).await?;
    cluster.phase(text(&filler, "/id")?, "Ready", SETTLED).await?;
    let (total, promised, slot) = pool(cluster).await?;
    ensure!(
        (total - promised) / slot == ROOM as u64,
        "room for {ROOM} is left: {promised} is promised of {total}, a slot is {slot}"
    );
    Ok(())
}

async fn delete(cluster: &Cluster, ids: impl IntoIterator<Item = String>) -> Result<()> {
    let (rest, grpc) = (cluster.rest()?, cluster.grpc().await?);
    all(ids.into_iter().enumerate().map(|(index, id)| {
        let (rest, mut grpc) = (rest.clone(), grpc.clone());
        async move {
            if index % 2 == 0 {
                rest.delete(&format!("/v1/storage/{id}")).await?;
            } else {
                grpc.delete_storage(DeleteStorageRequest { id }).await?;
            }
            Ok(())
        }
    }))
    .await
}

async fn play(cluster: &Cluster, seed: u64, before: &BTreeSet<String>) -> Result<()> {
    let (mut dice, prefix) = (Dice(seed), format!("s{seed}-"));
    let promised = pool(cluster).await?.1;
    let mut names: Vec<String> = (0..ASKED).map(|n| format!("{prefix}{n}")).collect();
    dice.shuffle(&mut names)?;
    let since = Claims::of(cluster, &prefix).await?.version;
    let (rest, grpc) = (cluster.rest()?, cluster.grpc().await?);
    let mut tasks = Vec::new();
    for name in names {
        tasks.push(ask(name, rest.clone(), grpc.clone(), dice.roll(2)? == 0));
    }
    all(tasks).await?;
    let settled = eventually(SETTLED, "thirty are served, the others wait", || async {
        pool(cluster).await?;
        let claims = Claims::of(cluster, &prefix).await?;
        claims.expect(ROOM, ASKED - ROOM)?;
        Ok(Some(claims))
    })
    .await?;
    let writes = settled.version - since;
    println!("  seed {seed}: {writes} writes for {ASKED} claims");
    let (served, waiting) = (ROOM as u64, (ASKED - ROOM) as u64);
    let bound = served * WRITES_OF_SERVED + waiting * WRITES_OF_WAITING + WRITES_BESIDE;
    ensure!(writes <= bound, "{writes} writes, at most {bound} were expected");
    let first = settled.served()?;
    ensure!(
        stored(cluster).await? == before | &first,
        "the filer holds exactly those"
    );

    let mut gone: Vec<String> = first.iter().cloned().collect();
    dice.shuffle(&mut gone)?;
    gone.truncate(GIVEN_BACK);
    let gone: BTreeSet<String> = gone.into_iter().collect();
    let since = Claims::of(cluster, &prefix).await?.version;
    delete(cluster, gone.clone()).await?;
    let settled = eventually(SETTLED, "ten more are served", || async {
        pool(cluster).await?;
        let claims = Claims::of(cluster, &prefix).await?;
        claims.expect(ROOM, ASKED - ROOM - GIVEN_BACK)?;
        ensure!(
            stored(cluster).await? == before | &claims.served()?,
            "the filer holds exactly those"
        );
        Ok(Some(claims))
    })
    .await?;
    let kept: BTreeSet<String> = &first - &gone;
    ensure!(kept.is_subset(&settled.served()?), "who had storage keeps it");
    let writes = settled.version - since;
    println!("  seed {seed}: {writes} writes for {GIVEN_BACK} that went and {GIVEN_BACK} that came");
    let bound = 2 * GIVEN_BACK as u64 * WRITES_OF_SERVED + WRITES_BESIDE;
    ensure!(writes <= bound, "{writes} writes, at most {bound} were expected");

    let ids: Result<Vec<String>> = settled
        .items
        .iter()
        .map(|claim| Ok(text(claim, "/spec/volumeName")?.to_owned()))
        .collect();
    delete(cluster, ids?).await?;
    eventually(SETTLED, "all of them are deleted", || async {
        ensure!(Claims::of(cluster, &prefix).await?.items.is_empty());
        let now = pool(cluster).await?.1;
        ensure!(now == promised, "{now} is promised, {promised} was");
        ensure!(stored(cluster).await? == *before, "the filer holds more");
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_ask_at_once_where_thirty_find_room() -> Result<()> {
    if skipped("no_byte_twice", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("no_byte_twice", Setup::DEMO).await?;
    fill(&cluster).await?;
    let before = stored(&cluster).await?;
    for seed in 0..SEEDS {
        play(&cluster, seed, &before)
            .await
            .with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}
