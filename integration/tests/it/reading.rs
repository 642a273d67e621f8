//! Reading answers: the fields of JSON, and the whole, that the suites ask for again and again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use smart_storage_integration::{Cluster, eventually};

/// The pool of the examples.
pub const POOL: &str = "unifiedpools/demo-file";

/// The text at a JSON pointer.
pub fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("no text at {pointer} in {value}"))
}

/// The number at a JSON pointer.
pub fn number(object: &Value, pointer: &str) -> Result<u64> {
    let found = object.pointer(pointer).and_then(Value::as_u64);
    found.with_context(|| format!("no {pointer} in {object}"))
}

/// The items at a JSON pointer; none where there is nothing.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The pool once all its members serve: the first claim is Ready as soon as one of them does.
pub async fn whole_pool(cluster: &Cluster, deadline: Duration) -> Result<Value> {
    eventually(deadline, "all members serve", || async {
        let (pool, members) = (cluster.object(POOL).await?, cluster.object("poolmembers").await?);
        let slot = number(&pool, "/status/slotBytes")?;
        let mut bytes = 0;
        for member in list(&members, "/items") {
            ensure!(text(member, "/status/phase")? == "Online", "{member}");
            bytes += number(member, "/spec/slots")? * slot;
        }
        let total = number(&pool, "/status/totalCapacityBytes")?;
        ensure!(total > 0 && total == bytes, "{total}, its members have {bytes}");
        Ok(Some(pool))
    })
    .await
}

/// What the conditions that are not true say, as one text.
pub fn complaints(object: &Value) -> String {
    let conditions = list(object, "/conditions")
        .iter()
        .chain(list(object, "/status/conditions"));
    // What says that a drive lags is bad where it holds, and of loop drives nobody knows how they are.
    let is_bad = |condition: &&Value| {
        let bad: &[&str] = match text(condition, "/type").unwrap_or_default() {
            "Slow" => &["True"],
            "DriveHealthy" => &["False"],
            _ => &["False", "Unknown"],
        };
        text(condition, "/status").is_ok_and(|status| bad.contains(&status))
    };
    let bad = conditions.filter(is_bad);
    bad.map(|condition| {
        let part = |pointer| text(condition, pointer).unwrap_or_default();
        format!("{} {}: {}", part("/type"), part("/reason"), part("/message"))
    })
    .collect::<Vec<_>>()
    .join("; ")
}

/// Bytes that do not compress and differ from file to file.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}
