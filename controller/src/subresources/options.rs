//! Bodies: all are optional, and fields that nobody knows are ignored, both as in KubeVirt. JSON alone is read.

use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Refusal;

/// What many calls take.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DryRun {
    dry_run: Vec<String>,
}

impl DryRun {
    /// Whether nothing is to be written.
    pub(super) fn is_dry(&self) -> Result<bool, Refusal> {
        match self.dry_run.iter().find(|how| *how != "All") {
            Some(how) => Err(Refusal::bad_request(format!("dryRun: {how:?} is not supported: \"All\" is"))),
            None => Ok(!self.dry_run.is_empty()),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Start {
    pub(super) paused: bool,
    #[serde(flatten)]
    pub(super) dry_run: DryRun,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Stop {
    /// Seconds.
    pub(super) grace_period: Option<i64>,
    #[serde(flatten)]
    pub(super) dry_run: DryRun,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Restart {
    /// 0, if anything.
    pub(super) grace_period_seconds: Option<i64>,
    #[serde(flatten)]
    pub(super) dry_run: DryRun,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct CancelEvacuation {
    pub(super) evacuation_node_name: String,
    #[serde(flatten)]
    pub(super) dry_run: DryRun,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Freeze {
    unfreeze_timeout: Option<String>,
}

impl Freeze {
    /// How long file systems may be held; none for as long as nobody unfreezes them.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, Refusal> {
        let refuse = |why: &str| Err(Refusal::bad_request(format!("unfreezeTimeout: {why}")));
        let Some(text) = &self.unfreeze_timeout else { return refuse("must be set, to 5m for one") };
        match text.parse::<SignedDuration>().map(Duration::try_from) {
            Ok(Ok(Duration::ZERO)) => Ok(None),
            Ok(Ok(duration)) => Ok(Some(duration)),
            _ if text == "0" => Ok(None),
            _ => refuse(&format!("{text:?} is not a duration such as 5m")),
        }
    }
}

/// Reads a body.
pub(super) fn read<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    let read: Result<Option<T>, _> = serde_json::from_slice(body);
    read.map(Option::unwrap_or_default)
        .map_err(|error| Refusal::bad_request(format!("Can not unmarshal Request body to struct, error: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_optional_and_forgiving() {
        for body in ["", " \n", "null", "{}", r#"{"kind": "StopOptions", "apiVersion": "v1", "new": []}"#] {
            let stop: Stop = read(body.as_bytes()).unwrap();
            assert_eq!((stop.grace_period, stop.dry_run.is_dry()), (None, Ok(false)), "{body}");
        }
        let stop: Stop = read(br#"{"gracePeriod": 0, "dryRun": ["All"]}"#).unwrap();
        assert_eq!((stop.grace_period, stop.dry_run.is_dry()), (Some(0), Ok(true)));
        assert!(read::<Start>(br#"{"paused": true}"#).unwrap().paused);
        let wrong = read::<Stop>(br#"{"gracePeriod": "soon"}"#).unwrap_err();
        assert_eq!(wrong.code(), 400);
        let wrong = read::<Start>(br#"{"dryRun": ["Some"]}"#).unwrap().dry_run.is_dry().unwrap_err();
        assert_eq!(wrong.code(), 400);
    }

    #[test]
    fn a_freeze_says_how_long() {
        let timeout = |body: &str| read::<Freeze>(body.as_bytes()).unwrap().timeout();
        assert_eq!(timeout(r#"{"unfreezeTimeout": "1m30s"}"#), Ok(Some(Duration::from_secs(90))));
        for none in ["0s", "0"] {
            assert_eq!(timeout(&format!(r#"{{"unfreezeTimeout": "{none}"}}"#)), Ok(None));
        }
        for wrong in ["{}", r#"{"unfreezeTimeout": "-5m"}"#, r#"{"unfreezeTimeout": "soon"}"#] {
            assert_eq!(timeout(wrong).unwrap_err().code(), 400, "{wrong}");
        }
    }
}
