//! Judging a value by its schema.

use serde_json::{Map, Value};

use super::super::status::FieldError;
use super::{ListType, Schema, Type};

/// Lists what is wrong with `value`. Parts equal to their counterpart in `old` are taken as they are.
pub fn check(schema: &Schema, value: &Value, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    if old == Some(value) {
        return;
    }
    if value.is_null() {
        if !schema.nullable && (schema.kind.is_some() || schema.int_or_string) {
            let wanted = schema.kind.map_or("integer,string", Type::name);
            errors.push(FieldError::type_invalid(path, value, wanted));
        }
        return;
    }
    if !check_type(schema, value, path, errors) {
        return;
    }
    if !schema.one_of_values.is_empty() && !schema.one_of_values.contains(value) {
        errors.push(FieldError::not_supported(path, value, &schema.one_of_values));
    }
    match value {
        Value::String(text) => check_string(schema, value, text, path, errors),
        Value::Number(_) => check_number(schema, value, path, errors),
        Value::Array(list) => check_list(schema, value, list, old, path, errors),
        Value::Object(map) => check_object(schema, value, map, old, path, errors),
        Value::Null | Value::Bool(_) => {}
    }
    check_branches(schema, value, path, errors);
}

fn check_type(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) -> bool {
    if schema.int_or_string {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        if !fits {
            errors.push(FieldError::type_invalid(path, value, "integer,string"));
        }
        return fits;
    }
    let Some(kind) = schema.kind else { return true };
    let fits = match kind {
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Integer => value.is_i64() || value.is_u64(),
        Type::Number => value.is_number(),
        Type::Boolean => value.is_boolean(),
    };
    if !fits {
        errors.push(FieldError::type_invalid(path, value, kind.name()));
    }
    fits
}

fn check_string(schema: &Schema, value: &Value, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    let length = text.chars().count() as u64;
    if let Some(max) = schema.lengths.max.filter(|max| length > *max) {
        errors.push(FieldError::too_long(path, max));
    }
    if let Some(min) = schema.lengths.min.filter(|min| length < *min) {
        let detail = format!("{path} in body should be at least {min} chars long");
        errors.push(FieldError::invalid(path, value, &detail));
    }
    if let Some(pattern) = schema.pattern.as_ref().filter(|p| !p.is_match(text)) {
        let detail = format!("{path} in body should match '{pattern}'");
        errors.push(FieldError::invalid(path, value, &detail));
    }
    let well_formed = match schema.format.as_deref() {
        Some("date-time") => text.parse::<jiff::Timestamp>().is_ok(),
        Some("uuid") => uuid::Uuid::try_parse(text).is_ok(),
        Some("ipv4") => text.parse::<std::net::Ipv4Addr>().is_ok(),
        Some("ipv6") => text.parse::<std::net::Ipv6Addr>().is_ok(),
        _ => true,
    };
    if let (false, Some(format)) = (well_formed, &schema.format) {
        let detail = format!("{path} in body must be of type {format}: {value}");
        errors.push(FieldError::invalid(path, value, &detail));
    }
}

fn check_number(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let number = value.as_f64().unwrap_or(f64::NAN);
    if let Some(max) = schema.maximum
        && (number > max.value || (max.exclusive && number >= max.value))
    {
        let or_equal = if max.exclusive { "" } else { " or equal to" };
        let detail = format!("{path} in body should be less than{or_equal} {}", max.value);
        errors.push(FieldError::invalid(path, value, &detail));
    }
    if let Some(min) = schema.minimum
        && (number < min.value || (min.exclusive && number <= min.value))
    {
        let or_equal = if min.exclusive { "" } else { " or equal to" };
        let detail = format!("{path} in body should be greater than{or_equal} {}", min.value);
        errors.push(FieldError::invalid(path, value, &detail));
    }
    if let Some(step) = schema.multiple_of.filter(|step| (number / step).fract() != 0.0) {
        let detail = format!("{path} in body should be a multiple of {step}");
        errors.push(FieldError::invalid(path, value, &detail));
    }
    let fits = match schema.format.as_deref() {
        Some("int32") => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        Some("int64") => value.as_i64().is_some(),
        _ => true,
    };
    if let (false, Some(format), Some(Type::Integer)) = (fits, &schema.format, schema.kind) {
        let detail = format!("{path} in body must be of type {format}: {value}");
        errors.push(FieldError::invalid(path, value, &detail));
    }
}

fn check_list(
    schema: &Schema,
    value: &Value,
    list: &[Value],
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if let Some(max) = schema.item_counts.max.filter(|max| list.len() as u64 > *max) {
        errors.push(FieldError::too_many(path, list.len(), max));
    }
    if let Some(min) = schema.item_counts.min.filter(|min| (list.len() as u64) < *min) {
        let detail = format!("{path} in body should have at least {min} items");
        errors.push(FieldError::invalid(path, value, &detail));
    }
    check_duplicates(schema, list, path, errors);
    let Some(items) = &schema.items else { return };
    for (index, item) in list.iter().enumerate() {
        let before = schema.counterpart(item, old);
        check(items, item, before, &format!("{path}[{index}]"), errors);
    }
}

fn check_duplicates(schema: &Schema, list: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let same = |a: &Value, b: &Value| match &schema.list_type {
        ListType::Atomic => false,
        ListType::Set => a == b,
        ListType::Map(keys) => keys.iter().all(|key| a.get(key) == b.get(key)),
    };
    for (index, item) in list.iter().enumerate() {
        if list.iter().take(index).any(|earlier| same(earlier, item)) {
            errors.push(FieldError::duplicate(&format!("{path}[{index}]"), item));
        }
    }
}

fn check_object(
    schema: &Schema,
    value: &Value,
    map: &Map<String, Value>,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if let Some(max) = schema.property_counts.max.filter(|max| map.len() as u64 > *max) {
        errors.push(FieldError::too_many(path, map.len(), max));
    }
    if let Some(min) = schema.property_counts.min.filter(|min| (map.len() as u64) < *min) {
        let detail = format!("{path} in body should have at least {min} properties");
        errors.push(FieldError::invalid(path, value, &detail));
    }
    for name in schema.required.iter().filter(|name| !map.contains_key(*name)) {
        errors.push(FieldError::required(&member_path(path, name), ""));
    }
    for (name, child) in map {
        let at_property = schema.properties.contains_key(name);
        let Some(member) = schema.member(name) else {
            continue;
        };
        let at = if at_property {
            member_path(path, name)
        } else {
            format!("{path}[{name}]")
        };
        check(member, child, old.and_then(|o| o.get(name)), &at, errors);
    }
}

/// `allOf` and the like; findings of `allOf` are given as they are, the others as one sentence.
fn check_branches(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let fits = |branch: &Schema| {
        let mut found = Vec::new();
        check(branch, value, None, path, &mut found);
        found.is_empty()
    };
    for branch in &schema.all_of {
        check(branch, value, None, path, errors);
    }
    let mut refuse = |words: &str| {
        let detail = format!("{path} in body {words}");
        errors.push(FieldError::invalid(path, value, &detail));
    };
    if !schema.any_of.is_empty() && !schema.any_of.iter().any(fits) {
        refuse("must validate at least one schema (anyOf)");
    }
    if !schema.one_of.is_empty() && schema.one_of.iter().filter(|b| fits(b)).count() != 1 {
        refuse("must validate one and only one schema (oneOf)");
    }
    if schema.not.as_deref().is_some_and(fits) {
        refuse("must not validate the schema (not)");
    }
}

/// The path of a member named in the schema.
pub(in super::super) fn member_path(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
