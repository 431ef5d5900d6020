//! The HTTPS server over real sockets: what is served, what is taken, and how it ends.

mod apache;
mod certificates;
mod cgi;
mod chains;
mod conformance;
mod curl;
mod disk;
mod hostile;
mod paths;
mod resumption;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVersion};
use vcycle::clock::Clock;
use vcycle::config::ServerConfig;
use vcycle::model::{FactoryName, MachineName, MachinetypeName, SpaceName, Timestamp, TokenHash};
use vcycle::server::Server;
use vcycle::state::{Disk, Layout, NewMachine, Published, Store};

use crate::pki::{self, For, Party, VALID};

const MACHINE: &str = "vcycle-a-abcdefghij";
/// A machine of a machinetype without x509dn.
const CLOSED: &str = "vcycle-b-abcdefghij";
const DN: &str = "/DC=org/DC=example/O=Users/CN=The VM";
const NOW: u64 = 1_700_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

const SUBJECT: [(&str, &str); 4] = [
    ("DC", "org"),
    ("DC", "example"),
    ("O", "Users"),
    ("CN", "The VM"),
];

/// Certificates take longer to make than anything else here, so all tests share these.
struct Pki {
    ca: Party,
    host: Party,
    user: Party,
}

static PKI: LazyLock<Pki> = LazyLock::new(|| {
    let ca = pki::authority("Test CA");
    Pki {
        host: ca.issue(&pki::name(&[("CN", "localhost")]), For::Servers, VALID),
        user: ca.issue(&pki::name(&SUBJECT), For::Clients, VALID),
        ca,
    }
});

static CONNECTOR: LazyLock<SslConnector> = LazyLock::new(|| {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    let ca = PKI.ca.cert.clone();
    builder.cert_store_mut().add_cert(ca).unwrap();
    builder.build()
});

struct World {
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
    address: SocketAddr,
    http_address: SocketAddr,
    dir: tempfile::TempDir,
    store: Store,
    clock: Clock,
    config: ServerConfig,
}

fn machine(name: &str, machinetype: &str, dn: Option<&str>) -> NewMachine {
    NewMachine {
        name: MachineName::new(name).unwrap(),
        space: SpaceName::new("example.org").unwrap(),
        machinetype: MachinetypeName::new(machinetype).unwrap(),
        manager: FactoryName::new("factory.example.org").unwrap(),
        created: Timestamp::from_unix(NOW),
        id: None,
        fizzle: None,
        hepscore23_per_processor: None,
        accounting_fqan: None,
        log_joboutputs: false,
        flavor: None,
        zone: None,
        https_x509dn: dn.map(ToOwned::to_owned),
        token: None,
        user_data: None,
        machinefeatures: BTreeMap::from([("total_cpu", "2".to_owned())]),
        jobfeatures: BTreeMap::from([
            ("allocated_cpu", "2".to_owned()),
            ("wall_limit_secs", "86400".to_owned()),
        ]),
    }
}

impl World {
    fn new() -> Self {
        Self::with(|_| {}, None)
    }

    /// A world whose directory is prepared before there is anything in it, and whose machine takes
    /// files from the holder of a token, too.
    fn with(prepare: fn(&std::path::Path), token: Option<TokenHash>) -> Self {
        Self::on(Disk::default(), prepare, token)
    }

