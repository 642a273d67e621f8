//! What one claim's user can do with another claim's data, and with the capacity of their own: nothing.

mod by_http;
mod by_s3;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::Api;
use reqwest::Method;
use serde_json::{Value, json};
use smart_storage_integration::{
    Cluster, MIB, Setup, eventually,
    needs::INSTANCE,
    raw::{Reply, Request},
    skipped,
    tokens::{self, Keys},
};

use crate::{file_claim::claim, reading::text};

const SECRET: &[u8] = b"for B's eyes only";

/// A claim with its credentials, as its user has them.
struct User {
    id: String,
    key: String,
    secret: String,
    token: String,
    /// The S3 gateway and the filer, `host:port`.
    s3: String,
    filer: String,
}

impl User {
    async fn new(cluster: &Cluster, name: &str) -> Result<Self> {
        let made = claim(cluster, name, 64 * MIB).await?;
        let id = text(&made, "/id")?.to_owned();
        let given = cluster.credentials(&id).await?;
        let of = |pointer| text(&given, pointer).map(str::to_owned);
        let address = |name| -> Result<String> {
            let url = cluster.variable(name)?;
            Ok(url.strip_prefix("http://").context("no http URL")?.to_owned())
        };
        Ok(Self {
            id,
            key: of("/access_key")?,
            secret: of("/secret_key")?,
            token: of("/filer_token")?,
            s3: address("WEED_S3_URL")?,
            filer: address("WEED_FILER_URL")?,
        })
    }

    async fn s3(&self, request: Request) -> Result<Reply> {
        request
            .signed(&self.s3, &self.key, &self.secret)
            .send(&self.s3)
            .await
    }

    async fn filer(&self, request: Request) -> Result<Reply> {
        let bearer = format!("Bearer {}", self.token);
        request.header("Authorization", &bearer).send(&self.filer).await
    }
}

/// Collects what should have been refused and was not, so that one run tells all of it.
#[derive(Default)]
struct Verdicts {
    asked: usize,
    wrong: Vec<String>,
}

impl Verdicts {
    /// S3 has to say AccessDenied, and not only that something else was wrong with the request.
    fn denied(&mut self, what: &str, reply: &Reply) {
        self.asked += 1;
        let said = reply.text();
        // A list of keys is answered key by key.
        let as_a_list = reply.status == 200 && said.contains("<DeleteResult") && !said.contains("<Deleted>");
        let denied = said.contains("AccessDenied") || said.is_empty();
        if !denied || !(reply.status == 403 || as_a_list) {
            self.wrong.push(format!("{what}: {} {said}", reply.status));
        }
    }

    /// Anything but success, and never the other's bytes.
    fn refused(&mut self, what: &str, reply: &Reply) {
        self.asked += 1;
        let leaks = reply.body.windows(SECRET.len()).any(|window| window == SECRET);
        if reply.is_success() || leaks {
            self.wrong
                .push(format!("{what}: {} {}", reply.status, reply.text()));
        }
    }

    fn finish(self, suite: &str) -> Result<()> {
        println!("  {suite}: {} requests, every one refused", self.asked);
        ensure!(self.wrong.is_empty(), "not refused: {:#?}", self.wrong);
        Ok(())
    }
}

/// Everything that a stranger could have changed: B's folder and bytes, A's quota, every rule and every bucket.
async fn picture(cluster: &Cluster, a: &User, b: &User) -> Result<Value> {
    let filer = cluster.filer()?;
    let metadata = async |path: String| -> Result<Value> {
        let answer = filer
            .request(Method::GET, &format!("{path}?metadata=true"))
            .send()
            .await?;
        let mut entry: Value = answer.error_for_status()?.json().await?;
        if let Some(fields) = entry.as_object_mut() {
            // Reading touches it.
            fields.remove("Atime");
        }
        Ok(entry)
    };
    Ok(json!({
        "buckets": filer.list("/buckets").await?,
        "quota of a": metadata(format!("/buckets/{}", a.id)).await?.get("Quota"),
        "bucket of b": metadata(format!("/buckets/{}", b.id)).await?,
        "files of b": filer.list(&format!("/buckets/{}/data", b.id)).await?,
        "secret": metadata(format!("/buckets/{}/data/secret", b.id)).await?,
        "bytes": String::from_utf8(filer.get(&format!("/buckets/{}/data/secret", b.id)).await?)?,
        "rules": cluster.weed_shell("fs.configure")?.lines().filter(|line| line.contains('"')).collect::<Vec<_>>(),
        "identities": filer.list("/etc/iam/identities").await?,
    }))
}

