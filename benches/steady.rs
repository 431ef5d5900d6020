//! One steady cycle of a space with 5,000 machines, against an HTTP server on loopback.
//!
//! `cargo bench --bench steady` runs the whole daemon (configuration, token, facts, listing, join,
//! decision, heartbeats) with nothing to do, and prints for one cycle: processor time, as a ratio
//! to what parsing the same listing with serde_json alone costs in the same run; requests; files
//! changed; and the resident memory. The server runs in a process of its own, so that its
//! processor time is not counted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a benchmark may end by panicking, and lays out its files by hand"
)]

use std::convert::Infallible;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use vcycle::clock::Clock;
use vcycle::config::Sources;
use vcycle::daemon::{Board, Control, Host, Settings};
use vcycle::model::{FactoryName, Seconds, SpaceName};

const MACHINES: usize = 5000;
const PAGE: usize = 1000;
const CYCLES: u64 = 20;
const FACTORY: &str = "factory.example.org";

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.any(|argument| argument == "--serve") {
        serve();
    } else {
        measure();
    }
}

fn name(index: usize) -> String {
    format!("vcycle-atlas-{index:010}")
}

fn id(index: usize) -> String {
    format!("{index:08x}-8ab3-4c1e-9d5f-0123456789ab")
}

/// One server as Nova lists it.
fn server(index: usize) -> String {
    let (id, name) = (id(index), name(index));
    let urls = ["machinefeatures", "jobfeatures", "joboutputs"]
        .map(|which| format!(r#""{which}": "https://{FACTORY}:443/machines/{name}/{which}""#));
    format!(
        r#"{{"id": "{id}", "name": "{name}", "status": "ACTIVE",
"tenant_id": "ca614763046b4e17acf5df2b57bc96ad", "user_id": "6f70656e737461636b2069732066756e",
"metadata": {{"name": "{name}", "machinetype": "atlas", "space": "example.org", "manager": "{FACTORY}", {}}},
"hostId": "c1b2d3e4f5a6978812345678901234567890123456789012345678aa",
"image": {{"id": "0d591c41-d8e9-4c06-830f-6bfef6713736", "links": [{{"rel": "bookmark", "href": "http://127.0.0.1/images/0d591c41-d8e9-4c06-830f-6bfef6713736"}}]}},
"flavor": {{"id": "b5694a07-26b8-4422-855f-735afdc6bffa", "links": [{{"rel": "bookmark", "href": "http://127.0.0.1/flavors/b5694a07-26b8-4422-855f-735afdc6bffa"}}]}},
"created": "2026-11-20T10:00:00Z", "updated": "2026-11-20T10:01:00Z",
"addresses": {{"vcycle-net": [{{"version": 4, "addr": "10.77.{}.{}", "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:12:34:56"}}]}},
"accessIPv4": "", "accessIPv6": "", "links": [{{"rel": "self", "href": "http://127.0.0.1/v2.1/servers/{id}"}}, {{"rel": "bookmark", "href": "http://127.0.0.1/servers/{id}"}}],
"OS-DCF:diskConfig": "MANUAL", "progress": 0, "OS-EXT-AZ:availability_zone": "zone-a", "config_drive": "", "key_name": null,
"OS-SRV-USG:launched_at": "2026-11-20T10:01:00.000000", "OS-SRV-USG:terminated_at": null,
"security_groups": [{{"name": "default"}}], "OS-EXT-STS:task_state": null, "OS-EXT-STS:vm_state": "active", "OS-EXT-STS:power_state": 1,
"os-extended-volumes:volumes_attached": []}}"#,
        urls.join(", "),
        index / 250,
        index % 250
    )
}

