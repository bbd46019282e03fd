//! The cluster half of Vireo: turns KubeVirt's `VirtualMachine` objects into pods with `runtimeClassName: vireo`, judges what
//! is written, and answers `subresources.kubevirt.io`.
//!
//! ```text
//!   certificates   made, kept, rotated, served
//!   admission  defaults and judges what is written; answers evictions
//!   settings   what a KubeVirt object configures, as it is now
//!   serve      HTTPS: who asks, by certificate; the routers of admission and subresources hang below it
//!   shim_client a machine through its pod: gRPC over exec, with tokens
//!   subresources   the aggregated API: what `virtctl` asks
//!   instancetype   sizes and preferences of guests
//!   health     what a kubelet asks
//!   superseded versions of objects that are known to be old
//!   events     what users are told; retry: when what failed is tried again
//!   operator   from a KubeVirt object, all of Vireo in a cluster
//!   leader     which replica reconciles
//!   watches    what of the cluster it remembers, once for all reconcilers
//!   metrics    what Prometheus is told
//!   data_volume disks that CDI makes and fills
//!   nodes      those whose agents are silent take no more guests
//!   replica_set so many instances that are alike
//!   vm         a VirtualMachine: when its instance exists
//!   vmi        a VirtualMachineInstance: its pod
//! ```
//!
//! Each kind has its folder: `plan` and `status` are pure, from what is observed to what is to be done and said; `reconcile`
//! reads, plans and applies, and alone speaks to the API server.
#![forbid(unsafe_code)]

pub mod admission;
pub mod certificates;
pub mod context;
pub mod data_volume;
pub mod events;
pub mod health;
pub mod instancetype;
pub mod leader;
pub mod metrics;
pub mod nodes;
pub mod operator;
pub mod replica_set;
pub mod retry;
pub mod serve;
pub mod settings;
pub mod shim_client;
pub mod subresources;
mod superseded;
pub mod vm;
pub mod vmi;
pub mod watches;
mod words;

pub use context::Context;
pub use settings::Settings;
pub use watches::Watches;
