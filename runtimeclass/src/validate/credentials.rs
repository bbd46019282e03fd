//! Rules on access credentials.

use super::Rules;
use crate::kubevirt::v1::{
    CredentialSource, SshPublicKeyCredential, UserPasswordCredential, VirtualMachineInstanceSpec,
};

pub(super) fn check(spec: &VirtualMachineInstanceSpec, rules: &mut Rules<'_>) {
    for (index, credential) in spec.access_credentials.iter().enumerate() {
        let at = format!("accessCredentials[{index}]");
        if credential.ssh_public_key.is_some() == credential.user_password.is_some() {
            rules.refuse(&at, "has to be one of sshPublicKey and userPassword");
        }
        if let Some(SshPublicKeyCredential { source, propagation_method: method }) = &credential.ssh_public_key {
            let at = format!("{at}.sshPublicKey");
            secret(source, &at, rules);
            let at = format!("{at}.propagationMethod");
            let ways = [method.config_drive.is_some(), method.no_cloud.is_some(), method.qemu_guest_agent.is_some()];
            if ways.into_iter().filter(|there| *there).count() != 1 {
                rules.refuse(&at, "has to be one of configDrive, noCloud and qemuGuestAgent");
            }
            if method.config_drive.is_some() && !spec.volumes.iter().any(|one| one.cloud_init_config_drive.is_some()) {
                rules.refuse(format_args!("{at}.configDrive"), "needs a cloudInitConfigDrive volume");
            }
            if method.no_cloud.is_some() && !spec.volumes.iter().any(|one| one.cloud_init_no_cloud.is_some()) {
                rules.refuse(format_args!("{at}.noCloud"), "needs a cloudInitNoCloud volume");
            }
            if method.qemu_guest_agent.as_ref().is_some_and(|agent| agent.users.is_empty()) {
                rules.refuse(format_args!("{at}.qemuGuestAgent.users"), "names nobody");
            }
        }
        if let Some(UserPasswordCredential { source, propagation_method }) = &credential.user_password {
            let at = format!("{at}.userPassword");
            secret(source, &at, rules);
            if propagation_method.qemu_guest_agent.is_none() {
                rules.refuse(format_args!("{at}.propagationMethod.qemuGuestAgent"), "missing");
            }
        }
    }
}

/// The name is also that of a folder.
fn secret(source: &CredentialSource, at: &str, rules: &mut Rules<'_>) {
    match &source.secret {
        None => rules.refuse(format_args!("{at}.source.secret"), "missing"),
        Some(secret) if secret.secret_name.is_empty() || secret.secret_name.contains('/') => {
            let what = format!("{:?} can't be the name of a secret", secret.secret_name);
            rules.refuse(format_args!("{at}.source.secret.secretName"), what);
        }
        Some(_) => {}
    }
}
