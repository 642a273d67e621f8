//! The structural schema of a CustomResourceDefinition: pruning, defaults and validation.
//!
//! Works on JSON, as the real server does, and words its findings alike. Values that an update leaves as
//! they were are not judged again (ratcheting), so a stricter schema does not lock existing objects.
//! CEL rules hang on the same tree; `rules` evaluates them.

mod check;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use super::rules::Rule;
pub use check::check;
pub(super) use check::member_path;

/// Why a schema cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct SchemaError {
    /// Where in the schema.
    pub path: String,
    /// What is wrong with it.
    pub cause: String,
}

/// JSON types of a schema node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
}

impl Type {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    /// As JSON schema spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// How items of two versions of a list belong together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListType {
    /// They do not.
    #[default]
    Atomic,
    /// Equal items are the same; duplicates are refused.
    Set,
    /// Items with equal values in these fields are the same; duplicates are refused.
    Map(Vec<String>),
}

/// One node of the schema.
#[derive(Debug, Default)]
pub struct Schema {
    pub(super) kind: Option<Type>,
    pub(super) format: Option<String>,
    pub(super) nullable: bool,
    pub(super) properties: BTreeMap<String, Schema>,
    pub(super) additional: Option<Box<Schema>>,
    pub(super) items: Option<Box<Schema>>,
    pub(super) required: Vec<String>,
    pub(super) one_of_values: Vec<Value>,
    pub(super) default: Option<Value>,
    pub(super) minimum: Option<Bound>,
    pub(super) maximum: Option<Bound>,
    pub(super) multiple_of: Option<f64>,
    pub(super) lengths: Range,
    pub(super) item_counts: Range,
    pub(super) property_counts: Range,
    pub(super) pattern: Option<Regex>,
    pub(super) int_or_string: bool,
    pub(super) preserve_unknown: bool,
    pub(super) embedded: bool,
    pub(super) list_type: ListType,
    pub(super) all_of: Vec<Schema>,
    pub(super) any_of: Vec<Schema>,
    pub(super) one_of: Vec<Schema>,
    pub(super) not: Option<Box<Schema>>,
    pub(super) rules: Vec<Rule>,
    /// Whether this node or one below has rules.
    pub(super) rules_below: bool,
}

/// A bound of a number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub(super) value: f64,
    pub(super) exclusive: bool,
}

/// Bounds of a count.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Range {
    pub(super) min: Option<u64>,
    pub(super) max: Option<u64>,
}

impl Schema {
    /// Reads an `openAPIV3Schema`; CEL rules are compiled here, so that a wrong one is known at the start.
    pub fn parse(value: &Value) -> Result<Self, SchemaError> {
        parse(value, "")
    }

    /// Removes what the schema does not know and lists its paths.
    pub fn prune(&self, value: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune(self, value, "", true, &mut unknown);
        unknown
    }

    /// Fills in the defaults; null where null is not allowed counts as missing.
    pub fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, schema) in &self.properties {
                    let missing = match map.get(name) {
                        None => true,
                        Some(Value::Null) => !schema.nullable,
                        Some(_) => false,
                    };
                    if let (true, Some(default)) = (missing, &schema.default) {
                        map.insert(name.clone(), default.clone());
                    }
                }
                map.retain(|name, child| {
                    !child.is_null() || self.member(name).is_none_or(Schema::takes_null)
                });
                for (name, child) in map.iter_mut() {
                    if let Some(schema) = self.properties.get(name).or(self.additional.as_deref()) {
                        schema.fill(child);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|item| items.fill(item));
                }
            }
            _ => {}
        }
    }

    fn takes_null(&self) -> bool {
        // Where nothing is said of the type, null is as good as anything.
        self.nullable || (self.kind.is_none() && !self.int_or_string)
    }

    /// The schema of a member of an object.
    pub(super) fn member(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    /// The item of the old list that is the same as `item`.
    pub(super) fn counterpart<'v>(&self, item: &Value, old: Option<&'v Value>) -> Option<&'v Value> {
        let ListType::Map(keys) = &self.list_type else {
            return None;
        };
        let same = |candidate: &&Value| keys.iter().all(|key| candidate.get(key) == item.get(key));
        old?.as_array()?.iter().find(same)
    }
}

