//! The HTTP of filer, volume servers and master with another claim's files in mind.

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use smart_storage_integration::{
    Cluster,
    raw::Request,
    tokens::{self, Keys},
};

use super::{User, Verdicts};
use crate::reading::{list, text};

/// The filer's HTTP with A's token, with forged ones, and with none.
pub async fn through_the_filer(cluster: &Cluster, a: &User, b: &User) -> Result<()> {
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
pub async fn through_volume_servers(cluster: &Cluster, a: &User, b: &User) -> Result<()> {
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
