//! A request for a server, and what Nova checks in it before it looks at quotas.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::offer;
use super::project::Refusal;

/// Nova's limit on metadata items of one server.
const MAX_METADATA: usize = 128;
/// Nova's limit on a name, and on a metadata key or value, in characters.
const MAX_CHARS: usize = 255;
/// Nova's limit on encoded user_data, in bytes.
const MAX_USER_DATA: usize = 65_535;

/// What a creation asks for: the body of `POST /servers`.
#[derive(Debug, Deserialize)]
pub(super) struct Order {
    pub name: String,
    #[serde(rename = "flavorRef")]
    pub flavor: String,
    /// Missing or empty for a server that boots from a volume.
    #[serde(rename = "imageRef", default)]
    pub image: String,
    #[serde(rename = "block_device_mapping_v2", default)]
    pub block_devices: Vec<BlockDevice>,
    #[serde(default)]
    pub key_name: Option<String>,
    #[serde(default)]
    pub availability_zone: Option<String>,
    #[serde(default)]
    pub security_groups: Vec<GroupName>,
    /// A list of networks, or a word for all or none of them.
    #[serde(default)]
    pub networks: Value,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub user_data: Option<String>,
}

/// A security group as an order names it.
#[derive(Debug, Deserialize)]
pub(super) struct GroupName {
    pub name: String,
}

/// A device that an order asks for: here always a volume to boot from.
#[derive(Debug, Deserialize)]
pub(super) struct BlockDevice {
    pub boot_index: i64,
    pub uuid: String,
    pub source_type: String,
    pub destination_type: String,
    #[serde(default)]
    pub volume_size: u64,
    #[serde(default)]
    pub delete_on_termination: bool,
}

impl BlockDevice {
    fn check(&self) -> Result<(), Refusal> {
        let bad = |message: &str| Err(Refusal::BadRequest(message.to_owned()));
        let kinds = (self.source_type.as_str(), self.destination_type.as_str());
        if kinds != ("image", "volume") || !self.delete_on_termination {
            return bad(
                "Block Device Mapping is Invalid: the simulated cloud makes a volume from an \
                 image and deletes it with its server.",
            );
        }
        if self.boot_index != 0 {
            return bad(
                "Block Device Mapping is Invalid: Boot sequence for the instance and image/block \
                 device mapping combination is not valid.",
            );
        }
        if self.volume_size == 0 {
            return bad(
                "Block Device Mapping is Invalid: Images with destination_type 'volume' need to \
                 have a non-zero size specified",
            );
        }
        Ok(())
    }
}

impl Order {
    /// The image that the server is made from, directly or by a volume.
    fn source(&self) -> &str {
        let volume = self.block_devices.first();
        volume.map_or(self.image.as_str(), |volume| volume.uuid.as_str())
    }

    /// Everything but the flavor and the quotas. What cannot be found is a bad request, as with
    /// Nova; `has_key` tells which key pairs there are.
    pub(super) fn check(
        &self,
        has_key: impl Fn(&str) -> bool,
        has_image: impl Fn(&str) -> bool,
    ) -> Result<(), Refusal> {
        let bad = |message: &str| Err(Refusal::BadRequest(message.to_owned()));
        let too_long = |text: &str| text.chars().count() > MAX_CHARS;
        if self.name.trim().is_empty() || too_long(&self.name) {
            return bad("Invalid input for field/attribute name.");
        }
        let user_data = self.user_data.as_deref().unwrap_or_default();
        if user_data.len() > MAX_USER_DATA {
            return bad("Invalid input for field/attribute user_data. It is too long");
        }
        let mut metadata = self.metadata.iter();
        if metadata.any(|(key, value)| too_long(key) || too_long(value)) {
            return bad("Invalid input for field/attribute metadata. It is too long");
        }
        if self.metadata.len() > MAX_METADATA {
            return Err(Refusal::Forbidden(format!(
                "Maximum number of metadata items exceeds {MAX_METADATA}"
            )));
        }
        for device in &self.block_devices {
            device.check()?;
        }
        if !has_image(self.source()) {
            return bad("Can not find requested image");
        }
        if self.key_name.as_deref().is_some_and(|key| !has_key(key)) {
            return bad("Invalid key_name provided.");
        }
        let zone = self.availability_zone.as_deref();
        if zone.is_some_and(|zone| !offer::ZONES.contains(&zone)) {
            return bad("The requested availability zone is not available");
        }
        self.check_security_groups()?;
        self.check_networks()
    }

    fn check_security_groups(&self) -> Result<(), Refusal> {
        let mut groups = self.security_groups.iter();
        match groups.find(|group| group.name != offer::SECURITY_GROUP) {
            None => Ok(()),
            Some(GroupName { name }) => Err(Refusal::BadRequest(format!(
                "Unable to find security_group with name or id '{name}'"
            ))),
        }
    }

    fn check_networks(&self) -> Result<(), Refusal> {
        for network in self.networks.as_array().into_iter().flatten() {
            let uuid = network.get("uuid").and_then(Value::as_str);
            if uuid != Some(offer::NETWORK_ID) {
                return Err(Refusal::BadRequest(format!(
                    "Network {} could not be found.",
                    uuid.unwrap_or("None")
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nova_cannot_find_is_a_bad_request() {
        type Change = fn(&mut Order);
        let cases: [(Change, &str); 10] = [
            (
                |o| o.block_devices[0].uuid = "x".into(),
                "Can not find requested image",
            ),
            (
                |o| o.block_devices[0].volume_size = 0,
                "Block Device Mapping is Invalid: Images with destination_type 'volume' need to \
                 have a non-zero size specified",
            ),
            (
                |o| o.name = " ".into(),
                "Invalid input for field/attribute name.",
            ),
            (
                |o| (o.image, o.block_devices) = ("x".into(), Vec::new()),
                "Can not find requested image",
            ),
            (
                |o| o.key_name = Some("x".into()),
                "Invalid key_name provided.",
            ),
            (
                |o| o.availability_zone = Some("x".into()),
                "The requested availability zone is not available",
            ),
            (
                |o| o.security_groups = vec![GroupName { name: "x".into() }],
                "Unable to find security_group with name or id 'x'",
            ),
            (
                |o| o.networks = serde_json::json!([{"uuid": "x"}]),
                "Network x could not be found.",
            ),
            (
                |o| o.user_data = Some("x".repeat(MAX_USER_DATA + 1)),
                "Invalid input for field/attribute user_data. It is too long",
            ),
            (
                |o| drop(o.metadata.insert("x".into(), "x".repeat(256))),
                "Invalid input for field/attribute metadata. It is too long",
            ),
        ];
        let image = offer::IMAGES[0].id;
        let has_image = |id: &str| id == image;
        let order = || -> Order {
            let body = serde_json::json!({"name": "a", "flavorRef": "f",
                "block_device_mapping_v2": [{"boot_index": 0, "uuid": image, "volume_size": 20,
                    "source_type": "image", "destination_type": "volume",
                    "delete_on_termination": true}]});
            serde_json::from_value(body).unwrap()
        };
        assert_eq!(order().check(|_| false, has_image), Ok(()));
        for (change, message) in cases {
            let mut order = order();
            change(&mut order);
            let refusal = Err(Refusal::BadRequest(message.to_owned()));
            assert_eq!(order.check(|_| false, has_image), refusal);
        }
    }
}
