use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::agents::identity::{node_of_certificate, token_of_certificate};

mod rotating;

fn request() -> (KeyPair, Vec<u8>) {
    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = name("somebody-else");
    let der = params.serialize_request(&pair).unwrap().der().to_vec();
    (pair, der)
}

#[test]
fn the_authority_is_made_once_and_its_files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let first = Authority::open(dir.path(), now).unwrap();
    let again = Authority::open(dir.path(), now + CA_LIFE / 2).unwrap();
    assert_eq!(first.hash(), again.hash());
    for file in ["ca.crt", "ca.key"] {
        let mode = fs::metadata(dir.path().join("pki").join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_ca_without_its_key_is_an_error_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    Authority::open(dir.path(), SystemTime::now()).unwrap();
    fs::remove_file(dir.path().join("pki/ca.key")).unwrap();
    let error = Authority::open(dir.path(), SystemTime::now()).unwrap_err();
    assert!(matches!(error, PkiError::HalfAuthority(_)), "{error}");
}

#[test]
fn a_node_certificate_names_the_node_that_was_signed_for_and_not_the_requests() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), SystemTime::now()).unwrap();
    let certificate = authority
        .sign_node("node-1", "t", &request().1, SystemTime::now())
        .unwrap();
    assert_eq!(node_of_certificate(&certificate).unwrap(), "node-1");
    assert_eq!(token_of_certificate(&certificate).as_deref(), Some("t"));
    let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert!(!parsed.is_ca());
    let life = parsed.validity().not_after.timestamp() - unix(SystemTime::now());
    assert!((86_000..=86_401).contains(&life), "{life}");
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), SystemTime::now()).unwrap();
    let (_, mut der) = request();
    let last = der.len() - 1;
    der[last] ^= 1;
    assert!(matches!(
        authority.sign_node("node-1", "t", &der, SystemTime::now()),
        Err(PkiError::Request(_))
    ));
    assert!(matches!(
        authority.sign_node("node-1", "t", b"nonsense", SystemTime::now()),
        Err(PkiError::Request(_))
    ));
}

#[test]
fn the_server_certificate_is_kept_while_it_is_good_and_renewed_near_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let pki = Pki::open(dir.path(), &[], now).unwrap();
    let first = pki.server().chain[0].clone();
    assert!(!pki.renew_server(now + SERVER_LIFE / 2).unwrap());
    assert_eq!(Pki::open(dir.path(), &[], now).unwrap().server().chain[0], first);

    let before = pki.agents().load_full();
    assert!(pki.renew_server(now + SERVER_LIFE * 3 / 4).unwrap());
    assert_ne!(pki.server().chain[0], first);
    assert!(!Arc::ptr_eq(&before, &pki.agents().load_full()));
}

#[test]
fn another_name_makes_another_server_certificate_of_the_same_ca() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let plain = Pki::open(dir.path(), &[], now).unwrap();
    let named = Pki::open(
        dir.path(),
        &["storage.example".to_owned(), "10.0.0.7".to_owned()],
        now,
    )
    .unwrap();
    assert_eq!(plain.authority().hash(), named.authority().hash());
    assert_ne!(plain.server().chain[0], named.server().chain[0]);
    assert!(Pki::open(dir.path(), &["not a name\u{e9}".to_owned()], now).is_err());
}
