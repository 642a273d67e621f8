//! A peer that is not on loopback: a controller in one network namespace, its client in another, a pair of virtual
//! Ethernet devices between them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use smart_storage_integration::{drives::run, eventually};

const SERVER: &str = "10.231.77.1";
const CLIENT: &str = "10.231.77.2";

/// Two namespaces and a controller in the first. Dropped, nothing of them is left.
struct Elsewhere {
    here: String,
    there: String,
    folder: tempfile::TempDir,
    controller: Option<Child>,
}

impl Elsewhere {
    fn new() -> Result<Self> {
        let pid = std::process::id();
        let (here, there) = (format!("ssit-{pid}-a"), format!("ssit-{pid}-b"));
        let mut this = Self {
            here,
            there,
            folder: tempfile::tempdir()?,
            controller: None,
        };
        let (a, b) = (this.here.clone(), this.there.clone());
        ip(&["netns", "add", &a])?;
        ip(&["netns", "add", &b])?;
        ip(&[
            "-n", &a, "link", "add", "up0", "type", "veth", "peer", "name", "up1", "netns", &b,
        ])?;
        for (space, device, address) in [(&a, "up0", SERVER), (&b, "up1", CLIENT)] {
            ip(&[
                "-n",
                space,
                "address",
                "add",
                &format!("{address}/30"),
                "dev",
                device,
            ])?;
            ip(&["-n", space, "link", "set", device, "up"])?;
            ip(&["-n", space, "link", "set", "lo", "up"])?;
        }
        let binary = std::env::var_os("SMART_STORAGE_BIN").context("SMART_STORAGE_BIN names no folder")?;
        let log = fs::File::create(this.folder.path().join("log"))?;
        let controller = Command::new("ip")
            .args(["netns", "exec", &a])
            .arg(PathBuf::from(binary).join("smart-storage-controller"))
            .args(["--standalone", "--kube-api-addr", "0.0.0.0:8094", "--data-dir"])
            .arg(this.data())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        this.controller = Some(controller);
        Ok(this)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// curl in one of the namespaces; answers the status and what came back.
    fn curl(&self, space: &str, arguments: &[&str]) -> Result<String> {
        run(Command::new("ip")
            .args([
                "netns",
                "exec",
                space,
                "curl",
                "-s",
                "-m",
                "10",
                "-w",
                " %{http_code}",
            ])
            .args(arguments))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Some(controller) = &mut self.controller {
            let _ = controller.kill();
            let _ = controller.wait();
        }
        for space in [&self.here, &self.there] {
            let _ = Command::new("ip").args(["netns", "del", space]).output();
        }
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    run(Command::new("ip").args(arguments))
}

fn read(path: &Path) -> Result<String> {
    Ok(fs::read_to_string(path)
        .with_context(|| path.display().to_string())?
        .trim()
        .to_owned())
}

/// Plain HTTP is for loopback: from anywhere else the right token is worth nothing in clear text, and TLS works.
pub async fn plain_http_is_refused() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let (here, there) = (elsewhere.here.as_str(), elsewhere.there.as_str());
    eventually(
        Duration::from_secs(30),
        "a controller in a network namespace",
        || async {
            Ok(elsewhere
                .curl(here, &["http://127.0.0.1:8081/readyz"])?
                .ends_with(" 200")
                .then_some(()))
        },
    )
    .await?;
    let bearer = format!(
        "Authorization: Bearer {}",
        read(&elsewhere.data().join("admin.token"))?
    );
    let ca = elsewhere.data().join("pki/ca.crt").display().to_string();
    let nodes = |scheme: &str, host: &str, port: &str| format!("{scheme}://{host}:{port}/v1/nodes");

    let answer = elsewhere.curl(here, &["-H", &bearer, &nodes("http", "127.0.0.1", "8090")])?;
    ensure!(answer.ends_with(" 200"), "on loopback: {answer}");
    // The server's own address is not loopback either.
    for (space, from) in [(there, "another machine"), (here, "its own address")] {
        for port in ["8090", "8091"] {
            let url = nodes("http", SERVER, port);
            for more in [
                &["-H", &bearer][..],
                &[
                    "-H",
                    &bearer,
                    "-H",
                    "X-Forwarded-For: 127.0.0.1",
                    "-H",
                    "Forwarded: for=127.0.0.1",
                ],
                &["-H", &bearer, "-H", "Host: localhost:8090"],
                &["-H", &bearer, "--http2-prior-knowledge"],
                &[
                    "-H",
                    &bearer,
                    "--request-target",
                    "http://127.0.0.1:8090/v1/nodes",
                ],
                &[],
            ] {
                let answer = elsewhere.curl(space, &[more, &[&url]].concat())?;
                ensure!(
                    answer.ends_with(" 426") && answer.contains("TLS required"),
                    "{from}, port {port}, {more:?}: {answer}"
                );
            }
        }
        let url = nodes("https", "localhost", "8090");
        let to = format!("localhost:8090:{SERVER}:8090");
        let to = format!("localhost:8090:{}", to.trim_start_matches("localhost:8090:"));
        let answer = elsewhere.curl(
            space,
            &["--cacert", &ca, "--connect-to", &to, "-H", &bearer, &url],
        )?;
        ensure!(answer.ends_with(" 200"), "{from}, with TLS: {answer}");
        for (port, path) in [("8092", "/"), ("8093", "/"), ("8094", "/healthz")] {
            let answer = elsewhere.curl(space, &["-H", &bearer, &format!("http://{SERVER}:{port}{path}")])?;
            ensure!(answer.ends_with(" 426"), "{from}, port {port}: {answer}");
        }
    }
    let log = read(&elsewhere.folder.path().join("log"))?;
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}
