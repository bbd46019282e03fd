//! One connection as a state machine: what the guest may say in it, what it is to be told, and how much either side may send.
//! Pure: the socket is the muxer's.
//!
//! ```text
//! host asks ──> Asked ── RESPONSE ──> Established ── RST, SHUTDOWN of both sides, error ──> (gone)
//! guest asks ─> Answering ── accept ──^
//! ```
//! Credit (virtio 1.3 §5.10.6.3) counts bytes modulo 2³². Each side may have as many bytes under way as the other has room for; what
//! breaks that is answered by a reset.

use std::num::Wrapping;

use super::packet::{Header, op, side};

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The host asks; the guest hasn't answered.
    Asked,
    /// The guest asks; the host hasn't answered.
    Answering,
    /// Bytes may pass.
    Established,
}

/// What a packet of the guest's means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing to do but to send what is owed.
    Nothing,
    /// The guest has accepted.
    Accepted,
    /// The packet's data goes to the host.
    Data,
    /// The guest sends no more: once the host has everything, it is told so.
    NoMore,
    /// The guest is through: once the host has everything, the connection ends.
    Through,
    /// The connection is over.
    Over {
        /// The guest has to be told.
        reset: bool,
    },
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Connection {
    phase: Phase,
    /// What the guest says of its buffer.
    peer_alloc: u32,
    peer_forwarded: Wrapping<u32>,
    /// Bytes sent to the guest.
    sent: Wrapping<u32>,
    /// Room promised to the guest.
    alloc: u32,
    /// Bytes that came from the guest, that the host has taken, and of which the guest knows that.
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    told: Wrapping<u32>,
    /// Sides that the guest has shut.
    guest_shut: u32,
    /// The host sends no more.
    host_done: bool,
    owed: Owed,
}

/// Packets without data that are to be sent.
#[derive(Debug, Clone, Copy, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit: bool,
    shutdown: u32,
}

impl Connection {
    /// The host asks for a connection; `alloc` bytes are kept for what the guest sends.
    pub fn asked(alloc: u32) -> Self {
        Self::new(Phase::Asked, alloc, Owed { request: true, ..Owed::default() })
    }

    /// The guest asks for one.
    pub fn answering(alloc: u32, request: &Header) -> Self {
        let mut new = Self::new(Phase::Answering, alloc, Owed::default());
        new.hear_credit(request);
        new
    }

