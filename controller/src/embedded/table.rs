//! Tables as `kubectl get` wants them: printer columns, a subset of JSONPath, ages.

use jiff::Timestamp;
use serde_json::{Value, json};

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date` (shown as an age).
    pub kind: String,
    /// OpenAPI format.
    pub format: String,
    /// What it says.
    pub description: String,
    /// 0 is always shown, more only with `-o wide`.
    pub priority: i64,
    /// Where the cell comes from.
    pub source: Source,
}

impl Column {
    /// The age of the object.
    pub fn age() -> Self {
        Self {
            name: "Age".to_owned(),
            kind: "date".to_owned(),
            format: String::new(),
            description: "Time since the object was made.".to_owned(),
            priority: 0,
            source: Source::path(".metadata.creationTimestamp"),
        }
    }
}

/// Where a cell comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A value by JSONPath.
    Path(Vec<Step>),
    /// The number of members of an object.
    Count(Vec<Step>),
    /// `kind/name` of an object reference.
    Reference(Vec<Step>),
    /// Age of the newest time of an event.
    LastSeen,
}

impl Source {
    /// By JSONPath, `.status.phase`.
    pub fn path(path: &str) -> Self {
        Self::Path(parse_path(path))
    }

    /// Number of members.
    pub fn count(path: &str) -> Self {
        Self::Count(parse_path(path))
    }

    /// Object reference.
    pub fn reference(path: &str) -> Self {
        Self::Reference(parse_path(path))
    }
}

/// One step of a JSONPath.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `.name` or `['name']`.
    Member(String),
    /// `[3]`; negative counts from the end.
    Index(i64),
    /// `[*]`.
    Every,
    /// `[?(@.type=="Ready")]`.
    Where(Vec<String>, String),
}

/// Parses `.a.b['c.d'][0][*][?(@.type=="Ready")].e`; what it cannot read matches nothing.
pub fn parse_path(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path
        .trim()
        .trim_start_matches('{')
        .trim_end_matches('}')
        .trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("[?(@") {
            let Some((condition, tail)) = inner.split_once(")]") else {
                return steps;
            };
            let Some((left, right)) = condition.split_once("==") else {
                return steps;
            };
            let fields = left
                .trim()
                .split('.')
                .filter(|f| !f.is_empty())
                .map(str::to_owned)
                .collect();
            let wanted = right.trim().trim_matches(['"', '\'']).to_owned();
            steps.push(Step::Where(fields, wanted));
            rest = tail;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let quoted = inner.starts_with(['\'', '"']);
            let close = if quoted {
                inner.find("']").or(inner.find("\"]")).map(|i| i + 1)
            } else {
                inner.find(']')
            };
            let Some((token, tail)) = close.and_then(|c| inner.split_at_checked(c)) else {
                return steps;
            };
            steps.push(match token {
                "*" => Step::Every,
                token if quoted => Step::Member(token.trim_matches(['\'', '"']).to_owned()),
                token => token
                    .parse()
                    .map_or_else(|_| Step::Member(token.to_owned()), Step::Index),
            });
            rest = tail.strip_prefix(']').unwrap_or(tail);
        } else {
            let inner = rest.strip_prefix('.').unwrap_or(rest);
            let mut end = inner.len();
            let mut escaped = false;
            for (at, c) in inner.char_indices() {
                match c {
                    '\\' => escaped = true,
                    '.' | '[' if !escaped => {
                        end = at;
                        break;
                    }
                    _ => escaped = false,
                }
            }
            let (name, tail) = inner.split_at_checked(end).unwrap_or((inner, ""));
            if name == "*" {
                steps.push(Step::Every);
            } else if !name.is_empty() {
                steps.push(Step::Member(name.replace('\\', "")));
            }
            rest = tail;
        }
    }
    steps
}

/// Every value that a path leads to.
pub fn select<'v>(value: &'v Value, steps: &[Step]) -> Vec<&'v Value> {
    let Some((step, rest)) = steps.split_first() else {
        return vec![value];
    };
    let next: Vec<&Value> = match step {
        Step::Member(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let list = value.as_array().map_or(&[][..], Vec::as_slice);
            let at = if *index < 0 {
                list.len() as i64 + index
            } else {
                *index
            };
            usize::try_from(at)
                .ok()
                .and_then(|at| list.get(at))
                .into_iter()
                .collect()
        }
        Step::Every => match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Where(fields, wanted) => {
            let fits = |item: &&Value| {
                let found = fields.iter().try_fold(*item, |v, field| v.get(field));
                found.is_some_and(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned) == *wanted)
            };
            value.as_array().into_iter().flatten().filter(fits).collect()
        }
    };
    next.into_iter().flat_map(|v| select(v, rest)).collect()
}

/// The definitions of the columns, the name first.
pub fn definitions(columns: &[Column]) -> Value {
    let name = json!({
        "name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "Name must be unique within a namespace.",
    });
    let others = columns.iter().map(|c| {
        json!({
            "name": c.name, "type": c.kind, "format": c.format,
            "description": c.description, "priority": c.priority,
        })
    });
    Value::Array(std::iter::once(name).chain(others).collect())
}

/// The cells of one object.
pub fn cells(columns: &[Column], object: &Value, now: Timestamp) -> Value {
    let name = object.pointer("/metadata/name").cloned().unwrap_or_default();
    let others = columns.iter().map(|column| cell(column, object, now));
    Value::Array(std::iter::once(name).chain(others).collect())
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    match &column.source {
        Source::Path(steps) => value_cell(column, &select(object, steps), now),
        Source::Count(steps) => {
            let found = select(object, steps);
            json!(
                found
                    .first()
                    .and_then(|v| v.as_object())
                    .map_or(0, serde_json::Map::len)
            )
        }
        Source::Reference(steps) => {
            let found = select(object, steps);
            let text = |name: &str| {
                found
                    .first()
                    .and_then(|v| v.get(name))
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            json!(format!("{}/{}", text("kind").to_lowercase(), text("name")))
        }
        Source::LastSeen => {
            let at = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
            let newest = at("/series/lastObservedTime")
                .or_else(|| at("/lastTimestamp"))
                .or_else(|| at("/deprecatedLastTimestamp"))
                .or_else(|| at("/eventTime"))
                .or_else(|| at("/metadata/creationTimestamp"));
            json!(newest.map_or_else(|| "<unknown>".to_owned(), |t| age(&t, now)))
        }
    }
}

fn value_cell(column: &Column, found: &[&Value], now: Timestamp) -> Value {
    match (column.kind.as_str(), found) {
        (_, []) | (_, [Value::Null]) => Value::Null,
        ("date", [Value::String(time), ..]) => json!(age(time, now)),
        ("integer" | "number", [number @ Value::Number(_)]) => (*number).clone(),
        ("boolean", [flag @ Value::Bool(_)]) => (*flag).clone(),
        (_, many) => {
            let texts = many
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
            json!(texts.collect::<Vec<_>>().join(","))
        }
    }
}

fn age(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human(now.duration_since(time).as_secs()),
        Err(_) => "<invalid>".to_owned(),
    }
}

/// Seconds as kubectl writes them: `45s`, `3m20s`, `5h`, `12d`, `3y`.
pub fn human(seconds: i64) -> String {
    let pair = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..=0 => "0s".to_owned(),
        1..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}
