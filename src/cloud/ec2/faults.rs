//! Why an instance ended, where it was the cloud that ended it.
//!
//! RunInstances may accept what Amazon then cannot make: such an instance is terminated within
//! seconds, and its state reason is all that tells why. Spare capacity is taken back with such a
//! reason too. What people or the instance itself have done is no fault.

use aws_sdk_ec2::types::StateReason;

use super::errors;
use crate::cloud::http::text;
use crate::model::Shortage;

/// What runs in an instance has ended it.
const OWN: &str = "Client.InstanceInitiatedShutdown";
/// The reasons that are not the cloud's doing.
const NO_FAULTS: [&str; 4] = [
    OWN,
    "Client.InstanceTerminated",
    "Client.UserInitiatedHibernate",
    "Client.UserInitiatedShutdown",
];

/// Why an instance is in the state that it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reason {
    /// Code and message, for people.
    pub said: Option<String>,
    /// Whether the cloud has ended it.
    pub is_fault: bool,
    /// Whether what runs in it has ended it.
    pub is_own: bool,
    /// What there was too little of, if it was that.
    pub shortage: Option<Shortage>,
}

impl Reason {
    pub(super) fn new(told: Option<&StateReason>) -> Self {
        let Some(told) = told else {
            return Self::default();
        };
        let message = told.message.as_deref().unwrap_or_default().trim();
        // Some give the code in the message only.
        let code = told.code.as_deref().filter(|code| !code.is_empty());
        let code = code.unwrap_or_else(|| message.split(':').next().unwrap_or_default());
        // Else it is a word for the state, such as `pending`.
        if !code.starts_with("Server.") && !code.starts_with("Client.") {
            return Self::default();
        }
        let said = if message.contains(code) || message.is_empty() {
            text::one_line(if message.is_empty() { code } else { message })
        } else {
            text::one_line(&format!("{code}: {message}"))
        };
        let is_fault = !NO_FAULTS.contains(&code);
        Self {
            said: Some(said),
            is_fault,
            is_own: code == OWN,
            shortage: errors::shortage(code).filter(|_| is_fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(code: &str, message: &str) -> Reason {
        let filled = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let told = StateReason::builder()
            .set_code(filled(code))
            .set_message(filled(message))
            .build();
        Reason::new(Some(&told))
    }

    #[test]
    fn only_what_the_cloud_did_is_a_fault_and_only_want_of_room_a_shortage() {
        for (code, is_fault, shortage) in [
            (
                "Server.InsufficientInstanceCapacity",
                true,
                Some(Shortage::Hosts),
            ),
            (
                "Server.InsufficientVolumeCapacity",
                true,
                Some(Shortage::Hosts),
            ),
            (
                "Server.SpotInstanceTermination",
                true,
                Some(Shortage::Hosts),
            ),
            ("Server.SpotInstanceShutdown", true, Some(Shortage::Hosts)),
            ("Client.VolumeLimitExceeded", true, Some(Shortage::Quota)),
            ("Server.InternalError", true, None),
            ("Client.InternalError", true, None),
            ("Client.InvalidSnapshot.NotFound", true, None),
            ("Client.UserInitiatedShutdown", false, None),
            ("Client.InstanceInitiatedShutdown", false, None),
        ] {
            let by_code = reason(code, "said");
            assert_eq!(
                (by_code.is_fault, by_code.shortage),
                (is_fault, shortage),
                "{code}"
            );
            assert_eq!(by_code.said, Some(format!("{code}: said")));
            let message = format!("{code}: said");
            assert_eq!(reason("", &message), by_code);
            assert_eq!(reason(code, &message), by_code);
            assert_eq!(reason(code, "").said.as_deref(), Some(code));
        }
        assert_eq!(reason("pending", "pending"), Reason::default());
        assert_eq!(reason("", ""), Reason::default());
        assert_eq!(Reason::new(None), Reason::default());
    }
}
