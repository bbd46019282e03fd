//! How to get into a guest: keys and passwords out of Secrets.

use serde::{Deserialize, Serialize};

/// A way in: one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessCredential {
    /// SSH keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_public_key: Option<SshPublicKeyCredential>,
    /// Passwords.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_password: Option<UserPasswordCredential>,
}

/// SSH keys: each line of each of a Secret's values is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SshPublicKeyCredential {
    /// Where they are.
    pub source: CredentialSource,
    /// How they get into the guest.
    pub propagation_method: SshPublicKeyPropagation,
}

/// Passwords: a Secret's keys are users, its values their passwords.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserPasswordCredential {
    /// Where they are.
    pub source: CredentialSource,
    /// How they get into the guest.
    pub propagation_method: UserPasswordPropagation,
}

/// Where credentials are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialSource {
    /// In a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<CredentialSecret>,
}

/// A Secret of the pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialSecret {
    /// Its name.
    pub secret_name: String,
}

/// How SSH keys get into a guest: one of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SshPublicKeyPropagation {
    /// By a `cloudInitConfigDrive` volume, to the image's own user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_drive: Option<Propagation>,
    /// By a `cloudInitNoCloud` volume, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_cloud: Option<Propagation>,
    /// By the guest's agent, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu_guest_agent: Option<AgentUsers>,
}

/// How passwords get into a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserPasswordPropagation {
    /// By the guest's agent, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu_guest_agent: Option<Propagation>,
}

/// A way about which there is nothing more to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Propagation {}

/// Whose keys they become.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentUsers {
    /// Users of the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
}
