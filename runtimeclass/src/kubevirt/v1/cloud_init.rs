//! What a guest's cloud-init is told.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::LocalReference;

/// A seed of cloud-init's NoCloud or ConfigDrive data source. User data, network data, or both; each in one form at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloudInit {
    /// `#cloud-config`, a script, or whatever else cloud-init takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// The same, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data_base64: Option<String>,
    /// The same, in a Secret's `userdata`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// Network configuration, version 1 or 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data: Option<String>,
    /// The same, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data_base64: Option<String>,
    /// The same, in a Secret's `networkdata`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data_secret_ref: Option<LocalReference>,
}

/// It is no base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no base64")]
pub struct NoBase64;

impl CloudInit {
    /// User data, if there is any in the spec itself. An empty field is the same as none.
    pub fn user_data(&self) -> Result<Option<Vec<u8>>, NoBase64> {
        either(self.user_data.as_deref(), self.user_data_base64.as_deref())
    }

    /// Network data, likewise.
    pub fn network_data(&self) -> Result<Option<Vec<u8>>, NoBase64> {
        either(self.network_data.as_deref(), self.network_data_base64.as_deref())
    }
}

fn either(plain: Option<&str>, base64: Option<&str>) -> Result<Option<Vec<u8>>, NoBase64> {
    let some = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::as_bytes).map(<[u8]>::to_vec);
    let Some(mut encoded) = some(base64) else { return Ok(some(plain)) };
    // As `base64` breaks lines.
    encoded.retain(|byte| !matches!(byte, b'\n' | b'\r'));
    STANDARD.decode(encoded).map(Some).map_err(|_| NoBase64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_mean_the_same() {
        let plain = CloudInit { user_data: Some("#cloud-config\n".to_owned()), ..Default::default() };
        let encoded =
            CloudInit { user_data_base64: Some("I2Nsb3Vk\r\nLWNvbmZpZwo=\n".to_owned()), ..Default::default() };
        assert_eq!(plain.user_data(), Ok(Some(b"#cloud-config\n".to_vec())));
        assert_eq!(encoded.user_data(), plain.user_data());
        assert_eq!(plain.network_data(), Ok(None));
        for nonsense in ["#cloud-config", "YQ", "YQ==YQ=="] {
            let encoded = CloudInit { network_data_base64: Some(nonsense.to_owned()), ..Default::default() };
            assert_eq!(encoded.network_data(), Err(NoBase64), "{nonsense}");
        }
    }
}