/// Page number `page` of the listing; a full page has a link to the next, as Nova's have.
fn page(base: &str, page: usize) -> String {
    let from = page * PAGE;
    let servers: Vec<_> = (from..(from + PAGE).min(MACHINES)).map(server).collect();
    let mut text = format!(r#"{{"servers": [{}]"#, servers.join(", "));
    if servers.len() == PAGE {
        let marker = id(from + PAGE - 1);
        write!(
            text,
            r#", "servers_links": [{{"rel": "next", "href": "{base}/v2.1/servers/detail?marker={marker}"}}]"#
        )
        .unwrap();
    }
    text.push('}');
    text
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    tokens: AtomicU64,
}

/// The process that plays the cloud. Prints its address, then answers until it is killed.
fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        println!("{base}");
        let pages: Vec<Bytes> = (0..=MACHINES / PAGE)
            .map(|number| Bytes::from(page(&base, number)))
            .collect();
        let pages = Arc::new(pages);
        let counters = Arc::new(Counters::default());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (base, pages, counters) = (base.clone(), Arc::clone(&pages), Arc::clone(&counters));
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let answer = answer(&base, &pages, &counters, &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                let _closed_by_the_daemon = serving.await;
            });
        }
    });
}

fn answer(
    base: &str,
    pages: &[Bytes],
    counters: &Counters,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or("");
    if path != "/counters" {
        counters.requests.fetch_add(1, Ordering::Relaxed);
    }
    let mut response = Response::builder().header("content-type", "application/json");
    let body = match path {
        "/counters" => Bytes::from(format!(
            "{} {}",
            counters.requests.load(Ordering::Relaxed),
            counters.tokens.load(Ordering::Relaxed)
        )),
        "/v3/auth/tokens" => {
            counters.tokens.fetch_add(1, Ordering::Relaxed);
            response = response.status(201).header("x-subject-token", "token");
            Bytes::from(format!(
                r#"{{"token": {{"expires_at": "2099-01-01T00:00:00.000000Z", "catalog": [
{{"type": "compute", "name": "nova", "endpoints": [{{"interface": "public", "region": "R", "region_id": "R", "url": "{base}/v2.1"}}]}},
{{"type": "image", "name": "glance", "endpoints": [{{"interface": "public", "region": "R", "region_id": "R", "url": "{base}"}}]}}]}}}}"#
            ))
        }
        "/v2.1/flavors/detail" => Bytes::from_static(
            br#"{"flavors": [{"id": "b5694a07-26b8-4422-855f-735afdc6bffa", "name": "small", "vcpus": 1, "ram": 2048, "disk": 10}]}"#,
        ),
        "/v2.1/limits" => Bytes::from_static(
            br#"{"limits": {"rate": [], "absolute": {"maxTotalInstances": 5000, "maxTotalCores": 5000}}}"#,
        ),
        "/v2.1/servers/detail" => {
            let marker = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("marker="));
            let number = marker.map_or(0, |marker| {
                let index = usize::from_str_radix(&marker[..8], 16).unwrap();
                (index + 1) / PAGE
            });
            pages[number].clone()
        }
        other => panic!("asked for {other}"),
    };
    response.body(Full::new(body)).unwrap()
}

struct Cloud {
    process: Child,
    base: String,
}

