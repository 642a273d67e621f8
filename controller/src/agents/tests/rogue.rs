//! Peers that behave badly, a wire that can be cut, and the witness who must not notice any of it.

use std::sync::atomic::{AtomicBool, AtomicU64};

use smart_storage_proto::agent::v1::{
    agent_message::Message, agent_service_client::AgentServiceClient, controller_message::Message as Answer,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::*;

/// One who speaks the protocol by hand.
pub(super) struct Rogue {
    pub(super) messages: mpsc::Sender<pb::AgentMessage>,
    pub(super) answers: Streaming<pb::ControllerMessage>,
}

pub(super) fn hello(node: &str) -> Message {
    Message::Hello(pb::Hello {
        protocol_version: smart_storage_proto::PROTOCOL_VERSION,
        node_name: node.to_owned(),
        ..Default::default()
    })
}

pub(super) fn snapshot(epoch: u64, devices: Vec<pb::Device>) -> Message {
    Message::Snapshot(pb::Snapshot {
        epoch,
        devices,
        ..Default::default()
    })
}

pub(super) fn delta(epoch: u64, seq: u64, device: &str) -> Message {
    Message::Delta(pb::Delta {
        epoch,
        seq,
        changed: vec![pb::Device {
            name: device.to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    })
}

impl Rogue {
    /// A stream with a good certificate of `node`, on which nothing was said yet.
    pub(super) async fn open(controller: &Controller, node: &str) -> Self {
        let identity = controller.identity(node, SystemTime::now());
        Self::open_at(controller.agents, &identity).await
    }

    pub(super) async fn open_at(addr: SocketAddr, identity: &NodeIdentity) -> Self {
        let channel = connect::connect(&addr.to_string(), identity.client().unwrap())
            .await
            .unwrap();
        let (messages, queue) = mpsc::channel(16);
        let answers = AgentServiceClient::new(channel)
            .sync(ReceiverStream::new(queue))
            .await
            .unwrap();
        Self {
            messages,
            answers: answers.into_inner(),
        }
    }

    /// A stream that was welcomed.
    pub(super) async fn welcomed(controller: &Controller, node: &str) -> Self {
        let mut rogue = Self::open(controller, node).await;
        rogue.say(hello(node)).await;
        let first = rogue.answers.message().await.unwrap().unwrap();
        assert!(matches!(first.message, Some(Answer::Welcome(_))), "{first:?}");
        rogue
    }

    /// Sends; a stream that was ended takes nothing any more, and that is what many of them are for.
    pub(super) async fn say(&self, message: Message) -> bool {
        let message = pb::AgentMessage {
            message: Some(message),
        };
        self.messages.send(message).await.is_ok()
    }

    /// Waits for the end of the stream: its code and its words.
    pub(super) async fn ended(&mut self) -> (Code, String) {
        let end = async {
            loop {
                match self.answers.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return (Code::Ok, String::new()),
                    Err(status) => return (status.code(), status.message().to_owned()),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), end)
            .await
            .expect("the stream is not ended")
    }
}

/// TLS and nothing on it yet.
pub(super) async fn tls_stream(controller: &Controller, node: &str) -> TlsStream<TcpStream> {
    let identity = controller.identity(node, SystemTime::now());
    let stream = TcpStream::connect(controller.agents).await.unwrap();
    TlsConnector::from(identity.client().unwrap())
        .connect("127.0.0.1".try_into().unwrap(), stream)
        .await
        .unwrap()
}

/// Writes these bytes, and reads until the other side ends the connection.
pub(super) async fn write_and_drain(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
    let drained = async {
        let mut sink = [0; 4096];
        while matches!(stream.read(&mut sink).await, Ok(read) if read > 0) {}
    };
    tokio::time::timeout(Duration::from_secs(20), drained)
        .await
        .expect("the connection is not ended");
}

use tokio::io::{AsyncRead, AsyncWrite};

/// A wire that can be cut: then no byte passes, and no end of the connection either.
pub(super) struct Wire {
    pub(super) addr: SocketAddr,
    cut: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Wire {
    pub(super) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (cut, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_cut, up) = (Arc::clone(&cut), Arc::clone(&sent));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(target).await else {
                    return;
                };
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::spawn(forward(
                    near_read,
                    far_write,
                    Arc::clone(&is_cut),
                    Arc::clone(&up),
                ));
                tokio::spawn(forward(far_read, near_write, Arc::clone(&is_cut), Arc::default()));
            }
        });
        Self { addr, cut, sent }
    }

    /// From now on nothing passes.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
    }

    /// What passes again is of new connections only: the old ones have lost bytes.
    pub(super) fn mend(&self) {
        self.cut.store(false, Ordering::Release);
    }

    /// Bytes towards the controller.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    cut: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) {
    let mut piece = vec![0; 16 << 10];
    let mut was_cut = false;
    loop {
        let read = from.read(&mut piece).await;
        was_cut |= cut.load(Ordering::Acquire);
        if was_cut {
            // Both ends stay open, and nobody hears of the other: as where a machine lost its power.
            if !matches!(read, Ok(read) if read > 0) {
                return std::future::pending().await;
            }
            continue;
        }
        let Ok(read @ 1..) = read else { return };
        count.fetch_add(read as u64, Ordering::AcqRel);
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}

/// Another node of the fleet, with the agent's own session.
pub(super) struct Witness {
    agent: Agent,
    told: AtomicUsize,
}

const WITNESS: &str = "node-witness";

impl Witness {
    pub(super) async fn start(controller: &Controller) -> Self {
        let agent = controller.agent(WITNESS);
        agent.start();
        controller.synced(WITNESS).await;
        Self {
            agent,
            told: AtomicUsize::new(0),
        }
    }

    /// Its stream is the one that it had, and what it tells is known.
    pub(super) async fn noticed_nothing(&self, controller: &Controller) {
        let told = self.told.fetch_add(1, Ordering::Relaxed);
        let name = format!("seen{told}");
        self.agent
            .pictures
            .send_modify(|picture| *picture = with(picture, &name));
        until("the witness's delta is applied", || {
            drives(controller, WITNESS).contains(&name)
        })
        .await;
        let node = WITNESS.into();
        let probe = Command::ProbeNow(pb::ProbeNow {});
        let answer = controller.hub.ask(&node, probe, Duration::from_secs(20)).await;
        assert!(answer.unwrap().ok);
        assert_eq!(self.agent.streams("welcomed"), 1);
        assert_eq!(self.agent.streams("ended"), 0);
        assert_eq!(self.agent.session.metrics.resyncs.get(), 0);
    }
}
