//! HTTP for whoever scrapes: `GET /metrics` and `GET /healthz`, within bounds that no client can stretch.
//!
//! A connection serves one request. When too many are open, the oldest is cut off: who holds connections open without
//! asking loses them to who asks. A body is never read.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{Newest, Snapshot, names};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 16;
/// Bytes of a request's head, and its headers.
const MAX_HEAD: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// How long a client may take.
const PATIENCE: Patience = Patience { asking: Duration::from_secs(5), altogether: Duration::from_secs(10) };
/// After the system refused a connection: it is short of something that others must give back.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// A core whose last snapshot is older does not work: a snapshot is due every second, the longest cut takes seconds.
const STUCK: Duration = Duration::from_mins(2);

/// Why the metrics cannot be served.
#[derive(Debug, Error)]
#[error(
    "the metrics cannot be served at {listen}: {source}; end the program that listens there, or change `metrics.listen`"
)]
pub struct MetricsError {
    listen: SocketAddr,
    source: std::io::Error,
}

/// Counts what the server did.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Requests answered.
    pub(super) requests: AtomicU64,
    /// Connections that were cut off: too many, too slow, or not speaking HTTP.
    pub(super) cut_off: AtomicU64,
}

/// How long a client may take to ask, and for everything.
#[derive(Debug, Clone, Copy)]
struct Patience {
    asking: Duration,
    altogether: Duration,
}

/// The endpoint; it serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    task: JoinHandle<()>,
}

impl Server {
    /// Listens at `listen`. Needs a tokio runtime with time and I/O.
    pub(crate) async fn start(listen: SocketAddr, newest: Newest) -> Result<Self, MetricsError> {
        let failed = |source| MetricsError { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        tracing::info!("metrics at http://{at}/metrics");
        if !at.ip().is_loopback() {
            tracing::warn!("metrics are served without encryption or password to everybody who reaches {at}");
        }
        Ok(Self { task: tokio::spawn(accept(listener, newest, PATIENCE)) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Open connections, oldest first; those that are left are aborted when it is dropped.
#[derive(Default)]
struct Open(VecDeque<JoinHandle<()>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn accept(listener: TcpListener, newest: Newest, patience: Patience) {
    let served = Arc::new(Served::default());
    let mut open = Open::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics was refused by the system");
                sleep(AFTER_REFUSAL).await;
                continue;
            }
        };
        open.0.retain(|connection| !connection.is_finished());
        if open.0.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.0.pop_front()
        {
            oldest.abort();
            served.cut_off.fetch_add(1, Ordering::Relaxed);
        }
        open.0.push_back(tokio::spawn(serve(stream, newest.clone(), Arc::clone(&served), patience)));
    }
}

async fn serve(stream: TcpStream, newest: Newest, served: Arc<Served>, patience: Patience) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        served.requests.fetch_add(1, Ordering::Relaxed);
        let snapshot = newest.borrow().clone();
        let answer = answer(request.method(), request.uri().path(), snapshot.as_deref(), &served);
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.asking)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if !matches!(timeout(patience.altogether, connection).await, Ok(Ok(()))) {
        served.cut_off.fetch_add(1, Ordering::Relaxed);
    }
}

fn answer(method: &Method, path: &str, snapshot: Option<&Snapshot>, served: &Served) -> Response<String> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match (path, snapshot) {
        ("/metrics", Some(snapshot)) => {
            let mut response = plain(StatusCode::OK, names::text(snapshot, served));
            let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, format);
            response
        }
        ("/healthz", Some(snapshot)) => {
            let age = snapshot.taken.elapsed();
            // A broker that is away is no reason to restart an aggregator.
            let broker = if snapshot.connected { "connected" } else { "not connected" };
            if age > STUCK {
                let text = format!("the core has not answered for {} s\n", age.as_secs());
                plain(StatusCode::SERVICE_UNAVAILABLE, text)
            } else {
                plain(StatusCode::OK, format!("ok\nbroker {broker}\n"))
            }
        }
        ("/metrics" | "/healthz", None) => plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n".into()),
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n".into()),
    }
}

fn plain(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
