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
        || matches!(
            words.as_str(),
            "0123456789" | "123456789" | "1234567890" | "to be filled by o.e.m."
        )
    {
        return None;
    }
    Some(words.split_whitespace().collect::<Vec<_>>().join("-"))
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
    if let Some(value) = text.strip_prefix("t10.") {
        return Some((PieceKind::Wwn, format!("t10.{}", meaningful(value)?)));
    }
    let value = text.strip_prefix("naa.").unwrap_or(&text);
    // A world-wide name has 16 or 32 digits; "0x1" and the like are made up.
    hex_id(value)
        .filter(|value| value.len() >= 16)
        .map(|value| (PieceKind::Wwn, value))
}
