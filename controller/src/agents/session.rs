//! One stream's protocol as a state machine: Hello, then Welcome, then one Snapshot, then Deltas without a gap.
//!
//! It never does I/O and never reads a clock. A delta that was seen is ignored, a missing one asks for a new
//! snapshot, a sender that is silent for too long is dead, and a Hello for another node than the certificate's is
//! refused.

use std::time::{Duration, Instant};

use prost::Message as _;
use smart_storage_core::{drive::NodeName, node::SystemInfo};
use smart_storage_proto::{
    PROTOCOL_VERSION,
    agent::v1::{self as pb, agent_message::Message},
};

use super::wire;

/// How often agents send a heartbeat while nothing changes.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Without any message for so long the stream is dead.
pub const SILENCE: Duration = Duration::from_secs(15);

/// Most bytes of a Hello.
const HELLO: usize = 64 << 10;

/// Why a stream is ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something else came before Hello.
    #[error(
        "the first message was no Hello: this controller speaks protocol version {PROTOCOL_VERSION}; install \
         matching versions of agent and controller"
    )]
    NoHello,
    /// Hello came twice.
    #[error(
        "a second Hello on one stream: a node says once who it is; end the stream and open another one, or update \
         the agent"
    )]
    HelloTwice,
    /// Hello is longer than any machine's.
    #[error("a Hello of {0} bytes, at most {HELLO} are read: this is no agent of ours; install one")]
    HelloSize(usize),
    /// The agent speaks another version of the protocol.
    #[error(
        "this controller speaks protocol version {PROTOCOL_VERSION}, the agent {0}: install matching versions"
    )]
    Version(u32),
    /// Hello names another node than the certificate.
    #[error(
        "the certificate is for node {certified}, and Hello names {claimed:?}: a node speaks for itself only; start \
         the agent with --node-name {certified}, or give it an empty --data-dir and a join token of the other name"
    )]
    OtherNode {
        /// The certificate's.
        certified: NodeName,
        /// Hello's.
        claimed: String,
    },
    /// Nothing came for so long.
    #[error(
        "nothing came for {} s: the agent hangs or was cut off; it is welcome again when it speaks",
        .0.as_secs_f32()
    )]
    Silent(Duration),
}

impl Refusal {
    /// One word for the metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NoHello => "no_hello",
            Self::HelloTwice => "hello_twice",
            Self::HelloSize(_) => "too_large",
            Self::Version(_) => "version",
            Self::OtherNode { .. } => "other_node",
            Self::Silent(_) => "silent",
        }
    }
}

/// Why a message was not applied; the stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// A delta that was applied before.
    Replayed,
    /// A snapshot or delta of an epoch that is over.
    StaleEpoch,
    /// It came between a gap and the snapshot that was asked for.
    Waiting,
    /// A message of a newer agent that this build does not know.
    Unknown,
}

impl Ignored {
    /// One word for the metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::StaleEpoch => "stale_epoch",
            Self::Waiting => "waiting_for_snapshot",
            Self::Unknown => "unknown",
        }
    }
}

/// What a Hello tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Another one means that the machine was rebooted.
    pub boot_id: String,
    /// The agent's version.
    pub agent_version: String,
    /// `weed`, `mkfs.xfs`, ...
    pub capabilities: Vec<String>,
    /// The machine.
    pub system: SystemInfo,
}

/// What is to be done after a message.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Answer Welcome; the node is here.
    Welcome(Hello),
    /// Ask for a new snapshot; the text says why.
    Resync(String),
    /// Replace everything known of the node.
    Snapshot(wire::Snapshot),
    /// Change what is known of the node.
    Delta(wire::Delta),
    /// A command was done, or refused.
    Result(pb::CommandResult),
    /// The agent has a new certificate on its disk.
    Stored(pb::CertificateStored),
    /// Nothing: it was not applied.
    Ignored(Ignored),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Hello,
    /// Deltas are ignored until a snapshot with a greater epoch comes.
    Snapshot {
        after: u64,
    },
    Deltas {
        epoch: u64,
        seq: u64,
    },
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    node: NodeName,
    state: State,
    heard: Instant,
    silence: Duration,
}

impl Session {
    /// A stream whose certificate is for `node`; its sender is dead after so long a `silence` ([`SILENCE`]).
    #[must_use]
    pub const fn new(node: NodeName, silence: Duration, now: Instant) -> Self {
        Self {
            node,
            state: State::Hello,
            heard: now,
            silence,
        }
    }

