//! A volume's directory on the filer, the mark on it, and `filer.conf` as a file there.

use std::{
    collections::{HashMap, HashSet},
    time::{SystemTime, UNIX_EPOCH},
};

use md5::{Digest as _, Md5};
use tonic::Status;

use super::{
    BUCKETS, DATA, SeaweedFs,
    error::{CallError, EnsureVolumeError, Failure, Part, RuleError},
    is_volume_name,
    rulebook::RuleFile,
    rules::{Change, FilerConf},
    wire::filer::{
        self as pb, FilerError, WriteCondition,
        write_condition::{Clause, Kind},
    },
};
use crate::backend::VolumeSpec;

const MARK_VOLUME: &str = "storage.billyronks.io/volume";
const MARK_CLUSTER: &str = "storage.billyronks.io/cluster";
const MARK_CLAIM: &str = "storage.billyronks.io/claim";
const MARK_CLAIM_UID: &str = "storage.billyronks.io/claim-uid";
/// On a directory whose volume was forgotten with reclaim policy Retain.
const MARK_RETAINED: &str = "storage.billyronks.io/retained";
/// SeaweedFS's own switch on a bucket: folders that became empty stay.
const KEEP_EMPTY_FOLDERS: &str = "Seaweed-X-Amz-Allow-Empty-Folders";

/// Go's `os.ModeDir` beside the permission bits.
const DIRECTORY_MODE: u32 = (1 << 31) | 0o777;

const RULES_DIRECTORY: &str = "/etc/seaweedfs";
const RULES_FILE: &str = "filer.conf";

/// A directory that looks like a volume and belongs to no volume that is known. Reported, never removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The directory's name.
    pub name: String,
    /// `namespace/name` of the claim it was made for, where it says so.
    pub claim: Option<String>,
    /// Whether it carries this cluster's mark. Without it only its name looks like ours: a mount that was left
    /// open after the volume was deleted makes such a directory when it is written to.
    pub marked: bool,
}

/// `Err`: what the directory says it is instead.
pub(super) fn owned(entry: &pb::Entry, volume: &str, cluster_id: &str) -> Result<(), String> {
    if !entry.is_directory {
        return Err("a file".to_owned());
    }
    match (mark(entry, MARK_VOLUME), mark(entry, MARK_CLUSTER)) {
        (Some(name), Some(cluster)) if name == volume && cluster == cluster_id => Ok(()),
        (None, None) => Err("it carries no mark".to_owned()),
        (name, cluster) => Err(format!(
            "its mark says volume {:?} of cluster {:?}",
            name.unwrap_or_default(),
            cluster.unwrap_or_default()
        )),
    }
}

/// `Err`: whose data it is. A name may be asked for again, the data of another claim may not be had by it.
pub(super) fn of_this_claim(entry: &pb::Entry, spec: &VolumeSpec) -> Result<(), String> {
    match mark(entry, MARK_CLAIM_UID) {
        Some(uid) if uid != spec.owner.uid => Err("the data of another claim, which was kept".to_owned()),
        _ => Ok(()),
    }
}

fn mark<'a>(entry: &'a pb::Entry, key: &str) -> Option<&'a str> {
    entry
        .extended
        .get(key)
        .and_then(|value| std::str::from_utf8(value).ok())
}

