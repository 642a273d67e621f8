//! The same through kubectl, as people type it.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::{io::AsyncWriteExt as _, process::Command};

const CLAIM: &str = "apiVersion: storage.billyronks.io/v1\nkind: UnifiedStorageClaim\nmetadata: {name: c}\n\
                     spec: {storageType: file, capacity: 1Gi, className: no-such-class}\n";

/// kubectl with one kubeconfig, namespace and cache.
struct Typed<'a> {
    kubeconfig: &'a std::path::Path,
    cache: tempfile::TempDir,
    namespace: String,
}

impl Typed<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig)
            .arg("--cache-dir")
            .arg(self.cache.path())
            .args(["--namespace", &self.namespace])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Whether it succeeded, and what it said on both outputs.
    async fn run(&self, arguments: &[&str], input: &str) -> Result<(bool, String)> {
        let mut child = self.command(arguments).spawn().context("kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Ok((output.status.success(), text.into_owned()))
    }

    /// `line` is split at blanks; it has to succeed and to say each of `words`.
    async fn works(&self, line: &str, input: &str, words: &[&str]) -> Result<String> {
        self.says(&line.split_whitespace().collect::<Vec<_>>(), input, true, words)
            .await
    }

    /// `line` has to fail and to say each of `words`.
    async fn fails(&self, line: &str, input: &str, words: &[&str]) -> Result<String> {
        self.says(&line.split_whitespace().collect::<Vec<_>>(), input, false, words)
            .await
    }

    async fn says(&self, arguments: &[&str], input: &str, success: bool, words: &[&str]) -> Result<String> {
        let line = arguments.join(" ");
        let (succeeded, text) = self.run(arguments, input).await?;
        ensure!(
            succeeded == success,
            "kubectl {line}: {}: {text}",
            if succeeded { "it works" } else { "it fails" }
        );
        for word in words {
            ensure!(
                text.contains(word),
                "kubectl {line} does not say {word:?}: {text}"
            );
        }
        Ok(text)
    }
}

/// What people type, from top to bottom, in a namespace that is made for it and goes with it.
///
/// # Errors
/// kubectl does not do, or does not say, what it says against a real server.
pub async fn kubectl(kubeconfig: &std::path::Path) -> Result<()> {
    let k = Typed {
        kubeconfig,
        cache: tempfile::tempdir()?,
        namespace: format!("conformance-kubectl-{}", std::process::id()),
    };
    k.works(&format!("create namespace {}", k.namespace), "", &["created"])
        .await?;
    let outcome = typed(&k).await;
    let cleared = k
        .works(
            &format!("delete namespace {} --timeout 60s", k.namespace),
            "",
            &["deleted"],
        )
        .await;
    outcome?;
    cleared?;
    Ok(())
}

async fn typed(k: &Typed<'_>) -> Result<()> {
    finding(k).await.context("finding out")?;
    applying(k).await.context("applying")?;
    changing(k).await.context("changing")?;
    reading(k).await.context("reading")?;
    refused(k).await.context("being refused")?;
    following(k).await.context("following")?;
    built_in(k).await.context("built-in kinds")
}

async fn finding(k: &Typed<'_>) -> Result<()> {
    k.works("version", "", &["Server Version: v1."]).await?;
    k.works(
        "api-resources --api-group storage.billyronks.io",
        "",
        &["unifiedstorageclaims", "uclaim", "poolmembers", "usc"],
    )
    .await?;
    k.works(
        "api-versions",
        "",
        &["storage.billyronks.io/v1", "coordination.k8s.io/v1"],
    )
    .await?;
    k.works(
        "explain unifiedpool.spec.driveSelector",
        "",
        &["requireZns", "minTier", "<[]string>"],
    )
    .await?;
    k.works(
        "explain uclaim.spec.capacity",
        "",
        &["It may grow, and never shrinks"],
    )
    .await?;
    k.works("explain uclaim --recursive", "", &["redundancy", "conditions"])
        .await?;
    k.works("get crd unifiedpools.storage.billyronks.io", "", &["CREATED AT"])
        .await?;
    k.works("get usc,sn,up,pm,uv", "", &[]).await?;
    k.works("get uclaim", "", &["No resources found"]).await?;
    Ok(())
}