async fn with_secret(cluster: &Cluster) -> Result<(User, User)> {
    let (a, b) = (User::new(cluster, "a").await?, User::new(cluster, "b").await?);
    let put = Request::new("PUT", &format!("/{}/data/secret", b.id)).body(SECRET);
    let put = b.s3(put).await?;
    ensure!(
        put.is_success(),
        "B writes its own: {} {}",
        put.status,
        put.text()
    );
    let own = a
        .s3(Request::new("PUT", &format!("/{}/data/own", a.id)).body("mine"))
        .await?;
    ensure!(
        own.is_success(),
        "A writes its own: {} {}",
        own.status,
        own.text()
    );
    Ok((a, b))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_claims_credentials_open_nothing_of_another_and_no_more_capacity() -> Result<()> {
    if skipped("separate", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("separate", Setup::DEMO).await?;
    let (a, b) = with_secret(&cluster).await?;
    let before = picture(&cluster, &a, &b).await?;
    by_s3::through_s3(&a, &b).await?;
    by_http::through_the_filer(&cluster, &a, &b).await?;
    by_http::through_volume_servers(&cluster, &a, &b).await?;
    let after = picture(&cluster, &a, &b).await?;
    ensure!(before == after, "something changed: {before:#} {after:#}");
    the_token_is_renewed(&cluster, &a).await
}

/// A token that is near its end is replaced in the Secret, and the keys beside it stay.
async fn the_token_is_renewed(cluster: &Cluster, a: &User) -> Result<()> {
    let secrets = Api::<Secret>::namespaced(cluster.kube().await?, "default");
    let token = |secret: &Secret| -> Result<String> {
        let value = secret.data.as_ref().and_then(|data| data.get("filer_token"));
        Ok(String::from_utf8(value.context("no filer_token")?.0.clone())?)
    };
    let mut secret = secrets.get(&a.id).await?;
    ensure!(token(&secret)? == a.token, "the Secret holds what was answered");
    let folder = format!("/buckets/{}/data", a.id);
    let old = Keys::of(&cluster.security()?)?.reading_with(&json!({
        "exp": tokens::in_seconds(60), "allowed_prefixes": [folder], "allowed_methods": ["GET", "HEAD"],
    }));
    let data = secret.data.get_or_insert_default();
    data.insert("filer_token".to_owned(), ByteString(old.clone().into_bytes()));
    let keys = data.get("secret_key").cloned();
    secrets.replace(&a.id, &Default::default(), &secret).await?;
    // Any change makes the operator look; by itself it does so every ten minutes.
    let look = json!({"metadata": {"annotations": {"looked-at": "again"}}});
    let path = format!("/apis/storage.billyronks.io/v1/unifiedvolumes/{}", a.id);
    let patch = http::Request::patch(path)
        .header("Content-Type", "application/merge-patch+json")
        .body(serde_json::to_vec(&look)?)?;
    cluster.kube().await?.request::<Value>(patch).await?;
    let renewed = eventually(Duration::from_secs(20), "the token is renewed", || async {
        let secret = secrets.get(&a.id).await?;
        let now = token(&secret)?;
        ensure!(
            secret.data.as_ref().and_then(|data| data.get("secret_key")) == keys.as_ref(),
            "other keys"
        );
        if now == old {
            bail!("still the old one");
        }
        Ok(Some(now))
    })
    .await?;
    let claims = tokens::claims(&renewed)?;
    ensure!(
        claims.pointer("/allowed_prefixes") == Some(&json!([folder])),
        "{claims}"
    );
    ensure!(
        claims.pointer("/exp").and_then(Value::as_i64) > Some(tokens::in_seconds(6 * 3600)),
        "{claims}"
    );
    let read = cluster
        .filer()?
        .with_token(&renewed)
        .get(&format!("{folder}/own"))
        .await?;
    ensure!(read == b"mine", "it reads what is A's");
    Ok(())
}
