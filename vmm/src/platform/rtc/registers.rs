//! The clock's registers (Motorola MC146818A), apart from where time and interrupts come from.
//!
//! The clock runs on the host's time plus an offset, which a guest changes by setting it. While it sets (SET in register B)
//! the registers stand still.

use std::time::Duration;

use super::clock::Calendar;

/// Indexes of the registers.
pub mod index {
    pub const SECOND: u8 = 0;
    pub const SECOND_ALARM: u8 = 1;
    pub const MINUTE: u8 = 2;
    pub const MINUTE_ALARM: u8 = 3;
    pub const HOUR: u8 = 4;
    pub const HOUR_ALARM: u8 = 5;
    pub const WEEKDAY: u8 = 6;
    pub const DAY: u8 = 7;
    pub const MONTH: u8 = 8;
    pub const YEAR: u8 = 9;
    pub const A: u8 = 0x0A;
    pub const B: u8 = 0x0B;
    pub const C: u8 = 0x0C;
    pub const D: u8 = 0x0D;
    /// Named in the FADT.
    pub const CENTURY: u8 = 0x32;
}

/// Register A: an update is in progress, so that time is not to be read.
const UPDATING: u8 = 1 << 7;
/// How long before the end of a second that is said.
const UPDATE: Duration = Duration::from_micros(244);
/// Register A at power-on: the oscillator runs at 32768 Hz, 1024 periodic ticks a second.
const POWER_ON_A: u8 = 0x26;
/// Register B.
const SET: u8 = 1 << 7;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
/// Interrupts: enabled in register B, pending in register C, at the same bits.
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATED: u8 = 1 << 4;
const INTERRUPTS: u8 = PERIODIC | ALARM | UPDATED;
/// Register C: one of the pending interrupts is enabled.
const REQUEST: u8 = 1 << 7;
/// Register D: the battery is good.
const VALID: u8 = 1 << 7;
/// An alarm register with both of these says "any".
const ANY: u8 = 0xC0;
/// In 12-hour mode: after noon.
const AFTERNOON: u8 = 1 << 7;
/// No alarm is looked for further back than this, seconds: it comes at least that often.
const DAY: i64 = 86_400;

/// The registers. `now` is always the host's time since 1970.
#[derive(Debug)]
pub struct Registers {
    /// Seconds that the guest's clock is ahead of the host's.
    offset: i64,
    /// The time that stands while SET is up.
    setting: Option<Calendar>,
    alarm: [u8; 3],
    a: u8,
    b: u8,
    /// Pending interrupts, enabled or not.
    pending: u8,
    /// The interrupt line is up: one of the pending interrupts is enabled.
    line: bool,
    /// Up to when ticks have been counted.
    seen: Duration,
}

impl Registers {
    /// A clock that shows the host's time in UTC.
    pub fn new(now: Duration) -> Self {
        Self { offset: 0, setting: None, alarm: [0; 3], a: POWER_ON_A, b: HOURS_24, pending: 0, line: false, seen: now }
    }

    /// Reads a register; others read as 0.
    pub fn read(&mut self, index: u8, now: Duration) -> u8 {
        let time = self.setting.unwrap_or_else(|| self.time(now));
        match index {
            index::SECOND => self.encode(time.second),
            index::MINUTE => self.encode(time.minute),
            index::HOUR => self.encode_hour(time.hour),
            index::WEEKDAY => self.encode(time.weekday),
            index::DAY => self.encode(time.day),
            index::MONTH => self.encode(time.month),
            index::YEAR => self.encode(time.year),
            index::CENTURY => self.encode(time.century),
            index::SECOND_ALARM => self.alarm[0],
            index::MINUTE_ALARM => self.alarm[1],
            index::HOUR_ALARM => self.alarm[2],
            index::A => self.a | if self.updating(now) { UPDATING } else { 0 },
            index::B => self.b,
            index::C => {
                self.advance(now);
                self.line = false;
                let request = if self.pending & self.b & INTERRUPTS == 0 { 0 } else { REQUEST };
                std::mem::take(&mut self.pending) | request
            }
            index::D => VALID,
            _ => 0,
        }
    }

