//! The conformance list: what a Kubernetes API answers, one sentence and one function for each law.
//!
//! It takes nothing but a [`kube::Client`] (and, for kubectl, a kubeconfig) to a server that serves our six kinds, and
//! it is asked of three servers with the same inputs and the same verdicts: of the embedded API in its own process
//! (unit tests of the controller), of a whole standalone instance over TLS, and of a real kube-apiserver (`deploy/crds`
//! applied; `SMART_STORAGE_CONFORMANCE_KUBECONFIG`). Where the embedded API departs on purpose, the case stands in
//! [`departures`] with its reason, and holds there only.
//!
//! Every case works in a namespace of its own and with names of its own, so that all of them may run at once and on a
//! server that somebody uses; all is taken away again. Reconcilers may be at work beside it: whatever they write
//! (a status) is judged by the answer to one's own request, never by a later reading.

mod discovering;
mod kubectl;
mod listing;
mod place;
mod refusing;
mod removing;
mod validating;
mod watching;
mod writing;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream};
use kube::Client;

pub use kubectl::kubectl;
pub use place::{Answer, Ask, Place, Watched};

/// At once; each case has a namespace of its own.
const AT_ONCE: usize = 8;
/// For one case; the longest wait of a healthy one is a real server's garbage collection.
const PATIENCE: Duration = Duration::from_secs(120);

/// A future that borrows the place of its case.
type Asked<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;
/// Makes the server forget its history, so that what points into it is expired.
pub type Forget = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

/// One law.
#[derive(Clone, Copy)]
pub struct Case {
    /// What holds, as a sentence.
    pub law: &'static str,
    /// Asks the server.
    ask: for<'a> fn(&'a Place) -> Asked<'a>,
    /// It makes the server forget, which others would notice.
    alone: bool,
}

impl Case {
    fn alone(mut self) -> Self {
        self.alone = true;
        self
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.law)
    }
}

/// A list of cases: `"the law" => function`.
macro_rules! laws {
    ($($law:literal => $ask:path),* $(,)?) => {
        vec![$($crate::conformance::Case { law: $law, ask: |place| Box::pin($ask(place)), alone: false }),*]
    };
}
use laws;

/// Whom the list is asked of.
#[derive(Clone)]
pub struct Server {
    /// The way there.
    pub client: Client,
    /// Where there is a way to make it forget.
    pub forget: Option<Forget>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// Every law of a Kubernetes API that the list holds.
#[must_use]
pub fn cases() -> Vec<Case> {
    [
        writing::laws(),
        removing::laws(),
        validating::laws(),
        listing::laws(),
        watching::laws(),
        discovering::laws(),
        refusing::laws(),
        listing::forgetting(),
    ]
    .concat()
}

/// Where the embedded API departs from a real server on purpose: these hold for it, and not for a real one.
#[must_use]
pub fn departures() -> Vec<Case> {
    refusing::departures()
}

/// What became of one case.
#[derive(Debug)]
pub struct Verdict {
    /// The case.
    pub case: Case,
    /// Whether it holds.
    pub outcome: Result<()>,
}

/// Asks every case whose law contains `filter`, and answers each verdict.
pub async fn ask(server: &Server, cases: Vec<Case>, filter: &str) -> Vec<Verdict> {
    let chosen = cases.into_iter().filter(|case| case.law.contains(filter));
    let (alone, together): (Vec<Case>, Vec<Case>) = chosen.partition(|case| case.alone);
    let verdict = async |case: Case| Verdict {
        case,
        outcome: one(server, case).await,
    };
    let mut verdicts: Vec<Verdict> = stream::iter(together)
        .map(verdict)
        .buffered(AT_ONCE)
        .collect()
        .await;
    for case in alone {
        verdicts.push(verdict(case).await);
    }
    verdicts
}

async fn one(server: &Server, case: Case) -> Result<()> {
    let place = Place::make(server).await.context("a namespace for the case")?;
    let outcome = tokio::time::timeout(PATIENCE, (case.ask)(&place)).await;
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("no verdict within {PATIENCE:?}")));
    let cleared = place.clear().await.context("clearing up after the case");
    outcome.and(cleared)
}

/// Fails with every law that does not hold.
///
/// # Errors
/// One of them does not hold.
pub fn all_hold(verdicts: &[Verdict]) -> Result<()> {
    let broken: Vec<String> = verdicts
        .iter()
        .filter_map(|verdict| {
            let error = verdict.outcome.as_ref().err()?;
            Some(format!("* {}: {error:#}", verdict.case.law))
        })
        .collect();
    ensure!(!verdicts.is_empty(), "no case was asked");
    ensure!(
        broken.is_empty(),
        "{} of {} laws do not hold:\n{}",
        broken.len(),
        verdicts.len(),
        broken.join("\n")
    );
    Ok(())
}
