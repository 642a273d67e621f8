//! The load: each worker asks for storage, grows it, changes its keys, writes into it and deletes it, through REST and
//! gRPC in turn, and repeats what was not acknowledged, as any client would.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use smart_storage_integration::{Cluster, MIB, quietly};
use smart_storage_proto::v1::{
    CreateStorageRequest, DeleteStorageRequest, ExpandStorageRequest, RotateCredentialsRequest,
};

use super::Dice;
use crate::reading::{noise, text};

/// Bytes of each file that is written.
pub const FILE_BYTES: usize = 20_000;
/// Claims that a worker has at most at the same time.
const MOST: usize = 6;
/// How long a request may take while its servers die all the time: without deaths it is a second.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// One request and what was acknowledged of it.
#[derive(Debug)]
pub struct Asked {
    /// Its name, which makes the request idempotent.
    pub name: String,
    /// The id that was answered.
    pub id: String,
    /// The size that was acknowledged last.
    pub bytes: u64,
    /// The keys that were answered last.
    pub keys: Option<(String, String)>,
    /// Files that the filer took, with the seed of their bytes.
    pub files: BTreeMap<String, u64>,
    /// Whether its deletion was acknowledged.
    pub deleted: bool,
}

/// How often what was acknowledged.
pub type Counted = BTreeMap<&'static str, u32>;

/// One of those who ask.
pub struct Worker {
    number: u64,
    instance: Cluster,
    dice: Dice,
    asked: Vec<Asked>,
    counted: Counted,
}

impl Worker {
    /// A worker with dice of its own.
    pub fn new(number: u64, instance: Cluster, dice: Dice) -> Self {
        Self {
            number,
            instance,
            dice,
            asked: Vec::new(),
            counted: Counted::new(),
        }
    }

    /// Asks until it is told to stop; answers what was acknowledged.
    pub async fn work(mut self, stop: Arc<AtomicBool>) -> Result<(Vec<Asked>, Counted)> {
        while !stop.load(Ordering::Relaxed) {
            let living: Vec<usize> = (0..self.asked.len())
                .filter(|at| self.asked.get(*at).is_some_and(|asked| !asked.deleted))
                .collect();
            let pick = usize::try_from(self.dice.below(living.len() as u64))?;
            let throw = self.dice.below(100);
            match living.get(pick) {
                Some(at) if living.len() >= MOST || throw >= 30 => {
                    let at = *at;
                    match throw {
                        0..20 => self.delete(at).await?,
                        20..40 => self.grow(at).await?,
                        40..60 => self.rotate(at).await?,
                        _ => self.write(at).await?,
                    }
                }
                _ => self.create().await?,
            }
        }
        Ok((self.asked, self.counted))
    }

    fn count(&mut self, what: &'static str) {
        *self.counted.entry(what).or_default() += 1;
    }

    fn at(&mut self, at: usize) -> Result<&mut Asked> {
        self.asked.get_mut(at).context("no such request")
    }

    fn over_grpc(&mut self) -> bool {
        self.dice.below(2) == 0
    }

    async fn create(&mut self) -> Result<()> {
        let name = format!("chaos-{}-{}", self.number, self.asked.len());
        let bytes = (1 + self.dice.below(30)) * MIB;
        let (over_grpc, instance) = (self.over_grpc(), &self.instance);
        let id = quietly(PATIENCE, &format!("{name} is taken"), || async {
            let id = if over_grpc {
                let ask = CreateStorageRequest {
                    name: name.clone(),
                    storage_type: "file".to_owned(),
                    capacity_bytes: bytes,
                    ..CreateStorageRequest::default()
                };
                let answer = instance.grpc().await?.create_storage(ask).await?.into_inner();
                answer.storage.context("no storage in the answer")?.id
            } else {
                let ask = json!({"name": name, "storage_type": "file", "capacity_bytes": bytes});
                let answer = instance.rest()?.post("/v1/storage", &ask).await?;
                text(&answer, "/id")?.to_owned()
            };
            Ok(Some(id))
        })
        .await?;
        self.asked.push(Asked {
            name,
            id,
            bytes,
            keys: None,
            files: BTreeMap::new(),
            deleted: false,
        });
        self.count("created");
        Ok(())
    }

