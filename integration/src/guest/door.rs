//! The two doors of a guest: QMP to its hardware, qemu-guest-agent to its inside. Both speak JSON, line by line, over
//! a socket of one client.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a script in the guest may take.
const SCRIPT: Duration = Duration::from_secs(300);
const SHORTEST: Duration = Duration::from_millis(4);
const LONGEST: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Line(BufReader<UnixStream>);

impl Line {
    fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn send(&mut self, value: &Value) -> Result<()> {
        let mut bytes = serde_json::to_vec(value)?;
        bytes.push(b'\n');
        Ok(self.0.get_mut().write_all(&bytes)?)
    }

    fn receive(&mut self) -> Result<Value> {
        let mut bytes = Vec::new();
        ensure!(self.0.read_until(b'\n', &mut bytes)? > 0, "the guest hung up");
        let start = bytes.iter().position(|byte| *byte != 0xff).unwrap_or(0);
        Ok(serde_json::from_slice(bytes.get(start..).unwrap_or_default())?)
    }
}

/// The door to a guest's hardware.
#[derive(Debug)]
pub struct Qmp {
    line: Line,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Waits for the socket as long as QEMU lives.
    ///
    /// # Errors
    /// QEMU ended.
    pub fn connect(socket: &Path, mut lives: impl FnMut() -> Result<bool>) -> Result<Self> {
        let line = loop {
            match Line::connect(socket) {
                Ok(line) => break line,
                Err(_) if lives()? => sleep(SHORTEST),
                Err(error) => return Err(error).context("QEMU ended before it could be asked"),
            }
        };
        let events = VecDeque::new();
        let mut qmp = Self { line, events };
        qmp.line.receive()?;
        qmp.call("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// One command and its answer.
    ///
    /// # Errors
    /// QEMU refuses it.
    pub fn call(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut request = json!({"execute": command});
        if !arguments.is_null()
            && let Some(request) = request.as_object_mut()
        {
            request.insert("arguments".to_owned(), arguments.clone());
        }
        self.line.send(&request)?;
        loop {
            let mut answer = self.line.receive()?;
            if let Some(error) = answer.get("error") {
                bail!("{command} {arguments}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            self.events.push_back(answer);
        }
    }

    /// Waits for an event that was not waited for yet.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn event(&mut self, name: &str, deadline: Duration, is_it: impl Fn(&Value) -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            let wanted = |event: &Value| {
                event.get("event").and_then(Value::as_str) == Some(name)
                    && event.get("data").is_some_and(&is_it)
            };
            if let Some(at) = self.events.iter().position(wanted) {
                self.events.remove(at);
                return Ok(());
            }
            ensure!(start.elapsed() < deadline, "no {name} after {deadline:?}");
            // An answer to nothing: events come before it.
            self.call("query-name", &Value::Null)?;
            sleep(SHORTEST);
        }
    }
}

/// The door to a guest's inside.
#[derive(Debug)]
pub struct Door(Line);

impl Door {
    /// Connects, and throws away what the last client left.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn connect(socket: &Path) -> Result<Self> {
        let mut line = Line::connect(socket).context("the guest's door")?;
        let id = std::process::id();
        line.0.get_mut().write_all(&[0xff])?;
        line.send(&json!({"execute": "guest-sync-delimited", "arguments": {"id": id}}))?;
        loop {
            if let Ok(answer) = line.receive()
                && answer.get("return").and_then(Value::as_u64) == Some(u64::from(id))
            {
                return Ok(Self(line));
            }
        }
    }

    fn call(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.0
            .send(&json!({"execute": command, "arguments": arguments}))?;
        let mut answer = self.0.receive()?;
        let value = answer.get_mut("return").map(Value::take);
        value.with_context(|| format!("{command}: {answer}"))
    }

    /// Runs a shell script: exit status, standard output, standard error.
    ///
    /// # Errors
    /// The guest does not answer, or the script does not end.
    pub fn sh(&mut self, script: &str) -> Result<(i64, String, String)> {
        let request = json!({"path": "/bin/sh", "arg": ["-c", script], "capture-output": true});
        let started = self.call("guest-exec", &request)?;
        let pid = json!({"pid": started.get("pid")});
        let (start, mut pause) = (Instant::now(), SHORTEST);
        loop {
            let state = self.call("guest-exec-status", &pid)?;
            if state.get("exited").and_then(Value::as_bool) == Some(true) {
                let text = |name| -> Result<String> {
                    let coded = state.get(name).and_then(Value::as_str).unwrap_or_default();
                    Ok(String::from_utf8_lossy(&STANDARD.decode(coded)?).into_owned())
                };
                let number = |name| state.get(name).and_then(Value::as_i64);
                let status = number("exitcode").or_else(|| Some(128 + number("signal")?));
                return Ok((status.unwrap_or(-1), text("out-data")?, text("err-data")?));
            }
            ensure!(start.elapsed() < SCRIPT, "it has not ended after {SCRIPT:?}");
            sleep(pause);
            pause = (pause * 2).min(LONGEST);
        }
    }
}
