//! Errors as Kubernetes' `Status`, with KubeVirt's words, which its clients look for.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::shim_client::MachineError;

const GROUP: &str = "kubevirt.io";
/// How errors call what they are about.
pub(super) const MACHINE: &str = "virtualmachine";
pub(super) const INSTANCE: &str = "virtualmachineinstance";

/// Why a call does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Value>,
}

impl Refusal {
    fn about(code: StatusCode, reason: &'static str, kind: &str, name: &str, message: String) -> Self {
        let details = json!({"name": name, "group": GROUP, "kind": kind});
        Self { code, reason, message, details: Some(details) }
    }

    fn plain(code: StatusCode, reason: &'static str, message: String) -> Self {
        Self { code, reason, message, details: None }
    }

    pub(super) fn not_found(kind: &str, name: &str) -> Self {
        let message = format!("{kind}.{GROUP} \"{name}\" not found");
        Self::about(StatusCode::NOT_FOUND, "NotFound", kind, name, message)
    }

    pub(super) fn conflict(kind: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {kind}.{GROUP} \"{name}\": {why}");
        Self::about(StatusCode::CONFLICT, "Conflict", kind, name, message)
    }

    pub(super) fn forbidden(kind: &str, name: &str, why: &str) -> Self {
        let message = format!("{kind}.{GROUP} \"{name}\" is forbidden: {why}");
        Self::about(StatusCode::FORBIDDEN, "Forbidden", kind, name, message)
    }

    pub(super) fn denied(why: String) -> Self {
        Self::plain(StatusCode::FORBIDDEN, "Forbidden", why)
    }

    pub(super) fn unauthorized() -> Self {
        let why = "not authenticated: ask through the API server, which says who asks";
        Self::plain(StatusCode::UNAUTHORIZED, "Unauthorized", why.to_owned())
    }

    pub(super) fn bad_request(why: String) -> Self {
        Self::plain(StatusCode::BAD_REQUEST, "BadRequest", why)
    }

    pub(super) fn internal(why: &dyn std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {why}");
        Self::plain(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    pub(super) fn busy(why: &str) -> Self {
        Self::plain(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", why.to_owned())
    }

    pub(super) fn not_built(call: &str, why: &str) -> Self {
        Self::plain(StatusCode::NOT_IMPLEMENTED, "NotImplemented", format!("{call}: not supported by vireo: {why}"))
    }

    /// What a machine said to a call on the instance `name`.
    pub(super) fn machine(name: &str, status: &tonic::Status) -> Self {
        match status.code() {
            tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument => {
                Self::conflict(INSTANCE, name, status.message())
            }
            _ => Self::internal(&status.message()),
        }
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> u16 {
        self.code.as_u16()
    }

    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl From<MachineError> for Refusal {
    fn from(error: MachineError) -> Self {
        Self::internal(&error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { code, reason, message, details } = self;
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code.as_u16(),
        });
        if let Some(details) = details {
            status["details"] = details;
        }
        (code, Json(status)).into_response()
    }
}
