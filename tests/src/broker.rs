//! A real Mosquitto on a free loopback port.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, kill_process};

use crate::process::{Log, Process};
use crate::programs::system;
use crate::wait::until;

/// Ports tried before giving up: another program may take a free one first.
const TRIES: usize = 20;

/// What a broker remembers over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Nothing, retained messages included.
    None,
    /// What it last wrote to its disk, as Mosquitto's packages configure it: at a good end, every half hour, and
    /// after [`Broker::save`].
    Saved,
}

/// A running broker; restarted on the same port it remembers what its [`Memory`] says.
pub struct Broker {
    /// Its port.
    pub port: u16,
    process: Process,
    config: PathBuf,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has free ports");
    socket.local_addr().expect("a bound socket has an address").port()
}

impl Broker {
    /// Starts one with its configuration and log in `folder`.
    pub fn start(folder: &Path) -> Self {
        Self::with(folder, Memory::None, "")
    }

    /// The same, of a broker that remembers as `memory` says.
    pub fn with_memory(folder: &Path, memory: Memory) -> Self {
        Self::with(folder, memory, "")
    }

    /// Starts one whose configuration has `more` lines.
    pub fn start_with(folder: &Path, more: &str) -> Self {
        Self::with(folder, Memory::None, more)
    }

    fn with(folder: &Path, memory: Memory, more: &str) -> Self {
        let persistence = match memory {
            Memory::None => "persistence false".to_owned(),
            Memory::Saved => {
                let kept = folder.join("mosquitto");
                fs::create_dir_all(&kept).expect("a temporary folder can be made");
                // As root it would give up its rights, and with them this folder.
                format!("persistence true\npersistence_location {}/\nuser root", kept.display())
            }
        };
        let config = folder.join("mosquitto.conf");
        let log = Log::new(&folder.join("mosquitto.log"));
        for _ in 0..TRIES {
            let port = free_port();
            fs::write(
                &config,
                format!(
                    // Without this the kernel holds small messages back for 40 ms.
                    "listener {port} 127.0.0.1\nallow_anonymous true\n{persistence}\nset_tcp_nodelay true\n\
                      {more}\
                     log_dest stderr\nlog_type error\nlog_type warning\nlog_type notice\nlog_type subscribe\n"
                ),
            )
            .expect("a temporary folder can be written");
            let mut broker = Self { port, process: launch(&config, &log), config: config.clone() };
            if broker.comes_up() {
                return broker;
            }
        }
        panic!("mosquitto does not start:\n{}", log.tail());
    }

    fn comes_up(&mut self) -> bool {
        until("answer of mosquitto", || {
            if self.process.ended().is_some() {
                return Some(false);
            }
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok().map(|_| true)
        })
    }

    /// `mqtt://…`.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.process.log
    }

    /// Makes it write to its disk what it knows now; a later restart goes back to this, however old it is by then.
    pub fn save(&self) {
        kill_process(self.process.pid(), Signal::USR1)
            .expect("a child that was not waited for can be signalled");
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port after it was ended.
    pub fn restart(&mut self) {
        self.process.kill();
        let log = self.process.log.clone();
        until("restart of mosquitto on its port", || {
            self.process = launch(&self.config, &log);
            self.comes_up().then_some(())
        });
    }
}

fn launch(config: &Path, log: &Log) -> Process {
    let mosquitto = system("mosquitto", "mosquitto mosquitto-clients");
    Process::start("mosquitto", Command::new(mosquitto).arg("-c").arg(config), log, None)
}
