//! The laws of every object's status.

use proptest::prelude::*;

use super::*;
use crate::{
    drive::{Fault, FaultKind, NodeName},
    identity::Verdict,
    node::{DriveRecord, MemberReport, MemberState, NodePhase, NodeRecord, SessionInfo},
    placement::Refusal,
};
use claim::{BoundClaim, ClaimObservation, ClaimPhase};
use member::{MemberObservation, MemberPhase};
use pool::{PoolMemberView, PoolObservation, PoolPhase};
use volume::{BackendTrouble, VolumeObservation, VolumePhase};

const NOW: u64 = 1_000_000;

fn connected() -> SessionInfo {
    SessionInfo {
        connected: true,
        synced: true,
        connected_at_ms: NOW - 60_000,
        ..SessionInfo::default()
    }
}

fn lost(ago: u64) -> SessionInfo {
    SessionInfo {
        connected: false,
        lost_at_ms: NOW - ago,
        ..connected()
    }
}

fn record(session: SessionInfo) -> NodeRecord {
    NodeRecord {
        session,
        ..NodeRecord::empty("n".into())
    }
}

fn report(state: MemberState, reason: &str) -> MemberReport {
    MemberReport {
        member_id: "m1".into(),
        state,
        reason: reason.to_owned(),
        message: format!("{reason} in words"),
        device: "loop0".to_owned(),
        filesystem_uuid: String::new(),
        mount_point: String::new(),
        capacity_bytes: 100,
        used_bytes: 1,
        endpoint: "127.0.0.1:8080".to_owned(),
        pool: "demo".to_owned(),
    }
}

fn ready<P>(decision: &Decision<P>) -> (Status, &str) {
    let condition = decision.condition("Ready").expect("a Ready condition");
    assert!(!condition.reason.is_empty() && condition.reason.chars().all(char::is_alphanumeric));
    assert!(!condition.message.is_empty());
    (condition.status, &condition.reason)
}

#[test]
fn a_nodes_phase_follows_its_agent() {
    let check = |record: Option<&NodeRecord>, phase, status, reason| {
        let found = node::decide(record, NOW);
        assert_eq!((found.phase, ready(&found)), (phase, (status, reason)));
    };
    check(None, NodePhase::Pending, Status::Unknown, "NoAgent");
    check(
        Some(&record(SessionInfo::default())),
        NodePhase::Pending,
        Status::Unknown,
        "NoAgent",
    );
    check(
        Some(&record(connected())),
        NodePhase::Ready,
        Status::True,
        "Observed",
    );
    let unsynced = record(SessionInfo {
        synced: false,
        ..connected()
    });
    check(
        Some(&unsynced),
        NodePhase::Discovering,
        Status::Unknown,
        "Discovering",
    );
    check(
        Some(&record(lost(1_000))),
        NodePhase::Degraded,
        Status::Unknown,
        "AgentAway",
    );
    check(
        Some(&record(lost(60_000))),
        NodePhase::Offline,
        Status::False,
        "AgentAway",
    );
    let mut ill = record(connected());
    ill.members = vec![report(MemberState::Failed, "FileSystemDead")];
    check(Some(&ill), NodePhase::Degraded, Status::False, "MemberFailed");
    let fault = |kind| Fault {
        probe: "smartctl".into(),
        kind,
        detail: "exit 2".into(),
        device: String::new(),
    };
    let mut blind = record(connected());
    blind.faults = vec![fault(FaultKind::Unsupported)];
    check(Some(&blind), NodePhase::Ready, Status::True, "Observed");
    blind.faults = vec![fault(FaultKind::Failed)];
    check(Some(&blind), NodePhase::Degraded, Status::False, "ProbeFailed");
    let mut twins = record(connected());
    let identity = Verdict::Conflict {
        shown_as: "conflict-1".into(),
        reason: "sdb has it too".into(),
    };
    twins.drives = vec![std::sync::Arc::new(DriveRecord {
        identity,
        facts: crate::drive::DriveFacts::default(),
    })];
    check(
        Some(&twins),
        NodePhase::Degraded,
        Status::False,
        "IdentityConflict",
    );
}

fn member_phase(
    before: MemberPhase,
    report: Option<&MemberReport>,
    session: Option<&SessionInfo>,
) -> (MemberPhase, String) {
    let seen = MemberObservation {
        before,
        report,
        session,
        releasing: false,
        refusal: None,
        now_ms: NOW,
    };
    let found = member::decide(&seen);
    let (status, reason) = ready(&found);
    assert_eq!(status == Status::True, found.phase == MemberPhase::Online);
    (found.phase, reason.to_owned())
}

