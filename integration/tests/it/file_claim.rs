//! File storage that is really stored: through filer, S3 and a mount, on the claimed drives and nowhere else, no
//! more than was asked for, and gone when it is deleted.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use smart_storage_integration::{
    Cluster, GIB, MIB, Need, Setup, cluster::weed, drives::run, eventually, needs::INSTANCE, skipped, within,
};

use crate::reading::{noise, text};

const TWO_MINUTES: Duration = Duration::from_secs(120);

/// Asks for file storage and waits until it is Ready; the whole way has to take less than ten seconds.
pub async fn claim(cluster: &Cluster, name: &str, bytes: u64) -> Result<Value> {
    let rest = cluster.rest()?;
    let ask = json!({"name": name, "storage_type": "file", "capacity_bytes": bytes});
    let start = Instant::now();
    let claim = rest.post("/v1/storage", &ask).await?;
    let id = text(&claim, "/id")?;
    let left = Duration::from_secs(10).saturating_sub(start.elapsed());
    cluster.phase(id, "Ready", left).await
}

/// `weed mount` as the claim's `access.mount` says it, at a folder of ours. Ended when dropped.
pub struct Mount {
    child: Child,
    pub folder: std::path::PathBuf,
}

impl Mount {
    pub async fn of(cluster: &Cluster, claim: &Value) -> Result<Self> {
        let folder = cluster.state().join("mnt").join(text(claim, "/name")?);
        fs::create_dir_all(&folder)?;
        let security = cluster.security()?.join("mount");
        let line = text(claim, "/access/mount")?.replace("<SECURITY>", &security.display().to_string());
        let mut words = line
            .split_whitespace()
            .skip_while(|word| !word.ends_with("weed"))
            .skip(1);
        let mut command = Command::new(weed());
        command.arg("-logtostderr=true");
        let mut folder_given = false;
        while let Some(word) = words.next() {
            if word.starts_with("-dir=") || word == "-dir" {
                if word == "-dir" {
                    words.next();
                }
                folder_given = true;
                command.arg(format!("-dir={}", folder.display()));
            } else {
                command.arg(word);
            }
        }
        ensure!(folder_given, "no -dir in {line:?}");
        let log = fs::File::create(cluster.state().join("log/mount.log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mount = Self { child, folder };
        eventually(Duration::from_secs(20), "weed mount", || async {
            let table = fs::read_to_string("/proc/self/mountinfo")?;
            Ok(table.contains(&*mount.folder.to_string_lossy()).then_some(()))
        })
        .await?;
        Ok(mount)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("fusermount3").arg("-u").arg(&self.folder).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Writes a file as an application does that wants to be sure of it: false where the file system says no.
async fn write_through(file: &Path, bytes: Vec<u8>) -> bool {
    let file = file.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        let mut file = fs::File::create(file)?;
        file.write_all(&bytes)?;
        file.sync_all()
    });
    written.await.is_ok_and(|result| result.is_ok())
}

/// The volume's bytes lie under the members' mounts, and nowhere else in the instance.
fn only_on_claimed_drives(cluster: &Cluster, volume: &str) -> Result<()> {
    let mounts = cluster.member_mounts()?;
    ensure!(!mounts.is_empty(), "no member is mounted");
    let files = cluster.storage_files(cluster.state(), volume)?;
    ensure!(
        files
            .iter()
            .any(|file| file.extension().is_some_and(|end| end == "dat")),
        "nothing is stored"
    );
    for file in &files {
        let on_a_drive = mounts.iter().any(|mount| file.starts_with(mount));
        ensure!(
            on_a_drive,
            "{} is on no claimed drive ({mounts:?})",
            file.display()
        );
    }
    Ok(())
}

/// No file, rule or collection of the volume is left anywhere.
async fn nothing_is_left(cluster: &Cluster, volume: &str) -> Result<Option<()>> {
    let files = cluster.storage_files(cluster.state(), volume)?;
    ensure!(files.is_empty(), "still there: {files:?}");
    ensure!(
        !cluster
            .filer()?
            .list("/buckets")
            .await?
            .contains(&volume.to_owned()),
        "the folder is there"
    );
    let collections = cluster.weed_shell("collection.list")?;
    ensure!(!collections.contains(volume), "{collections}");
    let rules = cluster.weed_shell("fs.configure")?;
    ensure!(rules.contains("locations"), "weed shell shows no rules: {rules}");
    ensure!(!rules.contains(volume), "{rules}");
    Ok(Some(()))
}

async fn delete(cluster: &Cluster, id: &str) -> Result<()> {
    let rest = cluster.rest()?;
    let path = format!("/v1/storage/{id}");
    rest.delete(&path).await?;
    eventually(Duration::from_secs(20), "deleted", || async {
        let (status, _) = rest.call(Method::GET, &path, None).await?;
        Ok((status == StatusCode::NOT_FOUND).then_some(()))
    })
    .await?;
    ensure!(
        rest.delete(&path).await?.as_u16() < 500,
        "deleting again is no error"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_in_through_every_door_onto_the_claimed_drives_and_out_again() -> Result<()> {
    if skipped("file_claim", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("file_claim", Setup::DEMO).await?;
    let photos = claim(&cluster, "photos", GIB).await?;
    let id = text(&photos, "/id")?;
    let path = text(&photos, "/access/filer/path")?.trim_end_matches('/');
    let inside = path
        .strip_prefix(&format!("/buckets/{id}/"))
        .context("the path is inside the bucket")?;
    let (filer, s3) = (cluster.filer()?, cluster.s3(id).await?);

    let by_filer = noise(1, 8 << 20);
    ensure!(
        filer
            .put(&format!("{path}/filer.bin"), by_filer.clone())
            .await?
            .is_success(),
        "filer PUT"
    );
    only_on_claimed_drives(&cluster, id)?;

    let by_s3 = noise(2, 8 << 20);
    ensure!(
        s3.put(&format!("{inside}/s3.bin"), by_s3.clone())
            .await?
            .is_success(),
        "S3 PUT"
    );
    ensure!(
        s3.get(&format!("{inside}/filer.bin")).await?.1 == by_filer,
        "S3 reads what the filer wrote"
    );
    ensure!(
        filer.get(&format!("{path}/s3.bin")).await? == by_s3,
        "the filer reads what S3 wrote"
    );
    only_on_claimed_drives(&cluster, id)?;

    if !skipped("file_claim: mount", &[Need::Fuse])? {
        let mount = Mount::of(&cluster, &photos).await?;
        let by_mount = noise(3, 8 << 20);
        let file = mount.folder.join("mount.bin");
        fs::write(&file, &by_mount)?;
        fs::File::open(&file)?.sync_all()?;
        ensure!(
            fs::read(mount.folder.join("s3.bin"))? == by_s3,
            "the mount reads what S3 wrote"
        );
        ensure!(
            filer.get(&format!("{path}/mount.bin")).await? == by_mount,
            "the filer reads what the mount wrote"
        );
        only_on_claimed_drives(&cluster, id)?;
    }

    // The claim's keys open this bucket and no other one, and end when new ones are made.
    let other = claim(&cluster, "other", 64 * MIB).await?;
    let other_path = text(&other, "/access/filer/path")?;
    ensure!(filer.put(&format!("{other_path}/x"), vec![1]).await?.is_success());
    let foreign = cluster.s3(text(&other, "/id")?).await?;
    ensure!(
        foreign.put("data/x", vec![1]).await?.is_success(),
        "its own bucket"
    );
    let (given, bucket) = (
        s3.get(&format!("{inside}/s3.bin")).await?.0,
        text(&other, "/access/s3/bucket")?,
    );
    ensure!(
        given == StatusCode::OK,
        "one claim's keys do not end with another's: {given}"
    );
    ensure!(bucket != id, "one bucket for each claim");
    cluster.s3(id).await?;
    eventually(Duration::from_secs(10), "the old keys are refused", || async {
        Ok((s3.get(&format!("{inside}/s3.bin")).await?.0 == StatusCode::FORBIDDEN).then_some(()))
    })
    .await?;

    delete(&cluster, id).await?;
    eventually(
        Duration::from_secs(20),
        "no file, rule or collection is left",
        || nothing_is_left(&cluster, id),
    )
    .await?;
    ensure!(
        !filer.get(&format!("{other_path}/x")).await?.is_empty(),
        "and nothing else was deleted"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_more_than_was_asked_for_is_refused_until_the_claim_grows() -> Result<()> {
    if skipped("capacity", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("capacity", Setup::DEMO).await?;
    let small = claim(&cluster, "small", 64 * MIB).await?;
    let id = text(&small, "/id")?;
    let path = text(&small, "/access/filer/path")?
        .trim_end_matches('/')
        .to_owned();
    let filer = cluster.filer()?;
    // Through a mount, where there can be one: mounting does not lift the capacity.
    let mount = match skipped("capacity: mount", &[Need::Fuse])? {
        true => None,
        false => Some(Mount::of(&cluster, &small).await?),
    };
    let write = async |name: String, bytes: Vec<u8>| -> Result<bool> {
        match &mount {
            Some(mount) => Ok(write_through(&mount.folder.join(name), bytes).await),
            None => Ok(filer.put(&format!("{path}/{name}"), bytes).await?.is_success()),
        }
    };
    for index in 0..10 {
        let written = write(format!("fill-{index}"), noise(index, 8 << 20)).await?;
        ensure!(written || index >= 8, "file {index} is within the capacity");
    }
    let mut index = 0;
    within(
        TWO_MINUTES,
        Duration::from_secs(1),
        "writing past the capacity is refused",
        || {
            index += 1;
            let written = write(format!("probe-{index}"), vec![0; 4096]);
            async move { Ok((!written.await?).then_some(())) }
        },
    )
    .await?;
    let status = filer.put(&format!("{path}/over"), vec![0; 4096]).await?;
    ensure!(!status.is_success(), "the filer refuses too: {status}");
    let s3 = cluster.s3(id).await?;
    let status = s3.put("data/over", vec![0; 4096]).await?;
    ensure!(!status.is_success(), "S3 refuses too: {status}");
    ensure!(
        filer.get(&format!("{path}/fill-0")).await? == noise(0, 8 << 20),
        "reading goes on"
    );

    let rest = cluster.rest()?;
    let (status, answer) = rest
        .call(
            Method::PATCH,
            &format!("/v1/storage/{id}"),
            Some(&json!({"capacity_bytes": MIB})),
        )
        .await?;
    ensure!(
        status == StatusCode::UNPROCESSABLE_ENTITY,
        "shrinking is refused: {status} {answer}"
    );
    let grow = json!({"capacity_bytes": 256 * MIB});
    let (status, answer) = rest
        .call(Method::PATCH, &format!("/v1/storage/{id}"), Some(&grow))
        .await?;
    ensure!(status.is_success(), "{status} {answer}");
    within(
        TWO_MINUTES,
        Duration::from_secs(1),
        "after growing it can be written again",
        || async { Ok(write("more".to_owned(), vec![0; 4096]).await?.then_some(())) },
    )
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_ours_survives_everything() -> Result<()> {
    if skipped("foreign bucket", &INSTANCE)? {
        return Ok(());
    }
    let cluster = Cluster::start("foreign-bucket", Setup::DEMO).await?;
    cluster.weed_shell("s3.bucket.create -name somebody-else")?;
    let filer = cluster.filer()?;
    ensure!(
        filer
            .put("/buckets/somebody-else/kept", b"kept".to_vec())
            .await?
            .is_success()
    );
    let ours = claim(&cluster, "ours", 64 * MIB).await?;
    delete(&cluster, text(&ours, "/id")?).await?;
    ensure!(filer.get("/buckets/somebody-else/kept").await? == b"kept");
    let space = run(Command::new("du").arg("-s").arg(cluster.state().join("weed")))?;
    if space.is_empty() || !Path::new(cluster.state()).exists() {
        bail!("the state folder is gone");
    }
    Ok(())
}
