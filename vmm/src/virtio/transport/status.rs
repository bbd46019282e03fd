//! The device status field (virtio 1.3 §2.1) as a state machine.
//!
//! ```text
//! Reset ─ACKNOWLEDGE→ Acknowledged ─DRIVER→ Driver ─FEATURES_OK→ FeaturesOk ─DRIVER_OK→ Live
//!   ^                                                                                    │ 0
//!   └──────────────────────────── the event thread is done ─────────────────────── Stopping
//! ```
//!
//! A driver may set several bits at once if that skips nothing, may set FAILED at any time, and leaves only by writing 0.
//! Anything else is ignored. While `Stopping` the old bits still read, so the driver waits (virtio 1.3 §4.1.4.3.1).

/// Status bits.
pub mod bit {
    /// The guest has seen the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// It has a driver for it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u8 = 8;
    /// The device can't go on.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}

/// How far a driver has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing was written.
    Reset,
    /// ACKNOWLEDGE.
    Acknowledged,
    /// DRIVER: features may be chosen.
    Driver,
    /// FEATURES_OK: queues may be set up.
    FeaturesOk,
    /// DRIVER_OK: the device runs, or is about to.
    Live,
    /// The driver wrote 0 to a live device, which is being stopped.
    Stopping,
}

/// What a write to the status field asks the transport to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    None,
    /// Back to the start at once; nothing runs.
    Clear,
    /// Start the device.
    Start,
    /// Stop the device, then go back to the start.
    Stop,
}

/// The status field.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    phase: Phase,
    failed: bool,
}

impl Default for Status {
    fn default() -> Self {
        Self { phase: Phase::Reset, failed: false }
    }
}

impl Status {
    /// How far the driver has come.
    pub fn phase(self) -> Phase {
        self.phase
    }

    /// What the driver reads, without NEEDS_RESET.
    pub fn bits(self) -> u8 {
        let bits = match self.phase {
            Phase::Reset => 0,
            Phase::Acknowledged => bit::ACKNOWLEDGE,
            Phase::Driver => bit::ACKNOWLEDGE | bit::DRIVER,
            Phase::FeaturesOk => bit::ACKNOWLEDGE | bit::DRIVER | bit::FEATURES_OK,
            Phase::Live | Phase::Stopping => bit::ACKNOWLEDGE | bit::DRIVER | bit::FEATURES_OK | bit::DRIVER_OK,
        };
        if self.failed { bits | bit::FAILED } else { bits }
    }

    /// Takes a write. `features` says whether the driver's features are acceptable; if not, FEATURES_OK doesn't stick.
    pub fn write(&mut self, value: u8, features: bool) -> Step {
        if self.phase == Phase::Stopping {
            return Step::None;
        }
        if value == 0 {
            if self.phase == Phase::Live {
                self.phase = Phase::Stopping;
                return Step::Stop;
            }
            *self = Self::default();
            return Step::Clear;
        }
        self.failed |= value & bit::FAILED != 0;
        let asked = match value & !(bit::FAILED | bit::NEEDS_RESET) {
            1 => Phase::Acknowledged,
            3 => Phase::Driver,
            11 => Phase::FeaturesOk,
            15 => Phase::Live,
            _ => return Step::None,
        };
        if self.failed || asked <= self.phase {
            return Step::None;
        }
        if asked >= Phase::FeaturesOk && self.phase < Phase::FeaturesOk && !features {
            self.phase = Phase::Driver;
            return Step::None;
        }
        self.phase = asked;
        if asked == Phase::Live { Step::Start } else { Step::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_up_and_back() {
        let mut status = Status::default();
        for value in [1, 3, 11] {
            assert_eq!(status.write(value, true), Step::None);
            assert_eq!(status.bits(), value);
        }
        assert_eq!(status.write(15, true), Step::Start);
        assert_eq!(status.write(15, true), Step::None, "starts once");
        assert_eq!(status.write(0, true), Step::Stop);
        assert_eq!(status.bits(), 15, "still reads as live until it is stopped");
        assert_eq!(status.write(1, true), Step::None);
        assert_eq!(status.phase(), Phase::Stopping);
    }

    #[test]
    fn refuses_gaps_and_steps_back() {
        let mut status = Status::default();
        for value in [2, 4, 8, 5, 7, 9, 10, 12, 16, 64] {
            assert_eq!(status.write(value, true), Step::None, "{value}");
            assert_eq!(status.bits(), 0, "{value}");
        }
        status.write(3, true);
        status.write(1, true);
        assert_eq!(status.bits(), 3);
        assert_eq!(status.write(0, true), Step::Clear);
        assert_eq!(status.bits(), 0);
    }

    #[test]
    fn bad_features_do_not_stick() {
        let mut status = Status::default();
        assert_eq!(status.write(15, false), Step::None);
        assert_eq!(status.bits(), 3);
    }

    #[test]
    fn a_failed_driver_has_to_reset() {
        let mut status = Status::default();
        status.write(3, true);
        status.write(3 | bit::FAILED, true);
        assert_eq!(status.write(15, true), Step::None);
        assert_eq!(status.bits(), 3 | bit::FAILED);
        assert_eq!(status.write(0, true), Step::Clear);
        assert_eq!(status.bits(), 0);
    }
}
