//! Public keys of every type that OpenSSH knows, imported into a real OpenStack.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use vcycle::cloud::{Cloud, CloudErrorKind};

use super::contract;
use super::openstack_site::{Bystander, site};

/// The public keys that ssh-keygen can make here: type and text.
fn made_by_ssh_keygen(directory: &Path) -> Vec<(String, String)> {
    let kinds = [
        ("rsa", "2048"),
        ("rsa", "4096"),
        ("ecdsa", "256"),
        ("ecdsa", "384"),
        ("ecdsa", "521"),
        ("ed25519", ""),
    ];
    let mut keys = Vec::new();
    for (kind, bits) in kinds {
        let file = directory.join(format!("{kind}{bits}"));
        let mut command = Command::new("ssh-keygen");
        command.args([
            "-q",
            "-N",
            "",
            "-C",
            "root@factory, a comment",
            "-t",
            kind,
            "-f",
        ]);
        command.arg(&file);
        if !bits.is_empty() {
            command.args(["-b", bits]);
        }
        assert!(command.status().unwrap().success(), "{kind} {bits}");
        let text = std::fs::read_to_string(file.with_extension("pub")).unwrap();
        keys.push((format!("{kind} {bits}"), text));
    }
    keys
}

/// The first of the keys, signed by the second as a CA. (The adapter takes any type; to be of use as
/// root's key is another matter.)
fn certificate(directory: &Path) -> String {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-I", "somebody", "-n", "root", "-s"]);
    command
        .arg(directory.join("ed25519"))
        .arg(directory.join("rsa2048.pub"));
    assert!(command.status().unwrap().success());
    std::fs::read_to_string(directory.join("rsa2048-cert.pub")).unwrap()
}

/// A key with this blob, as its file has it.
fn line(kind: &str, parts: &[&[u8]]) -> String {
    let mut blob = Vec::new();
    for part in std::iter::once(&kind.as_bytes()).chain(parts) {
        blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        blob.extend_from_slice(part);
    }
    format!("{kind} {} token", STANDARD.encode(blob))
}

#[tokio::test]
async fn public_keys_of_every_type_are_imported() {
    let Some((site, _turn)) = site("types of public keys").await else {
        return;
    };
    let (cloud, ground) = (site.connect(), site.ground().await);
    let bystander = Bystander::log_in(&site).await;
    let url = format!("{}/os-keypairs", bystander.compute);
    let names = async || -> Vec<String> {
        let listed = bystander.get(&url).await;
        let listed = listed["keypairs"].as_array().unwrap().clone();
        let name = |key: &serde_json::Value| key["keypair"]["name"].as_str().unwrap().to_owned();
        listed.iter().map(name).collect()
    };
    let directory = tempfile::tempdir().unwrap();
    let mut keys = made_by_ssh_keygen(directory.path());
    // Those need a token to be made, and are as good as any other to be imported.
    let point = [&[4][..], &[9; 64]].concat();
    let sk_ed25519 = line("sk-ssh-ed25519@openssh.com", &[&[9; 32], b"ssh:"]);
    let sk_ecdsa = line(
        "sk-ecdsa-sha2-nistp256@openssh.com",
        &[b"nistp256", &point, b"ssh:"],
    );
    keys.push(("certificate".to_owned(), certificate(directory.path())));
    keys.push(("sk-ed25519".to_owned(), sk_ed25519));
    keys.push(("sk-ecdsa".to_owned(), sk_ecdsa));
    for (kind, text) in keys {
        let before = names().await;
        // The key is imported before Nova is asked for a machine, which it refuses.
        let mut request = contract::request(&cloud, &ground).await;
        request.flavor.id = "no-such-flavor".to_owned();
        request.public_key = Some(text.clone());
        let error = cloud.create(&request).await.unwrap_err();
        assert_eq!(error.kind, CloudErrorKind::Rejected, "{kind}: {error}");
        let mut new = names().await;
        new.retain(|name| !before.contains(name));
        let [name] = new.as_slice() else {
            let optional = kind.starts_with("sk-") || kind == "certificate";
            assert!(optional, "{kind}: {error}");
            println!("{kind}: this Nova does not take it: {error}");
            let first = text.split(' ').next().unwrap();
            assert!(
                error.to_string().contains(&format!("of the type {first}")),
                "{error}"
            );
            continue;
        };
        println!("{kind}: imported");
        let kept = bystander.get(&format!("{url}/{name}")).await;
        let kept = kept["keypair"]["public_key"].as_str().unwrap().to_owned();
        let words = |text: &str| {
            text.split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(words(&kept), words(&text), "{kind}");
        // The same key under another comment is the same key.
        request.public_key = Some(format!("# mine\n{} other", words(&text)));
        cloud.create(&request).await.unwrap_err();
        assert_eq!(names().await.len(), before.len() + 1, "{kind}");
        bystander
            .ask(Method::DELETE, &format!("{url}/{name}"), None)
            .await;
    }
}
