//! A controller alone, without agent and storage system, on a data directory of the test's choice; and a small file
//! system for one, of memory, that can be filled up.

use std::{
    fs::{self, File},
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use reqwest::Client;

use crate::{clients::Rest, drives::run, eventually::eventually};

/// The listeners of a controller.
const DOORS: [&str; 7] = ["api", "grpc", "agent", "enrol", "kube-api", "health", "metrics"];

/// A controller process. Dropped, it is killed.
#[derive(Debug)]
pub struct Solo {
    data: PathBuf,
    program: PathBuf,
    log: PathBuf,
    ports: Vec<u16>,
    http: Client,
    child: Option<Child>,
}

impl Solo {
    /// Starts one on `data` and waits until it is ready; its log goes to `log`.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start(data: &Path, log: &Path) -> Result<Self> {
        // The first to come sets it; whoever comes later finds the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = std::env::var_os("SMART_STORAGE_BIN").context("SMART_STORAGE_BIN is not set")?;
        let listeners: Vec<TcpListener> = DOORS
            .iter()
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()?;
        let ports = listeners.iter().map(|l| Ok(l.local_addr()?.port()));
        let ports = ports.collect::<Result<_>>()?;
        drop(listeners);
        let mut solo = Self {
            data: data.to_owned(),
            program: Path::new(&folder).join("smart-storage-controller"),
            log: log.to_owned(),
            ports,
            http: Client::builder().timeout(Duration::from_secs(20)).build()?,
            child: None,
        };
        solo.again()?;
        solo.ready().await?;
        Ok(solo)
    }

    /// Starts it again after [`Solo::kill9`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn again(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.arg("--standalone").arg("--data-dir").arg(&self.data);
        for (door, port) in DOORS.iter().zip(&self.ports) {
            command.args([format!("--{door}-addr"), format!("127.0.0.1:{port}")]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("{command:?}"))?);
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// It does not within a minute.
    pub async fn ready(&self) -> Result<()> {
        eventually(Duration::from_secs(60), "the controller is ready", || async {
            let (code, text) = self.readiness().await?;
            ensure!(code == 200, "{code}: {text}");
            Ok(Some(()))
        })
        .await
    }

    /// What `/readyz` answers.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn readiness(&self) -> Result<(u16, String)> {
        let answer = self.http.get(self.url("health", "/readyz")?).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The value of a metric without labels.
    ///
    /// # Errors
    /// There is none.
    pub async fn metric(&self, name: &str) -> Result<String> {
        let answer = self.http.get(self.url("metrics", "/metrics")?).send().await?;
        let text = answer.text().await?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {name} in {text}"))?.to_owned())
    }

    fn url(&self, door: &str, path: &str) -> Result<String> {
        let index = DOORS.iter().position(|name| *name == door).context("a door")?;
        let port = self.ports.get(index).context("a port")?;
        Ok(format!("http://127.0.0.1:{port}{path}"))
    }

    fn token(&self) -> Result<String> {
        Ok(fs::read_to_string(self.data.join("admin.token"))?
            .trim()
            .to_owned())
    }

    /// REST with the admin's token.
    ///
    /// # Errors
    /// There is no token.
    pub fn rest(&self) -> Result<Rest> {
        Ok(Rest::new(
            self.http.clone(),
            &self.url("api", "")?,
            &self.token()?,
        ))
    }

    /// A Kubernetes client over TLS.
    ///
    /// # Errors
    /// There is no CA or token.
    pub async fn kube(&self) -> Result<kube::Client> {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: '{}', certificate-authority: '{}'}}}}]\n\
             users: [{{name: u, user: {{token: '{}'}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            self.url("kube-api", "")?.replace("http:", "https:"),
            self.data.join("pki/ca.crt").display(),
            self.token()?,
        );
        let file = kube::config::Kubeconfig::from_yaml(&text)?;
        let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill9();
        }
    }
}

/// A file system of memory with a bound. Dropped, it is unmounted.
#[derive(Debug)]
pub struct SmallDisk {
    mount: tempfile::TempDir,
}

impl SmallDisk {
    /// Makes and mounts one; needs root.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn of(mebibytes: u64) -> Result<Self> {
        let mount = tempfile::Builder::new()
            .prefix("smart-storage-small.")
            .tempdir()?;
        run(Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mebibytes}m,mode=700"),
                "tmpfs",
            ])
            .arg(mount.path()))?;
        Ok(Self { mount })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Takes all the room that is left, to the last byte.
    ///
    /// # Errors
    /// Writing fails for another reason than the missing room.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::options().create(true).append(true).open(self.filler())?;
        let block = vec![b'x'; 4096];
        loop {
            match filler.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("filling the small disk"),
            }
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// It was not taken.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.mount.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(self.mount.path())) {
            // Lazily, so that nothing is left behind after a failed test either.
            println!("  LEFT BEHIND for now: {error:#}");
            let _ = Command::new("umount").arg("-l").arg(self.mount.path()).status();
        }
    }
}
