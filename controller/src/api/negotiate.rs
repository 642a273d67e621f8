//! Content negotiation: everything is answered as JSON, so a caller that accepts none is told so (406) before
//! anything is done.

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, header};

use super::problem::Problem;

pub(super) async fn json_only(request: Request, next: Next) -> Response {
    if accepts_json(request.headers()) {
        next.run(request).await
    } else {
        Problem::new(
            StatusCode::NOT_ACCEPTABLE,
            "Only application/json can be answered.",
        )
        .into_response()
    }
}

/// Whether `Accept` lets JSON through. The most exact range decides; nothing readable accepts everything.
fn accepts_json(headers: &HeaderMap) -> bool {
    let ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty());
    let mut any = false;
    let mut best: Option<(u8, bool)> = None;
    for range in ranges {
        any = true;
        let mut parts = range.split(';').map(str::trim);
        let exactness = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "application/json" => 3,
            "application/*" => 2,
            "*/*" => 1,
            _ => continue,
        };
        let refused = parts
            .filter_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")))
            .any(|q| q.trim().parse::<f32>().is_ok_and(|q| q <= 0.0));
        if best.is_none_or(|(b, _)| exactness > b) {
            best = Some((exactness, !refused));
        }
    }
    best.map_or(!any, |(_, accepted)| accepted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_range_decides() {
        let check = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            accepts_json(&headers)
        };
        assert!(accepts_json(&HeaderMap::new()));
        for accepted in [
            "",
            "*/*",
            "application/json",
            "text/html, */*;q=0.1",
            "Application/JSON; charset=utf-8",
        ] {
            assert!(check(accepted), "{accepted}");
        }
        for refused in [
            "text/html",
            "application/xml",
            "application/json;q=0, */*",
            "image/png, text/*",
        ] {
            assert!(!check(refused), "{refused}");
        }
    }
}
