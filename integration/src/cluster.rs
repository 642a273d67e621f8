//! One instance: `deploy/standalone/up` with a state folder and ports of its own, and `down --purge` at the end.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::StatusCode;
use serde_json::Value;
use smart_storage_proto::v1::storage_service_client::StorageServiceClient;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{
    clients::{Filer, Rest, S3},
    drives::{LoopDrive, run},
    eventually::eventually,
    tokens::Keys,
};

/// How many ports after the first an instance takes.
const PORTS: u16 = 17;
/// How long a new key may take from the filer to the S3 gateway.
const KEYS_KNOWN: Duration = Duration::from_secs(15);
/// The node's name in every instance of the test bed.
pub const NODE: &str = "bed-node";

/// What an instance starts with.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Three loop drives of 2 GiB.
    pub demo_drives: bool,
    /// The pool, class and claim of `deploy/examples`; with drives, the claim is Ready when the start is over.
    pub examples: bool,
}

impl Setup {
    /// As users get it.
    pub const DEMO: Self = Self {
        demo_drives: true,
        examples: true,
    };
    /// Processes only.
    pub const BARE: Self = Self {
        demo_drives: false,
        examples: false,
    };
}

/// The gRPC client with the instance's token.
pub type Grpc = StorageServiceClient<InterceptedService<Channel, Bearer>>;

/// Puts the token into every call.
#[derive(Debug, Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A running instance. Dropped, it leaves no process, mount, loop device, immutable folder or file behind; its logs
/// are kept in `smart-storage-it-logs/<suite>` in the folder for temporary files.
#[derive(Debug)]
pub struct Cluster {
    suite: String,
    state: PathBuf,
    port_base: u16,
    setup: Setup,
    variables: BTreeMap<String, String>,
    http: reqwest::Client,
    /// Another view of an instance: it is not taken away with it.
    lent: bool,
}

