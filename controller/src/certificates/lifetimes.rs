//! How long certificates last: `spec.certificateRotateStrategy.selfSigned` of the KubeVirt object.

use std::time::Duration;

use jiff::SignedDuration;
use vireo_runtimeclass::cluster::{CertConfig, CertificateRotateStrategy};

/// The least that a certificate may last: writing and trusting a new one takes seconds.
const LEAST: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_hours(24);

/// How long one kind of certificate lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// In all.
    pub duration: Duration,
    /// So long before its end it is replaced: less than `duration`.
    pub renew_before: Duration,
}

/// How long certificates last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// The authority's (default seven days).
    pub authority: Lifetime,
    /// The server's (default a day), no longer than the authority's.
    pub server: Lifetime,
}

/// Lifetimes that make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LifetimeError {
    /// Not a duration.
    #[error("spec.certificateRotateStrategy.selfSigned.{0}: {1:?} is not a duration such as 24h or 1h30m")]
    Malformed(String, String),
    /// Too short.
    #[error("spec.certificateRotateStrategy.selfSigned.{0}.duration: must be at least 10s")]
    TooShort(&'static str),
    /// Replaced before it is made.
    #[error("spec.certificateRotateStrategy.selfSigned.{0}.renewBefore: must be less than its duration")]
    RenewedAtOnce(&'static str),
    /// Longer than what it is signed by.
    #[error("spec.certificateRotateStrategy.selfSigned.server.duration: must be no more than that of ca")]
    OutlivesAuthority,
}

impl Lifetimes {
    /// What `strategy` says. A certificate is replaced when a fifth of its time is left, where nothing else is said.
    pub fn of(strategy: Option<&CertificateRotateStrategy>) -> Result<Self, LifetimeError> {
        let own = strategy.and_then(|strategy| strategy.self_signed.as_ref());
        let authority = lifetime("ca", own.and_then(|own| own.ca.as_ref()), 7 * DAY)?;
        let server = lifetime("server", own.and_then(|own| own.server.as_ref()), DAY.min(authority.duration))?;
        if server.duration > authority.duration {
            return Err(LifetimeError::OutlivesAuthority);
        }
        Ok(Self { authority, server })
    }
}

fn lifetime(name: &'static str, config: Option<&CertConfig>, default: Duration) -> Result<Lifetime, LifetimeError> {
    let read = |field: &str, text: Option<&String>| {
        let Some(text) = text else { return Ok(None) };
        let duration = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
        duration.map(Some).ok_or_else(|| LifetimeError::Malformed(format!("{name}.{field}"), text.clone()))
    };
    let duration = read("duration", config.and_then(|config| config.duration.as_ref()))?.unwrap_or(default);
    let renew_before = read("renewBefore", config.and_then(|config| config.renew_before.as_ref()))?;
    let renew_before = renew_before.unwrap_or(duration / 5);
    if duration < LEAST {
        return Err(LifetimeError::TooShort(name));
    }
    if renew_before >= duration {
        return Err(LifetimeError::RenewedAtOnce(name));
    }
    Ok(Lifetime { duration, renew_before })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(strategy: serde_json::Value) -> Result<Lifetimes, LifetimeError> {
        Lifetimes::of(Some(&serde_json::from_value(strategy).unwrap()))
    }

    #[test]
    fn kubevirt_s_defaults() {
        let Lifetimes { authority, server } = Lifetimes::of(None).unwrap();
        assert_eq!((authority.duration, authority.renew_before), (7 * DAY, 7 * DAY / 5));
        assert_eq!((server.duration, server.renew_before), (DAY, DAY / 5));
    }

    #[test]
    fn durations_as_go_writes_them() {
        let minute = Duration::from_mins(1);
        for (text, duration) in
            [("168h", 7 * DAY), ("1h30m", 90 * minute), ("20m0s", 20 * minute), ("1.5h", 90 * minute)]
        {
            let lifetimes = of(json!({"selfSigned": {"ca": {"duration": text, "renewBefore": "5m"}}})).unwrap();
            assert_eq!(lifetimes.authority, Lifetime { duration, renew_before: 5 * minute }, "{text}");
            assert!(lifetimes.server.duration <= duration);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (strategy, path) in [
            (json!({"ca": {"duration": "a week"}}), "ca.duration"),
            (json!({"server": {"renewBefore": "-1h"}}), "server.renewBefore"),
            (json!({"server": {"duration": "1s"}}), "server.duration"),
            (json!({"server": {"duration": "1h", "renewBefore": "1h"}}), "server.renewBefore"),
            (json!({"ca": {"duration": "1h"}, "server": {"duration": "2h"}}), "server.duration"),
        ] {
            let error = of(json!({"selfSigned": strategy})).unwrap_err().to_string();
            assert!(error.starts_with(&format!("spec.certificateRotateStrategy.selfSigned.{path}: ")), "{error}");
        }
    }
}
