use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Rtc;
use super::registers::{Registers, index};
use crate::bus::BusDevice;
use crate::event_loop::EventLoop;
use crate::platform::cmos;

/// 2024-02-29 23:59:58 UTC, a Thursday.
const LEAP_DAY: Duration = Duration::from_secs(1_709_251_198);
const SECOND: Duration = Duration::from_secs(1);
const SET: u8 = 0x80;
const BCD_24: u8 = 0x02;

fn time(registers: &mut Registers, now: Duration) -> [u8; 8] {
    [index::CENTURY, 9, 8, 7, 6, 4, 2, 0].map(|index| registers.read(index, now))
}

#[test]
fn tells_the_time_in_bcd() {
    let mut registers = Registers::new(LEAP_DAY);
    assert_eq!(time(&mut registers, LEAP_DAY), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
    assert_eq!(time(&mut registers, LEAP_DAY + 2 * SECOND), [0x20, 0x24, 0x03, 0x01, 6, 0, 0, 0]);
    assert_eq!([0x0A, 0x0B, 0x0D].map(|index| registers.read(index, LEAP_DAY)), [0x26, 0x02, 0x80]);
}

#[test]
fn tells_the_time_in_binary_and_in_12_hours() {
    let mut registers = Registers::new(LEAP_DAY);
    registers.write(index::B, 0x04, LEAP_DAY);
    assert_eq!(registers.read(index::MINUTE, LEAP_DAY), 59);
    assert_eq!(registers.read(index::HOUR, LEAP_DAY), 0x8B);
    registers.write(index::HOUR, 12, LEAP_DAY);
    assert_eq!(registers.read(index::HOUR, LEAP_DAY), 12, "midnight is 12 before noon");
    registers.write(index::B, 0x06, LEAP_DAY);
    assert_eq!(registers.read(index::HOUR, LEAP_DAY), 0);
}

#[test]
fn a_guest_sets_the_clock_and_it_goes_on_from_there() {
    let mut registers = Registers::new(LEAP_DAY);
    registers.write(index::B, SET | BCD_24, LEAP_DAY);
    for (index, value) in [(index::YEAR, 0x99), (index::CENTURY, 0x19), (index::MONTH, 0x12), (index::DAY, 0x31)] {
        registers.write(index, value, LEAP_DAY);
    }
    let later = LEAP_DAY + 5 * SECOND;
    assert_eq!(registers.read(index::SECOND, later), 0x58, "it stands still while it is set");
    registers.write(index::B, BCD_24, later);
    assert_eq!(time(&mut registers, later + 2 * SECOND), [0x20, 0, 1, 1, 7, 0, 0, 0]);
    registers.write(index::YEAR, 0x30, later + 2 * SECOND);
    assert_eq!(time(&mut registers, later + 2 * SECOND)[..2], [0x20, 0x30], "at once where SET is down");
}

#[test]
fn an_update_is_in_progress_for_a_moment_only() {
    let mut registers = Registers::new(LEAP_DAY);
    let mut at = |micros| registers.read(index::A, LEAP_DAY + Duration::from_micros(micros));
    assert_eq!([at(0), at(999_700), at(999_800), at(1_000_000)], [0x26, 0x26, 0xA6, 0x26]);
}

#[test]
fn alarm_update_and_period_are_flagged_and_cleared_by_reading() {
    let mut registers = Registers::new(LEAP_DAY);
    // At 00:00, in any second of it.
    for (index, value) in [(index::SECOND_ALARM, 0xFF), (index::MINUTE_ALARM, 0), (index::HOUR_ALARM, 0)] {
        registers.write(index, value, LEAP_DAY);
    }
    registers.write(index::B, BCD_24 | 0x20, LEAP_DAY);
    assert!(!registers.tick(LEAP_DAY + SECOND));
    assert_eq!(registers.read(index::C, LEAP_DAY + SECOND), 0x50, "not the alarm, and nothing that is enabled");
    assert!(registers.tick(LEAP_DAY + 2 * SECOND));
    assert!(!registers.tick(LEAP_DAY + 3 * SECOND), "the line stays up until register C is read");
    assert_eq!(registers.read(index::C, LEAP_DAY + 3 * SECOND), 0xF0);
    assert_eq!(registers.read(index::C, LEAP_DAY + 3 * SECOND), 0);
}

#[test]
fn what_is_enabled_late_interrupts_at_once() {
    let mut registers = Registers::new(LEAP_DAY);
    let now = LEAP_DAY + SECOND;
    assert!(!registers.tick(now));
    registers.write(index::B, BCD_24 | 0x10, now);
    assert!(registers.tick(now));
}

#[test]
fn waits_only_for_what_is_enabled() {
    let mut registers = Registers::new(LEAP_DAY);
    let now = LEAP_DAY + Duration::from_millis(250);
    assert_eq!((registers.until_second(now), registers.until_period(now)), (None, None));
    registers.write(index::B, BCD_24 | 0x50, now);
    assert_eq!(registers.until_second(now), Some(Duration::from_millis(750)));
    assert!(registers.until_period(now).unwrap() <= Duration::from_nanos(976_563));
    registers.write(index::A, 0x20, now);
    assert_eq!(registers.until_period(now), None, "rate 0 is none");
}

#[test]
fn hostile_values_and_a_host_clock_that_jumps_do_no_harm() {
    let mut registers = Registers::new(LEAP_DAY);
    for index in 0..0x80 {
        for value in [0, 0x5A, 0xFF] {
            registers.write(index, value, LEAP_DAY);
            registers.read(index, LEAP_DAY);
        }
    }
    registers.write(index::B, 0x70, Duration::from_secs(u64::MAX >> 8));
    registers.tick(Duration::ZERO);
    registers.tick(Duration::from_secs(1 << 40));
}

#[test]
fn an_enabled_interrupt_reaches_the_line() {
    let mut events = EventLoop::new().unwrap();
    let line = EventFd::new(EFD_NONBLOCK).unwrap();
    let raised = line.try_clone().unwrap();
    let handle = events.handle();
    let thread = std::thread::spawn(move || events.run());
    let rtc = Rtc::new([7; cmos::SIZE], line, handle.clone());
    rtc.write(0, &[index::B]);
    rtc.write(1, &[0x42]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while raised.read().is_err() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    rtc.write(0, &[index::C]);
    let mut flags = [0];
    rtc.read(1, &mut flags);
    assert_eq!(flags[0] & 0xC0, 0xC0);
    handle.stop();
    thread.join().unwrap().unwrap();
}

#[test]
fn memory_beside_the_clock_can_be_written() {
    let line = EventFd::new(EFD_NONBLOCK).unwrap();
    let rtc = Rtc::new([7; cmos::SIZE], line, EventLoop::new().unwrap().handle());
    let access = |index: u8, value: Option<u8>| {
        rtc.write(0, &[index]);
        if let Some(value) = value {
            rtc.write(1, &[value]);
        }
        let mut byte = [0xFF];
        rtc.read(1, &mut byte);
        byte[0]
    };
    assert_eq!((access(0x0F, None), access(0x0F, Some(9)), access(0x7F, Some(3))), (7, 9, 3));
    assert_eq!(access(index::D, Some(0)), 0x80, "a register");
    assert_eq!(access(index::CENTURY, None), 0x20);
}
