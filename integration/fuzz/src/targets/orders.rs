//! What a controller tells an agent, and what the agent keeps of it on its own disk.

use prost::Message as _;
use smart_storage_agent::{
    hardware::{Device, Evidence},
    member::fuzzing as doors,
    wire,
};
use smart_storage_proto::agent::v1::{self as pb, command::Command, controller_message::Message};

use super::none;
use crate::{
    Format, Target,
    mutate::frames::{join, split},
    outcome,
};

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "order",
        format: Format::Frames,
        run,
        seeds,
        words: &["0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a11", "00000000-0000-0000-0000-000000000000"],
        short: 2500,
    },
    Target {
        name: "member-spec",
        format: Format::Json,
        run: spec,
        seeds: none,
        words: &[
            "order", "journal", "member_id", "pool", "drive", "evidence", "phase", "marking", "formatting", "finished",
            "releasing", "ports", "file_system", "xfs", "ext4", "weed", "masters", "disk_guid", "filesystem_uuid",
        ],
        short: 1500,
    },
];

fn run(data: &[u8]) -> u64 {
    let mut answers = Vec::new();
    for frame in split(data).into_iter().take(16) {
        let Ok(message) = pb::ControllerMessage::decode(frame) else {
            answers.push(0);
            continue;
        };
        let Some(Message::Command(command)) = message.message else {
            answers.push(1);
            continue;
        };
        answers.push(match command.command {
            Some(Command::EnsureMember(order)) => match wire::order(order) {
                Ok(order) => {
                    let drive = &order.drive;
                    assert!(drive.size_bytes > 0 && !order.weed.masters.is_empty(), "{order:?}");
                    assert!(!order.member_id.uuid().is_nil(), "{order:?}");
                    let stranger = Device {
                        size_bytes: Some(drive.size_bytes),
                        disk_sequence: drive.disk_sequence,
                        ..Device::default()
                    };
                    assert!(doors::disagreement(&stranger, drive).is_some(), "a drive that says nothing is agreed to: {drive:?}");
                    let other = Device {
                        evidence: Evidence {
                            serial: Some("another".to_owned()),
                            ..drive.evidence.clone()
                        },
                        ..stranger.clone()
                    };
                    let same = drive.evidence.serial.as_deref() == Some("another");
                    assert!(
                        drive.evidence.serial.is_none() || same || doors::disagreement(&other, drive).is_some(),
                        "another serial is agreed to"
                    );
                    let itself = Device {
                        evidence: drive.evidence.clone(),
                        ..stranger
                    };
                    2 + u64::from(doors::disagreement(&itself, drive).is_some())
                }
                Err(error) => outcome(error.field),
            },
            Some(Command::ReleaseMember(order)) => 8 + u64::from(wire::member_id(&order.member_id).is_ok()),
            Some(Command::ProbeNow(_)) => 10,
            None => 11,
        });
    }
    outcome(answers)
}

fn spec(data: &[u8]) -> u64 {
    match doors::spec(data) {
        Ok(printed) => {
            let again = doors::spec(&printed).expect("what was written is read");
            assert_eq!(printed, again, "reading and writing changes a member's file");
            1
        }
        Err(error) => outcome(error.split(' ').take(4).collect::<Vec<_>>()),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let command = |command| {
        pb::ControllerMessage {
            message: Some(Message::Command(pb::Command {
                id: "1".to_owned(),
                lease_epoch: 1,
                command: Some(command),
            })),
        }
        .encode_to_vec()
    };
    let ensure = pb::EnsureMember {
        member_id: "0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a11".to_owned(),
        pool: "fast".to_owned(),
        cluster_id: "01234567".to_owned(),
        may_prepare: true,
        drive: Some(pb::ExpectedDrive {
            device: "sda".to_owned(),
            size_bytes: 1 << 30,
            disk_sequence: Some(7),
            evidence: Some(pb::Evidence {
                serial: Some("S1".to_owned()),
                wwn: Some("naa.5000c500a1b2c3d4".to_owned()),
                ..Default::default()
            }),
            drive_id: "wwn-5000c500a1b2c3d4".to_owned(),
        }),
        weed: Some(pb::WeedVolume {
            masters: vec!["127.0.0.1:9333.19333".to_owned()],
            max_volumes: 8,
            ..Default::default()
        }),
        ..Default::default()
    };
    let frames = [
        command(Command::EnsureMember(ensure)),
        command(Command::ReleaseMember(pb::ReleaseMember {
            member_id: "0190d5c4-7c3e-7a50-8a51-6c2f1f1d0a11".to_owned(),
        })),
        command(Command::ProbeNow(pb::ProbeNow {})),
        pb::ControllerMessage {
            message: Some(Message::Welcome(pb::Welcome::default())),
        }
        .encode_to_vec(),
    ];
    vec![join(frames.iter().map(Vec::as_slice))]
}
