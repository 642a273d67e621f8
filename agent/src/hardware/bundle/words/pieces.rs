//! A text as words and what stands between them. A word is a run of letters and digits, a UUID,
//! or an IPv4 address.

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Word(&'a str),
    Between(&'a str),
}

pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    pieces(text).into_iter().filter_map(|piece| match piece {
        Piece::Word(word) => Some(word),
        Piece::Between(_) => None,
    })
}

pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, is_word) = if first.is_alphanumeric() {
            match uuid_length(rest).or_else(|| address_length(rest)) {
                Some(length) => (length, true),
                None => word_length(rest),
            }
        } else {
            (escape_length(rest).unwrap_or(first.len_utf8()), false)
        };
        let (piece, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        pieces.push(if is_word {
            Piece::Word(piece)
        } else {
            Piece::Between(piece)
        });
        rest = after;
    }
    pieces
}

/// How long the word is, or what stands before it and belongs to no id: `0x`, and the digit by which udev says of which
/// sort a SCSI id is.
fn word_length(rest: &str) -> (usize, bool) {
    let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
    let word = rest.get(..end).unwrap_or(rest);
    let hexadecimal = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    let prefixed = |prefix| word.strip_prefix(prefix).is_some_and(hexadecimal);
    let sorted = matches!(word.len(), 17 | 33) && hexadecimal(word) && word.starts_with(['2', '3']);
    if prefixed("0x") || prefixed("0X") {
        (2, false)
    } else if sorted {
        (1, false)
    } else {
        (end, true)
    }
}

fn uuid_length(rest: &str) -> Option<usize> {
    const LENGTH: usize = 36;
    let uuid = rest.get(..LENGTH)?;
    let shape = uuid.char_indices().all(|(at, c)| match at {
        8 | 13 | 18 | 23 => c == '-',
        _ => c.is_ascii_hexdigit(),
    });
    let ends = !rest.get(LENGTH..)?.starts_with(|c: char| c.is_alphanumeric());
    (shape && ends).then_some(LENGTH)
}

/// `10.1.2.3`: four numbers of at most three digits.
fn address_length(rest: &str) -> Option<usize> {
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let text = rest.get(..end)?.trim_end_matches('.');
    is_address(text).then_some(text.len())
}

pub(super) fn is_address(word: &str) -> bool {
    let mut numbers = 0;
    word.split('.').all(|number| {
        numbers += 1;
        (1..=3).contains(&number.len()) && number.chars().all(|c| c.is_ascii_digit())
    }) && numbers == 4
}

/// `\x20` of udev, `\040` of the kernel.
fn escape_length(rest: &str) -> Option<usize> {
    let digits = rest.strip_prefix('\\')?.get(..3)?;
    let udev = digits
        .strip_prefix('x')
        .is_some_and(|hex| hex.chars().all(|c| c.is_ascii_hexdigit()));
    (udev || digits.chars().all(|c| matches!(c, '0'..='7'))).then_some(4)
}
