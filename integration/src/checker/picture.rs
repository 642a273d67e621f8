//! What there really is, read from the real parts: objects through the Kubernetes API, the filer over HTTP, the master
//! through weed's shell, the marks from the drives' bytes, mounts and processes from the kernel, files from the mounts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    marks::{self, Mark},
    store,
};
use crate::{cluster::Cluster, drives::LoopDrive};

const GROUP: &str = "/apis/storage.billyronks.io/v1";
const OURS: &str = "uv-";

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// Namespace and name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its phase.
    pub phase: String,
    /// What its conditions say that are not true.
    pub words: String,
    /// The volume that it asks for by name; empty where it does not.
    pub wanted: String,
    /// The volume that it says it has.
    pub volume: String,
    /// The bytes that it asks for.
    pub asked: u64,
    /// The bytes that it says it has.
    pub has: u64,
    /// The access key that it shows.
    pub access_key: String,
}

/// The bytes behind a request.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    /// Its pool.
    pub pool: String,
    /// Whose it is.
    pub claim_uid: String,
    /// Its size.
    pub bytes: u64,
    /// What it holds of its pool's promise.
    pub promised: u64,
    /// Its phase.
    pub phase: String,
    /// What its conditions say that are not true.
    pub words: String,
    /// Whether it is to be deleted.
    pub deleting: bool,
}

/// A pool.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Its phase.
    pub phase: String,
    /// What its conditions say that are not true.
    pub words: String,
    /// Whether it is to be deleted.
    pub deleting: bool,
    /// Bytes that it has.
    pub total: u64,
    /// Bytes that it promised.
    pub promised: u64,
    /// Bytes that it says are free.
    pub available: u64,
    /// Bytes that it says belong to no volume any more.
    pub retained: u64,
    /// Volumes for which bytes are reserved that are not written.
    pub reserved: Vec<String>,
}

/// A drive that a pool claimed.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// The object's name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// The drive's id.
    pub drive: String,
    /// Its phase.
    pub phase: String,
    /// What its conditions say that are not true.
    pub words: String,
    /// Whether it is to be deleted.
    pub deleting: bool,
    /// Where it serves.
    pub endpoint: String,
    /// Slots that it gives.
    pub slots: u64,
    /// Bytes of a slot.
    pub slot_bytes: u64,
}

/// A volume's directory on the filer.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// The volume that its mark names.
    pub marked_as: String,
    /// Its quota in bytes.
    pub quota: u64,
    /// Whether it says that it is kept after its volume.
    pub kept: bool,
}

/// A rule of `filer.conf`.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// The volume whose path it is for.
    pub volume: String,
    /// The drives to which it leads.
    pub disk_tag: String,
    /// Whether it closes the path.
    pub read_only: bool,
}

/// A volume server that runs.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// The member on whose mount it works.
    pub member: String,
    /// Where it listens.
    pub endpoint: String,
}

/// Everything that is compared.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Every claim.
    pub claims: Vec<Claim>,
    /// Every volume by name.
    pub volumes: BTreeMap<String, Volume>,
    /// Every pool by name.
    pub pools: BTreeMap<String, Pool>,
    /// Every PoolMember by member id.
    pub members: BTreeMap<String, Member>,
    /// Nodes that a StorageNode names.
    pub nodes: BTreeSet<String>,
    /// Drives that their nodes call claimed.
    pub claimed_drives: BTreeSet<String>,
    /// Access and secret key of every Secret of a volume.
    pub secrets: BTreeMap<String, (String, String)>,
    /// The filer's directories that have a volume's name.
    pub directories: BTreeMap<String, Directory>,
    /// The filer's rules for volumes.
    pub rules: Vec<Rule>,
    /// The keys of each S3 identity that has a volume's name.
    pub identities: BTreeMap<String, Vec<(String, String)>>,
    /// How many slots each collection has at the master.
    pub collections: BTreeMap<String, u64>,
    /// Volumes that have files on the members' drives.
    pub files: BTreeSet<String>,
    /// Volume servers that the master sees, the filer's own excepted.
    pub at_master: BTreeSet<String>,
    /// The marks on the instance's drives.
    pub marks: Vec<Mark>,
    /// Members that are mounted, once for each mount.
    pub mounts: Vec<String>,
    /// Members with a mount point.
    pub mount_points: BTreeSet<String>,
    /// Members with a record of the agent's.
    pub records: BTreeSet<String>,
    /// The members' volume servers.
    pub servers: Vec<Server>,
    /// Processes that name the state folder and are neither a component nor a volume server.
    pub strays: Vec<String>,
    /// Nodes with a join token.
    pub tokens: BTreeSet<String>,
    /// Files that a write left that did not end.
    pub leftovers: Vec<String>,
}

