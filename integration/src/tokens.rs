//! SeaweedFS's tokens (JWT, HS256), signed with the keys of an instance: what only its administrator can do.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};

/// The keys that an instance signs filer tokens with.
#[derive(Debug, Clone)]
pub struct Keys {
    write: hmac::Key,
    read: hmac::Key,
}

impl Keys {
    /// From the folder that `WEED_SECURITY` names.
    ///
    /// # Errors
    /// They are not there.
    pub fn of(security: &Path) -> Result<Self> {
        let key = |name: &str| -> Result<hmac::Key> {
            let file = security.join("keys").join(name);
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            Ok(hmac::Key::new(hmac::HMAC_SHA256, text.trim().as_bytes()))
        };
        Ok(Self {
            write: key("jwt.filer_signing")?,
            read: key("jwt.filer_signing.read")?,
        })
    }

    /// A token for writing anything, good for an hour.
    #[must_use]
    pub fn writing(&self) -> String {
        sign(&self.write, &json!({ "exp": in_seconds(3600) }))
    }

    /// A token for reading anything, good for an hour.
    #[must_use]
    pub fn reading(&self) -> String {
        sign(&self.read, &json!({ "exp": in_seconds(3600) }))
    }

    /// A token for reading with claims of one's own.
    #[must_use]
    pub fn reading_with(&self, claims: &Value) -> String {
        sign(&self.read, claims)
    }
}

/// The claims of a token, unverified.
///
/// # Errors
/// It is no token.
pub fn claims(token: &str) -> Result<Value> {
    let part = token.split('.').nth(1).context("no token")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

/// Unix seconds, `offset` from now.
#[must_use]
pub fn in_seconds(offset: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs())
        .unwrap_or(i64::MAX)
        .saturating_add(offset)
}

/// `claims` signed with a key of one's own.
#[must_use]
pub fn signed_with(key: &[u8], claims: &Value) -> String {
    sign(&hmac::Key::new(hmac::HMAC_SHA256, key), claims)
}

fn sign(key: &hmac::Key, claims: &Value) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let head = encode(json!({"alg": "HS256", "typ": "JWT"}).to_string().as_bytes());
    let body = format!("{head}.{}", encode(claims.to_string().as_bytes()));
    let signature = encode(hmac::sign(key, body.as_bytes()).as_ref());
    format!("{body}.{signature}")
}