async fn applying(k: &Typed<'_>) -> Result<()> {
    k.works(
        "apply --dry-run=server -f -",
        CLAIM,
        &["unifiedstorageclaim.storage.billyronks.io/c created (server dry run)"],
    )
    .await?;
    k.works("apply -f -", CLAIM, &["c created"]).await?;
    k.works("apply -f -", CLAIM, &["c unchanged"]).await?;
    let larger = CLAIM.replace("1Gi", "2Gi");
    let (same, text) = k.run(&["diff", "-f", "-"], &larger).await?;
    ensure!(
        !same && text.contains("-  capacity: 1Gi") && text.contains("+  capacity: 2Gi"),
        "diff: {text}"
    );
    k.works("apply -f -", &larger, &["c configured"]).await?;
    k.works("diff -f -", &larger, &[]).await?;
    k.fails("create -f -", CLAIM, &["(AlreadyExists)", "\"c\" already exists"])
        .await?;
    k.works(
        "create -f - --save-config",
        &CLAIM.replace("name: c", "name: d"),
        &["d created"],
    )
    .await?;
    k.works("replace -f -", &larger, &["c replaced"]).await?;
    Ok(())
}

async fn changing(k: &Typed<'_>) -> Result<()> {
    k.works("label uclaim c side=port", "", &["labeled"]).await?;
    k.works("annotate uclaim c note=x", "", &["annotated"]).await?;
    k.works(
        "patch uclaim c --type merge -p {\"spec\":{\"capacity\":\"3Gi\"}}",
        "",
        &["patched"],
    )
    .await?;
    k.works(
        "patch uclaim c --type json -p [{\"op\":\"replace\",\"path\":\"/spec/capacity\",\"value\":\"4Gi\"}]",
        "",
        &["patched"],
    )
    .await?;
    k.works(
        "patch uclaim c --type merge -p {\"spec\":{\"capacity\":\"4Gi\"}}",
        "",
        &["patched (no change)"],
    )
    .await?;
    // What `kubectl edit` does, with sed as the editor.
    let mut edit = k.command(&["edit", "uclaim", "c"]);
    edit.env("KUBE_EDITOR", "sed -i s/4Gi/5Gi/");
    let output = edit.output().await?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && text.contains("edited"), "edit: {text}");
    k.works("get uclaim c -o jsonpath={.spec.capacity}", "", &["5Gi"])
        .await?;
    k.works("label uclaim c side-", "", &["unlabeled"]).await?;
    Ok(())
}

async fn reading(k: &Typed<'_>) -> Result<()> {
    k.works("label uclaim d side=port", "", &["labeled"]).await?;
    let text = k
        .works("get uclaim -l side=port --show-labels", "", &["side=port"])
        .await?;
    ensure!(!text.contains("5Gi"), "{text}");
    k.works(
        "get uclaim",
        "",
        &[
            "NAME",
            "TYPE",
            "CLASS",
            "CAPACITY",
            "PHASE",
            "AGE",
            "5Gi",
            "no-such-class",
        ],
    )
    .await?;
    k.works("get uclaim -A -o wide", "", &["NAMESPACE", &k.namespace])
        .await?;
    k.works(
        "get smart-storage",
        "",
        &["unifiedstorageclaim.storage.billyronks.io/c"],
    )
    .await?;
    k.works("get uclaim c -o yaml", "", &["capacity: 5Gi"]).await?;
    k.works(
        "get uclaim -o name --sort-by .spec.capacity",
        "",
        &["/d\nunified"],
    )
    .await?;
    let one = k
        .works("get uclaim --field-selector metadata.name=c -o name", "", &["/c"])
        .await?;
    ensure!(!one.contains("/d"), "{one}");
    let chunked = k
        .works("get uclaim --chunk-size 1 -o name", "", &["/c", "/d"])
        .await?;
    ensure!(chunked.lines().count() == 2, "{chunked}");
    k.works("describe uclaim c", "", &["Capacity:", "Events:"])
        .await?;
    k.works("get events", "", &[]).await?;
    Ok(())
}

