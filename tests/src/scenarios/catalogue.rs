//! Every scenario, in the order in which they run.

use super::{
    Scenario, boots, channel, channels, churn, control, crash, deaths, debian, disks, endings, jail, limits, network,
    refusals, resources, run_command, vhost, volumes,
};

/// Every scenario.
pub fn all() -> Vec<Scenario> {
    [
        boots::SCENARIOS,
        network::SCENARIOS,
        vhost::SCENARIOS,
        channel::SCENARIOS,
        channels::SCENARIOS,
        jail::SCENARIOS,
        endings::SCENARIOS,
        control::SCENARIOS,
        deaths::SCENARIOS,
        disks::SCENARIOS,
        volumes::SCENARIOS,
        limits::SCENARIOS,
        resources::SCENARIOS,
        refusals::SCENARIOS,
        run_command::SCENARIOS,
        debian::SCENARIOS,
        churn::SCENARIOS,
        crash::SCENARIOS,
    ]
    .concat()
}
