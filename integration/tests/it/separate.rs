//! What one claim's user can do with another claim's data, and with the capacity of their own: nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::Api;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use smart_storage_integration::{
    Cluster, MIB, S3, Setup, eventually,
    needs::INSTANCE,
    raw::{Reply, Request},
    skipped,
    tokens::{self, Keys},
};

use crate::{
    file_claim::claim,
    reading::{list, text},
};

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
        "quota of a": metadata(format!("/buckets/{}", a.id)).await?["Quota"],
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
    through_s3(&a, &b).await?;
    through_the_filer(&cluster, &a, &b).await?;
    through_volume_servers(&cluster, &a, &b).await?;
    let after = picture(&cluster, &a, &b).await?;
    ensure!(before == after, "something changed: {before:#} {after:#}");
    the_token_is_renewed(&cluster, &a).await
}

/// Every call of S3 that names B's bucket, and those on A's own that would give A more than it asked for.
async fn through_s3(a: &User, b: &User) -> Result<()> {
    let mut verdicts = Verdicts::default();
    let (mine, theirs) = (&a.id, &b.id);
    let calls = [
        ("GET", "/{b}"),
        ("GET", "/{b}?list-type=2&prefix=data%2F"),
        ("GET", "/{b}?list-type=2&prefix=..%2F"),
        ("GET", "/{b}?versions="),
        ("GET", "/{b}?uploads="),
        ("GET", "/{b}?location="),
        ("GET", "/{b}?policy="),
        ("GET", "/{b}?acl="),
        ("GET", "/{b}?cors="),
        ("GET", "/{b}?lifecycle="),
        ("GET", "/{b}?versioning="),
        ("GET", "/{b}?tagging="),
        ("HEAD", "/{b}"),
        ("GET", "/{b}/data/secret"),
        ("HEAD", "/{b}/data/secret"),
        ("GET", "/{b}/data/secret?acl="),
        ("GET", "/{b}/data/secret?tagging="),
        ("GET", "/{b}/data/secret?attributes="),
        ("PUT", "/{b}/data/secret"),
        ("PUT", "/{b}/data/new"),
        ("PUT", "/{b}/data/secret?acl="),
        ("PUT", "/{b}/data/secret?tagging="),
        ("PUT", "/{b}/data/secret?retention="),
        ("PUT", "/{b}/data/secret?legal-hold="),
        ("DELETE", "/{b}/data/secret"),
        ("DELETE", "/{b}/data/secret?tagging="),
        ("POST", "/{b}?delete="),
        ("POST", "/{b}/data/part?uploads="),
        ("PUT", "/{b}/data/part?partNumber=1&uploadId=x"),
        ("POST", "/{b}/data/part?uploadId=x"),
        ("DELETE", "/{b}/data/part?uploadId=x"),
        ("PUT", "/{b}?policy="),
        ("PUT", "/{b}?acl="),
        ("PUT", "/{b}?cors="),
        ("PUT", "/{b}?lifecycle="),
        ("PUT", "/{b}?versioning="),
        ("PUT", "/{b}?tagging="),
        ("PUT", "/{b}?object-lock="),
        ("DELETE", "/{b}?policy="),
        ("DELETE", "/{b}"),
        // Its own bucket: none of what would let others in, or loosen what the operator set.
        ("PUT", "/{a}?policy="),
        ("PUT", "/{a}?acl="),
        ("PUT", "/{a}?object-lock="),
        ("DELETE", "/{a}"),
        ("PUT", "/a-bucket-of-mine"),
        ("GET", "/.system"),
        ("PUT", "/.uploads/x"),
    ];
    let body = "<Delete><Object><Key>data/secret</Key></Object></Delete>";
    for (method, target) in calls {
        let target = target.replace("{a}", mine).replace("{b}", theirs);
        let reply = a.s3(Request::new(method, &target).body(body)).await?;
        verdicts.denied(&format!("{method} {target}"), &reply);
    }
    // What a bucket's user may set on it, SeaweedFS writes down beside our quota and rules: those stay (see the end).
    let expiry = "<LifecycleConfiguration><Rule><ID>x</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>\
                  <Expiration><Days>9</Days></Expiration></Rule></LifecycleConfiguration>";
    let versions = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    for (method, target, body) in [
        ("PUT", format!("/{mine}?lifecycle="), expiry),
        ("DELETE", format!("/{mine}?lifecycle="), ""),
        ("PUT", format!("/{mine}?versioning="), versions),
        (
            "PUT",
            format!("/{mine}?versioning="),
            &versions.replace("Enabled", "Suspended"),
        ),
    ] {
        let reply = a.s3(Request::new(method, &target).body(body)).await?;
        ensure!(
            reply.is_success(),
            "{method} {target}: {} {}",
            reply.status,
            reply.text()
        );
    }
    // Out of B's bucket into A's own.
    let source = format!("/{theirs}/data/secret");
    for source in [source.as_str(), &format!("{mine}/../{theirs}/data/secret")] {
        let copy = Request::new("PUT", &format!("/{mine}/data/copied")).header("x-amz-copy-source", source);
        let reply = a.s3(copy).await?;
        verdicts.refused(&format!("copy from {source}"), &reply);
        let target = format!("/{mine}/data/part?partNumber=1&uploadId=x");
        let reply = a
            .s3(Request::new("PUT", &target).header("x-amz-copy-source", source))
            .await?;
        verdicts.refused(&format!("part from {source}"), &reply);
        let rename = Request::new("PUT", &format!("/{mine}/data/renamed?renameObject="));
        let reply = a.s3(rename.header("x-amz-rename-source", source)).await?;
        verdicts.refused(&format!("renamed from {source}"), &reply);
    }
    // Ways around the bucket's name.
    for target in [
        format!("/{mine}/../{theirs}/data/secret"),
        format!("/{mine}/%2e%2e/{theirs}/data/secret"),
        format!("/{mine}/data/..%2f..%2f{theirs}%2fdata%2fsecret"),
        format!("//{theirs}/data/secret"),
        format!("/{mine}//../{theirs}/data/secret"),
        format!("/{mine}/../../etc/iam/identities/{mine}.json"),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let reply = a.s3(Request::new(method, &target)).await?;
            // Deleting what is not there is no error of S3; that nothing is gone shows in the end.
            if method == "DELETE" && reply.status == 204 {
                continue;
            }
            verdicts.refused(&format!("{method} {target}"), &reply);
        }
    }
    // A's signature for its own, on B's; and nobody's.
    let own = Request::new("GET", &format!("/{mine}/data/own")).signed(&a.s3, &a.key, &a.secret);
    let moved = Request {
        target: format!("/{theirs}/data/secret"),
        ..own
    };
    verdicts.refused("a signature moved to another path", &moved.send(&a.s3).await?);
    let nobody = Request::new("GET", &format!("/{theirs}/data/secret"));
    verdicts.denied("no signature", &nobody.send(&a.s3).await?);
    let mixed = nobody.clone().signed(&a.s3, &b.key, &a.secret);
    verdicts.refused("B's key with A's secret", &mixed.send(&a.s3).await?);
    let presigned = S3::new(
        reqwest::Client::new(),
        &format!("http://{}", a.s3),
        theirs,
        &a.key,
        &a.secret,
    )?;
    let (got, put) = (
        presigned.get("data/secret").await?.0,
        presigned.put("data/secret", b"x".to_vec()).await?,
    );
    ensure!(
        got == StatusCode::FORBIDDEN && put == StatusCode::FORBIDDEN,
        "presigned: {got} {put}"
    );
    // A token of the filer is none of S3, and there are no roles to take on.
    let bearer = nobody.header("Authorization", &format!("Bearer {}", a.token));
    verdicts.refused("a filer token", &bearer.send(&a.s3).await?);
    for action in [
        "CreateUser",
        "CreateAccessKey",
        "PutUserPolicy",
        "AssumeRole",
        "GetFederationToken",
    ] {
        let form = format!(
            "Action={action}&Version=2010-05-08&UserName={theirs}&RoleArn=x&RoleSessionName=x&Name=x"
        );
        let form = Request::new("POST", "/")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(form);
        verdicts.refused(action, &a.s3(form).await?);
    }
    let buckets = a.s3(Request::new("GET", "/")).await?;
    ensure!(buckets.is_success(), "A may see its own: {}", buckets.text());
    ensure!(
        !buckets.text().contains(theirs.as_str()),
        "A sees B: {}",
        buckets.text()
    );
    verdicts.finish("S3")
}

