//! Every target. Laws stand in the modules, by who speaks.

use crate::Target;

mod backend;
mod drive;
mod grpc;
mod identity;
mod kube;
mod machine;
mod orders;
mod rest;
mod stream;
mod texts;

/// Every target, the most dangerous first.
#[must_use]
pub fn all() -> Vec<Target> {
    [
        drive::TARGETS,
        stream::TARGETS,
        rest::TARGETS,
        kube::TARGETS,
        grpc::TARGETS,
        identity::TARGETS,
        orders::TARGETS,
        machine::TARGETS,
        backend::TARGETS,
        texts::TARGETS,
    ]
    .concat()
}

/// No seeds but the files.
fn none() -> Vec<Vec<u8>> {
    Vec::new()
}

/// What reads texts gets one, whatever the bytes are.
fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

#[cfg(test)]
mod tests;
