//! When certificates are made.

use std::time::Duration;

use jiff::Timestamp;

use super::lifetimes::{Lifetime, Lifetimes};

/// How long an authority is in the bundle before it signs, where what it takes over from lasts that long.
pub const OVERLAP: Duration = Duration::from_mins(1);

/// When a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    /// When it was made.
    pub(super) made: Timestamp,
    /// Until when.
    pub(super) ends: Timestamp,
}

impl Validity {
    /// When it ends: a lifetime that has become shorter holds for it too.
    fn end(self, lifetime: Lifetime) -> Timestamp {
        self.ends.min(later(self.made, lifetime.duration))
    }

    /// When it is to be replaced.
    fn renewal(self, lifetime: Lifetime) -> Timestamp {
        // What can't be reckoned is to be replaced now.
        self.end(lifetime).checked_sub(lifetime.renew_before).unwrap_or(Timestamp::MIN)
    }
}

/// `time` and so much more, or the end of time.
pub(super) fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Half the way; `to` where that is earlier.
fn middle(from: Timestamp, to: Timestamp) -> Timestamp {
    let way = Duration::try_from(to.duration_since(from));
    way.map_or(to, |way| later(from, way / 2))
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Make a new authority.
    pub(super) authority: bool,
    /// Make a new certificate for the server, by the newest authority.
    pub(super) server: bool,
    /// Look again then.
    pub(super) next: Timestamp,
}