    /// When the sender counts as dead, unless something comes before.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.heard + self.silence
    }

    /// Looks at the clock.
    ///
    /// # Errors
    /// [`Refusal::Silent`] where the deadline has passed.
    pub fn tick(&self, now: Instant) -> Result<(), Refusal> {
        if now >= self.deadline() {
            Err(Refusal::Silent(self.silence))
        } else {
            Ok(())
        }
    }

    /// Nothing was read until now, by our own choice: the sender was not silent.
    pub fn rested(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// Takes a message.
    ///
    /// # Errors
    /// [`Refusal`]: the stream is to be ended with it.
    pub fn on(&mut self, message: pb::AgentMessage, now: Instant) -> Result<Option<Step>, Refusal> {
        self.heard = now;
        let Some(message) = message.message else {
            return Ok(Some(Step::Ignored(Ignored::Unknown)));
        };
        match (self.state, message) {
            (State::Hello, Message::Hello(hello)) => self.hello(hello).map(Some),
            (State::Hello, _) => Err(Refusal::NoHello),
            (_, Message::Hello(_)) => Err(Refusal::HelloTwice),
            (_, Message::Snapshot(snapshot)) => Ok(Some(self.snapshot(snapshot))),
            (_, Message::Delta(delta)) => Ok(Some(self.delta(delta))),
            (_, Message::Heartbeat(beat)) => Ok(self.heartbeat(beat)),
            (_, Message::CommandResult(result)) => Ok(Some(Step::Result(result))),
            (_, Message::CertificateStored(stored)) => Ok(Some(Step::Stored(stored))),
        }
    }

    fn hello(&mut self, hello: pb::Hello) -> Result<Step, Refusal> {
        let size = hello.encoded_len();
        if size > HELLO {
            return Err(Refusal::HelloSize(size));
        }
        if hello.protocol_version != PROTOCOL_VERSION {
            return Err(Refusal::Version(hello.protocol_version));
        }
        if hello.node_name != self.node.as_str() {
            return Err(Refusal::OtherNode {
                certified: self.node.clone(),
                claimed: hello.node_name,
            });
        }
        self.state = State::Snapshot { after: 0 };
        Ok(Step::Welcome(Hello {
            boot_id: hello.boot_id,
            agent_version: hello.agent_version,
            capabilities: hello.capabilities,
            system: wire::system(hello.system.unwrap_or_default()),
        }))
    }

    fn snapshot(&mut self, snapshot: pb::Snapshot) -> Step {
        let newest = match self.state {
            State::Hello => 0,
            State::Snapshot { after } => after,
            State::Deltas { epoch, .. } => epoch,
        };
        if snapshot.epoch <= newest {
            return Step::Ignored(Ignored::StaleEpoch);
        }
        self.state = State::Deltas {
            epoch: snapshot.epoch,
            seq: 0,
        };
        Step::Snapshot(wire::snapshot(snapshot))
    }

    fn delta(&mut self, delta: pb::Delta) -> Step {
        let State::Deltas { epoch, seq } = self.state else {
            return Step::Ignored(Ignored::Waiting);
        };
        if delta.epoch < epoch {
            return Step::Ignored(Ignored::StaleEpoch);
        }
        if delta.epoch == epoch && delta.seq <= seq {
            return Step::Ignored(Ignored::Replayed);
        }
        if delta.epoch != epoch || delta.seq != seq + 1 {
            return self.resync(format!(
                "delta {}/{} came after {epoch}/{seq}",
                delta.epoch, delta.seq
            ));
        }
        self.state = State::Deltas {
            epoch,
            seq: delta.seq,
        };
        Step::Delta(wire::delta(delta))
    }

    fn heartbeat(&mut self, beat: pb::Heartbeat) -> Option<Step> {
        let State::Deltas { epoch, seq } = self.state else {
            return None;
        };
        if (beat.epoch, beat.seq) == (epoch, seq) {
            return None;
        }
        let reason = format!(
            "the agent stands at {}/{}, {epoch}/{seq} arrived",
            beat.epoch, beat.seq
        );
        Some(self.resync(reason))
    }

    fn resync(&mut self, reason: String) -> Step {
        if let State::Deltas { epoch, .. } = self.state {
            self.state = State::Snapshot { after: epoch };
        }
        Step::Resync(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(message: Message) -> pb::AgentMessage {
        pb::AgentMessage {
            message: Some(message),
        }
    }

    fn hello(node: &str, protocol_version: u32) -> pb::AgentMessage {
        message(Message::Hello(pb::Hello {
            protocol_version,
            node_name: node.to_owned(),
            ..Default::default()
        }))
    }

    fn snapshot(epoch: u64) -> pb::AgentMessage {
        message(Message::Snapshot(pb::Snapshot {
            epoch,
            ..Default::default()
        }))
    }

    fn delta(epoch: u64, seq: u64) -> pb::AgentMessage {
        message(Message::Delta(pb::Delta {
            epoch,
            seq,
            ..Default::default()
        }))
    }

    fn beat(epoch: u64, seq: u64) -> pb::AgentMessage {
        message(Message::Heartbeat(pb::Heartbeat { epoch, seq }))
    }

    fn streaming(now: Instant) -> Session {
        let mut session = Session::new("node-1".into(), SILENCE, now);
        assert!(matches!(
            session.on(hello("node-1", 1), now),
            Ok(Some(Step::Welcome(_)))
        ));
        assert!(matches!(
            session.on(snapshot(7), now),
            Ok(Some(Step::Snapshot(_)))
        ));
        session
    }

    /// What a stream that stands at 7/1 answers to `sent`.
    fn check(sent: pb::AgentMessage, expected: &str) {
        let now = Instant::now();
        let mut session = streaming(now);
        assert!(matches!(session.on(delta(7, 1), now), Ok(Some(Step::Delta(_)))));
        let answer = match session.on(sent.clone(), now) {
            Ok(None) => "nothing",
            Ok(Some(Step::Ignored(why))) => why.word(),
            Ok(Some(Step::Delta(_))) => "applied",
            Ok(Some(Step::Snapshot(_))) => "replaced",
            Ok(Some(Step::Resync(_))) => "resync",
            Ok(Some(Step::Welcome(_) | Step::Result(_) | Step::Stored(_))) => "other",
            Err(_) => "refused",
        };
        assert_eq!(answer, expected, "{sent:?}");
    }

    #[test]
    fn deltas_come_in_order_replays_are_ignored_and_gaps_ask_for_a_snapshot() {
        check(delta(7, 2), "applied");
        check(delta(7, 1), "replayed");
        check(delta(6, 2), "stale_epoch");
        check(delta(7, 3), "resync");
        check(delta(8, 1), "resync");
        check(beat(7, 1), "nothing");
        check(beat(7, 2), "resync");
        check(beat(8, 0), "resync");
        check(snapshot(8), "replaced");
        check(snapshot(7), "stale_epoch");
        check(hello("node-1", 1), "refused");
        check(pb::AgentMessage { message: None }, "unknown");
    }

    #[test]
    fn after_a_resync_nothing_counts_until_a_newer_snapshot() {
        let now = Instant::now();
        let mut session = streaming(now);
        assert!(matches!(session.on(delta(7, 5), now), Ok(Some(Step::Resync(_)))));
        for (stale, why) in [
            (delta(7, 1), Some(Ignored::Waiting)),
            (delta(7, 6), Some(Ignored::Waiting)),
            (beat(7, 6), None),
            (snapshot(7), Some(Ignored::StaleEpoch)),
        ] {
            assert_eq!(session.on(stale, now), Ok(why.map(Step::Ignored)));
        }
        assert!(matches!(
            session.on(snapshot(8), now),
            Ok(Some(Step::Snapshot(_)))
        ));
        assert!(matches!(session.on(delta(8, 1), now), Ok(Some(Step::Delta(_)))));
    }

    #[test]
    fn a_node_speaks_for_itself_only() {
        let now = Instant::now();
        let mut session = Session::new("node-1".into(), SILENCE, now);
        let refusal = session.on(hello("node-2", 1), now).unwrap_err();
        assert!(matches!(refusal, Refusal::OtherNode { .. }), "{refusal}");
    }

    #[test]
    fn another_protocol_version_is_refused_by_name() {
        let now = Instant::now();
        let mut session = Session::new("node-1".into(), SILENCE, now);
        assert_eq!(session.on(hello("node-1", 2), now), Err(Refusal::Version(2)));
    }

    #[test]
    fn hello_comes_first() {
        let now = Instant::now();
        for early in [snapshot(1), delta(1, 1), beat(0, 0)] {
            let mut session = Session::new("node-1".into(), SILENCE, now);
            assert!(matches!(session.on(early, now), Err(Refusal::NoHello)));
        }
    }

    #[test]
    fn a_silent_stream_is_dead_and_any_message_keeps_it_alive() {
        let start = Instant::now();
        let mut session = streaming(start);
        assert_eq!(session.tick(start + SILENCE - Duration::from_millis(1)), Ok(()));
        assert_eq!(session.tick(start + SILENCE), Err(Refusal::Silent(SILENCE)));
        let later = start + Duration::from_secs(10);
        session.on(beat(7, 0), later).unwrap();
        assert_eq!(session.tick(start + SILENCE), Ok(()));
        assert_eq!(session.tick(later + SILENCE), Err(Refusal::Silent(SILENCE)));
    }

    mod any_order {
        use proptest::prelude::*;

        use super::*;

        fn any_message() -> impl Strategy<Value = pb::AgentMessage> {
            prop_oneof![
                (1..5_u64).prop_map(snapshot),
                (1..5_u64, 1..6_u64).prop_map(|(e, s)| delta(e, s)),
                (0..5_u64, 0..6_u64).prop_map(|(e, s)| beat(e, s)),
            ]
        }

        proptest! {
            /// Whatever comes, what is applied is a snapshot followed by its deltas 1, 2, 3 ... and epochs only grow.
            #[test]
            fn what_is_applied_is_without_gap(messages in prop::collection::vec(any_message(), 0..60)) {
                let now = Instant::now();
                let mut session = Session::new("n".into(), SILENCE, now);
                session.on(hello("n", 1), now).unwrap();
                let mut at = (0, 0);
                for sent in messages {
                    match session.on(sent, now).unwrap() {
                        Some(Step::Snapshot(s)) => {
                            prop_assert!(s.epoch > at.0);
                            at = (s.epoch, 0);
                        }
                        Some(Step::Delta(d)) => {
                            prop_assert_eq!((d.epoch, d.seq), (at.0, at.1 + 1));
                            at.1 = d.seq;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}
