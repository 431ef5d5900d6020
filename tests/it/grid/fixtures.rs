//! A CA, a user and proxies as `openssl` makes them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Whose proxies they are, as `openssl` shows it and as x509dn has it.
pub const SUBJECT: &str = "DC = org, DC = example, OU = Robots, CN = Robot: vm-1";
pub const DN: &str = "/DC=org/DC=example/OU=Robots/CN=Robot: vm-1";

/// All tests share it: RSA keys take their time.
pub static GRID: LazyLock<Grid> = LazyLock::new(Grid::new);

pub struct Grid(tempfile::TempDir);

impl Grid {
    /// | file | what |
    /// | --- | --- |
    /// | ca | the CA; host, its server |
    /// | user, both | the user, in two files and in one; ec, one with another kind of key |
    /// | encipher | the user without digitalSignature |
    /// | short | one whose certificate ends in a few minutes; of-short, a long proxy of it |
    /// | proxy, limited, pathlen0, legacy | proxies of the user: PEM with key and chain |
    fn new() -> Self {
        let grid = Self(tempfile::tempdir().unwrap());
        grid.extensions();
        let path = |name: &str| grid.path(name).display().to_string();
        Self::openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/DC=org/DC=example/CN=Grid CA",
            "-extensions",
            "ca",
            "-config",
            &path("conf"),
            "-keyout",
            &path("ca.key"),
            "-out",
            &path("ca.pem"),
        ]);
        grid.issue("user", ("ca", DN), "rsa:2048", "user", 10);
        grid.issue("ec", ("ca", DN), "ec:prime256v1", "user", 10);
        grid.issue("short", ("ca", DN), "ec:prime256v1", "user", 0);
        grid.issue("host", ("ca", "/CN=localhost"), "rsa:2048", "host", 10);
        grid.join("host.pem", &["host.pem", "host.key"]);
        grid.join("both.pem", &["user.key", "user.pem"]);
        grid.request("encipher", DN, "user.key");
        grid.sign("encipher", "ca", "encipher", 10);
        for (name, issuer, last, extensions) in [
            ("proxy", "user", "4711", "proxy"),
            ("limited", "user", "4712", "limited"),
            ("pathlen0", "user", "4713", "pathlen0"),
            ("legacy", "user", "proxy", "legacy"),
            ("of-short", "short", "4714", "proxy"),
        ] {
            let subject = format!("{DN}/CN={last}");
            grid.issue(name, (issuer, &subject), "rsa:2048", extensions, 10);
            let (pem, key) = (format!("{name}.pem"), format!("{name}.key"));
            grid.join(&pem, &[&pem, &key, &format!("{issuer}.pem")]);
        }
        grid.spoil();
        grid
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Copies a file to a directory of the test's own, for its owner to read.
    pub fn copy(&self, name: &str, to: &Path) {
        fs::copy(self.path(name), to).unwrap();
        fs::set_permissions(to, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Puts the CA into a directory of CAs.
    pub fn trust_in(&self, ca_path: &Path) {
        let ca = self.path("ca.pem");
        let hash = Self::openssl(&["x509", "-noout", "-hash", "-in", ca.to_str().unwrap()]);
        fs::copy(ca, ca_path.join(format!("{}.0", hash.trim()))).unwrap();
    }

    /// Runs the `openssl` command, which has to succeed.
    pub fn openssl(arguments: &[&str]) -> String {
        let done = Command::new("openssl")
            .args(arguments)
            .output()
            .expect("the tests need the openssl command");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {arguments:?}: {said}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn extensions(&self) {
        let usage = "keyUsage=critical,digitalSignature,keyEncipherment\n";
        let end = "basicConstraints=critical,CA:FALSE\n";
        let limited = "1.3.6.1.4.1.3536.1.1.1.9";
        let conf = format!(
            "[req]\ndistinguished_name=dn\n[dn]\n\
             [ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
             [user]\n{end}{usage}extendedKeyUsage=clientAuth\n\
             [host]\n{end}{usage}extendedKeyUsage=serverAuth\n\
             subjectAltName=DNS:localhost,IP:127.0.0.1\n\
             [encipher]\n{end}keyUsage=critical,keyEncipherment\n\
             [proxy]\n{usage}proxyCertInfo=critical,language:id-ppl-inheritAll,pathlen:5\n\
             [limited]\n{usage}proxyCertInfo=critical,language:{limited}\n\
             [pathlen0]\n{usage}proxyCertInfo=critical,language:id-ppl-inheritAll,pathlen:0\n\
             [legacy]\n{usage}"
        );
        fs::write(self.path("conf"), conf).unwrap();
    }

    fn issue(
        &self,
        name: &str,
        (issuer, subject): (&str, &str),
        algorithm: &str,
        extensions: &str,
        days: u32,
    ) {
        let key = format!("{name}.key");
        let path = self.path(&key).display().to_string();
        match algorithm.split_once(':').unwrap() {
            ("rsa", bits) => Self::openssl(&["genrsa", "-out", &path, bits]),
            (_, curve) => {
                let curve = format!("ec_paramgen_curve:{curve}");
                Self::openssl(&[
                    "genpkey",
                    "-algorithm",
                    "EC",
                    "-pkeyopt",
                    &curve,
                    "-out",
                    &path,
                ])
            }
        };
        self.request(name, subject, &key);
        self.sign(name, issuer, extensions, days);
    }

    fn request(&self, name: &str, subject: &str, key: &str) {
        let path = |name: &str| self.path(name).display().to_string();
        Self::openssl(&[
            "req",
            "-new",
            "-config",
            &path("conf"),
            "-subj",
            subject,
            "-key",
            &path(key),
            "-out",
            &path(&format!("{name}.csr")),
        ]);
    }

    fn sign(&self, name: &str, issuer: &str, extensions: &str, days: u32) {
        let path = |name: String| self.path(&name).display().to_string();
        Self::openssl(&[
            "x509",
            "-req",
            "-in",
            &path(format!("{name}.csr")),
            "-CA",
            &path(format!("{issuer}.pem")),
            "-CAkey",
            &path(format!("{issuer}.key")),
            "-CAcreateserial",
            "-days",
            &days.to_string(),
            "-extfile",
            &path("conf".to_owned()),
            "-extensions",
            extensions,
            "-out",
            &path(format!("{name}.pem")),
        ]);
    }

    fn join(&self, name: &str, parts: &[&str]) {
        let texts = parts
            .iter()
            .map(|part| fs::read_to_string(self.path(part)).unwrap());
        let text: String = texts.collect();
        fs::write(self.path(name), text).unwrap();
    }

    /// Files that are no use: keys with a passphrase, and texts that were cut.
    fn spoil(&self) {
        let path = |name: &str| self.path(name).display().to_string();
        let key = path("user.key");
        let encrypt = ["-aes128", "-passout", "pass:secret", "-in", &key, "-out"];
        Self::openssl(&[&["pkey"], &encrypt[..], &[&path("user-encrypted.key")]].concat());
        let old = path("user-encrypted-old.key");
        Self::openssl(&[&["rsa"], &encrypt[..], &[&*old, "-traditional"]].concat());
        for (name, broken) in [("user.key", "broken.key"), ("user.pem", "broken.pem")] {
            let text = fs::read_to_string(self.path(name)).unwrap();
            let mut lines: Vec<&str> = text.lines().collect();
            lines.drain(3..8);
            fs::write(self.path(broken), lines.join("\n") + "\n").unwrap();
        }
    }
}