    fn new(phase: Phase, alloc: u32, owed: Owed) -> Self {
        let zero = Wrapping(0);
        Self {
            phase,
            peer_alloc: 0,
            peer_forwarded: zero,
            sent: zero,
            alloc,
            received: zero,
            forwarded: zero,
            told: zero,
            guest_shut: 0,
            host_done: false,
            owed,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Bytes kept for what the guest sends.
    pub fn alloc(&self) -> u32 {
        self.alloc
    }

    /// The host answers the guest's question with yes.
    pub fn accept(&mut self) {
        self.phase = Phase::Established;
        self.owed.response = true;
    }

    /// Takes the guest's packet.
    pub fn hear(&mut self, header: &Header) -> Heard {
        self.hear_credit(header);
        match (self.phase, header.op) {
            (_, op::RST) => Heard::Over { reset: false },
            (Phase::Asked, op::RESPONSE) => {
                self.phase = Phase::Established;
                Heard::Accepted
            }
            (Phase::Established, op::RW) => {
                let room = self.alloc - (self.received - self.forwarded).0;
                if self.guest_shut & side::SEND != 0 || header.len > room {
                    return Heard::Over { reset: true };
                }
                self.received += header.len;
                Heard::Data
            }
            (Phase::Established, op::CREDIT_UPDATE) => Heard::Nothing,
            (Phase::Established, op::CREDIT_REQUEST) => {
                self.owed.credit = true;
                Heard::Nothing
            }
            (Phase::Established, op::SHUTDOWN) => {
                self.guest_shut |= header.flags & side::BOTH;
                match self.guest_shut {
                    side::BOTH => Heard::Through,
                    side::SEND => Heard::NoMore,
                    _ => Heard::Nothing,
                }
            }
            _ => Heard::Over { reset: true },
        }
    }

    fn hear_credit(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc;
        self.peer_forwarded = Wrapping(header.fwd_cnt);
    }

    /// Bytes of the host's that may be sent now. A guest that takes back what it promised gets nothing.
    pub fn may_send(&self) -> u32 {
        if self.phase != Phase::Established || self.host_done || self.guest_shut & side::RECEIVE != 0 {
            return 0;
        }
        self.peer_alloc.saturating_sub((self.sent - self.peer_forwarded).0)
    }

    /// Bytes of the host's were sent.
    pub fn sent(&mut self, count: u32) {
        self.sent += count;
    }

    /// The host has taken bytes of the guest's. The guest is told once half of its room is free again.
    pub fn forwarded(&mut self, count: u32) {
        self.forwarded += count;
        if (self.forwarded - self.told).0 >= self.alloc / 2 {
            self.owed.credit = true;
        }
    }

    /// The host sends no more, and perhaps takes no more either.
    pub fn host_done(&mut self, both: bool) {
        self.host_done = true;
        self.owed.shutdown = if both { side::BOTH } else { side::SEND };
    }

    /// Whether the host has said that it is done.
    pub fn is_host_done(&self) -> bool {
        self.host_done
    }

    /// Whether a packet without data is to be sent.
    pub fn owes(&self) -> bool {
        let Owed { request, response, credit, shutdown } = self.owed;
        request || response || credit || shutdown != 0
    }

    /// The next packet without data: operation and flags.
    pub fn take_owed(&mut self) -> Option<(u16, u32)> {
        let owed = &mut self.owed;
        if std::mem::take(&mut owed.request) {
            Some((op::REQUEST, 0))
        } else if std::mem::take(&mut owed.response) {
            Some((op::RESPONSE, 0))
        } else if owed.shutdown != 0 {
            Some((op::SHUTDOWN, std::mem::take(&mut owed.shutdown)))
        } else if std::mem::take(&mut owed.credit) {
            Some((op::CREDIT_UPDATE, 0))
        } else {
            None
        }
    }

    /// Room and bytes taken, as every packet to the guest says: `buf_alloc` and `fwd_cnt`.
    pub fn tell_credit(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        self.owed.credit = false;
        (self.alloc, self.forwarded.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(op: u16) -> Header {
        Header { op, buf_alloc: 1000, ..Header::default() }
    }

    fn established() -> Connection {
        let mut connection = Connection::asked(100);
        assert_eq!(connection.take_owed(), Some((op::REQUEST, 0)));
        assert_eq!(connection.hear(&packet(op::RESPONSE)), Heard::Accepted);
        connection
    }

    #[test]
    fn the_host_sends_what_the_guest_has_room_for() {
        let mut connection = Connection::answering(100, &packet(op::REQUEST));
        assert_eq!(connection.may_send(), 0, "not before it is accepted");
        connection.accept();
        assert_eq!(connection.take_owed(), Some((op::RESPONSE, 0)));
        assert_eq!(connection.may_send(), 1000);
        connection.sent(999);
        assert_eq!(connection.may_send(), 1);
        connection.hear(&Header { fwd_cnt: 999, ..packet(op::CREDIT_UPDATE) });
        assert_eq!(connection.may_send(), 1000);
        connection.hear(&Header { fwd_cnt: 999, buf_alloc: 0, ..packet(op::CREDIT_UPDATE) });
        assert_eq!(connection.may_send(), 0);
        connection.hear(&Header { fwd_cnt: 5000, ..packet(op::CREDIT_UPDATE) });
        assert_eq!(connection.may_send(), 0, "it can't have taken more than was sent");
    }

    #[test]
    fn the_guest_is_held_to_its_credit_and_told_when_there_is_more() {
        let mut connection = established();
        let data = |len| Header { len, ..packet(op::RW) };
        assert_eq!(connection.hear(&data(100)), Heard::Data);
        connection.forwarded(49);
        assert!(!connection.owes());
        connection.forwarded(1);
        assert_eq!(connection.take_owed(), Some((op::CREDIT_UPDATE, 0)));
        assert_eq!(connection.tell_credit(), (100, 50));
        assert_eq!(connection.hear(&data(50)), Heard::Data);
        assert_eq!(connection.hear(&data(1)), Heard::Over { reset: true });
    }

    #[test]
    fn sides_are_shut_one_by_one() {
        let mut connection = established();
        let shut = |flags| Header { flags, ..packet(op::SHUTDOWN) };
        assert_eq!(connection.clone().hear(&shut(side::BOTH)), Heard::Through);
        assert_eq!(connection.hear(&shut(side::SEND)), Heard::NoMore);
        assert_eq!(connection.clone().hear(&packet(op::RW)), Heard::Over { reset: true });
        assert_eq!(connection.may_send(), 1000, "it still receives");
        connection.host_done(false);
        assert_eq!(connection.take_owed(), Some((op::SHUTDOWN, side::SEND)));
        assert_eq!(connection.may_send(), 0);
        assert_eq!(connection.hear(&shut(side::RECEIVE)), Heard::Through);
    }

    #[test]
    fn what_makes_no_sense_is_reset() {
        for op in [0, op::REQUEST, op::RW, op::SHUTDOWN, op::CREDIT_UPDATE, 99] {
            assert_eq!(Connection::asked(1).hear(&packet(op)), Heard::Over { reset: true }, "{op}");
        }
        for op in [0, op::REQUEST, op::RESPONSE, 99] {
            assert_eq!(established().hear(&packet(op)), Heard::Over { reset: true }, "{op}");
        }
        assert_eq!(established().hear(&packet(op::RST)), Heard::Over { reset: false });
    }

    proptest! {
        /// Whatever a guest says and whenever the host reads: no more is kept than promised, no more is sent than taken.
        #[test]
        fn credit_holds(steps in proptest::collection::vec((0..4_u8, any::<u16>(), any::<u16>()), 1..200)) {
            let mut connection = established();
            let (mut kept, mut under_way, mut alloc) = (0_u64, 0_u64, 1000_u64);
            let mut forwarded = Wrapping(0_u32);
            for (step, a, b) in steps {
                match step {
                    0 => {
                        let header = Header {
                            len: u32::from(a) % 120,
                            buf_alloc: u32::try_from(alloc).unwrap(),
                            fwd_cnt: forwarded.0,
                            ..packet(op::RW)
                        };
                        match connection.hear(&header) {
                            Heard::Data => kept += u64::from(header.len),
                            over => {
                                prop_assert_eq!(over, Heard::Over { reset: true });
                                prop_assert!(kept + u64::from(header.len) > 100);
                                return Ok(());
                            }
                        }
                        prop_assert!(kept <= 100);
                    }
                    1 => {
                        let taken = kept.min(u64::from(a) % 100);
                        connection.forwarded(u32::try_from(taken).unwrap());
                        kept -= taken;
                    }
                    2 => {
                        let count = connection.may_send().min(a.into());
                        connection.sent(count);
                        under_way += u64::from(count);
                        prop_assert!(under_way <= alloc.max(under_way - u64::from(count)));
                    }
                    _ => {
                        let taken = under_way.min(u64::from(a));
                        under_way -= taken;
                        forwarded += u32::try_from(taken).unwrap();
                        alloc = u64::from(b);
                        let header = Header {
                            buf_alloc: b.into(),
                            fwd_cnt: forwarded.0,
                            ..packet(op::CREDIT_UPDATE)
                        };
                        connection.hear(&header);
                    }
                }
            }
        }
    }
}
