//! `grpc.health.v1` over the same readiness as `/readyz`. Nothing runs while nobody asks.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use crate::service::Service;

const SERVED: &[&str] = &["", "smartstorage.v1.StorageService", "grpc.health.v1.Health"];
/// How often readiness is looked at for somebody who watches it.
const PERIOD: Duration = Duration::from_secs(1);

struct Readiness {
    service: Arc<Service>,
}

pub(super) fn server(service: Arc<Service>) -> HealthServer<impl Health> {
    HealthServer::new(Readiness { service })
}

fn status_of(service: &Service, name: &str) -> Option<ServingStatus> {
    SERVED.contains(&name).then(|| {
        if service.health().ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    })
}

#[tonic::async_trait]
impl Health for Readiness {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = status_of(&self.service, &request.into_inner().service)
            .ok_or_else(|| Status::not_found("There is no such service here."))?;
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (service, name) = (Arc::clone(&self.service), request.into_inner().service);
        let told: Option<ServingStatus> = None;
        let stream = stream::unfold((service, name, told), |(service, name, mut told)| async move {
            loop {
                let status = status_of(&service, &name).unwrap_or(ServingStatus::ServiceUnknown);
                if told != Some(status) {
                    told = Some(status);
                    return Some((
                        Ok(HealthCheckResponse {
                            status: status.into(),
                        }),
                        (service, name, told),
                    ));
                }
                tokio::select! {
                    () = tokio::time::sleep(PERIOD) => {}
                    () = service.shutdown().cancelled() => return None,
                }
            }
        });
        Ok(Response::new(stream.boxed()))
    }
}