impl Cloud {
    fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("--serve")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut base = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut base)
            .unwrap();
        Self {
            process,
            base: base.trim().to_owned(),
        }
    }

    async fn counters(&self) -> (u64, u64) {
        let text = reqwest::get(format!("{}/counters", self.base))
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let (requests, tokens) = text.split_once(' ').unwrap();
        (requests.parse().unwrap(), tokens.parse().unwrap())
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn put(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// A state directory with all machines running and their heartbeats fresh.
fn lay_out(root: &Path, now: u64) {
    for index in 0..MACHINES {
        let dir = root.join("machines").join(name(index));
        for sub in ["machinefeatures", "jobfeatures", "joboutputs"] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
        }
        put(&dir.join("created"), &(now - 4000).to_string());
        put(&dir.join("started"), &(now - 3900).to_string());
        put(&dir.join("space_name"), "example.org");
        put(&dir.join("machinetype_name"), "atlas");
        put(&dir.join("manager"), FACTORY);
        put(&dir.join("uuid"), &id(index));
        let shutdowntime = (now + 80000).to_string();
        put(&dir.join("jobfeatures/shutdowntime_job"), &shutdowntime);
        put(&dir.join("jobfeatures/allocated_cpu"), "1");
        put(&dir.join("joboutputs/heartbeat"), "");
    }
}

/// Stands for everything below `dir` that a write would change, apart from the time of the last
/// scan. One number, because a list of all files would count as memory of the daemon.
fn fingerprint(dir: &Path) -> u64 {
    let mut sum = 0_u64;
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let found = entry.metadata().unwrap();
        if found.is_dir() {
            sum = sum.wrapping_add(fingerprint(&entry.path()));
        }
        if entry.file_name() != "last_scan" {
            let mut hasher = std::hash::DefaultHasher::new();
            (entry.path(), found.modified().unwrap(), found.len()).hash(&mut hasher);
            sum = sum.wrapping_add(hasher.finish());
        }
    }
    sum
}