/// Reads everything.
///
/// # Errors
/// One of the parts does not answer, or with something that is not understood.
pub async fn read(cluster: &Cluster) -> Result<Picture> {
    let mut picture = Picture::default();
    objects(cluster, &mut picture).await.context("objects")?;
    filer(cluster, &mut picture).await.context("the filer")?;
    master(cluster, &mut picture).context("the master")?;
    machine(cluster, &mut picture).context("the machine")?;
    Ok(picture)
}

/// Reads what the machine alone shows: drives, mounts, processes, files; and the store, where its owner is `dead`.
///
/// # Errors
/// Something cannot be read.
pub fn read_machine(cluster: &Cluster, dead: bool) -> Result<Picture> {
    let mut picture = Picture::default();
    machine(cluster, &mut picture).context("the machine")?;
    if dead {
        let file = cluster.state().join("controller/store.redb");
        store::read(&file, &mut picture).context("the store")?;
    }
    Ok(picture)
}

pub(super) fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

fn words(object: &Value) -> String {
    let untrue = items(object, "/status/conditions")
        .iter()
        .filter(|condition| text(condition, "/status") != "True");
    untrue
        .map(|condition| format!("{}: {}", text(condition, "/reason"), text(condition, "/message")))
        .collect::<Vec<_>>()
        .join("; ")
}

