//! The service catalog: which address serves compute, images, networks and volumes in our region.

use url::Url;

use super::wire::{ServiceV2, ServiceV3};

/// The longest address that is believed, in bytes: it is part of every message about a request.
const MAX_ADDRESS: usize = 1000;
/// The longest name of a region that is believed, in bytes: that in use is kept. Keystone's have at
/// most 255 characters.
const MAX_REGION: usize = 1024;

/// A public endpoint, in the terms of every version of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub service: String,
    pub region: String,
    pub url: String,
}

/// The addresses that a space needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Services {
    /// The region that they are all of.
    pub region: String,
    pub compute: Url,
    /// The image service with its version; a cloud may have none.
    pub image: Option<Url>,
    /// The network service with its version; a cloud may have none.
    pub network: Option<Url>,
    /// The volume service with its version and project; a cloud may have none.
    pub volume: Option<Url>,
}

/// Which region is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted<'a> {
    /// The first of the catalog that has compute.
    First,
    /// That of the configuration.
    Configured(&'a str),
    /// The one that was the first in an earlier catalog: our machines are there.
    UsedSoFar(&'a str),
}

/// Whether endpoints of this service are looked at.
fn is_used(service: &str) -> bool {
    matches!(service, "compute" | "image" | "network") || VOLUME_SERVICES.contains(&service)
}

pub(super) fn endpoints_v3(catalog: Vec<ServiceV3>) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for service in catalog.into_iter().filter(|service| is_used(&service.kind)) {
        for endpoint in service.endpoints.0 {
            if matches!(endpoint.interface.as_str(), "public" | "publicURL") {
                all.push(Endpoint {
                    service: service.kind.clone(),
                    region: endpoint.region.or(endpoint.region_id).unwrap_or_default(),
                    url: endpoint.url,
                });
            }
        }
    }
    all
}

pub(super) fn endpoints_v2(catalog: Vec<ServiceV2>) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for service in catalog.into_iter().filter(|service| is_used(&service.kind)) {
        for endpoint in service.endpoints.0 {
            if let Some(url) = endpoint.public {
                all.push(Endpoint {
                    service: service.kind.clone(),
                    region: endpoint.region.unwrap_or_default(),
                    url,
                });
            }
        }
    }
    all
}

/// Chooses the endpoints of the region that is `wanted`.
///
/// # Errors
/// A sentence that says what is missing and what there is.
pub(super) fn choose(endpoints: &[Endpoint], wanted: Wanted<'_>) -> Result<Services, String> {
    let mut with_compute = with_compute(endpoints);
    let compute = match wanted {
        Wanted::First => with_compute.next(),
        Wanted::Configured(region) | Wanted::UsedSoFar(region) => {
            with_compute.find(|e| e.region == region)
        }
    };
    let Some(compute) = compute else {
        return Err(nothing_found(endpoints, wanted));
    };
    let image = endpoints
        .iter()
        .find(|e| e.service == "image" && e.region == compute.region)
        .map(|e| address(e).map(|url| with_version(url, "v2")))
        .transpose()?;
    // Machines need neither of these, so that a wrong address of theirs is as good as none.
    let side_service = |kind: &str| {
        let mut of_region = endpoints.iter().filter(|e| e.region == compute.region);
        of_region
            .find(|e| e.service == kind)
            .and_then(|e| address(e).ok())
    };
    let network = side_service("network").map(|url| with_version(url, "v2.0"));
    let volume = VOLUME_SERVICES.into_iter().find_map(side_service);
    Ok(Services {
        region: compute.region.clone(),
        compute: address(compute)?,
        image,
        network,
        volume,
    })
}

/// What Cinder is called in catalogs, the oldest last: version 2 lists volumes as version 3 does.
const VOLUME_SERVICES: [&str; 4] = ["volumev3", "block-storage", "block-store", "volumev2"];

fn with_compute(endpoints: &[Endpoint]) -> impl Iterator<Item = &Endpoint> {
    endpoints
        .iter()
        .filter(|e| e.service == "compute" && e.region.len() <= MAX_REGION)
}

/// The regions that have compute, by name: the order of a catalog is none.
pub(super) fn regions(endpoints: &[Endpoint]) -> Vec<&str> {
    let mut regions: Vec<&str> = with_compute(endpoints).map(|e| e.region.as_str()).collect();
    regions.sort_unstable();
    regions.dedup();
    regions
}

fn nothing_found(endpoints: &[Endpoint], wanted: Wanted<'_>) -> String {
    let regions = regions(endpoints);
    match (wanted, regions.is_empty()) {
        (_, true) if endpoints.is_empty() => {
            "the token comes without a service catalog: the user has no role in a project, or \
             tenancy_name is missing"
                .to_owned()
        }
        (_, true) => "the service catalog has no public compute endpoint".to_owned(),
        (Wanted::Configured(region), false) => format!(
            "region {region:?} has no public compute endpoint; the service catalog offers: {}",
            regions.join(", ")
        ),
        // What is to be done comes before the list, which may be long and cut off.
        (Wanted::UsedSoFar(region), false) => format!(
            "region {region:?}, which has been used so far, has no public compute endpoint any \
             more (set region to use another one); the service catalog offers: {}",
            regions.join(", ")
        ),
        (Wanted::First, false) => "no region can be chosen".to_owned(),
    }
}

