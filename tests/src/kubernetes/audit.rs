//! What the API server notes of requests: who asked for what, when, and for how long. Its own clock is the only one in it, so that
//! what different clients did can be laid side by side.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

/// Whose requests are noted, which costs the API server something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Audit<'a> {
    /// Users; none: nothing is noted.
    pub users: &'a [&'a str],
    /// Of which requests the object is noted too: user, API group, and resource as in `pods/status`.
    pub bodies: &'a [(&'a str, &'a str, &'a str)],
}

impl Audit<'_> {
    /// The policy that the API server is started with.
    pub(super) fn policy(&self) -> Value {
        let body = |(user, group, resource): &(&str, &str, &str)| json!({"level": "Request", "users": [user], "resources": [{"group": group, "resources": [resource]}]});
        let mut rules: Vec<_> = self.bodies.iter().map(body).collect();
        // Without users it would be a rule for all of them.
        rules.extend((!self.users.is_empty()).then(|| json!({"level": "Metadata", "users": self.users})));
        rules.push(json!({"level": "None"}));
        json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules})
    }
}

/// A request that was answered; a watch, when it began to be.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Noted {
    /// `get`, `create`, `watch`, and the like.
    pub verb: String,
    /// What was sent, where the [`Audit`] says so.
    #[serde(default)]
    pub request_object: Value,
    stage: String,
    user: User,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    response_status: Answer,
    request_received_timestamp: MicroTime,
    stage_timestamp: MicroTime,
}

#[derive(Debug, Clone, Deserialize)]
struct User {
    username: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Object {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Answer {
    code: u16,
}

impl Noted {
    /// Who asked.
    pub fn user(&self) -> &str {
        &self.user.username
    }

    /// As in `pods` and `pods/status`.
    pub fn resource(&self) -> String {
        let Object { resource, subresource, .. } = &self.object_ref;
        if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") }
    }

    /// Empty for objects without one.
    pub fn namespace(&self) -> &str {
        &self.object_ref.namespace
    }

    /// Empty for lists, and where the API server was to make it.
    pub fn name(&self) -> &str {
        &self.object_ref.name
    }

    /// It was done.
    pub fn is_done(&self) -> bool {
        (200..300).contains(&self.response_status.code)
    }

    /// It was to change something.
    pub fn is_write(&self) -> bool {
        ["create", "update", "patch", "delete", "deletecollection"].contains(&self.verb.as_str())
            && self.object_ref.subresource != "exec"
    }

    /// When it was answered.
    pub fn at(&self) -> Timestamp {
        self.stage_timestamp.0
    }

    /// How long the API server had it.
    pub fn took(&self) -> Duration {
        self.at().duration_since(self.request_received_timestamp.0).unsigned_abs()
    }
}

/// The API server's log of them, read as it grows.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    reader: BufReader<File>,
    rest: Vec<u8>,
}

impl AuditLog {
    /// What is in it from now on.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut log = Self { path: path.to_owned(), reader: BufReader::new(file), rest: Vec::new() };
        log.read()?;
        Ok(log)
    }

    /// What was answered since it was last asked, in about that order.
    pub fn read(&mut self) -> Result<Vec<Noted>> {
        let mut noted = Vec::new();
        loop {
            match self.reader.read_until(b'\n', &mut self.rest) {
                Ok(0) => return Ok(noted),
                Ok(_) if self.rest.ends_with(b"\n") => {
                    noted.extend(parse(&self.rest).with_context(|| format!("read {}", self.path.display()))?);
                    self.rest.clear();
                }
                // The rest of the line is being written.
                Ok(_) => return Ok(noted),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| format!("read {}", self.path.display())),
            }
        }
    }
}

/// A watch's end says nothing new.
fn parse(line: &[u8]) -> Result<Option<Noted>> {
    let noted: Noted = serde_json::from_slice(line)?;
    let is_whole = (noted.stage == "ResponseStarted") == (noted.verb == "watch");
    Ok(is_whole.then_some(noted))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn nobody_s_requests_are_noted_without_users() {
        assert_eq!(Audit::default().policy()["rules"], json!([{"level": "None"}]));
        let audit = Audit { users: &["a"], bodies: &[("a", "kubevirt.io", "virtualmachineinstances/status")] };
        let rules = json!([
            {"level": "Request", "users": ["a"],
             "resources": [{"group": "kubevirt.io", "resources": ["virtualmachineinstances/status"]}]},
            {"level": "Metadata", "users": ["a"]},
            {"level": "None"},
        ]);
        assert_eq!(audit.policy()["rules"], rules);
    }

    fn line(stage: &str, verb: &str) -> String {
        json!({
            "kind": "Event", "level": "Metadata", "stage": stage, "verb": verb, "user": {"username": "u", "groups": ["g"]},
            "objectRef": {"resource": "pods", "subresource": "status", "namespace": "n", "name": "p", "apiVersion": "v1"},
            "responseStatus": {"metadata": {}, "code": 200},
            "requestReceivedTimestamp": "2026-01-01T00:00:00.250000Z", "stageTimestamp": "2026-01-01T00:00:01.000000Z",
        })
        .to_string()
    }

    #[test]
    fn a_log_is_read_line_by_line_as_it_grows() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("log");
        let mut file = File::create(&place).unwrap();
        writeln!(file, "{}", line("ResponseComplete", "get")).unwrap();
        let mut log = AuditLog::open(&place).unwrap();
        assert_eq!(log.read().unwrap().len(), 0, "what was there before");
        let patch = line("ResponseComplete", "patch");
        write!(file, "{}", &patch[..40]).unwrap();
        assert_eq!(log.read().unwrap().len(), 0, "half a line");
        writeln!(file, "{}", &patch[40..]).unwrap();
        writeln!(file, "{}\n{}", line("ResponseStarted", "watch"), line("ResponseComplete", "watch")).unwrap();
        let read = log.read().unwrap();
        assert_eq!(read.iter().map(|noted| noted.verb.as_str()).collect::<Vec<_>>(), ["patch", "watch"]);
        let [patched, watched] = &read[..] else { panic!("{read:?}") };
        assert!(patched.is_write() && patched.is_done() && !watched.is_write());
        assert_eq!((patched.user(), patched.resource().as_str()), ("u", "pods/status"));
        assert_eq!((patched.namespace(), patched.name()), ("n", "p"));
        assert_eq!(patched.took(), Duration::from_millis(750));
    }
}
