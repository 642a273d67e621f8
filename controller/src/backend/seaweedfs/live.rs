//! The adapter against a real SeaweedFS, which the test starts on free loopback ports and in its own folder:
//! `WEED=/path/to/weed cargo test -p smart-storage-controller --lib live -- --ignored`.

use std::{
    collections::HashSet,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use rusty_s3::{Bucket, S3Action as _, UrlStyle};
use tempfile::TempDir;

use super::*;
use crate::backend::{Credentials, Owner};

const MIB: u64 = 1 << 20;
const CLUSTER: &str = "cluster-1";

struct Weed {
    folder: TempDir,
    running: Vec<(&'static str, Child)>,
    ports: [u16; 12],
}

impl Drop for Weed {
    fn drop(&mut self) {
        let mounted = self.path("mounted");
        if fs::read_to_string("/proc/mounts").is_ok_and(|all| all.contains(&*mounted.to_string_lossy())) {
            let _ = Command::new("umount").arg("-l").arg(&mounted).status();
        }
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_ports() -> [u16; 12] {
    let held: [TcpListener; 12] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.each_ref()
        .map(|listener| listener.local_addr().unwrap().port())
}

impl Weed {
    async fn start() -> Self {
        let mut weed = Self {
            folder: tempfile::tempdir().unwrap(),
            running: Vec::new(),
            ports: free_ports(),
        };
        let identities = r#"{"identities":[{"name":"operator","actions":["Admin"],
            "credentials":[{"accessKey":"OPERATOR","secretKey":"only-for-this-test"}]}]}"#;
        fs::write(weed.path("s3.json"), identities).unwrap();
        let [master, master_grpc, ..] = weed.ports;
        weed.run(
            "master",
            &[
                "master",
                "-mdir",
                "@master",
                "-peers=none",
                "-telemetry=false",
                "-volumeSizeLimitMB=32",
                "-defaultReplication=000",
            ],
            0,
        );
        weed.serving(master, "/cluster/healthz").await;
        let at = format!("-master=127.0.0.1:{master}.{master_grpc}");
        for (name, tag, ports) in [
            ("meta", "", 2),
            ("pool-a", "-disk=pool-a", 4),
            ("pool-b", "-disk=pool-b", 6),
        ] {
            let folder = format!("@{name}");
            let mut arguments = vec![
                "volume",
                "-dir",
                &folder,
                "-max=100",
                "-index=leveldb",
                "-preStopSeconds=1",
                &at,
            ];
            arguments.extend((!tag.is_empty()).then_some(tag));
            weed.run(name, &arguments, ports);
            weed.serving(weed.ports[ports], "/healthz").await;
        }
        weed.run(
            "filer",
            &[
                "filer",
                "-defaultStoreDir",
                "@filer",
                "-localSocket",
                "@filer.sock",
                &at,
            ],
            8,
        );
        weed.serving(weed.ports[8], "/healthz").await;
        weed.start_gateway().await;
        weed
    }

    async fn start_gateway(&mut self) {
        let filer = format!("-filer=127.0.0.1:{}.{}", self.ports[8], self.ports[9]);
        self.run(
            "s3",
            &[
                "s3",
                &filer,
                "-config",
                "@s3.json",
                "-iam=false",
                "-autoCreateBucket=false",
                "-allowDeleteBucketNotEmpty=false",
                "-port.iceberg=0",
                "-port.lance=0",
                "-localSocket",
                "@s3.sock",
            ],
            10,
        );
        self.serving(self.ports[10], "/healthz").await;
    }

    fn stop(&mut self, name: &str) {
        let index = self
            .running
            .iter()
            .position(|(running, _)| *running == name)
            .unwrap();
        let (_, mut child) = self.running.remove(index);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An argument `@x` is the path `x` in the test's folder, made as a folder unless it is a file's name.
    fn run(&mut self, name: &'static str, arguments: &[&str], ports: usize) {
        let program = std::env::var("WEED").unwrap_or_else(|_| "weed".into());
        let log = File::create(self.path(&format!("{name}.log"))).unwrap();
        let mut command = Command::new(program);
        command.arg("-logtostderr=true").current_dir(self.folder.path());
        for argument in arguments {
            match argument.strip_prefix('@') {
                Some(file) if file.contains('.') => command.arg(self.path(file)),
                Some(folder) => {
                    fs::create_dir_all(self.path(folder)).unwrap();
                    command.arg(self.path(folder))
                }
                None => command.arg(argument),
            };
        }
        command
            .arg(format!("-port={}", self.ports[ports]))
            .arg(format!("-port.grpc={}", self.ports[ports + 1]))
            .arg("-ip=127.0.0.1")
            .arg("-ip.bind=127.0.0.1")
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .stderr(log.try_clone().unwrap())
            .stdout(log);
        self.running
            .push((name, command.spawn().expect("weed runs: set WEED")));
    }

    async fn serving(&self, port: u16, path: &str) {
        let http = client();
        let url = format!("http://127.0.0.1:{port}{path}");
        until(Duration::from_secs(40), &format!("{url} answers"), || async {
            http.get(&url)
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    fn adapter(&self) -> SeaweedFs {
        let of = |index: usize| format!("127.0.0.1:{}.{}", self.ports[index], self.ports[index + 1]);
        let s3 = format!("http://127.0.0.1:{}", self.ports[10]);
        SeaweedFs::connect(
            Endpoints::parse(&of(0), &of(8), &s3).unwrap(),
            Security::default(),
        )
        .unwrap()
    }

    fn filer(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports[8])
    }

    async fn s3(
        &self,
        keys: Option<&Credentials>,
        method: Method,
        bucket: &str,
        key: &str,
        body: Vec<u8>,
    ) -> StatusCode {
        let url = format!("http://127.0.0.1:{}", self.ports[10]).parse().unwrap();
        let bucket = Bucket::new(url, UrlStyle::Path, bucket.to_owned(), "us-east-1").unwrap();
        let keys = keys.map(|keys| rusty_s3::Credentials::new(&keys.access_key, &keys.secret_key));
        let soon = Duration::from_secs(60);
        let url = match (&method, key) {
            (&Method::PUT, key) => bucket.put_object(keys.as_ref(), key).sign(soon),
            (&Method::DELETE, "") => bucket.delete_bucket(&keys.unwrap()).sign(soon),
            (&Method::DELETE, key) => bucket.delete_object(keys.as_ref(), key).sign(soon),
            (_, "") => bucket.list_objects_v2(keys.as_ref()).sign(soon),
            (_, key) => bucket.get_object(keys.as_ref(), key).sign(soon),
        };
        client()
            .request(method, url)
            .body(body)
            .send()
            .await
            .unwrap()
            .status()
    }

    /// Data files of a collection on one server.
    fn files(&self, server: &str, collection: &str) -> usize {
        let entries = fs::read_dir(self.path(server)).unwrap();
        entries
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with(collection)
            })
            .count()
    }
}

fn client() -> reqwest::Client {
    http::client(RootCertStore::empty(), CONNECT, Duration::from_secs(30)).unwrap()
}

async fn until<F: Future<Output = bool>>(
    limit: Duration,
    what: &str,
    mut check: impl FnMut() -> F,
) -> Duration {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    start.elapsed()
}

fn spec(name: &str, tag: &str, quota: u64) -> VolumeSpec {
    VolumeSpec {
        name: name.into(),
        disk_tag: tag.into(),
        quota_bytes: quota,
        replication: "000".into(),
        growth_count: 1,
        cluster_id: CLUSTER.into(),
        owner: Owner {
            namespace: "default".into(),
            name: name.replace("uv", "claim"),
            uid: "u".into(),
        },
    }
}

fn keys() -> Credentials {
    Credentials::generate().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs weed"]
async fn a_volume_lives_on_its_pools_drives_is_closed_when_full_grows_and_goes_without_a_trace() {
    let mut weed = Weed::start().await;
    let fs = weed.adapter();
    until(Duration::from_secs(10), "every part serves", || async {
        fs.health().await.is_serving()
    })
    .await;
    let topology = fs.topology().await.unwrap();
    assert_eq!(topology.slot_bytes, 32 * MIB);
    assert_eq!(
        (topology.tag("pool-a").servers, topology.tag("pool-a").slots_max),
        (1, 100)
    );

    // A rule of somebody else, and an upload over HTTP by somebody who does not know better.
    let theirs = r#"{"locations":[{"locationPrefix":"/theirs/","ttl":"5d","fsync":true}]}"#;
    let put = client()
        .put(weed.filer("/etc/seaweedfs/filer.conf"))
        .body(theirs)
        .send()
        .await
        .unwrap();
    assert!(put.status().is_success(), "{}", put.status());

    let (a, b) = (
        "uv-00000000-0000-4000-8000-00000000000a",
        "uv-00000000-0000-4000-8000-00000000000b",
    );
    let (keys_a, keys_b) = (keys(), keys());
    let started = Instant::now();
    let handle = fs.ensure_volume(&spec(a, "pool-a", 8 * MIB)).await.unwrap();
    fs.ensure_identity(a, &keys_a).await.unwrap();
    println!("ensured after {:?}: {handle:?}", started.elapsed());
    assert_eq!(
        weed.s3(Some(&keys_a), Method::PUT, a, "data/one", vec![1; 100_000])
            .await,
        StatusCode::OK
    );
    println!("first write after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(5));
    fs.ensure_volume(&spec(b, "pool-b", 8 * MIB)).await.unwrap();
    fs.ensure_identity(b, &keys_b).await.unwrap();
    assert_eq!(
        fs.ensure_volume(&spec(a, "pool-a", 8 * MIB)).await.unwrap(),
        handle,
        "again: the same"
    );
    assert_eq!(handle.servers, [format!("127.0.0.1:{}", weed.ports[4])]);

    // Another claim's keys, no keys, wrong keys.
    let refused = StatusCode::FORBIDDEN;
    let wrong = Credentials {
        secret_key: "x".repeat(40),
        ..keys_a.clone()
    };
    for other in [Some(&keys_b), None, Some(&wrong)] {
        assert_eq!(
            weed.s3(other, Method::GET, a, "data/one", vec![]).await,
            refused,
            "{other:?}"
        );
        assert_eq!(
            weed.s3(other, Method::PUT, a, "data/two", vec![2]).await,
            refused,
            "{other:?}"
        );
        assert_eq!(
            weed.s3(other, Method::GET, a, "", vec![]).await,
            refused,
            "{other:?}"
        );
        assert_eq!(
            weed.s3(other, Method::DELETE, a, "data/one", vec![]).await,
            refused,
            "{other:?}"
        );
    }
    assert_eq!(
        weed.s3(Some(&keys_a), Method::DELETE, a, "", vec![]).await,
        refused,
        "its own bucket"
    );
    assert_eq!(
        weed.s3(Some(&keys_a), Method::GET, a, "", vec![]).await,
        StatusCode::OK
    );
    assert_eq!(
        weed.s3(Some(&keys_a), Method::GET, a, "data/one", vec![]).await,
        StatusCode::OK
    );

    // What the filer gets lies on the same drive.
    let path = format!("{}/by-filer", handle.data_path);
    let put = client()
        .put(weed.filer(&path))
        .body(vec![3; 200_000])
        .send()
        .await
        .unwrap();
    assert!(put.status().is_success());
    assert!(weed.files("pool-a", a) > 0);
    assert_eq!(
        (
            weed.files("pool-b", a),
            weed.files("meta", a),
            weed.files("pool-a", b)
        ),
        (0, 0, 0)
    );

    // A gateway that starts again knows the keys and still lets nobody else in.
    weed.stop("s3");
    weed.start_gateway().await;
    assert_eq!(
        weed.s3(Some(&keys_a), Method::GET, a, "data/one", vec![]).await,
        StatusCode::OK
    );
    assert_eq!(weed.s3(None, Method::GET, a, "data/one", vec![]).await, refused);

    // An emptied data folder; looked at in the end, when the cleaner has been there.
    assert_eq!(
        weed.s3(Some(&keys_b), Method::PUT, b, "data/one", vec![1]).await,
        StatusCode::OK
    );
    assert_eq!(
        weed.s3(Some(&keys_b), Method::DELETE, b, "data/one", vec![])
            .await,
        StatusCode::NO_CONTENT
    );
    let emptied = Instant::now();

    // Full.
    for part in 0..3 {
        let key = format!("data/big-{part}");
        assert_eq!(
            weed.s3(Some(&keys_a), Method::PUT, a, &key, vec![4; 4 << 20])
                .await,
            StatusCode::OK
        );
    }
    let closed = until(Duration::from_secs(120), "writes are refused", || async {
        weed.s3(Some(&keys_a), Method::PUT, a, "data/more", vec![5; 4096])
            .await
            .is_server_error()
    })
    .await;
    let put = client().put(weed.filer(&path)).body("x").send().await.unwrap();
    println!(
        "closed {closed:?} after the overrun; the filer says {}",
        put.status()
    );
    assert_eq!(put.status(), StatusCode::INSUFFICIENT_STORAGE);
    assert!(fs.usage(a).await.unwrap() > 8 * MIB);
    assert!(
        fs.ensure_volume(&spec(a, "pool-a", 8 * MIB)).await.is_ok(),
        "full is no error of ensure"
    );
    let still = weed
        .s3(Some(&keys_a), Method::PUT, a, "data/more", vec![5; 10])
        .await;
    assert!(still.is_server_error(), "{still}");

    // Grown: open at once.
    fs.set_quota(a, CLUSTER, 64 * MIB).await.unwrap();
    let opened = until(Duration::from_secs(5), "writes go on", || async {
        weed.s3(Some(&keys_a), Method::PUT, a, "data/more", vec![5; 4096])
            .await
            == StatusCode::OK
    })
    .await;
    println!("open {opened:?} after growing");

    // New keys, the old ones are revoked.
    let (old, keys_a) = (keys_a, keys());
    fs.ensure_identity(a, &keys_a).await.unwrap();
    let rotated = until(Duration::from_secs(2), "the old keys are refused", || async {
        weed.s3(Some(&old), Method::GET, a, "data/one", vec![]).await == refused
    })
    .await;
    println!("old keys refused {rotated:?} after the rotation");
    assert_eq!(
        weed.s3(Some(&keys_a), Method::GET, a, "data/one", vec![]).await,
        StatusCode::OK
    );

    // Somebody else's directory of such a name.
    let foreign = "uv-00000000-0000-4000-8000-00000000000f";
    let made = client()
        .post(weed.filer(&format!("/buckets/{foreign}/")))
        .send()
        .await
        .unwrap();
    assert!(made.status().is_success());
    assert!(matches!(
        fs.ensure_volume(&spec(foreign, "pool-a", MIB)).await,
        Err(EnsureVolumeError::Foreign { .. })
    ));
    assert!(matches!(
        fs.delete_volume(foreign, CLUSTER).await,
        Err(DeleteVolumeError::Foreign { .. })
    ));
    assert!(matches!(
        fs.delete_volume(b, "other").await,
        Err(DeleteVolumeError::Foreign { .. })
    ));
    let orphans = fs.orphans(CLUSTER, &HashSet::from([b.to_owned()])).await.unwrap();
    let seen: Vec<_> = orphans
        .iter()
        .map(|orphan| (orphan.name.as_str(), orphan.marked))
        .collect();
    assert_eq!(seen, [(a, true), (foreign, false)]);

    // A pool that has no server says so, and nothing is left of the attempt.
    let nowhere = "uv-00000000-0000-4000-8000-00000000000e";
    let error = fs
        .ensure_volume(&spec(nowhere, "no-such-pool", MIB))
        .await
        .unwrap_err();
    println!("no such pool: {error}");
    assert!(
        matches!(&error, EnsureVolumeError::Call(call) if call.failure == Failure::NoRoom),
        "{error:?}"
    );
    fs.delete_volume(nowhere, CLUSTER).await.unwrap();

    // Gone.
    let started = Instant::now();
    fs.delete_volume(a, CLUSTER).await.unwrap();
    println!("deleted in {:?}", started.elapsed());
    fs.delete_volume(a, CLUSTER).await.unwrap();
    until(Duration::from_secs(5), "the files are gone", || async {
        weed.files("pool-a", a) == 0
    })
    .await;
    assert_eq!(
        weed.s3(Some(&keys_a), Method::GET, a, "data/one", vec![]).await,
        refused
    );
    assert_eq!(fs.access_key(a).await.unwrap(), None);
    assert!(fs.look_up(BUCKETS, a).await.unwrap().is_none());
    for name in [a, nowhere] {
        assert!(!fs.has_collection(name).await.unwrap(), "{name}");
    }
    let rules = rules_of(&fs).await;
    assert_eq!(
        rules,
        ["/theirs/", &prefix(b)],
        "only what belongs to others is left"
    );
    assert_eq!(
        weed.s3(Some(&keys_b), Method::PUT, b, "data/two", vec![1]).await,
        StatusCode::OK
    );
    assert_eq!(
        weed.s3(Some(&keys_b), Method::DELETE, b, "data/two", vec![])
            .await,
        StatusCode::NO_CONTENT
    );
    println!("data folder of b {:?} after it was emptied", emptied.elapsed());
    assert!(
        fs.look_up(&format!("{BUCKETS}/{b}"), DATA)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs weed, root and /dev/fuse"]
async fn a_half_made_volume_is_mended_and_mounting_it_keeps_its_quota() {
    let mut weed = Weed::start().await;
    let fs = weed.adapter();
    let name = "uv-00000000-0000-4000-8000-00000000000c";
    let wanted = spec(name, "pool-b", 16 * MIB);
    let keys = keys();
    fs.ensure_identity(name, &keys).await.unwrap();
    let handle = fs.ensure_volume(&wanted).await.unwrap();
    let entry = || async { fs.look_up(BUCKETS, name).await.unwrap().unwrap() };
    let whole = || async {
        let folder = fs.look_up(&handle.path, DATA).await.unwrap().is_some();
        folder && entry().await.quota == 16 << 20 && rules_of(&fs).await == [prefix(name)]
    };
    assert!(whole().await);

    // The folder is gone, the rule is gone, the quota was reset: whatever happened, it is made whole.
    fs.change_rule(Change::Remove(prefix(name))).await.unwrap();
    assert!(!whole().await);
    assert_eq!(fs.ensure_volume(&wanted).await.unwrap(), handle);
    assert!(whole().await);
    let gone = client()
        .delete(weed.filer(&handle.data_path))
        .query(&[("recursive", "true")])
        .send()
        .await
        .unwrap();
    assert!(gone.status().is_success());
    let reset = wire::filer::Entry {
        quota: 0,
        ..entry().await
    };
    fs.update_owned(reset, name, CLUSTER).await.unwrap();
    assert!(!whole().await);
    assert_eq!(fs.ensure_volume(&wanted).await.unwrap(), handle);
    assert!(whole().await);

    // A folder that its user emptied stays; in a bucket without our switch it is taken away. The filer looks once at a
    // folder, two minutes after its last file went, and forgets it where the file's coming reached it after its going:
    // so they are emptied again where nothing happened.
    let plain = "plain-bucket";
    let started = Instant::now();
    for again in 0.. {
        assert!(again < 4, "no cleaner came by within {:?}", started.elapsed());
        for path in [
            format!("/buckets/{plain}/data/x"),
            format!("{}/x", handle.data_path),
        ] {
            let put = client().put(weed.filer(&path)).body("x").send().await.unwrap();
            assert!(put.status().is_success());
            let gone = client().delete(weed.filer(&path)).send().await.unwrap();
            assert!(gone.status().is_success());
        }
        let came = tokio::time::timeout(Duration::from_secs(170), async {
            let folder = format!("{BUCKETS}/{plain}");
            while fs.look_up(&folder, DATA).await.unwrap().is_some() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        if came.await.is_ok() {
            break;
        }
    }
    let waited = started.elapsed();
    println!("the cleaner took another bucket's folder after {waited:?}");
    assert!(whole().await);

    // The mount form that users are given.
    let access = fs.access(name).mount.unwrap();
    let folder = weed.path("mounted");
    fs::create_dir(&folder).unwrap();
    let command = access.replace("<DIRECTORY>", folder.to_str().unwrap());
    let arguments: Vec<_> = command.split(' ').skip(1).collect();
    let log = File::create(weed.path("mount.log")).unwrap();
    let mut mount = Command::new(std::env::var("WEED").unwrap());
    mount
        .arg("-logtostderr=true")
        .args(&arguments)
        .arg("-cacheCapacityMB=0")
        .stderr(log);
    mount.arg("-localSocket").arg(weed.path("mount.sock"));
    weed.running.push(("mount", mount.spawn().unwrap()));
    until(Duration::from_secs(20), "it is mounted", || async {
        fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains(folder.to_str().unwrap())
    })
    .await;
    fs::write(folder.join("by-mount"), vec![7; 100_000]).unwrap();
    File::open(folder.join("by-mount")).unwrap().sync_all().unwrap();
    let read = weed
        .s3(Some(&keys), Method::GET, name, "data/by-mount", vec![])
        .await;
    let unmounted = Command::new("umount").arg(&folder).status().unwrap();
    assert!(unmounted.success());
    assert_eq!(read, StatusCode::OK);
    assert!(whole().await, "its quota is as it was");
    assert_eq!((weed.files("pool-a", name), weed.files("meta", name)), (0, 0));
    fs.delete_volume(name, CLUSTER).await.unwrap();
    assert_eq!(rules_of(&fs).await, Vec::<String>::new());
}

async fn rules_of(fs: &SeaweedFs) -> Vec<String> {
    let entry = fs.look_up("/etc/seaweedfs", "filer.conf").await.unwrap().unwrap();
    assert!(entry.chunks.is_empty(), "inline");
    let document: serde_json::Value = serde_json::from_slice(&entry.content).unwrap();
    let prefixes = document["locations"].as_array().unwrap().iter();
    let mut prefixes: Vec<_> = prefixes
        .map(|rule| rule["locationPrefix"].as_str().unwrap().to_owned())
        .collect();
    prefixes.sort_by_key(|prefix| prefix.starts_with("/buckets/"));
    prefixes
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs weed"]
async fn sixty_volumes_at_once_all_come_and_lose_no_rule() {
    let weed = Weed::start().await;
    let fs = weed.adapter();
    let names: Vec<String> = (0..60)
        .map(|n| format!("uv-00000000-0000-4000-8000-{n:012}"))
        .collect();
    let started = Instant::now();
    // Two processes' worth of adapters, as after a failover: their locks do not know of each other.
    let other = weed.adapter();
    let all = names.iter().enumerate().map(|(n, name)| {
        let fs = if n % 2 == 0 { fs.clone() } else { other.clone() };
        let spec = spec(name, "pool-a", 4 * MIB);
        async move {
            let handle = fs.ensure_volume(&spec).await.unwrap();
            fs.ensure_identity(&spec.name, &keys()).await.unwrap();
            handle
        }
    });
    let handles = futures::future::join_all(all).await;
    println!("60 volumes after {:?}", started.elapsed());
    assert!(handles.iter().all(|handle| handle.servers.len() == 1));
    assert_eq!(rules_of(&fs).await.len(), 60);
    assert_eq!(fs.topology().await.unwrap().tag("pool-a").slots_used, 60);
    let (meta, second) = (Path::new("meta"), Path::new("pool-b"));
    for server in [meta, second] {
        assert_eq!(weed.files(server.to_str().unwrap(), "uv-"), 0);
    }
    let started = Instant::now();
    let gone = names.iter().map(|name| fs.delete_volume(name, CLUSTER));
    futures::future::try_join_all(gone).await.unwrap();
    println!("60 deleted after {:?}", started.elapsed());
    assert_eq!(rules_of(&fs).await, Vec::<String>::new());
    assert_eq!(fs.orphans(CLUSTER, &HashSet::new()).await.unwrap(), []);
    assert_eq!(fs.topology().await.unwrap().tag("pool-a").slots_used, 0);
}
