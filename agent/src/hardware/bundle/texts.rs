//! The texts of a bundle, each with its own places for names: attributes, udevd's database, mount tables, and what
//! programs print.

use serde_json::{Map, Value};

use super::words::Words;

/// An attribute under `/sys/class/block/<name>` or `/sys/class/nvme/<name>`.
pub(super) fn attribute(attribute: &str, text: &str, words: &mut Words) -> String {
    match attribute {
        "serial" | "device/serial" | "dm/name" => words.field(text),
        "wwid" | "device/wwid" => words.wwn(text),
        "nguid" | "eui" | "uuid" => words.id(text),
        "loop/backing_file" => words.path(text),
        "device/model" | "device/vendor" | "device/rev" | "device/firmware_rev" => {
            words.plain(text);
            text.to_owned()
        }
        // `0000:06:00.0`; of a fabric the address of a host.
        "address" if !text.contains('=') => text.to_owned(),
        "device/power/runtime_status"
        | "dev"
        | "size"
        | "ro"
        | "removable"
        | "hidden"
        | "partition"
        | "diskseq"
        | "stat"
        | "nsid"
        | "transport"
        | "md/level"
        | "loop/autoclear" => text.to_owned(),
        _ if attribute.starts_with("queue/") || attribute.ends_with("/partition") => text.to_owned(),
        _ => words.strictly(text),
    }
}

/// A file of udevd's database.
pub(super) fn udev(text: &str, words: &mut Words) -> String {
    lines(text, |line| match line.split_once(':') {
        Some(("E", property)) => match property.split_once('=') {
            Some((key, value)) => format!("E:{key}={}", udev_property(key, value, words)),
            None => format!("E:{}", words.strictly(property)),
        },
        Some(("S", link)) => format!("S:{}", udev_link(link, words)),
        Some(("I" | "V" | "L" | "W" | "G" | "Q", _)) => line.to_owned(),
        _ => words.strictly(line),
    })
}

fn udev_property(key: &str, value: &str, words: &mut Words) -> String {
    const PLAIN: [&str; 8] = [
        "ID_MODEL",
        "ID_MODEL_ENC",
        "ID_VENDOR",
        "ID_VENDOR_ENC",
        "ID_REVISION",
        "SCSI_MODEL",
        "SCSI_VENDOR",
        "SCSI_REVISION",
    ];
    const STAYS: [&str; 14] = [
        "ID_ATA",
        "ID_BUS",
        "ID_FS_TYPE",
        "ID_FS_USAGE",
        "ID_FS_VERSION",
        "ID_INPUT",
        "ID_PART_ENTRY_DISK",
        "ID_PART_ENTRY_SCHEME",
        "ID_PART_ENTRY_TYPE",
        "ID_PART_TABLE_TYPE",
        "ID_TYPE",
        "MD_LEVEL",
        "MPATH_SBIN_PATH",
        "SCSI_TYPE",
    ];
    // ID_SERIAL is model and serial number together.
    const NAMES: [&str; 5] = ["SERIAL_SHORT", "SCSI_SERIAL", "IDENT_SERIAL", "UUID", "LABEL"];
    let has = |part: &str| key.contains(part);
    if PLAIN.contains(&key) {
        words.plain(value);
        value.to_owned()
    } else if STAYS.contains(&key) || key.starts_with("ID_ATA_") {
        value.to_owned()
    } else if has("WWN") || has("NAA") || has("EUI64") {
        words.wwn(value)
    } else if NAMES.iter().any(|part| has(part)) || key.ends_with("_NAME") || key == "PARTNAME" {
        words.field(value)
    } else {
        words.strictly(value)
    }
}

fn udev_link(link: &str, words: &mut Words) -> String {
    const NAMED: [&str; 8] = [
        "disk/by-label/",
        "disk/by-partlabel/",
        "disk/by-uuid/",
        "disk/by-partuuid/",
        "disk/by-id/dm-name-",
        "disk/by-id/md-name-",
        "disk/by-id/lvm-pv-uuid-",
        "mapper/",
    ];
    if link.starts_with("disk/by-diskseq/") {
        return link.to_owned();
    }
    if let Some(prefix) = NAMED.iter().find(|prefix| link.starts_with(**prefix)) {
        let name = link.strip_prefix(prefix).unwrap_or_default();
        return format!("{prefix}{}", words.field(name));
    }
    if let Some(wwid) = link.strip_prefix("disk/by-id/nvme-")
        && wwid.starts_with("nvme.")
    {
        return format!("disk/by-id/nvme-{}", words.wwn(wwid));
    }
    if link.starts_with("disk/") {
        words.strictly(link)
    } else {
        // A logical volume: `vg0/lv0`.
        words.field(link)
    }
}

