//! How many tests passed, failed and were skipped.

use std::{fmt, ops::AddAssign};

/// A count of outcomes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed, or did not come to an end.
    pub failed: u32,
    /// Tests that did not run.
    pub skipped: u32,
    /// Why not.
    pub why: Vec<String>,
}

impl Tally {
    /// Reads `… 5 passed, 1 failed, 2 skipped …` as nextest and libtest write it.
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(|letter: char| !letter.is_ascii_alphanumeric()).collect();
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let mut tally = Self::default();
        let mut found = false;
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u32>() else { continue };
            match pair[1] {
                "passed" => {
                    tally.passed = count;
                    found = true;
                }
                // nextest: `1 timed out`, `1 exec failed`.
                "failed" | "timed" | "exec" => tally.failed += count,
                "skipped" | "ignored" => tally.skipped = count,
                _ => {}
            }
        }
        found.then_some(tally)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.why.extend(other.why);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)?;
        if self.why.is_empty() { Ok(()) } else { write!(f, " ({})", self.why.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn every_runner_s_summary_is_understood() {
        for (line, passed, failed, skipped) in [
            ("     Summary [   0.072s] 5 tests run: 5 passed, 0 skipped", 5, 0, 0),
            ("     Summary [  1.3s] 5/9 tests run: 3 passed (1 slow), 1 failed, 1 timed out, 2 skipped", 3, 2, 2),
            ("test result: FAILED. 7 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out", 7, 2, 1),
        ] {
            let expected = Tally { passed, failed, skipped, why: Vec::new() };
            assert_eq!(Tally::parse(line), Some(expected), "{line}");
        }
        assert_eq!(Tally::parse("    Starting 5 tests across 4 binaries"), None);
    }
}
