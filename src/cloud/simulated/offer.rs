//! What the embedded cloud offers: flavors, images, zones, one network and one security group.
//! Fixed, so that the few names can be learnt from the manual page.

/// A flavor.
#[derive(Debug)]
pub(super) struct Flavor {
    pub id: &'static str,
    pub name: &'static str,
    pub processors: u32,
    pub memory_mb: u64,
    pub disk_gb: u64,
}

/// An image.
#[derive(Debug)]
pub(super) struct Image {
    pub id: &'static str,
    pub name: &'static str,
}

/// The flavors.
pub(super) const FLAVORS: &[Flavor] = &[
    Flavor {
        id: "5a1e0000-0000-4000-8000-000000000001",
        name: "small",
        processors: 1,
        memory_mb: 2048,
        disk_gb: 10,
    },
    Flavor {
        id: "5a1e0000-0000-4000-8000-000000000002",
        name: "medium",
        processors: 2,
        memory_mb: 4096,
        disk_gb: 20,
    },
    Flavor {
        id: "5a1e0000-0000-4000-8000-000000000004",
        name: "large",
        processors: 4,
        memory_mb: 8192,
        disk_gb: 40,
    },
    Flavor {
        id: "5a1e0000-0000-4000-8000-000000000008",
        name: "xlarge",
        processors: 8,
        memory_mb: 16384,
        disk_gb: 80,
    },
];

/// The images, all of them private and ready.
pub(super) const IMAGES: &[Image] = &[
    Image {
        id: "5a1e0000-0000-4000-8000-000000000101",
        name: "cernvm3",
    },
    Image {
        id: "5a1e0000-0000-4000-8000-000000000102",
        name: "cernvm4",
    },
    Image {
        id: "5a1e0000-0000-4000-8000-000000000103",
        name: "vm-raw",
    },
];

/// The zones.
pub(super) const ZONES: &[&str] = &["zone-a", "zone-b"];
/// The name of the security group.
pub(super) const SECURITY_GROUP: &str = "default";
/// The name of the network.
pub(super) const NETWORK: &str = "simulated-net";
/// The identifier of the network.
pub(super) const NETWORK_ID: &str = "5a1e0000-0000-4000-8000-000000000201";
/// The region in the service catalog.
pub(super) const REGION: &str = "RegionOne";

/// The flavor with this identifier.
pub(super) fn flavor(id: &str) -> Option<&'static Flavor> {
    FLAVORS.iter().find(|flavor| flavor.id == id)
}

/// The image with this identifier.
pub(super) fn image(id: &str) -> Option<&'static Image> {
    IMAGES.iter().find(|image| image.id == id)
}
