//! Somebody who only wants to work: asks for storage, looks at it through every door and deletes it, again and again,
//! while others misbehave.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::json;
use smart_storage_integration::{Cluster, MIB, Rest, cluster::Grpc, eventually};
use smart_storage_proto::v1::GetStorageRequest;
use tokio::task::JoinHandle;

use crate::reading::text;

/// How often each request may fail before it counts as not served.
const ATTEMPTS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(15);

pub struct Witness {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Seen>>,
}

#[derive(Debug, Default)]
pub struct Seen {
    rounds: u64,
    repeats: u64,
    slowest: Duration,
}

struct Work {
    rest: Rest,
    grpc: Grpc,
    kube: kube::Client,
    seen: Seen,
}

/// Tries until it succeeds, a few times at most.
async fn attempt<T>(seen: &mut Seen, what: &str, mut call: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match tokio::time::timeout(PATIENCE, call()).await {
            Ok(Ok(answer)) => {
                seen.slowest = seen.slowest.max(begin.elapsed());
                return Ok(answer);
            }
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(anyhow::anyhow!("no answer in {PATIENCE:?}")),
        }
        seen.repeats += 1;
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("never tried")))
        .with_context(|| format!("the witness is not served: {what}, {ATTEMPTS} attempts"))
}

impl Work {
    async fn round(&mut self, number: u64) -> Result<()> {
        let (rest, grpc, kube, seen) = (&self.rest, &self.grpc, &self.kube, &mut self.seen);
        let name = format!("witness-{number}");
        let ask = json!({"name": name, "storage_type": "file", "capacity_bytes": 4 * MIB});
        let claim = attempt(seen, "create", async || {
            let claim = rest.post("/v1/storage?wait=10s", &ask).await?;
            ensure!(text(&claim, "/phase")? == "Ready", "{claim}");
            Ok(claim)
        })
        .await?;
        let id = text(&claim, "/id")?;
        attempt(seen, "get over gRPC", async || {
            let answer = grpc
                .clone()
                .get_storage(GetStorageRequest { id: id.to_owned() })
                .await?;
            ensure!(answer.into_inner().name == name);
            Ok(())
        })
        .await?;
        let path = format!("/apis/storage.billyronks.io/v1/namespaces/default/unifiedstorageclaims/{name}");
        attempt(seen, "get through Kubernetes' API", async || {
            let request = http::Request::get(&path).body(Vec::new())?;
            Ok(kube.request::<serde_json::Value>(request).await?)
        })
        .await?;
        attempt(seen, "delete", async || {
            let path = format!("/v1/storage/{id}");
            let (status, answer) = rest.call(Method::DELETE, &path, None).await?;
            match status {
                StatusCode::ACCEPTED | StatusCode::NOT_FOUND => Ok(()),
                _ => bail!("{status}: {answer}"),
            }
        })
        .await
    }
}

impl Witness {
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let mut work = Work {
            rest: cluster.rest()?,
            grpc: cluster.grpc().await?,
            kube: cluster.kube().await?,
            seen: Seen::default(),
        };
        let (rounds, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&rounds), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                work.round(work.seen.rounds).await?;
                work.seen.rounds += 1;
                counted.store(work.seen.rounds, Ordering::Relaxed);
            }
            Ok(work.seen)
        });
        Ok(Self { rounds, stop, task })
    }

    /// Waits until a round that began after now is done.
    pub async fn is_served(&self, while_what: &str) -> Result<()> {
        let before = self.rounds.load(Ordering::Relaxed);
        let what = format!("the witness is served: {while_what}");
        eventually(Duration::from_secs(120), &what, || async {
            ensure!(!self.task.is_finished(), "the witness gave up");
            Ok((self.rounds.load(Ordering::Relaxed) >= before + 2).then_some(()))
        })
        .await
    }

    pub async fn end(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}
