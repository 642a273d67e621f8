//! One stream, from its Hello to its end: a loop over five sources of events, and no choices of its own.

use std::{sync::Arc, time::Duration};

use smart_storage_proto::{
    PROTOCOL_VERSION,
    agent::v1::{
        self as pb, agent_message::Message, agent_service_client::AgentServiceClient,
        controller_message::Message as Order,
    },
};
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use tracing::{info, warn};

use super::{Actions, CHECK, Ended, Keeper, Refused, Told, connect::chain};
use crate::{
    enrol::{self, EnrolError, NodeIdentity},
    member::fault,
    wire,
};

/// How often this side says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// For the controller's Welcome.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages on their way to the controller; while the queue is full nothing is lost, only later.
const QUEUE: usize = 16;
/// Orders being carried out at a time; further ones are refused as retryable.
const ORDERS: usize = 256;
/// Before a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Stream<'a> {
    keeper: &'a mut Keeper,
    channel: Channel,
    identity: NodeIdentity,
    told: Told,
    /// Nothing is told before a snapshot was, and no snapshot before every drive was probed once.
    snapshot_due: bool,
}

/// What an order came to.
type Done = (String, &'static str, Result<(), Refused>);

impl<'a> Stream<'a> {
    pub(super) fn new(keeper: &'a mut Keeper, channel: Channel, identity: NodeIdentity) -> Self {
        let told = Told::new(keeper.epoch);
        Self {
            keeper,
            channel,
            identity,
            told,
            snapshot_due: true,
        }
    }

    pub(super) async fn run(mut self) -> Ended {
        let (outgoing, messages) = mpsc::channel(QUEUE);
        let hello = self.keeper.session.hello.clone();
        // The queue is empty: this cannot wait.
        let _ = outgoing.send(message(Message::Hello(hello))).await;
        let mut client = AgentServiceClient::new(self.channel.clone()).max_decoding_message_size(4 << 20);
        let opened = tokio::time::timeout(PATIENCE, client.sync(ReceiverStream::new(messages))).await;
        let mut incoming = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return self.refused(&status),
            Err(_) => return Ended::before("the controller does not open the stream"),
        };
        if let Err(ended) = self.welcome(&mut incoming).await {
            return ended;
        }
        let reason = match self.steady(&outgoing, &mut incoming).await {
            Ok(()) => "the controller closed the stream".to_owned(),
            Err(reason) => reason,
        };
        self.keeper.epoch = self.told.heartbeat().epoch;
        self.keeper.count("ended");
        Ended {
            welcomed: true,
            reason,
        }
    }

    fn refused(&mut self, status: &tonic::Status) -> Ended {
        self.keeper.note_distrust(status);
        self.keeper.count("refused");
        let words = if status.message().is_empty() {
            chain(status)
        } else {
            status.message().to_owned()
        };
        Ended::before(format!("{:?}: {words}", status.code()))
    }

    async fn welcome(&mut self, incoming: &mut Streaming<pb::ControllerMessage>) -> Result<(), Ended> {
        let first = match tokio::time::timeout(PATIENCE, incoming.message()).await {
            Ok(Ok(Some(first))) => first.message,
            Ok(Ok(None)) => return Err(Ended::before("the controller closed the stream before Welcome")),
            Ok(Err(status)) => return Err(self.refused(&status)),
            Err(_) => return Err(Ended::before("no Welcome in time")),
        };
        let Some(Order::Welcome(welcome)) = first else {
            return Err(Ended::before("the controller's first message is no Welcome"));
        };
        if welcome.protocol_version != PROTOCOL_VERSION {
            return Err(Ended::before(format!(
                "the controller speaks protocol version {}, this agent {PROTOCOL_VERSION}: install matching versions",
                welcome.protocol_version
            )));
        }
        if !self.keeper.lease.accept(welcome.lease_epoch) {
            return Err(Ended::before(format!(
                "a controller of lease epoch {} does not lead any more",
                welcome.lease_epoch
            )));
        }
        let session = &self.keeper.session;
        if welcome.discover_interval_seconds > 0 {
            let interval = Duration::from_secs(welcome.discover_interval_seconds.into());
            session.actions.discover_interval(interval);
        }
        session.health.good(CHECK);
        session.metrics.stream_connected.set(1);
        self.keeper.count("welcomed");
        info!(cluster = %welcome.cluster_id, lease_epoch = welcome.lease_epoch, "welcomed");
        fault::point("stream-welcomed");
        Ok(())
    }

    async fn steady(
        &mut self,
        outgoing: &mpsc::Sender<pb::AgentMessage>,
        incoming: &mut Streaming<pb::ControllerMessage>,
    ) -> Result<(), String> {
        let (done, mut results) = mpsc::channel::<Done>(ORDERS);
        let (renewed, mut renewals) = mpsc::channel::<Result<NodeIdentity, EnrolError>>(1);
        let mut inventory = self.keeper.session.inventory.clone();
        let mut members = self.keeper.session.members.clone();
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renew_at = self.identity.renew_at();
        let mut renewing = false;
        let (mut watch_inventory, mut watch_members) = (true, true);
        self.tell(outgoing).await?;
        loop {
            tokio::select! {
                order = incoming.message() => match order {
                    Ok(Some(order)) => self.obey(order, outgoing, &done).await?,
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(self.refused(&status).reason),
                },
                changed = inventory.changed(), if watch_inventory => match changed {
                    Ok(()) => self.tell(outgoing).await?,
                    Err(_) => watch_inventory = false,
                },
                changed = members.changed(), if watch_members => match changed {
                    Ok(()) => self.tell(outgoing).await?,
                    Err(_) => watch_members = false,
                },
                Some((id, kind, result)) = results.recv() => {
                    // What the order changed is told before its answer.
                    self.tell(outgoing).await?;
                    self.answer(outgoing, id, kind, result).await?;
                }
                Some(result) = renewals.recv() => {
                    renewing = false;
                    renew_at = self.renewed(result);
                }
                _ = beat.tick() => {
                    self.send(outgoing, "heartbeat", Message::Heartbeat(self.told.heartbeat())).await?;
                    if !renewing && (self.keeper.session.clock)() >= renew_at {
                        renewing = true;
                        let (channel, node) = (self.channel.clone(), self.keeper.session.enrolment.node.clone());
                        let renewed = renewed.clone();
                        tokio::spawn(async move {
                            // The stream that wanted it may have ended.
                            let _ = renewed.send(enrol::renew(channel, &node).await).await;
                        });
                    }
                }
            }
        }
    }

    /// Keeps the new certificate for the next connection; answers when to look again.
    fn renewed(&mut self, result: Result<NodeIdentity, EnrolError>) -> std::time::SystemTime {
        let session = &self.keeper.session;
        let stored = result.and_then(|identity| identity.store(&session.data_dir).map(|()| identity));
        match stored {
            Ok(identity) => {
                session
                    .metrics
                    .certificates
                    .get_or_create(&[("by", "renewal")])
                    .inc();
                info!("certificate renewed");
                // With a clock that runs ahead a new certificate may be due at once: not again and again.
                let again = identity.renew_at().max((session.clock)() + RENEW_AGAIN);
                self.keeper.identity = Some(identity);
                again
            }
            Err(error) => {
                warn!(error = %error, "certificate not renewed");
                (session.clock)() + RENEW_AGAIN
            }
        }
    }

    /// Tells what changed; a snapshot where one is due.
    async fn tell(&mut self, outgoing: &mpsc::Sender<pb::AgentMessage>) -> Result<(), String> {
        let inventory = self.keeper.session.inventory.borrow().clone();
        let members = self.keeper.session.members.borrow().clone();
        if self.snapshot_due {
            if !inventory.complete {
                return Ok(());
            }
            self.snapshot_due = false;
            let snapshot = self.told.snapshot(&inventory, &members);
            self.keeper.epoch = snapshot.epoch;
            return self.send(outgoing, "snapshot", Message::Snapshot(snapshot)).await;
        }
        match self.told.delta(&inventory, &members) {
            Some(delta) => self.send(outgoing, "delta", Message::Delta(delta)).await,
            None => Ok(()),
        }
    }

    async fn send(
        &self,
        outgoing: &mpsc::Sender<pb::AgentMessage>,
        kind: &'static str,
        what: Message,
    ) -> Result<(), String> {
        self.keeper
            .session
            .metrics
            .messages
            .get_or_create(&[("kind", kind)])
            .inc();
        match tokio::time::timeout(PATIENCE, outgoing.send(message(what))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the stream is closed".to_owned()),
            Err(_) => Err("the controller does not read".to_owned()),
        }
    }

    async fn obey(
        &mut self,
        order: pb::ControllerMessage,
        outgoing: &mpsc::Sender<pb::AgentMessage>,
        done: &mpsc::Sender<Done>,
    ) -> Result<(), String> {
        match order.message {
            Some(Order::Resync(resync)) => {
                warn!(reason = %resync.reason, "resync");
                self.keeper.session.metrics.resyncs.inc();
                self.snapshot_due = true;
                self.tell(outgoing).await
            }
            Some(Order::Command(command)) => self.command(command, outgoing, done).await,
            Some(Order::Welcome(_)) => Err("a second Welcome on one stream".to_owned()),
            // An order of a newer controller that this build does not know.
            None => Ok(()),
        }
    }

    async fn command(
        &mut self,
        command: pb::Command,
        outgoing: &mpsc::Sender<pb::AgentMessage>,
        done: &mpsc::Sender<Done>,
    ) -> Result<(), String> {
        let kind = kind(&command);
        if !self.keeper.lease.accept(command.lease_epoch) {
            let refused = refused("StaleEpoch", "a newer leader has been seen", false);
            return self.answer(outgoing, command.id, kind, Err(refused)).await;
        }
        let Ok(place) = done.clone().try_reserve_owned() else {
            let refused = refused("Busy", format!("{ORDERS} orders are being carried out"), true);
            return self.answer(outgoing, command.id, kind, Err(refused)).await;
        };
        let actions = Arc::clone(&self.keeper.session.actions);
        tokio::spawn(async move {
            fault::point("order-taken");
            let result = carry_out(actions.as_ref(), command.command).await;
            fault::point("order-done");
            place.send((command.id, kind, result));
        });
        Ok(())
    }

    async fn answer(
        &self,
        outgoing: &mpsc::Sender<pb::AgentMessage>,
        id: String,
        kind: &'static str,
        result: Result<(), Refused>,
    ) -> Result<(), String> {
        let ok = result.is_ok();
        let outcome = if ok { "done" } else { "refused" };
        self.keeper
            .session
            .metrics
            .commands
            .get_or_create(&[("outcome", outcome)])
            .inc();
        let result = match result {
            Ok(()) => pb::CommandResult {
                id,
                ok,
                ..pb::CommandResult::default()
            },
            Err(refused) => {
                info!(command = kind, reason = %refused.reason, message = %refused.message, "order refused");
                pb::CommandResult {
                    id,
                    ok,
                    reason: refused.reason,
                    message: refused.message,
                    retryable: refused.retryable,
                }
            }
        };
        self.send(outgoing, "command_result", Message::CommandResult(result))
            .await
    }
}

