//! Who may call: the holder of the bearer token. Compared in constant time; the token itself is not kept. Every wrong
//! token gets the same answer, whatever is wrong with it, and is counted.

use http::{HeaderMap, Request, header};
use ring::{hmac, rand};

use crate::{listen::Peer, telemetry::TokenRefusals};

/// Checks `Authorization: Bearer …`.
#[derive(Clone)]
pub struct Bearer {
    key: hmac::Key,
    tag: hmac::Tag,
    refusals: TokenRefusals,
}

/// Why a call was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It bears no token.
    Missing,
    /// It bears another one.
    Wrong,
}

impl Denied {
    /// In a sentence, for the caller.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Missing => "A token is needed: send Authorization: Bearer and the token.",
            Self::Wrong => "This token is not valid here.",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Wrong => "wrong",
        }
    }

    /// Value of `WWW-Authenticate`.
    #[must_use]
    pub const fn challenge(self) -> &'static str {
        match self {
            Self::Missing => r#"Bearer realm="smart-storage""#,
            Self::Wrong => r#"Bearer realm="smart-storage", error="invalid_token""#,
        }
    }
}

impl Bearer {
    /// Lets in whoever bears `token`; white space around it does not count.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub fn new(token: &str) -> Result<Self, ring::error::Unspecified> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())?;
        let tag = hmac::sign(&key, token.trim().as_bytes());
        Ok(Self {
            key,
            tag,
            refusals: TokenRefusals::default(),
        })
    }

    /// The same, counting there.
    #[must_use]
    pub fn counting(self, refusals: TokenRefusals) -> Self {
        Self { refusals, ..self }
    }

    /// Whether this request to `api` is let in. Who is not is counted.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub fn admit<B>(&self, api: &'static str, request: &Request<B>) -> Result<(), Denied> {
        self.check(request.headers()).inspect_err(|denied| {
            let peer = request.extensions().get::<Peer>().map(|peer| peer.addr);
            self.refusals.note(api, denied.word(), peer);
        })
    }

    /// Whether these headers bear the token.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Denied::Missing);
        };
        let Some((scheme, token)) = value.as_bytes().split_at_checked("bearer ".len()) else {
            return Err(Denied::Missing);
        };
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(Denied::Missing);
        }
        hmac::verify(&self.key, token.trim_ascii(), self.tag.as_ref()).map_err(|_| Denied::Wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_lets_in() {
        let bearer = Bearer::new("secret\n").unwrap();
        let check = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer.check(&headers)
        };
        assert_eq!(check(&["Bearer secret"]), Ok(()));
        assert_eq!(check(&["bearer secret"]), Ok(()));
        assert_eq!(check(&[]), Err(Denied::Missing));
        assert_eq!(check(&["Basic secret"]), Err(Denied::Missing));
        assert_eq!(check(&["Bearer"]), Err(Denied::Missing));
        assert_eq!(check(&["Bearer "]), Err(Denied::Wrong));
        assert_eq!(check(&["Bearer secre"]), Err(Denied::Wrong));
        assert_eq!(check(&["Bearer secret2"]), Err(Denied::Wrong));
        assert_eq!(check(&["Bearer secret", "Bearer secret"]), Err(Denied::Missing));
    }
}
