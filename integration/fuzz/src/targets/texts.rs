//! Texts that people write: sizes, addresses, join tokens, flags.

use std::{
    ffi::OsString,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use clap::Parser as _;
use smart_storage_agent::{config as agent, enrol::JoinToken};
use smart_storage_controller::{
    agents::tokens::{self, VerifyError},
    backend::seaweedfs::Address,
    config as controller,
    service::request::{StorageFilter, parse_wait},
};
use smart_storage_core::bytes::{QuantityError, format_bytes, format_quantity, parse_quantity, percent, quantise_percent};

use super::{none, text};
use crate::{Format, Target, outcome};

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "quantity",
        format: Format::Text,
        run: quantity,
        seeds: none,
        words: &["Ki", "Gi", "Ei", "E", "e", "m", "n", "u", ".", "-", "+", "e30", "e-9", "18446744073709551615", "0"],
        short: 8000,
    },
    Target {
        name: "words",
        format: Format::Text,
        run: words,
        seeds: none,
        words: &["=", "/", "storage.billyronks.io/", "ms", "s", "m", ":", ".", "[::1]", "65535", "\n", "999999"],
        short: 5000,
    },
    Target {
        name: "join-token",
        format: Format::Text,
        run: join_token,
        seeds: token_seeds,
        words: &[".", "node-1", "..", "../", "/", "\u{0}", "-"],
        short: 1500,
    },
    Target {
        name: "flags",
        format: Format::Text,
        run: flags,
        seeds: none,
        words: &[
            ":", ",", "\n", "127.0.0.1:8092", "[::]:1", "localhost:", "http://", "99999", "-1", "info", "a=debug", "true",
        ],
        short: 300,
    },
];

fn quantity(data: &[u8]) -> u64 {
    let text = text(data);
    match parse_quantity(&text) {
        Ok(bytes) => {
            assert_eq!(parse_quantity(&format_quantity(bytes)), Ok(bytes), "{text:?}");
            assert!(!format_bytes(bytes).is_empty());
            let capacity = bytes.rotate_left(7);
            let used = bytes.min(capacity);
            let seen = quantise_percent(used, capacity);
            assert!(seen >= used && seen <= capacity && percent(used, capacity) <= 100);
            let doubled = parse_quantity(&format!("{}0", text.trim()));
            if text.trim().bytes().all(|b| b.is_ascii_digit())
                && let Ok(more) = doubled
            {
                assert_eq!(more, bytes * 10, "{text:?} and a zero more");
            }
            1 + u64::from(bytes == 0)
        }
        Err(QuantityError::Malformed(told)) => {
            assert_eq!(told, text);
            4
        }
        Err(QuantityError::Negative(_)) => 5,
        Err(QuantityError::TooLarge(_)) => 6,
    }
}

fn words(data: &[u8]) -> u64 {
    let text = text(data);
    let address: Result<Address, _> = text.parse();
    if let Ok(address) = &address {
        let again: Result<Address, _> = address.to_string().parse();
        assert_eq!(again.as_ref(), Ok(address), "an address that is written is read");
    }
    let wait = parse_wait("wait", &text);
    if let Ok(wait) = &wait {
        assert!(*wait <= Duration::from_secs(60), "{wait:?}");
    }
    let labels: Vec<String> = text.split('\n').take(64).map(str::to_owned).collect();
    let filter = StorageFilter::parse(Some(text.clone()), Some(&text), Some(&text), &labels);
    let by_label = StorageFilter::parse(None, None, None, &labels);
    if let Ok(filter) = &by_label {
        let selector = filter.selector();
        assert!(
            selector.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./=,".contains(&b)),
            "{selector:?} goes into a query"
        );
    }
    if let Err(error) = &filter {
        assert!(error.errors.iter().all(|wrong| !wrong.field.is_empty()), "an error without its field");
    }
    outcome((address.is_ok(), wait.is_ok(), by_label.is_ok(), filter.err().map(|e| e.errors.len().min(4))))
}

fn token_folder() -> &'static (tempfile::TempDir, String) {
    static MADE: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let token = tokens::create(folder.path(), "node-1", SystemTime::now()).expect("a token");
        (folder, token)
    })
}

fn token_seeds() -> Vec<Vec<u8>> {
    let token = &token_folder().1;
    vec![token.clone().into_bytes(), token.replace("node-1", "node-2").into_bytes()]
}

fn join_token(data: &[u8]) -> u64 {
    let (folder, good) = token_folder();
    let text = text(data);
    let secret = |token: &str| token.rsplit('.').nth(1).map(str::to_owned);
    let node = match JoinToken::parse(&text) {
        Ok(token) => token.node().to_owned(),
        Err(_) => "node-1".to_owned(),
    };
    let mut answers = Vec::new();
    for claimed in [node.as_str(), "node-1"] {
        answers.push(match tokens::verify(folder.path(), &text, claimed) {
            Ok(named) => {
                assert!(named == "node-1" && claimed == "node-1", "{named} by {claimed}");
                assert_eq!(secret(text.trim()), secret(good), "another secret is let in");
                0
            }
            Err(VerifyError::Malformed) => 1,
            Err(VerifyError::OtherNode { .. }) => 2,
            Err(VerifyError::Unknown) => 3,
            Err(VerifyError::Io(error)) => panic!("a token led to a file that cannot be read: {error}"),
        });
    }
    outcome((answers, node.is_empty()))
}

/// One value a line, for the flags that are no paths.
fn flags(data: &[u8]) -> u64 {
    let text = text(data);
    let values: Vec<&str> = text.split('\n').collect();
    let command = |program: &str, names: &[&str]| -> Vec<OsString> {
        let pairs = names.iter().zip(&values);
        std::iter::once(program.to_owned())
            .chain(pairs.map(|(name, value)| format!("--{name}={value}")))
            .map(OsString::from)
            .collect()
    };
    let names = [
        "controller-addr", "enrol-addr", "node-name", "discover-interval", "health-addr", "metrics-addr", "log-level",
    ];
    let agent = agent::Args::try_parse_from(command("agent", &names)).map(|args| {
        let wrong = agent::Config::from_args(args).err().unwrap_or_default();
        assert!(wrong.iter().all(|error| error.flag.starts_with("--")), "{wrong:?}");
        wrong.len()
    });
    let names = [
        "api-addr", "grpc-addr", "agent-addr", "discover-interval", "seaweedfs-master", "seaweedfs-filer", "seaweedfs-s3",
        "log-level", "standalone",
    ];
    let controller = controller::CommandLine::try_parse_from(command("controller", &names)).map(|line| {
        let config = controller::Config::try_from(line.flags);
        if let Ok(config) = &config {
            assert!(config.discover_interval > Duration::ZERO, "a rescan without a pause");
        }
        config.map(drop).map_err(|error| error.to_string().split(':').next().map(str::to_owned))
    });
    outcome((agent.ok(), controller.ok()))
}
