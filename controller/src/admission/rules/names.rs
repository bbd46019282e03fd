//! Kubernetes' rules on names, as far as objects hold any: each tells what is wrong.

use std::collections::BTreeMap;

use crate::admission::verdict::Found;

/// The longest DNS label, label value and name of a label.
const MAX_LABEL: usize = 63;
/// The longest DNS name.
const MAX_DNS: usize = 253;
/// The longest name of a port (RFC 6335).
const MAX_PORT: usize = 15;

fn is_label(text: &str) -> bool {
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    is_end(text.bytes().next())
        && is_end(text.bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A name of one part.
pub(crate) fn dns_label(text: &str) -> Option<String> {
    (text.len() > MAX_LABEL || !is_label(text)).then(|| {
        format!("{text:?} is no DNS label: at most {MAX_LABEL} lower case letters, digits and '-', none at either end")
    })
}

/// A name of parts between dots: that of nearly every object.
pub(crate) fn dns_name(text: &str) -> Option<String> {
    (text.len() > MAX_DNS || !text.split('.').all(is_label))
        .then(|| format!("{text:?} is no name of an object: at most {MAX_DNS} lower case letters, digits, '-' and '.'"))
}

/// What a label is called: `name` or `domain/name`.
pub(crate) fn label_key(text: &str) -> Option<String> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let wrong =
        prefix.is_some_and(|prefix| dns_name(prefix).is_some()) || name.is_empty() || label_value(name).is_some();
    wrong.then(|| format!("{text:?} is no label: name or domain/name, the name at most {MAX_LABEL} characters"))
}

/// What a label holds.
pub(crate) fn label_value(text: &str) -> Option<String> {
    let is_end = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    let right = text.len() <= MAX_LABEL
        && is_end(text.bytes().next())
        && is_end(text.bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    (!right).then(|| {
        format!("{text:?} is no label's value: at most {MAX_LABEL} letters, digits, '-', '_' and '.', the first and last a letter or digit")
    })
}

/// What a port is called.
pub(crate) fn port(text: &str) -> Option<String> {
    let right = text.len() <= MAX_PORT
        && is_label(text)
        && !text.contains("--")
        && text.bytes().any(|byte| byte.is_ascii_lowercase());
    (!right).then(|| {
        format!(
            "{text:?} is no name of a port: at most {MAX_PORT} lower case letters, digits and '-', one of them a letter"
        )
    })
}

/// Labels at `path`.
pub(crate) fn labels(labels: &BTreeMap<String, String>, path: &str, found: &mut Found) {
    for (key, value) in labels {
        found.refuse_if(format_args!("{path}.{key}"), label_key(key).or_else(|| label_value(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&str) -> Option<String>;

    #[test]
    fn names() {
        let long = "a".repeat(64);
        let rows: [(Rule, &[&str], &[&str]); 5] = [
            (dns_label, &["a", "a-1", "0", &long[..63]], &["", "-a", "a-", "A", "a.b", "a_b", "ä", &long]),
            (dns_name, &["a", "a.b-c", &long], &["", "a..b", ".a", "a.", "A", "a/b"]),
            (label_key, &["a", "A.b_c", "kubevirt.io/x"], &["", "/a", "a/", "a/b/c", "A/b", "-a", &long]),
            (label_value, &["", "A", "a.b_c-1"], &["-", "a ", "a/b", &long]),
            (port, &["http", "a1", "web-80"], &["", "80", "a--b", "-a", "HTTP", "sixteen-letters-"]),
        ];
        for (index, (rule, right, wrong)) in rows.into_iter().enumerate() {
            for text in right {
                assert_eq!(rule(text), None, "{index}");
            }
            for text in wrong {
                assert!(rule(text).is_some(), "{index} {text:?}");
            }
        }
    }
}
