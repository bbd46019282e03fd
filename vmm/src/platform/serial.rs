//! The first serial port: a 16550A (National Semiconductor PC16550D), at once as fast as its driver.
//!
//! What is written is on the line at once, so the transmitter is always empty; what is received waits in a queue of 64
//! bytes (the real one has 16; a driver can't tell). The interrupt line is edge triggered: it gets a pulse whenever a cause
//! appears.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::console::hub::{Hub, Input};

const RECEIVE_QUEUE: usize = 64;

/// Register offsets; the first two are the divisor while DLAB is set.
mod register {
    pub const DATA: u64 = 0;
    pub const INTERRUPT_ENABLE: u64 = 1;
    pub const INTERRUPT_ID_FIFO_CONTROL: u64 = 2;
    pub const LINE_CONTROL: u64 = 3;
    pub const MODEM_CONTROL: u64 = 4;
    pub const LINE_STATUS: u64 = 5;
    pub const MODEM_STATUS: u64 = 6;
    pub const SCRATCH: u64 = 7;
}

const IER_RECEIVED: u8 = 1;
const IER_TRANSMITTER_EMPTY: u8 = 2;
const IER_MASK: u8 = 0x0F;
const IIR_NONE: u8 = 1;
const IIR_TRANSMITTER_EMPTY: u8 = 2;
const IIR_RECEIVED: u8 = 4;
/// Both FIFO bits: a 16550A.
const IIR_FIFOS: u8 = 0xC0;
const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RECEIVE: u8 = 2;
const LCR_DLAB: u8 = 0x80;
const MCR_MASK: u8 = 0x1F;
const MCR_LOOP: u8 = 0x10;
const LSR_DATA_READY: u8 = 1;
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;
/// Carrier, data set ready, clear to send: somebody is at the other end.
const MSR_CONNECTED: u8 = 0xB0;

/// The port. Its console is a [`Hub`], or nothing where the machine's console is another device.
#[derive(Debug)]
pub struct Serial {
    state: Mutex<State>,
    interrupt: EventFd,
    hub: Option<Arc<Hub>>,
}

#[derive(Debug, Default)]
struct State {
    received: VecDeque<u8>,
    interrupt_enable: u8,
    /// The transmitter's interrupt is due: set by a write, cleared by reading it from the IIR.
    transmitter_due: bool,
    fifos: bool,
    line_control: u8,
    modem_control: u8,
    divisor: [u8; 2],
    scratch: u8,
}

impl State {
    fn interrupt_id(&self) -> u8 {
        if self.interrupt_enable & IER_RECEIVED != 0 && !self.received.is_empty() {
            IIR_RECEIVED
        } else if self.interrupt_enable & IER_TRANSMITTER_EMPTY != 0 && self.transmitter_due {
            IIR_TRANSMITTER_EMPTY
        } else {
            IIR_NONE
        }
    }

    fn modem_status(&self) -> u8 {
        if self.modem_control & MCR_LOOP == 0 {
            return MSR_CONNECTED;
        }
        // Looped back: DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD.
        let m = self.modem_control;
        (m & 1) << 5 | (m & 2) << 3 | (m & 4) << 4 | (m & 8) << 4
    }
}

impl Serial {
    /// Bytes of its port range.
    pub const PORTS: u64 = 8;

    /// A port that raises its interrupt through `interrupt`.
    pub fn new(interrupt: EventFd, hub: Option<Arc<Hub>>) -> Self {
        Self { state: Mutex::default(), interrupt, hub }
    }

    /// One pulse if there is a cause; the driver looks for causes until there is none.
    fn raise(&self, state: &State) {
        if state.interrupt_id() != IIR_NONE {
            // Fails only when the counter is full, and then the pulse is on its way.
            let _ = self.interrupt.write(1);
        }
    }

