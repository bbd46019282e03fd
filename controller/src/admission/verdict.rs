//! What is said of a request: let in, perhaps with warnings, or refused by every field that is wrong with it.

use std::fmt;

use kube::core::Status;
use kube::core::response::{StatusCause, StatusDetails};
use vireo_runtimeclass::validate::Problem;

/// More problems than this are counted and not told: an answer has to stay smaller than what it answers.
const MAX_CAUSES: usize = 64;
/// The same for warnings, which clients print a line each.
const MAX_WARNINGS: usize = 16;

/// What is said of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is let in; the client is told these warnings.
    Admit(Vec<String>),
    /// It isn't.
    Refuse(Box<Status>),
}

impl Verdict {
    /// Let in if nothing was found.
    pub fn of(found: Found) -> Self {
        let Found { problems, mut warnings } = found;
        if problems.is_empty() {
            warnings.truncate(MAX_WARNINGS);
            return Self::Admit(warnings);
        }
        let mut message = problems.iter().take(MAX_CAUSES).map(ToString::to_string).collect::<Vec<_>>().join("; ");
        if problems.len() > MAX_CAUSES {
            message = format!("{message}; and {} more", problems.len() - MAX_CAUSES);
        }
        let causes = problems.into_iter().take(MAX_CAUSES).map(|Problem { path, what }| StatusCause {
            reason: reason(&what).to_owned(),
            message: what,
            field: path,
        });
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: causes.collect(),
            retry_after_seconds: 0,
        };
        Self::Refuse(Status::failure(&message, "Invalid").with_code(422).with_details(details).boxed())
    }

    /// Refused as a whole, with an HTTP status.
    pub fn refuse(code: u16, reason: &str, message: impl fmt::Display) -> Self {
        Self::Refuse(Status::failure(&message.to_string(), reason).with_code(code).boxed())
    }

    /// Refused since the one who asks may not.
    pub fn forbid(message: impl fmt::Display) -> Self {
        Self::refuse(403, "Forbidden", message)
    }
}

/// Kubernetes' word for a kind of problem.
fn reason(what: &str) -> &'static str {
    if what.contains("not supported by vireo") || what == "unknown field" {
        "FieldValueNotSupported"
    } else if what.starts_with("missing") {
        "FieldValueRequired"
    } else if what.contains("already") {
        "FieldValueDuplicate"
    } else {
        "FieldValueInvalid"
    }
}

/// What rules find: everything wrong, and what its writer should know although it is let in.
#[derive(Debug, Default)]
pub struct Found {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What isn't wrong.
    pub warnings: Vec<String>,
}

impl Found {
    /// Something is wrong with the field at `path`.
    pub fn refuse(&mut self, path: impl fmt::Display, what: impl Into<String>) {
        self.problems.push(Problem { path: path.to_string(), what: what.into() });
    }

    /// Something is wrong with the field at `path`, if `what` says so.
    pub fn refuse_if(&mut self, path: impl fmt::Display, what: Option<impl Into<String>>) {
        if let Some(what) = what {
            self.refuse(path, what);
        }
    }

    /// Something that the writer should know.
    pub fn warn(&mut self, what: impl Into<String>) {
        self.warnings.push(what.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_a_cause_with_its_field() {
        let mut found = Found::default();
        found.refuse("spec.a", "not supported by vireo");
        found.refuse("spec.b[1]", "missing");
        found.refuse_if("spec.c", None::<String>);
        found.warn("never said");
        let Verdict::Refuse(status) = Verdict::of(found) else { panic!("let in") };
        assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
        assert_eq!(status.message, "spec.a: not supported by vireo; spec.b[1]: missing");
        let causes = status.details.unwrap().causes;
        let causes: Vec<_> = causes.iter().map(|cause| (cause.field.as_str(), cause.reason.as_str())).collect();
        assert_eq!(causes, [("spec.a", "FieldValueNotSupported"), ("spec.b[1]", "FieldValueRequired")]);
    }

    #[test]
    fn answers_are_bounded() {
        let mut found = Found::default();
        for index in 0..1000 {
            found.refuse(format!("spec.a[{index}]"), "unknown field");
        }
        let Verdict::Refuse(status) = Verdict::of(found) else { panic!("let in") };
        assert!(status.message.ends_with("; and 936 more"));
        assert_eq!(status.details.unwrap().causes.len(), 64);
        let found = Found { warnings: vec!["w".to_owned(); 1000], ..Found::default() };
        assert_eq!(Verdict::of(found), Verdict::Admit(vec!["w".to_owned(); 16]));
    }
}
