//! gRPC: `smartstorage.v1.StorageService`, `grpc.health.v1` and server reflection, over the same service as REST.
//! Every rule is the service's.
//!
//! Calls of `StorageService` need the token (`authorization: Bearer …`); health and reflection do not.

mod convert;
pub mod guard;
mod health;
mod status;

use std::{
    collections::{BTreeSet, HashMap},
    pin::Pin,
    sync::Arc,
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use smart_storage_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{self as pb, storage_service_server},
};
use tonic::{Code, Response as Reply, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use self::status::status;
use super::{auth::Bearer, body::MAX_BODY, observe, observe::Metrics};
use crate::{
    crd::GROUP,
    listen::Room,
    service::{Deletion, PageRequest, Service, StorageFilter, request::ExpandStorage},
};

/// The gRPC API.
///
/// # Errors
/// Where the descriptors of this build cannot be read.
pub fn grpc_router(
    service: Arc<Service>,
    bearer: Bearer,
    metrics: Metrics,
) -> Result<Router, tonic_reflection::server::Error> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // The agents' services are in the same contract, but not on this port.
        .with_service_name("smartstorage.v1.StorageService")
        .with_service_name("grpc.health.v1.Health")
        .build_v1()?;
    let health = health::server(Arc::clone(&service));
    let storage = storage_service_server::StorageServiceServer::new(Storage { service })
        .max_decoding_message_size(MAX_BODY);
    let routes = tonic::service::Routes::new(storage)
        .add_service(health)
        .add_service(reflection);
    let door = Door {
        bearer,
        calls: Room::new(MAX_CALLS),
        streams: Room::new(MAX_STREAMS),
        open: Room::new(MAX_OPEN),
    };
    let router = routes
        .into_axum_router()
        .layer(middleware::from_fn_with_state(door, enter));
    let methods = Arc::new(methods());
    Ok(guard::tamed(router).layer(middleware::from_fn_with_state((metrics, methods), observe::grpc)))
}

/// Calls, and streams, under way at once; one more is told to come back.
const MAX_CALLS: usize = 512;
const MAX_STREAMS: usize = 256;
/// The same for what needs no token, streams and calls together.
const MAX_OPEN: usize = 64;

#[derive(Clone)]
struct Door {
    bearer: Bearer,
    calls: Room,
    streams: Room,
    open: Room,
}

/// Health and reflection are for everybody, the rest is for the holder of the token; both for so many at once.
async fn enter(State(door): State<Door>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = path.starts_with("/grpc.health.v1.Health/") || path.starts_with("/grpc.reflection.");
    let streams = matches!(path.rsplit('/').next(), Some("WatchStorage" | "WatchNodes"));
    if !open && let Err(denied) = door.bearer.admit("grpc", &request) {
        let details = ErrorDetails::with_error_info("UNAUTHENTICATED", GROUP, HashMap::new());
        return Status::with_error_details(Code::Unauthenticated, denied.detail(), details).into_http();
    }
    let room = match (open, streams) {
        (true, _) => &door.open,
        (false, true) => &door.streams,
        (false, false) => &door.calls,
    };
    match room.enter() {
        Some(place) => place.until_the_end_of(next.run(request).await),
        None => guard::crowded(),
    }
}

