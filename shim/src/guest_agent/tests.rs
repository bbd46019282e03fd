use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::*;

/// An agent that answers a question and its arguments with what `answers` says, or not at all.
pub(crate) async fn agent(stream: UnixStream, answers: impl Fn(&str, &serde_json::Value) -> Option<String>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line).await.unwrap() == 0 {
            return;
        }
        let fresh = line.first() == Some(&0xFF);
        let question: serde_json::Value = serde_json::from_slice(&line[usize::from(fresh)..]).unwrap();
        let command = question["execute"].as_str().unwrap();
        let answer = match answers(command, &question["arguments"]) {
            None if command == "guest-sync-delimited" => {
                assert!(fresh, "a sync ends what came before it");
                let mut answer = vec![0xFF];
                answer.extend(format!("{{\"return\": {}}}\n", question["arguments"]["id"]).into_bytes());
                answer
            }
            None => continue,
            Some(answer) => answer.into_bytes(),
        };
        if write.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn with(answers: impl Fn(&str, &serde_json::Value) -> Option<String> + Send + 'static) -> GuestAgent {
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(agent(theirs, answers));
    GuestAgent::new(ours)
}

#[tokio::test]
async fn an_agent_says_who_it_is_and_what_it_runs_on() {
    let mut agent = with(|command, _| match command {
        "guest-ping" => Some("{\"return\": {}}\n".into()),
        "guest-info" => {
            Some(r#"{"return": {"version": "7.2.11", "supported_commands": [{"name": "x"}]}}"#.to_owned() + "\n")
        }
        "guest-get-host-name" => Some("{\"return\": {\"host-name\": \"web\"}}\n".into()),
        "guest-get-osinfo" => Some(r#"{"return": {"id": "debian", "pretty-name": "Debian 12"}}"#.to_owned() + "\n"),
        _ => None,
    });
    agent.ping().await.unwrap();
    assert_eq!(agent.info().await.unwrap().version, "7.2.11");
    assert_eq!(agent.host_name().await.unwrap().host_name, "web");
    let os = agent.os_info().await.unwrap();
    assert_eq!((os.id.as_str(), os.pretty_name.as_str(), os.version.as_str()), ("debian", "Debian 12", ""));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_is_not_waited_for() {
    let mut agent = with(|_, _| None);
    let error = agent.ping().await.unwrap_err();
    assert!(matches!(error, AgentError::NoAnswer { command: "guest-ping", .. }), "{error}");
    assert!(!agent.in_step);
}

#[tokio::test]
async fn a_late_answer_is_not_taken_for_another() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut agent = GuestAgent::new(ours);
    // Left by a client before: its answers, one of them to a sync with another id.
    theirs.write_all(b"{\"return\": {\"version\": \"old\"}}\n\xFF{\"return\": 999}\n").await.unwrap();
    tokio::spawn(self::agent(theirs, |command, _| {
        (command == "guest-info").then(|| "{\"return\": {\"version\": \"new\"}}\n".into())
    }));
    assert_eq!(agent.info().await.unwrap().version, "new");
}

#[tokio::test]
async fn a_hostile_agent_is_bounded() {
    let mut agent = with(|command, _| (command == "guest-ping").then(|| "x".repeat(MAX_REPLY * 4)));
    let error = agent.ping().await.unwrap_err();
    assert!(matches!(error, AgentError::Reply { source: ReplyError::TooLong(_), .. }), "{error:?}");
    assert!(!agent.in_step, "the next question begins anew");
}

#[tokio::test]
async fn a_machine_that_ends_ends_the_conversation() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let error = GuestAgent::new(ours).ping().await.unwrap_err();
    assert!(matches!(error, AgentError::Closed | AgentError::Io(_)), "{error:?}");
}

#[test]
fn a_guests_words_are_plain() {
    assert_eq!(plain("a\u{1b}[2J\nb"), "a [2J b");
    assert!(plain(&"é".repeat(1000)).len() <= MAX_TEXT);
}
