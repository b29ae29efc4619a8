//! The notification socket: datagrams of `KEY=value` lines to the path in `NOTIFY_SOCKET`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Life signs come this many times in the interval that the manager allows, so that one late one kills nobody.
const SIGNS: u32 = 4;
/// A status is told at most this often, whoever watches it.
const STATUS: Duration = Duration::from_secs(2);
/// Longest status in bytes.
const MAX_STATUS: usize = 200;

/// One program's line to its manager. Belongs to the loop that does the work: [`Notify::alive`] is called by it on
/// every turn, so that a loop that hangs is found out, and never from a timer of its own.
///
/// Nothing here fails: a manager that does not listen is none of the work's business.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
    ready: bool,
    sign: Option<Instant>,
    told: Option<(Instant, String)>,
}

impl Notify {
    /// From the environment that the manager set: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub fn from_env() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let number = |name: &str| variable(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
        let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&usec| meant && usec > 0).map(Duration::from_micros);
        let Some(path) = variable("NOTIFY_SOCKET") else { return Self::default() };
        match Self::to(&path, watchdog) {
            Ok(notify) => notify,
            Err(error) => {
                tracing::warn!(socket = ?path, %error, "the service manager's socket cannot be used; it is told nothing");
                Self::default()
            }
        }
    }

    /// To the socket at `path` (`@name`: an abstract one), with a life sign expected in every interval of `watchdog`.
    pub fn to(path: &OsString, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A manager that does not read must not stop the work: what does not fit is not said.
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Some(socket), watchdog, ..Self::default() })
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        self.socket.is_some()
    }

    /// The work is being done. The first call says that the program is ready; after that a life sign goes out as often
    /// as the manager asks, and `status` where it has changed.
    pub fn alive(&mut self, status: impl FnOnce() -> String) {
        if self.socket.is_none() {
            return;
        }
        let now = Instant::now();
        let mut message = String::new();
        if !std::mem::replace(&mut self.ready, true) {
            message.push_str("READY=1\n");
        }
        let due = |every: Duration| self.sign.is_none_or(|last| now.duration_since(last) >= every / SIGNS);
        if self.watchdog.is_some_and(due) {
            message.push_str("WATCHDOG=1\n");
            self.sign = Some(now);
        }
        if self.told.as_ref().is_none_or(|(when, _)| now.duration_since(*when) >= STATUS) {
            let status = short(&status());
            if self.told.as_ref().is_none_or(|(_, told)| *told != status) {
                // Writing to a string cannot fail.
                let _ = writeln!(message, "STATUS={status}");
            }
            self.told = Some((now, status));
        }
        self.send(&message);
    }

    /// The program is on its way out.
    pub fn stopping(&mut self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}\n", short(status)));
    }

    fn send(&self, message: &str) {
        let Some(socket) = self.socket.as_ref().filter(|_| !message.is_empty()) else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}

/// One line, cut at the end of a character.
fn short(status: &str) -> String {
    let mut line: String = status.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while line.len() > MAX_STATUS {
        line.pop();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        socket.set_nonblocking(true).unwrap();
        let mut lines = Vec::new();
        let mut bytes = [0; 1024];
        while let Ok(length) = socket.recv(&mut bytes) {
            lines.extend(std::str::from_utf8(&bytes[..length]).unwrap().lines().map(str::to_owned));
        }
        lines
    }

    #[test]
    fn ready_once_and_a_status_only_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut notify = Notify::to(&path.into(), None).unwrap();
        notify.alive(|| "serves 2 tasks\nand more".to_owned());
        assert_eq!(heard(&socket), ["READY=1", "STATUS=serves 2 tasks and more"]);
        notify.alive(|| unreachable!("a status is not made more often than it is told"));
        assert!(heard(&socket).is_empty(), "no watchdog was asked for");
        notify.stopping("ends");
        assert_eq!(heard(&socket), ["STOPPING=1", "STATUS=ends"]);
    }

    #[test]
    fn life_signs_come_as_often_as_asked_and_not_with_every_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut often = Notify::to(&path.clone().into(), Some(Duration::from_nanos(SIGNS.into()))).unwrap();
        let mut seldom = Notify::to(&path.into(), Some(Duration::from_hours(1))).unwrap();
        for _ in 0..100 {
            often.alive(String::new);
        }
        let signs = |lines: &[String]| lines.iter().filter(|line| *line == "WATCHDOG=1").count();
        let lines = heard(&socket);
        assert!(signs(&lines) > 10, "{lines:?}");
        for _ in 0..100 {
            seldom.alive(String::new);
        }
        assert_eq!(signs(&heard(&socket)), 1);
    }

    #[test]
    fn an_abstract_socket_a_full_one_and_none() {
        let name = format!("loadonce-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let path = OsString::from(format!("@{name}"));
        // Nobody reads: thousands of messages are more than the socket holds, and none of them waits.
        let mut notify = Notify::to(&path, Some(Duration::from_nanos(1))).unwrap();
        for _ in 0..5000 {
            notify.alive(String::new);
        }
        assert!(heard(&socket).contains(&"READY=1".to_owned()));
        drop(socket);
        notify.alive(String::new);
        assert!(Notify::to(&"/nowhere/notify".into(), None).is_err());
        let mut nobody = Notify::default();
        nobody.alive(|| unreachable!("nobody would hear it"));
        nobody.stopping("ends");
    }

    #[test]
    fn a_status_is_bounded() {
        assert_eq!(short(&"ä".repeat(300)).len(), MAX_STATUS);
    }
}
