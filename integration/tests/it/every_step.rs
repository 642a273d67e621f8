//! Controller and agent die at every point that they name: after each, the rest is done at the next start, and
//! nothing is lost, doubled or left behind.
//!
//! One instance serves for all points. A program is armed, what passes the point is done as a client would do it (the
//! same request again until it is acknowledged), the program has to die there, and is started again by the test.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use smart_storage_integration::{
    Cluster, Component, LoopDrive, MIB, S3, Setup, checker, needs::INSTANCE, quietly, skipped,
};

use crate::reading::{noise, text};

const PATIENCE: Duration = Duration::from_secs(120);
const POOLS: &str = "unifiedpools";

/// What the points of a running instance are passed by; the rest belongs to `first_steps`.
const REQUESTS: [&str; 6] = ["Start", "Create", "Grow", "Rotate", "Delete", "Forget"];
const DRIVES: [&str; 2] = ["Take", "Release"];
const FIRST: [&str; 3] = ["FirstStart", "JoinToken", "Enrolment"];

/// Which program dies where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    program: &'static str,
    point: String,
    pass: u32,
}

struct Bed {
    cluster: Cluster,
    controller: Component,
    agent: Component,
    kept: String,
    deaths: u32,
}

impl Bed {
    async fn start(suite: &str) -> Result<Self> {
        let cluster = Cluster::start(suite, Setup::DEMO).await?;
        let controller = Component::take_over(&cluster, "controller").await?;
        let agent = Component::take_over(&cluster, "agent").await?;
        let claim = cluster
            .object("namespaces/default/unifiedstorageclaims/demo")
            .await?;
        let folder = text(&claim, "/status/access/filer/path")?;
        let kept = format!("{}/kept", folder.trim_end_matches('/'));
        ensure!(cluster.filer()?.put(&kept, noise(1, 1 << 20)).await?.is_success());
        let bed = Self {
            cluster,
            controller,
            agent,
            kept,
            deaths: 0,
        };
        bed.is_well("before the first death").await?;
        Ok(bed)
    }

    /// The points of both programs that are passed by one of `during`, in their order.
    fn steps(&self, during: &[&str]) -> Result<BTreeMap<String, Vec<Step>>> {
        let mut steps: BTreeMap<String, Vec<Step>> = BTreeMap::new();
        for (program, component) in [("controller", &self.controller), ("agent", &self.agent)] {
            for (point, passed_by) in component.points()? {
                ensure!(
                    [&REQUESTS[..], &DRIVES, &FIRST]
                        .concat()
                        .contains(&passed_by.as_str()),
                    "no scenario for {point} of the {program}: it is passed by {passed_by}"
                );
                if during.contains(&passed_by.as_str()) {
                    steps.entry(passed_by).or_default().push(Step {
                        program,
                        point,
                        pass: 1,
                    });
                }
            }
        }
        Ok(steps)
    }

    async fn is_well(&self, when: &str) -> Result<()> {
        let took = checker::converged(&self.cluster, PATIENCE)
            .await
            .with_context(|| when.to_owned())?;
        if took > Duration::from_secs(5) {
            println!("  {when}: converged only after {took:.1?}");
        }
        let kept = self.cluster.filer()?.get(&self.kept).await?;
        ensure!(kept == noise(1, 1 << 20), "{when}: data of before is damaged");
        Ok(())
    }

    fn component(&mut self, program: &str) -> &mut Component {
        if program == "agent" {
            &mut self.agent
        } else {
            &mut self.controller
        }
    }

