//! Kubernetes quantities: `1500m`, `1.5Gi`, `1e3`, `0.1`.
//!
//! Grammar (apimachinery, `resource.Quantity`): a signed decimal number, then a decimal suffix (`n u m k M G T P E`), a
//! binary suffix (`Ki Mi Gi Ti Pi Ei`), or a decimal exponent (`e3`, `E-3`). The value is kept exactly, in units of 10⁻⁹;
//! anything finer is rounded up, as Kubernetes does.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Units of a [`Quantity`] in one.
const NANO: i128 = 1_000_000_000;
/// No text longer than this is a number that anyone means.
const MAX_LEN: usize = 64;

/// An exact amount of something, at least zero. Written back as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    nano: i128,
}

/// Why a text is no [`Quantity`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text doesn't follow the grammar.
    #[error("{0:?} is not a quantity; write a number and a suffix, such as 2, 500m, 512Mi or 1.5Gi")]
    Grammar(String),
    /// Below zero.
    #[error("{0:?} is below zero")]
    Negative(String),
    /// More than 2⁶³-1 whole units, Kubernetes' own bound.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

impl Quantity {
    /// The amount in whole units (bytes, cores), rounded up.
    pub fn value(&self) -> u64 {
        // Parsing bounds it to 2⁶³-1.
        u64::try_from(ceil_div(self.nano, NANO)).unwrap_or(u64::MAX)
    }

    /// The amount in thousandths, rounded up.
    pub fn milli(&self) -> u64 {
        u64::try_from(ceil_div(self.nano, NANO / 1000)).unwrap_or(u64::MAX)
    }

    /// Whether it is nothing at all.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }
}

fn ceil_div(a: i128, b: i128) -> i128 {
    a / b + i128::from(a % b != 0)
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let grammar = || QuantityError::Grammar(text.chars().take(MAX_LEN).collect());
        if text.len() > MAX_LEN {
            return Err(grammar());
        }
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(number_len);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(grammar());
        }
        let scale = Scale::parse(suffix).ok_or_else(grammar)?;
        let nano = scale.apply(whole, fraction).ok_or_else(|| QuantityError::TooLarge(text.to_owned()))?;
        if nano > i128::from(i64::MAX) * NANO {
            return Err(QuantityError::TooLarge(text.to_owned()));
        }
        if negative && nano != 0 {
            return Err(QuantityError::Negative(text.to_owned()));
        }
        Ok(Self { text: text.to_owned(), nano })
    }
}

/// What the digits are multiplied by: `unit` · 10^`exponent`.
struct Scale {
    unit: i128,
    exponent: i32,
}

impl Scale {
    fn parse(suffix: &str) -> Option<Self> {
        let binary = |shift: u32| Some(Self { unit: 1 << shift, exponent: 0 });
        let decimal = |exponent: i32| Some(Self { unit: 1, exponent });
        match suffix {
            "" => decimal(0),
            "n" => decimal(-9),
            "u" => decimal(-6),
            "m" => decimal(-3),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            "Ki" => binary(10),
            "Mi" => binary(20),
            "Gi" => binary(30),
            "Ti" => binary(40),
            "Pi" => binary(50),
            "Ei" => binary(60),
            exponent => {
                let digits = exponent.strip_prefix(['e', 'E'])?;
                if !digits.ends_with(|c: char| c.is_ascii_digit()) {
                    return None;
                }
                decimal(digits.parse().ok()?)
            }
        }
    }

    /// `whole.fraction` times the scale, in units of 10⁻⁹, rounded up; `None` if it doesn't fit.
    fn apply(&self, whole: &str, fraction: &str) -> Option<i128> {
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Some(0);
        }
        // 38 digits always fit; beyond that it is past the bound or below the precision.
        let fraction_len = i32::try_from(fraction.len()).ok()?;
        let exponent = self.exponent.checked_add(9)?.checked_sub(fraction_len)?;
        let number: i128 = digits.parse().ok()?;
        let number = number.checked_mul(self.unit)?;
        let power = |e: u32| 10i128.checked_pow(e);
        if exponent >= 0 {
            number.checked_mul(power(exponent.unsigned_abs())?)
        } else {
            Some(power(exponent.unsigned_abs()).map_or(1, |divisor| ceil_div(number, divisor)))
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity, such as 2, 500m, 512Mi or 1.5Gi")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"x-kubernetes-int-or-string": true})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, value, milli) in [
            ("0", 0, 0),
            ("1", 1, 1000),
            ("+2", 2, 2000),
            ("1500m", 2, 1500),
            ("0.1", 1, 100),
            (".5", 1, 500),
            ("5.", 5, 5000),
            ("1n", 1, 1),
            ("100u", 1, 1),
            ("128M", 128_000_000, 128_000_000_000),
            ("128Mi", 128 << 20, (128 << 20) * 1000),
            ("1.5Gi", 3 << 29, (3 << 29) * 1000),
            ("1e3", 1000, 1_000_000),
            ("1E3", 1000, 1_000_000),
            ("25e-1", 3, 2500),
            ("1e-40", 1, 1),
            ("0e99", 0, 0),
            ("-0", 0, 0),
            ("7Ei", 7 << 60, u64::MAX),
        ] {
            let quantity: Quantity = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((quantity.value(), quantity.milli()), (value, milli), "{text}");
            assert_eq!(quantity.to_string(), text);
        }
    }

    #[test]
    fn refusals() {
        for text in ["", "-", "Mi", ".", "1.2.3", "1 Gi", "1Gb", "1gi", "0x10", "1e", "1e+", "1ee3", "½", "1Ki1", "e3"]
        {
            assert!(matches!(text.parse::<Quantity>(), Err(QuantityError::Grammar(_))), "{text}");
        }
        assert!(matches!("1".repeat(100).parse::<Quantity>(), Err(QuantityError::Grammar(_))));
        assert!(matches!("-1".parse::<Quantity>(), Err(QuantityError::Negative(_))));
        for text in ["8Ei", "1e19", "1e2147483647", "99999999999999999999999999999999999999999999"] {
            assert!(matches!(text.parse::<Quantity>(), Err(QuantityError::TooLarge(_))), "{text}");
        }
    }

    #[test]
    fn json_numbers() {
        let read = |json: &str| serde_json::from_str::<Quantity>(json);
        assert_eq!(read("2").unwrap().milli(), 2000);
        assert_eq!(read("0.5").unwrap().milli(), 500);
        assert!(read("-2").is_err());
        assert!(read("true").is_err());
    }
}
