//! Setting a value deep in a JSON object.

use serde_json::{Map, Value};

/// Puts `new` at a path of member names; what is no object on the way becomes one.
pub fn set(value: &mut Value, path: &[&str], new: Value) {
    let mut at = value;
    for name in path {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Some(map) = at.as_object_mut() else { return };
        at = map.entry(*name).or_insert(Value::Null);
    }
    *at = new;
}
