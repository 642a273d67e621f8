//! `filer.conf` as data: which path is kept on which drives. Pure.
//!
//! Rules of others are carried along as they are, with every field this build has never heard of; a document
//! that cannot be understood is refused as a whole, never replaced.

use serde_json::{Map, Value, json};

/// What SeaweedFS stamps into documents it writes; older ones mean something else by `worm: false`.
const VERSION: u32 = 1;

/// Where new data under a path goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The path, ending with `/`.
    pub prefix: String,
    /// The disk type tag.
    pub disk_tag: String,
    /// Three digits.
    pub replication: String,
    /// Slots taken at a time.
    pub growth_count: u32,
}

/// One change of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The rule exists with these values. What else is set at that prefix (read-only above all) stays.
    Put(Rule),
    /// No rule exists at this prefix.
    Remove(String),
    /// The rule at this prefix, if there is one, is not read-only.
    Unlock(String),
}

/// A parsed document.
#[derive(Clone, Debug, PartialEq)]
pub struct FilerConf {
    document: Map<String, Value>,
    locations: Vec<Map<String, Value>>,
}

impl FilerConf {
    /// Reads a document; no bytes are an empty one.
    ///
    /// # Errors
    /// In words, when it is not what SeaweedFS writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            let document = Map::from_iter([("version".to_owned(), json!(VERSION))]);
            return Ok(Self {
                document,
                locations: Vec::new(),
            });
        }
        let Value::Object(mut document) = serde_json::from_slice(bytes).map_err(|error| error.to_string())?
        else {
            return Err("no JSON object".to_owned());
        };
        let locations = match document.remove("locations") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(all)) => all.into_iter().map(location).collect::<Result<_, _>>()?,
            Some(_) => return Err("locations is no list".to_owned()),
        };
        Ok(Self { document, locations })
    }

    /// The document as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut document = self.document.clone();
        let locations = self.locations.iter().cloned().map(Value::Object).collect();
        document.insert("locations".to_owned(), Value::Array(locations));
        let mut bytes = format!("{:#}", Value::Object(document)).into_bytes();
        bytes.push(b'\n');
        bytes
    }

    /// Applies `change`; says whether anything is different now.
    pub fn apply(&mut self, change: &Change) -> bool {
        if self.holds(change) {
            return false;
        }
        match change {
            Change::Put(rule) => self.put(rule),
            Change::Remove(prefix) => self.locations.retain(|location| prefix_of(location) != prefix),
            Change::Unlock(prefix) => {
                for location in self
                    .locations
                    .iter_mut()
                    .filter(|location| prefix_of(location) == prefix)
                {
                    location.remove("readOnly");
                    location.remove("read_only");
                }
            }
        }
        true
    }

    /// Whether `change` is in force.
    #[must_use]
    pub fn holds(&self, change: &Change) -> bool {
        match change {
            Change::Put(rule) => {
                let mut found = self.at(&rule.prefix);
                found.next().is_some_and(|location| matches(location, rule)) && found.next().is_none()
            }
            Change::Remove(prefix) => self.at(prefix).next().is_none(),
            Change::Unlock(prefix) => !self.at(prefix).any(is_read_only),
        }
    }

    /// Whether the rule at exactly `prefix` closes it for writing.
    #[must_use]
    pub fn is_read_only(&self, prefix: &str) -> bool {
        self.at(prefix).any(is_read_only)
    }

    /// Every rule's prefix and disk type tag.
    pub fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.locations
            .iter()
            .map(|location| (prefix_of(location), text(location, "diskType", "disk_type")))
    }

    fn at<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Map<String, Value>> {
        self.locations
            .iter()
            .filter(move |location| prefix_of(location) == prefix)
    }

    /// The server lets the last of several rules for one prefix win: that one is kept.
    fn put(&mut self, rule: &Rule) {
        let mut kept = Map::new();
        self.locations.retain(|location| {
            let other = prefix_of(location) != rule.prefix;
            if !other {
                kept = location.clone();
            }
            other
        });
        for (camel, snake) in NAMES {
            kept.remove(camel);
            kept.remove(snake);
        }
        kept.insert("locationPrefix".to_owned(), json!(rule.prefix));
        kept.insert("diskType".to_owned(), json!(rule.disk_tag));
        kept.insert("replication".to_owned(), json!(rule.replication));
        kept.insert("volumeGrowthCount".to_owned(), json!(rule.growth_count));
        self.locations.push(kept);
    }
}

/// The fields we set; protobuf's JSON may spell each either way.
const NAMES: [(&str, &str); 4] = [
    ("locationPrefix", "location_prefix"),
    ("diskType", "disk_type"),
    ("replication", "replication"),
    ("volumeGrowthCount", "volume_growth_count"),
];

fn location(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err("a location is no object".to_owned()),
    }
}

fn field<'a>(location: &'a Map<String, Value>, camel: &str, snake: &str) -> Option<&'a Value> {
    location.get(camel).or_else(|| location.get(snake))
}

fn text<'a>(location: &'a Map<String, Value>, camel: &str, snake: &str) -> &'a str {
    field(location, camel, snake)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn prefix_of(location: &Map<String, Value>) -> &str {
    text(location, "locationPrefix", "location_prefix")
}

