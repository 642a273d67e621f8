//! A rotation that is cut off after each of its steps leaves a PKI that everybody can go on with.

use rustls::{ClientConnection, ServerConnection};
use smart_storage_agent::enrol;

use super::*;
use crate::pki::{
    authority::Files,
    rotation::{self, RotateError, Step, finish_steps, rotate_steps},
};

struct Node {
    identity: Identity,
    ca: Vec<CertificateDer<'static>>,
}

/// A node as it is after an enrolment now.
fn enrolled(pki: &Pki) -> Node {
    let (pair, request) = request();
    let authority = pki.signing(SystemTime::now()).unwrap();
    let leaf = authority
        .sign_node("node-1", "t", &request, SystemTime::now())
        .unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    Node {
        identity: Identity {
            chain: vec![leaf],
            key,
        },
        ca: authority.trusted().to_vec(),
    }
}

/// Both sides of a handshake in memory.
fn meet(client: rustls::ClientConfig, server: &TlsSource) -> Result<(), rustls::Error> {
    let name = "localhost".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(server.load_full())?;
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

fn comes_in(node: &Node, pki: &Pki) -> Result<(), rustls::Error> {
    let client = tls::client(&node.ca, Some(&node.identity), &[ALPN_H2]).unwrap();
    meet(client, &pki.agents())
}

/// Who pins a CA by a join token's hash finds it in what the enrolment port shows.
fn token_works(hash: &str, pki: &Pki) -> Result<(), rustls::Error> {
    let mut bytes = [0_u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(hash.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    meet(enrol::pinned(bytes).unwrap(), &pki.enrolment())
}

fn open(dir: &Path) -> Pki {
    Pki::open(dir, &[], SystemTime::now()).unwrap()
}

#[test]
fn a_rotation_that_stops_after_any_step_locks_nobody_out_and_can_be_gone_on_with() {
    let now = SystemTime::now();
    for done in 0..=4 {
        let dir = tempfile::tempdir().unwrap();
        let before = open(dir.path());
        let (node, old) = (enrolled(&before), before.authority().hash());
        let files = Files::below(dir.path()).unwrap();
        let (steps, _) = rotate_steps(&files, &before.authority(), now).unwrap();
        assert_eq!(steps.len(), 4, "a step more is a state more to look at");
        steps.iter().take(done).try_for_each(Step::apply).unwrap();

        let after = open(dir.path());
        comes_in(&node, &after).unwrap_or_else(|error| panic!("after {done} steps: {error}"));
        token_works(&old, &after).unwrap();
        comes_in(&enrolled(&after), &after).unwrap();
        token_works(&after.authority().hash(), &after).unwrap();
        // The same command again, as an administrator would.
        match rotation::rotate(dir.path(), now) {
            Ok(rotated) => assert_eq!(rotated.other, old),
            Err(error) => assert!(matches!(error, RotateError::UnderWay { .. }), "{error}"),
        }
        assert!(after.look(now).unwrap() || done >= 3);
        assert_eq!(after.authority().trusted().len(), 2);
        comes_in(&node, &after).unwrap();
        comes_in(&enrolled(&after), &after).unwrap();
        let key = KeyPair::from_pem(&read(&files.key).unwrap()).unwrap();
        let own = X509Certificate::from_der(after.authority().certificate())
            .unwrap()
            .1
            .public_key()
            .subject_public_key
            .data
            .to_vec();
        assert_eq!(own, rcgen::PublicKeyData::der_bytes(&key), "the old key is gone");
        assert!(!files.next_key.exists());
    }
}

#[test]
fn the_end_of_a_rotation_that_stops_after_any_step_can_be_gone_on_with() {
    let now = SystemTime::now();
    for done in 0..=2 {
        let dir = tempfile::tempdir().unwrap();
        let old_node = enrolled(&open(dir.path()));
        rotation::rotate(dir.path(), now).unwrap();
        let between = open(dir.path());
        let new_node = enrolled(&between);
        let files = Files::below(dir.path()).unwrap();
        let (steps, _) = finish_steps(&files, &between.authority()).unwrap();
        assert_eq!(steps.len(), 2, "a step more is a state more to look at");
        steps.iter().take(done).try_for_each(Step::apply).unwrap();

        let after = open(dir.path());
        comes_in(&new_node, &after).unwrap();
        assert_eq!(comes_in(&old_node, &after).is_ok(), done == 0);
        match rotation::finish(dir.path(), false, now) {
            Ok(_) => assert_eq!(done, 0),
            Err(error) => assert!(matches!(error, RotateError::NotBegun), "{error}"),
        }
        let after = open(dir.path());
        comes_in(&new_node, &after).unwrap();
        assert!(comes_in(&old_node, &after).is_err());
        // And all of it once more.
        rotation::rotate(dir.path(), now).unwrap();
        comes_in(&new_node, &open(dir.path())).unwrap();
    }
}

#[test]
fn a_rotation_is_not_ended_while_a_good_certificate_hangs_on_the_old_ca() {
    let now = SystemTime::now();
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    for node in ["rack.node-1", "node-2"] {
        pki.holds(node, &enrolled(&pki).identity.chain[0]).unwrap();
    }
    rotation::rotate(dir.path(), now).unwrap();
    let refused = rotation::finish(dir.path(), false, now).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("nodes whose certificate is of the old CA: node-2, rack.node-1;"),
        "{refused}"
    );
    // One gets a new certificate and says that it has it; the other's runs out.
    pki.look(now).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, pki.authority().certificate());
    let until = u64::try_from(unix(now + NODE_LIFE)).unwrap();
    pki.holds_of("node-2", digest.as_ref(), until).unwrap();
    match rotation::finish(dir.path(), false, now).unwrap_err() {
        RotateError::StillHeld(names) => assert_eq!(names, ["rack.node-1"]),
        other => panic!("{other}"),
    }
    let done = rotation::finish(dir.path(), false, now + NODE_LIFE + Duration::from_secs(1)).unwrap();
    assert_eq!(done.signs, pki.authority().hash());
    assert!(!dir.path().join("pki/holders/rack.node-1").exists());
}

#[test]
fn with_force_a_rotation_ends_at_once() {
    let now = SystemTime::now();
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    let node = enrolled(&pki);
    pki.holds("node-1", &node.identity.chain[0]).unwrap();
    rotation::rotate(dir.path(), now).unwrap();
    rotation::finish(dir.path(), true, now).unwrap();
    assert!(pki.look(now).unwrap());
    assert!(comes_in(&node, &pki).is_err());
}

#[test]
fn a_ca_that_was_rotated_signs_nothing_more_however_short_ago() {
    let now = SystemTime::now();
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    let rotated = rotation::rotate(dir.path(), now).unwrap();
    let node = enrolled(&pki);
    assert_eq!(
        pki.authority().signer(&node.identity.chain[0]).unwrap(),
        rotated.signs
    );
}