    /// Does `work` while the steps' programs die in it; answers what came of the work, and which of them died.
    async fn during<T, F>(&mut self, steps: &[&Step], work: F) -> Result<(T, Vec<bool>)>
    where
        F: Future<Output = Result<T>>,
    {
        for step in steps {
            self.component(step.program).arm(&step.point, step.pass)?;
        }
        let mut died = vec![false; steps.len()];
        let mut work = std::pin::pin!(work);
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                () = tokio::time::sleep(Duration::from_millis(10)) => self.revive(steps, &mut died)?,
            }
        };
        let done = done.with_context(|| format!("{steps:?}, died: {died:?}"))?;
        // The last effects may come after the answer.
        let start = std::time::Instant::now();
        while died.contains(&false) && start.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.revive(steps, &mut died)?;
        }
        for step in steps {
            self.component(step.program).disarm();
        }
        self.revive(steps, &mut died)?;
        for component in [&mut self.controller, &mut self.agent] {
            component.ready(PATIENCE).await?;
        }
        self.deaths += u32::try_from(died.iter().filter(|died| **died).count())?;
        Ok((done, died))
    }

    /// Starts those that died. None is waited for: an agent is ready only where its controller is, which may be the
    /// next to die.
    fn revive(&mut self, steps: &[&Step], died: &mut [bool]) -> Result<()> {
        for (step, died) in steps.iter().zip(died) {
            let component = self.component(step.program);
            if component.has_died().with_context(|| format!("{step:?}"))? {
                checker::holds_at_any_moment(&self.cluster, step.program == "controller")
                    .with_context(|| format!("{step:?}"))?;
                self.component(step.program).start()?;
                *died = true;
            }
        }
        Ok(())
    }

    /// As [`Bed::during`]: it has to die there, and all has to be well afterwards.
    async fn must_die<T, F>(&mut self, step: Option<&Step>, work: F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let Some(step) = step else { return work.await };
        let (done, died) = self.during(&[step], work).await?;
        ensure!(died == [true], "nothing came to {step:?}: its scenario is wrong");
        self.is_well(&format!("{step:?}")).await?;
        Ok(done)
    }

    /// As [`Bed::during`] for one step that may not come any more; says whether it did.
    async fn may_die<T, F>(&mut self, step: &Step, going: &mut bool, work: F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        if !*going {
            return work.await;
        }
        let (done, died) = self.during(&[step], work).await?;
        *going = died == [true];
        self.is_well(&format!("{step:?}")).await?;
        Ok(done)
    }
}

/// One call until it has one of these statuses.
async fn insist(
    cluster: &Cluster,
    method: Method,
    path: &str,
    body: Option<Value>,
    wanted: &[u16],
) -> Result<Value> {
    let rest = cluster.rest()?;
    quietly(PATIENCE, &format!("{method} {path}"), || async {
        let (status, answer) = rest.call(method.clone(), path, body.as_ref()).await?;
        ensure!(wanted.contains(&status.as_u16()), "{status}: {answer}");
        Ok(Some(answer))
    })
    .await
}

/// Waits until a claim is Ready with that size.
async fn ready(cluster: &Cluster, id: &str, bytes: u64) -> Result<()> {
    let rest = cluster.rest()?;
    quietly(PATIENCE, &format!("{id} is Ready"), || async {
        let claim = rest.get(&format!("/v1/storage/{id}")).await?;
        let has = claim.get("capacity_bytes").and_then(Value::as_u64);
        ensure!(
            text(&claim, "/phase")? == "Ready" && has == Some(bytes),
            "{claim}"
        );
        Ok(Some(()))
    })
    .await
}

async fn create(cluster: &Cluster, name: &str, bytes: u64) -> Result<String> {
    asked(cluster, name, bytes, "Delete").await
}

async fn asked(cluster: &Cluster, name: &str, bytes: u64, policy: &str) -> Result<String> {
    let ask = json!({
        "name": name, "storage_type": "file", "capacity_bytes": bytes, "reclaim_policy": policy,
    });
    let claim = insist(cluster, Method::POST, "/v1/storage", Some(ask), &[200, 201]).await?;
    let id = text(&claim, "/id")?.to_owned();
    ready(cluster, &id, bytes).await?;
    Ok(id)
}

async fn grow(cluster: &Cluster, id: &str, bytes: u64) -> Result<()> {
    let ask = json!({"capacity_bytes": bytes});
    insist(
        cluster,
        Method::PATCH,
        &format!("/v1/storage/{id}"),
        Some(ask),
        &[200],
    )
    .await?;
    ready(cluster, id, bytes).await
}

