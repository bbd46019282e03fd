//! Networks: an address and the length of its prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The addresses that begin with the same `prefix_len` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr<A> {
    /// The first of them: all bits after the prefix are 0.
    pub network: A,
    /// Bits of the prefix.
    pub prefix_len: u8,
}

/// An address as a number.
pub trait Address: Copy + Into<IpAddr> + FromStr + fmt::Display {
    /// How many bits it has.
    const BITS: u8;
    /// Its bits, the last one lowest.
    fn to_number(self) -> u128;
    /// The address with these bits; what doesn't fit is cut off.
    fn from_number(number: u128) -> Self;
}

impl Address for Ipv4Addr {
    const BITS: u8 = 32;

    fn to_number(self) -> u128 {
        self.to_bits().into()
    }

    #[allow(clippy::cast_possible_truncation, reason = "as said")]
    fn from_number(number: u128) -> Self {
        Self::from_bits(number as u32)
    }
}

impl Address for Ipv6Addr {
    const BITS: u8 = 128;

    fn to_number(self) -> u128 {
        self.to_bits()
    }

    fn from_number(number: u128) -> Self {
        Self::from_bits(number)
    }
}

impl<A: Address> Cidr<A> {
    /// The network of `prefix_len` bits that `address` lies in.
    pub fn of(address: A, prefix_len: u8) -> Self {
        let host_bits = u32::from(A::BITS.saturating_sub(prefix_len));
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Self { network: A::from_number(address.to_number() & mask), prefix_len }
    }

    /// The address `index` places after the first.
    pub fn nth(&self, index: u8) -> A {
        A::from_number(self.network.to_number().wrapping_add(index.into()))
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let shorter = self.prefix_len.min(other.prefix_len);
        let start = |cidr: &Self| Self::of(cidr.network, shorter).network.to_number();
        start(self) == start(other)
    }
}

impl<A: Address> fmt::Display for Cidr<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

/// What isn't a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address and the length of its prefix")]
pub struct NotACidr;

impl<A: Address> FromStr for Cidr<A> {
    type Err = NotACidr;

    fn from_str(text: &str) -> Result<Self, NotACidr> {
        let (address, len) = text.split_once('/').ok_or(NotACidr)?;
        let address = address.parse().map_err(|_| NotACidr)?;
        let prefix_len = len.parse().ok().filter(|len| *len <= A::BITS).ok_or(NotACidr)?;
        Ok(Self::of(address, prefix_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_masks_and_counts() {
        let cidr: Cidr<Ipv4Addr> = "10.0.2.77/24".parse().unwrap();
        assert_eq!((cidr.to_string(), cidr.nth(2).to_string()), ("10.0.2.0/24".into(), "10.0.2.2".into()));
        let cidr: Cidr<Ipv6Addr> = "fd10:0:2::/120".parse().unwrap();
        assert_eq!(cidr.nth(2).to_string(), "fd10:0:2::2");
        for text in ["", "10.0.2.0", "10.0.2.0/33", "10.0.2/24", "::/0", "10.0.2.0/-1", "10.0.2.0/24/24"] {
            assert_eq!(text.parse::<Cidr<Ipv4Addr>>(), Err(NotACidr), "{text}");
        }
    }

    #[test]
    fn the_wider_one_decides_on_overlap() {
        let cidr = |text: &str| text.parse::<Cidr<Ipv4Addr>>().unwrap();
        assert!(cidr("10.0.2.0/24").overlaps(&cidr("10.0.0.0/16")));
        assert!(cidr("10.0.0.0/16").overlaps(&cidr("10.0.2.9/32")));
        assert!(cidr("0.0.0.0/0").overlaps(&cidr("10.0.2.9/32")));
        assert!(!cidr("10.0.2.0/24").overlaps(&cidr("10.0.3.0/24")));
    }
}
