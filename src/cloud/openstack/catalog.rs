//! The service catalog: which address serves compute and images in our region.

use url::Url;

use super::wire::{ServiceV2, ServiceV3};

/// The longest address that is believed, in bytes: it is part of every message about a request.
const MAX_ADDRESS: usize = 1000;

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
    pub compute: Url,
    /// The image service with its version; a cloud may have none.
    pub image: Option<Url>,
}

/// Whether endpoints of this service are looked at.
fn is_used(service: &str) -> bool {
    matches!(service, "compute" | "image")
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

/// Chooses the endpoints of `region`, or of the first region that has compute.
///
/// # Errors
/// A sentence that says what is missing and what there is.
pub(super) fn choose(endpoints: &[Endpoint], region: Option<&str>) -> Result<Services, String> {
    let mut with_compute = endpoints.iter().filter(|e| e.service == "compute");
    let compute = match region {
        None => with_compute.next(),
        Some(wanted) => with_compute.find(|e| e.region == wanted),
    };
    let Some(compute) = compute else {
        return Err(nothing_found(endpoints, region));
    };
    let image = endpoints
        .iter()
        .find(|e| e.service == "image" && e.region == compute.region)
        .map(|e| address(e).map(with_image_version))
        .transpose()?;
    Ok(Services {
        compute: address(compute)?,
        image,
    })
}

fn nothing_found(endpoints: &[Endpoint], region: Option<&str>) -> String {
    let mut regions: Vec<&str> = endpoints
        .iter()
        .filter(|e| e.service == "compute")
        .map(|e| e.region.as_str())
        .collect();
    regions.sort_unstable();
    regions.dedup();
    match (region, regions.is_empty()) {
        (_, true) if endpoints.is_empty() => {
            "the token comes without a service catalog: the user has no role in a project, or \
             tenancy_name is missing"
                .to_owned()
        }
        (_, true) => "the service catalog has no public compute endpoint".to_owned(),
        (Some(wanted), false) => format!(
            "region {wanted:?} has no public compute endpoint; the service catalog offers: {}",
            regions.join(", ")
        ),
        (None, false) => "no region can be chosen".to_owned(),
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

/// Catalogs give Glance with or without a version; we speak version 2.
fn with_image_version(mut url: Url) -> Url {
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
        segments.push("v2");
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
        let text = |region| {
            let services = choose(&two_regions(), region).unwrap();
            let image = services.image.unwrap();
            (services.compute.to_string(), image.to_string())
        };
        let north = (
            "http://n:8774/v2.1".to_owned(),
            "http://n:9292/v2".to_owned(),
        );
        assert_eq!(text(None), north);
        assert_eq!(text(Some("North")), north);
        assert_eq!(
            text(Some("South")),
            (
                "http://s:8774/v2/abc/".to_owned(),
                "http://s/image/v2".to_owned()
            )
        );
    }

    #[test]
    fn a_missing_region_names_those_there_are() {
        let why = choose(&two_regions(), Some("West")).unwrap_err();
        assert_eq!(
            why,
            "region \"West\" has no public compute endpoint; the service catalog offers: North, South"
        );
        assert!(choose(&[], None).unwrap_err().contains("tenancy_name"));
        let only_image = [endpoint("image", "North", "http://n")];
        assert!(
            choose(&only_image, None)
                .unwrap_err()
                .contains("no public compute")
        );
    }

    #[test]
    fn an_address_that_is_none_is_an_error() {
        for url in ["", "nova", "ftp://nova", "http://"] {
            let why = choose(&[endpoint("compute", "R", url)], None);
            assert!(why.is_err(), "{url}: {why:?}");
        }
    }
}
