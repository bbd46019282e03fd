//! Rules on what cloud-init is told.

use super::Rules;
use crate::kubevirt::v1::{CloudInitNoCloud, NoBase64};

/// The longest user or network data in a spec, bytes (KubeVirt's bound: more belongs into a secret).
const MAX_LENGTH: usize = 2048;

pub(super) fn check(seed: &CloudInitNoCloud, at: &str, rules: &mut Rules<'_>) {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let CloudInitNoCloud { user_data, user_data_base64, network_data, network_data_base64 } = seed;
    let forms = [
        ("userData", user_data, user_data_base64, seed.user_data()),
        ("networkData", network_data, network_data_base64, seed.network_data()),
    ];
    if forms.iter().all(|(_, plain, base64, _)| !given(plain) && !given(base64)) {
        rules.refuse(at, "has neither userData nor networkData");
    }
    for (name, plain, base64, content) in forms {
        if given(plain) && given(base64) {
            rules.refuse(format_args!("{at}.{name}Base64"), format!("excludes {name}; name one of them"));
        }
        let name = if given(base64) { format!("{name}Base64") } else { name.to_owned() };
        match content {
            Ok(content) => {
                let length = content.map_or(0, |content| content.len());
                if length > MAX_LENGTH {
                    let what = format!("{length} bytes; at most {MAX_LENGTH} are supported by vireo");
                    rules.refuse(format_args!("{at}.{name}"), what);
                }
            }
            Err(error @ NoBase64) => rules.refuse(format_args!("{at}.{name}"), error.to_string()),
        }
    }
}