/// New keys, which open the claim's bucket.
async fn rotate(cluster: &Cluster, id: &str) -> Result<S3> {
    let path = format!("/v1/storage/{id}/credentials");
    let given = insist(cluster, Method::POST, &path, None, &[200, 201]).await?;
    S3::new(
        cluster.http().clone(),
        text(&given, "/endpoint")?,
        text(&given, "/bucket")?,
        text(&given, "/access_key")?,
        text(&given, "/secret_key")?,
    )
}

async fn delete(cluster: &Cluster, id: &str) -> Result<()> {
    let path = format!("/v1/storage/{id}");
    insist(cluster, Method::DELETE, &path, None, &[200, 202, 204, 404]).await?;
    insist(cluster, Method::GET, &path, None, &[404]).await?;
    Ok(())
}

/// The volume of a request that is gone, which was to be kept: nobody's any more, with all its data.
async fn forget(cluster: &Cluster, id: &str) -> Result<()> {
    let path = format!("unifiedvolumes/{id}");
    quietly(PATIENCE, &format!("{id} is forgotten"), || async {
        match kube(cluster, Method::DELETE, &path, None).await {
            Err(error) if has_code(&error, 404) => Ok(Some(())),
            Err(error) => Err(error),
            Ok(volume) => bail!("{volume}"),
        }
    })
    .await
}

/// A claim whose data is kept: it goes, then its volume does.
async fn kept(bed: &mut Bed, name: &str, step: &Step) -> Result<()> {
    let instance = bed.cluster.another_view();
    let id = asked(&instance, name, 4 * MIB, "Retain").await?;
    let (file, bytes) = (format!("/buckets/{id}/data/file"), noise(8, 100_000));
    let put = instance.filer()?.put(&file, bytes.clone()).await?;
    ensure!(put.is_success(), "{put}");
    let path = format!("/v1/storage/{id}");
    insist(&instance, Method::DELETE, &path, None, &[200, 202, 204, 404]).await?;
    quietly(PATIENCE, &format!("{id} is released"), || async {
        let volume = instance.object(&format!("unifiedvolumes/{id}")).await?;
        ensure!(text(&volume, "/status/phase")? == "Released", "{volume}");
        Ok(Some(()))
    })
    .await?;
    bed.must_die(Some(step), forget(&instance, &id)).await?;
    ensure!(
        instance.filer()?.get(&file).await? == bytes,
        "{step:?}: what was to be kept is damaged"
    );
    Ok(())
}

