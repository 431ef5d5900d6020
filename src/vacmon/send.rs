//! Sending, to each receiver from a task of its own: looking up a name can take a minute, and a
//! receiver may refuse what it is sent. What cannot be sent is dropped; nobody waits for it.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, debug, info, warn};

use crate::telemetry::Repeats;

/// Messages that wait while a name is looked up; what comes beyond that is dropped.
const QUEUE: usize = 4096;
/// How long an address is used before its name is looked up again.
const ADDRESS_LIFE: Duration = Duration::from_secs(600);
/// How long a receiver is left alone when its name could not be looked up.
const PAUSE: Duration = Duration::from_secs(60);
/// How long looking up a name may take. The system goes on with it; we do not wait.
const LOOKING_UP: Duration = Duration::from_secs(30);
/// So many messages are sent at once, and then a pause is made: a receiver with a small buffer
/// loses what comes faster.
const BURST: u32 = 20;
const BETWEEN_BURSTS: Duration = Duration::from_millis(10);

/// The receivers of one space.
#[derive(Debug, Default)]
pub struct Receivers(BTreeMap<String, Receiver>);

#[derive(Debug)]
struct Receiver {
    queue: mpsc::Sender<Bytes>,
    /// Ends with the receiver.
    _task: AbortOnDropHandle<()>,
}

impl Receivers {
    /// Sends all messages to each of the receivers, which are `host:port`, and forgets all others.
    /// Comes back at once.
    pub fn send(&mut self, receivers: &[String], messages: &[Bytes]) {
        self.0.retain(|name, _| receivers.contains(name));
        for name in receivers {
            let receiver = self.0.entry(name.clone()).or_insert_with(|| {
                let (queue, waiting) = mpsc::channel(QUEUE);
                let span = tracing::info_span!("vacmon", receiver = %name);
                let task = Delivery::to(name.clone()).run(waiting).instrument(span);
                Receiver {
                    queue,
                    _task: AbortOnDropHandle::new(tokio::spawn(task)),
                }
            });
            for (sent, message) in messages.iter().enumerate() {
                if receiver.queue.try_send(message.clone()).is_err() {
                    debug!(
                        receiver = %name,
                        "{} VacMon message(s) are dropped: too many wait already",
                        messages.len() - sent
                    );
                    break;
                }
            }
        }
    }
}

/// What the task of one receiver knows.
struct Delivery {
    /// `host:port`.
    receiver: String,
    socket: Option<(UdpSocket, Instant)>,
    /// When its name may be looked up again.
    not_before: Option<Instant>,
    repeats: Repeats,
}

const LOOKUP: &str = "looking up the receiver";
const REFUSED: &str = "sending";

impl Delivery {
    fn to(receiver: String) -> Self {
        Self {
            receiver,
            socket: None,
            not_before: None,
            repeats: Repeats::default(),
        }
    }

    async fn run(mut self, mut waiting: mpsc::Receiver<Bytes>) {
        let mut in_burst = 0;
        while let Some(message) = waiting.recv().await {
            self.deliver(&message).await;
            in_burst += 1;
            if in_burst == BURST {
                in_burst = 0;
                tokio::time::sleep(BETWEEN_BURSTS).await;
            }
        }
    }

    async fn deliver(&mut self, message: &[u8]) {
        if let Some((_, since)) = &self.socket
            && since.elapsed() >= ADDRESS_LIFE
        {
            self.socket = None;
        }
        if self.socket.is_none() {
            self.connect().await;
        }
        let Some((socket, _)) = &self.socket else {
            return;
        };
        let sent = match socket.send(message).await {
            // That the datagram before it was refused is told with this one, which is not sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.note_refused(&error);
                match &self.socket {
                    Some((socket, _)) => socket.send(message).await,
                    None => return,
                }
            }
            sent => sent,
        };
        match sent {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                self.note_refused(&error);
                self.socket = None;
                self.not_before = Some(Instant::now() + PAUSE);
            }
        }
    }

    /// Said once for each receiver: it would be so in each cycle, and a receiver that is away comes
    /// back without our doing.
    fn note_refused(&mut self, error: &io::Error) {
        if !self.repeats.is_standing(REFUSED) && self.repeats.is_news(REFUSED, "") {
            warn!(
                "VacMon messages do not reach {}: {error}; they are sent all the same, and this is not said again",
                self.receiver
            );
        }
    }

    async fn connect(&mut self) {
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match connect(&self.receiver).await {
            Ok(socket) => {
                self.not_before = None;
                self.socket = Some((socket, Instant::now()));
                if self.repeats.is_over(LOOKUP).is_some() {
                    info!("VacMon messages are sent to {} again", self.receiver);
                }
            }
            Err(error) => {
                self.not_before = Some(Instant::now() + PAUSE);
                // The text may change from one try to the next; the trouble is the same.
                if self.repeats.is_news(LOOKUP, "") {
                    warn!(
                        "cannot send VacMon messages to {}: {error}; they are dropped, and this is tried again each minute",
                        self.receiver
                    );
                }
            }
        }
    }
}

/// A socket that sends to the first of the receiver's addresses that can be reached from here.
async fn connect(receiver: &str) -> io::Result<UdpSocket> {
    let looked = tokio::time::timeout(LOOKING_UP, tokio::net::lookup_host(receiver)).await;
    let addresses = looked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match connect_to(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(address: SocketAddr) -> io::Result<UdpSocket> {
    let own: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(address).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    async fn receive(socket: &UdpSocket) -> String {
        let mut buffer = [0; 2000];
        let received = tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut buffer));
        let length = received.await.unwrap().unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[tokio::test]
    async fn messages_reach_every_receiver_that_can_be_reached() {
        let one = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let two = match UdpSocket::bind("[::1]:0").await {
            Ok(two) => two,
            Err(_) => UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        };
        let names = [
            "no-such-host.invalid:8884".to_owned(),
            format!("localhost:{}", one.local_addr().unwrap().port()),
            two.local_addr().unwrap().to_string(),
        ];
        let mut receivers = Receivers::default();
        receivers.send(&names, &[message("a"), message("b")]);
        for socket in [&two, &one] {
            assert_eq!(receive(socket).await, "a");
            assert_eq!(receive(socket).await, "b");
        }
        receivers.send(&names[2..], &[message("c")]);
        assert_eq!(receive(&two).await, "c");
        assert_eq!(receivers.0.len(), 1, "the others are forgotten");
    }

    #[tokio::test]
    async fn a_receiver_that_comes_back_is_sent_what_follows() {
        let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = gone.local_addr().unwrap();
        drop(gone);
        let mut delivery = Delivery::to(address.to_string());
        for _ in 0..5 {
            delivery.deliver(b"lost").await;
            tokio::task::yield_now().await;
        }
        let back = UdpSocket::bind(address).await.unwrap();
        delivery.deliver(b"first").await;
        assert_eq!(receive(&back).await, "first");
    }

    #[tokio::test]
    async fn too_many_messages_hold_nobody_up() {
        let mut receivers = Receivers::default();
        let many = vec![message("x"); QUEUE * 3];
        let names = ["no-such-host.invalid:8884".to_owned()];
        let began = Instant::now();
        receivers.send(&names, &many);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
