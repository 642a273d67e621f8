//! gRPC: the same rules as REST. The first frame is the method, the second the message.

use axum::body::Body;
use http::Request;
use prost::Message as _;
use smart_storage_proto::v1 as pb;

use crate::{
    Format, Target,
    http::{Answered, Door, TOKEN, with_bed},
    mutate::frames::{join, split},
    outcome,
};

pub(super) const TARGETS: &[Target] = &[Target {
    name: "grpc",
    format: Format::Frames,
    run,
    seeds,
    words: &["CreateStorage", "ListStorage", "default", "file", "block", "c1"],
    short: 300,
}];

fn run(data: &[u8]) -> u64 {
    let frames = split(data);
    let method = String::from_utf8_lossy(frames.first().copied().unwrap_or_default()).into_owned();
    let message = frames.get(1).copied().unwrap_or_default();
    let known: String = method.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
    with_bed(|bed| {
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
        body.extend_from_slice(message);
        let request = Request::post(format!("/smartstorage.v1.StorageService/{known}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(Body::from(body));
        let Ok(request) = request else { return 0 };
        let before = bed.revision();
        let answer = bed.ask(Door::Grpc, request);
        let (code, words) = (status(&answer, "grpc-status"), status(&answer, "grpc-message"));
        // gRPC's own word for a message that cannot be decoded is INTERNAL.
        let undecodable = words.contains("decode") || words.contains("Protobuf");
        assert!(
            matches!(code.as_str(), "" | "0" | "3" | "5" | "6" | "8" | "9" | "10" | "11" | "12") || undecodable,
            "{known} is answered {code} {words}"
        );
        if !matches!(code.as_str(), "" | "0") {
            assert_eq!(before, bed.revision(), "{known}, answered {code} {words}, changed something");
        }
        outcome((known, code, words.split("%20").take(3).collect::<Vec<_>>()))
    })
}

fn status(answer: &Answered, name: &str) -> String {
    let value = answer.trailers.get(name).or_else(|| answer.headers.get(name));
    value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn seeds() -> Vec<Vec<u8>> {
    let create = pb::CreateStorageRequest {
        name: "x".to_owned(),
        storage_type: "file".to_owned(),
        capacity_bytes: 1 << 30,
        tier: Some("hot".to_owned()),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        redundancy: Some(pb::Redundancy::default()),
        ..Default::default()
    };
    let dry = pb::CreateStorageRequest {
        dry_run: true,
        ..create.clone()
    };
    let list = pb::ListStorageRequest {
        limit: 5,
        namespace: Some("default".to_owned()),
        storage_type: Some("file".to_owned()),
        labels: vec!["a=b".to_owned()],
        ..Default::default()
    };
    let expand = pb::ExpandStorageRequest {
        id: "c1".to_owned(),
        capacity_bytes: 2 << 30,
    };
    let watch = pb::WatchStorageRequest {
        resume_token: "1".to_owned(),
        ..Default::default()
    };
    let calls: Vec<(&str, Vec<u8>)> = vec![
        ("CreateStorage", create.encode_to_vec()),
        ("CreateStorage", dry.encode_to_vec()),
        ("GetStorage", pb::GetStorageRequest { id: "c1".to_owned() }.encode_to_vec()),
        ("ListStorage", list.encode_to_vec()),
        ("ExpandStorage", expand.encode_to_vec()),
        ("DeleteStorage", pb::DeleteStorageRequest { id: "c1".to_owned() }.encode_to_vec()),
        ("RotateCredentials", pb::RotateCredentialsRequest { id: "c1".to_owned() }.encode_to_vec()),
        ("ListNodes", pb::ListNodesRequest::default().encode_to_vec()),
        ("GetNode", pb::GetNodeRequest { name: "n1".to_owned() }.encode_to_vec()),
        ("ClassifyNode", pb::ClassifyNodeRequest { name: "n1".to_owned() }.encode_to_vec()),
        ("ListPools", pb::ListPoolsRequest::default().encode_to_vec()),
        ("GetPool", pb::GetPoolRequest { name: "p1".to_owned() }.encode_to_vec()),
        ("GetCapacity", Vec::new()),
        ("ListClasses", Vec::new()),
        ("WatchStorage", watch.encode_to_vec()),
        ("WatchNodes", Vec::new()),
    ];
    calls
        .iter()
        .map(|(method, message)| join([method.as_bytes(), message.as_slice()]))
        .collect()
}
