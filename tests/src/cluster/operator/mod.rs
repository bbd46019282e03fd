//! The operator, with the rights of its own account and no more: a real API server, and Vireo's pods as processes of this machine.
//!
//! ```text
//!   vireo      Vireo as it is deployed: what every test starts from
//!   callers    who asks Vireo all the time, and wants an answer each time
//!   upkeep     it deploys; what others change is put back; what is configured holds at once
//!   roles      what KubeVirt's roles let users do, by the aggregated API
//!   rotation   certificates are replaced while they are used
//!   upgrade    another version takes an older one's place, and the other way round
//!   removal    all goes, or nothing while there are machines
//! ```
//!
//! One after the other on one cluster: whoever comes second finds Vireo deployed. The last removes it.

mod callers;
mod removal;
mod roles;
mod rotation;
mod upgrade;
mod upkeep;
mod vireo;

use removal::{
    nothing_goes_while_there_are_machines_where_the_object_says_so, vireo_goes_with_all_that_it_made_whoever_is_killed,
};
use roles::users_may_what_their_roles_say;
use rotation::certificates_are_replaced_and_no_call_fails;
use upgrade::an_upgrade_and_a_downgrade_interrupt_nobody;
use upkeep::{an_operator_deploys_vireo_and_keeps_it_as_it_is, what_is_configured_holds_without_a_restart};

use super::{Test, tests};

pub(super) const TESTS: &[Test] = tests![Operator:
    an_operator_deploys_vireo_and_keeps_it_as_it_is,
    what_is_configured_holds_without_a_restart,
    users_may_what_their_roles_say,
    certificates_are_replaced_and_no_call_fails,
    an_upgrade_and_a_downgrade_interrupt_nobody,
    nothing_goes_while_there_are_machines_where_the_object_says_so,
    vireo_goes_with_all_that_it_made_whoever_is_killed,
];
