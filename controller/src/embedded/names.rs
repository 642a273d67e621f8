//! Names, label keys and label values, by the rules of Kubernetes.

/// DNS-1123 subdomain: names of most objects.
pub fn subdomain(name: &str) -> Result<(), &'static str> {
    let part_fits = |part: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    if !name.is_empty() && name.len() <= 253 && name.split('.').all(part_fits) {
        return Ok(());
    }
    Err(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
         and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    )
}

/// DNS-1123 label: namespaces.
pub fn label(name: &str) -> Result<(), &'static str> {
    if name.len() <= 63 && !name.contains('.') && subdomain(name).is_ok() {
        return Ok(());
    }
    Err(
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
         and end with an alphanumeric character (e.g. 'my-name', or '123-abc', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
    )
}

fn qualified_part(part: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    part.len() <= 63 && edge(part.chars().next()) && edge(part.chars().next_back()) && part.chars().all(inner)
}

/// A label key, annotation key or finalizer: `prefix/name` or `name`.
pub fn label_key(key: &str) -> Result<(), &'static str> {
    let fits = match key.split_once('/') {
        None => qualified_part(key),
        Some((prefix, name)) => subdomain(prefix).is_ok() && qualified_part(name),
    };
    if fits {
        return Ok(());
    }
    Err(
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
         alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
         '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/'",
    )
}

/// A label value.
pub fn label_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() || qualified_part(value) {
        return Ok(());
    }
    Err(
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
         start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
         for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
    )
}

/// A name from `generateName`, as the real server makes it: the base and five letters.
pub fn generated(base: &str, random: u128) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let base: String = base.chars().take(58).collect();
    let mut rest = random;
    let suffix = (0..5).map(|_| {
        let index = usize::try_from(rest % 27).unwrap_or(0);
        rest /= 27;
        char::from(LETTERS.get(index).copied().unwrap_or(b'b'))
    });
    format!("{base}{}", suffix.collect::<String>())
}
