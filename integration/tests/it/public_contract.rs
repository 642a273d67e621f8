//! What the public side promises, asked by other people's tools: schemathesis, a validator and a linter over the OpenAPI
//! document, grpcurl through reflection, Prometheus' parser over the metrics. None of them may find anything.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use smart_storage_integration::{Cluster, MIB, Need, Setup, cluster::NODE, drives::run, skipped};

use crate::reading::text;

const NEEDS: [Need; 5] = [Need::Root, Need::Loop, Need::Weed, Need::Contract, Need::Grpcurl];
const SERVICE: &str = "smartstorage.v1.StorageService";
/// Whoever has to find out why it failed runs the same again.
const SEED: &str = "4711";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn tool(name: &str) -> Result<Command> {
    let folder = env::var_os("CONTRACT_TOOLS").context("CONTRACT_TOOLS names no folder")?;
    Ok(Command::new(Path::new(&folder).join("bin").join(name)))
}

/// Everything that schemathesis knows to check, over every operation, with generated and with broken requests.
fn schemathesis(cluster: &Cluster) -> Result<()> {
    let reports = cluster.state().join("run/schemathesis");
    let bearer = format!(
        "Authorization: Bearer {}",
        cluster.variable("SMART_STORAGE_TOKEN")?
    );
    let said = run(tool("schemathesis")?
        .current_dir(cluster.state())
        .arg("--config-file")
        .arg(repository().join("integration/contract/schemathesis.toml"))
        .arg("run")
        .arg(repository().join("deploy/openapi.json"))
        .args([
            "--url",
            cluster.variable("SMART_STORAGE_URL")?,
            "--header",
            &bearer,
        ])
        .args(["--phases", "examples,coverage,fuzzing,stateful"])
        .args([
            "--max-examples",
            "50",
            "--seed",
            SEED,
            "--generation-database",
            "none",
        ])
        .args(["--request-timeout", "30", "--no-color", "--report-dir"])
        .arg(reports))?;
    let tail: Vec<_> = said
        .lines()
        .skip_while(|line| !line.contains("SUMMARY"))
        .collect();
    println!("{}", tail.join("\n    "));
    // Its exit status says whether it found something; this, that it looked.
    let tested = ["Tested: 15", "✅ Coverage", "✅ Fuzzing", "✅ Stateful"];
    ensure!(tested.iter().all(|words| said.contains(words)), "{said}");
    Ok(())
}