/// A whole life of one claim, in which each part may be the one that is interrupted.
async fn life(bed: &mut Bed, name: &str, steps: &BTreeMap<&str, &Step>) -> Result<()> {
    let step = |part: &str| steps.get(part).copied();
    // Work and deaths go on side by side: the work needs the instance, the deaths its programs.
    let instance = bed.cluster.another_view();
    let id = bed
        .must_die(step("Create"), create(&instance, name, 4 * MIB))
        .await?;
    let (folder, bytes) = (format!("/buckets/{id}/data"), noise(7, 100_000));
    let file = format!("{folder}/file");
    let put = instance.filer()?.put(&file, bytes.clone()).await?;
    ensure!(put.is_success(), "{put}");
    if let Some(step) = step("Grow") {
        bed.must_die(Some(step), grow(&instance, &id, 60 * MIB)).await?;
    }
    if let Some(step) = step("Rotate") {
        // By one who asks once and never again: what is half-way is brought to its end without him.
        let path = format!("/v1/storage/{id}/credentials");
        let once = async {
            let _unanswered = instance.rest()?.post(&path, &Value::Null).await;
            Ok(())
        };
        bed.must_die(Some(step), once).await?;
        let keys = rotate(&instance, &id).await?;
        let (status, read) = keys.get("data/file").await?;
        ensure!(
            status == StatusCode::OK && read == bytes,
            "{step:?}: the keys that were answered open nothing: {status}"
        );
    }
    ensure!(
        instance.filer()?.get(&file).await? == bytes,
        "{name}: its data is damaged"
    );
    bed.must_die(step("Delete"), delete(&instance, &id)).await?;
    match step("Forget") {
        Some(step) => kept(bed, &format!("{name}-kept"), step).await,
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_point_of_a_request_loses_doubles_and_leaks_nothing() -> Result<()> {
    if skipped("every step: requests", &INSTANCE)? {
        return Ok(());
    }
    let mut bed = Bed::start("steps").await?;
    let steps = bed.steps(&REQUESTS)?;
    let all: usize = steps.values().map(Vec::len).sum();
    for step in steps.get("Start").into_iter().flatten() {
        bed.component(step.program).kill()?;
        bed.component(step.program).arm(&step.point, step.pass)?;
        bed.component(step.program).start()?;
        let component = bed.component(step.program);
        quietly(PATIENCE, &format!("it dies at {step:?}"), || {
            let ended = component.ended();
            async { Ok(ended?.map(|_| ())) }
        })
        .await?;
        component.start()?;
        component.ready(PATIENCE).await?;
        bed.deaths += 1;
        bed.is_well(&format!("{step:?}")).await?;
    }
    let longest = steps.values().map(Vec::len).max().unwrap_or_default();
    for round in 0..longest {
        let mine = steps
            .iter()
            .filter(|(part, _)| part.as_str() != "Start")
            .filter_map(|(part, steps)| Some((part.as_str(), steps.get(round)?)))
            .collect();
        life(&mut bed, &format!("step-{round}"), &mine).await?;
    }
    ensure!(
        usize::try_from(bed.deaths)? == all,
        "{} deaths at {all} points",
        bed.deaths
    );
    println!("  died at each of {all} points, and all was well");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_write_of_the_store_loses_doubles_and_leaks_nothing() -> Result<()> {
    if skipped("every step: writes", &INSTANCE)? {
        return Ok(());
    }
    let mut bed = Bed::start("writes").await?;
    let instance = bed.cluster.another_view();
    for point in ["store-before-commit", "store-after-commit"] {
        let step = |pass| Step {
            program: "controller",
            point: point.to_owned(),
            pass,
        };
        // As long as each part has that many writes.
        let [mut creates, mut grows, mut rotates, mut deletes] = [true; 4];
        for pass in 1.. {
            let step = step(pass);
            let name = format!("{point}-{pass}");
            let id = bed
                .may_die(&step, &mut creates, create(&instance, &name, 4 * MIB))
                .await?;
            bed.may_die(&step, &mut grows, grow(&instance, &id, 60 * MIB))
                .await?;
            bed.may_die(&step, &mut rotates, rotate(&instance, &id)).await?;
            bed.may_die(&step, &mut deletes, delete(&instance, &id)).await?;
            if !(creates || grows || rotates || deletes) {
                break;
            }
            ensure!(pass < 60, "a request needs more than {pass} writes");
        }
    }
    println!("  died at {} writes, and all was well", bed.deaths);
    ensure!(
        bed.deaths >= 20,
        "{} deaths: requests write more often than that",
        bed.deaths
    );
    Ok(())
}

fn pool() -> Value {
    json!({
        "apiVersion": "storage.billyronks.io/v1", "kind": "UnifiedPool", "metadata": {"name": "step"},
        "spec": {
            "poolType": "file", "backend": {"type": "seaweedfs"},
            "driveSelector": {
                "driveTypes": ["unknown"], "matchLabels": {"storage.billyronks.io/transport": "loop"},
            },
            "capacity": {"minDrives": 1, "maxDrives": 1},
        },
    })
}

/// One call of the Kubernetes API below our group.
async fn kube(cluster: &Cluster, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("/apis/storage.billyronks.io/v1/{path}"))
        .header("Content-Type", "application/json")
        .body(body.map(serde_json::to_vec).transpose()?.unwrap_or_default())?;
    Ok(cluster.kube().await?.request::<Value>(request).await?)
}

fn has_code(error: &anyhow::Error, code: u16) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == code)
}

