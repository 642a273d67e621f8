//! What Kubernetes takes as names and labels. Nothing else ever gets into a path or a selector.

use crate::crd::GROUP;

/// One to 63 of a-z, 0-9 and dash, no dash at the ends.
pub(super) fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Names of objects: parts of a-z, 0-9 and dash between dots, 253 in all.
pub(super) fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    (1..=253).contains(&text.len()) && text.split('.').all(part)
}

fn is_label_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(inner) && edge(text.bytes().next()) && edge(text.bytes().last())
}

pub(super) fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((domain, name)) => is_subdomain(domain) && is_label_name(name),
        None => is_label_name(key),
    }
}

pub(super) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_label_name(value)
}

pub(super) fn is_ours(key: &str) -> bool {
    key.split_once('/').is_some_and(|(domain, _)| {
        domain == GROUP || domain.strip_suffix(GROUP).is_some_and(|d| d.ends_with('.'))
    })
}

pub(super) fn is_ec_policy(text: &str) -> bool {
    let number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) && !n.starts_with('0');
    text.len() <= 7
        && text
            .split_once('+')
            .is_some_and(|(data, parity)| number(data) && number(parity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kubernetes() {
        for good in ["a", "0", "a-b", &"x".repeat(63)] {
            assert!(is_dns_label(good) && is_subdomain(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "ä", "a\n", "a/b", ".."] {
            assert!(!is_dns_label(bad) && !is_subdomain(bad), "{bad:?}");
        }
        assert!(!is_dns_label(&"x".repeat(64)));
        assert!(is_subdomain("a.b-c.d") && !is_subdomain("a..b") && !is_subdomain(&"a.".repeat(127)));
        assert!(is_ours("storage.billyronks.io/x") && is_ours("x.storage.billyronks.io/y"));
        assert!(!is_ours("notstorage.billyronks.io/x") && !is_ours("app"));
    }
}