    /// Writes a register; what is read-only, or none, stays as it is.
    pub fn write(&mut self, index: u8, value: u8, now: Duration) {
        self.advance(now);
        match index {
            index::SECOND_ALARM => self.alarm[0] = value,
            index::MINUTE_ALARM => self.alarm[1] = value,
            index::HOUR_ALARM => self.alarm[2] = value,
            index::A => self.a = value & !UPDATING,
            index::B => self.write_b(value, now),
            _ => {
                let mut time = self.setting.unwrap_or_else(|| self.time(now));
                let plain = self.decode(value);
                match index {
                    index::SECOND => time.second = plain,
                    index::MINUTE => time.minute = plain,
                    index::HOUR => time.hour = self.decode_hour(value),
                    index::DAY => time.day = plain,
                    index::MONTH => time.month = plain,
                    index::YEAR => time.year = plain,
                    index::CENTURY => time.century = plain,
                    // The day of the week follows from the date.
                    _ => return,
                }
                match &mut self.setting {
                    Some(setting) => *setting = time,
                    None => self.set(time, now),
                }
            }
        }
    }

    /// Counts what has happened since the last time; whether the interrupt line goes up. To be asked after each write too:
    /// what is enabled may be pending already.
    pub fn tick(&mut self, now: Duration) -> bool {
        self.advance(now);
        let up = self.pending & self.b & INTERRUPTS != 0;
        let was_up = std::mem::replace(&mut self.line, up);
        up && !was_up
    }

    /// How long until something may come that the guest wants an interrupt for: the end of the second, for alarm and update.
    pub fn until_second(&self, now: Duration) -> Option<Duration> {
        (self.b & (ALARM | UPDATED) != 0).then(|| left_of_second(now))
    }

    /// How long until the next periodic interrupt, if the guest wants any.
    pub fn until_period(&self, now: Duration) -> Option<Duration> {
        let period = self.period().filter(|_| self.b & PERIODIC != 0)?;
        Some(Duration::from_nanos(u64::try_from(period - now.as_nanos() % period).unwrap_or(u64::MAX)))
    }

    /// Nanoseconds of a periodic tick.
    fn period(&self) -> Option<u128> {
        let rate = match self.a & 0x0F {
            0 => return None,
            // 256 and 128 Hz.
            rate @ (1 | 2) => rate + 7,
            rate => rate,
        };
        Some((1_000_000_000_u128 << (rate - 1)) / 32_768)
    }

    fn time(&self, now: Duration) -> Calendar {
        Calendar::from_unix(self.unix(now))
    }

    fn unix(&self, now: Duration) -> i64 {
        i64::try_from(now.as_secs()).unwrap_or(0) + self.offset
    }

    fn set(&mut self, time: Calendar, now: Duration) {
        self.offset = time.to_unix() - i64::try_from(now.as_secs()).unwrap_or(0);
    }

    fn updating(&self, now: Duration) -> bool {
        self.setting.is_none() && left_of_second(now) <= UPDATE
    }

    fn write_b(&mut self, value: u8, now: Duration) {
        let was = std::mem::replace(&mut self.b, value);
        match (was & SET != 0, value & SET != 0) {
            (false, true) => self.setting = Some(self.time(now)),
            (true, false) => {
                if let Some(time) = self.setting.take() {
                    self.set(time, now);
                }
            }
            _ => {}
        }
    }

    /// Counts the ticks between `seen` and `now`. A host whose clock was set back counts none.
    fn advance(&mut self, now: Duration) {
        let (before, after) = (self.unix(self.seen), self.unix(now));
        if self.setting.is_none() && after > before {
            self.pending |= UPDATED;
            let first = before.max(after - DAY) + 1;
            if (first..=after).any(|second| self.is_alarm(Calendar::from_unix(second))) {
                self.pending |= ALARM;
            }
        }
        if let Some(period) = self.period()
            && now.as_nanos() / period > self.seen.as_nanos() / period
        {
            self.pending |= PERIODIC;
        }
        self.seen = now;
    }

    fn is_alarm(&self, time: Calendar) -> bool {
        let [second, minute, hour] = self.alarm;
        let matches = |alarm: u8, now: u8| alarm & ANY == ANY || alarm == now;
        matches(second, self.encode(time.second))
            && matches(minute, self.encode(time.minute))
            && matches(hour, self.encode_hour(time.hour))
    }

    fn encode(&self, value: u8) -> u8 {
        if self.b & BINARY != 0 { value } else { value / 10 * 16 + value % 10 }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.b & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0x0F) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.b & HOURS_24 != 0 {
            return self.encode(hour);
        }
        let afternoon = if hour >= 12 { AFTERNOON } else { 0 };
        self.encode((hour + 11) % 12 + 1) | afternoon
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.b & HOURS_24 != 0 {
            return self.decode(value);
        }
        let afternoon = if value & AFTERNOON != 0 { 12 } else { 0 };
        self.decode(value & !AFTERNOON) % 12 + afternoon
    }
}

fn left_of_second(now: Duration) -> Duration {
    Duration::from_nanos(u64::from(1_000_000_000 - now.subsec_nanos()))
}