#[test]
fn a_members_phase_follows_its_report() {
    let here = connected();
    let check = |before, state, reason: &str, phase| {
        let report = report(state, reason);
        assert_eq!(
            member_phase(before, Some(&report), Some(&here)).0,
            phase,
            "{before} {state}"
        );
    };
    check(
        MemberPhase::Pending,
        MemberState::Preparing,
        "",
        MemberPhase::Preparing,
    );
    check(
        MemberPhase::Preparing,
        MemberState::Online,
        "",
        MemberPhase::Online,
    );
    check(
        MemberPhase::Online,
        MemberState::Failed,
        "FileSystemDead",
        MemberPhase::Failed,
    );
    check(
        MemberPhase::Online,
        MemberState::Missing,
        "DriveMissing",
        MemberPhase::Missing,
    );
    check(MemberPhase::Failed, MemberState::Online, "", MemberPhase::Online);
    check(MemberPhase::Missing, MemberState::Online, "", MemberPhase::Online);
    check(MemberPhase::Online, MemberState::Stopped, "", MemberPhase::Failed);
    check(
        MemberPhase::Pending,
        MemberState::Found,
        "",
        MemberPhase::Preparing,
    );
    check(MemberPhase::Missing, MemberState::Found, "", MemberPhase::Missing);
    assert_eq!(
        member_phase(MemberPhase::Pending, None, Some(&here)).0,
        MemberPhase::Pending
    );
    let (phase, reason) = member_phase(MemberPhase::Online, None, Some(&here));
    assert_eq!((phase, reason.as_str()), (MemberPhase::Missing, "DriveMissing"));
}

#[test]
fn a_short_silence_of_the_agent_changes_nothing_and_a_long_one_does() {
    let report = report(MemberState::Online, "");
    let check = |before, session: Option<&SessionInfo>, phase| {
        assert_eq!(member_phase(before, Some(&report), session).0, phase, "{before}");
    };
    check(MemberPhase::Online, Some(&lost(1_000)), MemberPhase::Online);
    check(MemberPhase::Online, Some(&lost(60_000)), MemberPhase::Missing);
    check(MemberPhase::Online, None, MemberPhase::Missing);
    check(MemberPhase::Failed, Some(&lost(1_000)), MemberPhase::Failed);
    check(MemberPhase::Pending, Some(&lost(60_000)), MemberPhase::Pending);
    // Just back, its picture not here yet: what was on record stands.
    let back = SessionInfo {
        synced: false,
        connected_at_ms: NOW - 500,
        lost_at_ms: 0,
        ..connected()
    };
    check(MemberPhase::Online, Some(&back), MemberPhase::Online);
}

proptest! {
    #[test]
    fn patience_ends_after_the_grace_also_where_the_clock_was_set_back(
        step in prop_oneof![-20_000..20_000_i64, -1_000_000..1_000_000_i64],
    ) {
        let patient = step.unsigned_abs() < node::GRACE_MS;
        let at = 10 * NOW;
        let now_ms = at.saturating_add_signed(step);
        // Connected by the clock as it was, lost by the one that is right.
        let away = SessionInfo {
            connected: false,
            connected_at_ms: at + 7_200_000,
            lost_at_ms: at,
            ..connected()
        };
        let back = SessionInfo {
            synced: false,
            connected_at_ms: at,
            ..connected()
        };
        let found = node::decide(Some(&record(away.clone())), now_ms).phase;
        let expected = if patient { NodePhase::Degraded } else { NodePhase::Offline };
        prop_assert_eq!(found, expected);
        for session in [away, back] {
            let found = member::decide(&MemberObservation {
                before: MemberPhase::Online,
                report: None,
                session: Some(&session),
                releasing: false,
                refusal: None,
                now_ms,
            });
            let expected = if patient { MemberPhase::Online } else { MemberPhase::Missing };
            prop_assert_eq!(found.phase, expected);
        }
    }
}

#[test]
fn a_refused_command_is_told_and_a_release_ends_released() {
    let here = connected();
    let mut seen = MemberObservation {
        before: MemberPhase::Pending,
        report: None,
        session: Some(&here),
        releasing: false,
        refusal: Some(("NotBlank", "loop0 holds ext4; wipe it first")),
        now_ms: NOW,
    };
    let found = member::decide(&seen);
    assert_eq!(
        (found.phase, ready(&found)),
        (MemberPhase::Pending, (Status::False, "NotBlank"))
    );
    seen.refusal = None;
    seen.releasing = true;
    assert_eq!(member::decide(&seen).phase, MemberPhase::Releasing);
    let released = report(MemberState::Released, "");
    seen.report = Some(&released);
    assert_eq!(member::decide(&seen).phase, MemberPhase::Released);
    seen.releasing = false;
    assert_eq!(member::decide(&seen).phase, MemberPhase::Failed);
}

