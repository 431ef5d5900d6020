//! What EC2's words mean to the person who wrote the configuration: which option a refusal is about.

use crate::cloud::CreateRequest;
use crate::config::Ec2Options;

/// The option to look at, with its value, when a creation is refused with this code and message.
pub(super) fn option(
    code: &str,
    said: &str,
    request: &CreateRequest,
    options: &Ec2Options,
) -> Option<String> {
    let said = said.to_ascii_lowercase();
    let is = |prefix: &str| code.starts_with(prefix);
    if is("InvalidAMI") {
        return Some(format!("root_image = image:{}", request.image));
    }
    if is("InvalidInstanceType") || said.contains("instance type") || said.contains("flavor") {
        return Some(format!("flavor_names has {}", request.flavor.name));
    }
    if is("InvalidZone") || said.contains("availability zone") || said.contains("availabilityzone")
    {
        let zone = request.zone.as_deref()?;
        return Some(format!("zones has {zone:?}"));
    }
    if is("InvalidGroup") || is("InvalidSecurityGroup") {
        let groups = options.security_groups.join(" ");
        return Some(format!("security_groups = {groups}"));
    }
    if is("InvalidSubnet") {
        let network = options.network_uuid.as_deref()?;
        return Some(format!("network_uuid = {network}"));
    }
    if is("InvalidBlockDeviceMapping") || is("VolumeLimitExceeded") {
        let volume = request.volume?;
        return Some(format!(
            "volume_gb_per_processor asks for a volume of {volume} GB"
        ));
    }
    None
}
