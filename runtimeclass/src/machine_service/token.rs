//! Tokens: the controller's word that one call may be made on one pod's machine, once, and soon.
//!
//! ```text
//! version: 1 | expiry: 8 | nonce: 16 | method | namespace | name | uid | signature: 64       bytes; a text is a length byte and so many bytes
//! ```
//!
//! Numbers are big-endian. The signature is Ed25519 (RFC 8032) over `CONTEXT` and all that stands before it. Claims have one
//! encoding: nothing is optional, nothing follows. Whoever sees a token on its way can't make another of it, and its nonce lets the
//! shim take it once; shims refuse one that would live longer than they care to remember nonces.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

/// The longest token, bytes.
pub const MAX_LENGTH: usize = 512;
/// How far in the future a token may expire, seconds: what controller and node may differ in time counts too.
pub const MAX_LIFE: u64 = 300;
/// Bytes of a nonce.
pub const NONCE: usize = 16;

const VERSION: u8 = 1;
/// What is signed is nothing else that the key may be used for.
const CONTEXT: &[u8] = b"vireo.v1.Machine token\0";
/// The longest texts, bytes: a method's, and Kubernetes' namespaces, names and uids.
const MAX_METHOD: usize = 32;
const MAX_NAMESPACE: usize = 63;
const MAX_NAME: usize = 253;
const MAX_UID: usize = 64;
const _: () = assert!(1 + 8 + NONCE + 4 + MAX_METHOD + MAX_NAMESPACE + MAX_NAME + MAX_UID + 64 <= MAX_LENGTH);

/// A token that doesn't permit a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not one, or claims that have no encoding.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// Another's, or changed on its way.
    #[error("the token is not signed by the controller whose key the pod was created with")]
    Signature,
    /// For another pod.
    #[error("the token is for another pod: {0}")]
    OtherPod(Pod),
    /// For another call.
    #[error("the token is for another call: {0}")]
    OtherMethod(String),
    /// Too late.
    #[error("the token expired {0} s ago")]
    Expired(u64),
    /// Too early.
    #[error("the token expires in {0} s: at most {MAX_LIFE} s from now are taken")]
    TooLong(u64),
}

/// A pod as Kubernetes names it. Its uid alone is unique, the names say it to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.name, self.uid)
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Whose machine.
    pub pod: Pod,
    /// The call, as in `Pause`.
    pub method: String,
    /// Until when, seconds since 1970.
    pub expires: u64,
    /// Unpredictable, never used again.
    pub nonce: [u8; NONCE],
}

impl Claims {
    /// Whether they permit `method` on the machine of `pod` at `now`, seconds since 1970.
    pub fn permit(&self, method: &str, pod: &Pod, now: u64) -> Result<(), TokenError> {
        if self.pod != *pod {
            return Err(TokenError::OtherPod(self.pod.clone()));
        }
        if self.method != method {
            return Err(TokenError::OtherMethod(self.method.clone()));
        }
        match self.expires.checked_sub(now) {
            None | Some(0) => Err(TokenError::Expired(now - self.expires)),
            Some(left) if left > MAX_LIFE => Err(TokenError::TooLong(left)),
            Some(_) => Ok(()),
        }
    }

    fn encode(&self) -> Result<Vec<u8>, TokenError> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.expires.to_be_bytes());
        bytes.extend_from_slice(&self.nonce);
        let Pod { namespace, name, uid } = &self.pod;
        let texts = [(&self.method, MAX_METHOD), (namespace, MAX_NAMESPACE), (name, MAX_NAME), (uid, MAX_UID)];
        for (text, most) in texts {
            let length = length(text.as_bytes(), most)?;
            bytes.push(length);
            bytes.extend_from_slice(text.as_bytes());
        }
        Ok(bytes)
    }
}

/// The length of a text, if it may be in a token.
fn length(text: &[u8], most: usize) -> Result<u8, TokenError> {
    if text.is_empty() || text.len() > most || !text.iter().all(u8::is_ascii_graphic) {
        return Err(TokenError::Malformed("a text is empty, too long, or not printable ASCII"));
    }
    u8::try_from(text.len()).map_err(|_| TokenError::Malformed("a text is too long"))
}

/// A token that has been read; what it claims is nobody's word until [`Token::verified`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    claims: Claims,
    signature: [u8; Signature::BYTE_SIZE],
}

impl Token {
    /// Reads a token.
    pub fn read(bytes: &[u8]) -> Result<Token, TokenError> {
        if bytes.len() > MAX_LENGTH {
            return Err(TokenError::Malformed("it is too long"));
        }
        let mut reader = Reader(bytes);
        if reader.array()? != [VERSION] {
            return Err(TokenError::Malformed("its version is unknown"));
        }
        let expires = u64::from_be_bytes(reader.array()?);
        let nonce = reader.array()?;
        let method = reader.text(MAX_METHOD)?;
        let namespace = reader.text(MAX_NAMESPACE)?;
        let pod = Pod { namespace, name: reader.text(MAX_NAME)?, uid: reader.text(MAX_UID)? };
        let signature = reader.array()?;
        if !reader.0.is_empty() {
            return Err(TokenError::Malformed("something follows it"));
        }
        Ok(Token { claims: Claims { pod, method, expires, nonce }, signature })
    }

    /// What it claims, if `key` bears it out.
    pub fn verified(self, key: &Key) -> Result<Claims, TokenError> {
        let signed = [CONTEXT, &self.claims.encode()?].concat();
        let signature = Signature::from_bytes(&self.signature);
        key.0.verify_strict(&signed, &signature).map_err(|_| TokenError::Signature)?;
        Ok(self.claims)
    }

    /// The bytes that it is read from.
    pub fn bytes(&self) -> Result<Vec<u8>, TokenError> {
        Ok([&self.claims.encode()?[..], &self.signature].concat())
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], TokenError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(TokenError::Malformed("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        self.take(N)?.try_into().map_err(|_| TokenError::Malformed("it is cut off"))
    }

    fn text(&mut self, most: usize) -> Result<String, TokenError> {
        let [count] = self.array()?;
        let text = self.take(usize::from(count))?;
        length(text, most)?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

/// A public key that can't be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 public key: 32 bytes as standard base64 are needed")]
pub struct KeyError;

/// The controller's public key, as the annotation [`crate::pod::ANNOTATION_CONTROLLER_KEY`] has it: standard base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(VerifyingKey);

impl Key {
    /// Reads a key. Weak ones, with which signatures mean nothing, are refused.
    pub fn parse(text: &str) -> Result<Key, KeyError> {
        let bytes = BASE64_STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(KeyError)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError)?;
        if key.is_weak() { Err(KeyError) } else { Ok(Key(key)) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0.as_bytes()))
    }
}

/// The controller's private key. It is wiped when dropped, and shows only its public half.
#[derive(Debug)]
pub struct Signer(SigningKey);

impl Signer {
    /// From its seed: 32 unpredictable bytes.
    pub fn new(seed: &[u8; 32]) -> Signer {
        Signer(SigningKey::from_bytes(seed))
    }

    /// Its public half.
    pub fn key(&self) -> Key {
        Key(self.0.verifying_key())
    }

    /// The token that says `claims`.
    pub fn sign(&self, claims: &Claims) -> Result<Vec<u8>, TokenError> {
        let mut bytes = claims.encode()?;
        let signature = self.0.sign(&[CONTEXT, &bytes].concat());
        bytes.extend_from_slice(&signature.to_bytes());
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
