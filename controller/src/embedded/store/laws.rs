//! Laws of the store: nothing acknowledged is lost, nothing refused appears, whatever the disk and the
//! machine do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;
use redb::StorageBackend;
use redb::backends::FileBackend;
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

fn names(store: &Store) -> Vec<String> {
    let all = store.snapshot("things", None, None).unwrap().objects;
    all.iter().map(|o| o.key.name.clone()).collect()
}

/// A file whose writes fail with "no space" once the budget is used up.
#[derive(Debug)]
struct Tight {
    file: FileBackend,
    budget: Arc<AtomicI64>,
}

impl Tight {
    fn spend(&self) -> std::io::Result<()> {
        if self.budget.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl StorageBackend for Tight {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.spend()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.spend()?;
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.spend()?;
        self.file.write(offset, data)
    }
    fn close(&self) -> Result<(), std::io::Error> {
        self.file.close()
    }
}

fn tight(path: &std::path::Path, budget: &Arc<AtomicI64>) -> Place {
    let (path, budget) = (path.to_owned(), Arc::clone(budget));
    Place::other(Box::new(move || {
        let options = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = FileBackend::new(options.map_err(redb::Error::Io)?)?;
        Ok(redb::Builder::new().create_with_backend(Tight {
            file,
            budget: Arc::clone(&budget),
        })?)
    }))
}

#[tokio::test]
async fn a_full_disk_at_any_write_loses_nothing_that_was_acknowledged() {
    const PLENTY: i64 = 1 << 40;
    let folder = tempfile::tempdir().unwrap();
    for room in 0..40 {
        let path = folder.path().join(format!("{room}"));
        let budget = Arc::new(AtomicI64::new(PLENTY));
        let store = Store::open(tight(&path, &budget), Limits::default()).unwrap();
        put(&store, "before", 10).await.unwrap();
        budget.store(room, Ordering::SeqCst);
        let mut acknowledged = vec!["before".to_owned()];
        let mut refused = 0;
        for index in 0..12 {
            let name = format!("v{index}");
            match put(&store, &name, 20_000).await {
                Ok(_) => acknowledged.push(name),
                Err(error) => {
                    assert!(matches!(error, StoreError::NoSpace), "room {room}: {error}");
                    refused += 1;
                    assert!(names(&store).len() >= acknowledged.len(), "reading goes on");
                    assert!(!store.is_writable());
                }
            }
        }
        assert!(refused > 0, "room {room} was enough");
        budget.store(PLENTY, Ordering::SeqCst);
        put(&store, "after", 10).await.unwrap();
        assert!(store.is_writable());
        acknowledged.push("after".to_owned());
        let seen = names(&store);
        assert!(
            acknowledged.iter().all(|name| seen.contains(name)),
            "room {room}: {acknowledged:?} {seen:?}"
        );
        // What is served is what is on the disk, also where a commit was in doubt.
        store.close().await;
        let again = Store::open(Place::file(&path), Limits::default()).unwrap();
        assert_eq!(names(&again), seen, "room {room}");
        again.close().await;
    }
}

/// The child of the next test: writes and says what was acknowledged until it is killed.
#[tokio::test]
async fn write_until_killed() {
    let Ok(path) = std::env::var("STORE_TO_WRITE") else {
        return;
    };
    let store = Store::open(Place::file(path.as_ref()), Limits::default()).unwrap();
    let begin = store.revision();
    for index in 0.. {
        let several = (0..4).map(|part| {
            let (store, name) = (&store, format!("v{begin}-{index}-{part}"));
            async move {
                put(store, &name, 3000)
                    .await
                    .map(|revision| format!("acknowledged {revision} {name}"))
            }
        });
        for said in futures::future::join_all(several).await {
            println!("{}", said.unwrap());
        }
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "embedded::store::laws::write_until_killed",
                "--nocapture",
            ])
            .env("STORE_TO_WRITE", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = 5 + round * 13;
        for (index, line) in lines
            .map_while(Result::ok)
            .filter(|l| l.contains("acknowledged "))
            .enumerate()
        {
            // The harness may have begun the line.
            let (_, said) = line.split_once("acknowledged ").unwrap();
            let (revision, name) = said.split_once(' ').unwrap();
            acknowledged.insert(name.to_owned(), revision.parse().unwrap());
            if index == wanted {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = Store::open(Place::file(&path), Limits::default()).unwrap();
        for (name, revision) in &acknowledged {
            let found = store
                .get(&key(name))
                .unwrap_or_else(|| panic!("round {round}: {name} is lost"));
            assert_eq!(found.revision, *revision);
        }
        assert!(acknowledged.values().all(|r| *r <= store.revision()));
        store.close().await;
    }
    assert!(acknowledged.len() > 100);
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
