//! The calendar of the clock's registers: seconds since 1970 and back, in the proleptic Gregorian calendar.

/// A date and time of day, as the registers hold them. Nothing in it is checked: a guest may write anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    /// 0 to 59.
    pub second: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 1, Sunday, to 7. Follows from the date.
    pub weekday: u8,
    /// 1 to 31.
    pub day: u8,
    /// 1 to 12.
    pub month: u8,
    /// 0 to 99.
    pub year: u8,
    /// 19, 20.
    pub century: u8,
}

const DAY: i64 = 86_400;
/// Days of 400 years.
const ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

impl Calendar {
    /// The date and time `seconds` after 1970 began.
    pub fn from_unix(seconds: i64) -> Self {
        let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Years are counted from March, so that the leap day is the last one.
        let days_0000 = days + EPOCH;
        let (era, day_of_era) = (days_0000.div_euclid(ERA), days_0000.rem_euclid(ERA));
        let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + carry;
        let byte = |value: i64| u8::try_from(value).unwrap_or(0);
        Self {
            second: byte(second % 60),
            minute: byte(second / 60 % 60),
            hour: byte(second / 3600),
            // 1970 began on a Thursday.
            weekday: byte((days + 4).rem_euclid(7) + 1),
            day: byte(day),
            month: byte(month),
            year: byte(year.rem_euclid(100)),
            century: byte(year.div_euclid(100).rem_euclid(100)),
        }
    }

    /// Seconds since 1970. What is past its range counts on: day 32 is the first of the next month.
    pub fn to_unix(self) -> i64 {
        let months = i64::from(self.month) - 1;
        let year = i64::from(self.century) * 100 + i64::from(self.year) + months.div_euclid(12);
        let month = months.rem_euclid(12);
        // Counted from March, as above.
        let (month, year) = if month < 2 { (month + 10, year - 1) } else { (month - 2, year) };
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * ERA + day_of_era - EPOCH;
        days * DAY + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn knows_leap_days_and_weekdays() {
        let calendar = Calendar::from_unix(1_709_251_198);
        let expected =
            Calendar { second: 58, minute: 59, hour: 23, weekday: 5, day: 29, month: 2, year: 24, century: 20 };
        assert_eq!(calendar, expected);
        assert_eq!(Calendar::from_unix(0).to_unix(), 0);
        let overflowing = Calendar { day: 32, month: 12, ..Calendar::from_unix(0) };
        assert_eq!(Calendar::from_unix(overflowing.to_unix()).month, 1);
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in 0..253_402_300_800_i64) {
            prop_assert_eq!(Calendar::from_unix(seconds).to_unix(), seconds);
        }

        #[test]
        fn takes_anything(fields in any::<[u8; 8]>()) {
            let [second, minute, hour, weekday, day, month, year, century] = fields;
            Calendar { second, minute, hour, weekday, day, month, year, century }.to_unix();
        }
    }
}