fn prune(schema: &Schema, value: &mut Value, path: &str, root: bool, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let names: Vec<String> = map.keys().cloned().collect();
            for name in names {
                let fixed =
                    (root || schema.embedded) && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                let known = schema.member(&name);
                let at = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                match (known, map.get_mut(&name)) {
                    _ if fixed => {}
                    (Some(known), Some(child)) => prune(known, child, &at, false, unknown),
                    _ if schema.preserve_unknown => {}
                    _ => {
                        map.remove(&name);
                        unknown.push(at);
                    }
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for (index, item) in list.iter_mut().enumerate() {
                    prune(items, item, &format!("{path}[{index}]"), false, unknown);
                }
            }
        }
        _ => {}
    }
}

fn parse(value: &Value, path: &str) -> Result<Schema, SchemaError> {
    let wrong = |cause: String| SchemaError {
        path: path.to_owned(),
        cause,
    };
    let Some(map) = value.as_object() else {
        return Err(wrong("a schema is an object".to_owned()));
    };
    let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
    let count = |name: &str| map.get(name).and_then(Value::as_u64);
    let text = |name: &str| map.get(name).and_then(Value::as_str);
    let kind = match text("type") {
        None => None,
        Some(name) => Some(Type::parse(name).ok_or_else(|| wrong(format!("unknown type {name}")))?),
    };
    let pattern = match text("pattern") {
        None => None,
        Some(pattern) => Some(Regex::new(pattern).map_err(|e| wrong(e.to_string()))?),
    };
    let preserve_unknown = flag("x-kubernetes-preserve-unknown-fields");
    let additional = match map.get("additionalProperties") {
        None | Some(Value::Bool(false)) => None,
        Some(Value::Bool(true)) => Some(Box::new(Schema {
            preserve_unknown: true,
            ..Schema::default()
        })),
        Some(schema) => Some(Box::new(parse(schema, &format!("{path}[*]"))?)),
    };
    let items = match map.get("items") {
        None => None,
        Some(schema) => Some(Box::new(parse(schema, &format!("{path}[*]"))?)),
    };
    let not = match map.get("not") {
        None => None,
        Some(schema) => Some(Box::new(parse(schema, path)?)),
    };
    let rules = list(map, "x-kubernetes-validations")
        .iter()
        .map(|rule| Rule::parse(rule).map_err(&wrong))
        .collect::<Result<Vec<_>, _>>()?;
    let properties = properties(map, path)?;
    let below = properties
        .values()
        .chain(additional.as_deref())
        .chain(items.as_deref());
    let rules_below = !rules.is_empty() || below.into_iter().any(|s| s.rules_below);
    let branches = |name: &str| -> Result<Vec<Schema>, SchemaError> {
        list(map, name).iter().map(|schema| parse(schema, path)).collect()
    };
    Ok(Schema {
        kind,
        format: text("format").map(str::to_owned),
        nullable: flag("nullable"),
        properties,
        additional,
        items,
        required: strings(map, "required"),
        one_of_values: list(map, "enum").to_vec(),
        default: map.get("default").filter(|d| !d.is_null()).cloned(),
        minimum: bound(map, "minimum", "exclusiveMinimum"),
        maximum: bound(map, "maximum", "exclusiveMaximum"),
        multiple_of: map.get("multipleOf").and_then(Value::as_f64),
        lengths: Range {
            min: count("minLength"),
            max: count("maxLength"),
        },
        item_counts: Range {
            min: count("minItems"),
            max: count("maxItems"),
        },
        property_counts: Range {
            min: count("minProperties"),
            max: count("maxProperties"),
        },
        pattern,
        int_or_string: flag("x-kubernetes-int-or-string"),
        preserve_unknown,
        embedded: flag("x-kubernetes-embedded-resource"),
        list_type: match text("x-kubernetes-list-type") {
            Some("set") => ListType::Set,
            Some("map") => ListType::Map(strings(map, "x-kubernetes-list-map-keys")),
            _ => ListType::Atomic,
        },
        all_of: branches("allOf")?,
        any_of: branches("anyOf")?,
        one_of: branches("oneOf")?,
        not,
        rules,
        rules_below,
    })
}

fn properties(map: &Map<String, Value>, path: &str) -> Result<BTreeMap<String, Schema>, SchemaError> {
    let entries = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    entries
        .map(|(name, schema)| Ok((name.clone(), parse(schema, &format!("{path}.{name}"))?)))
        .collect()
}

fn bound(map: &Map<String, Value>, name: &str, exclusive: &str) -> Option<Bound> {
    let value = map.get(name).and_then(Value::as_f64)?;
    Some(Bound {
        value,
        exclusive: map.get(exclusive).and_then(Value::as_bool).unwrap_or(false),
    })
}

fn list<'a>(map: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    map.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn strings(map: &Map<String, Value>, name: &str) -> Vec<String> {
    list(map, name)
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