fn view(drive: &str, phase: MemberPhase, reason: &str) -> PoolMemberView {
    PoolMemberView {
        drive: drive.into(),
        node: NodeName::from("n"),
        phase,
        reason: reason.to_owned(),
        message: format!("{reason} in words"),
        capacity_bytes: 1000,
        used_bytes: 101,
    }
}

fn pool_of(members: &[PoolMemberView]) -> Decision<PoolPhase> {
    let seen = PoolObservation {
        members,
        orphans: None,
        shortage: None,
        volumes: 2,
        deleting: false,
        error: None,
    };
    pool::decide(&seen)
}

#[test]
fn a_pools_phase_follows_its_members() {
    use MemberPhase::{Failed, Missing, Online, Pending, Preparing};
    let check = |phases: &[MemberPhase], phase, status, reason| {
        let members: Vec<PoolMemberView> = phases
            .iter()
            .enumerate()
            .map(|(i, phase)| view(&format!("d{i}"), *phase, "Because"))
            .collect();
        let found = pool_of(&members);
        assert_eq!(
            (found.phase, ready(&found)),
            (phase, (status, reason)),
            "{phases:?}"
        );
    };
    check(&[], PoolPhase::Pending, Status::False, "NoDrives");
    check(
        &[Pending, Preparing],
        PoolPhase::Creating,
        Status::False,
        "MembersPreparing",
    );
    check(&[Online, Online], PoolPhase::Ready, Status::True, "MembersOnline");
    check(
        &[Online, Preparing],
        PoolPhase::Expanding,
        Status::True,
        "Expanding",
    );
    check(
        &[Online, Failed],
        PoolPhase::Degraded,
        Status::False,
        "MemberFailed",
    );
    check(
        &[Online, Missing],
        PoolPhase::Degraded,
        Status::False,
        "MemberMissing",
    );
    check(
        &[Missing, Failed],
        PoolPhase::Error,
        Status::False,
        "MemberFailed",
    );
}

#[test]
fn a_pool_counts_what_it_holds_once() {
    let members = vec![
        view("a", MemberPhase::Online, ""),
        view("b", MemberPhase::Failed, "Dead"),
        view("c", MemberPhase::Released, ""),
        view("d", MemberPhase::Missing, "DriveMissing"),
    ];
    let sums = pool::sums(&members);
    assert_eq!((sums.drives, sums.nodes, sums.online), (3, 1, 1));
    // Nothing can be promised on what does not serve, and what lies there cannot be reached.
    assert_eq!((sums.total_bytes, sums.offline_bytes), (1000, 2000));
    assert_eq!(sums.used_bytes, 110, "101 of 1000, in whole percents, rounded up");
    let seen = PoolObservation {
        members: &members,
        orphans: None,
        shortage: None,
        volumes: 2,
        deleting: true,
        error: None,
    };
    let found = pool::decide(&seen);
    assert_eq!(found.phase, PoolPhase::Deleting);
    assert!(
        found
            .condition("VolumesRemain")
            .is_some_and(|condition| condition.message.starts_with("2 volumes"))
    );
}

#[test]
fn a_failed_member_reaches_the_claim_with_its_reason() {
    let members = [
        view("d0", MemberPhase::Online, ""),
        view("d1", MemberPhase::Failed, "FileSystemDead"),
    ];
    let degraded = pool_of(&members);
    let healthy = pool_of(&members[..1]);
    let volume_on = |pool: &Decision<PoolPhase>| {
        volume::decide(&VolumeObservation {
            provisioned: true,
            capacity_bytes: 10,
            wanted_bytes: 10,
            trouble: None,
            pool: Some(pool),
            pool_name: "demo",
            claim_gone: false,
            retain: false,
        })
    };
    let claim_on = |pool: &Decision<PoolPhase>| {
        let volume = volume_on(pool);
        let bound = BoundClaim {
            volume: "uv-1",
            pool: "demo",
            decision: &volume,
            growth_refused: None,
        };
        claim::decide(&ClaimObservation::Bound(bound))
    };
    let found = claim_on(&degraded);
    assert_eq!(
        (found.phase, ready(&found)),
        (ClaimPhase::Ready, (Status::False, "MemberFailed"))
    );
    let message = &found.condition("Ready").unwrap().message;
    assert_eq!(
        message,
        "pool demo: d1 on n is Failed (FileSystemDead): FileSystemDead in words"
    );
    let found = claim_on(&healthy);
    assert_eq!(
        (found.phase, ready(&found)),
        (ClaimPhase::Ready, (Status::True, "Provisioned"))
    );
}

