//! The tunnel between rumqttc and the broker, for one connection.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::Broker;
use crate::filter::Downstream;
use crate::stats::Counters;
use crate::tls::{Peer, Tls};

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what was written may stay unconfirmed by the other side's TCP before the line counts as dead: some dozen
/// repetitions on a bad line, where the kernel's own patience is a quarter of an hour.
const UNCONFIRMED: Duration = Duration::from_mins(2);
/// How long the broker may take to close its side after ours.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
const BUFFER: usize = 16 * 1024;

/// How the broker is reached.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    pub(crate) broker: Broker,
    pub(crate) tls: Option<Tls>,
}

/// A connection to the broker, TLS included.
pub(crate) struct Dialled {
    stream: Box<dyn Stream>,
    /// Says what the end of it means.
    peer: Option<Peer>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Dialer {
    /// What goes wrong is said for a person.
    pub(crate) async fn dial(&self, counters: &Arc<Counters>) -> Result<Dialled, String> {
        if let Some(tls) = &self.tls {
            tls.wait().await;
        }
        let unreachable = |error| format!("{} cannot be reached: {error}", self.broker);
        let stream = self.tcp(counters).await.map_err(unreachable)?;
        let Some(tls) = &self.tls else { return Ok(Dialled { stream: Box::new(stream), peer: None }) };
        let (stream, peer) = timeout(DIAL_TIMEOUT, tls.connect(stream, &self.broker.host))
            .await
            .map_err(|_| format!("{}: no end of the TLS handshake within 10 s", self.broker))??;
        Ok(Dialled { stream: Box::new(stream), peer: Some(peer) })
    }

    async fn tcp(&self, counters: &Arc<Counters>) -> io::Result<Counted<TcpStream>> {
        let Broker { host, port, .. } = &self.broker;
        let stream = timeout(DIAL_TIMEOUT, TcpStream::connect((host.as_str(), *port)))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s"))??;
        // Control packets are small and somebody waits for each of them.
        stream.set_nodelay(true)?;
        // Pings may be rare: whoever writes into a dead line hears of it all the same.
        set_tcp_user_timeout(&stream, UNCONFIRMED.as_millis() as u32)?;
        Counters::add(&counters.connects, 1);
        Ok(Counted { stream, counters: Arc::clone(counters) })
    }
}

/// A socket whose bytes are counted as they cross it: below TLS, where there is any.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    stream: S,
    counters: Arc<Counters>,
}

fn count(counter: &AtomicU64, bytes: usize) {
    Counters::add(counter, bytes as u64);
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        count(&self.counters.bytes_down, buffer.filled().len() - before);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &result {
            count(&self.counters.bytes_up, *written);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A private folder for the sockets of one link.
pub(crate) fn socket_folder() -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("loadonce-link-").tempdir()
}

/// The end rumqttc connects to: a fresh socket for every connection, so that none can be left from before.
#[derive(Debug)]
pub(crate) struct Mouth {
    listener: UnixListener,
    path: PathBuf,
}

impl Mouth {
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts once and closes the door behind it.
    async fn accept(self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Mouth {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "tunnel socket not removed");
        }
    }
}

/// Copies both ways until one end closes. While the gate is shut, nothing is read from the broker. If it was
/// the broker's end, `reason` says why before rumqttc can notice.
pub(crate) async fn run(
    mouth: Mouth,
    Dialled { stream, peer }: Dialled,
    max_packet_bytes: usize,
    gate: watch::Receiver<bool>,
    reason: Arc<OnceLock<String>>,
) -> io::Result<()> {
    let (mut local_read, mut local_write) = mouth.accept().await?.into_split();
    let (mut broker_read, mut broker_write) = tokio::io::split(stream);
    let heard = AtomicBool::new(false);
    let ended = tokio::select! {
        ended = up(&mut local_read, &mut broker_write) => ended,
        ended = down(&mut broker_read, &mut local_write, max_packet_bytes, gate, &heard) => ended,
    };
    if let Err(error) = ended {
        reason.get_or_init(|| match &peer {
            Some(peer) => peer.later(&error, heard.load(Ordering::Relaxed)),
            None => error.to_string(),
        });
        return Err(error);
    }
    // Closing with unread bytes resets the connection, and the broker might lose our DISCONNECT.
    broker_write.shutdown().await?;
    let mut nowhere = tokio::io::sink();
    if timeout(LINGER, tokio::io::copy(&mut broker_read, &mut nowhere)).await.is_err() {
        tracing::debug!("the broker did not close its side in time");
    }
    Ok(())
}

async fn up(mut local: impl AsyncRead + Unpin, mut broker: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = local.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        broker.write_all(&buffer[..read]).await?;
        broker.flush().await?;
    }
}

async fn down(
    mut broker: impl AsyncRead + Unpin,
    mut local: impl AsyncWrite + Unpin,
    max_packet_bytes: usize,
    mut gate: watch::Receiver<bool>,
    heard: &AtomicBool,
) -> io::Result<()> {
    let mut filter = Downstream::new(max_packet_bytes);
    let (mut buffer, mut out) = (vec![0; BUFFER], Vec::new());
    // The gate's other end is only dropped together with the client, which ends the connection as well.
    while gate.wait_for(|shut| !shut).await.is_ok() {
        let read = broker.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker closed the connection"));
        }
        heard.store(true, Ordering::Relaxed);
        filter.push(&buffer[..read], &mut out).map_err(io::Error::other)?;
        local.write_all(&out).await?;
        out.clear();
    }
    Ok(())
}
