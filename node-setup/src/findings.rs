//! What `vireo check` finds, for a reader and, by `--json`, for the agent.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The subject that tells whether the containerd that runs has read what its files say.
pub const RUNNING_CONTAINERD: &str = "running containerd";
/// What to do where it hasn't.
pub const RESTART_CONTAINERD: &str = "restart containerd";

/// One check and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    /// It is as it should be.
    Good {
        /// What was found.
        found: String,
    },
    /// VMs run without it, but not all of them, or not by containerd.
    Missing {
        /// What was found.
        found: String,
        /// What to do about it.
        remedy: String,
    },
}

impl Finding {
    /// What came of a check of `subject`: what was found, or that and what to do about it.
    pub fn new(subject: &str, result: Result<String, (String, &str)>) -> Self {
        let verdict = match result {
            Ok(found) => Verdict::Good { found },
            Err((found, remedy)) => Verdict::Missing { found, remedy: remedy.to_owned() },
        };
        Self { subject: subject.to_owned(), verdict }
    }

    /// Whether it is as it should be.
    pub fn is_good(&self) -> bool {
        matches!(self.verdict, Verdict::Good { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Good { found } => write!(f, "{}: {found}", self.subject),
            Verdict::Missing { found, remedy } => write!(f, "{}: {found} ({remedy})", self.subject),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let findings = [
            Finding::new("kvm", Ok("/dev/kvm".to_owned())),
            Finding::new("nft", Err(("can't be run".to_owned(), "install the package nftables"))),
        ];
        let text = serde_json::to_string(&findings).unwrap();
        assert_eq!(
            text,
            r#"[{"subject":"kvm","verdict":"good","found":"/dev/kvm"},"#.to_owned()
                + r#"{"subject":"nft","verdict":"missing","found":"can't be run","remedy":"install the package nftables"}]"#
        );
        assert_eq!(serde_json::from_str::<Vec<Finding>>(&text).unwrap(), findings);
        assert_eq!(findings[1].to_string(), "nft: can't be run (install the package nftables)");
        assert_eq!(findings.map(|finding| finding.is_good()), [true, false]);
    }
}
