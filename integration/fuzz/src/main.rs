//! Long runs: `fuzz --seconds 3600 --target all --jobs 2`. Each target runs in a process of its own, so that a stack
//! overflow, an abort or a hang is a finding like any other; failing inputs are files in `--out`.
//!
//! `fuzz --target NAME FILE...` tries single inputs.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;
use smart_storage_fuzz::{
    Target, run,
    run::{Failure, Run},
    targets,
};

/// An input that takes longer hangs.
const HANG: Duration = Duration::from_secs(60);
/// Different failures of one target before it is left alone.
const ENOUGH: usize = 20;

/// Fuzzes the parsers and doors of the operator
#[derive(Parser)]
struct Flags {
    /// Seconds for each target
    #[arg(long, default_value = "60")]
    seconds: u64,
    /// A target's name, several with commas, or "all"
    #[arg(long, default_value = "all")]
    target: String,
    /// The dice
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Targets at a time
    #[arg(long, default_value = "1")]
    jobs: usize,
    /// Folder for failing inputs
    #[arg(long, default_value = "target/fuzz")]
    out: PathBuf,
    /// One target in this process (what the program starts itself as)
    #[arg(long, hide = true)]
    child: bool,
    /// Inputs to try instead of making some
    files: Vec<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    let all = targets::all();
    let wanted: Vec<&str> = flags.target.split(',').collect();
    let chosen: Vec<Target> = all
        .iter()
        .filter(|target| wanted.contains(&"all") || wanted.contains(&target.name))
        .copied()
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = all.iter().map(|target| target.name).collect();
        anyhow::bail!("there is no target {}; there are: {}", flags.target, names.join(", "));
    }
    fs::create_dir_all(&flags.out).with_context(|| flags.out.display().to_string())?;
    if !flags.files.is_empty() {
        return Ok(replay(&chosen, &flags.files));
    }
    match chosen.first() {
        Some(target) if flags.child => Ok(child(target, &flags)),
        _ => parent(&chosen, &flags),
    }
}

fn replay(targets: &[Target], files: &[PathBuf]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    run::quiet();
    for target in targets {
        drop(run::attempt(target, &[]));
        for file in files {
            let result = fs::read(file)
                .map_err(|error| error.to_string())
                .and_then(|input| run::attempt(target, &input));
            match result {
                Ok(_) => println!("{} {}: holds", target.name, file.display()),
                Err(what) => {
                    println!("{} {}: FAILS: {what}", target.name, file.display());
                    code = ExitCode::FAILURE;
                }
            }
        }
    }
    code
}

fn now_file(out: &Path, target: &str, seed: u64) -> PathBuf {
    out.join(format!("{target}.{seed}.now"))
}

/// One target until the time is up; a line on the screen now and then.
fn child(target: &Target, flags: &Flags) -> ExitCode {
    run::quiet();
    let until = Instant::now() + Duration::from_secs(flags.seconds);
    drop(run::attempt(target, &[]));
    let now = now_file(&flags.out, target.name, flags.seed);
    let mut places = BTreeSet::new();
    let mut run = match Run::begin(target, flags.seed, Some(&now)) {
        Ok(run) => run,
        Err(failure) => {
            tell(target, &failure, &flags.out, &mut places);
            return ExitCode::FAILURE;
        }
    };
    let mut told = Instant::now();
    while Instant::now() < until && places.len() < ENOUGH {
        if let Err(failure) = run.step() {
            tell(target, &failure, &flags.out, &mut places);
        }
        if told.elapsed() > Duration::from_secs(2) {
            told = Instant::now();
            println!("at {} {} {}", run.inputs, run.known().0, run.known().1);
        }
    }
    println!("at {} {} {}", run.inputs, run.known().0, run.known().1);
    drop(fs::remove_file(now));
    ExitCode::from(u8::from(!places.is_empty()))
}

fn tell(target: &Target, failure: &Failure, out: &Path, places: &mut BTreeSet<String>) {
    let place: String = failure.what.chars().take(60).filter(|c| !c.is_ascii_digit()).collect();
    if places.insert(place) {
        let small = run::shrink(target, failure);
        let path = run::keep(out, target, &small);
        println!("FAILS {} {}", path.display(), small.what.replace('\n', " "));
    }
}

/// What came of one target.
#[derive(Default)]
struct Sum {
    inputs: u64,
    corpus: u64,
    answers: u64,
    cpu: f64,
    failures: Vec<String>,
}

