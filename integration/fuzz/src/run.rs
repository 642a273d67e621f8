//! Runs of a target: one input with everything that is watched around it, a short run of so many inputs, a long one of
//! so many seconds.
//!
//! An input fails where the target panics, or where it takes more than [`MOST_MEMORY`]. What ends the process (a stack
//! that is used up) or never ends leaves its input in the file of the run; `main` finds it there.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{MEMORY, Target, mutate::Maker, rng::Rng};

/// What one input may make the code take, bytes.
pub const MOST_MEMORY: usize = 64 << 20;
/// Inputs that are kept because their answer was new.
const MOST_KEPT: usize = 4000;
/// Tries to make a failing input smaller.
const SHRINKING: usize = 1500;
/// And how long: well below what counts as a hang.
const SHRINKING_FOR: Duration = Duration::from_secs(20);

/// The folder of what is in the repository.
#[must_use]
pub fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// An input that breaks a law.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The input.
    pub input: Vec<u8>,
    /// What it broke.
    pub what: String,
}

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Panics are kept, not printed, until the process ends.
pub fn quiet() {
    panic::set_hook(Box::new(|panic| {
        let said = panic
            .payload()
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.payload().downcast_ref::<&str>().copied())
            .unwrap_or("a panic without words");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if let Ok(mut last) = LAST_PANIC.lock() {
            *last = format!("{place}: {said}");
        }
    }));
}

/// Gives a target one input.
///
/// # Errors
/// What was broken.
pub fn attempt(target: &Target, input: &[u8]) -> Result<u64, String> {
    let (before, highest) = (MEMORY.allocated(), MEMORY.max_allocated());
    let answer = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let peak = MEMORY.max_allocated();
    match answer {
        Ok(_) if peak > highest && peak > before + MOST_MEMORY => Err(format!(
            "{} MiB were taken for an input of {} bytes",
            (peak - before) >> 20,
            input.len()
        )),
        Ok(answer) => Ok(answer),
        Err(_) => Err(LAST_PANIC.lock().map(|last| last.clone()).unwrap_or_default()),
    }
}

/// Inputs from a folder of the repository, by name.
#[must_use]
pub fn folder(kind: &str, target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(home().join(kind).join(target.name))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let bytes = fs::read(&path).ok()?;
            Some((path, bytes))
        })
        .collect();
    found.sort();
    found
}

/// A run of one target.
pub struct Run<'a> {
    target: &'a Target,
    rng: Rng,
    corpus: Vec<Vec<u8>>,
    answers: HashSet<u64>,
    now: Option<File>,
    /// Inputs so far.
    pub inputs: u64,
}

impl<'a> Run<'a> {
    /// Begins: everything that is known is tried first, and `told` how many. The input under way is kept in the file
    /// `now`.
    ///
    /// # Errors
    /// A known input that fails.
    pub fn begin(
        target: &'a Target,
        seed: u64,
        now: Option<&Path>,
        told: impl Fn(usize),
    ) -> Result<Self, Failure> {
        let mut run = Self {
            target,
            rng: Rng::new(seed),
            corpus: Vec::new(),
            answers: HashSet::new(),
            now: now.and_then(|path| File::create(path).ok()),
            inputs: 0,
        };
        let files = ["regressions", "corpus"]
            .into_iter()
            .flat_map(|kind| folder(kind, target));
        let known: Vec<Vec<u8>> = (target.seeds)()
            .into_iter()
            .chain(files.map(|(_, bytes)| bytes))
            .collect();
        for input in known {
            run.give(&input)?;
            run.corpus.push(input);
            told(run.corpus.len());
        }
        Ok(run)
    }

    fn give(&mut self, input: &[u8]) -> Result<bool, Failure> {
        if let Some(now) = &self.now {
            let kept = now
                .set_len(input.len() as u64)
                .and_then(|()| now.write_all_at(input, 0));
            drop(kept);
        }
        self.inputs += 1;
        let answer = attempt(self.target, input).map_err(|what| Failure {
            input: input.to_vec(),
            what,
        })?;
        Ok(self.answers.insert(answer))
    }

    /// One more input.
    ///
    /// # Errors
    /// Where it fails.
    pub fn step(&mut self) -> Result<(), Failure> {
        let input = Maker {
            corpus: &self.corpus,
            words: self.target.words,
            format: self.target.format,
        }
        .make(&mut self.rng);
        if self.give(&input)? && self.corpus.len() < MOST_KEPT {
            self.corpus.push(input);
        }
        Ok(())
    }

    /// Inputs that are known, and answers that were seen.
    #[must_use]
    pub fn known(&self) -> (usize, usize) {
        (self.corpus.len(), self.answers.len())
    }
}

/// The smallest input found that fails in the same place.
#[must_use]
pub fn shrink(target: &Target, failure: &Failure) -> Failure {
    let place = |what: &str| what.split(": ").next().unwrap_or_default().to_owned();
    let wanted = place(&failure.what);
    let mut best = failure.clone();
    let mut tries = 0;
    let mut width = best.input.len().div_ceil(2).max(1);
    let since = Instant::now();
    loop {
        let mut at = 0;
        while at < best.input.len() && tries < SHRINKING && since.elapsed() < SHRINKING_FOR {
            tries += 1;
            let end = (at + width).min(best.input.len());
            let mut shorter = best.input.clone();
            shorter.drain(at..end);
            match attempt(target, &shorter) {
                Err(what) if place(&what) == wanted => {
                    best = Failure { input: shorter, what };
                }
                _ => at = end,
            }
        }
        if width == 1 || tries >= SHRINKING {
            return best;
        }
        width = width.div_ceil(2);
    }
}

/// Keeps a failing input; answers its file.
#[must_use]
pub fn keep(folder: &Path, target: &Target, failure: &Failure) -> PathBuf {
    let name = format!("crash-{}-{:016x}", target.name, crate::outcome(&failure.input));
    let path = folder.join(name);
    let kept = fs::create_dir_all(folder).and_then(|()| File::create(&path)?.write_all(&failure.input));
    drop(kept);
    path
}

/// A run of `target.short` inputs, as the tests make it. `FUZZ_SEED` decides the dice, `FUZZ_TIMES` makes it longer.
///
/// # Panics
/// Where an input fails: with the seed, and the file that holds the smallest input found.
pub fn short(target: &Target) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("FUZZ_SEED").unwrap_or(1);
    let count = u64::from(target.short) * number("FUZZ_TIMES").unwrap_or(1);
    let work = std::env::temp_dir().join(format!("smart-storage-fuzz-{}", std::process::id()));
    let made = fs::create_dir_all(&work);
    assert!(made.is_ok(), "{}: {made:?}", work.display());
    let now = work.join(format!("{}.now", target.name));
    quiet();
    // The first one pays for what is made once.
    drop(attempt(target, &[]));
    let failed = Run::begin(target, seed, Some(&now), |_| ())
        .and_then(|mut run| (0..count).try_for_each(|_| run.step()))
        .err();
    drop(panic::take_hook());
    drop(fs::remove_file(&now));
    drop(fs::remove_dir(&work));
    if let Some(failure) = failed {
        quiet();
        let small = shrink(target, &failure);
        drop(panic::take_hook());
        let path = keep(&std::env::temp_dir().join("smart-storage-fuzz"), target, &small);
        panic!(
            "target {}, FUZZ_SEED={seed}: {}\ninput ({} bytes) in {}:\n{}",
            target.name,
            small.what,
            small.input.len(),
            path.display(),
            String::from_utf8_lossy(small.input.get(..small.input.len().min(400)).unwrap_or_default())
                .escape_debug()
        );
    }
}