    fn read_register(&self, offset: u64) -> u8 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let dlab = state.line_control & LCR_DLAB != 0;
        match offset {
            register::DATA if dlab => state.divisor[0],
            register::DATA => {
                let byte = state.received.pop_front().unwrap_or(0);
                let empty = state.received.is_empty();
                drop(state);
                if let Some(hub) = self.hub.as_ref().filter(|_| empty) {
                    hub.input_ready();
                }
                byte
            }
            register::INTERRUPT_ENABLE if dlab => state.divisor[1],
            register::INTERRUPT_ENABLE => state.interrupt_enable,
            register::INTERRUPT_ID_FIFO_CONTROL => {
                let id = state.interrupt_id();
                if id == IIR_TRANSMITTER_EMPTY {
                    state.transmitter_due = false;
                }
                id | if state.fifos { IIR_FIFOS } else { 0 }
            }
            register::LINE_CONTROL => state.line_control,
            register::MODEM_CONTROL => state.modem_control,
            register::LINE_STATUS => LSR_TRANSMITTER_EMPTY | if state.received.is_empty() { 0 } else { LSR_DATA_READY },
            register::MODEM_STATUS => state.modem_status(),
            register::SCRATCH => state.scratch,
            _ => 0xFF,
        }
    }

    fn write_register(&self, offset: u64, value: u8) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let dlab = state.line_control & LCR_DLAB != 0;
        match offset {
            register::DATA if dlab => state.divisor[0] = value,
            register::DATA => {
                if state.modem_control & MCR_LOOP != 0 {
                    if state.received.len() < RECEIVE_QUEUE {
                        state.received.push_back(value);
                    }
                } else if let Some(hub) = &self.hub {
                    hub.write(&[value]);
                }
                state.transmitter_due = true;
                self.raise(&state);
            }
            register::INTERRUPT_ENABLE if dlab => state.divisor[1] = value,
            register::INTERRUPT_ENABLE => {
                // Enabling the transmitter's interrupt raises it, for the transmitter is empty.
                if value & !state.interrupt_enable & IER_TRANSMITTER_EMPTY != 0 {
                    state.transmitter_due = true;
                }
                state.interrupt_enable = value & IER_MASK;
                self.raise(&state);
            }
            register::INTERRUPT_ID_FIFO_CONTROL => {
                state.fifos = value & FCR_ENABLE != 0;
                if value & FCR_CLEAR_RECEIVE != 0 {
                    state.received.clear();
                }
            }
            register::LINE_CONTROL => state.line_control = value,
            register::MODEM_CONTROL => state.modem_control = value & MCR_MASK,
            register::SCRATCH => state.scratch = value,
            _ => {}
        }
    }
}

impl BusDevice for Serial {
    // Registers are bytes: a wider access is one of each register in turn.
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (byte, register) in data.iter_mut().zip(offset..) {
            *byte = self.read_register(register);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (byte, register) in data.iter().zip(offset..) {
            self.write_register(register, *byte);
        }
    }
}

impl Input for Serial {
    fn offer(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = bytes.len().min(RECEIVE_QUEUE - state.received.len());
        state.received.extend(&bytes[..taken]);
        if taken > 0 {
            self.raise(&state);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    fn serial() -> (Serial, EventFd) {
        let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
        let own = interrupt.try_clone().unwrap();
        (Serial::new(interrupt, None), own)
    }

    fn read(serial: &Serial, offset: u64) -> u8 {
        let mut byte = [0];
        serial.read(offset, &mut byte);
        byte[0]
    }

    #[test]
    fn input_raises_the_interrupt_until_it_is_read() {
        let (serial, interrupt) = serial();
        serial.write(register::INTERRUPT_ENABLE, &[IER_RECEIVED]);
        assert!(interrupt.read().is_err(), "no cause, no pulse");
        assert_eq!(serial.offer(b"ab"), 2);
        interrupt.read().unwrap();
        assert_eq!(read(&serial, 2), IIR_RECEIVED);
        assert_eq!([read(&serial, 0), read(&serial, 0)], *b"ab");
        assert_eq!((read(&serial, 2), read(&serial, 5)), (IIR_NONE, LSR_TRANSMITTER_EMPTY));
    }

    #[test]
    fn every_write_makes_the_transmitter_due_again() {
        let (serial, interrupt) = serial();
        serial.write(register::INTERRUPT_ENABLE, &[IER_TRANSMITTER_EMPTY]);
        for _ in 0..3 {
            interrupt.read().unwrap();
            assert_eq!(read(&serial, 2), IIR_TRANSMITTER_EMPTY);
            assert_eq!(read(&serial, 2), IIR_NONE, "reading it clears it");
            serial.write(register::DATA, b"x");
        }
    }

    #[test]
    fn takes_no_more_than_it_has_room_for() {
        let (serial, _) = serial();
        assert_eq!(serial.offer(&[0; 100]), RECEIVE_QUEUE);
        assert_eq!(serial.offer(&[0; 100]), 0);
    }

    #[test]
    fn the_loop_back_that_drivers_probe_works() {
        let (serial, _) = serial();
        serial.write(register::MODEM_CONTROL, &[MCR_LOOP | 0x0A]);
        assert_eq!(read(&serial, register::MODEM_STATUS) & 0xF0, 0x90);
        serial.write(register::DATA, b"z");
        assert_eq!(read(&serial, register::DATA), b'z');
    }
}
