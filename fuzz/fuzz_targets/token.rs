//! Tokens that a client of an exec presents: read or refused, and what is read has one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vireo_runtimeclass::machine_service::token::{Signer, Token};

fuzz_target!(|input: &[u8]| {
    if let Ok(token) = Token::read(input) {
        assert_eq!(token.bytes().as_deref(), Ok(input));
        assert!(token.verified(&Signer::new(&[1; 32]).key()).is_err());
    }
});
