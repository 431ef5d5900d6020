//! The client that VMs use.

use std::path::Path;
use std::process::Command;

use super::*;

/// A proxy as the `openssl` command makes it, with RSA keys as on the grid.
fn foreign_proxy(world: &World) -> PathBuf {
    let file = |name: &str| world.dir.path().join(name).to_string_lossy().into_owned();
    PKI.user.write(Path::new(&file("user.pem")));
    let conf = "[req]\ndistinguished_name=d\nprompt=no\n[d]\n0.DC=org\n1.DC=example\nO=Users\n\
                0.CN=The VM\n1.CN=42\n[p]\nkeyUsage=critical,digitalSignature\n\
                proxyCertInfo=critical,language:id-ppl-inheritAll,pathlen:0\n";
    fs::write(file("proxy.conf"), conf).unwrap();
    let (key, request, cert) = (file("p.key"), file("p.csr"), file("p.pem"));
    let (conf, user) = (file("proxy.conf"), file("user.pem"));
    pki::openssl(&[
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-config", &conf, "-keyout", &key, "-out",
        &request,
    ]);
    pki::openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &user,
        "-CAkey",
        &user,
        "-set_serial",
        "42",
        "-days",
        "1",
        "-extfile",
        &conf,
        "-extensions",
        "p",
        "-out",
        &cert,
    ]);
    let pem = [cert, key, user].map(|path| fs::read_to_string(path).unwrap());
    let proxy = world.dir.path().join("x509up");
    fs::write(&proxy, pem.concat()).unwrap();
    proxy
}

/// Runs curl as VMs do and gives the status, and the body on the lines before it.
pub(super) fn curl(world: &World, proxy: Option<&Path>, args: &[&str]) -> Option<String> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "20", "--capath"])
        .arg(world.ca_path())
        .args(["--write-out", "%{http_version} %{http_code}"])
        .current_dir(world.dir.path());
    if let Some(proxy) = proxy {
        command.arg("--cert").arg(proxy).arg("--key").arg(proxy);
    }
    let Ok(done) = command.args(args).output() else {
        eprintln!("skipped: there is no curl");
        return None;
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Some(text(done.stdout) + &text(done.stderr))
}

#[test]
fn curl_with_a_foreign_proxy_as_in_a_vm() {
    let world = World::new();
    let proxy = foreign_proxy(&world);
    fs::write(world.dir.path().join("heartbeat"), "alive").unwrap();
    fs::write(world.dir.path().join("log"), "x".repeat(2_000_000)).unwrap();
    let url = |file: &str| {
        format!(
            "https://localhost:{}{}",
            world.address.port(),
            joboutputs(file)
        )
    };
    let (directory, heartbeat, log) = (url(""), url("heartbeat"), url("log"));
    for (version, number) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let put =
            |proxy, file, url: &str| curl(&world, proxy, &[version, "--upload-file", file, url]);
        let Some(refused) = put(None, "heartbeat", &heartbeat) else {
            return;
        };
        let expected =
            format!("joboutputs needs a client certificate or the machine's token\n{number} 403");
        assert_eq!(refused, expected);
        let _ = fs::remove_file(world.output("heartbeat"));
        let cases = [
            ("heartbeat", &heartbeat, 201),
            ("heartbeat", &heartbeat, 200),
            // With a slash at the end curl adds the name.
            ("heartbeat", &directory, 200),
            ("log", &log, if number == "2" { 200 } else { 201 }),
        ];
        for (file, url, status) in cases {
            let answer = put(Some(proxy.as_path()), file, url).unwrap();
            assert_eq!(answer, format!("{number} {status}"), "{file} {url}");
        }
        let read = curl(&world, Some(&proxy), &[version, &heartbeat]);
        assert_eq!(read, Some(format!("alive{number} 200")));
    }
}
