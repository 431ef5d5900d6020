//! The documents of Keystone, Nova and Glance, as far as we read and write them.
//!
//! A listing has thousands of servers, so its types borrow from the body. Where a member may be
//! missing or null it is an `Option` here: clouds differ, and a server that is being built has
//! many nulls. What we cannot do without is not optional, and its absence makes the whole document
//! unreadable.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::document::Few;

/// The most servers on a page; a cloud sets its own limit, of 1,000 unless it is changed.
const MAX_SERVERS: usize = 100_000;
/// The most addresses of a server in one network.
const MAX_ADDRESSES: usize = 1000;
/// The most volumes of a server; hypervisors take a few dozens.
const MAX_VOLUMES: usize = 1000;
/// The most flavors or images on a page.
const MAX_ITEMS: usize = 10_000;
/// The most services of a catalog, endpoints of a service, and links of a page.
const MAX_SERVICES: usize = 500;

/// Text that borrows from the document where it has no escapes. (`Option<Cow<str>>` never does.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Text<'_>> for String {
    fn from(text: Text<'_>) -> Self {
        text.0.into_owned()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// One page of `GET /servers/detail`.
#[derive(Debug, Deserialize)]
pub(super) struct ServerPage<'a> {
    #[serde(borrow)]
    pub servers: Few<Server<'a>, MAX_SERVERS>,
    #[serde(default, borrow)]
    pub servers_links: Option<Links<'a>>,
}

/// `GET /servers/ID`.
#[derive(Debug, Deserialize)]
pub(super) struct ServerDocument<'a> {
    #[serde(borrow)]
    pub server: Server<'a>,
}

/// One server of a page.
#[derive(Debug, Deserialize)]
pub(super) struct Server<'a> {
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub status: Text<'a>,
    #[serde(rename = "OS-EXT-STS:task_state", default, borrow)]
    pub task_state: Option<Text<'a>>,
    #[serde(rename = "OS-EXT-STS:power_state", default)]
    pub power_state: Option<u32>,
    #[serde(default, borrow)]
    pub created: Option<Text<'a>>,
    #[serde(rename = "OS-SRV-USG:launched_at", default, borrow)]
    pub launched_at: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub updated: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub flavor: Option<ServerFlavor<'a>>,
    #[serde(default, borrow)]
    pub addresses: Option<FirstAddress<'a>>,
    #[serde(rename = "OS-EXT-AZ:availability_zone", default, borrow)]
    pub zone: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub key_name: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub image: Option<ServerImage<'a>>,
    #[serde(default, borrow)]
    pub fault: Option<Fault<'a>>,
    #[serde(default, borrow)]
    pub metadata: Option<Metadata<'a>>,
    #[serde(rename = "os-extended-volumes:volumes_attached", default, borrow)]
    pub volumes: Option<Few<AttachedVolume<'a>, MAX_VOLUMES>>,
}

/// A volume of a server.
#[derive(Debug, Deserialize)]
pub(super) struct AttachedVolume<'a> {
    #[serde(borrow)]
    pub id: Text<'a>,
}

/// A server's flavor: an identifier at the default microversion, the flavor's figures since 2.47.
#[derive(Debug, Deserialize)]
pub(super) struct ServerFlavor<'a> {
    #[serde(default, borrow)]
    pub id: Option<Text<'a>>,
    #[serde(default)]
    pub vcpus: Option<u32>,
}

/// A server's image: an object with its identifier, or an empty text for one that boots from a
/// volume.
#[derive(Debug)]
pub(super) struct ServerImage<'a>(pub Option<Text<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for ServerImage<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object<'a> {
            #[serde(default, borrow)]
            id: Option<Text<'a>>,
        }
        struct ImageVisitor;
        impl<'de> Visitor<'de> for ImageVisitor {
            type Value = ServerImage<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an image or an empty text")
            }
            fn visit_str<E>(self, _: &str) -> Result<ServerImage<'de>, E> {
                Ok(ServerImage(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let object = serde::de::value::MapAccessDeserializer::new(map);
                Ok(ServerImage(Object::deserialize(object)?.id))
            }
        }
        deserializer.deserialize_any(ImageVisitor)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Fault<'a> {
    #[serde(default, borrow)]
    pub message: Option<Text<'a>>,
}

/// `GET /servers/ID`, of which only the fault is wanted.
#[derive(Debug, Deserialize)]
pub(super) struct ServerFaultDocument<'a> {
    #[serde(borrow)]
    pub server: ServerFault<'a>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ServerFault<'a> {
    #[serde(default, borrow)]
    pub fault: Option<Fault<'a>>,
}

/// Of the metadata, what says who made the server.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata<'a> {
    #[serde(default, borrow)]
    pub space: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub manager: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub machinetype: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub name: Option<Text<'a>>,
}

