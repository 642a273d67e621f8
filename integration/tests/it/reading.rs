//! Reading answers: the fields of JSON that the suites ask for again and again.

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The text at a JSON pointer.
pub fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("no text at {pointer} in {value}"))
}

/// The items at a JSON pointer; none where there is nothing.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// What the conditions that are not true say, as one text.
pub fn complaints(object: &Value) -> String {
    let conditions = list(object, "/conditions")
        .iter()
        .chain(list(object, "/status/conditions"));
    let bad = conditions.filter(|condition| text(condition, "/status").is_ok_and(|status| status != "True"));
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
