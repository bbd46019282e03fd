use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::pod::tests::soon;

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

/// An agent that is there, the machine's reboots, and what the agent is asked; only to some of it does it say something.
async fn shared(
    answers: fn(&str) -> Option<&'static str>,
) -> (Agent, watch::Sender<u64>, mpsc::UnboundedReceiver<String>) {
    let (reboots, rebooted) = watch::channel(0);
    let (ours, port) = Agent::pair("test".to_owned(), rebooted).unwrap();
    port.set_nonblocking(true).unwrap();
    let (sender, asked) = mpsc::unbounded_channel();
    tokio::spawn(agent(UnixStream::from_std(port).unwrap(), move |command, arguments: &Value| {
        // What introduces it is of no interest.
        if command.starts_with("guest-sync") || ["guest-info", "guest-get-host-name"].contains(&command) {
            return (command == "guest-info").then(|| "{\"error\": {\"desc\": \"no\"}}\n".into());
        }
        let arguments = if arguments.is_null() { String::new() } else { arguments.to_string() };
        let _ = sender.send(format!("{command}{arguments}"));
        answers(command).map(|answer| format!("{answer}\n"))
    }));
    soon(ours.presence().wait_for(|there| *there)).await.unwrap();
    (ours, reboots, asked)
}

const DONE: &str = r#"{"return": {}}"#;

#[tokio::test]
async fn a_guest_reboots_and_its_agent_comes_back() {
    let (agent, reboots, mut asked) = shared(|command| (command == "guest-ping").then_some(DONE)).await;
    let asking = agent.clone();
    let reboot = tokio::spawn(async move { asking.reboot().await });
    assert_eq!(soon(asked.recv()).await.unwrap(), "guest-ping");
    assert_eq!(soon(asked.recv()).await.unwrap(), r#"guest-shutdown{"mode":"reboot"}"#);
    let mut there = agent.presence();
    there.mark_unchanged();
    reboots.send_modify(|count| *count += 1);
    soon(reboot).await.unwrap().unwrap();
    // It was lost, and has been found again.
    soon(there.changed()).await.unwrap();
    soon(there.wait_for(|there| *there)).await.unwrap();
    agent.ping().await.unwrap();
    // With its machine it is gone.
    drop(reboots);
    soon(there.wait_for(|there| !*there)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn silence_is_consent_to_a_reboot_and_a_refusal_is_none() {
    let (agent, _reboots, _asked) = shared(|command| (command == "guest-ping").then_some(DONE)).await;
    agent.reboot().await.unwrap();
    let (agent, _reboots, _asked) = shared(|command| match command {
        "guest-ping" => Some(DONE),
        _ => Some(r#"{"error": {"class": "GenericError", "desc": "no shutdown"}}"#),
    })
    .await;
    let error = agent.reboot().await.unwrap_err();
    assert!(matches!(error, AgentError::Reply { source: ReplyError::Refused(_), .. }), "{error:?}");
    // Nobody was asked.
    let (agent, _reboots, _asked) = shared(|_| None).await;
    let error = agent.reboot().await.unwrap_err();
    assert!(matches!(error, AgentError::NoAnswer { command: "guest-ping", .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_frozen_for_a_time_is_thawed_when_that_is_over() {
    const MINUTE: Duration = Duration::from_mins(1);
    let answers = |command: &str| match command {
        "guest-fsfreeze-freeze" | "guest-fsfreeze-thaw" => Some(r#"{"return": 2}"#),
        _ => None,
    };
    let (agent, reboots, mut asked) = shared(answers).await;
    let begin = tokio::time::Instant::now();
    assert_eq!(agent.freeze(Some(MINUTE)).await.unwrap(), 2);
    assert!(agent.holds_file_systems());
    assert_eq!(asked.recv().await.unwrap(), "guest-fsfreeze-freeze");
    assert_eq!(asked.recv().await.unwrap(), "guest-fsfreeze-thaw");
    assert!(begin.elapsed() >= MINUTE && begin.elapsed() < 2 * MINUTE);

    // A thaw, a new freeze, and a reboot are the end of an older one's time.
    agent.freeze(Some(MINUTE)).await.unwrap();
    agent.thaw().await.unwrap();
    assert!(!agent.holds_file_systems());
    agent.freeze(Some(MINUTE)).await.unwrap();
    agent.freeze(None).await.unwrap();
    let expected = ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-freeze", "guest-fsfreeze-freeze"];
    for command in expected {
        assert_eq!(asked.recv().await.unwrap(), command);
    }
    tokio::time::timeout(2 * MINUTE, asked.recv()).await.unwrap_err();
    assert!(agent.holds_file_systems());
    agent.freeze(Some(MINUTE)).await.unwrap();
    reboots.send_modify(|count| *count += 1);
    assert_eq!(asked.recv().await.unwrap(), "guest-fsfreeze-freeze");
    tokio::time::timeout(2 * MINUTE, asked.recv()).await.unwrap_err();
    assert!(!agent.holds_file_systems());
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_answer_a_thaw_is_asked_again() {
    use std::sync::atomic::{AtomicBool, Ordering};

    static DEAF: AtomicBool = AtomicBool::new(true);
    let (agent, _reboots, mut asked) = shared(|command| match command {
        "guest-fsfreeze-thaw" if DEAF.swap(false, Ordering::Relaxed) => None,
        "guest-fsfreeze-freeze" | "guest-fsfreeze-thaw" => Some(r#"{"return": 2}"#),
        _ => None,
    })
    .await;
    agent.freeze(Some(Duration::from_secs(1))).await.unwrap();
    for command in ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-thaw"] {
        assert_eq!(asked.recv().await.unwrap(), command);
    }
}