/// The filer's HTTP with A's token, with forged ones, and with none.
async fn through_the_filer(cluster: &Cluster, a: &User, b: &User) -> Result<()> {
    let mut verdicts = Verdicts::default();
    let (mine, theirs) = (
        format!("/buckets/{}/data", a.id),
        format!("/buckets/{}/data", b.id),
    );
    let own = a.filer(Request::new("GET", &format!("{mine}/own"))).await?;
    ensure!(
        own.body == b"mine",
        "A reads its own: {} {}",
        own.status,
        own.text()
    );
    let listed = a
        .filer(Request::new("GET", &format!("{mine}/")).header("Accept", "application/json"))
        .await?;
    ensure!(
        listed.text().contains("own"),
        "A lists its own: {}",
        listed.text()
    );

    let reads = [
        format!("{theirs}/secret"),
        format!("{theirs}/"),
        format!("{theirs}?metadata=true"),
        format!("{mine}/../../{}/data/secret", b.id),
        format!("{mine}/%2e%2e/%2e%2e/{}/data/secret", b.id),
        format!("{mine}%2f..%2f..%2f{}%2fdata%2fsecret", b.id),
        format!("/{theirs}/secret"),
        format!("{mine}//..//..//{}/data/secret", b.id),
        format!("{mine};/../../{}/data/secret", b.id),
        format!("http://{}{theirs}/secret", b.filer),
        format!("/buckets/{}", a.id),
        format!("/buckets/{}?metadata=true", a.id),
        format!("{mine}x"),
        "/buckets/".to_owned(),
        "/buckets/?limit=1000".to_owned(),
        "/etc/seaweedfs/filer.conf".to_owned(),
        format!("/etc/iam/identities/{}.json", b.id),
        format!("/etc/iam/identities/{}.json", a.id),
        "/topics/".to_owned(),
        "/.tus/".to_owned(),
    ];
    for target in &reads {
        for method in ["GET", "HEAD"] {
            let reply = a.filer(Request::new(method, target)).await?;
            verdicts.refused(&format!("{method} {target}"), &reply);
        }
    }
    let writes = [
        ("PUT", format!("{theirs}/secret")),
        ("POST", format!("{theirs}/new")),
        ("DELETE", format!("{theirs}/secret")),
        ("DELETE", format!("{theirs}?recursive=true")),
        ("POST", format!("{mine}/stolen?mv.from={theirs}/secret")),
        ("POST", format!("{mine}/stolen?cp.from={theirs}/secret")),
        ("POST", format!("{theirs}/gift?mv.from={mine}/own")),
        ("PUT", format!("{theirs}/secret?tagging")),
        ("DELETE", format!("{theirs}/secret?tagging")),
        ("PUT", format!("{mine}/filling?collection={}", b.id)),
        ("PUT", format!("{mine}/filling?disk=hdd&replication=000")),
        ("PUT", format!("{mine}/filling?saveInside=true")),
        ("PUT", format!("{mine}/filling?op=append")),
        ("PUT", "/etc/seaweedfs/filer.conf".to_owned()),
        ("DELETE", "/etc/seaweedfs/filer.conf".to_owned()),
        ("PUT", format!("/etc/iam/identities/{}.json", a.id)),
        ("DELETE", format!("/buckets/{}?recursive=true", b.id)),
        ("PATCH", format!("/.tus/.uploads/{}", b.id)),
    ];
    let stranger = Keys::of(&cluster.security()?)?;
    let whole = json!({"exp": tokens::in_seconds(600)});
    let forged = [
        ("A's", a.token.clone()),
        ("none", String::new()),
        ("another key's", tokens::signed_with(b"guessed", &whole)),
        ("an empty key's", tokens::signed_with(b"", &whole)),
        (
            "the wrong scope's",
            stranger.reading_with(&json!({"exp": tokens::in_seconds(600), "allowed_prefixes": [mine]})),
        ),
        (
            "an old one of B's",
            stranger.reading_with(&json!({"exp": tokens::in_seconds(-1), "allowed_prefixes": [theirs]})),
        ),
        (
            "an unsigned one",
            "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.e30.".to_owned(),
        ),
    ];
    for (whose, token) in &forged {
        let bearer = format!("Bearer {token}");
        for (method, target) in &writes {
            let request = Request::new(method, target)
                .header("Authorization", &bearer)
                .header("Tus-Resumable", "1.0.0");
            let reply = request.body("x").send(&a.filer).await?;
            verdicts.refused(&format!("{method} {target} with {whose} token"), &reply);
        }
        let read = Request::new("GET", &format!("{theirs}/secret")).header("Authorization", &bearer);
        verdicts.refused(
            &format!("reading with {whose} token"),
            &read.send(&a.filer).await?,
        );
        let by_query = Request::new("GET", &format!("{theirs}/secret?jwt={token}"));
        verdicts.refused(
            &format!("reading with {whose} token in the query"),
            &by_query.send(&a.filer).await?,
        );
    }
    let header = Request::new("PUT", &format!("{mine}/filling"))
        .header("x-seaweedfs-destination", &theirs)
        .body("x");
    verdicts.refused("another destination", &a.filer(header).await?);
    let resumable = Request::new("POST", &format!("/.tus{theirs}/new"))
        .header("Tus-Resumable", "1.0.0")
        .header("Upload-Length", "1");
    verdicts.refused("a resumable upload", &a.filer(resumable).await?);
    verdicts.finish("filer")
}

