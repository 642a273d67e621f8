//! A program of an instance in the hands of a test: killed and started again at once with the very command line that
//! `up` gave it, and, in builds with fault points, armed to die at one of them.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    cluster::{Cluster, kill9},
    drives::run,
};

/// The environment variable that the programs' fault points obey.
pub const FAULT: &str = "SMART_STORAGE_FAULT";

/// The signal of a program that comes to an armed point.
const ABORTED: i32 = 6;

/// A program that is killed and started by a test.
#[derive(Debug)]
pub struct Component {
    name: String,
    line: Vec<String>,
    pid_file: Option<PathBuf>,
    log: PathBuf,
    fault: PathBuf,
    ready: String,
    http: reqwest::Client,
    child: Option<Child>,
}

impl Component {
    /// Takes over `controller` or `agent` of a running instance: kills it and starts it again as a child of this
    /// process that can be armed.
    ///
    /// # Errors
    /// It does not run, or does not come back.
    pub async fn take_over(cluster: &Cluster, name: &str) -> Result<Self> {
        let pid = cluster.pid(name)?;
        let bytes = fs::read(format!("/proc/{pid}/cmdline"))?;
        let text = String::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(&bytes).to_vec())?;
        let line: Vec<String> = text.split('\0').map(str::to_owned).collect();
        let mut component = Self::new(
            name,
            line,
            cluster.state().join("log").join(format!("{name}.log")),
        )?;
        component.pid_file = Some(cluster.state().join("run").join(format!("{name}.pid")));
        kill9(pid).await?;
        component.start()?;
        component.ready(Duration::from_secs(60)).await?;
        Ok(component)
    }

    /// A program that is not started yet; `line` is its whole command line, with a `--health-addr`.
    ///
    /// # Errors
    /// There is no `--health-addr` in it.
    pub fn new(name: &str, line: Vec<String>, log: PathBuf) -> Result<Self> {
        let after = |flag: &str| {
            let at = line.iter().position(|word| word == flag)?;
            line.get(at + 1)
        };
        let health = after("--health-addr").with_context(|| format!("{name} without --health-addr"))?;
        let ready = format!("http://{health}/readyz");
        Ok(Self {
            name: name.to_owned(),
            fault: log.with_extension("fault"),
            line,
            pid_file: None,
            log,
            ready,
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(2))
                .build()?,
            child: None,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it; it is not waited for.
    ///
    /// # Errors
    /// It cannot be started, or runs already.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let (program, arguments) = self.line.split_first().context("no command line")?;
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        writeln!(log, "\n--- started by the test bed")?;
        let child = Command::new(program)
            .args(arguments)
            .env(FAULT, format!("@{}", self.fault.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| self.name.clone())?;
        if let Some(file) = &self.pid_file {
            fs::write(file, format!("{}\n", child.id()))?;
        }
        self.child = Some(child);
        Ok(())
    }

    /// Whether it says that it is ready.
    pub async fn is_ready(&self) -> bool {
        let answer = self.http.get(&self.ready).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// It ended, or is not ready in time.
    pub async fn ready(&mut self, deadline: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let answer = self.http.get(&self.ready).send().await;
            if answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                bail!(
                    "{} ended with {status} at its start; {}",
                    self.name,
                    self.last_words()
                );
            }
            if start.elapsed() > deadline {
                let said = match answer {
                    Ok(answer) => answer.text().await.unwrap_or_default(),
                    Err(error) => error.to_string(),
                };
                bail!(
                    "{} is not ready after {deadline:?}: {said}; {}",
                    self.name,
                    self.last_words()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// It was never started.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let child = self
            .child
            .as_mut()
            .with_context(|| format!("{} was not started", self.name))?;
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// `kill -9`, now.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self
            .child
            .take()
            .with_context(|| format!("{} does not run", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The next time (or the `pass`-th time from now) it comes to this point, it dies there, once.
    ///
    /// # Errors
    /// The file for it cannot be written.
    pub fn arm(&self, point: &str, pass: u32) -> Result<()> {
        // Whole or not there: the program reads it at any moment.
        let next = self.fault.with_extension("fault-next");
        File::create(&next)?.write_all(format!("{point}:{pass}").as_bytes())?;
        Ok(fs::rename(next, &self.fault)?)
    }

    /// No longer armed.
    pub fn disarm(&self) {
        let _ = fs::remove_file(&self.fault);
    }

    /// Whether it died at the armed point.
    ///
    /// # Errors
    /// It ended in another way.
    pub fn has_died(&mut self) -> Result<bool> {
        let Some(status) = self.ended()? else {
            return Ok(false);
        };
        ensure!(
            status.signal() == Some(ABORTED) && !self.fault.exists(),
            "{} ended by itself with {status}; {}",
            self.name,
            self.last_words()
        );
        Ok(true)
    }

    /// As [`Component::has_died`]; then it is started again, and ready.
    ///
    /// # Errors
    /// It ended in another way, or does not come back.
    pub async fn revive(&mut self) -> Result<bool> {
        let died = self.has_died()?;
        if died {
            self.start()?;
            self.ready(Duration::from_secs(60)).await?;
        }
        Ok(died)
    }

    /// Every fault point that the program has, with what passes it.
    ///
    /// # Errors
    /// It was built without them.
    pub fn points(&self) -> Result<BTreeMap<String, String>> {
        let program = self.line.first().context("no command line")?;
        let said = run(Command::new(program).env(FAULT, "list"))?;
        let points: BTreeMap<_, _> = said
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(point, during)| (point.to_owned(), during.to_owned()))
            .collect();
        ensure!(!points.is_empty(), "{program} was built without fault points");
        Ok(points)
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.len().saturating_sub(8);
        lines.get(last..).unwrap_or_default().join("\n")
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        // One of an instance is `down`'s; any other is ours.
        if self.pid_file.is_none()
            && let Some(mut child) = self.child.take()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
