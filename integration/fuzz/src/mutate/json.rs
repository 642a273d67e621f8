//! Changes of JSON that leave it JSON: members taken away, doubled, exchanged, deepened, given other types.

use serde_json::{Map, Value, json};

use super::number_text;
use crate::rng::Rng;

/// `input` with one to three of its parts changed; what is no JSON stays as it is.
pub fn change(rng: &mut Rng, input: &[u8], other: &[u8], words: &[&str]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(input) else {
        return input.to_vec();
    };
    let other: Value = serde_json::from_slice(other).unwrap_or(Value::Null);
    for _ in 0..=rng.below(3) {
        let size = count(&value);
        let target = rng.below(size);
        let mut at = 0;
        visit(&mut value, &mut at, target, &mut |node| {
            alter(rng, node, &other, words);
        });
    }
    let text = value.to_string();
    let text = if rng.once_in(10) { odd_spelling(rng, text) } else { text };
    text.into_bytes()
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

fn visit(value: &mut Value, at: &mut usize, target: usize, change: &mut dyn FnMut(&mut Value)) -> bool {
    if *at == target {
        change(value);
        return true;
    }
    *at += 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|item| visit(item, at, target, change)),
        Value::Object(map) => map.values_mut().any(|item| visit(item, at, target, change)),
        _ => false,
    }
}

fn nth(value: &Value, at: &mut usize, target: usize) -> Option<Value> {
    if *at == target {
        return Some(value.clone());
    }
    *at += 1;
    match value {
        Value::Array(list) => list.iter().find_map(|item| nth(item, at, target)),
        Value::Object(map) => map.values().find_map(|item| nth(item, at, target)),
        _ => None,
    }
}

fn part_of(rng: &mut Rng, value: &Value) -> Value {
    let target = rng.below(count(value));
    nth(value, &mut 0, target).unwrap_or(Value::Null)
}

fn alter(rng: &mut Rng, node: &mut Value, other: &Value, words: &[&str]) {
    let word = rng.pick(words).copied().unwrap_or_default();
    match (rng.below(8), &mut *node) {
        (0 | 1, Value::Object(map)) => {
            let names: Vec<String> = map.keys().cloned().collect();
            if let Some(name) = rng.pick(&names) {
                map.remove(name);
            }
        }
        (2 | 3, Value::Object(map)) => {
            let name = if rng.once_in(2) { word.to_owned() } else { strange_text(rng, words) };
            let new = leaf(rng, other, words);
            map.insert(name, new);
        }
        (0, Value::Array(list)) => {
            let at = rng.below(list.len());
            if at < list.len() {
                list.remove(at);
            }
        }
        (1 | 2, Value::Array(list)) => {
            if let Some(item) = rng.pick(list).cloned() {
                let times = rng.length(200);
                list.extend(std::iter::repeat_n(item, times));
            }
        }
        (3, Value::Array(list)) => {
            let new = leaf(rng, other, words);
            list.push(new);
        }
        (0 | 1, Value::String(text)) => text.push_str(&strange_text(rng, words)),
        (2, Value::String(text)) => {
            let keep = rng.below(text.chars().count() + 1);
            *text = text.chars().take(keep).collect();
        }
        (3, Value::String(text)) => *text = number_text(rng),
        _ => *node = leaf(rng, other, words),
    }
}

fn leaf(rng: &mut Rng, other: &Value, words: &[&str]) -> Value {
    match rng.below(14) {
        0 => Value::Null,
        1 => json!(rng.once_in(2)),
        2 => json!(rng.extreme()),
        3 => json!(rng.extreme().cast_signed()),
        4 => json!(f64::from_bits(rng.number())),
        5 => json!({}),
        6 => json!([]),
        7 => deep(rng),
        8 | 9 => part_of(rng, other),
        10 => json!(strange_text(rng, words)),
        11 => json!(number_text(rng)),
        _ => json!(rng.pick(words).copied().unwrap_or_default()),
    }
}

/// Up to 120 levels: below what parsers refuse by themselves.
fn deep(rng: &mut Rng) -> Value {
    let list = rng.once_in(2);
    (0..rng.length(120)).fold(json!(1), |inner, _| {
        if list {
            Value::Array(vec![inner])
        } else {
            Value::Object(Map::from_iter([("a".to_owned(), inner)]))
        }
    })
}

/// A text that programs trip over.
pub fn strange_text(rng: &mut Rng, words: &[&str]) -> String {
    let word = rng.pick(words).copied().unwrap_or_default();
    match rng.below(12) {
        0 => String::new(),
        1 => "\u{0}".to_owned(),
        2 => "..".to_owned(),
        3 => "../../../../etc/passwd".to_owned(),
        4 => "a".repeat(rng.length(5000)),
        5 => "ß\u{130}\u{1f4be}\u{202e}".to_owned(),
        6 => "%2e%2e%2f%00".to_owned(),
        7 => format!("{word}\n{word}"),
        8 => format!("{word}/{word}"),
        9 => number_text(rng),
        10 => word.to_uppercase(),
        _ => word.to_owned(),
    }
}

/// What JSON allows and writers never write: a member twice, escapes, exponents, white space.
fn odd_spelling(rng: &mut Rng, text: String) -> String {
    match rng.below(4) {
        0 => text.replacen('{', "{\"kind\":1,\"kind\":2,", 1),
        1 => text.replace('a', "\\u0061"),
        2 => text.replacen(':', " :\n\t ", 3),
        _ => text.replacen('1', "1.0e0", 1),
    }
}
