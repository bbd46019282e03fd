//! The real-time clock (MC146818A) at ports 0x70 and 0x71: the host's UTC time until a guest sets another, with alarm,
//! update-ended and periodic interrupts on ISA line 8.
//!
//! What the registers do is in [`registers`]; the other indexes are memory ([`super::cmos`]). While a guest wants no interrupt, nothing here runs by itself.

mod clock;
mod registers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vmm_sys_util::eventfd::EventFd;

use super::cmos;
use crate::bus::BusDevice;
use crate::event_loop::Handle;
use registers::Registers;

/// Periodic interrupts come at most this often: a guest may ask for 8192 a second, which no event loop keeps up with.
const SHORTEST_PERIOD: Duration = Duration::from_millis(1);

/// Index port at offset 0, data port at offset 1.
#[derive(Debug)]
pub struct Rtc {
    me: Weak<Self>,
    state: Mutex<State>,
    line: EventFd,
    events: Handle,
}

#[derive(Debug)]
struct State {
    index: u8,
    registers: Registers,
    memory: [u8; cmos::SIZE],
    /// A timer runs to the end of the second, or of the period: one of each at most, whatever the guest does.
    second: bool,
    period: bool,
}

/// What a timer waits for.
#[derive(Debug, Clone, Copy)]
enum Timer {
    Second,
    Period,
}

impl Rtc {
    /// Bytes of its port range.
    pub const PORTS: u64 = 2;

    /// A clock with `memory` beside it, whose interrupts are written to `line`; it waits for them on `events`.
    pub fn new(memory: [u8; cmos::SIZE], line: EventFd, events: Handle) -> Arc<Self> {
        let state = State { index: 0, registers: Registers::new(now()), memory, second: false, period: false };
        Arc::new_cyclic(|me| Self { me: Weak::clone(me), state: Mutex::new(state), line, events })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises the line if it's due, and starts the timers that the guest's wishes need and that don't run yet.
    fn update(&self, state: &mut State, now: Duration) {
        if state.registers.tick(now) {
            // Fails only when the counter is full, and then the line is raised anyway.
            let _ = self.line.write(1);
        }
        let State { registers, second, period, .. } = state;
        if let Some(delay) = registers.until_second(now).filter(|_| !*second) {
            *second = true;
            self.wait(delay, Timer::Second);
        }
        if let Some(delay) = registers.until_period(now).filter(|_| !*period) {
            *period = true;
            self.wait(delay.max(SHORTEST_PERIOD), Timer::Period);
        }
    }

    fn wait(&self, delay: Duration, timer: Timer) {
        let me = Weak::clone(&self.me);
        self.events.run(move |events| {
            events.after(delay, move |_| {
                if let Some(rtc) = me.upgrade() {
                    rtc.expired(timer);
                }
            });
        });
    }

    fn expired(&self, timer: Timer) {
        let now = now();
        let mut state = self.lock();
        match timer {
            Timer::Second => state.second = false,
            Timer::Period => state.period = false,
        }
        self.update(&mut state, now);
    }
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset == 1 {
            let mut state = self.lock();
            let index = state.index;
            data[0] =
                if is_memory(index) { state.memory[usize::from(index)] } else { state.registers.read(index, now()) };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        if offset == 0 {
            // Bit 7 masks the NMI on a PC.
            state.index = data[0] & 0x7F;
        } else if is_memory(state.index) {
            let index = usize::from(state.index);
            state.memory[index] = data[0];
        } else {
            let (index, now) = (state.index, now());
            state.registers.write(index, data[0], now);
            self.update(&mut state, now);
        }
    }
}

/// Whether an index is no register of the clock's.
fn is_memory(index: u8) -> bool {
    index > registers::index::D && index != registers::index::CENTURY
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
