//! Which credentials a machine has, and what is in their secrets.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::Spec;
use vireo_runtimeclass::kubevirt::v1::{
    AccessCredential, CredentialSource, SshPublicKeyPropagation, VirtualMachineInstanceSpec,
};
use vireo_runtimeclass::pod::{CREDENTIALS_SUFFIX, SECRETS_DIR};

use crate::volume::{Mounted, SmallFile, VolumeError, small_files};

/// A secret with credentials for the guest's agent.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The field that asks for it.
    at: String,
    /// The secret.
    pub(super) secret: Mounted,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Keys of these users.
    Keys(Vec<String>),
    Passwords,
}

/// Why there is nothing in a secret.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It can't be read.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A value is of no use.
    #[error("{0} is no text")]
    NoText(String),
}

/// A credential that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{at}")]
pub struct CredentialError {
    /// The field.
    pub at: String,
    /// Why.
    #[source]
    pub source: ReadError,
}

/// The credentials for the guest's agent, each of which can be read. `ids` are whom their files are opened as.
pub fn by_agent(
    spec: &VirtualMachineInstanceSpec,
    oci: &Spec,
    ids: (u32, u32),
) -> Result<Vec<Credential>, CredentialError> {
    let mut credentials = Vec::new();
    for (index, credential) in spec.access_credentials.iter().enumerate() {
        let AccessCredential { ssh_public_key, user_password } = credential;
        let (at, source, kind) = match (ssh_public_key, user_password) {
            (Some(keys), _) => match &keys.propagation_method.qemu_guest_agent {
                Some(agent) => ("sshPublicKey", &keys.source, Kind::Keys(agent.users.clone())),
                None => continue,
            },
            (None, Some(password)) => ("userPassword", &password.source, Kind::Passwords),
            (None, None) => continue,
        };
        let at = format!("spec.accessCredentials[{index}].{at}");
        let secret = mounted(source, oci, ids).map_err(|source| CredentialError { at: at.clone(), source })?;
        let credential = Credential { at: at.clone(), secret, kind };
        credential.add_to(&mut Wanted::default()).map_err(|source| CredentialError { at, source })?;
        credentials.push(credential);
    }
    Ok(credentials)
}

/// The SSH keys for the image's own user that cloud-init is told by a volume of the chosen way.
pub fn by_cloud_init(
    spec: &VirtualMachineInstanceSpec,
    oci: &Spec,
    ids: (u32, u32),
    chosen: impl Fn(&SshPublicKeyPropagation) -> bool,
) -> Result<Vec<String>, CredentialError> {
    let mut keys = Vec::new();
    for (index, credential) in spec.access_credentials.iter().enumerate() {
        let Some(ssh) = credential.ssh_public_key.as_ref().filter(|ssh| chosen(&ssh.propagation_method)) else {
            continue;
        };
        let read = mounted(&ssh.source, oci, ids).and_then(|secret| {
            for file in secret.folder(small_files)? {
                keys.extend(lines(&file)?);
            }
            Ok(())
        });
        let at = format!("spec.accessCredentials[{index}].sshPublicKey");
        read.map_err(|source| CredentialError { at, source })?;
    }
    Ok(keys)
}

fn mounted(source: &CredentialSource, oci: &Spec, ids: (u32, u32)) -> Result<Mounted, ReadError> {
    const SECRET: &str = "secret";
    let name = source.secret.as_ref().map(|secret| secret.secret_name.as_str()).unwrap_or_default();
    let place = Path::new(SECRETS_DIR).join(format!("{name}{CREDENTIALS_SUFFIX}"));
    let missing = || VolumeError::NotMounted { what: SECRET, place: place.display().to_string(), or: String::new() };
    Ok(Mounted::find(oci, ids, &place, SECRET).ok_or_else(missing)?)
}

/// What a guest's users are to have.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// All the keys of each user.
    pub(super) keys: BTreeMap<String, Vec<String>>,
    /// Passwords by user.
    pub(super) passwords: BTreeMap<String, String>,
    /// The first secret that could not be read. What would have been in it is missing above: its users keep what they have.
    pub(super) unread: Option<(String, ReadError)>,
}

/// Reads all of them.
pub(super) fn wanted(credentials: &[Credential]) -> Wanted {
    let mut wanted = Wanted::default();
    let mut unknown = Vec::new();
    for credential in credentials {
        if let Err(error) = credential.add_to(&mut wanted) {
            if let Kind::Keys(users) = &credential.kind {
                unknown.extend(users.clone());
            }
            wanted.unread.get_or_insert((credential.at.clone(), error));
        }
    }
    // Not half of their keys.
    wanted.keys.retain(|user, _| !unknown.contains(user));
    wanted
}

impl Credential {
    fn add_to(&self, wanted: &mut Wanted) -> Result<(), ReadError> {
        let files = self.secret.folder(small_files)?;
        match &self.kind {
            Kind::Keys(users) => {
                let keys = files.iter().map(lines).collect::<Result<Vec<_>, _>>()?.concat();
                for user in users {
                    wanted.keys.entry(user.clone()).or_default().extend(keys.iter().cloned());
                }
            }
            Kind::Passwords => {
                for file in files {
                    let password = text(&file)?.trim();
                    if !password.is_empty() {
                        wanted.passwords.insert(file.path.clone(), password.to_owned());
                    }
                }
            }
        }
        Ok(())
    }
}

fn text(file: &SmallFile) -> Result<&str, ReadError> {
    std::str::from_utf8(&file.content).map_err(|_| ReadError::NoText(file.path.clone()))
}

/// The keys of a file, one a line.
fn lines(file: &SmallFile) -> Result<Vec<String>, ReadError> {
    let lines = text(file)?.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}