/// Of `addresses` (network name to list of addresses), the first IPv4 address, else the first.
#[derive(Debug, Default)]
pub(super) struct FirstAddress<'a>(pub Option<Text<'a>>);

#[derive(Debug, Deserialize)]
struct Address<'a> {
    #[serde(borrow)]
    addr: Text<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for FirstAddress<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NetworksVisitor;
        impl<'de> Visitor<'de> for NetworksVisitor {
            type Value = FirstAddress<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("networks and their addresses")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut first: Option<Text<'de>> = None;
                while let Some((_, addresses)) =
                    map.next_entry::<serde::de::IgnoredAny, Few<Address<'de>, MAX_ADDRESSES>>()?
                {
                    for Address { addr } in addresses.0 {
                        let better = first.as_ref().is_none_or(|known| {
                            known.as_str().contains(':') && !addr.as_str().contains(':')
                        });
                        if better {
                            first = Some(addr);
                        }
                    }
                }
                Ok(FirstAddress(first))
            }
        }
        deserializer.deserialize_map(NetworksVisitor)
    }
}

/// The links of a page.
pub(super) type Links<'a> = Few<Link<'a>, MAX_SERVICES>;

/// A link of a page.
#[derive(Debug, Deserialize)]
pub(super) struct Link<'a> {
    #[serde(borrow)]
    pub rel: Text<'a>,
    #[serde(borrow)]
    pub href: Text<'a>,
}

/// The address of the next page; `None` only when this is the last.
pub(super) fn next_page<'a>(links: Option<&'a Links<'_>>) -> Option<&'a str> {
    let Few(links) = links?;
    links
        .iter()
        .find(|link| link.rel.as_str() == "next")
        .map(|link| link.href.as_str())
}

/// One page of `GET /flavors/detail`.
#[derive(Debug, Deserialize)]
pub(super) struct FlavorPage<'a> {
    pub flavors: Few<WireFlavor, MAX_ITEMS>,
    #[serde(default, borrow)]
    pub flavors_links: Option<Links<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WireFlavor {
    pub id: String,
    pub name: String,
    pub vcpus: u32,
    #[serde(default)]
    pub ram: Option<u64>,
    #[serde(default)]
    pub disk: Option<u64>,
    #[serde(rename = "OS-FLV-DISABLED:disabled", default)]
    pub disabled: Option<bool>,
}

/// `GET /limits`. Negative means no limit.
#[derive(Debug, Deserialize)]
pub(super) struct LimitsDocument {
    pub limits: Limits,
}

#[derive(Debug, Deserialize)]
pub(super) struct Limits {
    pub absolute: AbsoluteLimits,
}

#[derive(Debug, Deserialize)]
pub(super) struct AbsoluteLimits {
    #[serde(rename = "maxTotalInstances", default)]
    pub instances: Option<i64>,
    #[serde(rename = "maxTotalCores", default)]
    pub cores: Option<i64>,
}

/// The body of `POST /servers`.
#[derive(Debug, Serialize)]
pub(super) struct NewServerDocument<'a> {
    pub server: NewServer<'a>,
}

#[derive(Debug, Serialize)]
pub(super) struct NewServer<'a> {
    pub name: &'a str,
    #[serde(rename = "flavorRef")]
    pub flavor: &'a str,
    /// Not for a server that boots from a volume: the volume's source tells the image.
    #[serde(rename = "imageRef", skip_serializing_if = "Option::is_none")]
    pub image: Option<&'a str>,
    #[serde(
        rename = "block_device_mapping_v2",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub block_devices: Vec<BlockDevice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_name: Option<&'a str>,
    pub user_data: &'a str,
    pub metadata: &'a std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<Named<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<&'a str>,
}

/// A device of a new server. All members are in Nova's API from its default microversion on.
#[derive(Debug, Serialize)]
pub(super) struct BlockDevice<'a> {
    /// 0 is the device to boot from.
    pub boot_index: u32,
    /// The identifier of the source.
    pub uuid: &'a str,
    pub source_type: &'static str,
    pub destination_type: &'static str,
    /// In the cloud's GB.
    pub volume_size: u64,
    pub delete_on_termination: bool,
}

impl<'a> BlockDevice<'a> {
    /// A volume of its own that Nova makes from an image, and deletes with the server.
    pub(super) const fn boot_volume(image: &'a str, gigabytes: u64) -> Self {
        Self {
            boot_index: 0,
            uuid: image,
            source_type: "image",
            destination_type: "volume",
            volume_size: gigabytes,
            delete_on_termination: true,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Named<'a> {
    pub name: &'a str,
}

#[derive(Debug, Serialize)]
pub(super) struct Network<'a> {
    pub uuid: &'a str,
}

/// The answer to `POST /servers`.
#[derive(Debug, Deserialize)]
pub(super) struct CreatedDocument {
    pub server: Created,
}

#[derive(Debug, Deserialize)]
pub(super) struct Created {
    pub id: String,
}

/// One page of `GET /v2/images`.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub(super) struct ImagePage<T> {
    pub images: Few<T, MAX_ITEMS>,
    #[serde(default)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Image {
    pub id: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub status: Option<String>,
}

