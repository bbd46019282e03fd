//! Every test of the cluster layer.

use super::{
    Test, admission, cells, data_volumes, faults, guests, harness, heartbeats, instances, kubectl, limits, machines,
    metrics, monitoring, node, operator, ports, replica_sets, requests, sizes, subresources, whole_path,
};

/// Every test of the cluster layer.
pub(super) fn all() -> Vec<Test> {
    [
        harness::TESTS,
        cells::TESTS,
        instances::TESTS,
        guests::TESTS,
        limits::TESTS,
        kubectl::TESTS,
        machines::TESTS,
        ports::TESTS,
        sizes::TESTS,
        data_volumes::TESTS,
        replica_sets::TESTS,
        heartbeats::TESTS,
        faults::alone().as_slice(),
        data_volumes::ALONE,
        admission::ALONE,
        metrics::ALONE,
        monitoring::ALONE,
        subresources::ALONE,
        requests::ALONE,
        operator::TESTS,
        node::TESTS,
        whole_path::TESTS,
    ]
    .concat()
}
