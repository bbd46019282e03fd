//! The cluster half of Vireo: it will turn KubeVirt's `VirtualMachine` objects into pods with
//! `runtimeClassName: vireo` and move running guests between shims.
//!
//! Nothing of it exists yet: today a VM is a pod that names the runtime class, or a file given to `vireo run`.
#![forbid(unsafe_code)]
