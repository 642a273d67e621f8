//! Writes the OpenAPI document into the file named by the first argument (default `deploy/openapi.json`).

use std::{env, fs};

use anyhow::{Context as _, ensure};
use smart_storage_controller::api::openapi;

fn main() -> anyhow::Result<()> {
    let path = env::args()
        .nth(1)
        .unwrap_or_else(|| "deploy/openapi.json".to_owned());
    ensure!(!path.starts_with('-'), "usage: openapigen [FILE]; {path} is none");
    fs::write(&path, openapi::text()).with_context(|| format!("cannot write {path}"))
}