/// `/proc/swaps`.
pub(super) fn swaps(text: &str, words: &mut Words) -> String {
    lines(text, |line| {
        let end = line.find([' ', '\t']).unwrap_or(line.len());
        let (path, rest) = line.split_at_checked(end).unwrap_or((line, ""));
        match path.starts_with('/') {
            true => format!("{}{rest}", words.path(path)),
            false => line.to_owned(),
        }
    })
}

/// A line of a mount table. Of the options only whether it may be written stays.
pub(super) fn mount(line: &str, words: &mut Words) -> String {
    let Some((left, right)) = line.split_once(" - ") else {
        return words.strictly(line);
    };
    let left: Vec<String> = left
        .split(' ')
        .enumerate()
        .filter(|(at, _)| *at < 6)
        .map(|(at, field)| match at {
            3 | 4 => words.path(field),
            5 => access(field),
            _ => field.to_owned(),
        })
        .collect();
    let right: Vec<String> = right
        .split(' ')
        .enumerate()
        .map(|(at, field)| match at {
            0 => field.to_owned(),
            1 => words.path(field),
            _ => access(field),
        })
        .collect();
    format!("{} - {}", left.join(" "), right.join(" "))
}

fn access(options: &str) -> String {
    let first = options.split(',').next().unwrap_or_default();
    match first {
        "ro" => "ro".to_owned(),
        _ => "rw".to_owned(),
    }
}

/// What was recognised on a drive, in words: a label in quotes, a group's or array's name at the end.
pub(super) fn description(text: &str, words: &mut Words) -> String {
    const NAMED: [&str; 2] = ["LVM physical volume of ", "MD RAID member of "];
    if let Some((before, rest)) = text.split_once('"')
        && let Some((label, after)) = rest.rsplit_once('"')
    {
        return format!("{before}\"{}\"{after}", words.field(label));
    }
    let named = NAMED
        .iter()
        .find_map(|before| Some((before, text.strip_prefix(before)?)))
        .filter(|(_, name)| *name != "no volume group");
    match named {
        Some((before, name)) => format!("{before}{}", words.field(name)),
        None => text.to_owned(),
    }
}

/// What a program answered under a key.
pub(super) fn json(key: &str, value: &Value, words: &mut Words) -> Value {
    match value {
        Value::Object(fields) => object(fields, words).into(),
        Value::Array(values) => values.iter().map(|value| json(key, value, words)).collect(),
        Value::String(text) => string(&key.to_ascii_lowercase(), text, words).into(),
        other => other.clone(),
    }
}

fn string(key: &str, text: &str, words: &mut Words) -> String {
    const PLAIN: [&str; 8] = [
        "model", "firmware", "vendor", "product", "revision", "mn", "fr", "family",
    ];
    const IDS: [&str; 7] = [
        "wwn",
        "guid",
        "uuid",
        "eui",
        "logical_unit_id",
        "sas_address",
        "naa",
    ];
    if key.contains("serial") || key == "sn" {
        words.field(text)
    } else if IDS.iter().any(|id| key.contains(id)) {
        words.wwn(text)
    } else if key.contains("nqn") {
        words.strictly(text)
    } else if PLAIN
        .iter()
        .any(|plain| key.starts_with(plain) || key.ends_with(plain))
    {
        words.plain(text);
        text.to_owned()
    } else {
        words.loosely(text)
    }
}

/// smartctl tells world-wide names in parts, as numbers: `{"naa": 5, "oui": 3152, "id": 2713905}`.
fn object(fields: &Map<String, Value>, words: &mut Words) -> Map<String, Value> {
    let number = |key: &str| fields.get(key).and_then(Value::as_u64);
    let parts = match (number("naa"), number("oui"), number("id"), number("ext_id")) {
        (Some(naa), Some(oui), Some(id), _) => Some(("id", 9, format!("{naa:x}{oui:06x}{id:09x}"))),
        (None, Some(oui), _, Some(id)) => Some(("ext_id", 10, format!("{oui:06x}{id:010x}"))),
        _ => None,
    };
    let mut out: Map<String, Value> = fields
        .iter()
        .map(|(key, value)| (key.clone(), json(key, value, words)))
        .collect();
    if let Some((key, digits, name)) = parts {
        let written = match key {
            "id" => words.wwn(&name),
            _ => words.wwn(&format!("eui.{name}")),
        };
        let own = written
            .len()
            .checked_sub(digits)
            .and_then(|at| u64::from_str_radix(written.get(at..)?, 16).ok());
        out.insert(key.to_owned(), own.into());
    }
    out
}

fn lines(text: &str, each: impl FnMut(&str) -> String) -> String {
    let mut out: String = text.lines().map(each).map(|line| line + "\n").collect();
    if !text.ends_with('\n') {
        out.pop();
    }
    out
}
