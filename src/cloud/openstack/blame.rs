//! What Nova's words mean to the person who wrote the configuration: which option a refusal is
//! about, and whether a failure says that there was no room.
//!
//! Nova's messages are the only place where it says this: a wrong zone, security group and network
//! have the same status. They have been the same for many releases, and what is not recognised is
//! told as it is, without the name of an option.

use crate::cloud::CreateRequest;
use crate::config::OpenStackOptions;
use crate::model::Shortage;

/// What says, in a refusal of a creation, that the cloud has no room for it in its zone. A zone
/// whose hosts are all down is said to be not available, like one that never was.
pub(super) const NO_ROOM: &[&str] = &[
    "no valid host",
    "not enough hosts",
    "requested availability zone is not available",
];

/// The option to look at, with its value, when a creation is refused with these words.
pub(super) fn option(
    said: &str,
    request: &CreateRequest,
    options: &OpenStackOptions,
) -> Option<String> {
    let said = said.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["availability zone"]) {
        let zone = request.zone.as_deref()?;
        return Some(format!("zones has {zone:?}"));
    }
    if says(&["security_group", "security group"]) {
        return Some(format!(
            "security_groups = {}",
            options.security_groups.join(" ")
        ));
    }
    if says(&["possible networks", "more than one network"]) {
        return Some("network_uuid says which network to use".to_owned());
    }
    if says(&["network"]) {
        let network = options.network_uuid.as_deref()?;
        return Some(format!("network_uuid = {network}"));
    }
    if says(&["flavor"]) && says(&["could not be found"]) {
        return Some(format!("flavor_names has {}", request.flavor.name));
    }
    if says(&["zero disk"]) {
        return Some("volume_gb_per_processor gives machines a volume to boot from".to_owned());
    }
    if says(&["requested image"]) {
        return Some(format!("root_image = image:{}", request.image));
    }
    if says(&["volume", "disk is too small"]) {
        let volume = request.volume?;
        return Some(format!(
            "volume_gb_per_processor asks for a volume of {volume} GB"
        ));
    }
    None
}

/// What there was too little of for a server that Nova had agreed to make, by its fault. A server
/// that hosts tried to make and could not is no sign of want of room.
pub(super) fn shortage(fault: &str) -> Option<Shortage> {
    let fault = fault.to_ascii_lowercase();
    let says = |word: &str| fault.contains(word);
    if says("no valid host") || says("not enough hosts") {
        Some(Shortage::Hosts)
    } else if says("quota") || says("maximum number of ports") {
        Some(Shortage::Quota)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_want_of_room_is_a_shortage() {
        for (fault, expected) in [
            (
                "No valid host was found. There are not enough hosts available.",
                Some(Shortage::Hosts),
            ),
            (
                "Quota exceeded for cores: Requested 4, but already used 4 of 4 cores",
                Some(Shortage::Quota),
            ),
            (
                "Build of instance x aborted: publicURL endpoint for volumev3 service not found",
                None,
            ),
            (
                "Exceeded maximum number of retries. Exceeded max scheduling attempts 3",
                None,
            ),
            (
                "Build of instance x aborted: VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded for quota 'volumes'.",
                Some(Shortage::Quota),
            ),
            ("", None),
        ] {
            assert_eq!(shortage(fault), expected, "{fault}");
        }
    }
}
