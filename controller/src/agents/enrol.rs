//! Enrolment: a certificate for a node that shows its join token.
//!
//! A token is for one name; a name whose stream is live is never given to somebody else; tries are counted. What a
//! token's secret was is never logged.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};

use parking_lot::Mutex;
use smart_storage_core::drive::NodeName;
use smart_storage_proto::agent::v1::{self as pb, enrolment_service_server::EnrolmentService};
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::{
    AgentsHub,
    limit::Limiter,
    tokens::{self, VerifyError},
};
use crate::{
    listen::Peer,
    pki::{Authority, PkiError},
    tally::Tally,
};

/// The enrolment service.
pub struct Enrolment {
    data_dir: PathBuf,
    authority: Arc<Authority>,
    hub: Arc<AgentsHub>,
    limiter: Mutex<Limiter>,
    refused: Tally,
}

impl Enrolment {
    /// Tokens are those in `<data_dir>/join-tokens`.
    #[must_use]
    pub fn new(data_dir: PathBuf, authority: Arc<Authority>, hub: Arc<AgentsHub>) -> Self {
        Self {
            data_dir,
            authority,
            hub,
            limiter: Mutex::new(Limiter::new(Instant::now())),
            refused: Tally::default(),
        }
    }

    fn decide(&self, request: &pb::EnrolRequest, now: SystemTime) -> Result<pb::EnrolResponse, Status> {
        let node =
            tokens::verify(&self.data_dir, &request.token, &request.node_name).map_err(
                |error| match error {
                    VerifyError::Malformed => Status::invalid_argument(error.to_string()),
                    VerifyError::OtherNode { .. } | VerifyError::Unknown => {
                        Status::permission_denied(error.to_string())
                    }
                    VerifyError::Io(_) => Status::internal(error.to_string()),
                },
            )?;
        if self.hub.connected(&NodeName::new(node.as_str())) {
            return Err(Status::already_exists(format!(
                "node {node} has a live stream, and a live node's name is never given again; stop its agent first"
            )));
        }
        crate::fault::point("enrolment-checked");
        let answer = certificate(&self.authority, &node, &request.csr, now)?;
        crate::fault::point("node-certificate-signed");
        Ok(answer)
    }
}

/// Signs, and answers what an agent needs to know.
pub(super) fn certificate(
    authority: &Authority,
    node: &str,
    csr: &[u8],
    now: SystemTime,
) -> Result<pb::EnrolResponse, Status> {
    let leaf = authority.sign_node(node, csr, now).map_err(|error| match error {
        PkiError::Request(_) => Status::invalid_argument(error.to_string()),
        _ => Status::internal(error.to_string()),
    })?;
    Ok(pb::EnrolResponse {
        certificate_chain: vec![leaf.to_vec()],
        ca_certificates: vec![authority.certificate().to_vec()],
    })
}

#[tonic::async_trait]
impl EnrolmentService for Enrolment {
    async fn enrol(&self, request: Request<pb::EnrolRequest>) -> Result<Response<pb::EnrolResponse>, Status> {
        let addr = request
            .extensions()
            .get::<Peer>()
            .map(|peer| peer.addr)
            .ok_or_else(|| Status::internal("the port does not say who its peers are"))?;
        if let Err(wait) = self.limiter.lock().take(addr.ip(), Instant::now()) {
            return Err(Status::resource_exhausted(format!(
                "too many enrolments; try again in {} ms",
                wait.as_millis()
            )));
        }
        let request = request.into_inner();
        let answer = self.decide(&request, SystemTime::now());
        match &answer {
            Ok(_) => info!(node = %request.node_name, peer = %addr, "enrolled"),
            Err(status) => {
                if let Some(count) = self.refused.note(tokio::time::Instant::now()) {
                    let node: String = request.node_name.chars().take(80).collect();
                    warn!(count, node = %node.escape_debug(), peer = %addr, reason = %status.message(), "enrolment refused");
                }
            }
        }
        answer.map(Response::new)
    }
}
