//! The server's router, called without sockets: bodies that misbehave, on paused time.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{Request, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use vcycle::clock::Clock;
use vcycle::model::{
    Dn, FactoryName, MachineName, MachinetypeName, SpaceName, Timestamp, TokenHash,
};
use vcycle::server::{Access, Client, Credentials, Limits, Router};
use vcycle::state::{NewMachine, Published, Store};

const MACHINE: &str = "vcycle-a-abcdefghij";
const DN: &str = "/DC=org/CN=vm";
const TOKEN: &str = "token-of-the-machine";

struct World {
    _root: tempfile::TempDir,
    store: Store,
    router: Router,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let new = NewMachine {
            name: MachineName::new(MACHINE).unwrap(),
            space: SpaceName::new("example.org").unwrap(),
            machinetype: MachinetypeName::new("a").unwrap(),
            manager: FactoryName::new("factory").unwrap(),
            created: Timestamp::from_unix(1000),
            id: None,
            fizzle: None,
            hepscore23_per_processor: None,
            accounting_fqan: None,
            log_joboutputs: false,
            flavor: None,
            zone: None,
            https_x509dn: Some(DN.to_owned()),
            token: Some(TokenHash::of(TOKEN)),
            user_data: None,
            machinefeatures: BTreeMap::new(),
            jobfeatures: BTreeMap::new(),
        };
        store.create_machine(&new).unwrap();
        let limits = Limits {
            file: 10_000_000,
            machine: 10_000_000,
        };
        let clock = Clock::manual(Timestamp::from_unix(2000));
        Self {
            router: Router::new(store.layout().clone(), clock, limits),
            store,
            _root: root,
        }
    }

    async fn answer<B>(&self, request: Request<B>, dn: Option<&str>) -> (u16, String)
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let credentials = dn.map_or(Credentials::None, |dn| {
            Credentials::Verified(Dn::parse(dn).unwrap())
        });
        let client = Client {
            address: "192.0.2.1:4711".parse().unwrap(),
            access: Access::Tls(credentials),
        };
        let answer = self.router.answer(request, &client).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Files in joboutputs and in tmp.
    fn files(&self) -> (usize, usize) {
        let name = MachineName::new(MACHINE).unwrap();
        let layout = self.store.layout();
        let count = |path| fs::read_dir(path).map_or(0, Iterator::count);
        (
            count(layout.published(&name, Published::Joboutputs)),
            count(layout.tmp()),
        )
    }
}

fn put<B>(body: B) -> Request<B> {
    Request::put(format!("/machines/{MACHINE}/joboutputs/x"))
        .version(Version::HTTP_2)
        .body(body)
        .unwrap()
}

/// A body of pieces of 100,000 bytes with a pause before each, which counts those taken.
fn pieces(
    count: usize,
    pause: Duration,
    taken: &Arc<AtomicUsize>,
) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin + use<> {
    let taken = Arc::clone(taken);
    StreamBody::new(Box::pin(stream::iter(0..count).then(move |_| {
        let taken = Arc::clone(&taken);
        async move {
            tokio::time::sleep(pause).await;
            taken.fetch_add(1, Ordering::SeqCst);
            Ok(Frame::data(Bytes::from(vec![b'x'; 100_000])))
        }
    })))
}

