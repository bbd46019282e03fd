//! DataVolumes: disks that the Containerized Data Importer (CDI) makes and fills, for guests that ask for them in
//! `dataVolumeTemplates`.
//!
//! ```text
//!   spec.dataVolumeTemplates ──> desired ──> clone: may the guest's service account read the source? ──> ensure: created, waited for
//!   DataVolumes and claims of a guest's volumes ──> seen: what its status says of them
//! ```
//!
//! CDI need not be there. What it stores is read as it is: a phase, a few conditions. A cluster without it refuses what is
//! created, and the guest that needs it says so.

mod clone;
mod desired;
mod ensure;
mod seen;

use kube::core::{ApiResource, GroupVersionKind};

pub use ensure::{Ensure, EnsureError};
pub use seen::{State, state, storage};

/// CDI's own: a disk that is filled.
pub fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("cdi.kubevirt.io", "v1beta1", "DataVolume"))
}

/// What says that CDI is there.
pub const CRD: &str = "datavolumes.cdi.kubevirt.io";
