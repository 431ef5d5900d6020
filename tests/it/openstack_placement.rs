//! Where the OpenStack adapter asks for machines, on what disk, and what it makes of refusals,
//! against a scripted cloud.

use serde_json::{Value, json};
use vcycle::cloud::{Cloud, CloudErrorKind, CreateRequest};
use vcycle::model::{CloudId, Gigabytes, MachineState, Shortage};

use super::openstack_adapter::{CREATE, IMAGE, SERVERS, connect, ordinary, request};
use super::scripted::{Reply, Scripted, Seen};

/// [`ordinary`] with a volume service.
fn with_volumes(seen: &Seen, base: &str) -> Reply {
    let mut reply = ordinary(seen, base);
    if seen.is("POST", "/identity/v3/auth/tokens")
        && let Reply::Say { body, .. } = &mut reply
    {
        let mut document: Value = serde_json::from_str(body).unwrap();
        let services = document["token"]["catalog"].as_array_mut().unwrap();
        services.push(json!({"type": "volumev3", "endpoints":
            [{"interface": "public", "region": "R1", "url": format!("{base}/cinder/v3/p1")}]}));
        *body = document.to_string();
    }
    reply
}

fn on_a_volume() -> CreateRequest {
    CreateRequest {
        volume: Gigabytes::new(80),
        ..request()
    }
}

#[tokio::test]
async fn a_machine_on_a_volume_is_one_request() {
    let nova = Scripted::start(with_volumes).await;
    let cloud = connect(&nova);
    let id = cloud.create(&on_a_volume()).await.unwrap();
    assert_eq!(id, CloudId::new("new-1"));
    let seen = nova.seen();
    let creates: Vec<&Seen> = seen.iter().filter(|seen| seen.is("POST", CREATE)).collect();
    let [create] = creates.as_slice() else {
        panic!("{} creations", creates.len());
    };
    // All of it is in the API's first microversion, which no header asks for.
    assert_eq!(create.header("openstack-api-version"), "");
    assert_eq!(create.header("x-openstack-nova-api-version"), "");
    let body = create.json();
    assert_eq!(
        body["server"]["block_device_mapping_v2"],
        json!([{"boot_index": 0, "uuid": IMAGE, "source_type": "image",
            "destination_type": "volume", "volume_size": 80, "delete_on_termination": true}])
    );
    assert_eq!(body["server"].get("imageRef"), None);
    // Nobody but Nova talks to the volume service, and nothing waits for it.
    assert!(seen.iter().all(|seen| !seen.path.starts_with("/cinder")));

    nova.forget();
    cloud.create(&request()).await.unwrap();
    let seen = nova.seen();
    let create = seen.iter().find(|seen| seen.is("POST", CREATE)).unwrap();
    let body = create.json();
    assert_eq!(body["server"]["imageRef"], IMAGE);
    assert_eq!(body["server"].get("block_device_mapping_v2"), None);
}

#[tokio::test]
async fn without_a_volume_service_no_machine_is_asked_for() {
    let nova = Scripted::start(ordinary).await;
    let error = connect(&nova).create(&on_a_volume()).await.unwrap_err();
    assert_eq!(error.kind, CloudErrorKind::Rejected);
    let told = error.to_string();
    assert!(
        told.contains("volume_gb_per_processor") && told.contains("no volume service"),
        "{told}"
    );
    assert_eq!(nova.count("POST", CREATE), 0);
}

