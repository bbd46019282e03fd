//! The key that signs tokens for machines. Pods carry its public half from their start, so that it never changes: with
//! another one the controller would have no say in the machines that run.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use vireo_runtimeclass::machine_service::token::Signer;

use super::{SIGNING_KEY, StoreError};

/// The Secret's key.
const SEED: &str = "seed";

/// The signer that the operator made.
///
/// # Errors
/// Where there is none, or it can't be read.
pub async fn signing_key(client: &Client, namespace: &str) -> Result<Signer, StoreError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    Ok(Signer::new(&seed_of(&secrets.get(SIGNING_KEY).await?)?))
}

/// The Secret with a seed, made where there is none yet, by whoever is first.
pub(super) async fn ensure(client: &Client, namespace: &str) -> Result<Secret, StoreError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = match secrets.get_opt(SIGNING_KEY).await? {
        Some(secret) => secret,
        None => match secrets.create(&PostParams::default(), &new(rand::random())).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => secrets.get(SIGNING_KEY).await?,
            created => created?,
        },
    };
    seed_of(&secret)?;
    Ok(secret)
}

fn new(seed: [u8; 32]) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(SIGNING_KEY.to_owned()), ..ObjectMeta::default() },
        data: Some([(SEED.to_owned(), ByteString(seed.to_vec()))].into()),
        ..Secret::default()
    }
}

fn seed_of(secret: &Secret) -> Result<[u8; 32], StoreError> {
    let seed = secret.data.as_ref().and_then(|data| data.get(SEED));
    seed.and_then(|seed| seed.0.as_slice().try_into().ok()).ok_or(StoreError::Seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_32_bytes() {
        assert_eq!(seed_of(&new([7; 32])).unwrap(), [7; 32]);
        for data in [None, Some(vec![7; 31]), Some(vec![7; 33])] {
            let mut secret = new([0; 32]);
            secret.data = data.map(|seed| [(SEED.to_owned(), ByteString(seed))].into());
            assert!(seed_of(&secret).is_err());
        }
    }
}
