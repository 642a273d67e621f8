//! A full disk at every write, and a power cut at every write.

use std::collections::BTreeMap;

use serde_json::json;

use super::super::{Limits, Store, StoreError};
use super::paper::{Fault, Paper};
use super::{key, thing};

/// Name to what was written under it.
type Model = BTreeMap<String, usize>;

/// One write: what it puts (all under one mark) and what it removes.
#[derive(Debug, Clone)]
struct Step {
    puts: Vec<String>,
    removes: Vec<String>,
    mark: usize,
}

impl Step {
    fn on(&self, model: &Model) -> Model {
        let mut after = model.clone();
        for name in &self.removes {
            after.remove(name);
        }
        after.extend(self.puts.iter().map(|name| (name.clone(), self.mark)));
        after
    }

    async fn write(&self, store: &Store) -> Result<u64, StoreError> {
        let step = self.clone();
        store
            .write(false, move |t| {
                let mut reached = 0;
                for name in &step.removes {
                    if let Some(object) = t.get(&key(name)) {
                        reached = t.remove(key(name), object.value()?)?.revision;
                    }
                }
                for name in &step.puts {
                    let mut value = thing(name, 2000);
                    value["mark"] = json!(step.mark);
                    reached = t.put(key(name), value)?.revision;
                }
                Ok(reached)
            })
            .await
    }
}

/// Single writes, writes of several objects, and removals.
fn steps() -> Vec<Step> {
    let one = |mark: usize| Step {
        puts: vec![format!("v{mark}")],
        removes: vec![],
        mark,
    };
    let several = |mark: usize| Step {
        puts: vec!["pair-a".to_owned(), "pair-b".to_owned()],
        removes: vec![format!("v{}", mark - 1)],
        mark,
    };
    (0..7)
        .map(|mark| if mark % 3 == 2 { several(mark) } else { one(mark) })
        .collect()
}

fn seen(store: &Store) -> Model {
    let all = store.snapshot("things", None, None).unwrap().objects;
    all.iter()
        .map(|object| {
            let mark = object.value().unwrap()["mark"].as_u64().unwrap();
            (object.key.name.clone(), usize::try_from(mark).unwrap())
        })
        .collect()
}

/// What may be on the disk: refused writes leave open whether they are.
struct Expected(Vec<Model>);

impl Expected {
    fn refused(&mut self, step: &Step) {
        let after: Vec<Model> = self.0.iter().map(|model| step.on(model)).collect();
        self.0.extend(after);
        self.0.sort();
        self.0.dedup();
    }

    fn acknowledged(&mut self, step: &Step, seen: &Model, at: &str) {
        self.0 = self.0.iter().map(|model| step.on(model)).collect();
        self.settles(seen, at);
    }

    fn settles(&mut self, seen: &Model, at: &str) {
        assert!(self.0.contains(seen), "{at}: {seen:?} is none of {:?}", self.0);
        self.0 = vec![seen.clone()];
    }
}

/// Whether the history leads from `then` to now.
fn replays(store: &Store, from: u64, then: &Model, at: &str) {
    let (changes, reached) = store.changes("things", from).unwrap();
    assert_eq!(reached, store.revision(), "{at}");
    let mut model = then.clone();
    let mut last = from;
    for change in changes {
        assert!(change.revision > last, "{at}: revisions go back in the history");
        last = change.revision;
        let name = change.object.key.name.clone();
        assert_eq!(change.before.is_some(), model.contains_key(&name), "{at}: {name}");
        if change.removed {
            model.remove(&name);
        } else {
            let mark = change.object.value().unwrap()["mark"].as_u64().unwrap();
            model.insert(name, usize::try_from(mark).unwrap());
        }
    }
    assert_eq!(model, seen(store), "{at}: the history leads elsewhere");
}

/// Writes on a disk that fills up at its `room`-th operation; how many writes were refused.
async fn fill_up(fault: Fault, room: u64) -> usize {
    let at = format!("{fault:?} at {room}");
    let paper = Paper::default();
    paper.fails(fault, room);
    let store = match Store::open(paper.place(), Limits::default()) {
        Ok(store) => store,
        Err(error) => {
            assert_eq!(error, StoreError::NoSpace, "{at}: opening");
            paper.heals();
            let store = Store::open(paper.place(), Limits::default()).unwrap();
            steps()[0].write(&store).await.unwrap();
            store.close().await;
            return 1;
        }
    };
    let (begin, mut refused, mut last) = (store.revision(), 0, store.revision());
    let mut expected = Expected(vec![Model::new()]);
    for step in steps() {
        match step.write(&store).await {
            Ok(revision) => {
                assert!(revision > last, "{at}: revisions only rise");
                expected.acknowledged(&step, &seen(&store), &at);
                assert!(store.is_writable(), "{at}");
            }
            Err(error) => {
                assert_eq!(error, StoreError::NoSpace, "{at}");
                refused += 1;
                expected.refused(&step);
                assert!(!store.is_writable(), "{at}: it says so");
                assert!(expected.0.contains(&seen(&store)), "{at}: reading goes on");
            }
        }
        assert!(store.revision() >= last, "{at}: revisions never go back");
        last = store.revision();
    }
    assert!(paper.struck() || refused == 0, "{at}");
    paper.heals();
    let after = Step {
        puts: vec!["after".to_owned()],
        removes: vec![],
        mark: 99,
    };
    after.write(&store).await.unwrap_or_else(|e| panic!("{at}: {e}"));
    expected.acknowledged(&after, &seen(&store), &at);
    assert!(store.is_writable(), "{at}");
    replays(&store, begin, &Model::new(), &at);
    // What is served is what is on the disk, also where a commit was in doubt.
    let (served, revision) = (seen(&store), store.revision());
    store.close().await;
    let again = Store::open(paper.copy().place(), Limits::default()).unwrap();
    assert_eq!((seen(&again), again.revision()), (served, revision), "{at}");
    again.close().await;
    refused
}