fn marks(spec: &VolumeSpec) -> HashMap<String, Vec<u8>> {
    let owner = &spec.owner;
    [
        (MARK_VOLUME, spec.name.clone()),
        (MARK_CLUSTER, spec.cluster_id.clone()),
        (MARK_CLAIM, format!("{}/{}", owner.namespace, owner.name)),
        (MARK_CLAIM_UID, owner.uid.clone()),
        (KEEP_EMPTY_FOLDERS, "true".to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.into_bytes()))
    .collect()
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn new_directory(name: &str) -> pb::Entry {
    let now = unix_now();
    let attributes = pb::FuseAttributes {
        mtime: now,
        crtime: now,
        file_mode: DIRECTORY_MODE,
        ..Default::default()
    };
    pb::Entry {
        name: name.to_owned(),
        is_directory: true,
        attributes: Some(attributes),
        ..Default::default()
    }
}

fn failed(what: &'static str, status: &Status) -> CallError {
    CallError::from_status(Part::Filer, what, status)
}

fn only_if(kind: Kind, etags: Vec<String>, unix_time: i64) -> WriteCondition {
    WriteCondition {
        clauses: vec![Clause {
            kind: kind.into(),
            etags,
            unix_time,
        }],
    }
}

/// How a create that was not an error went.
#[derive(PartialEq, Eq)]
enum Created {
    New,
    Existed,
    ConditionFailed,
}

impl SeaweedFs {
    pub(super) async fn filer_answers(&self) -> Result<(), String> {
        let mut filer = self.inner.filer.clone();
        match filer
            .get_filer_configuration(pb::GetFilerConfigurationRequest {})
            .await
        {
            Ok(answer) if answer.get_ref().dir_buckets != BUCKETS => Err(format!(
                "its buckets are under {:?} and not under {BUCKETS}",
                answer.get_ref().dir_buckets
            )),
            Ok(_) => Ok(()),
            Err(status) => Err(failed("answer", &status).words),
        }
    }

    pub(super) async fn look_up(&self, directory: &str, name: &str) -> Result<Option<pb::Entry>, CallError> {
        let request = pb::LookupDirectoryEntryRequest {
            directory: directory.to_owned(),
            name: name.to_owned(),
        };
        match self.inner.filer.clone().lookup_directory_entry(request).await {
            Ok(answer) => Ok(answer.into_inner().entry),
            Err(status) => match failed("look up an entry", &status) {
                error if error.failure == Failure::NotFound => Ok(None),
                error => Err(error),
            },
        }
    }

    async fn create(
        &self,
        directory: &str,
        entry: pb::Entry,
        condition: Option<WriteCondition>,
    ) -> Result<Created, CallError> {
        const WHAT: &str = "create an entry";
        let request = pb::CreateEntryRequest {
            directory: directory.to_owned(),
            entry: Some(entry),
            o_excl: true,
            condition,
        };
        let answer = self.inner.filer.clone().create_entry(request).await;
        let answer = answer.map_err(|status| failed(WHAT, &status))?.into_inner();
        match answer.error_code() {
            FilerError::EntryAlreadyExists => Ok(Created::Existed),
            FilerError::PreconditionFailed => Ok(Created::ConditionFailed),
            FilerError::Ok if answer.error.is_empty() => Ok(Created::New),
            _ => Err(CallError::from_words(Part::Filer, WHAT, &answer.error)),
        }
    }

    /// Writes a volume's directory back, on condition that it still carries our mark.
    pub(super) async fn update_owned(
        &self,
        entry: pb::Entry,
        volume: &str,
        cluster_id: &str,
    ) -> Result<(), CallError> {
        let expected_extended = HashMap::from([
            (MARK_VOLUME.to_owned(), volume.as_bytes().to_vec()),
            (MARK_CLUSTER.to_owned(), cluster_id.as_bytes().to_vec()),
        ]);
        let request = pb::UpdateEntryRequest {
            directory: BUCKETS.to_owned(),
            entry: Some(entry),
            expected_extended,
            condition: None,
        };
        match self.inner.filer.clone().update_entry(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(failed("update the volume's directory", &status)),
        }
    }

    /// Says whether the quota of a directory that was there already was raised.
    pub(super) async fn ensure_directory(&self, spec: &VolumeSpec) -> Result<bool, EnsureVolumeError> {
        const LOOKS: u32 = 3;
        let path = || format!("{BUCKETS}/{}", spec.name);
        let quota = i64::try_from(spec.quota_bytes).unwrap_or(i64::MAX);
        for _ in 0..LOOKS {
            let mut entry = match self.look_up(BUCKETS, &spec.name).await? {
                Some(entry) => entry,
                None => {
                    let entry = pb::Entry {
                        quota,
                        extended: marks(spec),
                        ..new_directory(&spec.name)
                    };
                    if self.create(BUCKETS, entry, None).await? == Created::New {
                        crate::fault::point("directory-made");
                        return Ok(false);
                    }
                    continue;
                }
            };
            owned(&entry, &spec.name, &spec.cluster_id)
                .and_then(|()| of_this_claim(&entry, spec))
                .map_err(|found| EnsureVolumeError::Foreign { path: path(), found })?;
            let missing = marks(spec)
                .into_iter()
                .filter(|(key, value)| entry.extended.get(key) != Some(value));
            let missing: Vec<_> = missing.collect();
            let raised = entry.quota < quota;
            if missing.is_empty() && entry.quota == quota {
                return Ok(false);
            }
            entry.extended.extend(missing);
            entry.quota = quota;
            match self.update_owned(entry, &spec.name, &spec.cluster_id).await {
                Ok(()) => {
                    crate::fault::point("quota-changed");
                    return Ok(raised);
                }
                Err(error) if matches!(error.failure, Failure::Conflict | Failure::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(EnsureVolumeError::Unstable { path: path() })
    }

    pub(super) async fn ensure_data_folder(&self, volume: &str) -> Result<(), EnsureVolumeError> {
        let directory = format!("{BUCKETS}/{volume}");
        match self.look_up(&directory, DATA).await? {
            Some(entry) if entry.is_directory => Ok(()),
            Some(_) => Err(EnsureVolumeError::Foreign {
                path: format!("{directory}/{DATA}"),
                found: "a file".to_owned(),
            }),
            None => match self.create(&directory, new_directory(DATA), None).await {
                Ok(_) => {
                    crate::fault::point("data-folder-made");
                    Ok(())
                }
                // A full volume takes no folder either; its data folder was removed by its user.
                Err(error) if error.failure == Failure::ReadOnly => Ok(()),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Asks for a place for a first byte as any writer would: by path alone.
    pub(super) async fn assign(&self, volume: &str) -> Result<(), CallError> {
        const WHAT: &str = "find a slot for the volume";
        let request = pb::AssignVolumeRequest {
            count: 1,
            path: format!("{BUCKETS}/{volume}/{DATA}/first"),
            ..Default::default()
        };
        let answer = self.inner.patient.clone().assign_volume(request).await;
        let answer = answer.map_err(|status| failed(WHAT, &status))?.into_inner();
        if answer.error.is_empty() {
            return Ok(());
        }
        Err(CallError::from_words(Part::Filer, WHAT, &answer.error))
    }

    pub(super) async fn delete_directory(&self, volume: &str) -> Result<(), CallError> {
        const WHAT: &str = "delete the volume's directory";
        let request = pb::DeleteEntryRequest {
            directory: BUCKETS.to_owned(),
            name: volume.to_owned(),
            is_delete_data: true,
            is_recursive: true,
            ignore_recursive_error: true,
        };
        let answer = self.inner.patient.clone().delete_entry(request).await;
        let answer = answer.map_err(|status| failed(WHAT, &status))?.into_inner();
        if answer.error.is_empty() {
            return Ok(());
        }
        match CallError::from_words(Part::Filer, WHAT, &answer.error) {
            error if error.failure == Failure::NotFound => Ok(()),
            error => Err(error),
        }
    }

    /// Directories that look like volumes of this cluster and are not among `known`. Nothing is changed.
    ///
    /// # Errors
    /// When the filer cannot be asked.
    pub async fn orphans(&self, cluster_id: &str, known: &HashSet<String>) -> Result<Vec<Orphan>, CallError> {
        let found = self.volume_directories().await?;
        Ok(found
            .into_iter()
            .filter_map(|found| orphan(found, cluster_id, known))
            .collect())
    }

    /// Every directory that bears a mark, or whose name is one that we give.
    pub(super) async fn volume_directories(&self) -> Result<Vec<Directory>, CallError> {
        const PAGE: u32 = 1_000;
        const WHAT: &str = "list the buckets";
        let (mut found, mut last) = (Vec::new(), String::new());
        loop {
            let request = pb::ListEntriesRequest {
                directory: BUCKETS.to_owned(),
                start_from_file_name: last.clone(),
                limit: PAGE,
                ..Default::default()
            };
            let answer = self.inner.filer.clone().list_entries(request).await;
            let mut page = match answer.map_err(|status| failed(WHAT, &status)) {
                Ok(answer) => answer.into_inner(),
                // No bucket was ever made.
                Err(error) if error.failure == Failure::NotFound => return Ok(found),
                Err(error) => return Err(error),
            };
            let mut received = 0;
            while let Some(item) = page.message().await.map_err(|status| failed(WHAT, &status))? {
                let Some(entry) = item.entry else { continue };
                received += 1;
                last.clone_from(&entry.name);
                found.extend(directory(&entry));
            }
            if received < PAGE {
                return Ok(found);
            }
        }
    }

    /// Whether what is there under the volume's name may be this claim's; nothing is anybody's.
    ///
    /// # Errors
    /// When the filer cannot be asked.
    pub async fn may_belong_to(&self, volume: &str, claim_uid: &str) -> Result<bool, CallError> {
        let entry = self.look_up(BUCKETS, volume).await?;
        let whose = entry.as_ref().and_then(|entry| mark(entry, MARK_CLAIM_UID));
        Ok(whose.is_none_or(|uid| uid == claim_uid))
    }

    /// Marks a volume's directory as one that is kept on purpose after its volume was forgotten; one that is gone
    /// needs no mark.
    pub(super) async fn mark_retained(&self, volume: &str, cluster_id: &str) -> Result<(), CallError> {
        let Some(mut entry) = self.look_up(BUCKETS, volume).await? else {
            return Ok(());
        };
        let ours = owned(&entry, volume, cluster_id).is_ok();
        if !ours || mark(&entry, MARK_RETAINED).is_some() {
            return Ok(());
        }
        entry.extended.insert(MARK_RETAINED.to_owned(), b"true".to_vec());
        self.update_owned(entry, volume, cluster_id).await
    }

    pub(super) async fn change_rule(&self, change: Change) -> Result<(), RuleError> {
        self.inner.rules.apply(self, change).await
    }

    pub(super) async fn rule_is_read_only(&self, prefix: &str) -> Result<bool, RuleError> {
        let (bytes, _) = self.read().await?;
        Ok(FilerConf::parse(&bytes)
            .map_err(RuleError::Malformed)?
            .is_read_only(prefix))
    }

    /// Somebody uploaded the file: then its bytes lie on volume servers.
    async fn read_chunks(&self) -> Result<Vec<u8>, CallError> {
        let url = format!(
            "{}{RULES_DIRECTORY}/{RULES_FILE}",
            self.endpoints().filer.http_url()
        );
        let refused = |words: String| CallError::from_words(Part::Filer, "hand out filer.conf", &words);
        let mut request = self.inner.http.get(url);
        if let Some(token) = self.inner.security.own_read_token(SystemTime::now()) {
            request = request.bearer_auth(token);
        }
        let answer = request
            .send()
            .await
            .map_err(|error| refused(error.without_url().to_string()))?;
        if !answer.status().is_success() {
            return Err(refused(format!("it answers {}", answer.status())));
        }
        let bytes = answer
            .bytes()
            .await
            .map_err(|error| refused(error.without_url().to_string()))?;
        Ok(bytes.to_vec())
    }
}

/// A directory under the buckets that is, or looks like, a volume's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Directory {
    pub(super) name: String,
    /// Whose mark it bears.
    pub(super) cluster: Option<String>,
    pub(super) claim: Option<String>,
    pub(super) retained: bool,
}

fn directory(entry: &pb::Entry) -> Option<Directory> {
    let cluster = mark(entry, MARK_CLUSTER);
    let concerns_us = entry.is_directory && (cluster.is_some() || is_volume_name(&entry.name));
    concerns_us.then(|| Directory {
        name: entry.name.clone(),
        cluster: cluster.map(str::to_owned),
        claim: mark(entry, MARK_CLAIM).map(str::to_owned),
        retained: mark(entry, MARK_RETAINED).is_some(),
    })
}

fn orphan(found: Directory, cluster_id: &str, known: &HashSet<String>) -> Option<Orphan> {
    let marked = found.cluster.as_deref() == Some(cluster_id);
    let foreign = found.cluster.is_some() && !marked;
    (!foreign && !known.contains(&found.name)).then_some(Orphan {
        name: found.name,
        claim: found.claim,
        marked,
    })
}

impl RuleFile for SeaweedFs {
    type Seen = Option<pb::Entry>;

    async fn read(&self) -> Result<(Vec<u8>, Self::Seen), RuleError> {
        let Some(entry) = self.look_up(RULES_DIRECTORY, RULES_FILE).await? else {
            return Ok((Vec::new(), None));
        };
        let inline = !entry.content.is_empty() || entry.chunks.is_empty();
        let bytes = if inline {
            entry.content.clone()
        } else {
            self.read_chunks().await?
        };
        Ok((bytes, Some(entry)))
    }

    async fn write(&self, seen: Self::Seen, bytes: Vec<u8>) -> Result<bool, RuleError> {
        let now = unix_now();
        let Some(mut entry) = seen else {
            let attributes = stamped(
                pb::FuseAttributes {
                    crtime: now,
                    file_mode: 0o644,
                    ..Default::default()
                },
                now,
                &bytes,
            );
            let entry = pb::Entry {
                name: RULES_FILE.to_owned(),
                attributes: Some(attributes),
                content: bytes,
                ..Default::default()
            };
            let absent = only_if(Kind::IfNotExists, Vec::new(), 0);
            return Ok(self.create(RULES_DIRECTORY, entry, Some(absent)).await? == Created::New);
        };
        let attributes = entry.attributes.take().unwrap_or_default();
        let condition = unchanged(&attributes, entry.chunks.is_empty());
        entry.attributes = Some(stamped(attributes, now, &bytes));
        entry.content = bytes;
        // Inline and in chunks at once, the quota loop would read the wrong one.
        entry.chunks.clear();
        let request = pb::UpdateEntryRequest {
            directory: RULES_DIRECTORY.to_owned(),
            entry: Some(entry),
            condition: Some(condition),
            ..Default::default()
        };
        match self.inner.filer.clone().update_entry(request).await {
            Ok(_) => Ok(true),
            Err(status) => match failed("write filer.conf", &status) {
                error if matches!(error.failure, Failure::Conflict | Failure::NotFound) => Ok(false),
                error => Err(error.into()),
            },
        }
    }
}

/// The stamp of the content where its writer left one, else the time, which has whole seconds only.
fn unchanged(attributes: &pb::FuseAttributes, inline: bool) -> WriteCondition {
    if attributes.md5.is_empty() || !inline {
        return only_if(Kind::IfUnmodifiedSince, Vec::new(), attributes.mtime);
    }
    let etag = attributes.md5.iter().map(|byte| format!("{byte:02x}")).collect();
    only_if(Kind::IfEtagMatch, vec![etag], 0)
}

fn stamped(attributes: pb::FuseAttributes, now: i64, bytes: &[u8]) -> pb::FuseAttributes {
    pb::FuseAttributes {
        mtime: now,
        file_size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        md5: Md5::digest(bytes).to_vec(),
        ..attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, marks: &[(&str, &str)]) -> pb::Entry {
        let extended = marks
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
            .collect();
        pb::Entry {
            extended,
            ..new_directory(name)
        }
    }

    #[test]
    fn only_a_directory_with_both_marks_is_ours() {
        let ours = entry("uv-1", &[(MARK_VOLUME, "uv-1"), (MARK_CLUSTER, "c1")]);
        assert_eq!(owned(&ours, "uv-1", "c1"), Ok(()));
        assert!(owned(&ours, "uv-2", "c1").is_err(), "renamed");
        assert!(
            owned(&ours, "uv-1", "c2").unwrap_err().contains("c1"),
            "another cluster's"
        );
        assert!(owned(&entry("uv-1", &[]), "uv-1", "c1").is_err());
        assert!(
            owned(
                &pb::Entry {
                    is_directory: false,
                    ..ours
                },
                "uv-1",
                "c1"
            )
            .is_err()
        );
    }

    #[test]
    fn the_data_of_another_claim_is_not_had_by_asking_for_its_name() {
        let spec = VolumeSpec {
            name: "uv-1".into(),
            disk_tag: "pool-a".into(),
            quota_bytes: 1,
            replication: "000".into(),
            growth_count: 1,
            cluster_id: "c1".into(),
            owner: crate::backend::Owner {
                namespace: "b".into(),
                name: "thief".into(),
                uid: "u2".into(),
            },
        };
        let kept = |uid| entry("uv-1", &[(MARK_CLAIM_UID, uid), (MARK_CLAIM, "a/owner")]);
        assert!(!of_this_claim(&kept("u1"), &spec).unwrap_err().contains("owner"));
        assert_eq!(of_this_claim(&kept("u2"), &spec), Ok(()));
        assert_eq!(of_this_claim(&entry("uv-1", &[]), &spec), Ok(()));
    }

    #[test]
    fn orphans_are_marked_ones_nobody_knows_and_unmarked_ones_with_our_names() {
        let known = HashSet::from(["uv-1".to_owned()]);
        let name = |entry: pb::Entry| {
            let orphan = orphan(directory(&entry)?, "c1", &known)?;
            Some((orphan.name, orphan.marked))
        };
        let marked = |name: &str, cluster: &str| entry(name, &[(MARK_CLUSTER, cluster), (MARK_CLAIM, "a/b")]);
        assert_eq!(name(marked("uv-1", "c1")), None);
        assert_eq!(name(marked("uv-2", "c1")), Some(("uv-2".into(), true)));
        assert_eq!(name(marked("uv-2", "c2")), None);
        assert_eq!(name(entry("uv-3", &[])), Some(("uv-3".into(), false)));
        assert_eq!(name(entry("photos", &[])), None);
    }

    #[test]
    fn a_write_is_conditional_on_the_stamp_and_on_the_time_where_there_is_none() {
        let attributes = pb::FuseAttributes {
            mtime: 7,
            md5: vec![0xab, 0x01],
            ..Default::default()
        };
        let clause = |condition: WriteCondition| condition.clauses.into_iter().next().unwrap();
        assert_eq!(clause(unchanged(&attributes, true)).etags, ["ab01"]);
        assert_eq!(clause(unchanged(&attributes, false)).unix_time, 7);
        let bare = pb::FuseAttributes {
            mtime: 9,
            ..Default::default()
        };
        assert_eq!(clause(unchanged(&bare, true)).kind(), Kind::IfUnmodifiedSince);
    }
}
