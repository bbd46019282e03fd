//! Cuts what an agent sends into replies, and reads them: pure, and made for an agent that is hostile.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// The longest reply but for a command's output, bytes. The longest that is asked for, the list of commands, takes about 10 KiB.
pub const MAX_REPLY: usize = 64 << 10;
/// Stands before the reply to `guest-sync-delimited`, and in no JSON text.
const SENTINEL: u8 = 0xFF;

/// Why a reply is of no use. After any of these but [`ReplyError::Refused`] the conversation has to begin anew.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// No end of line comes.
    #[error("a reply of more than {0} bytes")]
    TooLong(usize),
    /// No JSON, or another reply than the question has.
    #[error("a reply that makes no sense")]
    Malformed(#[source] serde_json::Error),
    /// The agent can't, or won't.
    #[error("refused: {0}")]
    Refused(String),
}

/// The bytes of an agent that make no whole reply yet.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    /// Up to here there is no end of line.
    searched: usize,
    /// What came before the sentinel belongs to somebody else's conversation.
    skipping: bool,
}

impl Replies {
    /// Forgets everything up to the next sentinel.
    pub fn skip_to_sentinel(&mut self) {
        let bytes = std::mem::replace(self, Self { skipping: true, ..Self::default() }).bytes;
        self.push(&bytes);
    }

    /// Takes what the agent has sent; with a [`take`](Self::take) after each piece it stays within a limit and a piece.
    pub fn push(&mut self, bytes: &[u8]) {
        let sentinel = if self.skipping { bytes.iter().position(|byte| *byte == SENTINEL) } else { None };
        match sentinel {
            Some(at) => {
                self.skipping = false;
                self.bytes.extend(&bytes[at + 1..]);
            }
            None if self.skipping => {}
            None => self.bytes.extend(bytes),
        }
    }

    /// The next whole reply, without its end of line; it may have `limit` bytes.
    pub fn take(&mut self, limit: usize) -> Result<Option<Vec<u8>>, ReplyError> {
        let end = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
        let end = end.map(|at| self.searched + at);
        if end.unwrap_or(self.bytes.len()) > limit {
            return Err(ReplyError::TooLong(limit));
        }
        let Some(end) = end else {
            self.searched = self.bytes.len();
            return Ok(None);
        };
        let rest = self.bytes.split_off(end + 1);
        let mut reply = std::mem::replace(&mut self.bytes, rest);
        reply.pop();
        self.searched = 0;
        Ok(Some(reply))
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "return", borrow)]
    value: Option<&'a RawValue>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    class: String,
    #[serde(default)]
    desc: String,
}

/// Reads a reply.
pub fn read<T: DeserializeOwned>(reply: &[u8]) -> Result<T, ReplyError> {
    let envelope: Envelope<'_> = serde_json::from_slice(reply).map_err(ReplyError::Malformed)?;
    if let Some(Refusal { class, desc }) = envelope.error {
        return Err(ReplyError::Refused(super::plain(&format!("{class}: {desc}"))));
    }
    serde_json::from_str(envelope.value.map_or("null", RawValue::get)).map_err(ReplyError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_lines_however_they_come() {
        let mut replies = Replies::default();
        for piece in [b"{\"a\"".as_slice(), b":1}", b"\n{}\n{"] {
            replies.push(piece);
        }
        assert_eq!(replies.take(MAX_REPLY).unwrap().unwrap(), b"{\"a\":1}");
        assert_eq!(replies.take(MAX_REPLY).unwrap().unwrap(), b"{}");
        assert_eq!(replies.take(MAX_REPLY).unwrap(), None);
    }

    #[test]
    fn what_came_before_the_sentinel_is_forgotten() {
        let mut replies = Replies::default();
        replies.push(b"{\"half");
        replies.skip_to_sentinel();
        replies.push(b"of an old reply\"}\n");
        assert_eq!(replies.take(MAX_REPLY).unwrap(), None);
        replies.push(b"more\xFF{\"return\": 7}\n");
        assert_eq!(read::<u32>(&replies.take(MAX_REPLY).unwrap().unwrap()).unwrap(), 7);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut replies = Replies::default();
        replies.push(&vec![b' '; MAX_REPLY]);
        assert_eq!(replies.take(MAX_REPLY).unwrap(), None);
        replies.push(b" ");
        assert!(matches!(replies.take(MAX_REPLY), Err(ReplyError::TooLong(MAX_REPLY))));
    }

    #[test]
    fn refusals_and_nonsense_are_told_apart() {
        let refused = read::<u32>(br#"{"error": {"class": "CommandNotFound", "desc": "no \u001b[2J such"}}"#);
        assert_eq!(refused.unwrap_err().to_string(), "refused: CommandNotFound: no  [2J such");
        let deep = "[".repeat(10_000);
        for nonsense in ["", "{}", "7", r#"{"return": "x"}"#, "\u{0}", &deep] {
            assert!(matches!(read::<u32>(nonsense.as_bytes()), Err(ReplyError::Malformed(_))), "{nonsense}");
        }
    }
}