fn is_read_only(location: &Map<String, Value>) -> bool {
    field(location, "readOnly", "read_only")
        .and_then(Value::as_bool)
        .unwrap_or(false)
}

fn matches(location: &Map<String, Value>, rule: &Rule) -> bool {
    text(location, "diskType", "disk_type") == rule.disk_tag
        && text(location, "replication", "replication") == rule.replication
        && field(location, "volumeGrowthCount", "volume_growth_count").and_then(Value::as_u64)
            == Some(u64::from(rule.growth_count))
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*, sample};

    use super::*;

    const OURS: &str = "/buckets/uv-1/";

    fn rule(tag: &str) -> Rule {
        Rule {
            prefix: OURS.to_owned(),
            disk_tag: tag.to_owned(),
            replication: "000".to_owned(),
            growth_count: 1,
        }
    }

    #[test]
    fn nothing_becomes_a_document_of_this_version() {
        let mut conf = FilerConf::parse(b" \n").unwrap();
        assert!(conf.apply(&Change::Put(rule("pool-a"))));
        let written: Value = serde_json::from_slice(&conf.to_bytes()).unwrap();
        assert_eq!(
            written,
            json!({"version": 1, "locations": [
                {"locationPrefix": OURS, "diskType": "pool-a", "replication": "000", "volumeGrowthCount": 1}
            ]})
        );
    }

    #[test]
    fn what_is_in_force_is_not_written_again() {
        let mut conf = FilerConf::parse(b"").unwrap();
        assert!(conf.apply(&Change::Put(rule("pool-a"))));
        assert!(!conf.apply(&Change::Put(rule("pool-a"))));
        assert!(conf.apply(&Change::Put(rule("pool-b"))));
        assert!(conf.apply(&Change::Remove(OURS.to_owned())));
        assert!(!conf.apply(&Change::Remove(OURS.to_owned())));
    }

    #[test]
    fn a_put_keeps_the_lock_that_the_quota_set_and_unlock_lifts_only_that() {
        let text = br#"{"locations":[{"locationPrefix":"/buckets/uv-1/","readOnly":true,"ttl":"3d"}]}"#;
        let mut conf = FilerConf::parse(text).unwrap();
        conf.apply(&Change::Put(rule("pool-a")));
        assert!(conf.is_read_only(OURS));
        conf.apply(&Change::Unlock(OURS.to_owned()));
        assert!(!conf.is_read_only(OURS));
        assert_eq!(conf.locations[0]["ttl"], "3d");
        assert!(conf.holds(&Change::Put(rule("pool-a"))));
    }

    #[test]
    fn both_spellings_of_protobufs_json_are_one_rule() {
        let text = br#"{"locations":[{"location_prefix":"/buckets/uv-1/","disk_type":"old"}]}"#;
        let mut conf = FilerConf::parse(text).unwrap();
        conf.apply(&Change::Put(rule("pool-a")));
        assert_eq!(conf.locations.len(), 1);
        assert!(!conf.locations[0].contains_key("disk_type"));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for wrong in [
            &b"{"[..],
            b"[]",
            b"3",
            br#"{"locations": {}}"#,
            br#"{"locations": [1]}"#,
        ] {
            assert!(FilerConf::parse(wrong).is_err());
        }
    }

    fn foreign() -> impl Strategy<Value = Value> {
        let prefix = sample::select(vec![
            "/",
            "/buckets/",
            "/buckets/uv-10/",
            "/buckets/uv-1",
            "/other/",
        ]);
        let extra = collection::btree_map(
            sample::select(vec![
                "diskType",
                "ttl",
                "worm",
                "readOnly",
                "fromTheFuture",
                "collection",
            ]),
            prop_oneof![
                Just(json!(true)),
                Just(json!("18446744073709551615")),
                any::<u32>().prop_map(|n| json!(n))
            ],
            0..4,
        );
        (prefix, extra).prop_map(|(prefix, extra)| {
            let mut location = json!({"locationPrefix": prefix});
            for (key, value) in extra {
                location[key] = value;
            }
            location
        })
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            sample::select(vec!["pool-a", "pool-b"]).prop_map(|tag| Change::Put(rule(tag))),
            Just(Change::Remove(OURS.to_owned())),
            Just(Change::Unlock(OURS.to_owned())),
        ]
    }

    proptest! {
        #[test]
        fn rules_of_others_never_change(
            others in collection::vec(foreign(), 0..6),
            changes in collection::vec(change(), 1..6),
        ) {
            let document = json!({"version": 7, "madeBy": "somebody", "locations": others});
            let mut conf = FilerConf::parse(document.to_string().as_bytes()).unwrap();
            for change in &changes {
                conf.apply(change);
                prop_assert!(conf.holds(change));
            }
            let after: Value = serde_json::from_slice(&conf.to_bytes()).unwrap();
            prop_assert_eq!(&after["version"], 7);
            prop_assert_eq!(&after["madeBy"], "somebody");
            let kept: Vec<Value> = after["locations"].as_array().unwrap().iter()
                .filter(|location| location["locationPrefix"] != OURS).cloned().collect();
            prop_assert_eq!(kept, others);
        }
    }
}
