//! What a guest may send to the socket that tells it its addresses: any frame is answered by one that fits, or not at all.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use vireo_vmm::autoconf::{MAX_FRAME, answer};
use vireo_vmm::config::{AutoconfAnswers, Ipv4Answers, Ipv6Answers};

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 9];

fuzz_target!(|input: &[u8]| {
    // As many options as there may be.
    let answers = AutoconfAnswers {
        server_mac: [2, 0, 0, 0, 0, 0],
        ipv4: Some(Ipv4Answers {
            address: Ipv4Addr::new(10, 0, 2, 2),
            server: Ipv4Addr::new(10, 0, 2, 1),
            options: vec![(1, vec![255; 4]), (119, vec![1; 400]), (224, vec![2; 588])],
        }),
        ipv6: Some(Ipv6Answers {
            address: Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 2),
            prefix_len: 120,
            router: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            mtu: 1500,
            options: vec![(23, vec![0; 16]), (24, vec![0; 976])],
        }),
    };
    // Most random frames come from somebody else, or are of another kind.
    let frame = match input.split_first() {
        Some((0, rest)) => rest.to_vec(),
        Some((kind, rest)) => {
            let kind = if kind & 1 == 0 { [0x08, 0x00] } else { [0x86, 0xdd] };
            [&[0xff; 6][..], &GUEST, &kind, rest].concat()
        }
        None => return,
    };
    if let Some(reply) = answer(&answers, GUEST, &frame[..frame.len().min(MAX_FRAME)]) {
        assert!(reply.len() <= MAX_FRAME);
    }
});
