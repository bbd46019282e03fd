//! What the machine calls itself: what SMBIOS tells of it.

use serde::{Deserialize, Serialize};

use super::check::{ConfigError, Problem, wrong};

/// The longest string, bytes: as much as Linux's DMI files show well, and so few that all tables fit their place.
pub const MAX_TEXT: usize = 255;

/// What the machine calls itself. A string that is `None` is not told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityConfig {
    /// The machine's UUID, in the order in which it is written (RFC 9562); the guest's `product_uuid`.
    pub uuid: [u8; 16],
    /// The system (SMBIOS 3.6 §7.2).
    pub system: SystemIdentity,
    /// Its chassis (SMBIOS 3.6 §7.4).
    pub chassis: ChassisIdentity,
}

/// The system as it is sold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemIdentity {
    /// Who made it.
    pub manufacturer: Option<String>,
    /// Which product it is.
    pub product: Option<String>,
    /// Which version of it.
    pub version: Option<String>,
    /// Which piece of it.
    pub serial: Option<String>,
    /// Its number in a catalogue.
    pub sku: Option<String>,
    /// The family that the product belongs to.
    pub family: Option<String>,
}

/// What the system is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChassisIdentity {
    /// Who made it.
    pub manufacturer: Option<String>,
    /// Which version of it.
    pub version: Option<String>,
    /// Which piece of it.
    pub serial: Option<String>,
    /// Its owner's number for it.
    pub asset: Option<String>,
    /// Its number in a catalogue.
    pub sku: Option<String>,
}

pub(super) fn check(identity: &IdentityConfig) -> Result<(), ConfigError> {
    let IdentityConfig { uuid: _, system: s, chassis: c } = identity;
    let texts = [
        ("system.manufacturer", &s.manufacturer),
        ("system.product", &s.product),
        ("system.version", &s.version),
        ("system.serial", &s.serial),
        ("system.sku", &s.sku),
        ("system.family", &s.family),
        ("chassis.manufacturer", &c.manufacturer),
        ("chassis.version", &c.version),
        ("chassis.serial", &c.serial),
        ("chassis.asset", &c.asset),
        ("chassis.sku", &c.sku),
    ];
    for (field, text) in texts {
        let Some(text) = text else { continue };
        if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
            let cut = text.chars().take(MAX_TEXT).collect();
            return Err(wrong(format!("identity.{field}"), Problem::Text(cut)));
        }
    }
    Ok(())
}