/// A pool that claims the one free drive, until it is Ready.
pub async fn take(cluster: &Cluster, patience: Duration) -> Result<()> {
    quietly(patience, "the pool is made", || async {
        match kube(cluster, Method::POST, POOLS, Some(&pool())).await {
            Err(error) if !has_code(&error, 409) => Err(error),
            _ => Ok(Some(())),
        }
    })
    .await?;
    quietly(patience, "the pool is Ready", || async {
        let pool = kube(cluster, Method::GET, &format!("{POOLS}/step"), None).await?;
        ensure!(text(&pool, "/status/phase")? == "Ready", "{pool}");
        Ok(Some(()))
    })
    .await
}

/// The pool deleted, until its drive is released and it is gone.
pub async fn release(cluster: &Cluster, patience: Duration) -> Result<()> {
    let path = format!("{POOLS}/step");
    quietly(patience, "the pool's deletion is taken", || async {
        match kube(cluster, Method::DELETE, &path, None).await {
            Err(error) if !has_code(&error, 404) => Err(error),
            _ => Ok(Some(())),
        }
    })
    .await?;
    quietly(patience, "the pool is gone", || async {
        match kube(cluster, Method::GET, &path, None).await {
            Err(error) if has_code(&error, 404) => Ok(Some(())),
            Err(error) => Err(error),
            Ok(pool) => bail!("{pool}"),
        }
    })
    .await
}

pub fn put_away(drive: &LoopDrive) -> Result<()> {
    drive.detach()?;
    Ok(std::fs::remove_file(&drive.file)?)
}

/// The controller's points of one part, and after them each of its writes, as long as there are some.
fn with_writes(steps: &[Step], writes_end: bool, round: usize) -> Option<Step> {
    let pass = u32::try_from(round.checked_sub(steps.len()).map_or(0, |past| past + 1)).unwrap_or(0);
    steps.get(round).cloned().or_else(|| {
        (!writes_end).then(|| Step {
            program: "controller",
            point: "store-after-commit".to_owned(),
            pass,
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_point_of_a_drive_s_way_loses_doubles_and_leaks_nothing() -> Result<()> {
    if skipped("every step: drives", &INSTANCE)? {
        return Ok(());
    }
    let mut bed = Bed::start("drives").await?;
    let instance = bed.cluster.another_view();
    let steps = bed.steps(&DRIVES)?;
    let of = |program: &str, part: &str| -> Vec<Step> {
        let steps = steps.get(part).into_iter().flatten();
        steps.filter(|step| step.program == program).cloned().collect()
    };
    let parts = ["Take", "Release"];
    let controller = parts.map(|part| of("controller", part));
    let agent = parts.map(|part| of("agent", part));
    let mut writes_end = [false, false];
    let mut writes = 0;
    for round in 0.. {
        // Both programs die in one go: the controller at its points and then at each of its writes.
        let armed = [0, 1].map(|part| {
            let mine = with_writes(&controller[part], writes_end[part], round);
            (mine, agent[part].get(round).cloned())
        });
        if armed.iter().all(|(one, other)| one.is_none() && other.is_none()) {
            break;
        }
        ensure!(round < 60, "a drive needs more than {round} writes");
        let drive = bed.cluster.attach(&format!("step-{round}"), 600 * MIB)?;
        for (part, (mine, agents)) in armed.iter().enumerate() {
            let both: Vec<&Step> = mine.iter().chain(agents).collect();
            let died = if part == 0 {
                bed.during(&both, take(&instance, PATIENCE)).await?.1
            } else {
                bed.during(&both, release(&instance, PATIENCE)).await?.1
            };
            for (step, died) in both.iter().zip(died) {
                if step.point == "store-after-commit" {
                    writes += u32::from(died);
                    writes_end[part] = !died;
                } else {
                    ensure!(died, "nothing came to {step:?}: its scenario is wrong");
                }
            }
            bed.is_well(&format!("{both:?}")).await?;
        }
        put_away(&drive)?;
    }
    let all: usize = controller.iter().chain(&agent).map(Vec::len).sum();
    ensure!(writes >= 20, "{writes} writes: drives need more than that");
    println!("  died at each of {all} points and {writes} writes, and all was well");
    Ok(())
}
