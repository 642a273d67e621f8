//! Every drive in use is refused, with the right words, and not one byte of it changes.

use std::fs;
use std::process::Command;

use super::bed::{Bed, checksum_of_drive, run};
use super::corpus::{self, Case, Site};
use crate::hardware::Device;
use crate::member::MemberError;

/// What came of one drive: every complaint, and nothing where all is as it should be.
async fn judge(bed: &mut Bed, case: &Case) -> Vec<String> {
    let name = bed.attach(case.size);
    let site = Site {
        name: name.clone(),
        size: case.size,
        folder: bed.folder.path().to_owned(),
    };
    let undo = (case.make)(&site);
    let before = checksum_of_drive(&name);
    let seen = bed.seen(&name).await;
    let order = bed.order(&name).await;
    let refusal = bed.members().ensure(order).await;
    let after = checksum_of_drive(&name);
    let mut complaints = complaints(case, &seen, refusal.as_ref());
    if after != before {
        complaints.push("its bytes changed".to_owned());
    }
    if !case.witness.is_empty() {
        let probed = Command::new("blkid").args(["-p", &site.dev()]).output().unwrap();
        let said = String::from_utf8_lossy(&probed.stdout).into_owned();
        if !said.contains(&format!("TYPE=\"{}\"", case.witness)) {
            complaints.push(format!("blkid calls it {said:?}, not {}", case.witness));
        }
    }
    drop(undo);
    let image = super::bed::image_of(&name);
    run("losetup", &["-d", &site.dev()]);
    fs::remove_file(image).unwrap();
    if let Err(error) = &refusal {
        eprintln!("{}: {}: {}", case.what, error.reason, error.message);
    }
    complaints
        .iter()
        .map(|complaint| format!("{}: {complaint}", case.what))
        .collect()
}

fn complaints(case: &Case, seen: &Device, refusal: Result<&(), &MemberError>) -> Vec<String> {
    let mut complaints = Vec::new();
    let words: Vec<_> = seen
        .usage
        .holders
        .iter()
        .map(|holder| holder.description.as_str())
        .collect();
    if case.blank == Some(false) && !words.iter().any(|words| words.contains(case.says)) {
        complaints.push(format!("the picture says {words:?}, not {:?}", case.says));
    }
    if seen.usage.blank != case.blank {
        complaints.push(format!("the picture says blank {:?}", seen.usage.blank));
    }
    match refusal {
        Ok(()) => complaints.push("it was TAKEN".to_owned()),
        Err(error) => {
            if error.reason != case.reason {
                complaints.push(format!("refused as {}, not as {}", error.reason, case.reason));
            }
            if !error.message.contains(case.says) {
                complaints.push(format!("{:?} does not say {:?}", error.message, case.says));
            }
            if !error.message.contains("nothing was written") {
                complaints.push(format!(
                    "{:?} does not say that nothing was written",
                    error.message
                ));
            }
        }
    }
    complaints
}

async fn all_are_refused(cases: Vec<Case>) {
    let mut bed = Bed::new();
    let mut found = Vec::new();
    for case in &cases {
        found.extend(judge(&mut bed, case).await);
    }
    assert!(bed.members().reports().borrow().is_empty(), "nothing is recorded");
    bed.loops.clear();
    bed.put_away().await;
    assert!(
        found.is_empty(),
        "of {} drives:\n{}",
        cases.len(),
        found.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_drive_that_bears_anything_known_is_refused_with_its_name() {
    all_are_refused(corpus::signatures()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_drive_with_one_unknown_byte_is_refused() {
    all_are_refused(corpus::unknown_bytes()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_drive_that_somebody_uses_or_that_cannot_serve_is_refused() {
    all_are_refused(corpus::uses()).await;
}