/// Every method of this port, as a path: what a caller makes up is none.
fn methods() -> BTreeSet<String> {
    let sets = [FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let files = sets
        .iter()
        .filter_map(|set| FileDescriptorSet::decode(*set).ok())
        .flat_map(|set| set.file);
    let mut methods: BTreeSet<_> = files
        .filter(|file| matches!(file.package(), "smartstorage.v1" | "grpc.health.v1"))
        .flat_map(|file| {
            let package = file.package().to_owned();
            file.service.into_iter().flat_map(move |service| {
                let name = format!("/{package}.{}", service.name());
                service
                    .method
                    .into_iter()
                    .map(move |method| format!("{name}/{}", method.name()))
            })
        })
        .collect();
    methods.insert("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned());
    methods
}

struct Storage {
    service: Arc<Service>,
}

type Answer<T> = Result<Reply<T>, Status>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn page(limit: u32, continue_: String) -> Result<PageRequest, Status> {
    PageRequest::new(Some(limit).filter(|l| *l > 0), Some(continue_)).map_err(status)
}

#[tonic::async_trait]
impl storage_service_server::StorageService for Storage {
    async fn create_storage(
        &self,
        request: tonic::Request<pb::CreateStorageRequest>,
    ) -> Answer<pb::CreateStorageResponse> {
        let request = request.into_inner();
        let dry_run = request.dry_run;
        let wanted = convert::draft(request).parse().map_err(status)?;
        if dry_run {
            let answer = self.service.dry_run_storage(&wanted).await.map_err(status)?;
            return Ok(Reply::new(convert::dry_run(answer)));
        }
        let created = self.service.create_storage(&wanted, None).await.map_err(status)?;
        Ok(Reply::new(pb::CreateStorageResponse {
            storage: Some(convert::storage(created.storage)),
            ..pb::CreateStorageResponse::default()
        }))
    }

    async fn get_storage(&self, request: tonic::Request<pb::GetStorageRequest>) -> Answer<pb::Storage> {
        let storage = self
            .service
            .get_storage(&request.into_inner().id)
            .await
            .map_err(status)?;
        Ok(Reply::new(convert::storage(storage)))
    }

    async fn list_storage(
        &self,
        request: tonic::Request<pb::ListStorageRequest>,
    ) -> Answer<pb::ListStorageResponse> {
        let request = request.into_inner();
        let page = page(request.limit, request.r#continue)?;
        let filter = StorageFilter::parse(
            request.namespace,
            request.storage_type.as_deref(),
            request.phase.as_deref(),
            &request.labels,
        )
        .map_err(status)?;
        let page = self.service.list_storage(&filter, &page).await.map_err(status)?;
        Ok(Reply::new(pb::ListStorageResponse {
            items: page.items.into_iter().map(convert::storage).collect(),
            r#continue: page.continue_,
        }))
    }

    async fn expand_storage(&self, request: tonic::Request<pb::ExpandStorageRequest>) -> Answer<pb::Storage> {
        let request = request.into_inner();
        let wanted = ExpandStorage::parse(Some(request.capacity_bytes), Vec::new()).map_err(status)?;
        let storage = self
            .service
            .expand_storage(&request.id, wanted)
            .await
            .map_err(status)?;
        Ok(Reply::new(convert::storage(storage)))
    }

    async fn delete_storage(
        &self,
        request: tonic::Request<pb::DeleteStorageRequest>,
    ) -> Answer<pb::DeleteStorageResponse> {
        let deletion = self
            .service
            .delete_storage(&request.into_inner().id)
            .await
            .map_err(status)?;
        Ok(Reply::new(pb::DeleteStorageResponse {
            gone: matches!(deletion, Deletion::Gone(_)),
        }))
    }

    async fn rotate_credentials(
        &self,
        request: tonic::Request<pb::RotateCredentialsRequest>,
    ) -> Answer<pb::Credentials> {
        let new = self
            .service
            .rotate_credentials(&request.into_inner().id)
            .await
            .map_err(status)?;
        Ok(Reply::new(pb::Credentials {
            access_key: new.access_key,
            secret_key: new.secret_key,
            endpoint: new.endpoint,
            bucket: new.bucket,
            filer_token: new.filer_token.unwrap_or_default(),
        }))
    }

    async fn list_nodes(
        &self,
        request: tonic::Request<pb::ListNodesRequest>,
    ) -> Answer<pb::ListNodesResponse> {
        let request = request.into_inner();
        let page = page(request.limit, request.r#continue)?;
        let page = self.service.list_nodes(&page).await.map_err(status)?;
        Ok(Reply::new(pb::ListNodesResponse {
            items: page.items.into_iter().map(convert::node).collect(),
            r#continue: page.continue_,
        }))
    }

    async fn get_node(&self, request: tonic::Request<pb::GetNodeRequest>) -> Answer<pb::Node> {
        let node = self
            .service
            .get_node(&request.into_inner().name)
            .await
            .map_err(status)?;
        Ok(Reply::new(convert::node(node)))
    }

    async fn classify_node(&self, request: tonic::Request<pb::ClassifyNodeRequest>) -> Answer<pb::Node> {
        let node = self
            .service
            .classify_node(&request.into_inner().name)
            .await
            .map_err(status)?;
        Ok(Reply::new(convert::node(node)))
    }

    async fn list_pools(
        &self,
        request: tonic::Request<pb::ListPoolsRequest>,
    ) -> Answer<pb::ListPoolsResponse> {
        let request = request.into_inner();
        let page = page(request.limit, request.r#continue)?;
        let page = self.service.list_pools(&page).await.map_err(status)?;
        Ok(Reply::new(pb::ListPoolsResponse {
            items: page.items.into_iter().map(convert::pool).collect(),
            r#continue: page.continue_,
        }))
    }

    async fn get_pool(&self, request: tonic::Request<pb::GetPoolRequest>) -> Answer<pb::Pool> {
        let pool = self
            .service
            .get_pool(&request.into_inner().name)
            .await
            .map_err(status)?;
        Ok(Reply::new(convert::pool(pool)))
    }

    async fn get_capacity(&self, _: tonic::Request<pb::GetCapacityRequest>) -> Answer<pb::Capacity> {
        let capacity = self.service.capacity().await.map_err(status)?;
        Ok(Reply::new(convert::capacity(capacity)))
    }

    async fn list_classes(
        &self,
        _: tonic::Request<pb::ListClassesRequest>,
    ) -> Answer<pb::ListClassesResponse> {
        let classes = self.service.all_classes().await.map_err(status)?;
        Ok(Reply::new(pb::ListClassesResponse {
            items: classes.into_iter().map(convert::class).collect(),
        }))
    }

    type WatchStorageStream = Events<pb::StorageEvent>;

    async fn watch_storage(
        &self,
        request: tonic::Request<pb::WatchStorageRequest>,
    ) -> Answer<Self::WatchStorageStream> {
        let request = request.into_inner();
        let events = self
            .service
            .watch_storage(request.namespace.as_deref(), &request.resume_token)
            .map_err(status)?;
        let events = events.map(|event| event.map(convert::storage_event).map_err(status));
        Ok(Reply::new(events.boxed()))
    }

    type WatchNodesStream = Events<pb::NodeEvent>;

    async fn watch_nodes(
        &self,
        request: tonic::Request<pb::WatchNodesRequest>,
    ) -> Answer<Self::WatchNodesStream> {
        let events = self
            .service
            .watch_nodes(&request.into_inner().resume_token)
            .map_err(status)?;
        Ok(Reply::new(
            events
                .map(|event| event.map(convert::node_event).map_err(status))
                .boxed(),
        ))
    }
}

#[cfg(test)]
mod tests;