/// Volume servers and the master, where a file's number would be enough without tokens.
async fn through_volume_servers(cluster: &Cluster, a: &User, b: &User) -> Result<()> {
    let mut verdicts = Verdicts::default();
    let filer = cluster.filer()?;
    let path = format!("/buckets/{}/data/secret?metadata=true", b.id);
    let entry: Value = filer.request(Method::GET, &path).send().await?.json().await?;
    let fid = text(&entry, "/chunks/0/file_id").or_else(|_| text(&entry, "/chunks/0/fileId"))?;
    let members = cluster.object("poolmembers").await?;
    let mut servers: Vec<String> = list(&members, "/items")
        .iter()
        .filter_map(|member| text(member, "/status/endpoint").ok().map(str::to_owned))
        .collect();
    ensure!(servers.len() == 3, "{members}");
    servers.push(format!("127.0.0.1:{}", cluster.port("weed-volume")?));
    let bearer = format!("Bearer {}", a.token);
    for server in &servers {
        for method in ["GET", "PUT", "DELETE", "POST"] {
            for bearer in [bearer.as_str(), ""] {
                let request = Request::new(method, &format!("/{fid}")).header("Authorization", bearer);
                verdicts.refused(
                    &format!("{method} {fid} at {server}"),
                    &request.body("x").send(server).await?,
                );
            }
        }
    }
    let master = format!("127.0.0.1:{}", cluster.port("weed-master")?);
    for target in [
        format!("/col/delete?collection={}", b.id),
        format!("/dir/assign?collection={}", b.id),
        format!("/dir/lookup?fileId={fid}&read=yes"),
        format!("/dir/lookup?fileId={fid}"),
        format!("/{fid}"),
        "/vol/grow?count=1".to_owned(),
        "/vol/vacuum".to_owned(),
        "/submit".to_owned(),
    ] {
        for method in ["GET", "POST"] {
            verdicts.refused(
                &format!("{method} {target}"),
                &Request::new(method, &target).send(&master).await?,
            );
        }
    }
    for target in [format!("/?proxyChunkId={fid}"), format!("/x?proxyChunkId={fid}")] {
        for method in ["GET", "PUT", "DELETE"] {
            verdicts.refused(
                &format!("{method} {target}"),
                &Request::new(method, &target).send(&a.filer).await?,
            );
            verdicts.refused(
                &format!("{method} {target}, A's"),
                &a.filer(Request::new(method, &target)).await?,
            );
        }
    }
    verdicts.finish("volume servers and master")
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
    ensure!(claims["allowed_prefixes"] == json!([folder]), "{claims}");
    ensure!(
        claims["exp"].as_i64() > Some(tokens::in_seconds(6 * 3600)),
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
