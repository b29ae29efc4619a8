//! The embedded broker: rumqttd on a free port of the loopback interface, in this process.

use super::error::DemoError;
use rumqttd::{Config, ConnectionSettings, RouterConfig, ServerSettings};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long the broker may take to listen.
const START: Duration = Duration::from_secs(10);

/// Starts the broker and returns its URL once it accepts connections. It lives as long as this process: rumqttd
/// has no way to stop.
pub(crate) async fn start() -> Result<String, DemoError> {
    let problem = |what: String| DemoError::Broker { broker: "inside this program".into(), what };
    let address = free_port().map_err(|e| problem(format!("no free port on the loopback interface: {e}")))?;
    let mut broker = rumqttd::Broker::new(config(address));
    let thread = std::thread::Builder::new()
        .name("broker".into())
        .spawn(move || broker.start().err().map(|e| e.to_string()))
        .map_err(|e| problem(e.to_string()))?;
    let deadline = Instant::now() + START;
    loop {
        if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
            return Ok(format!("mqtt://{address}"));
        }
        if thread.is_finished() || Instant::now() > deadline {
            return Err(problem(format!("it does not listen on {address}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A port nobody listens on. rumqttd binds it itself, so it is free again for an instant; then [`start`] fails
/// and says so.
fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn config(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 10_000,
        max_payload_size: loadonce_wire::limits::MAX_SAMPLE + loadonce_wire::limits::MAX_TOPIC + 16,
        max_inflight_count: 200,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server =
        ServerSettings { name: "demo".into(), listen, tls: None, next_connection_delay_ms: 1, connections };
    Config {
        router: RouterConfig {
            max_connections: 200,
            max_outgoing_packet_count: 200,
            // Per subscription filter; the oldest segment goes when all are full.
            max_segment_size: 1 << 20,
            max_segment_count: 4,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("demo".to_owned(), server)])),
        ..Config::default()
    }
}