impl Cluster {
    /// Starts an instance for `suite` and waits until it is ready.
    ///
    /// # Errors
    /// `up` failed; the error carries what it said.
    pub async fn start(suite: &str, setup: Setup) -> Result<Self> {
        // The first to come sets it; whoever comes later finds the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let state = env::temp_dir().join(format!("smart-storage-it.{}.{suite}", std::process::id()));
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(40))
            .build()?;
        let mut cluster = Self {
            suite: suite.to_owned(),
            state,
            port_base: free_ports()?,
            setup,
            variables: BTreeMap::new(),
            http,
            lent: false,
        };
        let start = Instant::now();
        cluster.up().await?;
        println!("  {suite}: up after {:.2?}", start.elapsed());
        Ok(cluster)
    }

    /// The same instance for somebody else, who may not outlive this: dropped, it leaves the instance as it is.
    #[must_use]
    pub fn another_view(&self) -> Self {
        Self {
            suite: self.suite.clone(),
            state: self.state.clone(),
            port_base: self.port_base,
            setup: self.setup,
            variables: self.variables.clone(),
            http: self.http.clone(),
            lent: true,
        }
    }

    /// `up` once more: starts what is not running. Answers what it printed.
    ///
    /// # Errors
    /// It failed; the error carries what it said.
    pub async fn up(&mut self) -> Result<String> {
        let mut command = self.up_command();
        let said = tokio::task::spawn_blocking(move || run(&mut command)).await??;
        self.variables = read_variables(&self.state.join("env"))?;
        Ok(said)
    }

    /// The command line of `up` for this instance.
    #[must_use]
    pub fn up_command(&self) -> Command {
        let mut command = Command::new(script("up"));
        command
            .arg("--state")
            .arg(&self.state)
            .args(["--port-base", &self.port_base.to_string()]);
        command.args(["--node-name", NODE]);
        // What is tested may die where it is told to.
        command.env("SMART_STORAGE_FAULT_POINTS", "allowed");
        if let Some(folder) = env::var_os("SMART_STORAGE_BIN") {
            command.arg("--bin-dir").arg(folder);
        }
        if !self.setup.demo_drives {
            command.arg("--no-demo-drives");
        }
        if !self.setup.examples {
            command.arg("--no-examples");
        }
        command
    }

    /// `down`: the data stays, [`Cluster::up`] brings everything back.
    ///
    /// # Errors
    /// It failed or left something behind; the error carries what it said.
    pub async fn down(&self) -> Result<String> {
        let mut command = Command::new(script("down"));
        command.arg("--state").arg(&self.state);
        tokio::task::spawn_blocking(move || run(&mut command)).await?
    }

    /// The state folder.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A variable of the file `env`.
    ///
    /// # Errors
    /// It is not in there.
    pub fn variable(&self, name: &str) -> Result<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("no {name} in env"))
    }

    /// A client for plain HTTP.
    #[must_use]
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Where the volume server listens that keeps the filer's own log: it is no member.
    #[must_use]
    pub fn meta_endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port_base + 15)
    }

    /// The first and the last port of the instance, on loopback.
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        (self.port_base, self.port_base + PORTS - 1)
    }

    /// REST with the admin's token.
    ///
    /// # Errors
    /// The file `env` lacks a variable.
    pub fn rest(&self) -> Result<Rest> {
        Ok(Rest::new(
            self.http.clone(),
            self.variable("SMART_STORAGE_URL")?,
            self.variable("SMART_STORAGE_TOKEN")?,
        ))
    }

    /// gRPC with the admin's token.
    ///
    /// # Errors
    /// The file `env` lacks a variable, or nobody listens.
    pub async fn grpc(&self) -> Result<Grpc> {
        let token = format!("Bearer {}", self.variable("SMART_STORAGE_TOKEN")?).parse()?;
        let endpoint = Endpoint::from_shared(format!("http://{}", self.variable("SMART_STORAGE_GRPC")?))?;
        Ok(StorageServiceClient::with_interceptor(
            endpoint.connect().await?,
            Bearer(token),
        ))
    }

    /// A Kubernetes client from the kubeconfig.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub async fn kube(&self) -> Result<kube::Client> {
        let file = kube::config::Kubeconfig::read_from(self.variable("KUBECONFIG")?)?;
        let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// One object of our group through the Kubernetes API, by its path below `/apis/storage.billyronks.io/v1`.
    ///
    /// # Errors
    /// The API answers anything but an object.
    pub async fn object(&self, path: &str) -> Result<Value> {
        let path = format!("/apis/storage.billyronks.io/v1/{path}");
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(self.kube().await?.request::<Value>(request).await?)
    }

    /// SeaweedFS's filer.
    ///
    /// # Errors
    /// The file `env` lacks a variable.
    pub fn filer(&self) -> Result<Filer> {
        Ok(Filer::new(
            self.http.clone(),
            self.variable("WEED_FILER_URL")?,
            Keys::of(&self.security()?)?,
        ))
    }

    /// The folder with SeaweedFS's certificates and keys.
    ///
    /// # Errors
    /// The file `env` lacks the variable.
    pub fn security(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(self.variable("WEED_SECURITY")?))
    }

    /// Credentials that are made for a claim now (older ones end).
    ///
    /// # Errors
    /// The API gives none.
    pub async fn credentials(&self, id: &str) -> Result<Value> {
        self.rest()?
            .post(&format!("/v1/storage/{id}/credentials"), &Value::Null)
            .await
    }

    /// The port of an instance that `up` calls `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn port(&self, name: &str) -> Result<u16> {
        let ports = fs::read_to_string(self.state.join("ports"))?;
        let line = ports
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no port {name}"))?.trim().parse()?)
    }

    /// The claim's bucket, with credentials that are made for it now (older ones end).
    ///
    /// # Errors
    /// The API gives none.
    pub async fn s3(&self, id: &str) -> Result<S3> {
        let given = self.credentials(id).await?;
        let claim = self.rest()?.get(&format!("/v1/storage/{id}")).await?;
        let text = |value: &Value, pointer: &str| -> Result<String> {
            let found = value.pointer(pointer).and_then(Value::as_str);
            Ok(found
                .with_context(|| format!("no {pointer} in an answer"))?
                .to_owned())
        };
        let s3 = S3::new(
            self.http.clone(),
            &text(&claim, "/access/s3/endpoint")?,
            &text(&claim, "/access/s3/bucket")?,
            &text(&given, "/access_key")?,
            &text(&given, "/secret_key")?,
        )?;
        // The gateway hears of new keys from the filer, a moment after the filer has them.
        eventually(KEYS_KNOWN, "the S3 gateway knows the new keys", || async {
            let (status, _) = s3.get("no-such-file").await?;
            Ok((status == StatusCode::NOT_FOUND).then_some(()))
        })
        .await?;
        Ok(s3)
    }

    /// kubectl against this instance.
    ///
    /// # Errors
    /// It failed; the error carries what it said.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = Command::new("kubectl");
        run(command
            .env("KUBECONFIG", self.variable("KUBECONFIG")?)
            .args(arguments))
    }

    /// Commands for `weed shell`.
    ///
    /// # Errors
    /// It failed; the error carries what it said.
    pub fn weed_shell(&self, line: &str) -> Result<String> {
        let grpc = |first: u16| {
            format!(
                "127.0.0.1:{}.{}",
                self.port_base + first,
                self.port_base + first + 1
            )
        };
        let script = format!(
            "printf '%s\\nexit\\n' '{line}' | timeout 60 '{}' -config_dir='{}' shell -master={} -filer={}",
            weed(),
            self.security()?.join("core").display(),
            grpc(9),
            grpc(11)
        );
        run(Command::new("bash").args(["-o", "pipefail", "-c", &script]))
    }

    /// Attaches a new loop drive that the agent counts as a drive.
    ///
    /// # Errors
    /// No loop device is free.
    pub fn attach(&self, name: &str, bytes: u64) -> Result<LoopDrive> {
        LoopDrive::attach(&self.state.join("drives"), name, bytes)
    }

    /// The drives of the node as REST shows them.
    ///
    /// # Errors
    /// REST does not answer.
    pub async fn drives(&self) -> Result<Vec<Value>> {
        let node = self.rest()?.get(&format!("/v1/nodes/{NODE}")).await?;
        Ok(node
            .get("drives")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default())
    }

    /// The drive that the kernel calls `device` now, if it is known.
    ///
    /// # Errors
    /// REST does not answer.
    pub async fn drive(&self, device: &str) -> Result<Option<Value>> {
        let drives = self.drives().await?;
        Ok(drives
            .into_iter()
            .find(|drive| drive.get("device").and_then(Value::as_str) == Some(device)))
    }

    /// The pid of a component (`controller`, `agent`, `weed-master`, ...).
    ///
    /// # Errors
    /// It has no pid file.
    pub fn pid(&self, component: &str) -> Result<i32> {
        let file = self.state.join("run").join(format!("{component}.pid"));
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text.trim().parse()?)
    }

    /// The pids of the members' `weed volume` processes.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn member_pids(&self) -> Result<Vec<i32>> {
        let below = format!("{}/", self.state.join("agent").display());
        let mut pids = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<_> = line
                .split(|byte| *byte == 0)
                .map(String::from_utf8_lossy)
                .collect();
            if words.iter().any(|word| word == "volume") && words.iter().any(|word| word.contains(&below)) {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    /// `kill -9` of a component; answers when it is gone.
    ///
    /// # Errors
    /// It does not run, or does not go.
    pub async fn kill9(&self, component: &str) -> Result<()> {
        kill9(self.pid(component)?)
            .await
            .with_context(|| component.to_owned())
    }

    /// Where the members' file systems are mounted.
    ///
    /// # Errors
    /// `/proc/self/mountinfo` cannot be read.
    pub fn member_mounts(&self) -> Result<Vec<PathBuf>> {
        let below = self.state.join("agent");
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let mounts = table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from);
        Ok(mounts.filter(|mount| mount.starts_with(&below)).collect())
    }

    /// The storage files of `volume` under `folder`, by SeaweedFS's naming (`<collection>_<number>.dat`).
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn storage_files(&self, folder: &Path, volume: &str) -> Result<Vec<PathBuf>> {
        let found = run(Command::new("find")
            .arg(folder)
            .args(["-name", &format!("{volume}_*")]))?;
        Ok(found.lines().map(PathBuf::from).collect())
    }

    /// Waits until a claim has a phase, and answers it.
    ///
    /// # Errors
    /// It does not come to that in time; the error carries the claim as it was last seen.
    pub async fn phase(&self, id: &str, phase: &str, deadline: Duration) -> Result<Value> {
        let rest = self.rest()?;
        let path = format!("/v1/storage/{id}");
        eventually(deadline, &format!("{id} is {phase}"), || {
            let (rest, path) = (rest.clone(), path.clone());
            async move {
                let claim = rest.get(&path).await?;
                if claim.get("phase").and_then(Value::as_str) == Some(phase) {
                    return Ok(Some(claim));
                }
                bail!("{claim}")
            }
        })
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.lent {
            return;
        }
        let logs = env::temp_dir().join("smart-storage-it-logs").join(&self.suite);
        let _ = fs::remove_dir_all(&logs);
        let _ = fs::create_dir_all(&logs);
        let _ = Command::new("cp")
            .arg("-rT")
            .arg(self.state.join("log"))
            .arg(&logs)
            .status();
        if !self.state.exists() {
            return;
        }
        let mut command = Command::new(script("down"));
        if let Err(error) = run(command.arg("--state").arg(&self.state).arg("--purge")) {
            println!("  {}: LEFT BEHIND: {error:#}", self.suite);
        }
    }
}