fn address(endpoint: &Endpoint) -> Result<Url, String> {
    let Endpoint { service, url, .. } = endpoint;
    Url::parse(url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .filter(|url| url.as_str().len() <= MAX_ADDRESS)
        .ok_or_else(|| format!("the service catalog gives {url:?} as the address of {service}"))
}

/// Catalogs give Glance and Neutron with or without a version; we speak these.
fn with_version(mut url: Url, version: &str) -> Url {
    let last = url
        .path_segments()
        .and_then(|mut segments| segments.rfind(|segment| !segment.is_empty()))
        .unwrap_or("")
        .to_owned();
    let versioned = last
        .strip_prefix('v')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty();
        if versioned {
            segments.pop();
        }
        segments.push(version);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(service: &str, region: &str, url: &str) -> Endpoint {
        Endpoint {
            service: service.to_owned(),
            region: region.to_owned(),
            url: url.to_owned(),
        }
    }

    fn two_regions() -> Vec<Endpoint> {
        vec![
            endpoint("image", "North", "http://n:9292/v1/"),
            endpoint("compute", "North", "http://n:8774/v2.1"),
            endpoint("compute", "South", "http://s:8774/v2/abc/"),
            endpoint("image", "South", "http://s/image"),
        ]
    }

    #[test]
    fn both_services_come_from_one_region() {
        let text = |wanted| {
            let services = choose(&two_regions(), wanted).unwrap();
            let image = services.image.unwrap();
            (services.compute.to_string(), image.to_string())
        };
        let north = (
            "http://n:8774/v2.1".to_owned(),
            "http://n:9292/v2".to_owned(),
        );
        assert_eq!(text(Wanted::First), north);
        assert_eq!(text(Wanted::Configured("North")), north);
        assert_eq!(
            text(Wanted::Configured("South")),
            (
                "http://s:8774/v2/abc/".to_owned(),
                "http://s/image/v2".to_owned()
            )
        );
    }

    #[test]
    fn networks_and_volumes_are_of_the_same_region_and_need_not_be_there() {
        let mut endpoints = two_regions();
        let services = choose(&endpoints, Wanted::First).unwrap();
        assert_eq!((services.network, services.volume), (None, None));
        endpoints.extend([
            endpoint("network", "South", "http://s:9696"),
            endpoint("network", "North", "not an address"),
            endpoint("volumev2", "North", "http://n/v2/abc"),
            endpoint("volumev3", "South", "http://s/volume/v3/abc"),
            endpoint("volumev2", "South", "http://s/volume/v2/abc"),
        ]);
        let text = |region| {
            let services = choose(&endpoints, Wanted::Configured(region)).unwrap();
            let text = |url: Option<Url>| url.map(|url| url.to_string());
            (text(services.network), text(services.volume))
        };
        let some = |url: &str| Some(url.to_owned());
        assert_eq!(
            text("South"),
            (some("http://s:9696/v2.0"), some("http://s/volume/v3/abc"))
        );
        assert_eq!(text("North"), (None, some("http://n/v2/abc")));
    }

    #[test]
    fn a_missing_region_names_those_there_are() {
        let why = choose(&two_regions(), Wanted::Configured("West")).unwrap_err();
        assert_eq!(
            why,
            "region \"West\" has no public compute endpoint; the service catalog offers: North, South"
        );
        for (endpoints, said) in [
            (vec![], "tenancy_name"),
            (
                vec![endpoint("image", "North", "http://n")],
                "no public compute",
            ),
            (
                vec![endpoint("compute", &"N".repeat(MAX_REGION + 1), "http://n")],
                "no public compute",
            ),
        ] {
            for wanted in [Wanted::First, Wanted::UsedSoFar("North")] {
                let why = choose(&endpoints, wanted).unwrap_err();
                assert!(why.contains(said), "{wanted:?}: {why}");
            }
        }
    }

    #[test]
    fn the_region_in_use_stays_in_use_whichever_comes_first() {
        let mut endpoints = two_regions();
        let first = choose(&endpoints, Wanted::First).unwrap();
        assert_eq!(first.region, "North");
        endpoints.reverse();
        let other = choose(&endpoints, Wanted::First).unwrap();
        assert_eq!(other.region, "South");
        let wanted = Wanted::UsedSoFar(&first.region);
        assert_eq!(choose(&endpoints, wanted).unwrap(), first);
        assert_eq!(regions(&endpoints), ["North", "South"]);
        endpoints.retain(|e| e.region == "South");
        assert_eq!(
            choose(&endpoints, wanted).unwrap_err(),
            "region \"North\", which has been used so far, has no public compute endpoint any more \
             (set region to use another one); the service catalog offers: South"
        );
    }

    #[test]
    fn an_address_that_is_none_is_an_error() {
        for url in ["", "nova", "ftp://nova", "http://"] {
            let why = choose(&[endpoint("compute", "R", url)], Wanted::First);
            assert!(why.is_err(), "{url}: {why:?}");
        }
    }
}