/// A quantity as the suites write them: a number of bytes, or of Mi or Gi.
fn quantity(text: &str) -> u64 {
    let (digits, unit) = match text.strip_suffix("Gi") {
        Some(digits) => (digits, 1 << 30),
        None => text
            .strip_suffix("Mi")
            .map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    digits.parse::<u64>().unwrap_or_default() * unit
}

pub(super) fn pool(object: &Value) -> Pool {
    Pool {
        phase: text(object, "/status/phase"),
        words: words(object),
        deleting: deleting(object),
        total: number(object, "/status/totalCapacityBytes"),
        promised: number(object, "/status/promisedBytes"),
        available: number(object, "/status/availableCapacityBytes"),
        retained: number(object, "/status/retainedBytes"),
        reserved: items(object, "/status/reservations")
            .iter()
            .map(|reservation| text(reservation, "/volume"))
            .collect(),
    }
}

pub(super) fn volume(object: &Value) -> Volume {
    Volume {
        pool: text(object, "/spec/placement/pool"),
        claim_uid: text(object, "/spec/claimRef/uid"),
        bytes: number(object, "/spec/capacityBytes"),
        promised: number(object, "/spec/placement/promisedBytes"),
        phase: text(object, "/status/phase"),
        words: words(object),
        deleting: deleting(object),
    }
}

async fn objects(cluster: &Cluster, picture: &mut Picture) -> Result<()> {
    let client = cluster.kube().await?;
    let list = async |path: String| -> Result<Vec<Value>> {
        let request = http::Request::get(&path).body(Vec::new())?;
        let answer = client.request::<Value>(request).await.context(path)?;
        Ok(items(&answer, "/items").to_vec())
    };
    // The requests last: whoever is bound by then has a volume in the lists before.
    for object in list(format!("{GROUP}/unifiedpools")).await? {
        picture
            .pools
            .insert(text(&object, "/metadata/name"), pool(&object));
    }
    for object in list(format!("{GROUP}/poolmembers")).await? {
        let member = Member {
            name: text(&object, "/metadata/name"),
            pool: text(&object, "/spec/pool"),
            drive: text(&object, "/spec/driveId"),
            phase: text(&object, "/status/phase"),
            words: words(&object),
            deleting: deleting(&object),
            endpoint: text(&object, "/status/endpoint"),
            slots: number(&object, "/spec/slots"),
            slot_bytes: number(&object, "/spec/slotBytes"),
        };
        picture.members.insert(text(&object, "/spec/memberId"), member);
    }
    for object in list(format!("{GROUP}/storagenodes")).await? {
        picture.nodes.insert(text(&object, "/spec/nodeName"));
        let claimed = items(&object, "/status/drives")
            .iter()
            .filter(|drive| text(drive, "/use/state") == "Claimed");
        picture
            .claimed_drives
            .extend(claimed.map(|drive| text(drive, "/id")));
    }
    for object in list(format!("{GROUP}/unifiedvolumes")).await? {
        picture
            .volumes
            .insert(text(&object, "/metadata/name"), volume(&object));
    }
    for object in list("/api/v1/secrets".to_owned()).await? {
        let name = text(&object, "/metadata/name");
        if name.starts_with(OURS) {
            let key = |key: &str| from_base64(&text(&object, &format!("/data/{key}")));
            picture
                .secrets
                .insert(name, (key("access_key"), key("secret_key")));
        }
    }
    for object in list(format!("{GROUP}/unifiedstorageclaims")).await? {
        picture.claims.push(Claim {
            name: format!(
                "{}/{}",
                text(&object, "/metadata/namespace"),
                text(&object, "/metadata/name")
            ),
            uid: text(&object, "/metadata/uid"),
            phase: text(&object, "/status/phase"),
            words: words(&object),
            wanted: text(&object, "/spec/volumeName"),
            volume: text(&object, "/status/volumeName"),
            asked: quantity(&text(&object, "/spec/capacity")),
            has: number(&object, "/status/capacityBytes"),
            access_key: text(&object, "/status/access/s3/accessKey"),
        });
    }
    Ok(())
}

async fn filer(cluster: &Cluster, picture: &mut Picture) -> Result<()> {
    let filer = cluster.filer()?;
    for entry in filer.entries("/buckets").await? {
        let name = last(&text(&entry, "/FullPath"));
        if name.starts_with(OURS) {
            let mark = text(&entry, "/Extended/storage.billyronks.io~1volume");
            let directory = Directory {
                marked_as: from_base64(&mark),
                quota: number(&entry, "/Quota"),
                kept: entry
                    .pointer("/Extended/storage.billyronks.io~1retained")
                    .is_some(),
            };
            picture.directories.insert(name, directory);
        }
    }
    for entry in filer.entries("/etc/iam/identities").await? {
        let path = text(&entry, "/FullPath");
        let name = last(&path).trim_end_matches(".json").to_owned();
        if name.starts_with(OURS) {
            let identity: Value = serde_json::from_slice(&filer.get(&path).await?).context(path)?;
            let keys = items(&identity, "/credentials")
                .iter()
                .map(|key| (text(key, "/access_key"), text(key, "/secret_key")));
            picture.identities.insert(name, keys.collect());
        }
    }
    let rules: Value = serde_json::from_slice(&filer.get("/etc/seaweedfs/filer.conf").await?)?;
    for rule in items(&rules, "/locations") {
        let prefix = text(rule, "/locationPrefix");
        let volume = prefix
            .strip_prefix("/buckets/")
            .unwrap_or_default()
            .trim_end_matches('/');
        if volume.starts_with(OURS) {
            picture.rules.push(Rule {
                volume: volume.to_owned(),
                disk_tag: text(rule, "/diskType"),
                read_only: rule.pointer("/readOnly").and_then(Value::as_bool) == Some(true),
            });
        }
    }
    Ok(())
}

/// What the master sees, by the shell that administrators use: its HTTP is closed. (`volume.list` would be one command
/// for both, and leaves out servers that hold nothing.)
fn master(cluster: &Cluster, picture: &mut Picture) -> Result<()> {
    let said = cluster.weed_shell("cluster.ps\ncollection.list")?;
    let servers = servers(&said).with_context(|| format!("cluster.ps: {said}"))?;
    let filers_own = cluster.meta_endpoint();
    picture
        .at_master
        .extend(servers.into_iter().filter(|server| *server != filers_own));
    picture
        .collections
        .extend(collections(&said).with_context(|| format!("collection.list: {said}"))?);
    Ok(())
}

/// The volume servers in what `cluster.ps` says: the addresses below their heading; none where they are not as many as
/// it says.
fn servers(said: &str) -> Option<Vec<String>> {
    let mut lines = said.lines();
    let count = lines.find_map(|line| line.strip_prefix("* volume servers "))?;
    let below = lines.take_while(|line| line.starts_with(' '));
    let found: Vec<String> = below
        .filter_map(|line| line.trim_start().strip_prefix("* "))
        .filter(|line| !line.starts_with("data center: ") && !line.starts_with("rack: "))
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    (count.trim().parse() == Ok(found.len())).then_some(found)
}

/// Our collections and their slots in what `collection.list` says; none where it did not come to its end.
fn collections(said: &str) -> Option<Vec<(String, u64)>> {
    let ends = |line: &str| line.starts_with("Total ") && line.ends_with(" collections.");
    let slots = |rest: &str| {
        let (_, rest) = rest.split_once("volumeCount:")?;
        rest.split('\t').next()?.parse().ok()
    };
    said.lines().any(ends).then_some(())?;
    said.lines()
        .filter_map(|line| line.split_once("collection:\"")?.1.split_once('"'))
        .filter(|(name, _)| name.starts_with(OURS))
        .map(|(name, rest)| Some((name.to_owned(), slots(rest)?)))
        .collect()
}

fn machine(cluster: &Cluster, picture: &mut Picture) -> Result<()> {
    let state = cluster.state();
    for path in files(&state.join("drives"))? {
        if LoopDrive::find(&path)?.is_some() {
            picture.marks.extend(marks::read(&path)?);
        }
    }
    let mounts = state.join("agent/mounts");
    for path in files(&mounts)? {
        picture.mount_points.insert(name_of(&path));
    }
    for mount in cluster.member_mounts()? {
        picture.mounts.push(name_of(&mount));
        for file in files(&mount.join("data"))? {
            let name = name_of(&file);
            if let Some((volume, _)) = name.rsplit_once('_').filter(|_| name.starts_with(OURS)) {
                picture.files.insert(volume.to_owned());
            }
        }
    }
    let members = files(&state.join("agent/members"))?;
    for path in members
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
    {
        picture
            .records
            .insert(name_of(path).trim_end_matches(".json").to_owned());
    }
    let tokens = files(&state.join("controller/join-tokens"))?;
    picture.tokens.extend(
        tokens
            .iter()
            .map(|path| name_of(path))
            .filter(|name| !name.ends_with(".new")),
    );
    let folders = [
        "agent",
        "agent/identity",
        "agent/members",
        "controller",
        "controller/pki",
        "controller/join-tokens",
    ];
    for folder in folders {
        for path in files(&state.join(folder))? {
            if path.extension().is_some_and(|e| e == "new") {
                picture.leftovers.push(format!("{folder}/{}", name_of(&path)));
            }
        }
    }
    processes(cluster, &mounts, picture)
}

fn processes(cluster: &Cluster, mounts: &Path, picture: &mut Picture) -> Result<()> {
    let components: BTreeSet<String> = files(&cluster.state().join("run"))?
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "pid"))
        .filter_map(|path| Some(fs::read_to_string(path).ok()?.trim().to_owned()))
        .collect();
    let below = format!("{}/", cluster.state().display());
    let data = format!("-dir={}/", mounts.display());
    for process in files(Path::new("/proc"))? {
        let pid = name_of(&process);
        let Ok(program) = fs::read_link(process.join("exe")) else {
            continue;
        };
        let ours = ["smart-storage-controller", "smart-storage-agent", "weed"];
        let program = name_of(&program);
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let is_ours = ours.iter().any(|name| program.starts_with(name));
        if !is_ours || !line.contains(&below) || components.contains(&pid) {
            continue;
        }
        let word = |prefix: &str| {
            line.split(' ')
                .find_map(|word| word.strip_prefix(prefix))
                .map(str::to_owned)
        };
        match (word(&data), word("-port=")) {
            (Some(rest), Some(port)) => picture.servers.push(Server {
                member: rest.split('/').next().unwrap_or_default().to_owned(),
                endpoint: format!("127.0.0.1:{port}"),
            }),
            _ => picture.strays.push(format!("{pid}: {line}")),
        }
    }
    Ok(())
}

