//! What SeaweedFS answers: `filer.conf`, the master's volumes, the filer's entries, identities and words.

use serde_json::Value;
use smart_storage_controller::backend::seaweedfs::fuzzing as doors;

use super::{none, text};
use crate::{Format, Target, mutate::frames::split, outcome};

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "filer-conf",
        format: Format::Json,
        run: filer_conf,
        seeds: none,
        words: &[
            "locations", "locationPrefix", "location_prefix", "diskType", "disk_type", "replication", "volumeGrowthCount",
            "readOnly", "read_only", "/buckets/uv-1/", "/buckets/", "version", "worm",
        ],
        short: 1500,
    },
    Target {
        name: "volume-list",
        format: Format::Frames,
        run: volume_list,
        seeds: none,
        words: &["uv-1", "pool-a"],
        short: 2500,
    },
    Target {
        name: "filer-entry",
        format: Format::Frames,
        run: entry,
        seeds: none,
        words: &["uv-1", "cluster"],
        short: 2500,
    },
];

const OURS: &str = "/buckets/uv-1/";

fn filer_conf(data: &[u8]) -> u64 {
    let (with, without) = match doors::filer_conf(data, OURS) {
        Ok(found) => found,
        Err(error) => return outcome(error.split(' ').take(3).collect::<Vec<_>>()),
    };
    let before: Value = serde_json::from_slice(data).unwrap_or_else(|_| serde_json::json!({}));
    let mut others = Vec::new();
    for after in [&with, &without] {
        let after: Value = serde_json::from_slice(after).expect("what is written is JSON");
        let (was, is) = (rest_of(&before), rest_of(&after));
        assert_eq!(foreign(&before), foreign(&after), "rules of others changed");
        assert!(was.iter().all(|(name, value)| is.get(name) == Some(value)), "the document lost something");
        others.push(foreign(&after).len());
    }
    outcome(others)
}

/// The members of the document beside its rules.
fn rest_of(document: &Value) -> serde_json::Map<String, Value> {
    let mut map = document.as_object().cloned().unwrap_or_default();
    map.remove("locations");
    map
}

fn foreign(document: &Value) -> Vec<Value> {
    let list = document.get("locations").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter(|location| {
            let prefix = location.get("locationPrefix").or_else(|| location.get("location_prefix"));
            prefix.and_then(Value::as_str) != Some(OURS)
        })
        .cloned()
        .collect()
}

fn volume_list(data: &[u8]) -> u64 {
    let first = split(data).first().copied().unwrap_or_default();
    let Some((topology, live)) = doors::volume_list(first, "uv-1") else { return 0 };
    let tags: Vec<&str> = topology.disks.iter().map(|disk| disk.tag.as_str()).collect();
    for tag in &tags {
        let sum = topology.tag(tag);
        assert!(sum.servers >= 1, "a tag without servers");
    }
    let holding = topology.holding("uv-1").count();
    assert!(holding > 0 || live == 0, "bytes of a collection that nobody holds");
    outcome((tags.len().min(8), holding.min(4), live > 0))
}

fn entry(data: &[u8]) -> u64 {
    let first = split(data).first().copied().unwrap_or_default();
    let owned = doors::owned(first, "uv-1", "cluster");
    if matches!(owned, Some(Ok(()))) {
        assert!(
            data.windows(4).any(|part| part == b"uv-1") && data.windows(7).any(|part| part == b"cluster"),
            "a directory without our marks is ours"
        );
    }
    let identity = doors::identity(first);
    let said = text(first);
    let told = doors::words(&said, "s3cret");
    assert!(!told.is_empty() && told.chars().count() <= 1024 && !told.chars().any(char::is_control), "{told:?}");
    assert!(!told.contains("s3cret"), "the secret is told");
    outcome((owned.map(|result| result.map_err(|error| error.len().min(40))), identity))
}