/// The words are those of Nova (Zed).
#[tokio::test]
async fn a_refusal_names_the_option_to_look_at() {
    use CloudErrorKind::{Capacity, Rejected};
    let cases = [
        (
            400,
            "The requested availability zone is not available",
            Capacity,
            "zones has \"zone-a\"",
        ),
        (
            400,
            "Unable to find security_group with name or id 'grid'",
            Rejected,
            "security_groups = grid",
        ),
        (
            400,
            "Network net-1 could not be found.",
            Rejected,
            "network_uuid = net-1",
        ),
        (
            400,
            "Bad networks format: network uuid is not in proper format (net-1)",
            Rejected,
            "network_uuid = net-1",
        ),
        (
            409,
            "Multiple possible networks found, use a Network ID to be more specific.",
            Rejected,
            "network_uuid says which network to use",
        ),
        (
            400,
            "Flavor f4 could not be found.",
            Rejected,
            "flavor_names has large",
        ),
        (
            400,
            "Can not find requested image",
            Rejected,
            "root_image = image:70fafd76",
        ),
        (
            403,
            "Only volume-backed servers are allowed for flavors with zero disk.",
            Rejected,
            "volume_gb_per_processor gives machines a volume",
        ),
        (
            400,
            "Volume is smaller than the minimum size specified in image metadata. Volume size is 85899345920 bytes, minimum size is 107374182400 bytes.",
            Rejected,
            "volume_gb_per_processor asks for a volume of 80 GB",
        ),
    ];
    for (status, words, kind, option) in cases {
        let nova = Scripted::start(move |seen, base| {
            if seen.is("POST", CREATE) {
                let body = json!({"badRequest": {"code": status, "message": words}});
                return Reply::json(status, body);
            }
            with_volumes(seen, base)
        })
        .await;
        let error = connect(&nova).create(&on_a_volume()).await.unwrap_err();
        assert_eq!(error.kind, kind, "{words}");
        let told = error.to_string();
        assert!(told.contains(words) && told.contains(option), "{told}");
    }
}

#[tokio::test]
async fn a_listing_tells_volumes_and_what_there_was_too_little_of() {
    let nova = Scripted::start(|seen, base| {
        let server = |id: &str, status: &str, more: Value| {
            let mut server = json!({"id": id, "name": id, "status": status, "flavor": {"id": "f4"},
                "metadata": {"space": "s", "manager": "m"}, "OS-EXT-STS:power_state": 1});
            server.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            server
        };
        let fault = |message: &str| json!({"fault": {"code": 500, "message": message}});
        match seen.path.as_str() {
            SERVERS => Reply::json(200, json!({"servers": [
                server("volume", "ACTIVE", json!({"image": "",
                    "os-extended-volumes:volumes_attached": [{"id": "v-1"}]})),
                server("odd", "ACTIVE", json!({"image": "",
                    "os-extended-volumes:volumes_attached": [{"id": "not an id"}]})),
                // Which of them is Nova's is not told.
                server("two", "ACTIVE", json!({"image": "",
                    "os-extended-volumes:volumes_attached": [{"id": "v-2"}, {"id": "v-3"}]})),
                // Attached by somebody: it does not boot from one.
                server("data", "ACTIVE", json!({"image": {"id": "image"},
                    "os-extended-volumes:volumes_attached": [{"id": "v-4"}]})),
                server("quota", "ERROR", fault("Quota exceeded for cores: Requested 4, but already used 4 of 4 cores")),
                server("broken", "ERROR", fault("Build of instance broken aborted: publicURL endpoint for volumev3 service not found")),
                // In the listing one that was never placed has no reason, in its own document it has.
                server("hosts", "ERROR", json!({})),
            ]})),
            "/nova/v2.1/servers/hosts" => Reply::json(200, json!({"server": fault("No valid host was found. ")})),
            _ => ordinary(seen, base),
        }
    })
    .await;
    let machines = connect(&nova).list().await.unwrap();
    let of = |id: &str| {
        let mut machines = machines.iter();
        machines.find(|machine| machine.id.as_str() == id).unwrap()
    };
    assert_eq!(of("volume").volumes, ["v-1"]);
    for none in ["odd", "two", "data"] {
        assert!(of(none).volumes.is_empty(), "{none}");
    }
    assert_eq!(
        (of("volume").image.as_deref(), of("volume").state),
        (None, MachineState::Running)
    );
    assert_eq!(of("quota").shortage, Some(Shortage::Quota));
    assert_eq!(of("hosts").shortage, Some(Shortage::Hosts));
    assert_eq!(of("broken").shortage, None);
}