    /// The same on a disk that is watched.
    fn on(disk: Disk, prepare: fn(&std::path::Path), token: Option<TokenHash>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let store = Store::open(Layout::on(disk, dir.path().join("state"))).unwrap();
        let new = NewMachine {
            token,
            ..machine(MACHINE, "a", Some(DN))
        };
        store.create_machine(&new).unwrap();
        store.create_machine(&machine(CLOSED, "b", None)).unwrap();
        let ca_path = dir.path().join("certificates");
        fs::create_dir(&ca_path).unwrap();
        PKI.ca.install(&ca_path);
        let host = PKI.host.write(&dir.path().join("host.pem"));
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = ServerConfig {
            listen: vec![any],
            http_listen: vec![any],
            cert: host.clone(),
            key: host,
            ca_path,
            admin_listen: None,
            joboutputs_max_bytes: 3_000_000,
            joboutputs_max_bytes_per_machine: 4_000_000,
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let clock = Clock::manual(Timestamp::from_unix(NOW));
        let server = runtime
            .block_on(Server::start(
                &config,
                store.layout().clone(),
                clock.clone(),
            ))
            .unwrap();
        let [address, http_address] = *server.addresses() else {
            panic!("expected two addresses, not {:?}", server.addresses());
        };
        Self {
            runtime,
            server: Some(server),
            address,
            http_address,
            dir,
            store,
            clock,
            config,
        }
    }

    fn ca_path(&self) -> PathBuf {
        self.dir.path().join("certificates")
    }

    fn layout(&self) -> &Layout {
        self.store.layout()
    }

    fn output(&self, file: &str) -> PathBuf {
        let name = MachineName::new(MACHINE).unwrap();
        self.layout()
            .published(&name, Published::Joboutputs)
            .join(file)
    }

    fn reload(&self) {
        self.server.as_ref().unwrap().reload();
    }

    fn connect(&self, party: Option<&Party>) -> SslStream<TcpStream> {
        self.connect_by(party, SslVersion::TLS1_3)
    }

    fn connect_by(&self, party: Option<&Party>, version: SslVersion) -> SslStream<TcpStream> {
        self.handshake(party, version).unwrap()
    }

    /// A connection, `None` when the handshake fails.
    fn try_connect(&self, party: Option<&Party>) -> Option<SslStream<TcpStream>> {
        self.handshake(party, SslVersion::TLS1_3).ok()
    }

    fn handshake(
        &self,
        party: Option<&Party>,
        version: SslVersion,
    ) -> Result<SslStream<TcpStream>, openssl::ssl::HandshakeError<TcpStream>> {
        let mut client = CONNECTOR.configure().unwrap();
        client.set_max_proto_version(Some(version)).unwrap();
        if let Some(party) = party {
            client.set_certificate(&party.cert).unwrap();
            client.set_private_key(&party.key).unwrap();
            for cert in &party.chain {
                client.add_chain_cert(cert.clone()).unwrap();
            }
        }
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        client.connect("localhost", stream)
    }

    /// Sends `text` over a connection of its own and reads the answer to its end.
    fn raw(&self, party: Option<&Party>, text: &str) -> Answer {
        let mut stream = self.connect(party);
        stream.write_all(text.as_bytes()).unwrap();
        Answer::read(&mut stream)
    }

    fn get(&self, path: &str) -> Answer {
        self.raw(None, &request("GET", path, ""))
    }

    fn put(&self, party: Option<&Party>, file: &str, content: &str) -> Answer {
        let length = format!("Content-Length: {}\r\n", content.len());
        let head = request("PUT", &joboutputs(file), &length);
        self.raw(party, &(head + content))
    }
}

/// The server stamps files with whole seconds, and an inode that one version gives back may be that
/// of the next but one.
#[test]
fn versions_of_one_second_have_different_tags() {
    let world = World::new();
    let read = request("GET", &joboutputs("x"), "");
    let mut tags = std::collections::BTreeSet::new();
    for content in ["1", "2", "3", "4"] {
        world.put(Some(&PKI.user), "x", content);
        let answer = world.raw(Some(&PKI.user), &read);
        assert_eq!(answer.body, content);
        tags.insert(answer.header("ETag").unwrap().to_owned());
        // The file system's own clock counts in steps of some milliseconds.
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(tags.len(), 4, "{tags:?}");
}

fn joboutputs(file: &str) -> String {
    format!("/machines/{MACHINE}/joboutputs/{file}")
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: String,
    body: String,
}

impl Answer {
    fn read(stream: &mut impl Read) -> Self {
        let mut bytes = Vec::new();
        // A close without TLS's goodbye after a whole answer is not what is tested here.
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert!(!bytes.is_empty(), "no answer: {error}");
        }
        let text = String::from_utf8(bytes).unwrap();
        let (headers, body) = text.split_once("\r\n\r\n").unwrap();
        Self {
            status: headers.split(' ').nth(1).unwrap().parse().unwrap(),
            headers: headers.to_owned(),
            body: body.to_owned(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

#[test]
fn anybody_reads_the_features_of_a_machine_that_exists() {
    let world = World::new();
    let key = format!("/machines/{MACHINE}/jobfeatures/wall_limit_secs");
    let answer = world.get(&key);
    assert_eq!((answer.status, &*answer.body), (200, "86400"));
    assert_eq!(answer.header("Content-Type"), Some("text/plain"));
    assert_eq!(answer.header("Content-Length"), Some("5"));
    let head = world.raw(None, &request("HEAD", &key, ""));
    assert_eq!((head.status, &*head.body), (200, ""));
    for name in ["Content-Length", "ETag", "Last-Modified"] {
        assert!(head.header(name).is_some(), "{name}");
        assert_eq!(head.header(name), answer.header(name));
    }
    for (condition, name) in [
        ("If-None-Match", "ETag"),
        ("If-Modified-Since", "Last-Modified"),
    ] {
        let header = format!("{condition}: {}\r\n", answer.header(name).unwrap());
        let again = world.raw(None, &request("GET", &key, &header));
        assert_eq!((again.status, &*again.body), (304, ""), "{condition}");
    }

    let bare = world.get(&format!("/machines/{MACHINE}/jobfeatures"));
    assert_eq!(bare.status, 301);
    let slash = bare.header("Location").unwrap().to_owned();
    assert_eq!(slash, format!("/machines/{MACHINE}/jobfeatures/"));
    let listing = world.get(&slash);
    assert_eq!(listing.status, 200);
    for key in ["allocated_cpu", "wall_limit_secs"] {
        let link = format!("<a href=\"{key}\">{key}</a>");
        assert!(listing.body.contains(&link), "{}", listing.body);
    }
}

#[test]
fn a_value_that_moves_is_seen_at_once() {
    let world = World::new();
    let name = MachineName::new(MACHINE).unwrap();
    let key = format!("/machines/{MACHINE}/machinefeatures/shutdowntime");
    assert_eq!(world.get(&key).status, 404);
    for time in [5000, 4000] {
        let time = Timestamp::from_unix(time);
        world.store.set_shutdowntime(&name, time).unwrap();
        assert_eq!(world.get(&key).body, time.to_string());
    }
    world.store.remove_machine(&name).unwrap();
    assert_eq!(world.get(&key).status, 404);
}

#[test]
fn nothing_else_can_be_read() {
    let world = World::new();
    fs::write(world.dir.path().join("secret"), "secret").unwrap();
    let features = world
        .layout()
        .published(&MachineName::new(MACHINE).unwrap(), Published::Jobfeatures);
    std::os::unix::fs::symlink(world.dir.path().join("secret"), features.join("link")).unwrap();
    for path in [
        "/",
        "/machines/",
        "/machines/MACHINE/",
        "/machines/MACHINE/created",
        "/machines/MACHINE/https_x509dn",
        "/machines/MACHINE/jobfeatures/missing",
        "/machines/MACHINE/jobfeatures/link",
        "/machines/MACHINE/jobfeatures/../created",
        "/machines/MACHINE/jobfeatures/%2e%2e%2fcreated",
        "/machines/MACHINE/jobfeatures/..%5ccreated",
        "/machines/MACHINE/jobfeatures//etc/passwd",
        "/machines/MACHINE/jobfeatures/x%00",
        "/machines/vcycle-a-zzzzzzzzzz/jobfeatures/allocated_cpu",
        "/machines/../../secret",
    ] {
        let path = path.replace("MACHINE", MACHINE);
        let answer = world.get(&path);
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
    }
    let long = format!("/machines/{}", "a".repeat(4000));
    assert_eq!(world.get(&long).status, 414);
    let key = format!("/machines/{MACHINE}/jobfeatures/allocated_cpu");
    for method in ["POST", "DELETE", "PUT", "OPTIONS"] {
        let answer = world.raw(
            Some(&PKI.user),
            &request(method, &key, "Content-Length: 0\r\n"),
        );
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("Allow"), Some("GET, HEAD"));
    }
}

#[test]
fn in_clear_there_are_only_features() {
    let world = World::new();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(world.http_address).unwrap();
        stream
            .write_all(request("GET", path, "").as_bytes())
            .unwrap();
        Answer::read(&mut stream).status
    };
    assert_eq!(
        get(&format!("/machines/{MACHINE}/machinefeatures/total_cpu")),
        200
    );
    assert_eq!(get(&joboutputs("")), 403);
}

#[test]
fn a_machinetype_without_x509dn_takes_nothing() {
    let world = World::new();
    let path = format!("/machines/{CLOSED}/joboutputs/x");
    let head = request("PUT", &path, "Content-Length: 0\r\n");
    let answer = world.raw(Some(&PKI.user), &head);
    assert_eq!(answer.status, 403);
    assert!(
        answer.body.contains("had no x509dn when it was made"),
        "{answer:?}"
    );
    let path = path.replace(CLOSED, "vcycle-b-zzzzzzzzzz");
    let head = request("PUT", &path, "Content-Length: 0\r\n");
    assert_eq!(world.raw(Some(&PKI.user), &head).status, 404);
}

#[test]
fn a_file_appears_whole_with_the_time_of_the_daemon() {
    let world = World::new();
    assert_eq!(world.put(Some(&PKI.user), "heartbeat", "1").status, 201);
    let found = fs::metadata(world.output("heartbeat")).unwrap();
    let expected = Timestamp::from_unix(NOW).to_system_time();
    assert_eq!(found.modified().unwrap(), expected);
    let name = MachineName::new(MACHINE).unwrap();
    for text in ["200 Success", "300 Nothing to do"] {
        world.put(Some(&PKI.user), "shutdown_message", text);
        let message = world.store.shutdown_message(&name).unwrap().unwrap();
        assert_eq!(message.text(), text);
    }
}

#[test]
fn bodies_of_all_kinds() {
    let world = World::new();
    let user = Some(&PKI.user);
    let path = joboutputs("log");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let body = "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let answer = world.raw(user, &(request("PUT", &path, chunked) + body));
    assert_eq!(answer.status, 201);
    assert_eq!(
        fs::read_to_string(world.output("log")).unwrap(),
        "hello world"
    );

    let large = "x".repeat(2_500_000);
    assert_eq!(world.put(user, "log", &large).status, 200);
    assert!(fs::read_to_string(world.output("log")).unwrap() == large);
    let read = world.raw(user, &request("GET", &path, ""));
    assert!(read.body == large);

    assert_eq!(world.raw(user, &request("PUT", &path, "")).status, 411);
    let part = "Content-Range: bytes 0-1/9\r\nContent-Length: 2\r\n";
    assert_eq!(
        world
            .raw(user, &(request("PUT", &path, part) + "xx"))
            .status,
        400
    );
    assert_eq!(world.put(user, "", "x").status, 400);
    assert_eq!(world.put(user, ".hidden", "x").status, 400);
    assert_eq!(world.put(user, "a%20b", "x").status, 201);
    assert!(world.output("a b").exists());
}

#[test]
fn too_much_is_refused_before_and_while_it_comes() {
    let world = World::new();
    let user = Some(&PKI.user);
    let mut stream = world.connect(user);
    let long = "Content-Length: 3000001\r\nExpect: 100-continue\r\n";
    let head = request("PUT", &joboutputs("x"), long);
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut stream).status, 413);

    let mut stream = world.connect(user);
    let head = request("PUT", &joboutputs("x"), "Transfer-Encoding: chunked\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let piece = format!("f4240\r\n{}\r\n", "x".repeat(1_000_000));
    for _ in 0..4 {
        // The answer may come, and the connection end, before all is sent.
        if stream.write_all(piece.as_bytes()).is_err() {
            break;
        }
    }
    let _maybe_too_late = stream.write_all(b"0\r\n\r\n");
    assert_eq!(Answer::read(&mut stream).status, 413);

    assert_eq!(world.put(user, "a", &"x".repeat(2_500_000)).status, 201);
    let length = "Content-Length: 2000000\r\nExpect: 100-continue\r\n";
    let head = request("PUT", &joboutputs("b"), length);
    assert_eq!(world.raw(user, &head).status, 507);
    assert!(!world.output("x").exists() && !world.output("b").exists());
}

#[test]
fn continue_is_said_only_to_those_who_may_write() {
    let world = World::new();
    let head = request(
        "PUT",
        &joboutputs("x"),
        "Content-Length: 2\r\nExpect: 100-continue\r\n",
    );
    assert_eq!(world.raw(None, &head).status, 403);
    let mut stream = world.connect(Some(&PKI.user));
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 25];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ok").unwrap();
    assert_eq!(Answer::read(&mut stream).status, 201);
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let world = World::new();
    let tmp = world.layout().tmp();
    let files = || fs::read_dir(&tmp).unwrap().count();
    let mut stream = world.connect(Some(&PKI.user));
    let head = request("PUT", &joboutputs("x"), "Content-Length: 2000000\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[b'x'; 1_000_000]).unwrap();
    wait_until("the upload has begun", || files() == 1);
    drop(stream);
    wait_until("the upload is gone", || files() == 0);
    assert!(!world.output("x").exists());
}

fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let world = World::new();
    let mut stream = world.connect(Some(&PKI.user));
    for n in 0..3 {
        let head = format!(
            "PUT {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n{n}",
            joboutputs("x")
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        let expected = if n == 0 {
            "HTTP/1.1 201"
        } else {
            "HTTP/1.1 200"
        };
        assert!(answer.starts_with(expected.as_bytes()));
    }
    assert_eq!(fs::read_to_string(world.output("x")).unwrap(), "2");
}

#[test]
fn stopping_lets_the_request_under_way_end() {
    let mut world = World::new();
    let idle = world.connect(None);
    let mut busy = world.connect(Some(&PKI.user));
    let head = request("PUT", &joboutputs("x"), "Content-Length: 300000\r\n");
    busy.write_all(head.as_bytes()).unwrap();
    busy.write_all(&[b'x'; 280_000]).unwrap();
    let tmp = world.layout().tmp();
    wait_until("the upload has begun", || {
        fs::read_dir(&tmp).unwrap().count() == 1
    });
    let server = world.server.take().unwrap();
    let stopping = world
        .runtime
        .spawn(async move { server.stop(PATIENCE).await });
    wait_until("nobody listens", || {
        TcpStream::connect(world.address).is_err()
    });
    busy.write_all(&[b'x'; 20_000]).unwrap();
    assert_eq!(Answer::read(&mut busy).status, 201);
    let start = Instant::now();
    world.runtime.block_on(stopping).unwrap();
    assert!(start.elapsed() < PATIENCE, "an idle connection held it up");
    drop(idle);
}
