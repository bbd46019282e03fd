//! The rows: names, what the guest is asked, what of its answer is told.

/// At least as fast as the peer.
const EVEN: f64 = 1.0;
/// 1.3 times as fast.
const FASTER: f64 = 0.77;
/// How long a load runs, milliseconds.
pub const TIME: u32 = 400;

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// `group/what`.
    pub name: String,
    /// What the guest is asked.
    pub what: What,
    /// Of the figure.
    pub unit: &'static str,
    /// Units of the figure per nanosecond and unit of the load.
    pub scale: f64,
    /// The aim for Vireo's part of the peer's time.
    pub bound: f64,
}

/// What the guest is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Its words after the device.
    Disk {
        /// Which of its disks.
        disk: usize,
        /// The rest.
        load: String,
    },
    /// `send`, `receive` or `echo` over the network.
    Tcp {
        /// Which.
        load: &'static str,
        /// How the packets get there.
        way: Way,
    },
    /// The same over vsock.
    Vsock(&'static str),
}

/// How packets get from a guest to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A tap of the node's, by the node's kernel (vhost-net).
    Tap,
    /// A tap of the node's, by the monitor itself.
    Userspace,
    /// A pod's network namespace with the shim's tap and rules in it, and the pod's veth, by the node's kernel.
    Masquerade,
    /// The same, bridged.
    Bridge,
}

/// All of them. Disks are in the rig's order.
pub fn rows() -> impl Iterator<Item = Row> {
    disks().chain(streams())
}

fn streams() -> impl Iterator<Item = Row> {
    // Nanoseconds per KiB become microseconds per MiB.
    let loads = [
        ("host_to_guest", "receive", "us/MiB", 1.024),
        ("guest_to_host", "send", "us/MiB", 1.024),
        ("round_trip", "echo", "us", 1e-3),
    ];
    let kinds = [
        ("net/tcp", Some(Way::Tap)),
        ("net/userspace_tcp", Some(Way::Userspace)),
        ("net/pod_masquerade_tcp", Some(Way::Masquerade)),
        ("net/pod_bridge_tcp", Some(Way::Bridge)),
        ("vsock/stream", None),
    ];
    kinds.into_iter().flat_map(move |(kind, way)| {
        loads.map(|(name, load, unit, scale)| {
            let what = match way {
                Some(way) => What::Tcp { load, way },
                None => What::Vsock(load),
            };
            Row { name: format!("{kind}_{name}"), what, unit, scale, bound: EVEN }
        })
    })
}

fn disks() -> impl Iterator<Item = Row> {
    let mut rows = Vec::new();
    for (disk, format) in ["raw", "qcow2"].into_iter().enumerate() {
        for (order, order_name) in [("rand", "random"), ("seq", "sequential")] {
            for (block, block_name) in [(4 << 10, "4k"), (128 << 10, "128k")] {
                for direction in ["read", "write"] {
                    for depth in [1, 32] {
                        let small_and_random = order == "rand" && block == 4 << 10;
                        rows.push(Row {
                            name: format!("disk/{format}_{order_name}_{direction}_{block_name}_depth_{depth}"),
                            what: What::Disk { disk, load: format!("{direction} {order} {block} {depth}") },
                            unit: "us",
                            scale: 1e-3,
                            bound: if small_and_random { FASTER } else { EVEN },
                        });
                    }
                }
            }
        }
    }
    rows.into_iter()
}

#[cfg(test)]
mod tests {
    use super::{What, rows};

    #[test]
    fn names_are_unique_and_small_random_io_has_the_higher_aim() {
        let all: Vec<_> = rows().collect();
        for (at, row) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other.name != row.name), "{}", row.name);
        }
        let row = all.iter().find(|row| row.name == "disk/qcow2_random_read_4k_depth_32").unwrap();
        assert_eq!(row.what, What::Disk { disk: 1, load: "read rand 4096 32".to_owned() });
        assert!((row.bound - 0.77).abs() < 1e-9);
        assert!(all.iter().all(|row| row.bound <= 1.0));
    }
}
