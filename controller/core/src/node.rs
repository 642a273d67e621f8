//! One node as its agent last told: its drives with their identity, its members, its session.
//!
//! A record is immutable and shared; a change makes a new record that shares every drive that did not change.

use std::{borrow::Cow, sync::Arc};

use crate::{
    drive::{DriveFacts, Fault, MemberId, NodeName, words},
    identity::Verdict,
};

words! {
    /// Where a node stands.
    NodePhase {
        /// Known by name; no agent has come yet.
        Pending = "Pending",
        /// The agent is here, its first picture is not complete.
        Discovering = "Discovering",
        /// Connected, every probe answers.
        Ready = "Ready",
        /// Connected, and something on it is wrong.
        Degraded = "Degraded",
        /// The agent is away.
        Offline = "Offline",
    }
}

/// Everything known of one node now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node.
    pub name: NodeName,
    /// Where it stands, as [`crate::decide::node`] said when the record was made.
    pub phase: NodePhase,
    /// `boot_id` of the running kernel: another one means a reboot.
    pub boot_id: String,
    /// The agent's version.
    pub agent_version: String,
    /// What the agent can do: `weed`, `mkfs.xfs`, ...
    pub capabilities: Vec<String>,
    /// The machine.
    pub system: SystemInfo,
    /// The stream.
    pub session: SessionInfo,
    /// Its drives, each shared between records while it does not change.
    pub drives: Vec<Arc<DriveRecord>>,
    /// What its agent says of pool members.
    pub members: Vec<MemberReport>,
    /// Faults that belong to no one drive.
    pub faults: Vec<Fault>,
}

impl NodeRecord {
    /// A node of which nothing but the name is known.
    #[must_use]
    pub fn empty(name: NodeName) -> Self {
        Self {
            name,
            phase: NodePhase::Pending,
            boot_id: String::new(),
            agent_version: String::new(),
            capabilities: Vec::new(),
            system: SystemInfo::default(),
            session: SessionInfo::default(),
            drives: Vec::new(),
            members: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Number of drives; a second path of a drive is no second drive.
    #[must_use]
    pub fn drive_count(&self) -> u64 {
        self.drives
            .iter()
            .filter(|drive| !drive.identity.is_path())
            .count() as u64
    }

    /// Sum of the known sizes of its drives in bytes, each drive once.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.drives
            .iter()
            .filter(|drive| !drive.identity.is_path())
            .filter_map(|drive| drive.facts.size_bytes.known())
            .fold(0, |sum, size| sum.saturating_add(*size))
    }

    /// What was seen of a drive by every way to it: who uses it by another path uses it, and what cannot be known of
    /// another path is not known of the drive.
    #[must_use]
    pub fn by_every_path<'a>(&self, drive: &'a DriveRecord) -> Cow<'a, DriveFacts> {
        let mut facts = Cow::Borrowed(&drive.facts);
        let Verdict::Drive { id } = &drive.identity else {
            return facts;
        };
        for path in &self.drives {
            if !matches!(&path.identity, Verdict::Path { id: of, .. } if of == id) {
                continue;
            }
            let (usage, other) = (&mut facts.to_mut().usage, &path.facts.usage);
            usage.holders.extend(other.holders.iter().cloned());
            for (mine, theirs) in [
                (&mut usage.blank, &other.blank),
                (&mut usage.exclusive_open_ok, &other.exclusive_open_ok),
            ] {
                if !theirs.is(&true) && !mine.is(&false) {
                    mine.clone_from(theirs);
                }
            }
        }
        facts
    }

    /// The report of a member, where the agent has one.
    #[must_use]
    pub fn member(&self, id: &MemberId) -> Option<&MemberReport> {
        self.members.iter().find(|report| &report.member_id == id)
    }
}

/// A drive of a node: what was seen, and who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveRecord {
    /// Who it is, or why that cannot be said.
    pub identity: Verdict,
    /// What was seen.
    pub facts: DriveFacts,
}

/// The stream of a node's agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionInfo {
    /// Whether the stream is open now.
    pub connected: bool,
    /// Whether a snapshot of this session has arrived.
    pub synced: bool,
    /// The agent's snapshot epoch.
    pub epoch: u64,
    /// The last delta that was applied.
    pub sequence: u64,
    /// When the agent connected, milliseconds since 1970; 0 for never.
    pub connected_at_ms: u64,
    /// When the stream was lost, milliseconds since 1970; 0 while connected or never.
    pub lost_at_ms: u64,
}

/// The machine as its agent describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SystemInfo {
    /// Host name.
    pub hostname: String,
    /// Kernel release.
    pub kernel_release: String,
    /// Machine architecture.
    pub architecture: String,
    /// Name of the operating system.
    pub os_name: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// DMI or cloud machine id, where there is one.
    pub machine_id: Option<String>,
}

words! {
    /// What an agent says of a member.
    MemberState {
        /// The mark is on the drive, the file system is not finished.
        Preparing = "Preparing",
        /// Prepared, not served now.
        Stopped = "Stopped",
        /// Mounted, and the storage process runs on it.
        Online = "Online",
        /// Something is wrong; reason and message say what.
        Failed = "Failed",
        /// Its drive is not there.
        Missing = "Missing",
        /// Stopped, unmounted, marked released.
        Released = "Released",
        /// Found by its mark, nobody has told this agent to serve it.
        Found = "Found",
        /// Not said.
        Unknown = "Unknown",
    }
}

/// What an agent reports of one pool member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberReport {
    /// The member.
    pub member_id: MemberId,
    /// What it does.
    pub state: MemberState,
    /// CamelCase, stable: FileSystemDead, NotMounted, ProcessExited, DriveMissing ...
    pub reason: String,
    /// In words.
    pub message: String,
    /// Kernel name of the drive it is on now.
    pub device: String,
    /// UUID of its file system.
    pub filesystem_uuid: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// Capacity of its file system in bytes.
    pub capacity_bytes: u64,
    /// Used bytes, quantised to 1 %.
    pub used_bytes: u64,
    /// `host:port` of its storage process.
    pub endpoint: String,
    /// The pool it serves.
    pub pool: String,
}
