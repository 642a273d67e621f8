//! S3 with another claim's bucket in mind.

use anyhow::{Result, ensure};
use reqwest::StatusCode;
use smart_storage_integration::{S3, raw::Request};

use super::{User, Verdicts};

/// Every call of S3 that names B's bucket, and those on A's own that would give A more than it asked for.
pub async fn through_s3(a: &User, b: &User) -> Result<()> {
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
