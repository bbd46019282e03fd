//! Rules on what cloud-init is told.

use super::Rules;
use crate::kubevirt::v1::{CloudInit, LocalReference, NoBase64};

/// The longest user or network data in a spec, bytes (KubeVirt's bound).
const MAX_LENGTH: usize = 2048;

pub(super) fn check(seed: &CloudInit, at: &str, rules: &mut Rules<'_>) {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let named = |reference: &Option<LocalReference>| reference.as_ref().is_some_and(|one| !one.name.is_empty());
    let CloudInit {
        user_data,
        user_data_base64,
        secret_ref,
        network_data,
        network_data_base64,
        network_data_secret_ref,
    } = seed;
    let forms = [
        (["userData", "userDataBase64", "secretRef"], user_data, user_data_base64, secret_ref, seed.user_data()),
        (
            ["networkData", "networkDataBase64", "networkDataSecretRef"],
            network_data,
            network_data_base64,
            network_data_secret_ref,
            seed.network_data(),
        ),
    ];
    let mut any = false;
    for (names, plain, base64, secret, content) in forms {
        let there = [given(plain), given(base64), named(secret)];
        any |= there.contains(&true);
        let mut named = names.iter().zip(there).filter(|(_, there)| *there).map(|(name, _)| name);
        let Some(first) = named.next() else { continue };
        for other in named {
            rules.refuse(format_args!("{at}.{other}"), format!("excludes {first}; name one of them"));
        }
        let name = if there[1] { names[1] } else { names[0] };
        match content {
            Ok(content) => {
                let length = content.map_or(0, |content| content.len());
                if length > MAX_LENGTH {
                    let what = format!(
                        "{length} bytes; at most {MAX_LENGTH} are supported by vireo, and {} takes more",
                        names[2]
                    );
                    rules.refuse(format_args!("{at}.{name}"), what);
                }
            }
            Err(error @ NoBase64) => rules.refuse(format_args!("{at}.{name}"), error.to_string()),
        }
    }
    if !any {
        rules.refuse(at, "has neither userData nor networkData");
    }
}
