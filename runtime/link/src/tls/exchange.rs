//! One request and one answer over TLS: how a gateway gets its certificate. What is said is the caller's; here are the
//! bounds of size, time and connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loadonce_trust::CertificateFacts;
use loadonce_trust::enrol::{AGGREGATOR_HOST, HEADER, MAX_ANSWER, MAX_REQUEST, body_length};
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::verify::ServerVerifier;
use super::{
    Clock, Peer, TlsFileError, TlsFiles, client_config, connect, provider, read_certificates, wrong,
};

/// Time for dialling and the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for the request, and for the answer.
const EXCHANGE: Duration = Duration::from_secs(20);
/// Connections at one time.
const CONNECTIONS: usize = 16;
/// How long a place stays taken after a connection that led to nothing, so that nobody can try quickly.
const PENALTY: Duration = Duration::from_secs(1);

/// Whom the asking side believes, and what it shows.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// A server whose chain holds the CA with this SHA-256; nothing is shown.
    Fingerprint([u8; 32]),
    /// A server that the CA in the files has signed; this side's certificate is shown.
    Files(TlsFiles),
}

/// Asks the aggregator at `address` (`host:port`); what goes wrong is said for a person.
pub async fn ask(
    address: &str,
    credentials: &Credentials,
    clock: &Clock,
    request: &[u8],
) -> Result<Vec<u8>, String> {
    let (verifier, own, ca) = match credentials {
        Credentials::Fingerprint(ca) => {
            let verifier = ServerVerifier::with_fingerprint(*ca, clock.clone());
            (verifier, None, "the CA that the token names".to_owned())
        }
        Credentials::Files(files) => {
            let verifier = files.verifier(clock).map_err(|error| error.to_string())?;
            let own = files.own().map_err(|error| error.to_string())?;
            (verifier, own, files.ca.display().to_string())
        }
    };
    let config = client_config(verifier, own.as_ref()).map_err(|error| error.to_string())?;
    // The name is fixed: whatever address an aggregator is reached by, it is the one that the CA calls so.
    let peer = Peer { who: "aggregator", host: AGGREGATOR_HOST.to_owned(), ca, own, clock: clock.clone() };
    let dial = async {
        let unreachable =
            |error: io::Error| format!("the aggregator at {address} cannot be reached: {error}");
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        connect(config, stream, peer).await
    };
    let (mut stream, peer) = timeout(HANDSHAKE, dial)
        .await
        .map_err(|_| format!("the aggregator at {address} cannot be reached: no answer within 10 s"))??;
    let exchange = async {
        stream.write_all(request).await?;
        stream.flush().await?;
        let answer = read_message(&mut stream, MAX_ANSWER).await?;
        // The answer is here: how the other side ends is its matter.
        let _ended = stream.shutdown().await;
        Ok(answer)
    };
    match timeout(EXCHANGE, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(peer.later(&error, false)),
        Err(_) => Err(format!("the aggregator at {address} did not answer within 20 s")),
    }
}

async fn read_message(stream: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Vec<u8>> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await?;
    let length = body_length(&header, most)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a message of the exchange"))?;
    let mut message = header.to_vec();
    message.resize(HEADER + length, 0);
    stream.read_exact(&mut message[HEADER..]).await?;
    Ok(message)
}

/// Connections that led to no request.
#[derive(Debug, Default)]
struct Counters {
    handshakes: AtomicU64,
    broken: AtomicU64,
    turned_away: AtomicU64,
}

/// What the endpoint dropped without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointStats {
    /// Connections that did not get through the TLS handshake.
    pub failed_handshakes: u64,
    /// Connections that brought no whole request in time.
    pub broken_requests: u64,
    /// Connections that found no place.
    pub turned_away: u64,
}

/// The answering side.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
    files: TlsFiles,
    clock: Clock,
    places: Arc<Semaphore>,
    counters: Arc<Counters>,
}

/// A request and whom it is from.
#[derive(Debug)]
pub struct Incoming {
    /// The whole message.
    pub request: Vec<u8>,
    /// What is known of the certificate that the asking side showed: signed by the CA, and valid.
    pub certificate: Option<CertificateFacts>,
    /// Its address.
    pub from: SocketAddr,
    stream: TlsStream<TcpStream>,
    place: OwnedSemaphorePermit,
}

