//! Waiting for a condition with a deadline. The time it took is printed, so that a slow build is seen before it
//! becomes a red one.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

const PAUSE: Duration = Duration::from_millis(50);

/// Asks `probe` again and again until it answers `Ok(Some(_))`. An error counts as "not yet".
///
/// # Errors
/// The deadline passed; the last error of `probe` is the cause.
pub async fn eventually<T, F, A>(deadline: Duration, what: &str, probe: F) -> Result<T>
where
    F: FnMut() -> A,
    A: Future<Output = Result<Option<T>>>,
{
    Ok(within(deadline, PAUSE, what, probe).await?.0)
}

/// As [`eventually`], with a pause of one's own between two questions, and answers how long it took.
///
/// # Errors
/// The deadline passed; the last error of `probe` is the cause.
pub async fn within<T, F, A>(
    deadline: Duration,
    pause: Duration,
    what: &str,
    probe: F,
) -> Result<(T, Duration)>
where
    F: FnMut() -> A,
    A: Future<Output = Result<Option<T>>>,
{
    let (answer, took) = poll(deadline, pause, what, probe).await?;
    println!("  {what}: {took:.2?}");
    Ok((answer, took))
}

/// As [`eventually`], without a word: for what is done a thousand times.
///
/// # Errors
/// The deadline passed; the last error of `probe` is the cause.
pub async fn quietly<T, F, A>(deadline: Duration, what: &str, probe: F) -> Result<T>
where
    F: FnMut() -> A,
    A: Future<Output = Result<Option<T>>>,
{
    Ok(poll(deadline, PAUSE, what, probe).await?.0)
}

async fn poll<T, F, A>(deadline: Duration, pause: Duration, what: &str, mut probe: F) -> Result<(T, Duration)>
where
    F: FnMut() -> A,
    A: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    let mut last = anyhow::anyhow!("it was never so");
    loop {
        match tokio::time::timeout(deadline, probe()).await {
            Ok(Ok(Some(answer))) => {
                let took = start.elapsed();
                if took <= deadline {
                    return Ok((answer, took));
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => last = error,
            Err(_) => last = anyhow::anyhow!("no answer in time"),
        }
        if start.elapsed() >= deadline {
            return Err(last).with_context(|| format!("not within {deadline:?}: {what}"));
        }
        tokio::time::sleep(pause).await;
    }
}