#[test]
fn a_lost_drive_is_the_reason_for_what_its_backend_says() {
    let members = [view("d1", MemberPhase::Failed, "FileSystemDead")];
    let (lost, healthy) = (pool_of(&members), pool_of(&[view("d1", MemberPhase::Online, "")]));
    let reason = |pool: &Decision<PoolPhase>, transient| {
        let trouble = BackendTrouble {
            reason: "BackendFull".into(),
            message: "no writable volumes".into(),
            transient,
        };
        let found = volume::decide(&VolumeObservation {
            provisioned: true,
            capacity_bytes: 10,
            wanted_bytes: 10,
            trouble: Some(&trouble),
            pool: Some(pool),
            pool_name: "demo",
            claim_gone: false,
            retain: false,
        });
        let message = &found.condition("Ready").unwrap().message;
        assert!(message.ends_with("no writable volumes"), "{message}");
        let ailing = pool.phase != PoolPhase::Ready;
        let phase = if ailing {
            VolumePhase::Degraded
        } else {
            VolumePhase::Ready
        };
        assert_eq!(found.phase, phase);
        ready(&found).1.to_owned()
    };
    assert_eq!(reason(&lost, true), "MemberFailed");
    assert_eq!(reason(&lost, false), "BackendFull");
    assert_eq!(reason(&healthy, true), "BackendFull");
}

#[test]
fn a_volumes_phase_follows_its_backend() {
    let pool = pool_of(&[view("d0", MemberPhase::Online, "")]);
    let trouble = |transient| BackendTrouble {
        reason: "NoSlots".into(),
        message: "no free slot".into(),
        transient,
    };
    let (later, never) = (trouble(true), trouble(false));
    let base = VolumeObservation {
        provisioned: false,
        capacity_bytes: 10,
        wanted_bytes: 10,
        trouble: None,
        pool: Some(&pool),
        pool_name: "demo",
        claim_gone: false,
        retain: false,
    };
    let check = |seen: VolumeObservation<'_>, phase, reason| {
        let found = volume::decide(&seen);
        assert_eq!((found.phase, ready(&found).1), (phase, reason));
    };
    check(base, VolumePhase::Provisioning, "Provisioning");
    check(
        VolumeObservation {
            trouble: Some(&later),
            ..base
        },
        VolumePhase::Provisioning,
        "NoSlots",
    );
    check(
        VolumeObservation {
            trouble: Some(&never),
            ..base
        },
        VolumePhase::Failed,
        "NoSlots",
    );
    let made = VolumeObservation {
        provisioned: true,
        ..base
    };
    check(made, VolumePhase::Ready, "Provisioned");
    check(
        VolumeObservation {
            wanted_bytes: 20,
            ..made
        },
        VolumePhase::Expanding,
        "Provisioned",
    );
    check(
        VolumeObservation { pool: None, ..made },
        VolumePhase::Degraded,
        "PoolGone",
    );
    check(
        VolumeObservation {
            claim_gone: true,
            ..made
        },
        VolumePhase::Deleting,
        "Deleting",
    );
    check(
        VolumeObservation {
            claim_gone: true,
            retain: true,
            ..made
        },
        VolumePhase::Released,
        "ClaimGone",
    );
}

#[test]
fn a_claim_says_what_refused_it() {
    let refusal = |candidate: &str| Refusal {
        candidate: candidate.to_owned(),
        reasons: vec!["is full".to_owned()],
    };
    let refusals = [refusal("pool a"), refusal("pool b")];
    let found = claim::decide(&ClaimObservation::Refused(&refusals));
    assert_eq!(
        (found.phase, ready(&found)),
        (ClaimPhase::Pending, (Status::False, "NoPlace"))
    );
    assert_eq!(
        found.condition("Placed").unwrap().message,
        "pool a: is full\npool b: is full"
    );
    let many: Vec<Refusal> = (0..5000).map(|i| refusal(&format!("drive {i}"))).collect();
    let words = claim::refusal_words(&many);
    assert!(words.len() < 32_768 && words.contains(" more"));
    assert_eq!(
        claim::decide(&ClaimObservation::VolumeGone("uv-1")).phase,
        ClaimPhase::Lost
    );
    assert_eq!(
        claim::decide(&ClaimObservation::Impossible("NotYours", "belongs to b")).phase,
        ClaimPhase::Failed
    );
}
