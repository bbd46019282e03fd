//! An `AdmissionReview` (`admission.k8s.io/v1`) as it comes and goes.

use json_patch::Patch;
use kube::core::DynamicObject;
use kube::core::admission::{
    AdmissionRequest, AdmissionResponse, AdmissionReview, META_API_VERSION_V1, SerializePatchError,
};
use serde_json::Value;

use super::verdict::Verdict;

/// The longest review, bytes. The API server takes requests of 3 MiB and stores objects of half that; a review holds both, and
/// some characters in six times their length.
pub const MAX_REVIEW: usize = 16 << 20;

/// Why a body is no review.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// No JSON, or of another shape.
    #[error("not an AdmissionReview: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Another version.
    #[error("{0:?} is not supported by vireo; {META_API_VERSION_V1} is")]
    Version(String),
    /// It asks nothing.
    #[error("an AdmissionReview without a request")]
    Empty,
}

/// What the API server asks about.
#[derive(Debug, Clone)]
pub struct Request(AdmissionRequest<DynamicObject>);

impl std::ops::Deref for Request {
    type Target = AdmissionRequest<DynamicObject>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Request {
    /// Reads a review.
    ///
    /// # Errors
    /// Where it is none, or of another version.
    pub fn read(body: &[u8]) -> Result<Self, ReviewError> {
        let review: AdmissionReview<DynamicObject> = serde_json::from_slice(body)?;
        if review.types.api_version != META_API_VERSION_V1 {
            return Err(ReviewError::Version(review.types.api_version));
        }
        review.try_into().map(Self).map_err(|_| ReviewError::Empty)
    }

    /// The object as it is to be; a deletion has none.
    pub fn document(&self) -> Option<Value> {
        document(self.0.object.as_ref())
    }

    /// The object as it is; a creation has none.
    pub fn old_document(&self) -> Option<Value> {
        document(self.0.old_object.as_ref())
    }

    /// The name of who asks.
    pub fn user(&self) -> &str {
        self.0.user_info.username.as_deref().unwrap_or_default()
    }

    /// The answer.
    pub fn answer(&self, verdict: Verdict) -> AdmissionReview<DynamicObject> {
        let mut response = AdmissionResponse::from(&self.0);
        match verdict {
            Verdict::Admit(warnings) => response.warnings = Some(warnings).filter(|warnings| !warnings.is_empty()),
            Verdict::Refuse(status) => {
                response.allowed = false;
                response.result = *status;
            }
        }
        response.into_review()
    }

    /// The answer that lets it in, changed.
    ///
    /// # Errors
    /// Where the patch can't be JSON: none can't.
    pub fn patched(&self, patch: Patch) -> Result<AdmissionReview<DynamicObject>, SerializePatchError> {
        let response = AdmissionResponse::from(&self.0);
        Ok(if patch.0.is_empty() { response } else { response.with_patch(patch)? }.into_review())
    }
}

fn document(object: Option<&DynamicObject>) -> Option<Value> {
    object.and_then(|object| serde_json::to_value(object).ok())
}