/// What is to be done at `now` about an authority and a server's certificate: none where there is none that is any good.
pub(super) fn plan(
    now: Timestamp,
    lifetimes: &Lifetimes,
    authority: Option<Validity>,
    server: Option<Validity>,
) -> Plan {
    let authority = authority.filter(|authority| now < authority.renewal(lifetimes.authority));
    let server = server.filter(|server| now < server.ends);
    // One that is made now counts as made now.
    let made = authority.map_or(now, |authority| authority.made);
    let overlap = OVERLAP.min(lifetimes.server.renew_before / 2).min(lifetimes.authority.renew_before / 2);
    let signs = later(made, overlap);
    // A server without a certificate can't wait for its authority to be known.
    let renewal = server.map_or(now, |server| {
        let due = server.renewal(lifetimes.server);
        // One that ends with its authority would end no later if that signed it anew.
        let gains = |authority: &Validity| server.end(lifetimes.server) < authority.ends;
        let due = match authority.filter(|authority| !gains(authority)) {
            Some(authority) => due.max(authority.renewal(lifetimes.authority)),
            None => due,
        };
        // One that ends soon can wait half of its time for that.
        if due < signs && now < server.ends { signs.min(middle(made, server.ends)) } else { due }
    });
    let new_server = renewal <= now;
    let fresh = |lifetime: Lifetime| later(now, lifetime.duration.saturating_sub(lifetime.renew_before));
    let next = authority.map_or(fresh(lifetimes.authority), |authority| authority.renewal(lifetimes.authority));
    let next = next.min(if new_server { fresh(lifetimes.server) } else { renewal });
    Plan { authority: authority.is_none(), server: new_server, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn at(seconds: u64) -> Timestamp {
        later(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds))
    }

    fn valid(made: u64, ends: u64) -> Validity {
        Validity { made: at(made), ends: at(ends) }
    }

    fn lifetimes() -> Lifetimes {
        Lifetimes::of(None).unwrap()
    }

    #[test]
    fn at_first_both_are_made() {
        let plan = plan(at(0), &lifetimes(), None, None);
        assert!(plan.authority && plan.server);
        assert_eq!(plan.next, at(24 * HOUR / 5 * 4));
    }

    #[test]
    fn each_is_replaced_when_a_fifth_of_its_time_is_left() {
        let (week, day) = (168 * HOUR, 24 * HOUR);
        for (now, authority, server) in [
            (day / 5 * 4 - 1, false, false),
            (day / 5 * 4, false, true),
            (day - 1, false, true),
            (day + 1, false, true),
        ] {
            let plan = plan(at(now), &lifetimes(), Some(valid(0, week)), Some(valid(0, day)));
            assert_eq!((plan.authority, plan.server), (authority, server), "{now}");
        }
        let renewal = week / 5 * 4;
        let plan = plan(at(renewal), &lifetimes(), Some(valid(0, week)), Some(valid(renewal - 1, renewal - 1 + day)));
        assert!(plan.authority && !plan.server);
    }

    #[test]
    fn a_new_authority_is_known_before_it_signs() {
        let (week, day) = (168 * HOUR, 24 * HOUR);
        // Both are due at once: the authority goes first.
        let now = week / 5 * 4;
        let due = Some(valid(now - day / 5 * 4, now + day / 5));
        let first = plan(at(now), &lifetimes(), Some(valid(0, week)), due);
        assert_eq!(first, Plan { authority: true, server: false, next: later(at(now), OVERLAP) });
        let then = plan(first.next, &lifetimes(), Some(valid(now, now + week)), due);
        assert!(!then.authority && then.server);
        // A server whose certificate has ended can't wait.
        let ended = plan(at(now), &lifetimes(), Some(valid(0, week)), Some(valid(now - day, now - 1)));
        assert!(ended.authority && ended.server);
        // One that would end while it waits gets its next before it does.
        let ends = valid(now + 8 - day, now + 8);
        let ending = plan(at(now), &lifetimes(), Some(valid(0, week)), Some(ends));
        assert_eq!(ending, Plan { authority: true, server: false, next: at(now + 4) });
        assert!(plan(at(now + 4), &lifetimes(), Some(valid(now, now + week)), Some(ends)).server);
    }

    #[test]
    fn shorter_lifetimes_hold_for_what_is_there() {
        let mut shorter = lifetimes();
        shorter.server.duration = Duration::from_secs(HOUR);
        shorter.server.renew_before = Duration::from_secs(HOUR / 5);
        let (authority, server) = (Some(valid(0, 168 * HOUR)), Some(valid(0, 24 * HOUR)));
        assert!(!plan(at(2 * HOUR), &lifetimes(), authority, server).server);
        assert!(plan(at(2 * HOUR), &shorter, authority, server).server);
        assert_eq!(plan(at(HOUR / 2), &shorter, authority, server).next, at(HOUR / 5 * 4));
    }

    /// An authority that is replaced in its last minute, and servers' certificates that last as long as it does.
    fn late() -> Lifetimes {
        let mut late = lifetimes();
        late.authority.duration = Duration::from_hours(24);
        late.authority.renew_before = Duration::from_mins(1);
        late
    }

    #[test]
    fn what_ends_with_its_authority_waits_for_the_next() {
        let day = 24 * HOUR;
        let (authority, server) = (Some(valid(0, day)), Some(valid(20 * HOUR, day)));
        let waits = plan(at(20 * HOUR), &late(), authority, server);
        assert_eq!(waits, Plan { authority: false, server: false, next: at(day - 60) });
        let then = plan(waits.next, &late(), authority, server);
        assert_eq!(then, Plan { authority: true, server: false, next: at(day - 30) });
        let last = plan(then.next, &late(), Some(valid(day - 60, 2 * day - 60)), server);
        assert!(!last.authority && last.server);
    }

    /// Over a month of looking when the last plan said, and at once: there is always a certificate, it is never signed by an
    /// authority that nobody knows yet, and nothing is made again and again.
    #[test]
    fn a_month_of_it() {
        month(&lifetimes());
        month(&late());
    }

    fn month(lifetimes: &Lifetimes) {
        let (mut now, mut authority, mut server, mut looks) = (at(0), None, None, 0);
        while now < at(30 * 24 * HOUR) {
            let plan = plan(now, lifetimes, authority, server);
            assert!(plan.next > now);
            let made = |lifetime: Lifetime| Some(Validity { made: now, ends: later(now, lifetime.duration) });
            if plan.authority {
                authority = made(lifetimes.authority);
            }
            if plan.server {
                let overlap = OVERLAP.min(lifetimes.authority.renew_before / 2);
                let known = authority.is_some_and(|authority: Validity| later(authority.made, overlap) <= now);
                assert!(known || server.is_none(), "{now}");
                let ends = authority.map_or(now, |authority: Validity| authority.ends);
                server = made(lifetimes.server).map(|made| Validity { ends: made.ends.min(ends), ..made });
            }
            let again = super::plan(now, lifetimes, authority, server);
            assert!(!again.authority && !again.server, "{now}");
            assert!(server.is_some_and(|server: Validity| plan.next < server.ends));
            (now, looks) = (plan.next, looks + 1);
        }
        assert!(looks < 100, "{looks}");
    }
}
