//! Label and field selectors.

use std::collections::BTreeMap;

use serde_json::Value;

use super::kinds::Kind;
use super::store::Object;

/// One requirement on labels.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
    Less(String, i64),
    Greater(String, i64),
}

impl Requirement {
    fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        let number = |key: &String| labels.get(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Self::Exists(key) => labels.contains_key(key),
            Self::Missing(key) => !labels.contains_key(key),
            Self::Less(key, limit) => number(key).is_some_and(|n| n < *limit),
            Self::Greater(key, limit) => number(key).is_some_and(|n| n > *limit),
        }
    }
}

/// One requirement on a field.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    path: Vec<String>,
    value: String,
    equal: bool,
}

/// What a list, watch or deletion of a collection chooses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    name: Vec<(String, bool)>,
    namespace: Vec<(String, bool)>,
    fields: Vec<FieldRequirement>,
}

impl Selector {
    /// Reads both selectors; the error is a sentence for the caller.
    pub fn parse(labels: &str, fields: &str, kind: &Kind) -> Result<Self, String> {
        let mut selector = Self {
            labels: parse_labels(labels)?,
            ..Self::default()
        };
        for term in fields.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let (field, value, equal) = if let Some((f, v)) = term.split_once("!=") {
                (f, v, false)
            } else if let Some((f, v)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (f, v, true)
            } else {
                return Err(format!("invalid selector: '{term}'; can't understand '{term}'"));
            };
            match field {
                "metadata.name" => selector.name.push((value.to_owned(), equal)),
                "metadata.namespace" => selector.namespace.push((value.to_owned(), equal)),
                other if kind.selectable.iter().any(|f| f == other) => {
                    let path = other.split('.').map(str::to_owned).collect();
                    selector.fields.push(FieldRequirement {
                        path,
                        value: value.to_owned(),
                        equal,
                    });
                }
                other => return Err(format!("field label not supported: {other}")),
            }
        }
        Ok(selector)
    }

    /// Only the object of this name.
    pub fn and_name(mut self, name: &str) -> Self {
        self.name.push((name.to_owned(), true));
        self
    }

    /// Whether everything is chosen.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it chooses this object; the kind gives the names of its fields.
    pub fn fits(&self, object: &Object, kind: &Kind) -> bool {
        let same = |wanted: &[(String, bool)], have: &str| {
            wanted.iter().all(|(value, equal)| (value == have) == *equal)
        };
        same(&self.name, &object.key.name)
            && same(&self.namespace, &object.key.namespace)
            && self.labels.iter().all(|r| r.fits(&object.labels))
            && self.fields_fit(object, kind)
    }

    fn fields_fit(&self, object: &Object, kind: &Kind) -> bool {
        if self.fields.is_empty() {
            return true;
        }
        let Ok(value) = object.value() else { return false };
        let value = kind.presented(value);
        self.fields
            .iter()
            .all(|r| (text_at(&value, &r.path) == r.value) == r.equal)
    }
}

fn text_at(value: &Value, path: &[String]) -> String {
    match path.iter().try_fold(value, |v, name| v.get(name)) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    let mut terms = Vec::new();
    let (mut depth, mut term) = (0_i32, String::new());
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(std::mem::take(&mut term));
                continue;
            }
            _ => {}
        }
        term.push(c);
    }
    terms.push(term);
    terms
        .iter()
        .map(|t| t.trim())
        .filter(|t| !t.is_empty())
        .map(parse_term)
        .collect()
}

fn parse_term(term: &str) -> Result<Requirement, String> {
    let wrong = || format!("unable to parse requirement: {term:?}");
    let one = |key: &str, value: &str| (key.trim().to_owned(), vec![value.trim().to_owned()]);
    if let Some(open) = term.find('(') {
        let (head, tail) = term.split_at_checked(open).ok_or_else(wrong)?;
        let inner = tail
            .strip_prefix('(')
            .and_then(|t| t.strip_suffix(')'))
            .ok_or_else(wrong)?;
        let values = inner.split(',').map(|v| v.trim().to_owned()).collect();
        return match head.split_whitespace().collect::<Vec<_>>().as_slice() {
            [key, "in"] => Ok(Requirement::In(checked(key)?, values_checked(values)?)),
            [key, "notin"] => Ok(Requirement::NotIn(checked(key)?, values_checked(values)?)),
            _ => Err(wrong()),
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        let (key, values) = one(key, value);
        return Ok(Requirement::NotIn(checked(&key)?, values_checked(values)?));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        let (key, values) = one(key, value);
        return Ok(Requirement::In(checked(&key)?, values_checked(values)?));
    }
    if let Some((key, value)) = term.split_once('<') {
        return Ok(Requirement::Less(
            checked(key.trim())?,
            value.trim().parse().map_err(|_| wrong())?,
        ));
    }
    if let Some((key, value)) = term.split_once('>') {
        return Ok(Requirement::Greater(
            checked(key.trim())?,
            value.trim().parse().map_err(|_| wrong())?,
        ));
    }
    match term.strip_prefix('!') {
        Some(key) => Ok(Requirement::Missing(checked(key.trim())?)),
        None => Ok(Requirement::Exists(checked(term)?)),
    }
}

fn values_checked(values: Vec<String>) -> Result<Vec<String>, String> {
    for value in &values {
        super::names::label_value(value)
            .map_err(|cause| format!("unable to parse requirement: values: {value:?}: {cause}"))?;
    }
    Ok(values)
}

fn checked(key: &str) -> Result<String, String> {
    super::names::label_key(key).map_err(|cause| format!("unable to parse requirement: {key:?}: {cause}"))?;
    Ok(key.to_owned())
}
