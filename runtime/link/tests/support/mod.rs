//! A real Mosquitto, and a broker that follows a script.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use loadonce_link::{Backoff, Event, LinkConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// No test waits longer than this for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

const SECURITY: &str = r#"{
    "defaultACLAccess": {
        "publishClientSend": true, "publishClientReceive": true, "subscribe": false, "unsubscribe": true
    },
    "roles": [{ "rolename": "open", "acls": [
        { "acltype": "subscribePattern", "topic": "open/#", "priority": 0, "allow": true }
    ] }],
    "groups": [{ "groupname": "anyone", "roles": [{ "rolename": "open", "priority": 0 }] }],
    "anonymousGroup": "anyone"
}"#;

/// A Mosquitto on a port of its own, killed when dropped.
pub(crate) struct Mosquitto {
    child: Child,
    pub(crate) port: u16,
    dir: TempDir,
}

impl Mosquitto {
    pub(crate) async fn start(extra: &str) -> Self {
        loop {
            let port = quiet_port();
            let dir = tempfile::tempdir().unwrap();
            let config = format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence false\n{}",
                extra.replace("DIR", dir.path().to_str().unwrap())
            );
            fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
            fs::write(dir.path().join("security.json"), SECURITY).unwrap();
            let mut broker = Self { child: spawn(&dir), port, dir };
            // Another test may have taken the port in between.
            if broker.ready().await {
                return broker;
            }
        }
    }

    /// Under its security plugin, with subscriptions to `open/#` only.
    pub(crate) async fn start_with_open_topics() -> Self {
        let security = fs::read_dir("/usr/lib")
            .unwrap()
            .map(|entry| entry.unwrap().path().join("mosquitto_dynamic_security.so"))
            .find(|path| path.exists())
            .expect("mosquitto's security plugin is needed for this test: apt-get install mosquitto");
        Self::start(&format!("plugin {}\nplugin_opt_config_file DIR/security.json\n", security.display()))
            .await
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// SIGKILL, as the power would do it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same port, the same configuration.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(&self.dir);
        assert!(self.ready().await, "mosquitto did not come back");
    }

    /// Waits until it listens; `false` if it ended instead.
    async fn ready(&mut self) -> bool {
        let up = async {
            loop {
                if self.child.try_wait().unwrap().is_some() {
                    return false;
                }
                if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                    return self.child.try_wait().unwrap().is_none();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, up).await.expect("mosquitto does not come up")
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_waited = self.child.wait();
    }
}

fn spawn(dir: &TempDir) -> Child {
    let path = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"]
        .into_iter()
        .find(|path| fs::exists(path).unwrap())
        .unwrap_or("mosquitto");
    Command::new(path)
        .arg("-c")
        .arg(dir.path().join("mosquitto.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto is needed for this test: apt-get install mosquitto")
}

/// A port that nothing listens on, below those the system hands out by itself: an outgoing connection could
/// take one of them, or even connect to itself.
fn quiet_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id().wrapping_mul(37).wrapping_add(n) % 20_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A port that refuses connections for as long as the socket is held.
pub(crate) fn refusing_port() -> (u16, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap().port(), socket)
}

/// Settings for tests: short waits, 64 KiB packets.
pub(crate) fn config(url: &str, client_id: &str) -> LinkConfig {
    let mut config = LinkConfig::new(url, client_id, 65_536).unwrap();
    config.backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_millis(200) };
    config
}

/// The next event that `pick` takes; others are let pass.
pub(crate) async fn until<T>(events: &mut Receiver<Event>, mut pick: impl FnMut(Event) -> Option<T>) -> T {
    let search = async {
        loop {
            let event = events.recv().await.expect("the link ended");
            if let Some(found) = pick(event) {
                return found;
            }
        }
    };
    timeout(DEADLINE, search).await.expect("the event did not come")
}

pub(crate) async fn connected(events: &mut Receiver<Event>) {
    until(events, |event| matches!(event, Event::Connected { .. }).then_some(())).await;
}

pub(crate) async fn message(events: &mut Receiver<Event>) -> (String, Vec<u8>) {
    until(events, |event| match event {
        Event::Message { topic, payload, .. } => Some((topic, payload)),
        _ => None,
    })
    .await
}

/// One MQTT packet from the client: first byte and body.
pub(crate) async fn read_packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, body))
}

/// Accepts a client and answers CONNECT.
pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = timeout(DEADLINE, listener.accept()).await.expect("no client").unwrap();
    let (first, _) = read_packet(&mut stream).await.unwrap();
    assert_eq!(first, 0x10);
    stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    stream
}
