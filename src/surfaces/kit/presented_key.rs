//! The API key that a request presents, in any of the forms that clients of the published APIs use.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// `x-api-key: KEY`, `Authorization: Bearer KEY`, a bare `Authorization: KEY`, or Basic with the key as user name and no password.
/// `None` when there is none or it is unreadable; whether it opens anything is not known here.
pub fn presented_key(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get("x-api-key") {
        return value.to_str().ok().map(|key| key.trim().to_owned());
    }
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    match value.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Some(key.trim().to_owned()),
        Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => basic_user(pair.trim()),
        _ => Some(value.to_owned()),
    }
}

fn basic_user(pair: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(pair).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    password.is_empty().then(|| user.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented(name: &'static str, value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        presented_key(&headers)
    }

    #[test]
    fn every_published_form_presents_the_same_key() {
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for (name, value) in [
            ("x-api-key", "K-1".to_owned()),
            ("authorization", "Bearer K-1".to_owned()),
            ("authorization", "bearer  K-1".to_owned()),
            ("authorization", "K-1".to_owned()),
            ("authorization", basic("K-1:")),
        ] {
            assert_eq!(presented(name, &value).as_deref(), Some("K-1"), "{name}: {value}");
        }
        assert_eq!(presented("authorization", &basic("K-1:password")), None);
        assert_eq!(presented("authorization", "Basic %%%"), None);
        let other = basic("K-1:").replace("Basic", "Digest");
        assert_eq!(
            presented("authorization", &other),
            Some(other.clone()),
            "another scheme presents no user name"
        );
        assert_eq!(presented_key(&HeaderMap::new()), None);
    }
}
