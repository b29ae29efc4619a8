//! A gateway's hardware: qemu as an arm64 machine that starts by UEFI. Its network reaches what the test forwards
//! and nothing else.

use std::env;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::disk::Disk;
use crate::broker::free_port;
use crate::process::{Log, Process};
use crate::programs::system;
use crate::wait::within;

/// Where the guest sees the host's services.
pub const HOST: &str = "10.0.2.100";
/// The broker of the data plane in the guest.
const DATA_PORT: u16 = 1883;
/// Where Debian's package qemu-efi-aarch64 puts its firmware.
const FIRMWARE: &str = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd";
const MEMORY_MIB: u32 = 1024;
/// An emulated machine of two cores on a busy one of two cores takes its time.
pub(super) const BOOT: Duration = Duration::from_mins(15);

/// See the module's documentation.
pub struct Machine {
    /// qemu; its standard error is the machine's serial console.
    pub process: Process,
    /// On this machine; leads to the gateway's data plane.
    pub data_port: u16,
    control: PathBuf,
    folder: PathBuf,
    cpu: String,
    forwards: Vec<(u16, u16)>,
    disk: PathBuf,
}

impl Machine {
    /// Switches a machine with `disk` on. Each of `forwards` is a port of [`HOST`] and the port of the host's loopback
    /// it leads to.
    pub fn start(folder: &Path, disk: &Disk, cpu: &str, forwards: &[(u16, u16)]) -> Self {
        let log = Log::new(&folder.join("console.log"));
        let data_port = free_port();
        let control = folder.join("qmp");
        let process = launch(folder, &disk.path, cpu, forwards, data_port, &log);
        Self {
            process,
            data_port,
            control,
            folder: folder.to_owned(),
            cpu: cpu.to_owned(),
            forwards: forwards.to_vec(),
            disk: disk.path.clone(),
        }
    }

    /// Everything that appeared on the console, over all starts.
    pub fn console(&self) -> &Log {
        &self.process.log
    }

    /// Waits for a line on the console; the test ends when the machine does.
    pub fn wait(&mut self, mark: usize, needles: &[&str]) -> String {
        let log = self.process.log.clone();
        within(BOOT, &format!("line with {needles:?} on the console"), || {
            let found = log.find(mark, needles);
            assert!(found.is_some() || self.process.ended().is_none(), "the machine went off by itself");
            found
        })
        .unwrap_or_else(|late| panic!("{late}"))
    }

    /// The power is gone.
    pub fn cut(&mut self) {
        self.process.kill();
    }

    /// Switches it on again.
    pub fn start_again(&mut self) {
        let log = self.process.log.clone();
        self.process = launch(&self.folder, &self.disk, &self.cpu, &self.forwards, self.data_port, &log);
    }

    /// Presses the power button and waits until the machine has switched itself off.
    pub fn shut_down(&mut self) {
        self.ask(&json!({"execute": "system_powerdown"}));
        let status = within(BOOT, "end of the machine after its power button", || self.process.ended());
        let status = status.unwrap_or_else(|late| panic!("{late}"));
        assert!(status.success(), "qemu ended with {status}");
    }

    /// Lets the card take so many writes a second; 0 for as many as come.
    pub fn limit_writes(&self, per_second: u32) {
        self.ask(&json!({"execute": "block_set_io_throttle", "arguments": {
            "device": "card", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": per_second
        }}));
    }

    /// One command to qemu (QMP).
    fn ask(&self, command: &Value) {
        let stream = UnixStream::connect(&self.control).expect("qemu listens while it runs");
        let mut lines = BufReader::new(stream.try_clone().expect("a socket has a second handle")).lines();
        let mut stream = stream;
        for command in [&json!({"execute": "qmp_capabilities"}), command] {
            writeln!(stream, "{command}").expect("qemu reads its commands");
            // Greeting and events may come before the answer.
            let answer = lines.by_ref().map_while(Result::ok).find_map(|line| {
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                (line.get("return").is_some() || line.get("error").is_some()).then_some(line)
            });
            let answer = answer.expect("qemu answers");
            assert!(answer.get("error").is_none(), "qemu refuses {command}: {answer}");
        }
    }
}

fn launch(
    folder: &Path,
    disk: &Path,
    cpu: &str,
    forwards: &[(u16, u16)],
    data_port: u16,
    log: &Log,
) -> Process {
    let own = env::current_exe().expect("an executable has a path");
    let mut network = format!("user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{data_port}-:{DATA_PORT}");
    for (guest, host) in forwards {
        // qemu starts one of these for each connection.
        let _infallible = write!(network, ",guestfwd=tcp:{HOST}:{guest}-cmd:{} relay {host}", own.display());
    }
    let mut command =
        Command::new(system("qemu-system-aarch64", "qemu-system-arm (from bookworm-backports)"));
    command.args(["-M", "virt", "-cpu", cpu, "-smp", "2", "-accel", "tcg,thread=multi"]);
    command.args(["-m", &MEMORY_MIB.to_string(), "-bios", FIRMWARE, "-display", "none", "-no-reboot"]);
    command.args(["-monitor", "none", "-serial", "file:/dev/stderr"]);
    command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", folder.join("qmp").display()));
    command.arg("-drive").arg(format!("file={},format=raw,if=none,id=card,cache=writeback", disk.display()));
    command.args(["-device", "virtio-blk-pci,drive=card,id=disk"]);
    command.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=n0,romfile="]);
    Process::start("qemu", &mut command, log, None)
}
