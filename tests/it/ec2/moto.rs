//! moto's server: an EC2 that nobody here wrote, whose instances run nowhere.
//!
//! `VCYCLE_TEST_MOTO` names its program; `tests/run` sets it to what `packaging/setup --tests`
//! installs. Without it each test that needs it says so and passes.

use std::process::{Child, Command, Stdio};

use super::relay::Sent;
use crate::daemon::factory::{free_port, until};

/// A server with nothing in it but its images; it ends with the test.
pub struct Moto {
    child: Child,
    pub address: String,
    /// An image that it has.
    pub image: String,
}

impl Moto {
    pub fn start() -> Option<Self> {
        let Some(program) = std::env::var_os("VCYCLE_TEST_MOTO") else {
            println!("skipped: VCYCLE_TEST_MOTO names no moto_server (tests/run does)");
            return None;
        };
        let port = free_port().to_string();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port])
            .env("MOTO_ENABLE_AMI_VALIDATION", "true")
            .env("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true")
            .env("MOTO_ENABLE_KEYPAIR_VALIDATION", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut moto = Self {
            child,
            address: format!("127.0.0.1:{port}"),
            image: String::new(),
        };
        until("moto answers", || {
            assert_eq!(moto.child.try_wait().unwrap(), None, "moto ended");
            std::net::TcpStream::connect(&moto.address).ok()
        });
        let images = moto.ask("Action=DescribeImages");
        moto.image = between(&images, "<imageId>", "</imageId>").next().unwrap();
        Some(moto)
    }

    /// Asks it as an admin would, beside the daemon.
    pub fn ask(&self, form: &str) -> String {
        let sent = Sent {
            target: "/".to_owned(),
            headers: vec![(
                "authorization".to_owned(),
                "AWS4-HMAC-SHA256 Credential=admin/20260101/us-east-1/ec2/aws4_request, \
                 SignedHeaders=host, Signature=0"
                    .to_owned(),
            )],
            body: format!("{form}&Version=2016-11-15"),
            form: Vec::new(),
            nth: 0,
        };
        let answer = super::relay::pass_on(&sent, &self.address).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{form}: {answer}");
        answer
    }

    /// The instances that are not terminated.
    pub fn instances(&self) -> Vec<String> {
        let form = "Action=DescribeInstances&Filter.1.Name=instance-state-name&\
                    Filter.1.Value.1=pending&Filter.1.Value.2=running&Filter.1.Value.3=stopping&\
                    Filter.1.Value.4=stopped&Filter.1.Value.5=shutting-down";
        between(&self.ask(form), "<instanceId>", "</instanceId>").collect()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All texts between two tags.
pub fn between<'a>(
    text: &'a str,
    begin: &'a str,
    end: &'a str,
) -> impl Iterator<Item = String> + 'a {
    text.split(begin)
        .skip(1)
        .filter_map(move |rest| rest.split_once(end))
        .map(|(inside, _)| inside.to_owned())
}
