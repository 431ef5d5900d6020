//! A machine's own proxy, as Nova keeps it, and the heartbeat list with the address that Nova gave.

use base64::Engine;
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::pkey::PKey;
use openssl::x509::X509;
use vcycle::model::Timestamp;

use super::factory::{Factory, Space};
use super::life::all_running;
use super::{scenario, text};
use crate::pki::Party;

/// A moment in a certificate, in Unix seconds.
fn unix(time: &Asn1TimeRef) -> u64 {
    let since = Asn1Time::from_unix(0).unwrap().diff(time).unwrap();
    u64::try_from(i64::from(since.days) * 86_400 + i64::from(since.secs)).unwrap()
}

/// The proxy in a user_data, as the machine would use it.
fn proxy_in(user_data: &str) -> Party {
    let pem = user_data.as_bytes();
    let mut certs = X509::stack_from_pem(pem).unwrap();
    let chain = certs.split_off(1);
    Party {
        cert: certs.remove(0),
        key: PKey::private_key_from_pem(pem).unwrap(),
        chain,
    }
}

#[test]
fn a_machine_gets_its_proxy_writes_with_it_and_is_in_the_list() {
    scenario("proxy and heartbeat list", async |stage| {
        let options = "fizzle_seconds = 600\nheartbeat_file = heartbeat\nuser_data = proxied\n\
                       user_data_proxy = True\n";
        let machinetypes = [("job", options)];
        let space = Space::new(stage, "proxies.example.org", 1, &machinetypes);
        let factory = Factory::start(stage, &space);
        let mut servers = all_running(stage, &factory, space.name, 1, 60).await;
        let server = servers.remove(0);
        let name = text(&server, "name");
        let user_data = factory.machine(name, "user_data").unwrap();
        if let Some(admin) = &stage.admin {
            let url = format!("{}/servers/{}", admin.compute, text(&server, "id"));
            let kept = admin.get(&url).await;
            let kept = text(&kept["server"], "OS-EXT-SRV-ATTR:user_data");
            let kept = base64::engine::general_purpose::STANDARD.decode(kept);
            assert_eq!(String::from_utf8(kept.unwrap()).unwrap(), user_data);
        }
        let proxy = proxy_in(&user_data);
        let end = factory.time(name, "machinefeatures/shutdowntime").unwrap();
        assert_eq!(unix(proxy.cert.not_after()), end);
        let created = Timestamp::from_unix(factory.time(name, "created").unwrap());
        assert_eq!(end, created.unix() + 7200);
        assert_eq!(unix(proxy.cert.not_before()), created.unix() - 300);

        let heartbeat = format!("{}/heartbeat", text(&server["metadata"], "joboutputs"));
        assert_eq!(factory.write_as(&proxy, &heartbeat, "alive").await, 201);
        let (base, _) = heartbeat.split_once("/machines/").unwrap();
        let list = format!("{base}/heartbeatlists/{}/job", space.name);
        assert!(user_data.contains(&list), "{user_data}");
        // Whatever the network is called.
        let addresses = server["addresses"].as_object().unwrap().values();
        let address = text(&addresses.into_iter().next().unwrap()[0], "addr");
        let written = std::fs::metadata(factory.machine_file(name, "joboutputs/heartbeat"));
        let written = Timestamp::from_system_time(written.unwrap().modified().unwrap());
        let expected = (200, format!("{written} {name} {address}\n"));
        factory
            .until("the machine in the list", 30, async || {
                (factory.read(&list).await == expected).then_some(())
            })
            .await;
        assert_eq!(factory.complaints(), Vec::<String>::new());
    });
}