#[tokio::test]
async fn over_http2_a_body_needs_no_length() {
    let world = World::new();
    let (status, _) = world.answer(put(Full::from("content")), Some(DN)).await;
    assert_eq!(status, 201);
    assert_eq!(world.files(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_is_given_up() {
    let world = World::new();
    let taken = Arc::new(AtomicUsize::new(0));
    let body = pieces(10, Duration::from_secs(31), &taken);
    assert_eq!(world.answer(put(body), Some(DN)).await.0, 408);
    assert_eq!(world.files(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_is_given_up_in_the_end() {
    let world = World::new();
    let taken = Arc::new(AtomicUsize::new(0));
    let slow = pieces(40, Duration::from_secs(29), &taken);
    assert_eq!(world.answer(put(slow), Some(DN)).await.0, 408);
    assert_eq!(world.files(), (0, 0));
    let patient = pieces(20, Duration::from_secs(29), &taken);
    assert_eq!(world.answer(put(patient), Some(DN)).await.0, 201);
    assert_eq!(world.files(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn of_a_refused_body_some_is_read_but_not_all() {
    let world = World::new();
    let taken = Arc::new(AtomicUsize::new(0));
    let body = pieces(1000, Duration::ZERO, &taken);
    let (status, reason) = world.answer(put(body), None).await;
    assert_eq!(
        (status, &*reason),
        (
            403,
            "joboutputs needs a client certificate or the machine's token\n"
        )
    );
    assert_eq!(taken.swap(0, Ordering::SeqCst), 11);

    let slow = pieces(1000, Duration::from_secs(3), &taken);
    assert_eq!(world.answer(put(slow), None).await.0, 403);
    assert_eq!(taken.swap(0, Ordering::SeqCst), 1);

    let mut waiting = put(pieces(1000, Duration::ZERO, &taken));
    let expect = http::HeaderValue::from_static("100-continue");
    waiting.headers_mut().insert("expect", expect);
    assert_eq!(world.answer(waiting, None).await.0, 403);
    assert_eq!(taken.load(Ordering::SeqCst), 0);
    assert_eq!(world.files(), (0, 0));
}

#[tokio::test]
async fn a_body_that_breaks_leaves_nothing() {
    let world = World::new();
    let pieces = (0..10).map(|n| match n {
        9 => Err(std::io::Error::other("reset")),
        _ => Ok(Frame::data(Bytes::from(vec![b'x'; 100_000]))),
    });
    let body = StreamBody::new(stream::iter(pieces));
    let (status, reason) = world.answer(put(body), Some(DN)).await;
    assert_eq!(status, 400);
    assert!(reason.contains("reset"), "{reason}");
    assert_eq!(world.files(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_goes_away_meanwhile_takes_the_upload_with_it() {
    let world = World::new();
    let taken = Arc::new(AtomicUsize::new(0));
    let body = pieces(10, Duration::from_secs(1), &taken);
    let removal = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let name = MachineName::new(MACHINE).unwrap();
        world.store.remove_machine(&name).unwrap();
    };
    let ((status, _), ()) = tokio::join!(world.answer(put(body), Some(DN)), removal);
    assert_eq!(status, 404);
    assert_eq!(world.files(), (0, 0));
}

#[tokio::test]
async fn trouble_of_our_own_is_not_the_clients() {
    let world = World::new();
    fs::remove_dir(world.store.layout().tmp()).unwrap();
    let (status, _) = world.answer(put(Full::from("x")), Some(DN)).await;
    assert_eq!(status, 500);
    let name = MachineName::new(MACHINE).unwrap();
    let dn = world.store.layout().machine(&name).join("https_x509dn");
    fs::write(dn, "nonsense").unwrap();
    let (status, reason) = world.answer(put(Full::from("x")), Some(DN)).await;
    assert_eq!(status, 403);
    assert!(reason.contains("cannot be read"), "{reason}");
}

#[tokio::test]
async fn the_token_of_a_machine_opens_that_machine_and_no_other() {
    let world = World::new();
    let other = "vcycle-b-abcdefghij";
    let with = |method: &str, machine: &str, authorization: &str| {
        Request::builder()
            .method(method)
            .uri(format!("/machines/{machine}/joboutputs/x"))
            .version(Version::HTTP_2)
            .header("authorization", authorization)
            .body(Full::from("content"))
            .unwrap()
    };
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(
        world.answer(with("GET", MACHINE, &bearer), None).await.0,
        404
    );
    assert_eq!(
        world.answer(with("PUT", MACHINE, &bearer), None).await.0,
        201
    );
    let (status, body) = world.answer(with("GET", MACHINE, &bearer), None).await;
    assert_eq!((status, &*body), (200, "content"));
    assert_eq!(world.answer(with("PUT", other, &bearer), None).await.0, 404);
    for wrong in [
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic eDp4",
        "Bearer token-of-the-machin",
    ] {
        let (status, reason) = world.answer(with("PUT", MACHINE, wrong), None).await;
        assert_eq!(status, 403, "{wrong}: {reason}");
        assert!(!reason.contains("token-of"), "{reason}");
    }
    // Who shows a token is judged by it; without one a certificate counts, as ever.
    assert_eq!(
        world
            .answer(with("PUT", MACHINE, "Bearer x"), Some(DN))
            .await
            .0,
        403
    );
    assert_eq!(
        world
            .answer(with("PUT", MACHINE, "Basic eDp4"), Some(DN))
            .await
            .0,
        200
    );
    let client = Client {
        address: "192.0.2.1:4711".parse().unwrap(),
        access: Access::Plain,
    };
    let clear = world
        .router
        .answer(with("PUT", MACHINE, &bearer), &client)
        .await;
    assert_eq!(clear.status(), 403, "a token is not for the clear");
    let name = MachineName::new(MACHINE).unwrap();
    world.store.remove_machine(&name).unwrap();
    assert_eq!(
        world.answer(with("PUT", MACHINE, &bearer), None).await.0,
        404
    );
}
