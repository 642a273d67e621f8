//! Laws of the store: nothing acknowledged is lost, nothing refused appears, whatever the disk and the
//! machine do.

mod faults;
mod kill;
mod paper;

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Key, Limits, Place, Store, StoreError, Transaction};

fn key(name: &str) -> Key {
    Key {
        resource: "things".into(),
        namespace: "n".into(),
        name: name.to_owned(),
    }
}

fn thing(name: &str, filling: usize) -> Value {
    json!({"metadata": {"name": name}, "filling": "x".repeat(filling)})
}

async fn put(store: &Store, name: &str, filling: usize) -> Result<u64, StoreError> {
    let name = name.to_owned();
    store
        .write(false, move |t| {
            Ok(t.put(key(&name), thing(&name, filling))?.revision)
        })
        .await
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Remove(u8),
    Refused(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8).prop_map(Step::Put),
        3 => (0..6_u8).prop_map(Step::Remove),
        1 => (0..6_u8).prop_map(Step::Refused),
        1 => Just(Step::Reopen),
    ]
}

fn remove(t: &mut Transaction<'_>, name: &str) -> Result<Option<u64>, StoreError> {
    match t.get(&key(name)) {
        None => Ok(None),
        Some(object) => Ok(Some(t.remove(key(name), object.value()?)?.revision)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The store against a plain map: same objects, revisions that only grow, every snapshot in the window
    /// as the map was then, and the log leading from any of them to the present.
    #[test]
    fn the_store_is_a_map_with_a_history(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store");
            let limits = Limits { changes: 12, ..Limits::default() };
            let mut store = Store::open(Place::file(&path), limits).unwrap();
            let mut model: BTreeMap<String, u64> = BTreeMap::new();
            let mut past: Vec<(u64, BTreeMap<String, u64>)> = vec![(store.revision(), model.clone())];
            for step in steps {
                let before = store.revision();
                match step {
                    Step::Put(n) => {
                        let name = format!("k{n}");
                        let revision = put(&store, &name, 5).await.unwrap();
                        assert_eq!(revision, before + 1);
                        model.insert(name, revision);
                    }
                    Step::Remove(n) => {
                        let name = format!("k{n}");
                        let wanted = name.clone();
                        let gone = store.write(false, move |t| remove(t, &wanted)).await.unwrap();
                        assert_eq!(gone.is_some(), model.remove(&name).is_some());
                    }
                    Step::Refused(n) => {
                        let outcome: Result<(), StoreError> = store.write(false, move |t| {
                            t.put(key(&format!("k{n}")), thing("x", 1))?;
                            Err(StoreError::Encoding("refused".to_owned()))
                        }).await;
                        assert!(outcome.is_err());
                        assert_eq!(store.revision(), before);
                    }
                    Step::Reopen => {
                        store.close().await;
                        store = Store::open(Place::file(&path), limits).unwrap();
                        assert_eq!(store.revision(), before, "revisions survive");
                        past.clear();
                    }
                }
                past.push((store.revision(), model.clone()));
                compare(&store, &past);
            }
            store.close().await;
        });
    }
}

fn compare(store: &Store, past: &[(u64, BTreeMap<String, u64>)]) {
    let (_, now) = past.last().unwrap();
    for (revision, then) in past {
        let Ok(snapshot) = store.snapshot("things", None, Some(*revision)) else {
            continue;
        };
        let seen: BTreeMap<String, u64> = snapshot
            .objects
            .iter()
            .map(|o| (o.key.name.clone(), o.revision))
            .collect();
        assert_eq!(&seen, then, "at {revision}");
        let (changes, reached) = store.changes("things", *revision).unwrap();
        assert_eq!(reached, store.revision());
        let mut replayed = then.clone();
        for change in changes {
            let name = change.object.key.name.clone();
            assert_eq!(change.before.is_some(), replayed.contains_key(&name));
            match change.removed {
                true => replayed.remove(&name),
                false => replayed.insert(name, change.revision),
            };
        }
        assert_eq!(&replayed, now, "from {revision}");
    }
}
