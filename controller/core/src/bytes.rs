//! Sizes: Kubernetes quantities to bytes and back, and sizes as people read them.
//!
//! It never rounds a request down: a fraction of a byte is a whole byte.

use thiserror::Error;

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// It is not a number with one of Kubernetes' suffixes.
    #[error("\"{0}\" is not a quantity: write bytes as 1024, 10G or 100Gi")]
    Malformed(String),
    /// It is below zero.
    #[error("\"{0}\" is negative: a size is zero or more")]
    Negative(String),
    /// It does not fit in 64 bits.
    #[error("\"{0}\" is too large: at most 16Ei - 1 bytes")]
    TooLarge(String),
}

/// Bytes of a Kubernetes quantity: `100Gi`, `10G`, `1024`, `1.5Ti`, `2e9`, `500m` (rounded up to one byte).
///
/// # Errors
/// Names the text that is malformed, negative or too large.
pub fn parse_quantity(text: &str) -> Result<u64, QuantityError> {
    let malformed = || QuantityError::Malformed(text.to_owned());
    let trimmed = text.trim();
    let unsigned = match trimmed.strip_prefix('-') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
            return Err(QuantityError::Negative(text.to_owned()));
        }
        Some(_) => return Err(malformed()),
        None => trimmed.strip_prefix('+').unwrap_or(trimmed),
    };
    let split = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(malformed());
    }
    let (factor, divisor) = scale(suffix).ok_or_else(malformed)?;
    total(whole, fraction, factor, divisor).ok_or_else(|| QuantityError::TooLarge(text.to_owned()))
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let scale = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10u128.checked_pow(exponent.unsigned_abs().min(30))?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    };
    Some(scale)
}

/// `ceil(whole.fraction * factor / divisor)`, where it fits.
fn total(whole: &str, fraction: &str, factor: u128, divisor: u128) -> Option<u64> {
    // More than 18 digits behind the point cannot change a byte; dropping them rounds up all the same.
    let kept = fraction.get(..fraction.len().min(18)).unwrap_or(fraction);
    let dropped = fraction
        .get(kept.len()..)
        .unwrap_or("")
        .bytes()
        .any(|b| b != b'0');
    let power = 10u128.checked_pow(u32::try_from(kept.len()).ok()?)?;
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: u128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    let below = part
        .checked_add(u128::from(dropped))?
        .checked_mul(factor)?
        .div_ceil(power);
    let bytes = whole.checked_mul(factor)?.checked_add(below)?.div_ceil(divisor);
    u64::try_from(bytes).ok()
}

/// A size as drives are sold, decimal, three digits: `3.84 TB`, `500 GB`, `0 B`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (1_000_000_000_000_000_000, "EB"),
        (1_000_000_000_000_000, "PB"),
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "kB"),
    ];
    for (unit, name) in UNITS {
        if bytes >= unit {
            let hundredths = u128::from(bytes) * 100 / u128::from(unit);
            let (whole, part) = (hundredths / 100, hundredths % 100);
            return match (whole, part) {
                (_, 0) => format!("{whole} {name}"),
                (100.., _) => format!("{whole} {name}"),
                (10.., _) if part / 10 == 0 => format!("{whole} {name}"),
                (10.., _) => format!("{whole}.{} {name}", part / 10),
                (_, _) if part % 10 == 0 => format!("{whole}.{} {name}", part / 10),
                _ => format!("{whole}.{part:02} {name}"),
            };
        }
    }
    format!("{bytes} B")
}

/// The shortest Kubernetes quantity of exactly so many bytes: `100Gi`, `10G`, `1025`.
#[must_use]
pub fn format_quantity(bytes: u64) -> String {
    const BINARY: [(u64, &str); 6] = [
        (1 << 60, "Ei"),
        (1 << 50, "Pi"),
        (1 << 40, "Ti"),
        (1 << 30, "Gi"),
        (1 << 20, "Mi"),
        (1 << 10, "Ki"),
    ];
    const DECIMAL: [(u64, &str); 3] = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M")];
    for (unit, name) in BINARY.into_iter().chain(DECIMAL) {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

/// `used` rounded up to whole percents of `capacity` (and never above it), so that an idle system is silent.
#[must_use]
pub fn quantise_percent(used: u64, capacity: u64) -> u64 {
    let percent = u128::from(percent(used, capacity));
    let bytes = (u128::from(capacity) * percent).div_ceil(100);
    u64::try_from(bytes).unwrap_or(capacity)
}

/// Whole percents that `used` is of `capacity`, rounded up, 0-100; 0 where there is no capacity.
#[must_use]
pub fn percent(used: u64, capacity: u64) -> u8 {
    if capacity == 0 {
        return 0;
    }
    let percent = (u128::from(used) * 100).div_ceil(u128::from(capacity)).min(100);
    u8::try_from(percent).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_of_kubernetes_are_bytes() {
        for (text, bytes) in [
            ("100Gi", 107_374_182_400),
            ("10G", 10_000_000_000),
            ("1024", 1024),
            ("1.5Ki", 1536),
            ("1E", 1_000_000_000_000_000_000),
            ("1E3", 1000),
            ("2e9", 2_000_000_000),
            ("1500m", 2),
            (".5Gi", 536_870_912),
            ("0", 0),
            (" 4Mi ", 4_194_304),
            ("0.0000000000000000001", 1),
        ] {
            assert_eq!(parse_quantity(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn an_error_names_the_text() {
        for text in [
            "", "Gi", "ten", "10GB", "1..2", "1.2.3", "--1", "10 Gi", "0x10", "e3", ".",
        ] {
            assert_eq!(
                parse_quantity(text),
                Err(QuantityError::Malformed(text.to_owned())),
                "{text}"
            );
        }
        assert_eq!(
            parse_quantity("-1Gi"),
            Err(QuantityError::Negative("-1Gi".to_owned()))
        );
        for text in [
            "16Ei",
            "99999999999999999999",
            "1e30",
            "340282366920938463463374607431768211456",
        ] {
            assert_eq!(
                parse_quantity(text),
                Err(QuantityError::TooLarge(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_read_as_drives_are_sold() {
        for (bytes, text) in [
            (3_840_000_000_000, "3.84 TB"),
            (3_840_755_982_336, "3.84 TB"),
            (500_107_862_016, "500 GB"),
            (16_000_900_661_248, "16 TB"),
            (12_500_000_000, "12.5 GB"),
            (2_147_483_648, "2.14 GB"),
            (999, "999 B"),
            (0, "0 B"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn a_quantity_reads_back_as_the_same_bytes(bytes: u64) {
            prop_assert_eq!(parse_quantity(&format_quantity(bytes)), Ok(bytes));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,24}") {
            let _ = parse_quantity(&text);
        }

        #[test]
        fn a_quantised_use_is_never_less_than_the_use(used: u64, capacity: u64) {
            let used = used.min(capacity);
            let seen = quantise_percent(used, capacity);
            prop_assert!(seen >= used && seen <= capacity);
        }
    }
}
