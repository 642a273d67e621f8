//! The conformance list, asked of the embedded API in this process.

use std::sync::Arc;

use smart_storage_integration::conformance::{Forget, Server, all_hold, ask, cases, departures};

use super::Bed;

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_api_is_a_kubernetes_api() {
    let bed = Bed::new().await;
    let api = bed.api.clone();
    let forget: Forget = Arc::new(move || {
        let api = api.clone();
        Box::pin(async move {
            api.forget();
            Ok(())
        })
    });
    let server = Server {
        client: bed.client.clone(),
        forget: Some(forget),
    };
    let filter = std::env::var("CONFORMANCE").unwrap_or_default();
    let mut all = cases();
    all.extend(departures());
    let verdicts = ask(&server, all, &filter).await;
    if let Err(broken) = all_hold(&verdicts) {
        panic!("{broken}");
    }
}
