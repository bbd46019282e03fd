//! Who may do what over an exec: whoever may exec may look, and what changes the machine needs the controller's word.
//!
//! Invariants: a call that isn't known to be harmless is refused without a token; a token is taken once, by whichever container of
//! the pod, as long as it lives; what is remembered is bounded, and only the controller can fill it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tonic::Status;
use tonic::codegen::http;
use tonic::metadata::MetadataMap;
use vireo_runtimeclass::machine_service::token::{Claims, Key, NONCE, Pod, Token, TokenError};
use vireo_runtimeclass::machine_service::{TOKEN, needs_token};
use vireo_runtimeclass::pod::ANNOTATION_CONTROLLER_KEY;

use super::{POD_NAME, POD_NAMESPACE};
use crate::bundle::Bundle;

/// CRI's name of the pod's uid.
const POD_UID: &str = "io.kubernetes.cri.sandbox-uid";
/// How many nonces are remembered.
const MAX_USED: usize = 1024;

/// The nonces that have been used, with the time at which their tokens expire. A pod has one.
#[derive(Debug, Default)]
pub struct Used(Mutex<HashMap<[u8; NONCE], u64>>);

impl Used {
    /// Notes a token that is used at `now`.
    fn take(&self, claims: &Claims, now: u64) -> Result<(), Status> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.contains_key(&claims.nonce) {
            return Err(Status::permission_denied("the token has been used: each is good for one call"));
        }
        if used.len() >= MAX_USED {
            used.retain(|_, expires| *expires > now);
        }
        if used.len() >= MAX_USED {
            return Err(Status::resource_exhausted(format!("{MAX_USED} tokens were used within their lives: wait")));
        }
        used.insert(claims.nonce, claims.expires);
        Ok(())
    }
}

/// The guard of one container's machine.
#[derive(Debug)]
pub struct Guard {
    /// None where containerd doesn't say it.
    pod: Option<Pod>,
    /// None where the pod was created without one.
    key: Option<Key>,
    used: Arc<Used>,
}

impl Guard {
    /// The guard of a container of a pod whose tokens `used` remembers.
    pub fn new(bundle: &Bundle, used: Arc<Used>) -> Guard {
        let told = |name| bundle.annotation(name).map(str::to_owned);
        let pod = || Some(Pod { namespace: told(POD_NAMESPACE)?, name: told(POD_NAME)?, uid: told(POD_UID)? });
        // The container wouldn't be there if it were no key.
        let key = bundle.annotation(ANNOTATION_CONTROLLER_KEY).and_then(|text| Key::parse(text).ok());
        Guard { pod: pod(), key, used }
    }

    /// Whether the call may be made, now.
    pub fn admit<B>(&self, request: &http::Request<B>) -> Result<(), Status> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs());
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        if !needs_token(method) {
            return Ok(());
        }
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let admitted = self.check(method, &metadata, now);
        match &admitted {
            Ok(()) => log::info!("{method} by a token of the controller's"),
            Err(status) => log::warn!("{method} over an exec: refused: {}", status.message()),
        }
        admitted.map_err(|status| Status::new(status.code(), format!("{method}: {}", status.message())))
    }

    fn check(&self, method: &str, metadata: &MetadataMap, now: u64) -> Result<(), Status> {
        let token = metadata.get_bin(TOKEN).ok_or_else(|| {
            Status::unauthenticated(format!("over an exec it needs a token of the controller's, as metadata {TOKEN}"))
        })?;
        let key = self.key.as_ref().ok_or_else(|| {
            Status::failed_precondition(format!(
                "the pod was created without a controller's key (annotation {ANNOTATION_CONTROLLER_KEY}): no token permits this"
            ))
        })?;
        let pod = self.pod.as_ref().ok_or_else(|| {
            Status::failed_precondition("containerd doesn't say which pod this is: no token permits this")
        })?;
        let bytes = token.to_bytes().map_err(|_| Status::unauthenticated("the token is malformed: no base64"))?;
        let claims = Token::read(&bytes).and_then(|token| token.verified(key)).map_err(|error| refused(&error))?;
        claims.permit(method, pod, now).map_err(|error| refused(&error))?;
        self.used.take(&claims, now)
    }
}

