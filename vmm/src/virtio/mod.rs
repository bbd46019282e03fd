//! virtio devices: what each offers and does ([`device`]), apart from how a driver finds it.

pub mod device;