/// The answer of an identity service of version 3 to a request for a token. The token itself is
/// in a header.
#[derive(Debug, Deserialize)]
pub(super) struct TokenV3Document {
    pub token: TokenV3,
}

#[derive(Debug, Deserialize)]
pub(super) struct TokenV3 {
    #[serde(default)]
    pub issued_at: Option<String>,
    #[serde(default)]
    pub expires_at: Option<String>,
    #[serde(default)]
    pub catalog: Option<Few<ServiceV3, MAX_SERVICES>>,
    #[serde(default)]
    pub project: Option<Identified>,
}

/// Something of which only the identifier is wanted.
#[derive(Debug, Deserialize)]
pub(super) struct Identified {
    #[serde(default)]
    pub id: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ServiceV3 {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub endpoints: Few<EndpointV3, MAX_SERVICES>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EndpointV3 {
    pub interface: String,
    pub url: String,
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub region_id: Option<String>,
}

/// The answer of an identity service of version 2.0 to a request for a token.
#[derive(Deserialize)]
pub(super) struct TokenV2Document {
    pub access: AccessV2,
}

#[derive(Deserialize)]
pub(super) struct AccessV2 {
    pub token: TokenV2,
    #[serde(rename = "serviceCatalog", default)]
    pub catalog: Option<Few<ServiceV2, MAX_SERVICES>>,
}

#[derive(Deserialize)]
pub(super) struct TokenV2 {
    pub id: String,
    #[serde(default)]
    pub issued_at: Option<String>,
    #[serde(default)]
    pub expires: Option<String>,
    #[serde(default)]
    pub tenant: Option<Identified>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ServiceV2 {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub endpoints: Few<EndpointV2, MAX_SERVICES>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EndpointV2 {
    #[serde(default)]
    pub region: Option<String>,
    #[serde(rename = "publicURL", default)]
    pub public: Option<String>,
}

/// The version document of an identity service: of all versions, or of one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum VersionDocument {
    All { versions: Versions },
    One { version: Version },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Versions {
    Wrapped { values: Vec<Version> },
    Plain(Vec<Version>),
}

#[derive(Debug, Deserialize)]
pub(super) struct Version {
    pub id: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_texts_borrow_and_escaped_ones_do_not() {
        let page =
            r#"{"servers": [{"id": "i", "name": "a\"b", "status": "ACTIVE", "updated": "t"}]}"#;
        let page: ServerPage<'_> = serde_json::from_str(page).unwrap();
        let server = &page.servers.0[0];
        assert!(matches!(server.id.0, Cow::Borrowed("i")));
        assert!(matches!(&server.name.0, Cow::Owned(name) if name == "a\"b"));
        assert!(matches!(server.updated, Some(Text(Cow::Borrowed("t")))));
    }

    #[test]
    fn an_ipv4_address_comes_before_the_first() {
        let cases = [
            (r#"{}"#, None),
            (r#"{"n": []}"#, None),
            (
                r#"{"n": [{"addr": "10.0.0.1"}, {"addr": "10.0.0.2"}]}"#,
                Some("10.0.0.1"),
            ),
            (
                r#"{"n": [{"addr": "fe80::1", "version": 6}], "m": [{"addr": "10.0.0.1"}]}"#,
                Some("10.0.0.1"),
            ),
            (
                r#"{"n": [{"addr": "fe80::1"}, {"addr": "fe80::2"}]}"#,
                Some("fe80::1"),
            ),
        ];
        for (json, expected) in cases {
            let first: FirstAddress<'_> = serde_json::from_str(json).unwrap();
            assert_eq!(first.0.as_ref().map(Text::as_str), expected, "{json}");
        }
    }

    #[test]
    fn version_documents_of_all_ages_are_read() {
        for json in [
            r#"{"versions": {"values": [{"id": "v3.14", "links": []}]}}"#,
            r#"{"versions": [{"id": "v3.14"}]}"#,
            r#"{"version": {"id": "v3.14"}}"#,
        ] {
            assert!(
                serde_json::from_str::<VersionDocument>(json).is_ok(),
                "{json}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_document_is_read_or_refused(body in "[\\[\\]{}\":,a-z0-9null ]{0,200}") {
            let _ = serde_json::from_str::<ServerPage<'_>>(&body).is_ok();
            let page = format!(r#"{{"servers": [{{"id": {body}, "name": "n", "status": "s"}}]}}"#);
            let _ = serde_json::from_str::<ServerPage<'_>>(&page).is_ok();
        }
    }
}
