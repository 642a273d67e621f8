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
const REQUESTS: [&str; 5] = ["Start", "Create", "Grow", "Rotate", "Delete"];
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

    /// Does `work` while the step's program dies in it; answers what came of the work, and whether it died.
    async fn during<T, F>(&mut self, step: Option<&Step>, work: F) -> Result<(T, bool)>
    where
        F: Future<Output = Result<T>>,
    {
        let Some(step) = step else {
            return Ok((work.await?, false));
        };
        let component = self.component(step.program);
        component.arm(&step.point, step.pass)?;
        let mut work = std::pin::pin!(work);
        let mut died = false;
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                () = tokio::time::sleep(Duration::from_millis(10)) => {
                    died = component.revive().await.with_context(|| format!("{step:?}"))? || died;
                }
            }
        };
        let done = done.with_context(|| format!("{step:?}, died: {died}"))?;
        // The last effects may come after the answer.
        let start = std::time::Instant::now();
        while !died && start.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            died = component.revive().await?;
        }
        component.disarm();
        died = died || component.revive().await?;
        self.deaths += u32::from(died);
        Ok((done, died))
    }

    /// As [`Bed::during`]: it has to die there, and all has to be well afterwards.
    async fn must_die<T, F>(&mut self, step: Option<&Step>, work: F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let start = std::time::Instant::now();
        let (done, died) = self.during(step, work).await?;
        let took = start.elapsed();
        if let Some(step) = step {
            println!("  {took:.1?} {step:?}");
            ensure!(died, "nothing came to {step:?}: its scenario is wrong");
            self.is_well(&format!("{step:?}")).await?;
        }
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
    let ask = json!({"name": name, "storage_type": "file", "capacity_bytes": bytes});
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
        let keys = bed.must_die(Some(step), rotate(&instance, &id)).await?;
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
    bed.must_die(step("Delete"), delete(&instance, &id)).await
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
        // As long as each part has that many writes; a part that ends before is done.
        let (mut create_is, mut grow_is, mut rotate_is, mut delete_is) = (true, true, true, true);
        for pass in 1.. {
            let step = step(pass);
            let armed = |going: bool| going.then_some(&step);
            let name = format!("{point}-{pass}");
            let (id, died) = bed
                .during(armed(create_is), create(&instance, &name, 4 * MIB))
                .await?;
            create_is = died;
            bed.is_well(&format!("creating, {step:?}")).await?;
            let ((), died) = bed.during(armed(grow_is), grow(&instance, &id, 60 * MIB)).await?;
            grow_is = died;
            bed.is_well(&format!("growing, {step:?}")).await?;
            let (_, died) = bed.during(armed(rotate_is), rotate(&instance, &id)).await?;
            rotate_is = died;
            bed.is_well(&format!("rotating, {step:?}")).await?;
            let ((), died) = bed.during(armed(delete_is), delete(&instance, &id)).await?;
            delete_is = died;
            bed.is_well(&format!("deleting, {step:?}")).await?;
            if !(create_is || grow_is || rotate_is || delete_is) {
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
pub async fn take(cluster: &Cluster) -> Result<()> {
    quietly(PATIENCE, "the pool is made", || async {
        match kube(cluster, Method::POST, POOLS, Some(&pool())).await {
            Err(error) if !has_code(&error, 409) => Err(error),
            _ => Ok(Some(())),
        }
    })
    .await?;
    quietly(PATIENCE, "the pool is Ready", || async {
        let pool = kube(cluster, Method::GET, &format!("{POOLS}/step"), None).await?;
        ensure!(text(&pool, "/status/phase")? == "Ready", "{pool}");
        Ok(Some(()))
    })
    .await
}

/// The pool deleted, until its drive is released and it is gone.
pub async fn release(cluster: &Cluster) -> Result<()> {
    let path = format!("{POOLS}/step");
    quietly(PATIENCE, "the pool's deletion is taken", || async {
        match kube(cluster, Method::DELETE, &path, None).await {
            Err(error) if !has_code(&error, 404) => Err(error),
            _ => Ok(Some(())),
        }
    })
    .await?;
    quietly(PATIENCE, "the pool is gone", || async {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_point_of_a_drive_s_way_loses_doubles_and_leaks_nothing() -> Result<()> {
    if skipped("every step: drives", &INSTANCE)? {
        return Ok(());
    }
    let mut bed = Bed::start("drives").await?;
    let instance = bed.cluster.another_view();
    let steps = bed.steps(&DRIVES)?;
    let none = Vec::new();
    let (taking, releasing) = (
        steps.get("Take").unwrap_or(&none),
        steps.get("Release").unwrap_or(&none),
    );
    let all = taking.len() + releasing.len();
    for round in 0..taking.len().max(releasing.len()) {
        let drive = bed.cluster.attach(&format!("step-{round}"), 600 * MIB)?;
        bed.must_die(taking.get(round), take(&instance)).await?;
        bed.must_die(releasing.get(round), release(&instance)).await?;
        put_away(&drive)?;
    }
    ensure!(
        usize::try_from(bed.deaths)? == all,
        "{} deaths at {all} points",
        bed.deaths
    );
    println!("  died at each of {all} points, and all was well");
    // And the controller at every write of the same way.
    for pass in 1.. {
        let step = Step {
            program: "controller",
            point: "store-after-commit".to_owned(),
            pass,
        };
        let drive = bed.cluster.attach(&format!("write-{pass}"), 600 * MIB)?;
        let ((), taken) = bed.during(Some(&step), take(&instance)).await?;
        bed.is_well(&format!("taking, {step:?}")).await?;
        let ((), released) = bed.during(Some(&step), release(&instance)).await?;
        bed.is_well(&format!("releasing, {step:?}")).await?;
        put_away(&drive)?;
        if !(taken || released) {
            println!("  died at each of {} writes, and all was well", pass - 1);
            break;
        }
        ensure!(pass < 60, "a drive needs more than {pass} writes");
    }
    Ok(())
}