/// Processor time of all threads of this process so far.
fn cpu_time() -> Duration {
    let mut total = 0;
    for thread in std::fs::read_dir("/proc/self/task").unwrap() {
        // A thread may end while we look.
        if let Ok(text) = std::fs::read_to_string(thread.unwrap().path().join("schedstat")) {
            total += text.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    Duration::from_nanos(total)
}

fn resident_mib(which: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

fn measure() {
    let cloud = Cloud::start();
    let root = tempfile::tempdir().unwrap();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let state = root.path().join("state");
    lay_out(&state, now);
    let conf = root.path().join("vcycle.conf");
    put(&root.path().join("user_data"), "#cloud-config\n");
    let text = format!(
        "[server]\nlisten = none\n\
         [space example.org]\napi = openstack\nurl = {}/v3\ntenancy_name = t\nusername = u\n\
         password_base64 = cA==\nmax_machines = {MACHINES}\n\
         [machinetype example.org atlas]\nflavor_name = small\nroot_image = image:x\n\
         user_data = {}\ntarget_share = 1\nbackoff_seconds = 600\nfizzle_seconds = 600\n\
         heartbeat_file = heartbeat\nheartbeat_seconds = 3600\n",
        cloud.base,
        root.path().join("user_data").display()
    );
    put(&conf, &text);
    let settings = Settings {
        sources: Sources {
            conf,
            dir: root.path().join("none.d"),
        },
        state_dir: state.clone(),
        interval: Seconds::new(1),
        factory: FactoryName::new(FACTORY).unwrap(),
        clock: Clock::system(),
        host: Host::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (cycle, wall, requests) = runtime.block_on(run(settings, &cloud, &state));
    let (peak, resident) = (resident_mib("VmHWM"), resident_mib("VmRSS"));

    let pages: Vec<String> = (0..=MACHINES / PAGE)
        .map(|number| page(&cloud.base, number))
        .collect();
    let bytes: usize = pages.iter().map(String::len).sum();
    let parse = time(|| {
        for page in &pages {
            std::hint::black_box(serde_json::from_str::<serde_json::Value>(page).unwrap());
        }
    });
    let structs = time(|| {
        for page in &pages {
            std::hint::black_box(serde_json::from_str::<Listing<'_>>(page).unwrap());
        }
    });
    let skip = time(|| {
        for page in &pages {
            std::hint::black_box(serde_json::from_str::<serde::de::IgnoredAny>(page).unwrap());
        }
    });
    println!("machines                      {MACHINES} ({bytes} bytes of listing)");
    println!("cycle, processor time         {cycle:.1?} (wall time {wall:.1?})");
    println!(
        "serde_json to Value           {parse:.1?}   ratio {:.2}",
        cycle.as_secs_f64() / parse.as_secs_f64()
    );
    println!(
        "serde_json to structs         {structs:.1?}   ratio {:.2}",
        cycle.as_secs_f64() / structs.as_secs_f64()
    );
    println!(
        "serde_json, everything skipped {skip:.1?}   ratio {:.2}",
        cycle.as_secs_f64() / skip.as_secs_f64()
    );
    println!("requests a cycle              {requests:.1}");
    println!("resident memory               {resident} MiB (peak {peak} MiB)");
}

/// What the daemon needs of a listing, as plainly as serde can be asked for it.
#[derive(serde::Deserialize)]
struct Listing<'a> {
    #[serde(borrow)]
    #[expect(dead_code, reason = "only parsing it is measured")]
    servers: Vec<Listed<'a>>,
}

#[derive(serde::Deserialize)]
#[expect(dead_code, reason = "only parsing it is measured")]
struct Listed<'a> {
    id: &'a str,
    name: &'a str,
    status: &'a str,
    created: &'a str,
    updated: &'a str,
    #[serde(rename = "OS-SRV-USG:launched_at")]
    launched: Option<&'a str>,
    #[serde(rename = "OS-EXT-STS:task_state")]
    task: Option<&'a str>,
    #[serde(rename = "OS-EXT-STS:power_state")]
    power: Option<u8>,
    #[serde(rename = "OS-EXT-AZ:availability_zone")]
    zone: &'a str,
    flavor: HasId<'a>,
    #[serde(borrow)]
    metadata: std::collections::BTreeMap<&'a str, &'a str>,
    addresses: std::collections::BTreeMap<&'a str, Vec<Address<'a>>>,
}

#[derive(serde::Deserialize)]
#[expect(dead_code, reason = "only parsing it is measured")]
struct HasId<'a> {
    id: &'a str,
}

#[derive(serde::Deserialize)]
#[expect(dead_code, reason = "only parsing it is measured")]
struct Address<'a> {
    addr: &'a str,
}

fn time(mut work: impl FnMut()) -> Duration {
    let rounds = 20;
    work();
    let before = cpu_time();
    for _ in 0..rounds {
        work();
    }
    (cpu_time() - before) / rounds
}

/// Runs the daemon and gives processor time and wall time of a cycle, and requests in one.
async fn run(settings: Settings, cloud: &Cloud, state: &Path) -> (Duration, Duration, f64) {
    let (control, board) = (Control::default(), Board::default());
    let space = SpaceName::new("example.org").unwrap();
    let daemon = tokio::spawn(vcycle::daemon::run(
        settings,
        control.clone(),
        board.clone(),
        || {},
    ));
    let mut status = board.subscribe();
    let mut wait_for = async |passes: u64| {
        let reached = status.wait_for(|status| {
            let Some(space) = status.spaces.get(&space) else {
                return false;
            };
            assert_eq!(space.error, None);
            space.passes >= passes
        });
        tokio::time::timeout(Duration::from_secs(60), reached)
            .await
            .unwrap()
            .unwrap();
    };
    wait_for(3).await;
    let before_files = fingerprint(state);
    let (before_requests, _) = cloud.counters().await;
    let mut wall = Duration::ZERO;
    let before = cpu_time();
    for pass in 0..CYCLES {
        let began = Instant::now();
        control.wake.notify_one();
        wait_for(4 + pass).await;
        wall += began.elapsed();
    }
    let spent = cpu_time() - before;
    let (after_requests, tokens) = cloud.counters().await;
    let after_files = fingerprint(state);
    let report = board.now().spaces[&space].report.clone();
    assert_eq!(report.space.machines as usize, MACHINES);
    assert_eq!(before_files, after_files, "a steady cycle wrote files");
    assert_eq!(tokens, 1, "the token was not kept");
    control.stop.cancel();
    daemon.await.unwrap().unwrap();
    let cycles = u32::try_from(CYCLES).unwrap();
    (
        spent / cycles,
        wall / cycles,
        (after_requests - before_requests) as f64 / CYCLES as f64,
    )
}
