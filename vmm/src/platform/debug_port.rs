//! The debug port of QEMU's `isa-debugcon`, which SeaBIOS and debug builds of OVMF write their messages to, a byte at a time.
//! Whole lines go to the VMM's log; a guest gets to say so much and no more.

use std::sync::{Mutex, PoisonError};

use crate::bus::BusDevice;

/// What a read returns, by which firmware knows that somebody listens.
const PRESENT: u8 = 0xE9;
/// Bytes of a line; longer ones are cut into several.
const MAX_LINE: usize = 256;
/// Bytes that one machine may log: a boot's messages are some 10 KiB.
const MAX_LOG: usize = 256 << 10;

/// The port.
pub struct DebugPort {
    state: Mutex<State>,
    /// Takes a line.
    log: Box<dyn Fn(&str) + Send + Sync>,
}

#[derive(Debug, Default)]
struct State {
    line: Vec<u8>,
    logged: usize,
}

impl std::fmt::Debug for DebugPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DebugPort").field("state", &self.state).finish_non_exhaustive()
    }
}

impl DebugPort {
    /// A port that writes to `log`.
    pub fn new(log: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), log: Box::new(log) }
    }
}

impl BusDevice for DebugPort {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(PRESENT);
    }

    fn write(&self, _: u64, data: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.logged >= MAX_LOG {
            return;
        }
        state.logged += data.len();
        for byte in data {
            if *byte != b'\n' {
                state.line.push(*byte);
            }
            if *byte == b'\n' || state.line.len() == MAX_LINE {
                let line = std::mem::take(&mut state.line);
                let line: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
                if !line.is_empty() {
                    (self.log)(&line);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn lines_are_logged_up_to_a_bound() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let port = DebugPort::new({
            let lines = Arc::clone(&lines);
            move |line| lines.lock().unwrap().push(line.to_owned())
        });
        let say = |text: &str| text.bytes().for_each(|byte| port.write(0, &[byte]));
        let mut here = [0];
        port.read(0, &mut here);
        assert_eq!(here, [0xE9]);
        say("SeaBIOS\r\n\nno e\x1B[31mnd");
        assert_eq!(*lines.lock().unwrap(), ["SeaBIOS"]);
        say("\n");
        assert_eq!(lines.lock().unwrap()[1], "no e[31mnd");
        say(&"x".repeat(2 * MAX_LOG));
        let logged: usize = lines.lock().unwrap().iter().map(String::len).sum();
        assert!((MAX_LOG - MAX_LINE..=MAX_LOG).contains(&logged), "{logged}");
    }
}
