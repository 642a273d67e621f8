use std::sync::Mutex;

use http::Uri;
use smart_storage_proto::v1::storage_service_client::StorageServiceClient;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

use super::*;
use crate::service::bed::Bed;

struct Grpc {
    bed: Bed,
    router: Router,
    seen: Arc<Mutex<Vec<(String, u16)>>>,
}

impl Grpc {
    async fn new() -> Self {
        let bed = Bed::new().await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let metrics: Metrics = Arc::new(move |done| {
            told.lock().unwrap().push((done.route.to_owned(), done.status));
        });
        let router = grpc_router(Arc::clone(&bed.service), Bearer::new("t").unwrap(), metrics).unwrap();
        Self { bed, router, seen }
    }

    fn client(&self) -> StorageServiceClient<Router> {
        StorageServiceClient::with_origin(self.router.clone(), Uri::from_static("http://localhost"))
    }
}

fn with_token<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", "Bearer t".parse().unwrap());
    request
}

fn create(name: &str) -> pb::CreateStorageRequest {
    pb::CreateStorageRequest {
        name: name.to_owned(),
        storage_type: "file".to_owned(),
        capacity_bytes: 1 << 30,
        ..pb::CreateStorageRequest::default()
    }
}

#[tokio::test]
async fn the_life_of_storage() {
    let grpc = Grpc::new().await;
    let mut client = grpc.client();
    let mut events = client
        .watch_storage(with_token(pb::WatchStorageRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().r#type, "bookmark");

    let made = client
        .create_storage(with_token(create("a")))
        .await
        .unwrap()
        .into_inner()
        .storage
        .unwrap();
    assert_eq!(
        (made.phase.as_str(), made.reclaim_policy.as_str()),
        ("Pending", "Delete")
    );
    let again = client
        .create_storage(with_token(create("a")))
        .await
        .unwrap()
        .into_inner()
        .storage
        .unwrap();
    assert_eq!(again, made);
    let event = events.message().await.unwrap().unwrap();
    assert_eq!(
        (event.r#type.as_str(), event.storage.unwrap().id),
        ("added", made.id.clone())
    );
    assert!(!event.resume_token.is_empty());

    let id = made.id;
    let size = |capacity_bytes| {
        with_token(pb::ExpandStorageRequest {
            id: id.clone(),
            capacity_bytes,
        })
    };
    assert_eq!(
        client
            .expand_storage(size(2 << 30))
            .await
            .unwrap()
            .into_inner()
            .capacity_bytes,
        2 << 30
    );
    let refused = client.expand_storage(size(1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        refused.get_details_bad_request().unwrap().field_violations[0].field,
        "capacity_bytes"
    );

    let list = client
        .list_storage(with_token(pb::ListStorageRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.items.len(), 1);
    let delete = || with_token(pb::DeleteStorageRequest { id: id.clone() });
    assert!(!client.delete_storage(delete()).await.unwrap().into_inner().gone);
    assert!(client.delete_storage(delete()).await.unwrap().into_inner().gone);
    let gone = client
        .get_storage(with_token(pb::GetStorageRequest { id }))
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let seen = grpc.seen.lock().unwrap().clone();
    assert!(
        seen.contains(&("/smartstorage.v1.StorageService/GetStorage".to_owned(), 5)),
        "{seen:?}"
    );
    grpc.bed.close().await;
}

#[tokio::test]
async fn a_dry_run_and_wrong_fields_are_as_in_rest() {
    let grpc = Grpc::new().await;
    let mut client = grpc.client();
    let dry = pb::CreateStorageRequest {
        dry_run: true,
        ..create("a")
    };
    let answer = client.create_storage(with_token(dry)).await.unwrap().into_inner();
    assert_eq!(
        (answer.placed, answer.storage, answer.placement.unwrap().pool),
        (Some(true), None, "p".to_owned())
    );
    let wrong = pb::CreateStorageRequest {
        tier: Some("lukewarm".to_owned()),
        ..Default::default()
    };
    let refused = client.create_storage(with_token(wrong)).await.unwrap_err();
    let fields: Vec<_> = refused
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|v| v.field)
        .collect();
    assert_eq!(fields, ["name", "storage_type", "capacity_bytes", "tier"]);
    grpc.bed.close().await;
}

#[tokio::test]
async fn the_fleet_is_answered() {
    let grpc = Grpc::new().await;
    grpc.bed.node("n", "n").await;
    let mut client = grpc.client();
    let nodes = client
        .list_nodes(with_token(pb::ListNodesRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            nodes.items[0].phase.as_str(),
            nodes.items[0].drives[0].use_state.as_str()
        ),
        ("Ready", "Free")
    );
    *grpc.bed.neighbours.away.lock().unwrap() = Some("no stream".to_owned());
    let name = || with_token(pb::ClassifyNodeRequest { name: "n".to_owned() });
    let away = client.classify_node(name()).await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable);
    assert!(away.get_details_retry_info().is_some());
    assert!(
        client
            .list_pools(with_token(pb::ListPoolsRequest::default()))
            .await
            .is_ok()
    );
    assert!(
        client
            .list_classes(with_token(pb::ListClassesRequest {}))
            .await
            .is_ok()
    );
    let capacity = client
        .get_capacity(with_token(pb::GetCapacityRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(capacity.by_node["n"].raw_bytes, 2 << 30);
    let mut events = client
        .watch_nodes(with_token(pb::WatchNodesRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().node.unwrap().name, "n");
    grpc.bed.close().await;
}

#[tokio::test]
async fn storage_needs_the_token_health_does_not_and_http_is_refused() {
    use tower::ServiceExt as _;

    let grpc = Grpc::new().await;
    let refused = grpc
        .client()
        .list_nodes(pb::ListNodesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut health = HealthClient::with_origin(grpc.router.clone(), Uri::from_static("http://localhost"));
    let check = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    assert_eq!(health.check(check("")).await.unwrap().into_inner().status, 1);
    assert_eq!(
        health.check(check("other")).await.unwrap_err().code(),
        Code::NotFound
    );
    *grpc.bed.neighbours.unready.lock().unwrap() = vec!["not synced".to_owned()];
    assert_eq!(
        health
            .check(check("smartstorage.v1.StorageService"))
            .await
            .unwrap()
            .into_inner()
            .status,
        2
    );
    let mut watch = health.watch(check("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);

    let plain = http::Request::builder()
        .uri("/v1/storage")
        .body(axum::body::Body::empty())
        .unwrap();
    assert_eq!(grpc.router.clone().oneshot(plain).await.unwrap().status(), 415);
    grpc.bed.close().await;
}

#[tokio::test]
async fn reflection_tells_the_services_of_this_port() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };

    let grpc = Grpc::new().await;
    let mut client =
        ServerReflectionClient::with_origin(grpc.router.clone(), Uri::from_static("http://localhost"));
    let ask = |what| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(what),
    };
    let asked = futures::stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "smartstorage.v1.StorageService".to_owned(),
        )),
    ]);
    let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(services)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let mut names: Vec<_> = services.service.into_iter().map(|s| s.name).collect();
    names.sort();
    assert!(
        names.contains(&"smartstorage.v1.StorageService".to_owned()),
        "{names:?}"
    );
    assert!(!names.iter().any(|n| n.contains("agent")), "{names:?}");
    let file = answers.message().await.unwrap().unwrap().message_response;
    assert!(
        matches!(file, Some(MessageResponse::FileDescriptorResponse(_))),
        "{file:?}"
    );
    grpc.bed.close().await;
}
