//! Changing `filer.conf` while others do so too.
//!
//! One writer at a time in this process, and it carries along every change that waits: sixty volumes cost a
//! few writes. Each write is on condition that the file is as it was read (the server checks it under its lock),
//! and is read back: SeaweedFS's own quota loop and its shell write without asking. What they lose after that,
//! the next `ensure` finds missing and sets again.
//!
//! It never replaces a file that it could not read.

use std::{future::Future, time::Duration};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    error::RuleError,
    rules::{Change, FilerConf},
};

/// Writers that lose a race try so often.
const ATTEMPTS: u32 = 12;

/// The first pause after a lost race; it doubles up to a second.
const PAUSE: Duration = Duration::from_millis(20);

/// The place where the document is kept.
pub(super) trait RuleFile: Sync {
    /// What a later write is conditional on.
    type Seen: Send;

    /// The document's bytes (none: not there) and what was seen.
    fn read(&self) -> impl Future<Output = Result<(Vec<u8>, Self::Seen), RuleError>> + Send;

    /// Writes, unless it is no longer as it was seen: then `false`.
    fn write(&self, seen: Self::Seen, bytes: Vec<u8>)
    -> impl Future<Output = Result<bool, RuleError>> + Send;
}

struct Waiting {
    change: Change,
    done: oneshot::Sender<Result<(), RuleError>>,
}

/// The one door to `filer.conf` in this process.
#[derive(Default)]
pub(super) struct RuleBook {
    waiting: Mutex<Vec<Waiting>>,
    writer: tokio::sync::Mutex<()>,
}

impl RuleBook {
    /// Brings `change` into force.
    pub(super) async fn apply(&self, file: &impl RuleFile, change: Change) -> Result<(), RuleError> {
        let (done, mut mine) = oneshot::channel();
        self.waiting.lock().push(Waiting { change, done });
        let _writer = self.writer.lock().await;
        match mine.try_recv() {
            Ok(result) => return result,
            Err(oneshot::error::TryRecvError::Closed) => return Err(RuleError::Interrupted),
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        let batch = std::mem::take(&mut *self.waiting.lock());
        let result = write(file, batch.iter().map(|waiting| &waiting.change)).await;
        for waiting in batch {
            // Whoever stopped waiting needs no answer.
            let _gone = waiting.done.send(result.clone());
        }
        result
    }
}

/// Later changes win over earlier ones for the same prefix, so only what the batch comes to is read back.
async fn write<'a>(
    file: &impl RuleFile,
    changes: impl Iterator<Item = &'a Change> + Clone,
) -> Result<(), RuleError> {
    let mut pause = PAUSE;
    for _ in 0..ATTEMPTS {
        let (bytes, seen) = file.read().await?;
        let mut conf = FilerConf::parse(&bytes).map_err(RuleError::Malformed)?;
        let before = conf.clone();
        for change in changes.clone() {
            conf.apply(change);
        }
        if conf == before {
            return Ok(());
        }
        if file.write(seen, conf.to_bytes()).await? {
            crate::fault::point("rule-written");
            // Read back at the top: nothing is left to change, or it was lost and is set again.
            continue;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
    Err(RuleError::Contended(ATTEMPTS))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::rules::Rule, *};

    /// A file whose writers race: every third write somebody else was faster, and every fifth one is lost
    /// right after it was made, as a writer that does not ask does.
    #[derive(Default)]
    struct Contested {
        state: Mutex<(u64, Vec<u8>, u64)>,
    }

    impl RuleFile for Contested {
        type Seen = u64;

        async fn read(&self) -> Result<(Vec<u8>, u64), RuleError> {
            tokio::task::yield_now().await;
            let state = self.state.lock();
            Ok((state.1.clone(), state.0))
        }

        async fn write(&self, seen: u64, bytes: Vec<u8>) -> Result<bool, RuleError> {
            tokio::task::yield_now().await;
            let mut state = self.state.lock();
            state.2 += 1;
            if state.2.is_multiple_of(3) {
                state.0 += 1;
            }
            if state.0 != seen {
                return Ok(false);
            }
            state.0 += 1;
            if !state.2.is_multiple_of(5) {
                state.1 = bytes;
            }
            Ok(true)
        }
    }

    fn put(number: usize) -> Change {
        Change::Put(Rule {
            prefix: format!("/buckets/uv-{number}/"),
            disk_tag: "pool-a".into(),
            replication: "000".into(),
            growth_count: 1,
        })
    }

    #[tokio::test]
    async fn sixty_changes_at_once_all_come_into_force() {
        let (book, file) = (Arc::new(RuleBook::default()), Arc::new(Contested::default()));
        file.state.lock().1 = br#"{"locations":[{"locationPrefix":"/theirs/","ttl":"1d"}]}"#.to_vec();
        let all = (0..60).map(|number| {
            let (book, file) = (book.clone(), file.clone());
            tokio::spawn(async move { book.apply(&*file, put(number)).await })
        });
        for done in futures::future::join_all(all).await {
            done.unwrap().unwrap();
        }
        let state = file.state.lock();
        let conf = FilerConf::parse(&state.1).unwrap();
        assert!((0..60).all(|number| conf.holds(&put(number))));
        assert!(String::from_utf8_lossy(&state.1).contains("/theirs/"));
        assert!(
            state.2 < 20,
            "{} writes: waiting changes travel together",
            state.2
        );
    }

    #[tokio::test]
    async fn a_document_that_is_not_understood_is_left_as_it_is() {
        let (book, file) = (RuleBook::default(), Contested::default());
        file.state.lock().1 = b"not json".to_vec();
        assert!(matches!(
            book.apply(&file, put(1)).await,
            Err(RuleError::Malformed(_))
        ));
        assert_eq!(file.state.lock().1, b"not json");
    }

    #[tokio::test]
    async fn a_writer_that_was_stopped_does_not_leave_the_others_waiting() {
        let (book, file) = (Arc::new(RuleBook::default()), Arc::new(Contested::default()));
        let (stopped, other) = {
            let (one, two) = (book.clone(), book.clone());
            let (file_one, file_two) = (file.clone(), file.clone());
            let stopped = tokio::spawn(async move { one.apply(&*file_one, put(1)).await });
            let other = tokio::spawn(async move { two.apply(&*file_two, put(2)).await });
            (stopped, other)
        };
        tokio::task::yield_now().await;
        stopped.abort();
        match other.await.unwrap() {
            Ok(()) => {}
            Err(error) => assert_eq!(error, RuleError::Interrupted),
        }
        book.apply(&*file, put(2)).await.unwrap();
    }
}
