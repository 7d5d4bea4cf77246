//! Where a redirect session's customer goes afterwards, and in which language it speaks to them.

use url::Url;

/// In characters.
pub const RETURN_URL_CHARS_MAX: usize = 2_048;

/// Where the customer is sent, by how the visit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectData {
    pub success_url: ReturnUrl,
    pub failure_url: ReturnUrl,
    pub abort_url: ReturnUrl,
    pub qr_code_success_url: ReturnUrl,
}

/// An absolute URL of any scheme: it may lead into a merchant's app. Herald never calls it, so no egress policy judges it. Kept as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnUrl(String);

impl ReturnUrl {
    pub fn parse(text: String) -> Result<Self, &'static str> {
        if text.chars().count() > RETURN_URL_CHARS_MAX {
            return Err("must be at most 2048 characters long");
        }
        // The parser would quietly drop or encode the others, and what is kept here is the text.
        if !text.bytes().all(is_uri_character) {
            return Err("must be a URL, with any character that is not allowed in one percent-encoded");
        }
        let url = Url::parse(&text).map_err(|_| "must be an absolute URL")?;
        // The parser also takes `https:host` for `https://host`.
        if matches!(url.scheme(), "http" | "https") && !text.contains("://") {
            return Err("must be an absolute URL");
        }
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The characters of RFC 3986.
fn is_uri_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte)
}

/// A language, and perhaps a region. Any text of the published form `^[A-z]{2}(-[A-z]{2})?$` is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locale(String);

impl Locale {
    pub fn parse(text: String) -> Result<Self, &'static str> {
        // `A-z` is as published and spans the six characters between `Z` and `a`.
        let pair = |part: &[u8]| part.len() == 2 && part.iter().all(|byte| matches!(byte, b'A'..=b'z'));
        let matches = match text.as_bytes() {
            [language @ .., b'-', first, second] => pair(language) && pair(&[*first, *second]),
            language => pair(language),
        };
        if matches { Ok(Self(text)) } else { Err("must match ^[A-z]{2}(-[A-z]{2})?$, such as de-DE") }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// As published.
impl Default for Locale {
    fn default() -> Self {
        Self("de-DE".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_url_is_absolute_and_of_any_scheme() {
        for good in [
            "https://shop.example/ok?order=1&x=%20#done",
            "http://127.0.0.1:3000/",
            "shop-app://success",
            "com.example.shop:/done",
            "https://[::1]/",
        ] {
            assert_eq!(ReturnUrl::parse(good.to_owned()).map(|url| url.0).as_deref(), Ok(good));
        }
        let too_long = format!("https://shop.example/{}", "x".repeat(RETURN_URL_CHARS_MAX));
        for bad in [
            "",
            "/ok",
            "shop.example/ok",
            "//shop.example",
            "https:",
            "https://",
            "https:shop.example",
            "https:\\\\shop.example",
            " https://shop.example",
            "https://shop.example/\n",
            "https://shop.example/\0",
            "https://shop.example/a b",
            "https://shop.example/ü",
            "https://shop.example:99999/",
            too_long.as_str(),
        ] {
            assert!(ReturnUrl::parse(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_published_expression_of_locales_is_followed_to_the_letter() {
        for good in ["de", "de-DE", "EN-gb", "[]-^_", "`\\"] {
            assert!(Locale::parse(good.to_owned()).is_ok(), "{good}");
        }
        for bad in
            ["", "d", "deu", "de-", "de-D", "de-DEU", "de_DE", "de-DE\n", "de-DE-x", "dé", "--", "12", "-de"]
        {
            assert!(Locale::parse(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert_eq!(Locale::parse(Locale::default().0), Ok(Locale::default()));
    }
}
