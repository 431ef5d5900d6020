//! The EC2 adapter and the daemon that drives it, against moto and against a listener of ours.

mod adapter;
mod cut_off;
mod ended;
mod leftovers;
mod life;
mod moto;
pub mod relay;
mod trouble;

use vcycle::clock::Clock;
use vcycle::cloud::Outside;
use vcycle::cloud::ec2::Ec2;
use vcycle::config::Ec2Options;
use vcycle::model::{Processors, Secret, SpaceName};

use crate::daemon::factory::Factory;

/// No word of this may be in any log.
pub const SECRET_KEY: &str = "wJalrXUtnFEMI-never-in-a-log";
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFy3gwtZPN6ypfpeBwpdzLBCUiIYdzVAnzoPVoGVQTk2";

/// The options of a space, as Amazon's or as OpenStack's endpoints want them.
pub fn options(url: &str, version: &str) -> Ec2Options {
    let (region, service) = match version {
        "2016-11-15" => ("us-east-1", "ec2"),
        _ => ("region_one", "openstack"),
    };
    Ec2Options {
        url: url::Url::parse(url).unwrap(),
        access_key: "AKIATEST".to_owned(),
        secret_key: Secret::new(SECRET_KEY.to_owned()),
        version: version.to_owned(),
        region: region.to_owned(),
        service: service.to_owned(),
        zones: Vec::new(),
        security_groups: Vec::new(),
        network_uuid: None,
        spot: false,
    }
}

/// An adapter with two flavors.
pub fn connect(options: &Ec2Options) -> Ec2 {
    let outside = Outside::real(std::path::Path::new("/nonexistent"), Clock::system());
    connect_by(options, &outside)
}

pub fn connect_by(options: &Ec2Options, outside: &Outside) -> Ec2 {
    let space = SpaceName::new("contract.example.org").unwrap();
    let flavors = [("t2.micro", 1), ("m5.large", 2)];
    let flavors = flavors.map(|(name, size)| (name.to_owned(), Processors::new(size)));
    Ec2::new(&space, options, flavors.into(), outside).unwrap()
}

/// The sections of a space on the endpoint at `url`.
pub fn space(
    factory: &Factory,
    name: &str,
    url: &str,
    (options, machinetype): (&str, &str),
) -> String {
    let machinetype = factory
        .machinetype(name, "atlas", machinetype)
        .replace("flavor_name = small\n", "")
        .replace("root_image = image:cernvm4\n", "");
    format!(
        "[space {name}]\napi = ec2\nurl = {url}\naccess_key = AKIATEST\nsecret_key = {SECRET_KEY}\n\
         {options}\n{machinetype}"
    )
}

/// What Amazon wants.
pub const AMAZON: &str = "version = 2016-11-15\nservice = ec2\n";
