//! A simulated fleet: many agents in one process, each with the agent's own session code, its own certificate and
//! stream, and drives that exist in memory only.
//!
//! What is simulated is the machine below the session and nothing else: connections, mTLS, enrolment, renewal,
//! heartbeats, deltas and answers to orders are those of `smart-storage-agent`. A simulated node refuses every order
//! that would write to a drive. It never looks at the machine that it runs on.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use smart_storage_agent::{
    enrol::Enrolment,
    hardware::{Device, Evidence, Health as DriveHealth, Kind, NvmeFacts, Transport, Usage, Zoned},
    inventory::Inventory,
    member::{EnsureMember, MemberId, MemberReports},
    session::{self, Actions, Refused, Session},
    telemetry::{Health, Metrics},
};
use smart_storage_proto::{PROTOCOL_VERSION, agent::v1 as pb};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Where the fleet's controller is.
#[derive(Debug, Clone)]
pub struct Controller {
    /// `host:port` of the agents' port.
    pub streams: String,
    /// `host:port` of the enrolment port.
    pub enrolment: String,
}

/// One simulated node; dropped, its agent ends.
pub struct SimulatedNode {
    /// What its agent runs with; its metrics and its health tell how it is.
    pub session: Session,
    pictures: watch::Sender<Arc<Inventory>>,
    /// Members: none, and nobody makes any.
    _reports: watch::Sender<MemberReports>,
    interval: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl SimulatedNode {
    /// A node called `name`, the `number`-th of its fleet, with so many drives. Its identity is kept in `data_dir`;
    /// without one it shows the join token in `token_file`.
    #[must_use]
    pub fn new(
        name: &str,
        number: usize,
        drives: usize,
        controller: &Controller,
        data_dir: &Path,
        token_file: Option<&Path>,
    ) -> Self {
        let (pictures, inventory) = watch::channel(Arc::new(picture(number, drives)));
        let (reports, members) = watch::channel(MemberReports::default());
        let interval = Arc::new(AtomicU64::new(0));
        let session = Session {
            controllers: vec![controller.streams.clone()],
            enrolment: Enrolment {
                addr: controller.enrolment.clone(),
                node: name.to_owned(),
                token_file: token_file.map(Path::to_owned),
                ca_file: None,
            },
            data_dir: data_dir.to_owned(),
            hello: hello(name, number),
            inventory,
            members,
            actions: Arc::new(Simulated {
                interval: Arc::clone(&interval),
            }),
            health: Health::default(),
            metrics: Metrics::default(),
            clock: SystemTime::now,
        };
        Self {
            session,
            pictures,
            _reports: reports,
            interval,
            stop: CancellationToken::new(),
        }
    }

    /// Runs its agent until the node is dropped or stopped.
    pub fn start(&self) -> JoinHandle<()> {
        tokio::spawn(session::run(self.session.clone(), self.stop.clone()))
    }

    /// Ends its agent.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether the controller has welcomed it now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.session.metrics.stream_connected.get() == 1
    }

    /// Streams by their outcome: `welcomed`, `ended`, `refused`, `connect_failed`.
    #[must_use]
    pub fn streams(&self, outcome: &'static str) -> u64 {
        self.session
            .metrics
            .streams
            .get_or_create(&[("outcome", outcome)])
            .get()
    }

    /// Certificates by the way they were got: `enrolment`, `renewal`.
    #[must_use]
    pub fn certificates(&self, by: &'static str) -> u64 {
        self.session
            .metrics
            .certificates
            .get_or_create(&[("by", by)])
            .get()
    }

    /// Messages sent, by kind.
    #[must_use]
    pub fn messages(&self, kind: &'static str) -> u64 {
        self.session
            .metrics
            .messages
            .get_or_create(&[("kind", kind)])
            .get()
    }

    /// The seconds between rescans that the controller last told.
    #[must_use]
    pub fn told_interval(&self) -> u64 {
        self.interval.load(Ordering::Relaxed)
    }

    /// One drive more, or the same drive with another temperature that is worth telling: one delta.
    pub fn touch(&self, name: &str) {
        self.pictures.send_modify(|picture| {
            let mut next = Inventory::clone(picture);
            let mut device = next.devices.get(name).map_or_else(
                || Device {
                    name: name.to_owned(),
                    size_bytes: Some(1 << 40),
                    ..Device::default()
                },
                |device| Device::clone(device),
            );
            let health = device.health.get_or_insert_default();
            health.temperature_celsius = Some(match health.temperature_celsius {
                Some(31) => 48,
                _ => 31,
            });
            next.devices.insert(name.to_owned(), Arc::new(device));
            *picture = Arc::new(next);
        });
    }
}