/// `kill -9`; answers when the process is gone.
///
/// # Errors
/// There is no such process, or it does not go within 5 s.
pub async fn kill9(pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill -9 {pid}"))?;
    let start = Instant::now();
    // A zombie has no command line any more, and holds neither ports nor files.
    while fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()) {
        ensure!(start.elapsed() < Duration::from_secs(5), "{pid} survives kill -9");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// weed's path, as `up` finds it.
#[must_use]
pub fn weed() -> String {
    env::var("WEED").unwrap_or_else(|_| "weed".to_owned())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/standalone")
        .join(name)
}

/// The `export NAME=value` lines of a file for shells.
fn read_variables(file: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let pairs = text
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

/// The first of as many ports in a row as an instance takes that are free, below those that members (20000 and up)
/// and the kernel take.
///
/// # Errors
/// There are none.
pub fn free_ports() -> Result<u16> {
    let first = u16::try_from(std::process::id() % 400)? * 20 + 10_000;
    let candidates = (first..18_000).chain(10_000..first).step_by(20);
    for base in candidates {
        let all = (base..base + PORTS).map(|port| TcpListener::bind(("127.0.0.1", port)));
        if all.collect::<Result<Vec<_>, _>>().is_ok() {
            return Ok(base);
        }
    }
    bail!("no {PORTS} free ports in a row between 10000 and 18000")
}
