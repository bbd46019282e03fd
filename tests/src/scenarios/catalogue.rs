//! Every scenario, in the order in which they run.

use super::{
    Scenario, boots, cgroup_v1, channel, channels, churn, control, crash, deaths, debian, disks, endings,
    faults::{calls, streams, thirty},
    jail, lifecycle, limits, network, policy, refusals, resources, run_command, sandbox_api, upgrade, usage, vhost,
    volumes,
};

/// Every scenario.
pub fn all() -> Vec<Scenario> {
    [
        boots::SCENARIOS,
        network::SCENARIOS,
        policy::SCENARIOS,
        vhost::SCENARIOS,
        channel::SCENARIOS,
        channels::SCENARIOS,
        jail::SCENARIOS,
        endings::SCENARIOS,
        lifecycle::SCENARIOS,
        control::SCENARIOS,
        deaths::SCENARIOS,
        upgrade::SCENARIOS,
        sandbox_api::SCENARIOS,
        disks::SCENARIOS,
        volumes::SCENARIOS,
        limits::SCENARIOS,
        resources::SCENARIOS,
        usage::SCENARIOS,
        refusals::SCENARIOS,
        run_command::SCENARIOS,
        debian::SCENARIOS,
        churn::SCENARIOS,
        crash::SCENARIOS,
        calls::SCENARIOS,
        streams::SCENARIOS,
        thirty::SCENARIOS,
        cgroup_v1::SCENARIOS,
    ]
    .concat()
}
