//! The controller's requests, counted.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::rig::CONTROLLER;
use crate::kubernetes::Noted;

/// The controller's requests by kind. Every request counts, also one that the API server refused.
#[derive(Debug, Default)]
pub struct Asked {
    /// Of anything but events and its lease.
    pub writes: usize,
    /// Events.
    pub events: usize,
    /// Of anything but its lease.
    pub reads: usize,
    /// Its lease.
    pub leases: usize,
    /// Watches that were begun.
    pub watches: usize,
    /// Machines that were asked through their pods.
    pub machines: usize,
    /// By verb and resource, with those that were refused and the time that the API server had them all.
    each: BTreeMap<String, (usize, usize, Duration)>,
}

impl Asked {
    /// The controller's of all that was noted.
    pub fn of(noted: &[Noted]) -> Self {
        let mut asked = Self::default();
        for noted in noted.iter().filter(|noted| noted.user() == CONTROLLER) {
            let resource = noted.resource();
            let count = match (resource.as_str(), noted.verb.as_str()) {
                (_, "watch") => &mut asked.watches,
                ("leases", _) => &mut asked.leases,
                ("pods/exec", _) => &mut asked.machines,
                ("events", _) if noted.is_write() => &mut asked.events,
                _ if noted.is_write() => &mut asked.writes,
                _ => &mut asked.reads,
            };
            *count += 1;
            if noted.verb != "watch" {
                let (all, refused, took) = asked.each.entry(format!("{} {resource}", noted.verb)).or_default();
                *all += 1;
                *refused += usize::from(!noted.is_done());
                *took += noted.took();
            }
        }
        asked
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (what, (all, refused, took))) in self.each.iter().enumerate() {
            let mean = took.as_secs_f64() * 1000.0 / f64::from(u32::try_from(*all).unwrap_or(u32::MAX));
            write!(f, "{}{all} {what} ({mean:.0} ms", if index > 0 { ", " } else { "" })?;
            if *refused > 0 {
                write!(f, ", {refused} refused")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}
