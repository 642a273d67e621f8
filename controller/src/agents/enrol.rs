//! Enrolment: a certificate for a node that shows its join token.
//!
//! A token is for one name; a name whose stream is live is never given to somebody else; tries are counted. What a
//! token's secret was is never logged.

use std::{
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
    pki::{Authority, Pki, PkiError},
    tally::Tally,
};

/// The enrolment service.
pub struct Enrolment {
    pki: Arc<Pki>,
    hub: Arc<AgentsHub>,
    limiter: Mutex<Limiter>,
    refused: Tally,
}

impl Enrolment {
    /// Tokens are those in the controller's data folder, as the CA is.
    #[must_use]
    pub fn new(pki: Arc<Pki>, hub: Arc<AgentsHub>) -> Self {
        Self {
            pki,
            hub,
            limiter: Mutex::new(Limiter::new(Instant::now())),
            refused: Tally::default(),
        }
    }

    fn decide(&self, request: &pb::EnrolRequest, now: SystemTime) -> Result<pb::EnrolResponse, Status> {
        let data_dir = self.pki.data_dir();
        let node = tokens::verify(data_dir, &request.token, &request.node_name).map_err(refusal)?;
        if self.hub.connected(&NodeName::new(node.as_str())) {
            return Err(Status::already_exists(format!(
                "node {node} has a live stream, and a live node's name is never given again; stop its agent first"
            )));
        }
        // Revoked in this moment: the same as before it.
        let token = tokens::id(data_dir, &node)
            .map_err(|error| refusal(VerifyError::Io(error)))?
            .ok_or_else(|| refusal(VerifyError::Unknown))?;
        crate::fault::point("enrolment-checked");
        let answer = certificate(&self.pki, &node, &token, &request.csr, now)?;
        crate::fault::point("node-certificate-signed");
        Ok(answer)
    }
}

fn refusal(error: VerifyError) -> Status {
    match error {
        VerifyError::Malformed => Status::invalid_argument(error.to_string()),
        VerifyError::OtherNode { .. } | VerifyError::Unknown => Status::permission_denied(error.to_string()),
        VerifyError::Io(_) => Status::internal(error.to_string()),
    }
}

/// Signs, and answers what an agent needs to know.
pub(super) fn certificate(
    pki: &Pki,
    node: &str,
    token: &str,
    csr: &[u8],
    now: SystemTime,
) -> Result<pb::EnrolResponse, Status> {
    let authority = pki.signing(now).map_err(not_made)?;
    sign(&authority, node, token, csr, now)
}

fn not_made(error: PkiError) -> Status {
    match error {
        PkiError::Request(_) => Status::invalid_argument(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

pub(super) fn sign(
    authority: &Authority,
    node: &str,
    token: &str,
    csr: &[u8],
    now: SystemTime,
) -> Result<pb::EnrolResponse, Status> {
    let leaf = authority.sign_node(node, token, csr, now).map_err(not_made)?;
    Ok(pb::EnrolResponse {
        certificate_chain: vec![leaf.to_vec()],
        ca_certificates: authority.trusted().iter().map(|ca| ca.to_vec()).collect(),
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
        let request = request.into_inner();
        let answer = match self.limiter.lock().take(addr.ip(), Instant::now()) {
            Ok(()) => Ok(()),
            Err(wait) => Err(Status::resource_exhausted(format!(
                "too many enrolments; try again in {} ms",
                wait.as_millis()
            ))),
        };
        let answer = answer.and_then(|()| self.decide(&request, SystemTime::now()));
        match &answer {
            Ok(answer) => {
                self.hub.count_certificate("enrolled");
                info!(node = %request.node_name, peer = %addr, "enrolled");
                super::note_holder(&self.pki, &request.node_name, answer);
            }
            Err(status) => {
                self.hub.count_certificate("enrolment_refused");
                if let Some(count) = self.refused.note(tokio::time::Instant::now()) {
                    let node: String = request.node_name.chars().take(80).collect();
                    warn!(count, node = %node.escape_debug(), peer = %addr, reason = %status.message(), "enrolment refused");
                }
            }
        }
        answer.map(Response::new)
    }
}