impl Endpoint {
    /// Listens on `address`. The files must hold a certificate for the name of an aggregator; they are read anew for
    /// every connection.
    pub async fn bind(address: &str, files: TlsFiles, clock: Clock) -> io::Result<Self> {
        server_config(&files, &clock).map_err(io::Error::other)?;
        let listener = TcpListener::bind(address).await?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        Ok(Self { listener, files, clock, places, counters: Arc::default() })
    }

    /// The address it listens on.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Reads the counters while the endpoint is at work.
    pub fn counters(&self) -> impl Fn() -> EndpointStats + Send + Sync + use<> {
        let counters = Arc::clone(&self.counters);
        move || EndpointStats {
            failed_handshakes: counters.handshakes.load(Ordering::Relaxed),
            broken_requests: counters.broken.load(Ordering::Relaxed),
            turned_away: counters.turned_away.load(Ordering::Relaxed),
        }
    }

    /// Hands every request to `requests` until nobody takes them any more.
    pub async fn serve(self, requests: mpsc::Sender<Incoming>) {
        while !requests.is_closed() {
            let (stream, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of files, say: others must end first.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    sleep(PENALTY).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                self.counters.turned_away.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (files, clock, counters) =
                (self.files.clone(), self.clock.clone(), Arc::clone(&self.counters));
            let requests = requests.clone();
            tokio::spawn(async move {
                match receive(&files, &clock, &counters, stream, from).await {
                    Some((stream, request, certificate)) => {
                        let incoming = Incoming { request, certificate, from, stream, place };
                        // Nobody is left to answer when the program ends.
                        let _taken = requests.send(incoming).await;
                    }
                    None => hold(place).await,
                }
            });
        }
    }
}

/// A place whose connection led to nothing stays taken for a while.
async fn hold(place: OwnedSemaphorePermit) {
    sleep(PENALTY).await;
    drop(place);
}

type Received = (TlsStream<TcpStream>, Vec<u8>, Option<CertificateFacts>);

async fn receive(
    files: &TlsFiles,
    clock: &Clock,
    counters: &Counters,
    stream: TcpStream,
    from: SocketAddr,
) -> Option<Received> {
    let failed = |counter: &AtomicU64, error: &dyn std::fmt::Display| {
        counter.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%from, %error, "a connection led to no request");
    };
    let config = match server_config(files, clock) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "gateways cannot be enrolled");
            failed(&counters.handshakes, &error);
            return None;
        }
    };
    let handshake = timeout(HANDSHAKE, TlsAcceptor::from(Arc::new(config)).accept(stream)).await;
    let mut stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            failed(&counters.handshakes, &error);
            return None;
        }
        Err(error) => {
            failed(&counters.handshakes, &error);
            return None;
        }
    };
    let request = match timeout(EXCHANGE, read_message(&mut stream, MAX_REQUEST)).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => {
            failed(&counters.broken, &error);
            return None;
        }
        Err(error) => {
            failed(&counters.broken, &error);
            return None;
        }
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate = shown.and_then(|der| CertificateFacts::read(der));
    Some((stream, request, certificate))
}

impl Incoming {
    /// Sends the answer. After a refusal the place stays taken for a moment.
    pub async fn answer(mut self, answer: &[u8], refused: bool) {
        let write = async {
            self.stream.write_all(answer).await?;
            self.stream.shutdown().await
        };
        match timeout(EXCHANGE, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(from = %self.from, %error, "an answer was not sent"),
            Err(error) => tracing::debug!(from = %self.from, %error, "an answer was not sent"),
        }
        if refused {
            hold(self.place).await;
        }
    }
}

fn server_config(files: &TlsFiles, clock: &Clock) -> Result<ServerConfig, TlsFileError> {
    let refused = |error: rustls::Error| files.misfit(&error);
    let own = files.own()?.ok_or_else(|| wrong(&files.ca, "a server needs a certificate of its own"))?;
    let clients = WebPkiClientVerifier::builder_with_provider(files.roots()?.into(), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| wrong(&files.ca, error.to_string()))?;
    // The CA goes along: who knows it by its fingerprint only, looks for it there.
    let ca = read_certificates(&files.ca)?;
    let chain = own.chain.into_iter().chain(ca).map(CertificateDer::from).collect();
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivatePkcs8KeyDer::from(own.key).into())
        .map_err(refused)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
