//! `multipart/form-data`, as far as ServiceStack's clients send a request's members in it: names and texts. Files are passed over.

/// The names and texts of a form, in their order. What is wrong with it is said without repeating it.
pub fn pairs(content_type: &str, body: &[u8]) -> Result<Vec<(String, String)>, &'static str> {
    let boundary = parameter(content_type, "boundary").filter(|boundary| !boundary.is_empty());
    let boundary = boundary.ok_or("must come with the boundary of its parts")?;
    let delimiter = format!("\r\n--{boundary}");
    // The first delimiter may stand at the very beginning.
    let whole = [b"\r\n", body].concat();
    let (_, mut rest) = split_once(&whole, delimiter.as_bytes()).ok_or("must have parts")?;
    let mut pairs = Vec::new();
    while !rest.starts_with(b"--") {
        let (part, behind) = split_once(rest, delimiter.as_bytes()).ok_or("ends in the middle of a part")?;
        pairs.extend(pair(part)?);
        rest = behind;
    }
    Ok(pairs)
}

/// Name and text of one part, from behind its delimiter; `None` of a file.
fn pair(part: &[u8]) -> Result<Option<(String, String)>, &'static str> {
    let (head, value) = split_once(part, b"\r\n\r\n").ok_or("has a part without a head")?;
    let head = std::str::from_utf8(head).map_err(|_| "must be UTF-8")?;
    let disposition = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    });
    let disposition = disposition.ok_or("has a part without a name")?;
    if ["filename", "filename*"].iter().any(|name| parameter(disposition, name).is_some()) {
        return Ok(None);
    }
    let name = parameter(disposition, "name").ok_or("has a part without a name")?;
    let value = std::str::from_utf8(value).map_err(|_| "must be UTF-8")?;
    Ok(Some((name, value.to_owned())))
}

/// A parameter of a header's value, quoted or not.
fn parameter(header: &str, wanted: &str) -> Option<String> {
    let mut rest = header;
    while let Some((_, behind)) = rest.split_once(';') {
        let (name, value) = behind.split_once('=')?;
        let (text, next) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_at(value.find(';').unwrap_or(value.len())),
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(text.trim().to_owned());
        }
        rest = next;
    }
    None
}

fn split_once<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(separator.len()).position(|window| window == separator)?;
    Some((&bytes[..at], &bytes[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content_type: &str, body: &str) -> Result<Vec<(String, String)>, &'static str> {
        pairs(content_type, body.replace('\n', "\r\n").as_bytes())
    }

    #[test]
    fn parts_are_read_as_browsers_and_dotnet_write_them() {
        let expected = [("Id", "1"), ("text", "two\r\nlines"), ("Id", "")];
        let expected = Ok(expected.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec());
        let body = "--b\nContent-Disposition: form-data; name=\"Id\"\n\n1\n--b\ncontent-type: text/plain; charset=utf-8\n\
                    content-disposition: form-data; name=text\n\ntwo\nlines\n--b\n\
                    Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\n\nbytes\n--b\n\
                    Content-Disposition: form-data; name=\"Id\"\n\n\n--b--\n";
        assert_eq!(read("multipart/form-data; boundary=b", body), expected);
        assert_eq!(read("multipart/form-data; charset=utf-8; Boundary=\"b\"", body), expected);
        assert_eq!(read("multipart/form-data; boundary=b", &format!("before\n{body}after")), expected);
        assert_eq!(read("multipart/form-data; boundary=b", "--b--"), Ok(vec![]));
    }

    #[test]
    fn what_is_no_form_is_refused() {
        let part = "--b\nContent-Disposition: form-data; name=a\n\n1";
        for (content_type, body, complaint) in [
            ("multipart/form-data", format!("{part}\n--b--"), "boundary"),
            ("multipart/form-data; boundary=", format!("{part}\n--b--"), "boundary"),
            ("multipart/form-data; boundary=c", format!("{part}\n--b--"), "parts"),
            ("multipart/form-data; boundary=b", String::new(), "parts"),
            ("multipart/form-data; boundary=b", part.to_owned(), "middle"),
            ("multipart/form-data; boundary=b", format!("{part}--b--"), "middle"),
            ("multipart/form-data; boundary=b", "--b\nno head\n--b--".to_owned(), "head"),
            ("multipart/form-data; boundary=b", "--b\nX: y\n\n1\n--b--".to_owned(), "name"),
            (
                "multipart/form-data; boundary=b",
                "--b\nContent-Disposition: form-data\n\n1\n--b--".to_owned(),
                "name",
            ),
        ] {
            let refused = read(content_type, &body).unwrap_err();
            assert!(refused.contains(complaint), "{content_type} {body}: {refused}");
        }
        let bytes = b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\xff\r\n--b--";
        assert_eq!(pairs("multipart/form-data; boundary=b", bytes), Err("must be UTF-8"));
    }
}
