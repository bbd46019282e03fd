//! Who may read: whoever RBAC lets `get` the path `/metrics`.
//!
//! What is told names every tenant's machines, their addresses and what runs in them, so that it is no more for everybody than the
//! objects are. A client shows a token of the API server's, which says whose it is (TokenReview) and whether he may
//! (SubjectAccessReview), as with Kubernetes' own components. A client without one is `system:anonymous`: whoever wants everybody to read, as
//! with KubeVirt, binds that user, or its group, to a role.
//!
//! What clients can make the API server do is bounded: verdicts are kept for a while, by the token's digest, and few are asked for at a time.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// The path that readers need a right to.
pub const PATH: &str = "/metrics";
/// How long a verdict holds.
const HOLDS: Duration = Duration::from_mins(1);
/// Verdicts that are kept; more push out the oldest.
const KEPT: usize = 64;
/// Verdicts asked for at a time: more wait.
const AT_A_TIME: usize = 4;
/// How long a client waits for its verdict.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest token, bytes.
const MAX_TOKEN: usize = 16 << 10;

/// What may come of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// He may.
    Reads,
    /// Nobody knows who it is.
    Unknown,
    /// He may not.
    Refused,
}

/// No verdict came.
#[derive(Debug, thiserror::Error)]
pub enum ReadersError {
    /// The API server's.
    #[error("the API server can't be asked who reads: {0}")]
    Api(#[from] kube::Error),
    /// It takes too long.
    #[error("the API server didn't say within {} s who reads", PATIENCE.as_secs())]
    Late,
}

/// Whoever may read.
pub struct Readers {
    client: Client,
    kept: Mutex<HashMap<[u8; 32], (Verdict, Instant)>>,
    limit: Semaphore,
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

impl Readers {
    /// By the API server's word.
    pub fn new(client: Client) -> Self {
        Self { client, kept: Mutex::default(), limit: Semaphore::new(AT_A_TIME) }
    }

    /// Whether somebody with this token, or without one, may read.
    ///
    /// # Errors
    /// Where the API server doesn't say.
    pub async fn judge(&self, token: Option<&str>) -> Result<Verdict, ReadersError> {
        if token.is_some_and(|token| token.is_empty() || token.len() > MAX_TOKEN) {
            return Ok(Verdict::Unknown);
        }
        // No token is empty.
        let digest = <[u8; 32]>::from(Sha256::digest(token.unwrap_or_default()));
        if let Some(kept) = self.kept(&digest) {
            return Ok(kept);
        }
        let asking = async {
            // Never closed.
            let _permit = self.limit.acquire().await;
            // Whoever came at the same time may have asked.
            match self.kept(&digest) {
                Some(kept) => Ok(kept),
                None => self.ask(token).await,
            }
        };
        let verdict = timeout(PATIENCE, asking).await.map_err(|_| ReadersError::Late)??;
        self.keep(digest, verdict);
        Ok(verdict)
    }

    fn kept(&self, digest: &[u8; 32]) -> Option<Verdict> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(digest).filter(|(_, until)| Instant::now() < *until).map(|(verdict, _)| *verdict)
    }

    fn keep(&self, digest: [u8; 32], verdict: Verdict) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(digest, (verdict, Instant::now() + HOLDS));
        if kept.len() > KEPT {
            let oldest = kept.iter().min_by_key(|(_, (_, until))| *until).map(|(digest, _)| *digest);
            oldest.map(|oldest| kept.remove(&oldest));
        }
    }

    async fn ask(&self, token: Option<&str>) -> Result<Verdict, kube::Error> {
        let user = match token {
            None => UserInfo {
                username: Some("system:anonymous".to_owned()),
                groups: Some(vec!["system:unauthenticated".to_owned()]),
                ..UserInfo::default()
            },
            Some(token) => match self.whose(token).await? {
                Some(user) => user,
                None => return Ok(Verdict::Unknown),
            },
        };
        let asked = NonResourceAttributes { path: Some(PATH.to_owned()), verb: Some("get".to_owned()) };
        let spec = SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            non_resource_attributes: Some(asked),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviewed = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let may = reviewed.status.is_some_and(|status| status.allowed);
        Ok(match (may, token) {
            (true, _) => Verdict::Reads,
            // A token is what it takes.
            (false, None) => Verdict::Unknown,
            (false, Some(_)) => Verdict::Refused,
        })
    }

    /// Whose token it is, if anybody's.
    async fn whose(&self, token: &str) -> Result<Option<UserInfo>, kube::Error> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviewed = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let status = reviewed.status.filter(|status| status.authenticated == Some(true));
        Ok(status.and_then(|status| status.user))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::to_bytes;
    use axum::http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// An API server that knows `ann`, who may, and `bob`, who may not; and how often it was asked.
    fn server() -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                let body = to_bytes(axum::body::Body::new(request.into_body()), 1 << 20).await.unwrap();
                let mut review: Value = serde_json::from_slice(&body).unwrap();
                let spec = &review["spec"];
                review["status"] = if review["kind"] == "TokenReview" {
                    let name = spec["token"].as_str().filter(|token| ["ann", "bob"].contains(token));
                    json!({"authenticated": name.is_some(), "user": {"username": name}})
                } else {
                    assert_eq!(spec["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
                    json!({"allowed": spec["user"] == "ann"})
                };
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(review.to_string().into_bytes())))
            }
        });
        (Client::new(service, "default"), asked)
    }

    #[tokio::test]
    async fn whoever_may_get_the_path_reads() {
        let (client, asked) = server();
        let readers = Readers::new(client);
        assert_eq!(readers.judge(Some("ann")).await.unwrap(), Verdict::Reads);
        assert_eq!(readers.judge(Some("bob")).await.unwrap(), Verdict::Refused);
        assert_eq!(readers.judge(Some("eve")).await.unwrap(), Verdict::Unknown);
        assert_eq!(readers.judge(None).await.unwrap(), Verdict::Unknown);
        let before = asked.load(Ordering::Relaxed);
        assert_eq!(readers.judge(Some("ann")).await.unwrap(), Verdict::Reads);
        assert_eq!(readers.judge(Some("")).await.unwrap(), Verdict::Unknown);
        assert_eq!(readers.judge(Some(&"x".repeat(MAX_TOKEN + 1))).await.unwrap(), Verdict::Unknown);
        assert_eq!(asked.load(Ordering::Relaxed), before, "nobody was asked again");
    }

    #[tokio::test]
    async fn verdicts_hold_for_a_while_and_are_few() {
        let (client, asked) = server();
        let readers = Readers::new(client);
        assert_eq!(readers.judge(Some("ann")).await.unwrap(), Verdict::Reads);
        let once = asked.load(Ordering::Relaxed);
        readers.kept.lock().unwrap().values_mut().for_each(|(_, until)| *until -= HOLDS);
        assert_eq!(readers.judge(Some("ann")).await.unwrap(), Verdict::Reads);
        assert_eq!(asked.load(Ordering::Relaxed), 2 * once, "it is asked again");
        for number in 0..2 * KEPT {
            assert_eq!(readers.judge(Some(&number.to_string())).await.unwrap(), Verdict::Unknown);
        }
        assert_eq!(readers.kept.lock().unwrap().len(), KEPT);
    }
}
