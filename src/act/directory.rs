//! What the directory of a machine holds, whether it is asked for or was found on the cloud.

use super::mjf::{self, Size};
use crate::config::SpaceConfig;
use crate::model::{FactoryName, MachineName, MachinetypeName, Timestamp};
use crate::state::NewMachine;

/// The directory of a machine created at `created`, without identifier and user_data, which its
/// caller adds. What depends on the machinetype is left out when that is not configured.
pub fn contents(
    space: &SpaceConfig,
    factory: &FactoryName,
    (name, machinetype): (&MachineName, &MachinetypeName),
    size: Size,
    created: Timestamp,
) -> NewMachine {
    let configured = space.machinetypes.get(machinetype);
    let (machinefeatures, jobfeatures) = mjf::features(space, configured, size, created);
    NewMachine {
        name: name.clone(),
        space: space.name.clone(),
        machinetype: machinetype.clone(),
        manager: factory.clone(),
        created,
        id: None,
        https_x509dn: configured
            .and_then(|configured| configured.x509dn.as_ref())
            .map(ToString::to_string),
        token: None,
        fizzle: configured.map(|configured| configured.fizzle),
        hepscore23_per_processor: configured
            .and_then(|configured| configured.hepscore23_per_processor),
        accounting_fqan: configured.and_then(|configured| configured.accounting_fqan.clone()),
        log_joboutputs: configured.is_some_and(|configured| configured.log_joboutputs),
        flavor: None,
        zone: None,
        user_data: None,
        machinefeatures,
        jobfeatures,
    }
}