fn parent(targets: &[Target], flags: &Flags) -> anyhow::Result<ExitCode> {
    let (queue, waiting) = mpsc::channel();
    for target in targets {
        queue.send(*target)?;
    }
    drop(queue);
    let waiting = std::sync::Mutex::new(waiting);
    let sums = std::sync::Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..flags.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let Ok(Ok(target)) = waiting.lock().map(|queue| queue.recv()) else {
                        return;
                    };
                    let sum = watch(&target, flags);
                    if let Ok(mut sums) = sums.lock() {
                        sums.insert(target.name, sum);
                    }
                }
            });
        }
    });
    let sums = sums.into_inner()?;
    println!("\n{:<16} {:>12} {:>9} {:>8} {:>8} {:>9}", "TARGET", "INPUTS", "CPU s", "CORPUS", "ANSWERS", "FAILURES");
    let mut failures = 0;
    for (name, sum) in &sums {
        failures += sum.failures.len();
        println!(
            "{name:<16} {:>12} {:>9.0} {:>8} {:>8} {:>9}",
            sum.inputs,
            sum.cpu,
            sum.corpus,
            sum.answers,
            sum.failures.len()
        );
    }
    for line in sums.values().flat_map(|sum| &sum.failures) {
        println!("{line}");
    }
    Ok(ExitCode::from(u8::from(failures > 0)))
}

/// Runs a target in a process of its own, again with other dice where that dies.
fn watch(target: &Target, flags: &Flags) -> Sum {
    let mut sum = Sum::default();
    let until = Instant::now() + Duration::from_secs(flags.seconds);
    let mut seed = flags.seed;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| left.as_secs() > 0) {
        if sum.failures.len() >= ENOUGH {
            break;
        }
        let Ok(mut child) = start(target, flags, seed, left) else {
            sum.failures.push(format!("{}: cannot be started", target.name));
            break;
        };
        let before = sum.inputs;
        let hung = listen(target, &mut child, &mut sum, before);
        if hung {
            drop(child.kill());
        }
        let status = child.wait();
        let ended = status.as_ref().ok().and_then(|status| status.code());
        if hung || ended.is_none() {
            let what = if hung { "it hangs".to_owned() } else { format!("the process died: {status:?}") };
            let now = now_file(&flags.out, target.name, seed);
            let input = fs::read(&now).unwrap_or_default();
            let path = run::keep(&flags.out, target, &Failure { input, what: what.clone() });
            sum.failures.push(format!("FAILS {} {what}", path.display()));
            drop(fs::remove_file(now));
        } else {
            break;
        }
        seed = seed.wrapping_add(1_000_003);
    }
    sum
}

fn start(target: &Target, flags: &Flags, seed: u64, left: Duration) -> anyhow::Result<Child> {
    Ok(Command::new(std::env::current_exe()?)
        .args(["--child", "--target", target.name])
        .args(["--seconds", &left.as_secs().to_string()])
        .args(["--seed", &seed.to_string()])
        .arg("--out")
        .arg(&flags.out)
        .stdout(Stdio::piped())
        .spawn()?)
}

/// Reads what the child tells until it ends; true where it hangs.
fn listen(target: &Target, child: &mut Child, sum: &mut Sum, before: u64) -> bool {
    let pid = child.id();
    let Some(stdout) = child.stdout.take() else { return false };
    let (lines, told) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let (begun, cpu_before) = (Instant::now(), sum.cpu);
    let mut shown = Instant::now();
    loop {
        let line = match told.recv_timeout(HANG) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) => return false,
            Err(mpsc::RecvTimeoutError::Timeout) => return true,
        };
        sum.cpu = cpu_before + cpu_seconds(pid).unwrap_or(sum.cpu - cpu_before);
        if line.starts_with("FAILS") {
            println!("{line}");
            sum.failures.push(line);
            continue;
        }
        let mut numbers = line.split(' ').skip(1).map(|text| text.parse::<u64>().unwrap_or(0));
        sum.inputs = before + numbers.next().unwrap_or(0);
        sum.corpus = numbers.next().unwrap_or(0);
        sum.answers = numbers.next().unwrap_or(0);
        if shown.elapsed() > Duration::from_secs(10) {
            shown = Instant::now();
            let speed = (sum.inputs - before) as f64 / begun.elapsed().as_secs_f64().max(1.0);
            println!(
                "{:<16} {:>6.0} s  {:>10} inputs  {speed:>8.0}/s  corpus {:>5}  answers {:>5}  failures {}",
                target.name,
                begun.elapsed().as_secs_f64(),
                sum.inputs,
                sum.corpus,
                sum.answers,
                sum.failures.len()
            );
        }
    }
}

/// What a process has had of the processors.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}
