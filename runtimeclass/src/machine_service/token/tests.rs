//! Tokens, whole and spoilt.

use super::*;

const NOW: u64 = 1_800_000_000;

fn pod() -> Pod {
    Pod { namespace: "default".into(), name: "vm-a".into(), uid: "5d307ca9-b3ef-428c-8861-06e72d69f223".into() }
}

fn claims() -> Claims {
    Claims { pod: pod(), method: "Pause".into(), expires: NOW + 60, nonce: [7; NONCE] }
}

fn signer() -> Signer {
    Signer::new(&[1; 32])
}

#[test]
fn the_controllers_word_permits_one_call() {
    let signed = signer().sign(&claims()).unwrap();
    let token = Token::read(&signed).unwrap();
    assert_eq!(token.bytes().unwrap(), signed);
    let told = token.verified(&signer().key()).unwrap();
    assert_eq!(told, claims());
    assert_eq!(told.permit("Pause", &pod(), NOW), Ok(()));
    assert_eq!(told.permit("Reset", &pod(), NOW), Err(TokenError::OtherMethod("Pause".into())));
    let others = [
        Pod { uid: "other".into(), ..pod() },
        Pod { name: "vm-b".into(), ..pod() },
        Pod { namespace: "kube-system".into(), ..pod() },
    ];
    for other in others {
        assert_eq!(told.permit("Pause", &other, NOW), Err(TokenError::OtherPod(pod())));
    }
}

#[test]
fn the_encoding_stays() {
    let signed = signer().sign(&claims()).unwrap();
    let expected = [
        &[1][..],
        &(NOW + 60).to_be_bytes(),
        &[7; NONCE],
        b"\x05Pause",
        b"\x07default",
        b"\x04vm-a",
        b"\x245d307ca9-b3ef-428c-8861-06e72d69f223",
    ]
    .concat();
    assert_eq!(signed.split_at(expected.len()).0, expected);
    assert_eq!(signed.len(), expected.len() + 64);
}

#[test]
fn a_token_lives_shortly() {
    let at = |now| claims().permit("Pause", &pod(), now);
    assert_eq!(at(NOW + 59), Ok(()));
    assert_eq!(at(NOW + 60), Err(TokenError::Expired(0)));
    assert_eq!(at(NOW + 65), Err(TokenError::Expired(5)));
    assert_eq!(at(NOW + 60 - MAX_LIFE), Ok(()));
    assert_eq!(at(NOW - 241), Err(TokenError::TooLong(301)));
    assert_eq!(at(u64::MAX), Err(TokenError::Expired(u64::MAX - NOW - 60)));
}

#[test]
fn every_byte_counts() {
    let signed = signer().sign(&claims()).unwrap();
    let key = signer().key();
    // Every third: an unoptimized verification takes its time.
    for at in (0..signed.len()).step_by(3) {
        let mut spoilt = signed.clone();
        spoilt[at] ^= 1 << (at % 8);
        assert!(Token::read(&spoilt).and_then(|token| token.verified(&key)).is_err(), "byte {at}");
    }
    for length in 0..signed.len() {
        assert!(matches!(Token::read(&signed[..length]), Err(TokenError::Malformed(_))), "{length} bytes");
    }
    let followed = [&signed[..], b"x"].concat();
    assert_eq!(Token::read(&followed), Err(TokenError::Malformed("something follows it")));
    assert_eq!(Token::read(&[1; MAX_LENGTH + 1]), Err(TokenError::Malformed("it is too long")));
    let other = Signer::new(&[2; 32]).key();
    assert_eq!(Token::read(&signed).unwrap().verified(&other), Err(TokenError::Signature));
}

#[test]
fn what_cant_be_claimed() {
    let with = |change: fn(&mut Claims)| {
        let mut changed = claims();
        change(&mut changed);
        signer().sign(&changed)
    };
    for refused in [
        with(|claims| claims.method.clear()),
        with(|claims| claims.method = "P".repeat(MAX_METHOD + 1)),
        with(|claims| claims.pod.name = "v m".into()),
        with(|claims| claims.pod.namespace = "n".repeat(MAX_NAMESPACE + 1)),
        with(|claims| claims.pod.uid = "\u{e9}".into()),
    ] {
        assert!(matches!(refused, Err(TokenError::Malformed(_))), "{refused:?}");
    }
    let longest = with(|claims| {
        claims.method = "P".repeat(MAX_METHOD);
        claims.pod.namespace = "n".repeat(MAX_NAMESPACE);
        claims.pod.name = "v".repeat(MAX_NAME);
        claims.pod.uid = "u".repeat(MAX_UID);
    });
    let longest = longest.unwrap();
    assert!(Token::read(&longest).unwrap().verified(&signer().key()).is_ok());
}

#[test]
fn keys_are_text() {
    let key = signer().key();
    assert_eq!(Key::parse(&key.to_string()), Ok(key));
    let weak = BASE64_STANDARD.encode([[1; 1].as_slice(), &[0; 31]].concat());
    for bad in ["", "AAAA", "no base64", &"A".repeat(43), &weak] {
        assert_eq!(Key::parse(bad), Err(KeyError), "{bad}");
    }
}
