//! The tunnel between rumqttc and the broker, for one connection.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::config::Broker;
use crate::filter::{Downstream, Refused, Upstream};
use crate::stats::Counters;

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the broker may take to close its side after ours.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
const BUFFER: usize = 16 * 1024;
/// Confirmations of messages taken out that wait for a gap between the client's packets.
const CONFIRMATIONS: usize = 64;

/// How the broker is reached; TLS becomes another kind.
#[derive(Debug, Clone)]
pub(crate) enum Dialer {
    Tcp(Broker),
}

impl Dialer {
    pub(crate) async fn dial(&self, counters: &Arc<Counters>) -> io::Result<Counted<TcpStream>> {
        let Self::Tcp(Broker { host, port }) = self;
        let stream = timeout(DIAL_TIMEOUT, TcpStream::connect((host.as_str(), *port)))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s"))??;
        // Control packets are small and somebody waits for each of them.
        stream.set_nodelay(true)?;
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

/// What one connection's tunnel needs besides its two ends.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) max_packet_bytes: usize,
    pub(crate) gate: watch::Receiver<bool>,
    pub(crate) refused: mpsc::Sender<Refused>,
    pub(crate) counters: Arc<Counters>,
}

impl Tunnel {
    /// Copies both ways until one end closes. `Ok` if it was rumqttc.
    pub(crate) async fn run(
        self,
        mouth: Mouth,
        broker: impl AsyncRead + AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let (local_read, local_write) = mouth.accept().await?.into_split();
        let (mut broker_read, mut broker_write) = tokio::io::split(broker);
        let (confirm, confirmations) = mpsc::channel(CONFIRMATIONS);
        let ended = tokio::select! {
            ended = up(local_read, &mut broker_write, confirmations) => ended,
            ended = self.down(&mut broker_read, local_write, confirm) => ended,
        };
        if ended.is_ok() {
            // Closing with unread bytes resets the connection, and the broker might lose our DISCONNECT.
            broker_write.shutdown().await?;
            let mut nowhere = tokio::io::sink();
            if timeout(LINGER, tokio::io::copy(&mut broker_read, &mut nowhere)).await.is_err() {
                tracing::debug!("the broker did not close its side in time");
            }
        }
        ended
    }

    async fn down(
        mut self,
        mut broker: impl AsyncRead + Unpin,
        mut local: impl AsyncWrite + Unpin,
        confirm: mpsc::Sender<u16>,
    ) -> io::Result<()> {
        let mut filter = Downstream::new(self.max_packet_bytes);
        let (mut buffer, mut out, mut refused) = (vec![0; BUFFER], Vec::new(), Vec::new());
        loop {
            if self.gate.wait_for(|shut| !shut).await.is_err() {
                return Ok(());
            }
            let read = broker.read(&mut buffer).await?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker closed the connection"));
            }
            filter.push(&buffer[..read], &mut out, &mut refused).map_err(io::Error::other)?;
            local.write_all(&out).await?;
            out.clear();
            for refused in refused.drain(..) {
                let counters = &self.counters;
                Counters::add(if refused.oversized { &counters.oversized } else { &counters.malformed }, 1);
                if let Some(identifier) = refused.confirm
                    && confirm.send(identifier).await.is_err()
                {
                    return Ok(());
                }
                // The counter is the truth; a report more or less, when many wait, is not.
                if let Err(error) = self.refused.try_send(refused) {
                    tracing::debug!(%error, "refused message not reported");
                }
            }
        }
    }
}

async fn up(
    mut local: impl AsyncRead + Unpin,
    mut broker: impl AsyncWrite + Unpin,
    mut confirmations: mpsc::Receiver<u16>,
) -> io::Result<()> {
    let mut packets = Upstream::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        tokio::select! {
            Some(identifier) = confirmations.recv(), if packets.is_between_packets() => {
                let [high, low] = u16::to_be_bytes(identifier);
                // PUBACK (section 3.4).
                broker.write_all(&[0x40, 2, high, low]).await?;
            }
            read = local.read(&mut buffer) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                broker.write_all(&buffer[..read]).await?;
                packets.push(&buffer[..read]).map_err(io::Error::other)?;
            }
        }
        broker.flush().await?;
    }
}
