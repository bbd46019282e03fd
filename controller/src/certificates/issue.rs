//! Certificates, made and read.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::lifetimes::Lifetime;
use super::plan::{Validity, later};

/// A certificate holds from so long before it is made: clocks differ.
const BACKDATED: Duration = Duration::from_mins(5);

/// What can be wrong with a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It can't be made.
    #[error("can't make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// It can't be read.
    #[error("can't read a certificate or its key: {0}")]
    Read(String),
}

/// A certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key, PKCS#8.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Pair {
    /// The certificate for a TLS configuration.
    pub fn certificate_der(&self) -> Result<CertificateDer<'static>, CertificateError> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(unreadable)
    }

    /// The key for a TLS configuration.
    pub fn key_der(&self) -> Result<PrivateKeyDer<'static>, CertificateError> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(unreadable)
    }
}

fn unreadable(error: impl std::fmt::Display) -> CertificateError {
    CertificateError::Read(error.to_string())
}

/// A new authority.
pub(super) fn authority(now: Timestamp, lifetime: Lifetime) -> Result<Pair, CertificateError> {
    let mut params = CertificateParams::new(Vec::new())?;
    // The time tells authorities apart that have the same name.
    params.distinguished_name.push(DnType::CommonName, format!("kubevirt.io@{}", now.as_second()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    hold(&mut params, now, later(now, lifetime.duration));
    let key = KeyPair::generate()?;
    Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// A server's certificate for `names`, the first of which is the subject's. It ends when its authority does, at the latest.
pub(super) fn server(
    now: Timestamp,
    lifetime: Lifetime,
    names: &[String],
    authority: &Pair,
) -> Result<Pair, CertificateError> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("", String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    hold(&mut params, now, later(now, lifetime.duration).min(read(&authority.certificate)?.validity.ends));
    let key = KeyPair::generate()?;
    Ok(Pair { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

fn hold(params: &mut CertificateParams, made: Timestamp, ends: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |time: Timestamp| Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0));
    (params.not_before, params.not_after) = (epoch + seconds(made) - BACKDATED, epoch + seconds(ends));
}

/// What a certificate says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) validity: Validity,
    /// The DNS names that it is for.
    pub(super) names: Vec<String>,
    /// The DER of its public key's record, and of what it claims to be signed by.
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

impl Facts {
    /// Whether it names `authority` as its own; checking that is for those who trust it.
    pub(super) fn is_of(&self, authority: &Facts) -> bool {
        self.issuer == authority.subject
    }
}

/// Reads the first certificate of a PEM text.
pub(super) fn read(pem: &str) -> Result<Facts, CertificateError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(unreadable)?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(unreadable)?;
    let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).map_err(unreadable);
    let validity = certificate.validity();
    let names = certificate.subject_alternative_name().map_err(unreadable)?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    Ok(Facts {
        validity: Validity { made: later(time(validity.not_before)?, BACKDATED), ends: time(validity.not_after)? },
        names: names
            .filter_map(|name| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None })
            .collect(),
        subject: certificate.subject().as_raw().to_vec(),
        issuer: certificate.issuer().as_raw().to_vec(),
    })
}

/// The certificates of a PEM text, each as a text of its own.
pub(super) fn split(bundle: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let ends = bundle.match_indices(END).map(|(at, _)| at + END.len());
    let mut begin = 0;
    ends.map(|end| format!("{}\n", bundle[std::mem::replace(&mut begin, end)..end].trim())).collect()
}
