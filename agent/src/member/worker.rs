//! Work that may hang: whatever touches a drive runs on a thread of its own with a deadline, one at a time for each
//! member, so that a dying drive holds up nothing but itself.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::MemberError;

/// Runs what may hang, one at a time.
#[derive(Default)]
pub(super) struct Worker {
    stuck: Option<JoinHandle<()>>,
}

impl Worker {
    /// Comes back when work that was given up has come back.
    pub async fn settled(&mut self) {
        if let Some(stuck) = self.stuck.take() {
            // Its result went nowhere; a panic in it is as good an end as any.
            let _ = stuck.await;
        }
    }

    /// Runs `work` on a thread of its own; an error where it takes longer than `limit`, or where the last one has
    /// still not come back.
    pub async fn run<T: Send + 'static>(
        &mut self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, MemberError> {
        let hangs = || {
            MemberError::transient(
                "DriveHangs",
                "the drive does not answer; check it and its cabling",
            )
        };
        if self.stuck.as_ref().is_some_and(|stuck| !stuck.is_finished()) {
            return Err(hangs());
        }
        let (done, result) = oneshot::channel();
        let handle = tokio::task::spawn_blocking(move || {
            // Nobody waits any more where the limit has passed.
            let _ = done.send(work());
        });
        match tokio::time::timeout(limit, result).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(MemberError::transient(
                "Internal",
                "a worker ended without a result",
            )),
            Err(_) => {
                self.stuck = Some(handle);
                Err(hangs())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn work_that_hangs_is_given_up_and_nothing_is_begun_beside_it() {
        let mut worker = Worker::default();
        assert_eq!(worker.run(Duration::from_secs(60), || 7).await, Ok(7));
        let (let_go, held) = mpsc::channel::<()>();
        let hung = worker
            .run(Duration::from_millis(10), move || held.recv().is_ok())
            .await;
        assert_eq!(hung.unwrap_err().reason, "DriveHangs");
        assert_eq!(
            worker
                .run(Duration::from_secs(60), || 7)
                .await
                .unwrap_err()
                .reason,
            "DriveHangs"
        );
        let_go.send(()).unwrap();
        while worker.stuck.as_ref().is_some_and(|stuck| !stuck.is_finished()) {
            tokio::task::yield_now().await;
        }
        assert_eq!(worker.run(Duration::from_secs(60), || 7).await, Ok(7));
    }
}