/// What is deleted is Deleting until it is gone, and nothing else.
async fn deletes(cluster: &Cluster) -> Result<()> {
    let rest = cluster.rest()?;
    for number in 0..10 {
        let ask = json!({"name": format!("deleted-{number}"), "storage_type": "file", "capacity_bytes": MIB});
        let made = rest.post("/v1/storage", &ask).await?;
        let path = format!("/v1/storage/{}", text(&made, "/id")?);
        let (status, answer) = rest.call(Method::DELETE, &path, None).await?;
        ensure!(
            status == StatusCode::ACCEPTED && text(&answer, "/phase")? == "Deleting",
            "{status}: {answer}"
        );
        let begin = Instant::now();
        loop {
            let (status, answer) = rest.call(Method::GET, &path, None).await?;
            if status == StatusCode::NOT_FOUND {
                break;
            }
            ensure!(
                status == StatusCode::OK && text(&answer, "/phase")? == "Deleting",
                "after its deletion was accepted: {status}: {answer}"
            );
            ensure!(
                begin.elapsed() < Duration::from_secs(30),
                "it does not go: {answer}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// The document is what the server serves, valid, and well made.
async fn document(cluster: &Cluster) -> Result<()> {
    let kept = repository().join("deploy/openapi.json");
    let served = cluster.rest()?.get("/openapi.json").await?;
    ensure!(
        served == serde_json::from_slice::<Value>(&std::fs::read(&kept)?)?,
        "another document is served"
    );
    run(tool("openapi-spec-validator")?
        .args([
            "--schema",
            "3.1",
            "--validation-errors",
            "all",
            "--subschema-errors",
            "all",
        ])
        .arg(&kept))?;
    let said = run(tool("spectral")?
        .args(["lint", "--fail-severity", "hint", "--ruleset"])
        .arg(repository().join("integration/contract/spectral.yaml"))
        .arg(&kept))?;
    ensure!(said.contains("No results"), "{said}");
    Ok(())
}

/// Names, units, types and texts of the metrics of controller and agent.
fn metrics(cluster: &Cluster) -> Result<()> {
    let ports = std::fs::read_to_string(cluster.state().join("ports"))?;
    let agent = ports
        .lines()
        .find_map(|line| line.strip_prefix("agent-metrics "))
        .context("no port agent-metrics")?;
    run(tool("python")?
        .arg(repository().join("integration/contract/metrics.py"))
        .arg(format!(
            "{}/metrics",
            cluster.variable("SMART_STORAGE_METRICS_URL")?
        ))
        .arg(format!("http://127.0.0.1:{agent}/metrics")))?;
    Ok(())
}

/// grpcurl against an instance.
struct Grpcurl {
    address: String,
    bearer: String,
}

impl Grpcurl {
    fn new(cluster: &Cluster) -> Result<Self> {
        Ok(Self {
            address: cluster.variable("SMART_STORAGE_GRPC")?.to_owned(),
            bearer: format!(
                "authorization: Bearer {}",
                cluster.variable("SMART_STORAGE_TOKEN")?
            ),
        })
    }

    fn command(&self, before: &[&str], after: &[&str]) -> Result<Output> {
        let mut command = Command::new("grpcurl");
        command.args(["-plaintext", "-max-time", "60"]).args(before);
        Ok(command.arg(&self.address).args(after).output()?)
    }

    fn list(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let output = self.command(&[], arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// The status code, and what was said: messages, or the refusal.
    fn call(&self, method: &str, message: &Value) -> Result<(i32, String)> {
        let message = message.to_string();
        let output = self.command(
            &["-H", &self.bearer, "-d", &message],
            &[&format!("{SERVICE}/{method}")],
        )?;
        // grpcurl ends with 64 and the code of gRPC.
        let code = output.status.code().context("killed")?;
        let code = if code >= 64 { code - 64 } else { code };
        let said = [output.stdout, output.stderr].concat();
        Ok((code, String::from_utf8_lossy(&said).into_owned()))
    }

    fn answers(&self, method: &str, message: &Value) -> Result<Value> {
        let (code, said) = self.call(method, message)?;
        ensure!(code == 0, "{method} {message}: {code}: {said}");
        serde_json::from_str(&said).with_context(|| format!("{method}: {said}"))
    }

    /// Refused with this code, and with a detail that says these words.
    fn refuses(&self, method: &str, message: &Value, code: i32, words: &[&str]) -> Result<()> {
        let (got, said) = self.call(method, message)?;
        ensure!(got == code, "{method} {message}: {got}, not {code}: {said}");
        for word in words.iter().chain(&["google.rpc.ErrorInfo"]) {
            ensure!(
                said.contains(word),
                "{method} {message}: nothing of {word} in {said}"
            );
        }
        ensure!(
            !said.contains("not recognized"),
            "reflection does not describe the details: {said}"
        );
        Ok(())
    }
}

const INVALID: i32 = 3;
const NOT_FOUND: i32 = 5;
const ALREADY_EXISTS: i32 = 6;
const UNAUTHENTICATED: i32 = 16;

/// Reflection tells all that a client needs, and every method answers as it says, also to what is wrong.
fn reflection(cluster: &Cluster) -> Result<()> {
    let grpc = Grpcurl::new(cluster)?;
    let services = grpc.list(&["list"])?;
    ensure!(services == ["grpc.health.v1.Health", SERVICE], "{services:?}");
    let methods = grpc.list(&["list", SERVICE])?;
    for method in &methods {
        let described = grpc.list(&["describe", method])?.join("\n");
        for message in described
            .split(['(', ')', ' '])
            .filter_map(|word| word.strip_prefix('.'))
        {
            let fields = grpc.list(&["describe", message])?.join("\n");
            ensure!(fields.contains("is a message"), "{method}: {message}: {fields}");
        }
    }
    let mut left: Vec<_> = methods
        .iter()
        .filter_map(|method| method.rsplit('.').next())
        .collect();
    let mut done = |method: &str| left.retain(|other| *other != method);

    // Without the token nothing is done, whatever the method.
    for method in &methods {
        let path = method.replacen(&format!("{SERVICE}."), &format!("{SERVICE}/"), 1);
        let output = grpc.command(&["-d", "{}"], &[&path])?;
        ensure!(
            output.status.code() == Some(64 + UNAUTHENTICATED),
            "{path}: {output:?}"
        );
    }

    let ask = json!({"name": "by-grpcurl", "storageType": "file", "capacityBytes": (4 * MIB).to_string()});
    let made = grpc.answers("CreateStorage", &ask)?;
    let id = text(&made, "/storage/id")?.to_owned();
    ensure!(
        grpc.answers("CreateStorage", &ask)? != Value::Null,
        "the same again"
    );
    let other = json!({"name": "by-grpcurl", "storageType": "file", "capacityBytes": "1"});
    grpc.refuses("CreateStorage", &other, ALREADY_EXISTS, &[])?;
    let wrong = json!({"name": "UPPER", "storageType": "tape", "labels": {"a b": "c"}});
    let fields = [
        "google.rpc.BadRequest",
        "\"name\"",
        "\"storage_type\"",
        "\"capacity_bytes\"",
        "labels",
    ];
    grpc.refuses("CreateStorage", &wrong, INVALID, &fields)?;
    let nowhere = json!({"name": "a", "storageType": "file", "capacityBytes": "1", "namespace": "nowhere"});
    grpc.refuses("CreateStorage", &nowhere, INVALID, &["\"namespace\""])?;
    done("CreateStorage");

    let known = json!({"id": id});
    let unknown = json!({"id": "uv-00000000-0000-7000-8000-000000000000"});
    let stored = grpc.answers("GetStorage", &known)?;
    ensure!(text(&stored, "/name")? == "by-grpcurl", "{stored}");
    // What is not there is gone; deleting it once more is no fault.
    for nothing in [&unknown, &json!({"id": "../x"})] {
        ensure!(
            grpc.answers("DeleteStorage", nothing)? == json!({"gone": true}),
            "{nothing}"
        );
    }
    for method in ["GetStorage", "RotateCredentials"] {
        grpc.refuses(method, &unknown, NOT_FOUND, &[])?;
        grpc.refuses(method, &json!({"id": "../x"}), NOT_FOUND, &[])?;
    }
    done("GetStorage");

    let listed = grpc.answers("ListStorage", &json!({"namespace": "default", "limit": 500}))?;
    ensure!(listed.to_string().contains(&id), "{listed}");
    for (wrong, field) in [
        (json!({"limit": 501}), "\"limit\""),
        (json!({"continue": "foreign"}), "\"continue\""),
        (json!({"phase": "Sleeping"}), "\"phase\""),
        (json!({"labels": ["=x"]}), "\"label\""),
    ] {
        grpc.refuses("ListStorage", &wrong, INVALID, &["google.rpc.BadRequest", field])?;
    }
    done("ListStorage");

    let bytes = |bytes: u64| json!({"id": id, "capacityBytes": bytes.to_string()});
    grpc.answers("ExpandStorage", &bytes(8 * MIB))?;
    grpc.refuses(
        "ExpandStorage",
        &bytes(MIB),
        INVALID,
        &["google.rpc.BadRequest", "\"capacity_bytes\""],
    )?;
    done("ExpandStorage");

    for method in ["ListNodes", "ListPools"] {
        let listed = grpc.answers(method, &json!({}))?;
        ensure!(listed.pointer("/items/0").is_some(), "{method}: {listed}");
        grpc.refuses(
            method,
            &json!({"limit": 4_000_000_000_u32}),
            INVALID,
            &["\"limit\""],
        )?;
        done(method);
    }
    for (method, name) in [
        ("GetNode", NODE),
        ("ClassifyNode", NODE),
        ("GetPool", "demo-file"),
    ] {
        let one = grpc.answers(method, &json!({"name": name}))?;
        ensure!(text(&one, "/name")? == name, "{method}: {one}");
        for wrong in ["nowhere", "", "../x", &"x".repeat(1000)] {
            grpc.refuses(method, &json!({"name": wrong}), NOT_FOUND, &[])?;
        }
        done(method);
    }
    for (method, field) in [("GetCapacity", "/total"), ("ListClasses", "/items/0")] {
        let answer = grpc.answers(method, &json!({}))?;
        ensure!(answer.pointer(field).is_some(), "{method}: {answer}");
        done(method);
    }

    for method in ["WatchStorage", "WatchNodes"] {
        let path = format!("{SERVICE}/{method}");
        let output = grpc.command(&["-max-time", "3", "-H", &grpc.bearer, "-d", "{}"], &[&path])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            said.contains("\"bookmark\"") && said.contains("resumeToken"),
            "{method}: {output:?}"
        );
        ensure!(
            output.status.code() == Some(64 + 4),
            "it goes on until the client ends it: {output:?}"
        );
        grpc.refuses(
            method,
            &json!({"resumeToken": "foreign"}),
            INVALID,
            &["\"resume_token\""],
        )?;
        done(method);
    }

    let keys = grpc.answers("RotateCredentials", &known)?;
    ensure!(!text(&keys, "/secretKey")?.is_empty());
    done("RotateCredentials");
    grpc.answers("DeleteStorage", &known)?;
    done("DeleteStorage");
    ensure!(left.is_empty(), "nobody called {left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_people_s_tools_find_nothing() -> Result<()> {
    if skipped("public_contract", &NEEDS)? {
        return Ok(());
    }
    let cluster = Cluster::start("contract", Setup::DEMO).await?;
    let timed = |what: &str, begin: Instant| println!("  {what}: {:.1?}", begin.elapsed());
    let begin = Instant::now();
    document(&cluster).await.context("the document")?;
    timed("openapi-spec-validator, Spectral", begin);
    deletes(&cluster).await.context("deleting")?;
    let begin = Instant::now();
    reflection(&cluster).context("grpcurl")?;
    timed("grpcurl", begin);
    let begin = Instant::now();
    schemathesis(&cluster).with_context(|| format!("schemathesis, seed {SEED}"))?;
    timed("schemathesis", begin);
    // Now that everything was asked for, right and wrong, every family has its members.
    let begin = Instant::now();
    metrics(&cluster).context("the metrics")?;
    timed("Prometheus' parser", begin);
    let (status, problem) = cluster
        .rest()?
        .call(Method::GET, "/v1/storage/uv-x", None)
        .await?;
    ensure!(status == 404, "it still serves: {status} {problem}");
    let log = std::fs::read_to_string(cluster.state().join("log/controller.log"))?;
    ensure!(!log.contains("panicked"), "the log tells of a panic");
    Ok(())
}
