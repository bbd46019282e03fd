//! What a guest's agent may send: replies stay bounded, and any of them is read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vireo_shim::guest_agent::{ExecStatus, Info, MAX_REPLY, OsInfo, Replies, read};

fuzz_target!(|input: &[u8]| {
    let mut replies = Replies::default();
    for piece in input.chunks(97) {
        if piece[0] == b'!' {
            replies.skip_to_sentinel();
        }
        replies.push(piece);
        loop {
            match replies.take(MAX_REPLY) {
                Ok(Some(reply)) => {
                    assert!(reply.len() <= MAX_REPLY && !reply.contains(&b'\n'));
                    let _ = read::<Info>(&reply);
                    let _ = read::<OsInfo>(&reply);
                    if let Ok(status) = read::<ExecStatus>(&reply) {
                        let _ = (status.code(), status.stdout(), status.stderr());
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
