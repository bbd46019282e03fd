//! The real-time clock (MC146818): the host's UTC time, read-only, in BCD and 24 hours.
//!
//! No alarm, no periodic interrupt, no memory: writes other than the index are ignored.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;

/// Index port at offset 0, data port at offset 1.
#[derive(Debug, Default)]
pub struct Rtc {
    index: AtomicU8,
}

impl Rtc {
    /// Bytes of its port range.
    pub const PORTS: u64 = 2;
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset == 1 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            data[0] = register(self.index.load(Ordering::Relaxed), now);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == 0 {
            // Bit 7 masks the NMI on a PC.
            self.index.store(data[0] & 0x7F, Ordering::Relaxed);
        }
    }
}

/// The register `index` at `now`, seconds since 1970.
fn register(index: u8, now: u64) -> u8 {
    let (days, second) = (now / 86_400, now % 86_400);
    let (year, month, day) = civil(days);
    let value = match index {
        0 => second % 60,
        2 => second / 60 % 60,
        4 => second / 3600,
        // 1970 began on a Thursday; Sunday is 1.
        6 => (days + 4) % 7 + 1,
        7 => day,
        8 => month,
        9 => year % 100,
        0x32 => year / 100,
        // Status A: 32768 Hz, no update in progress. B: 24 hours, BCD. D: the battery is good.
        0x0A => return 0x26,
        0x0B => return 0x02,
        0x0D => return 0x80,
        _ => return 0,
    };
    u8::try_from(value / 10 % 10 * 16 + value % 10).unwrap_or(0)
}

/// Year, month and day of a day since 1970, in the proleptic Gregorian calendar. Years are counted from March, so that the
/// leap day is the last one.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let from_0000_03_01 = days + 719_468;
    let (era, day_of_era) = (from_0000_03_01 / ERA, from_0000_03_01 % ERA);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_time_in_bcd() {
        // 2024-02-29 23:59:58 UTC, a Thursday.
        let now = 1_709_251_198;
        let read = |index| register(index, now);
        assert_eq!([read(0), read(2), read(4), read(6)], [0x58, 0x59, 0x23, 5]);
        assert_eq!([read(7), read(8), read(9), read(0x32)], [0x29, 0x02, 0x24, 0x20]);
        assert_eq!((register(7, now + 2), register(8, now + 2)), (0x01, 0x03));
        assert_eq!(civil(0), (1970, 1, 1));
    }

    #[test]
    fn an_update_is_never_in_progress() {
        let rtc = Rtc::default();
        rtc.write(0, &[0x8A]);
        let mut byte = [0xFF];
        rtc.read(1, &mut byte);
        assert_eq!(byte, [0x26]);
    }
}
