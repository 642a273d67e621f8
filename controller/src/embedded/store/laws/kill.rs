//! `kill -9` of a process that writes: what it said is there, nothing is there by half.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::json;

use super::super::{Limits, Place, Store};
use super::{key, thing};

/// At once; each writes under names of its own.
const WRITERS: u64 = 4;
/// Names of each writer.
const NAMES: u64 = 6;

/// Repeatable chance.
fn chance(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Both objects of a name; they are written and removed together.
fn halves(name: &str) -> [String; 2] {
    [format!("{name}-left"), format!("{name}-right")]
}

/// One writer of the child: says what it begins, and what was acknowledged under which revision.
async fn write_for_ever(store: &Store, seed: u64, writer: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(writer + 1) | 1;
    loop {
        let name = format!("w{writer}n{}", chance(&mut state) % NAMES);
        let mark = chance(&mut state) >> 12;
        let filling = usize::try_from(chance(&mut state) % 9000).unwrap();
        let removes = chance(&mut state).is_multiple_of(4);
        let said = if removes {
            "none".to_owned()
        } else {
            mark.to_string()
        };
        println!("said begun {name} {said}");
        let both = halves(&name);
        let outcome = store
            .write::<_, super::StoreError, _>(false, move |t| {
                let mut reached = 0;
                for half in both {
                    let there = t.get(&key(&half));
                    if removes {
                        if let Some(object) = there {
                            reached = t.remove(key(&half), object.value()?)?.revision;
                        }
                    } else {
                        let mut value = thing(&half, filling);
                        value["mark"] = json!(mark);
                        reached = t.put(key(&half), value)?.revision;
                    }
                }
                Ok(reached)
            })
            .await;
        println!("said done {name} {said} {}", outcome.unwrap());
    }
}

/// The child of the next test: writes and says what was acknowledged until it is killed.
#[tokio::test]
async fn write_until_killed() {
    let Ok(path) = std::env::var("STORE_TO_WRITE") else {
        return;
    };
    let seed: u64 = std::env::var("STORE_SEED").unwrap().parse().unwrap();
    let store = Store::open(Place::file(path.as_ref()), Limits::default()).unwrap();
    let writers = (0..WRITERS).map(|writer| write_for_ever(&store, seed, writer));
    futures::future::join_all(writers).await;
}

/// What may be on the disk under a name: what was acknowledged, and what was begun after it.
#[derive(Debug, Default, Clone)]
struct Told {
    done: Option<u64>,
    begun: Option<Option<u64>>,
}

#[tokio::test]
async fn a_kill_at_any_moment_loses_nothing_and_halves_nothing() {
    let number = |name: &str, default: u64| {
        let given = std::env::var(name).ok().and_then(|text| text.parse().ok());
        given.unwrap_or(default)
    };
    let rounds = number("STORE_ROUNDS", 8);
    let seed = number("STORE_SEED", u64::from(std::process::id()));
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    let (mut newest, mut acknowledged) = (0, 0_u64);
    let mut state = seed | 1;
    for round in 0..rounds {
        let at = format!("seed {seed}, round {round}");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "embedded::store::laws::kill::write_until_killed",
                "--nocapture",
            ])
            .env("STORE_TO_WRITE", &path)
            .env("STORE_SEED", (seed + round).to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = chance(&mut state) % 150;
        let mut heard = 0;
        for line in lines.map_while(Result::ok) {
            // The harness may have begun the line.
            let Some((_, said)) = line.split_once("said ") else {
                continue;
            };
            let words: Vec<&str> = said.split(' ').collect();
            match *words.as_slice() {
                ["begun", name, mark] => {
                    told.entry(name.to_owned()).or_default().begun = Some(mark.parse().ok());
                }
                ["done", name, mark, revision] => {
                    *told.entry(name.to_owned()).or_default() = Told {
                        done: mark.parse().ok(),
                        begun: None,
                    };
                    newest = newest.max(revision.parse().unwrap());
                    acknowledged += 1;
                }
                // The last line may be cut off.
                _ => continue,
            }
            heard += 1;
            if heard == wanted + 1 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = Store::open(Place::file(&path), Limits::default()).unwrap();
        for (name, told) in &mut told {
            let [left, right] = halves(name).map(|half| {
                let object = store.get(&key(&half))?;
                object.value().unwrap()["mark"].as_u64()
            });
            assert_eq!(left, right, "{at}: {name} is there by half");
            assert!(
                left == told.done || Some(left) == told.begun,
                "{at}: {name} is {left:?}, and was told {told:?}"
            );
            *told = Told {
                done: left,
                begun: None,
            };
        }
        assert!(store.revision() >= newest, "{at}: the revision goes back");
        newest = store.revision();
        store.close().await;
    }
    println!("{acknowledged} writes acknowledged in {rounds} lives");
    assert!(acknowledged > rounds * 10, "{acknowledged}");
}
