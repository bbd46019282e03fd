//! From the certificates that there are to those that there should be.

use jiff::Timestamp;

use super::issue::{self, CertificateError, Facts, Pair};
use super::lifetimes::Lifetimes;
use super::plan::plan;

/// The most authorities in a bundle; with more, the oldest go (KubeVirt's number).
const MAX_BUNDLE: usize = 50;

/// The certificates that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The authority.
    pub authority: Option<Pair>,
    /// What is to be trusted, PEM: the authority and those before it that haven't ended, newest first.
    pub bundle: String,
    /// The server's, signed by one of the bundle.
    pub server: Option<Pair>,
}

/// What is to be held from `now` on by a server that goes by `names`, and when to look again. What can't be read is made anew.
pub fn rotate(
    now: Timestamp,
    lifetimes: &Lifetimes,
    names: &[String],
    held: &Held,
) -> Result<(Held, Timestamp), CertificateError> {
    let read = |pair: &Pair| {
        let facts = issue::read(&pair.certificate).ok()?;
        pair.key_der().ok()?;
        Some(facts)
    };
    let known: Vec<(String, Facts)> = issue::split(&held.bundle)
        .into_iter()
        .filter_map(|pem| issue::read(&pem).ok().map(|facts| (pem, facts)))
        .filter(|(_, facts)| now < facts.validity.ends)
        .collect();
    let authority = held.authority.as_ref().and_then(|pair| Some((pair, read(pair)?)));
    let is_trusted = |server: &Facts| known.iter().any(|(_, authority)| server.is_of(authority));
    let server = held.server.as_ref().and_then(read);
    let server = server.filter(|server| server.names == names && is_trusted(server));
    let plan = plan(
        now,
        lifetimes,
        authority.as_ref().map(|(_, facts)| facts.validity),
        server.as_ref().map(|facts| facts.validity),
    );
    let authority = match authority {
        Some((pair, _)) if !plan.authority => pair.clone(),
        _ => issue::authority(now, lifetimes.authority)?,
    };
    let mut bundle = vec![authority.certificate.trim().to_owned() + "\n"];
    bundle.extend(known.into_iter().map(|(pem, _)| pem).filter(|pem| pem.trim() != authority.certificate.trim()));
    bundle.truncate(MAX_BUNDLE);
    let server = match &held.server {
        Some(pair) if !plan.server => pair.clone(),
        _ => issue::server(now, lifetimes.server, names, &authority)?,
    };
    Ok((Held { authority: Some(authority), bundle: bundle.concat(), server: Some(server) }, plan.next))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::super::plan::{OVERLAP, later};
    use super::*;

    const NAMES: [&str; 2] = ["vireo-controller.kubevirt.svc", "vireo-controller"];

    fn names() -> Vec<String> {
        NAMES.map(str::to_owned).to_vec()
    }

    /// Whether a client that trusts the bundle takes the server's certificate.
    fn is_taken(held: &Held, bundle: &str, now: Timestamp) -> bool {
        let mut roots = RootCertStore::empty();
        for pem in issue::split(bundle) {
            let pair = Pair { certificate: pem, key: String::new() };
            roots.add(pair.certificate_der().unwrap()).unwrap();
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let certificate = held.server.as_ref().unwrap().certificate_der().unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap()));
        NAMES.iter().all(|name| {
            let name = ServerName::try_from(*name).unwrap();
            verifier.verify_server_cert(&certificate, &[], &name, &[], now).is_ok()
        })
    }

    #[test]
    fn clients_trust_every_certificate_over_weeks() {
        let lifetimes = Lifetimes::of(None).unwrap();
        let mut now = Timestamp::from_second(1_800_000_000).unwrap();
        let end = later(now, Duration::from_hours(21 * 24));
        let (mut held, mut authorities) = (Held::default(), 0);
        while now < end {
            let (next, look) = rotate(now, &lifetimes, &names(), &held).unwrap();
            assert!(is_taken(&next, &next.bundle, now));
            // Who has the old bundle still trusts the new certificate, and the other way round.
            assert!(held.server.is_none() || is_taken(&next, &held.bundle, now), "{now}");
            assert!(held.server.is_none() || is_taken(&held, &next.bundle, now), "{now}");
            assert!(issue::split(&next.bundle).len() <= 2);
            assert_eq!(rotate(now, &lifetimes, &names(), &next).unwrap().0, next, "nothing changes twice");
            authorities += u32::from(next.authority != held.authority);
            (held, now) = (next, look);
        }
        assert_eq!(authorities, 4);
    }

    #[test]
    fn what_is_broken_is_made_anew() {
        let lifetimes = Lifetimes::of(None).unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let (held, _) = rotate(now, &lifetimes, &names(), &Held::default()).unwrap();
        let soon = later(now, OVERLAP * 2);
        let broken = |change: fn(&mut Held)| {
            let mut broken = held.clone();
            change(&mut broken);
            let (healed, _) = rotate(soon, &lifetimes, &names(), &broken).unwrap();
            assert!(is_taken(&healed, &healed.bundle, soon));
            healed
        };
        assert_eq!(broken(|held| held.bundle.clear()).authority, held.authority);
        assert_ne!(broken(|held| held.server.as_mut().unwrap().key.clear()).server, held.server);
        assert_ne!(broken(|held| held.server.as_mut().unwrap().certificate.truncate(100)).server, held.server);
        assert_ne!(broken(|held| held.authority = None).authority, held.authority);
        let (renamed, _) = rotate(soon, &lifetimes, &names()[..1], &held).unwrap();
        assert_ne!(renamed.server, held.server);
    }
}
