//! The controller's word that one call may be made.

use k8s_openapi::jiff::Timestamp;
use vireo_runtimeclass::machine_service::token::{Claims, NONCE, Pod, Signer, TokenError};

/// How long a token is good, seconds: long enough for clocks that differ, not for what waits.
const LIFE: u64 = 60;

/// Signs that `method` may be called on the machine of `pod` once, from `now` on.
pub(super) fn sign(signer: &Signer, pod: &Pod, method: &str, now: Timestamp) -> Result<Vec<u8>, TokenError> {
    let now = u64::try_from(now.as_second()).unwrap_or_default();
    let nonce: [u8; NONCE] = rand::random();
    signer.sign(&Claims { pod: pod.clone(), method: method.to_owned(), expires: now + LIFE, nonce })
}

#[cfg(test)]
mod tests {
    use vireo_runtimeclass::machine_service::token::Token;

    use super::*;

    #[test]
    fn a_token_is_for_one_call_on_one_pod_and_soon() {
        let pod = |name: &str| Pod { namespace: "shop".to_owned(), name: name.to_owned(), uid: "5d307ca9".to_owned() };
        let signer = Signer::new(&[7; 32]);
        let now = Timestamp::from_second(1_000).unwrap();
        let token = sign(&signer, &pod("a"), "Pause", now).unwrap();
        let claims = Token::read(&token).unwrap().verified(&signer.key()).unwrap();
        assert_eq!(claims.permit("Pause", &pod("a"), 1_000), Ok(()));
        assert!(claims.permit("Pause", &pod("b"), 1_000).is_err());
        assert!(claims.permit("Resume", &pod("a"), 1_000).is_err());
        assert!(claims.permit("Pause", &pod("a"), 1_060).is_err());
        assert_ne!(token, sign(&signer, &pod("a"), "Pause", now).unwrap(), "no nonce is used twice");
        assert!(sign(&signer, &pod(""), "Pause", now).is_err());
    }
}