impl Drop for SimulatedNode {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A machine that is read only.
struct Simulated {
    interval: Arc<AtomicU64>,
}

fn simulated() -> Refused {
    Refused {
        reason: "Simulated".to_owned(),
        message:
            "this node is simulated and has nothing to write to: leave it out of the pool's nodeSelector"
                .to_owned(),
        retryable: false,
    }
}

#[tonic::async_trait]
impl Actions for Simulated {
    async fn probe_now(&self) -> Result<(), Refused> {
        Ok(())
    }

    async fn ensure(&self, _order: EnsureMember) -> Result<(), Refused> {
        Err(simulated())
    }

    async fn release(&self, _member: MemberId) -> Result<(), Refused> {
        Err(simulated())
    }

    fn discover_interval(&self, interval: Duration) {
        self.interval.store(interval.as_secs(), Ordering::Relaxed);
    }
}

fn hello(name: &str, number: usize) -> pb::Hello {
    pb::Hello {
        protocol_version: PROTOCOL_VERSION,
        node_name: name.to_owned(),
        boot_id: format!("7f1c2a30-0000-4000-8000-{number:012x}"),
        capabilities: vec!["simulated".to_owned()],
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        system: Some(pb::SystemInfo {
            hostname: name.to_owned(),
            kernel_release: "6.12.0-amd64".to_owned(),
            architecture: "x86_64".to_owned(),
            os_name: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            cpus: 64,
            memory_bytes: 512 << 30,
            machine_id: None,
        }),
    }
}

/// The `number`-th machine's drives.
#[must_use]
pub fn picture(number: usize, drives: usize) -> Inventory {
    let device = |index| {
        let device = nvme(number, index);
        (device.name.clone(), Arc::new(device))
    };
    Inventory {
        complete: true,
        devices: (0..drives).map(device).collect::<BTreeMap<_, _>>(),
        faults: Vec::new(),
    }
}

/// A blank, healthy NVMe drive whose evidence nobody else in the fleet has.
#[must_use]
pub fn nvme(number: usize, index: usize) -> Device {
    let eui = format!("0025385{number:05x}{index:04x}");
    let serial = format!("S64HNE0T{number:05}{index:04}");
    Device {
        name: format!("nvme{index}n1"),
        dev_path: format!("/dev/nvme{index}n1"),
        major: 259,
        minor: u32::try_from(index).unwrap_or(0),
        disk_sequence: Some(index as u64 + 1),
        size_bytes: Some(3_840_755_982_336),
        logical_block_bytes: Some(512),
        physical_block_bytes: Some(4096),
        rotational: Some(false),
        read_only: Some(false),
        removable: Some(false),
        zoned: Zoned::None,
        transport: Transport::Pcie,
        kind: Kind::Nvme,
        vendor: Some("0x144d".to_owned()),
        model: Some("SAMSUNG MZQL23T8HCLS-00A07".to_owned()),
        firmware: Some("GDC5602Q".to_owned()),
        evidence: Evidence {
            nguid: Some(format!("36344830{number:08x}{index:08x}00000001")),
            wwn: Some(format!("eui.{eui}")),
            eui64: Some(eui),
            serial: Some(serial.clone()),
            bus_path: Some(format!(
                "/sys/devices/pci0000:{index:02x}/0000:{index:02x}:00.0/nvme/nvme{index}"
            )),
            nvme_namespace: Some(1),
            ..Evidence::default()
        },
        usage: Usage {
            blank: Some(true),
            holders: Vec::new(),
            exclusive_open_ok: Some(true),
        },
        health: Some(DriveHealth {
            self_assessment_passed: Some(true),
            critical_warning: Some(0),
            percentage_used: Some(3),
            available_spare_percent: Some(100),
            available_spare_threshold_percent: Some(10),
            media_errors: Some(0),
            temperature_celsius: Some(41),
            power_on_hours: Some(12_345),
            source: "nvme ioctl".to_owned(),
            ..DriveHealth::default()
        }),
        nvme: Some(NvmeFacts {
            controller: format!("nvme{index}"),
            subsystem_nqn: Some(format!("nqn.1994-11.com.samsung:nvme:PM9A3:2.5-inch:{serial}")),
            namespace_id: Some(1),
            namespace_count: Some(32),
            total_capacity_bytes: Some(3_840_755_982_336),
            pci_address: Some(format!("0000:{index:02x}:00.0")),
        }),
        faults: Vec::new(),
        paths: Vec::new(),
        work: None,
        io_errors: None,
    }
}