    async fn grow(&mut self, at: usize) -> Result<()> {
        let more = (1 + self.dice.below(10)) * MIB;
        let over_grpc = self.over_grpc();
        let asked = self.at(at)?;
        let (id, bytes) = (asked.id.clone(), asked.bytes + more);
        let instance = &self.instance;
        quietly(PATIENCE, &format!("{id} grows"), || async {
            if over_grpc {
                let ask = ExpandStorageRequest {
                    id: id.clone(),
                    capacity_bytes: bytes,
                };
                instance.grpc().await?.expand_storage(ask).await?;
            } else {
                let ask = json!({"capacity_bytes": bytes});
                let path = format!("/v1/storage/{id}");
                let (status, answer) = instance.rest()?.call(Method::PATCH, &path, Some(&ask)).await?;
                ensure!(status.is_success(), "{status}: {answer}");
            }
            Ok(Some(()))
        })
        .await?;
        self.at(at)?.bytes = bytes;
        self.count("grown");
        Ok(())
    }

    async fn rotate(&mut self, at: usize) -> Result<()> {
        let over_grpc = self.over_grpc();
        let id = self.at(at)?.id.clone();
        let instance = &self.instance;
        let keys = quietly(PATIENCE, &format!("{id} gets new keys"), || async {
            let keys = if over_grpc {
                let ask = RotateCredentialsRequest { id: id.clone() };
                let given = instance.grpc().await?.rotate_credentials(ask).await?.into_inner();
                (given.access_key, given.secret_key)
            } else {
                let path = format!("/v1/storage/{id}/credentials");
                let given = instance.rest()?.post(&path, &Value::Null).await?;
                (
                    text(&given, "/access_key")?.to_owned(),
                    text(&given, "/secret_key")?.to_owned(),
                )
            };
            Ok(Some(keys))
        })
        .await?;
        self.at(at)?.keys = Some(keys);
        self.count("rotated");
        Ok(())
    }

    /// Into the claim through the filer, as soon as it is Ready; a file that is there already is read back first.
    async fn write(&mut self, at: usize) -> Result<()> {
        let (number, seed) = (self.dice.below(4), self.dice.below(1 << 40));
        let asked = self.at(at)?;
        let (id, path) = (asked.id.clone(), format!("file-{number}"));
        let before = asked.files.get(&path).copied();
        let file = format!("/buckets/{id}/data/{path}");
        let instance = &self.instance;
        quietly(PATIENCE, &format!("{id} is Ready"), || async {
            let claim = instance.rest()?.get(&format!("/v1/storage/{id}")).await?;
            ensure!(text(&claim, "/phase")? == "Ready", "{claim}");
            Ok(Some(()))
        })
        .await?;
        let filer = self.instance.filer()?;
        if let Some(before) = before {
            // While an agent is away its volume servers go on.
            let found = filer.get(&file).await?;
            ensure!(
                found == noise(before, FILE_BYTES),
                "{file} is not what was written"
            );
        }
        let status = filer.put(&file, noise(seed, FILE_BYTES)).await?;
        ensure!(status.is_success(), "{file}: {status}");
        self.at(at)?.files.insert(path, seed);
        self.count("written");
        Ok(())
    }

    async fn delete(&mut self, at: usize) -> Result<()> {
        let over_grpc = self.over_grpc();
        let instance = self.instance.another_view();
        self.at(at)?.delete(&instance, over_grpc).await?;
        self.count("deleted");
        Ok(())
    }
}

impl Asked {
    /// Deletes it, until that is acknowledged.
    async fn delete(&mut self, instance: &Cluster, over_grpc: bool) -> Result<()> {
        let id = &self.id;
        quietly(PATIENCE, &format!("{id} is deleted"), || async {
            if over_grpc {
                let ask = DeleteStorageRequest { id: id.clone() };
                match instance.grpc().await?.delete_storage(ask).await {
                    Err(status) if status.code() != tonic::Code::NotFound => return Err(status.into()),
                    _ => {}
                }
            } else {
                instance.rest()?.delete(&format!("/v1/storage/{id}")).await?;
            }
            Ok(Some(()))
        })
        .await?;
        self.deleted = true;
        Ok(())
    }

    /// Deletes it where it is on `pool`.
    pub async fn leave(&mut self, pool: &str, instance: &Cluster) -> Result<()> {
        let claim = instance.rest()?.get(&format!("/v1/storage/{}", self.id)).await?;
        if claim.get("pool").and_then(Value::as_str) == Some(pool) {
            self.delete(instance, false).await?;
        }
        Ok(())
    }
}
