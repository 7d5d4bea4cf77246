//! The ways in which a receiver may write a byte or a character down: as it is, and escaped as JSON, programming languages, URLs and HTML do.
//! Knows no secrets: it says what a text may be read as.

/// Of all escapes, the longest: a pair of surrogates.
const ESCAPE_BYTES_MAX: usize = 12;

/// With what an escape may begin.
pub(super) const INTRODUCERS: [u8; 4] = *b"\\%&+";

/// What HTML calls the characters that stand in keys and passwords.
const ENTITIES: [(&[u8], u8); 24] = [
    (b"amp;", b'&'),
    (b"lt;", b'<'),
    (b"gt;", b'>'),
    (b"quot;", b'"'),
    (b"apos;", b'\''),
    (b"plus;", b'+'),
    (b"sol;", b'/'),
    (b"bsol;", b'\\'),
    (b"equals;", b'='),
    (b"colon;", b':'),
    (b"semi;", b';'),
    (b"lowbar;", b'_'),
    (b"grave;", b'`'),
    (b"Hat;", b'^'),
    (b"lsqb;", b'['),
    (b"lbrack;", b'['),
    (b"rsqb;", b']'),
    (b"rbrack;", b']'),
    (b"num;", b'#'),
    (b"percnt;", b'%'),
    (b"dollar;", b'$'),
    (b"commat;", b'@'),
    (b"excl;", b'!'),
    (b"quest;", b'?'),
];

/// Gives `take` everything that the text may begin with: how many of its bytes, and what they stand for, which is nothing where they are there
/// only for the sake of what follows. With `cut`, the text may end within an escape. The text is not empty.
pub(super) fn at(text: &[u8], cut: bool, mut take: impl FnMut(usize, &[u8])) {
    take(1, &text[..1]);
    match text[0] {
        b'\\' => backslash(text, &mut take),
        b'%' => {
            if let Some(value) = hex(text, 1, 2) {
                byte_or_character(3, value, &mut take);
            }
            if text.get(1) == Some(&b'u')
                && let Some(value) = hex(text, 2, 4)
            {
                character(6, value, &mut take);
            }
        }
        b'&' => entity(text, &mut take),
        b'+' => take(1, b" "),
        _ => {}
    }
    if cut && is_begun(text) {
        take(text.len(), b"");
    }
}

fn backslash(text: &[u8], take: &mut impl FnMut(usize, &[u8])) {
    match text.get(1) {
        Some(b'u') => unicode(text, take),
        Some(b'U') => {
            if let Some(value) = hex(text, 2, 8) {
                character(10, value, take);
            }
        }
        Some(b'x') => {
            if let Some(value) = hex(text, 2, 2) {
                byte_or_character(4, value, take);
            }
        }
        Some(b'0'..=b'7') => {
            let digits =
                text.get(1..4).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
            if let Some(digits) = digits {
                let value = digits.iter().fold(0, |value, digit| value * 8 + u32::from(digit - b'0'));
                byte_or_character(4, value, take);
            }
        }
        Some(b'n') => take(2, b"\n"),
        Some(b'r') => take(2, b"\r"),
        Some(b't') => take(2, b"\t"),
        Some(other) if other.is_ascii_punctuation() => {
            take(2, &[*other]);
            // JSON within JSON has a backslash before each of its own.
            if *other == b'\\' {
                take(1, b"");
            }
        }
        _ => {}
    }
}

fn unicode(text: &[u8], take: &mut impl FnMut(usize, &[u8])) {
    if text.get(2) == Some(&b'{') {
        let digits = text.iter().skip(3).take(7).take_while(|digit| digit.is_ascii_hexdigit()).count();
        if text.get(3 + digits) == Some(&b'}')
            && let Some(value) = hex(text, 3, digits)
        {
            character(4 + digits, value, take);
        }
        return;
    }
    let Some(value) = hex(text, 2, 4) else { return };
    if !(0xd800..0xdc00).contains(&value) {
        return character(6, value, take);
    }
    let low = hex(text, 8, 4).filter(|low| text[6..8] == *b"\\u" && (0xdc00..0xe000).contains(low));
    if let Some(low) = low {
        character(12, 0x10000 + ((value - 0xd800) << 10) + (low - 0xdc00), take);
    }
}

fn entity(text: &[u8], take: &mut impl FnMut(usize, &[u8])) {
    if let Some((name, byte)) = ENTITIES.iter().find(|(name, _)| text[1..].starts_with(name)) {
        return take(1 + name.len(), &[*byte]);
    }
    if text.get(1) != Some(&b'#') {
        return;
    }
    let (from, radix) = if matches!(text.get(2), Some(b'x' | b'X')) { (3, 16) } else { (2, 10) };
    let digits =
        text.iter().skip(from).take(7).take_while(|digit| char::from(**digit).is_digit(radix)).count();
    let number = text.get(from..from + digits).and_then(|digits| std::str::from_utf8(digits).ok());
    if text.get(from + digits) == Some(&b';')
        && let Some(value) = number.and_then(|number| u32::from_str_radix(number, radix).ok())
    {
        character(from + digits + 1, value, take);
    }
}

/// The number that so many hexadecimal digits are.
fn hex(text: &[u8], from: usize, digits: usize) -> Option<u32> {
    let digits = text.get(from..from + digits)?;
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

fn character(length: usize, value: u32, take: &mut impl FnMut(usize, &[u8])) {
    if let Some(character) = char::from_u32(value) {
        take(length, character.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Whether a number below 256 counts bytes or characters, languages disagree.
fn byte_or_character(length: usize, value: u32, take: &mut impl FnMut(usize, &[u8])) {
    if let Ok(byte) = u8::try_from(value) {
        take(length, &[byte]);
        if !byte.is_ascii() {
            character(length, value, take);
        }
    }
}

/// Whether an escape has begun of which there is no end.
fn is_begun(text: &[u8]) -> bool {
    let (first, rest) = (text[0], &text[1..]);
    let may_go_on = |byte: &u8| byte.is_ascii_alphanumeric() || b"#{\\".contains(byte);
    match first {
        b'%' => rest.len() < 2,
        b'\\' | b'&' => text.len() < ESCAPE_BYTES_MAX && rest.iter().all(may_go_on),
        _ => false,
    }
}