fn refused(error: &TokenError) -> Status {
    match error {
        TokenError::Malformed(_) | TokenError::Signature => Status::unauthenticated(error.to_string()),
        _ => Status::permission_denied(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use vireo_runtimeclass::machine_service::token::Signer;

    use super::*;
    use crate::bundle::tests::bundle;

    const NOW: u64 = 1_800_000_000;

    fn metadata(token: &[u8]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert_bin(TOKEN, tonic::metadata::MetadataValue::from_bytes(token));
        metadata
    }

    fn guard(annotations: &[(&str, &str)]) -> Guard {
        let annotations: HashMap<_, _> = annotations.iter().copied().collect();
        let spec = serde_json::json!({"ociVersion": "1.1.0", "annotations": annotations});
        let (_folder, bundle) = bundle(&spec.to_string());
        Guard::new(&bundle, Arc::default())
    }

    fn signed(method: &str, nonce: u64, expires: u64) -> Vec<u8> {
        let mut bytes = [0; NONCE];
        bytes[..8].copy_from_slice(&nonce.to_be_bytes());
        let pod = Pod { namespace: "n".into(), name: "p".into(), uid: "u".into() };
        Signer::new(&[1; 32]).sign(&Claims { pod, method: method.into(), expires, nonce: bytes }).unwrap()
    }

    #[test]
    fn a_token_is_taken_once() {
        let key = Signer::new(&[1; 32]).key().to_string();
        let guard = guard(&[(POD_NAMESPACE, "n"), (POD_NAME, "p"), (POD_UID, "u"), (ANNOTATION_CONTROLLER_KEY, &key)]);
        let check = |token: &[u8], now| {
            guard.check("Reset", &metadata(token), now).map_err(|status| status.message().to_owned())
        };
        let token = signed("Reset", 1, NOW + 60);
        assert_eq!(check(&token, NOW), Ok(()));
        assert!(check(&token, NOW + 59).unwrap_err().contains("has been used"));
        assert!(check(&token, NOW + 60).unwrap_err().contains("expired"));
        assert!(check(&signed("Pause", 2, NOW + 60), NOW).unwrap_err().contains("for another call: Pause"));
        assert!(check(b"token", NOW).unwrap_err().contains("malformed"));
        // One that was refused isn't used up.
        assert_eq!(check(&signed("Reset", 2, NOW + 60), NOW), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten_in_time() {
        let used = Used::default();
        let claims = |number: u64| {
            let token = Token::read(&signed("Reset", number, NOW + 60 + number % 2)).unwrap();
            token.verified(&Signer::new(&[1; 32]).key()).unwrap()
        };
        let mut one = claims(0);
        for number in 0..MAX_USED {
            one.nonce = u128::try_from(number).unwrap().to_be_bytes();
            one.expires = NOW + 60 + u64::try_from(number).unwrap() % 2;
            used.take(&one, NOW).unwrap();
        }
        one.nonce = [9; NONCE];
        assert_eq!(used.take(&one, NOW).unwrap_err().code(), tonic::Code::ResourceExhausted);
        assert!(used.take(&one, NOW + 60).is_ok());
        assert!(used.take(&one, NOW + 60).is_err());
    }

    #[test]
    fn without_a_key_or_a_pod_no_token_is_good() {
        let token = signed("Reset", 1, NOW + 60);
        let refused = |guard: Guard, metadata| guard.check("Reset", &metadata, NOW).unwrap_err().message().to_owned();
        assert!(refused(guard(&[]), metadata(&token)).contains("without a controller's key"));
        let key = Signer::new(&[1; 32]).key().to_string();
        let podless = || guard(&[(ANNOTATION_CONTROLLER_KEY, &key)]);
        assert!(refused(podless(), metadata(&token)).contains("doesn't say which pod"));
        assert!(refused(podless(), MetadataMap::new()).contains("needs a token"));
    }
}