#[tokio::test]
async fn a_full_disk_at_any_write_loses_nothing_that_was_acknowledged() {
    for fault in [Fault::Full, Fault::NoNewBlocks, Fault::Once] {
        let mut room = 0;
        let mut refusals = 0;
        // Until there is room for everything, ten times in a row: some operations come after the last answer.
        let mut enough = 0;
        while enough < 10 {
            let refused = fill_up(fault, room).await;
            refusals += refused;
            enough = if refused == 0 { enough + 1 } else { 0 };
            room += 1;
        }
        println!("{fault:?}: {room} places, {refusals} refusals");
        let wanted = if fault == Fault::NoNewBlocks { 5 } else { 40 };
        assert!(
            refusals >= wanted,
            "{fault:?}: {refusals} refusals at {room} places"
        );
    }
}

/// Writes until the power goes at the `room`-th operation, and looks at what each way of dying leaves. Whether
/// the power went at all.
async fn cut(room: u64) -> bool {
    let paper = Paper::default();
    let store = Store::open(paper.place(), Limits::default()).unwrap();
    paper.fails(Fault::Cut, room);
    let (mut acknowledged, mut last) = (Model::new(), store.revision());
    let mut doubted = None;
    for step in steps() {
        match step.write(&store).await {
            Ok(revision) => {
                acknowledged = step.on(&acknowledged);
                last = revision;
            }
            Err(_) => {
                doubted = Some(step.on(&acknowledged));
                break;
            }
        }
    }
    store.close().await;
    if doubted.is_none() && !paper.struck() {
        return false;
    }
    let unsynced = paper.unsynced();
    let mut ways: Vec<(String, Paper)> = Vec::new();
    let mut prefixes = vec![
        0,
        unsynced / 3,
        unsynced / 2,
        unsynced.saturating_sub(1),
        unsynced,
    ];
    prefixes.dedup();
    for kept in prefixes {
        let image = paper.after_the_cut(|number| number < kept, None);
        ways.push((format!("the first {kept} of {unsynced}"), image));
    }
    if let Some(torn) = unsynced.checked_sub(1) {
        let image = paper.after_the_cut(|_| true, Some(torn));
        ways.push((format!("all {unsynced}, the last one torn"), image));
        let image = paper.after_the_cut(|number| number < torn / 2, Some(torn / 2));
        ways.push((
            format!("the first {} of {unsynced}, the next one torn", torn / 2),
            image,
        ));
    }
    // A drive may write in any order what was not synced.
    for seed in 1..=2_u64 {
        let lot = |number: usize| {
            (number as u64 + 1)
                .wrapping_mul(room + seed)
                .wrapping_mul(0x9E37_79B9)
                >> 7
                & 1
                == 1
        };
        ways.push((
            format!("a lot drawn of {unsynced}, seed {seed}"),
            paper.after_the_cut(lot, None),
        ));
    }
    for (way, image) in ways {
        let at = format!("cut at {room}, {way}");
        let again = Store::open(image.place(), Limits::default()).unwrap_or_else(|e| panic!("{at}: {e}"));
        let found = seen(&again);
        assert!(
            found == acknowledged || Some(&found) == doubted.as_ref(),
            "{at}: {found:?} is neither {acknowledged:?} nor {doubted:?}"
        );
        assert!(again.revision() >= last, "{at}: the revision goes back");
        let revision = steps()[0]
            .write(&again)
            .await
            .unwrap_or_else(|e| panic!("{at}: {e}"));
        assert!(revision > last, "{at}: a revision is given twice");
        again.close().await;
    }
    true
}

#[tokio::test]
async fn a_power_cut_at_any_write_loses_nothing_and_halves_nothing() {
    let mut room = 0;
    while cut(room).await {
        room += 1;
    }
    println!("{room} places to die");
    assert!(room > 40, "{room} places to die");
}
