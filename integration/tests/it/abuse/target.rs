//! The instance under abuse: its ports, raw connections to them, and what the controller's process says of itself.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use smart_storage_integration::Cluster;
use smart_storage_proto::tls;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Both directions of a connection, encrypted or not.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// The longest that any answer may take.
pub const ANSWER: Duration = Duration::from_secs(20);

/// Where everything is.
#[derive(Clone)]
pub struct Target {
    ports: BTreeMap<String, u16>,
    pub token: String,
    pub ca: CertificateDer<'static>,
    pid: i32,
    log: PathBuf,
}

impl Target {
    pub fn of(cluster: &Cluster) -> Result<Self> {
        let ports = fs::read_to_string(cluster.state().join("ports"))?;
        let ports = ports.lines().filter_map(|line| line.split_once(' '));
        Ok(Self {
            ports: ports
                .map(|(name, port)| Ok((name.to_owned(), port.parse()?)))
                .collect::<Result<_>>()?,
            token: cluster.variable("SMART_STORAGE_TOKEN")?.to_owned(),
            ca: CertificateDer::from_pem_file(cluster.variable("SMART_STORAGE_CA")?)?,
            pid: cluster.pid("controller")?,
            log: cluster.state().join("log/controller.log"),
        })
    }

    pub fn port(&self, name: &str) -> Result<SocketAddr> {
        let port = self.ports.get(name).with_context(|| format!("no port {name}"))?;
        Ok((Ipv4Addr::LOCALHOST, *port).into())
    }

    pub fn url(&self, scheme: &str, name: &str, path: &str) -> Result<String> {
        Ok(format!("{scheme}://{}{path}", self.port(name)?))
    }

    /// A connection from an address of loopback.
    pub async fn connect(&self, name: &str, from: Ipv4Addr) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let to = self.port(name)?;
        let connected = timeout(ANSWER, socket.connect(to)).await;
        connected
            .context("no connection in time")?
            .with_context(|| format!("{name} from {from}"))
    }

    /// The same behind TLS, for `protocol` (of ALPN).
    pub async fn encrypted(&self, name: &str, protocol: &[u8]) -> Result<impl Wire + use<>> {
        let config = tls::client(std::slice::from_ref(&self.ca), None, &[protocol])?;
        let stream = self.connect(name, Ipv4Addr::LOCALHOST).await?;
        let server = ServerName::try_from("localhost")?;
        Ok(TlsConnector::from(Arc::new(config))
            .connect(server, stream)
            .await?)
    }

    /// As the port wants it: TLS where it takes nothing else.
    pub async fn wire(&self, name: &str, protocol: &[u8]) -> Result<Box<dyn Wire>> {
        if is_tls_only(name) {
            return Ok(Box::new(self.encrypted(name, protocol).await?));
        }
        Ok(Box::new(self.connect(name, Ipv4Addr::LOCALHOST).await?))
    }

    /// Sends bytes and reads what is answered until the other end closes, or has sent a whole head and body.
    pub async fn exchange(&self, name: &str, bytes: &[u8]) -> Result<Raw> {
        let mut wire = self.wire(name, tls::ALPN_HTTP11).await?;
        // The server may close before it has read all.
        let _ = timeout(ANSWER, wire.write_all(bytes)).await;
        Raw::read(&mut wire).await
    }

    /// `VmRSS` and `VmHWM` of the controller in bytes.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line
                .and_then(|line| line.split_whitespace().next())
                .context("no memory")?;
            Ok(kib.parse::<u64>()? << 10)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// From here on the peak counts.
    pub fn forget_peak(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.pid), "5")?)
    }

    /// The open files of the controller.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }

    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }
}

/// Ports that take TLS only.
pub fn is_tls_only(name: &str) -> bool {
    matches!(name, "agent" | "enrol" | "kube-api")
}

/// What came back over HTTP/1.1.
#[derive(Debug)]
pub struct Raw {
    pub bytes: Vec<u8>,
}

impl Raw {
    pub async fn read(wire: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut piece = vec![0; 64 << 10];
        let reading = async {
            while !whole(&bytes) {
                match wire.read(&mut piece).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => bytes.extend_from_slice(&piece[..read]),
                }
            }
        };
        timeout(ANSWER, reading)
            .await
            .context("neither answer nor end in time")?;
        Ok(Self { bytes })
    }

    /// The status; `None` where the connection was just closed.
    pub fn status(&self) -> Option<u16> {
        let text = String::from_utf8_lossy(self.bytes.get(..16)?);
        text.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Whether head and body (of a known length) are there.
fn whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    length.is_some_and(|length| body.len() >= length)
}

/// As many open files as this process may have.
pub fn many_files() -> Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    ensure!(hard > 2048, "only {hard} open files");
    Ok(hard)
}
