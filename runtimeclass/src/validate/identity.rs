//! What a machine calls itself.

use super::Rules;
use crate::kubevirt::v1::DomainSpec;

/// The longest string that SMBIOS tells here, bytes.
pub const MAX_TEXT: usize = 255;

pub(super) fn check(domain: &DomainSpec, rules: &mut Rules<'_>) {
    if let Some(firmware) = &domain.firmware {
        if let Some(uuid) = firmware.uuid.as_deref().filter(|uuid| !uuid.is_empty() && parse_uuid(uuid).is_none()) {
            let what = format!("{uuid:?} is no UUID; 5d307ca9-b3ef-428c-8861-06e72d69f223, for one");
            rules.refuse("domain.firmware.uuid", what);
        }
        text("firmware.serial", firmware.serial.as_deref(), rules);
    }
    let Some(chassis) = &domain.chassis else { return };
    for (field, value) in [
        ("manufacturer", &chassis.manufacturer),
        ("version", &chassis.version),
        ("serial", &chassis.serial),
        ("asset", &chassis.asset),
        ("sku", &chassis.sku),
    ] {
        text(&format!("chassis.{field}"), value.as_deref(), rules);
    }
}

fn text(field: &str, value: Option<&str>, rules: &mut Rules<'_>) {
    if value.is_some_and(|text| text.len() > MAX_TEXT || text.chars().any(char::is_control)) {
        let what = format!("is not at most {MAX_TEXT} bytes without control characters");
        rules.refuse(format_args!("domain.{field}"), what);
    }
}

/// The bytes of a UUID in its one usual form, 8-4-4-4-12 hexadecimal digits (RFC 9562 §4), in the order of the text.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let parts: Vec<&str> = text.split('-').collect();
    let digits = parts.concat();
    let lengths = parts.iter().map(|part| part.len());
    if !lengths.eq([8, 4, 4, 4, 12]) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_one_form() {
        let uuid = parse_uuid("5D307ca9-b3ef-428c-8861-06e72d69f223").unwrap();
        assert_eq!(uuid[..6], [0x5D, 0x30, 0x7C, 0xA9, 0xB3, 0xEF]);
        for wrong in ["", "-", "5d307ca9b3ef428c886106e72d69f223", "+d307ca9-b3ef-428c-8861-06e72d69f223", "é-ß"] {
            assert_eq!(parse_uuid(wrong), None, "{wrong}");
        }
    }
}
