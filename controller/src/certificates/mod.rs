//! The controller's certificates: an authority of its own, and a server's certificate that it signs.
//!
//! ```text
//!   lifetimes   how long each lasts, from the KubeVirt object
//!   plan        pure: what is to be made now, and when to look again
//!   issue       makes and reads certificates
//!   rotate      what is held ─> what is to be held
//!   store       Secrets and a ConfigMap: the operator alone writes them
//!   serving     the controller's side: the TLS configuration as it is now
//! ```
//!
//! Whoever asks the controller trusts the bundle: every authority of its that hasn't ended. A new authority is in the bundle
//! for [`OVERLAP`] before anything is signed by it, and the old one stays there until its end, so that no client meets a
//! certificate that it can't check. Keys are ECDSA on P-256.

mod issue;
mod lifetimes;
mod plan;
mod rotate;
mod serving;
mod signing_key;
mod store;

pub use issue::{CertificateError, Pair};
pub use lifetimes::{LifetimeError, Lifetimes};
pub use plan::OVERLAP;
pub use rotate::{Held, rotate};
pub use serving::{Serving, TlsError, is_fips, server_config, serving, serving_anybody};
pub use signing_key::signing_key;
pub use store::{StoreError, read, secrets};

/// The Secret with the authority's certificate and key, and the ConfigMap with all that are to be trusted (KubeVirt's names).
pub const AUTHORITY: &str = "kubevirt-ca";
/// The ConfigMap's key.
pub const BUNDLE_KEY: &str = "ca-bundle";
/// The Secret with the controller's certificate and key.
pub const SERVER: &str = "vireo-controller-certs";
/// The Secret with the seed of the key that signs tokens for machines.
pub const SIGNING_KEY: &str = "vireo-machine-tokens";