async fn carry_out(actions: &dyn Actions, command: Option<pb::command::Command>) -> Result<(), Refused> {
    use pb::command::Command;
    let malformed = |error: wire::WireError| refused("Malformed", error.to_string(), false);
    match command {
        Some(Command::ProbeNow(_)) => actions.probe_now().await,
        Some(Command::EnsureMember(order)) => actions.ensure(wire::order(order).map_err(malformed)?).await,
        Some(Command::ReleaseMember(order)) => {
            actions
                .release(wire::member_id(&order.member_id).map_err(malformed)?)
                .await
        }
        None => Err(refused(
            "Unknown",
            "this agent does not know the command: update it",
            false,
        )),
    }
}

fn refused(reason: &str, message: impl Into<String>, retryable: bool) -> Refused {
    Refused {
        reason: reason.to_owned(),
        message: message.into(),
        retryable,
    }
}

const fn kind(command: &pb::Command) -> &'static str {
    use pb::command::Command;
    match &command.command {
        Some(Command::ProbeNow(_)) => "probe_now",
        Some(Command::EnsureMember(_)) => "ensure_member",
        Some(Command::ReleaseMember(_)) => "release_member",
        None => "unknown",
    }
}

const fn message(message: Message) -> pb::AgentMessage {
    pb::AgentMessage {
        message: Some(message),
    }
}
