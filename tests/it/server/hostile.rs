//! Clients that hold on to what they get.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream as AsyncStream};

use super::*;

/// Connections of the crowd: from several addresses, for one may not have so many.
const CROWD: usize = 2000;
const ADDRESSES: [[u8; 4]; 3] = [[127, 0, 0, 2], [127, 0, 0, 3], [127, 0, 0, 4]];

/// The beginning of a ClientHello that never goes on.
const HALF_A_HELLO: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00];

impl World {
    /// A world for a crowd; none where so many files cannot be open.
    fn for_a_crowd() -> Option<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        if limit.is_some_and(|limit| limit < 8192) {
            eprintln!("skipped: too few files may be open here");
            return None;
        }
        Some(Self::new())
    }
}

/// Connects all of them. Those with one number come from one address, and behave alike.
fn gather(world: &World, numbers: impl IntoIterator<Item = usize>) -> Vec<AsyncStream> {
    world.runtime.block_on(async {
        let mut crowd = Vec::new();
        for number in numbers {
            crowd.push(hold(world, number).await.unwrap());
        }
        crowd
    })
}

/// The server closes the connection within so many seconds.
#[track_caller]
fn assert_let_go(world: &World, stream: &mut AsyncStream, seconds: u64) {
    let gone = world.runtime.block_on(async {
        let mut byte = [0];
        tokio::time::timeout(Duration::from_secs(seconds), stream.read(&mut byte)).await
    });
    assert!(matches!(gone, Ok(Ok(0) | Err(_))), "{gone:?}");
}

async fn hold(world: &World, number: usize) -> std::io::Result<AsyncStream> {
    let socket = TcpSocket::new_v4()?;
    let from = ADDRESSES[number % ADDRESSES.len()];
    socket.bind(SocketAddr::from((from, 0)))?;
    let mut stream = socket.connect(world.address).await?;
    if number.is_multiple_of(2) {
        stream.write_all(HALF_A_HELLO).await?;
    }
    Ok(stream)
}

/// Finishes the handshake, and then sends a header a byte at a time, or none.
fn slow_request(world: &World, number: usize) -> SslStream<TcpStream> {
    let mut stream = world.connect(None);
    if number.is_multiple_of(2) {
        let head = request("PUT", &joboutputs("heartbeat"), "Content-Length: 5\r\n");
        stream.write_all(&head.as_bytes()[..20]).unwrap();
    }
    stream
}

#[test]
fn a_crowd_of_2000_slow_clients_keeps_no_vm_from_its_heartbeat() {
    let Some(world) = World::for_a_crowd() else {
        return;
    };
    let crowd = gather(&world, 0..CROWD);
    let slow: Vec<_> = (0..100)
        .map(|number| slow_request(&world, number))
        .collect();
    for status in [201, 200, 200] {
        let begun = Instant::now();
        assert_eq!(
            world.put(Some(&PKI.user), "heartbeat", "alive").status,
            status
        );
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
    }
    let key = format!("/machines/{MACHINE}/jobfeatures/wall_limit_secs");
    assert_eq!(world.get(&key).status, 200);
    drop(slow);
    // Those that never finish a handshake are let go of.
    let (mut oldest, second) = {
        let mut crowd = crowd.into_iter();
        (crowd.next().unwrap(), crowd.next())
    };
    assert_let_go(&world, &mut oldest, 25);
    drop(second);
}

#[test]
fn one_address_cannot_have_all_connections() {
    let Some(world) = World::for_a_crowd() else {
        return;
    };
    let mut crowd = gather(&world, std::iter::repeat_n(0, 1100));
    // Sooner than a handshake that does not go on is given up, which is not what is meant here.
    assert_let_go(&world, crowd.last_mut().unwrap(), 12);
    assert_eq!(world.put(Some(&PKI.user), "heartbeat", "alive").status, 201);
}

#[test]
fn a_site_behind_one_address_has_more_than_a_share() {
    let Some(world) = World::for_a_crowd() else {
        return;
    };
    // A sixteenth of all places is 1024 at most.
    let begun: Vec<_> = (0..1100).map(|_| world.connect(None)).collect();
    assert_eq!(world.put(Some(&PKI.user), "heartbeat", "alive").status, 201);
    drop(begun);
    let in_clear: Vec<_> = (0..1100)
        .map(|_| TcpStream::connect(world.http_address).unwrap())
        .collect();
    let mut last = in_clear.last().unwrap();
    let key = format!("/machines/{MACHINE}/jobfeatures/wall_limit_secs");
    last.write_all(request("GET", &key, "").as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut last).status, 200);
}
