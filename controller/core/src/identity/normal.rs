//! Texts as drives, firmware and hypervisors write them, to a normal form that can be compared; and out with
//! those that no drive owns alone (all zero, "unknown", "0123456789").

use super::evidence::PieceKind;

/// The stronger of two renderings of a WWN: `nvme.<vendor>-<serial>` never replaces a real one.
pub(super) fn better_wwn(new: Option<String>, old: Option<String>) -> Option<String> {
    match (new, old) {
        (Some(new), Some(old)) if world_wide_name(&new).is_none() && world_wide_name(&old).is_some() => {
            Some(old)
        }
        (new, old) => new.or(old),
    }
}

/// The NVMe id in a WWN that another kind of id takes the place of: kernels tell one of several.
pub(super) fn displaced(new: Option<&str>, old: Option<&str>) -> Option<(PieceKind, String)> {
    let (kind, _) = world_wide_name(new?)?;
    let old = world_wide_name(old?)?;
    (old.0 != kind && old.0 != PieceKind::Wwn).then_some(old)
}

/// A text that says something: trimmed, lower-case, inner blanks as one dash.
pub(super) fn meaningful(text: &str) -> Option<String> {
    const EMPTY: [&str; 10] = [
        "unknown",
        "none",
        "null",
        "n/a",
        "na",
        "default",
        "unspecified",
        "not specified",
        "(null)",
        "empty",
    ];
    let words = text.trim().to_lowercase();
    let bare = words.trim_start_matches("0x");
    // One character repeated (0000, ffff, ----) is a placeholder; so is what is left of nothing.
    let first = bare.chars().next()?;
    if bare
        .chars()
        .all(|c| matches!(c, '0' | '-' | ' ' | '.' | '_' | ':'))
        || (bare.len() > 3 && bare.chars().all(|c| c == first))
        || EMPTY.contains(&words.as_str())
        || words == "to be filled by o.e.m."
        || counts_up(bare)
    {
        return None;
    }
    Some(words.split_whitespace().collect::<Vec<_>>().join("-"))
}

/// Six or more characters that only count: 123456, 0123456789ABCDEF, 1234567890abcdef. USB bridges give it to every
/// disk behind them.
fn counts_up(text: &str) -> bool {
    let next = |(a, b): (u8, u8)| {
        a.is_ascii_alphanumeric() && b == a.wrapping_add(1)
            || matches!((a, b), (b'9', b'0' | b'a') | (b'0', b'a') | (b'f', b'0'))
    };
    text.len() >= 6 && text.bytes().zip(text.bytes().skip(1)).all(next)
}

/// A serial that says something of the drive: none that hypervisors make of the slot (the next boot may give it to
/// another disk), none that a cloud gives to all.
pub(super) fn serial(text: &str) -> Option<String> {
    const OF_A_SLOT: [&str; 5] = [
        "vmware-nvme-",
        "drive-scsi",
        "drive-sata",
        "drive-ide",
        "drive-virtio",
    ];
    let serial = meaningful(text)?;
    let plain = serial.replace('_', "-");
    let number = OF_A_SLOT.iter().find_map(|slot| plain.strip_prefix(slot));
    // QEMU's own serial of its n-th disk.
    let number = number.or_else(|| plain.strip_prefix("qm").filter(|number| number.len() == 5));
    let of_a_slot =
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()));
    (!of_a_slot && !plain.starts_with("nvme-card")).then_some(serial)
}

/// A hexadecimal id (dashes allowed) that is not all zero and not all ones.
pub(super) fn hex_id(text: &str) -> Option<String> {
    let text = meaningful(text)?;
    let text = text.strip_prefix("0x").unwrap_or(&text);
    let digits = text.chars().filter(|c| *c != '-');
    let blank = digits.clone().all(|c| c == '0') || digits.clone().all(|c| c == 'f');
    (!blank && digits.clone().all(|c| c.is_ascii_hexdigit())).then(|| text.to_owned())
}

/// What the kernel's WWN really is: an NVMe id, a world-wide name, or nothing of its own.
pub(super) fn world_wide_name(text: &str) -> Option<(PieceKind, String)> {
    let text = meaningful(text)?;
    if let Some(value) = text.strip_prefix("eui.") {
        let value = hex_id(value)?;
        return Some((
            if value.len() == 32 {
                PieceKind::Nguid
            } else {
                PieceKind::Eui64
            },
            value,
        ));
    }
    if let Some(value) = text.strip_prefix("uuid.") {
        return Some((PieceKind::NvmeUuid, hex_id(value)?));
    }
    if text.starts_with("nvme.") || text.starts_with("nvme-") {
        // Vendor, serial and model in hex: the serial piece once more.
        return None;
    }
    if text
        .get(..7)
        .is_some_and(|head| head.eq_ignore_ascii_case("t10.ata"))
    {
        // What the kernel makes of an ATA disk without a name of its own: model and serial once more.
        return None;
    }
    if let Some(value) = text.strip_prefix("t10.") {
        return Some((PieceKind::Wwn, format!("t10.{}", meaningful(value)?)));
    }
    let value = text.strip_prefix("naa.").unwrap_or(&text);
    // A world-wide name has 16 or 32 digits, and more than its format's number: "0x1", "0x5000000000000000" and the
    // like are made up.
    hex_id(value)
        .filter(|value| value.len() >= 16 && value.bytes().skip(1).any(|digit| digit != b'0'))
        .map(|value| (PieceKind::Wwn, value))
}
