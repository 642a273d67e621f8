//! Reads a JSON body: the media type first (415), then at most 1 MiB (413) within half a minute (408), then JSON
//! (400).

use std::time::Duration;

use axum::{body::Body, extract::Request};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;

use super::problem::Problem;
use crate::service::request::parse_json;

/// The largest body.
pub(super) const MAX_BODY: usize = 1 << 20;
/// The longest time that a body may take.
const MAX_TIME: Duration = Duration::from_secs(30);

/// The JSON in the body of `request`, which has to say that it is one of `types`.
pub(super) async fn json(request: Request, types: &'static [&'static str]) -> Result<Value, Problem> {
    let (head, body) = request.into_parts();
    if body.is_end_stream() {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "A JSON body is needed, and there is none.",
        ));
    }
    check_type(&head.headers, types, &head.method)?;
    let length = head
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    parse_json(&read(body).await?).map_err(Problem::from)
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    match tokio::time::timeout(MAX_TIME, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "The body broke off.")),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "The body took more than 30 seconds.",
        )),
    }
}

fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("A body may have {MAX_BODY} bytes."),
    )
}

fn check_type(headers: &HeaderMap, types: &[&'static str], method: &http::Method) -> Result<(), Problem> {
    let refuse = |detail: String| {
        let name = if *method == http::Method::PATCH {
            HeaderName::from_static("accept-patch")
        } else {
            HeaderName::from_static("accept-post")
        };
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
        types
            .iter()
            .fold(problem, |problem, accepted| problem.with(name.clone(), accepted))
    };
    if headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(refuse("A body is read only without Content-Encoding.".to_owned()));
    }
    let said = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let mut parts = said.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    if !types
        .iter()
        .any(|accepted| essence.eq_ignore_ascii_case(accepted))
    {
        let wanted = types.join(" or ");
        return Err(refuse(format!("Content-Type has to be {wanted}.")));
    }
    let foreign = parts.filter_map(|p| p.split_once('=')).any(|(name, value)| {
        name.trim().eq_ignore_ascii_case("charset")
            && !value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    if foreign {
        Err(refuse("JSON is UTF-8.".to_owned()))
    } else {
        Ok(())
    }
}