/// What is in a folder; nothing where it is not there.
fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn last(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Standard base64; empty where it is none.
fn from_base64(text: &str) -> String {
    decode(text)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_default()
}

fn decode(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            _ => {
                ensure!(byte == b'/', "not base64");
                63
            }
        };
        held = (held << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff)?);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{collections, from_base64, quantity, servers};

    #[test]
    fn quantities_and_base64_are_read_as_others_write_them() {
        assert_eq!(quantity("1Gi"), 1 << 30);
        assert_eq!(quantity("64Mi"), 64 << 20);
        assert_eq!(quantity("4194304"), 4 << 20);
        for (text, plain) in [
            ("", ""),
            ("YQ==", "a"),
            ("YWI=", "ab"),
            ("ZGVmYXVsdC9kZW1v", "default/demo"),
        ] {
            assert_eq!(from_base64(text), plain);
        }
    }

    #[test]
    fn the_shell_s_words_are_read_whole_or_not_at_all() {
        let said = "* filers 1\n  * h:2.3 (8000GB 4.48) 2026-11-23\n    signature: -1\n* volume servers 2\n  \
            * data center: one\n    * rack: node\n      * h:7 (8000GB 4.48)\n      * h:8 (8000GB 4.48)\n\
            collection:\"\"\tvolumeCount:7\ncollection:\"uv-1\"\tvolumeCount:1\tsize:8\nTotal 2 collections.\n";
        assert_eq!(servers(said), Some(vec!["h:7".to_owned(), "h:8".to_owned()]));
        assert_eq!(collections(said), Some(vec![("uv-1".to_owned(), 1)]));
        let cut = said.split("      * h:8").next().unwrap();
        assert_eq!((servers(cut), collections(cut)), (None, None));
    }
}