async fn refused(k: &Typed<'_>) -> Result<()> {
    k.fails(
        "apply -f -",
        &CLAIM.replace("capacity", "kapacity"),
        &["unknown field \"spec.kapacity\""],
    )
    .await?;
    k.fails(
        "apply -f -",
        &CLAIM.replace("storageType: file", "storageType: object"),
        &["storageType cannot be changed"],
    )
    .await?;
    k.fails(
        "patch uclaim c --type merge -p {\"spec\":{\"capacity\":\"lots\"}}",
        "",
        &["is invalid", "spec.capacity"],
    )
    .await?;
    k.fails("get uclaim none", "", &["(NotFound)", "\"none\" not found"])
        .await?;
    k.fails("get boats", "", &["doesn't have a resource type \"boats\""])
        .await?;
    k.fails(
        "scale uclaim c --replicas 2",
        "",
        &["could not find the requested resource"],
    )
    .await?;
    k.fails(
        "apply -n no-such-namespace -f -",
        CLAIM,
        &["namespaces \"no-such-namespace\" not found"],
    )
    .await?;
    k.fails("create namespace UPPER", "", &["Invalid value: \"UPPER\""])
        .await?;
    Ok(())
}

async fn following(k: &Typed<'_>) -> Result<()> {
    let mut child = k
        .command(&["get", "uclaim", "--watch", "--output-watch-events", "-o", "name"])
        .spawn()?;
    let out = child.stdout.take().context("its output")?;
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(out));
    let mut next = async |word: &str, name: &str| -> Result<()> {
        let until = async {
            loop {
                let line = lines.next_line().await?.context("get --watch ended")?;
                if line.starts_with(word) && line.trim_end().ends_with(name) {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), until)
            .await
            .with_context(|| format!("get --watch never says {word} {name}"))?
    };
    next("ADDED", "/d").await?;
    k.works("delete uclaim d --wait --timeout 30s", "", &["deleted"])
        .await?;
    next("DELETED", "/d").await?;
    child.kill().await?;

    let condition = r#"{"status":{"conditions":[{"type":"Tried","status":"True","reason":"Hand","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;
    let wait = async {
        k.works(
            "wait --for=condition=Tried uclaim/c --timeout 30s",
            "",
            &["condition met"],
        )
        .await
    };
    let write = async {
        // A reconciler may write its own list of conditions over it: then once more.
        for _ in 0..100 {
            let line = [
                "patch",
                "uclaim",
                "c",
                "--subresource",
                "status",
                "--type",
                "merge",
                "-p",
                condition,
            ];
            let (_, text) = k.run(&line, "").await?;
            ensure!(text.contains("patched"), "{text}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::select! {
        waited = wait => { waited?; }
        wrote = write => wrote?,
    }
    k.works(
        "patch uclaim c --type merge -p {\"metadata\":{\"finalizers\":[\"x.io/hold\"]}}",
        "",
        &["patched"],
    )
    .await?;
    k.works("delete uclaim c --wait=false", "", &["deleted"]).await?;
    k.fails("wait --for=delete uclaim/c --timeout 1s", "", &["timed out"])
        .await?;
    k.works(
        "patch uclaim c --type merge -p {\"metadata\":{\"finalizers\":null}}",
        "",
        &["patched"],
    )
    .await?;
    k.works("wait --for=delete uclaim/c --timeout 30s", "", &[])
        .await?;
    k.works("delete uclaim c --ignore-not-found", "", &[]).await?;
    k.works("delete uclaim --all", "", &["No resources found"])
        .await?;
    Ok(())
}

async fn built_in(k: &Typed<'_>) -> Result<()> {
    k.works("create secret generic s --from-literal=k=v", "", &["created"])
        .await?;
    k.works("create configmap m --from-literal=k=v", "", &["created"])
        .await?;
    k.works("get secret/s cm/m", "", &["Opaque", "secret/s", "configmap/m"])
        .await?;
    k.works("describe secret s", "", &["1 bytes"]).await?;
    k.works("delete secret s", "", &["deleted"]).await?;
    k.works("get ns default", "", &["default", "Active"]).await?;
    Ok(())
}
