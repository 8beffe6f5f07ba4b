//! One QEMU: its command line, its serial line as it comes, and its end.

use crate::process::Guarded;
use crate::screen;
use crate::unable;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The program.
pub const QEMU: &str = "qemu-system-x86_64";

/// All that QEMU's translator has, but for SMAP: 7.2 faults a ring-3 iretq to ring 3 under it (docs/caveats.md).
pub const WHOLE_CPU: &str = "max,-smap";

/// What executes guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// QEMU's own translator, on any machine
    Tcg,
    /// Hardware, where /proc/cpuinfo shows vmx or svm
    Kvm,
    /// kvm where it is real, else tcg
    Auto,
}

impl Accel {
    /// `Tcg` or `Kvm`; an error if kvm was asked for and this machine only pretends to have it.
    pub fn resolve(self) -> Result<Accel> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let real = has_virtualization(&cpuinfo) && File::options().read(true).write(true).open("/dev/kvm").is_ok();
        match self {
            Accel::Kvm if !real => unable!(
                "--accel kvm: this machine has no usable KVM (vmx or svm in /proc/cpuinfo, and /dev/kvm open to you); \
                 --accel tcg works anywhere"
            ),
            Accel::Auto => Ok(if real { Accel::Kvm } else { Accel::Tcg }),
            asked => Ok(asked),
        }
    }

    /// Its name on QEMU's command line and on the first screen.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg | Accel::Auto => "tcg",
        }
    }
}

fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_whitespace).any(|flag| flag == "vmx" || flag == "svm")
}

/// A machine to start.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The multiboot kernel.
    pub kernel: PathBuf,
    /// Its command line.
    pub append: String,
    /// Modules as QEMU takes them: `IMAGE ARGS,RAMDISK`.
    pub initrd: String,
    /// The model of the CPUs; none: `qemu64` where instructions are counted, else all that QEMU has.
    pub cpu: Option<&'static str>,
    /// Number of CPUs.
    pub smp: u32,
    /// Memory in MiB.
    pub mem: u32,
    /// `Tcg` or `Kvm`.
    pub accel: Accel,
    /// Count instructions: one virtual nanosecond each, one CPU, exact.
    pub icount: bool,
    /// Under icount: idle time passes as the host's does, for a machine that talks to the host. Else it is skipped.
    pub idles: bool,
    /// Let the core end QEMU with its own exit codes; without it a power-off goes by ACPI.
    pub debug_exit: bool,
    /// Devices and whatever else.
    pub extra: Vec<String>,
}

impl Machine {
    /// A machine of one CPU and 256 MiB under TCG.
    pub fn new(kernel: &Path, append: &str, initrd: &str) -> Machine {
        Machine {
            kernel: kernel.to_path_buf(),
            append: append.into(),
            initrd: initrd.into(),
            cpu: None,
            smp: 1,
            mem: 256,
            accel: Accel::Tcg,
            icount: false,
            idles: false,
            debug_exit: true,
            extra: Vec::new(),
        }
    }

    /// QEMU's arguments.
    pub fn args(&self) -> Vec<String> {
        let mut args = self.board();
        let kernel = ["-kernel", &self.kernel.display().to_string(), "-append", &self.append];
        args.extend(kernel.map(str::to_string));
        if !self.initrd.is_empty() {
            args.extend(["-initrd".to_string(), self.initrd.clone()]);
        }
        args.extend(self.extra.iter().cloned());
        args
    }

    /// Those of the bare machine: no default devices, the serial line on our pipes, an exit code for each kind of end.
    pub fn board(&self) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        let mut add = |list: &[&str]| args.extend(list.iter().map(|arg| arg.to_string()));
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"]);
        add(&["-m", &format!("{}M", self.mem)]);
        if self.icount {
            add(&["-accel", "tcg,thread=single", "-cpu", self.cpu.unwrap_or("qemu64"), "-smp", "1"]);
            add(&["-icount", if self.idles { "shift=0" } else { "shift=0,sleep=off" }]);
            add(&["-rtc", "base=2020-01-01,clock=vm"]);
        } else {
            let accel = if self.accel == Accel::Kvm { "kvm" } else { "tcg,thread=multi" };
            let cpu = if self.accel == Accel::Kvm { "host" } else { WHOLE_CPU };
            let cpu = self.cpu.unwrap_or(cpu);
            add(&["-accel", accel, "-cpu", cpu, "-smp", &self.smp.to_string()]);
        }
        add(&["-chardev", "stdio,id=serial0,signal=off", "-serial", "chardev:serial0"]);
        if self.debug_exit {
            add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        }
        args
    }

    /// Starts it; all that the serial line says goes to `log` as well.
    pub fn start(&self, log: &Path) -> Result<Running> {
        Running::start(QEMU, &self.args(), log)
    }
}

/// One line of the serial output, without its end and its escape sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Wall time since QEMU was started, when the line was complete.
    pub at: Duration,
    /// What it says.
    pub text: String,
}

/// Serial output, cut into lines as it comes.
#[derive(Default)]
struct Lines {
    whole: Vec<Line>,
    partial: Vec<u8>,
    /// The guest whose console it is, where no dom0 speaks for it.
    guest: Option<String>,
}

impl Lines {
    fn push(&mut self, chunk: &[u8], at: Duration) {
        for byte in chunk {
            match byte {
                b'\n' => {
                    let mut text = screen::line(&String::from_utf8_lossy(&self.partial));
                    if let Some(guest) = &self.guest {
                        text = format!("[{:7.3}] {guest}: console: {text}", at.as_secs_f64());
                    }
                    self.whole.push(Line { at, text });
                    self.partial.clear();
                }
                _ => self.partial.push(*byte),
            }
        }
    }

    fn partial(&self) -> String {
        screen::line(&String::from_utf8_lossy(&self.partial))
    }
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Power-off: 33 by isa-debug-exit, or 0 by ACPI.
    PowerOff,
    /// The initial domain crashed: 35.
    DomainCrash,
    /// The core panicked: 37.
    CorePanic,
    /// It was still running when its time was over, and was ended.
    TimeOut,
    /// Any other exit code, QEMU's own failures among them; `None` for a signal.
    Other(Option<i32>),
}

impl Ending {
    /// What QEMU's exit code says, by the core's documented values.
    pub fn from_code(code: Option<i32>) -> Ending {
        match code {
            Some(0 | 33) => Ending::PowerOff,
            Some(35) => Ending::DomainCrash,
            Some(37) => Ending::CorePanic,
            other => Ending::Other(other),
        }
    }
}

/// Turns the debug keys of ours and of Xen on and off.
pub const KEYS: &[u8] = b"\x01\x01\x01";
/// How long a machine may talk of itself once it has kept somebody waiting in vain.
const ANSWER: Duration = Duration::from_secs(2);

/// How long the thread that reads the serial line of an ended machine may be kept from it by a busy host.
const LATE: Duration = Duration::from_secs(30);

/// A machine that runs. It ends when this value goes.
pub struct Running {
    guard: Guarded,
    stdin: Option<std::process::ChildStdin>,
    chunks: Receiver<Vec<u8>>,
    messages: Option<JoinHandle<String>>,
    said: String,
    start: Instant,
    lines: Lines,
    /// Where the serial output is kept.
    pub log: PathBuf,
}

impl Running {
    /// Starts a program whose standard streams are the serial line.
    pub fn start(program: &str, args: &[String], log: &Path) -> Result<Running> {
        let guard = Guarded::spawn(program, args, |command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        })?;
        let mut file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let mut stdout = guard.child().stdout.take().context("QEMU's output")?;
        let mut stderr = guard.child().stderr.take().context("QEMU's messages")?;
        let (sender, chunks) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stdout.read(&mut buffer) {
                let chunk = buffer[..len].to_vec();
                let _ = file.write_all(&chunk);
                if sender.send(chunk).is_err() {
                    break;
                }
            }
        });
        let messages = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).trim().to_string()
        });
        let stdin = guard.child().stdin.take();
        let start = Instant::now();
        Ok(Running {
            guard,
            stdin,
            chunks,
            messages: Some(messages),
            said: String::new(),
            start,
            lines: Lines::default(),
            log: log.into(),
        })
    }

    /// The serial line is a guest's console: from here on its lines have the form that dom0 gives them
    /// (docs/console-protocol.md), after one that says that the guest was created.
    pub fn is_console_of(&mut self, guest: &str) {
        let at = self.start.elapsed();
        let text = format!("[{:7.3}] {guest}: created natively", at.as_secs_f64());
        self.lines.whole.push(Line { at, text });
        self.lines.guest = Some(guest.into());
    }

    /// The next bytes of the serial line within `limit`; `None` when the time or the machine is over.
    pub fn read(&mut self, limit: Duration) -> Option<Vec<u8>> {
        match self.chunks.recv_timeout(limit) {
            Ok(chunk) => {
                self.lines.push(&chunk, self.start.elapsed());
                Some(chunk)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                // The machine is ending; do not let the caller's loop spin until it has.
                thread::sleep(limit.min(Duration::from_millis(5)));
                None
            }
        }
    }

    /// Takes what the serial line has said; of a machine that has ended all of it, though our reader may come to it late.
    fn take_what_came(&mut self, ended: bool) {
        let limit = if ended { LATE } else { Duration::ZERO };
        while let Ok(chunk) = self.chunks.recv_timeout(limit) {
            self.lines.push(&chunk, self.start.elapsed());
        }
    }

    /// The lines so far.
    pub fn lines(&self) -> &[Line] {
        &self.lines.whole
    }

    /// The line that has not ended yet: a prompt is one.
    pub fn partial(&self) -> String {
        self.lines.partial()
    }

    /// Waits for the first line from index `from` on that `wanted` takes, and returns its index.
    /// `None` when `limit` is over or the machine has ended.
    pub fn wait_line(&mut self, from: usize, limit: Duration, wanted: impl Fn(&str) -> bool) -> Option<usize> {
        self.wait_for(from, limit, |lines, _| lines.iter().position(|line| wanted(&line.text)))
    }

    /// Waits until `found` says so of the lines from `from` on and of the unfinished one. The index it gives counts
    /// from `from`; the result counts from the beginning.
    pub fn wait_for(
        &mut self,
        from: usize,
        limit: Duration,
        found: impl Fn(&[Line], &str) -> Option<usize>,
    ) -> Option<usize> {
        let end = Instant::now() + limit;
        loop {
            let ended = self.ended();
            self.take_what_came(ended);
            let from = from.min(self.lines.whole.len());
            if let Some(index) = found(&self.lines.whole[from..], &self.partial()) {
                return Some(from + index);
            }
            let left = end.saturating_duration_since(Instant::now());
            if ended {
                return None;
            }
            if left.is_zero() {
                self.ask_why();
                return None;
            }
            self.read(left.min(Duration::from_millis(100)));
        }
    }

    /// What was waited for did not come: has the hypervisor, ours or Xen, tell the log what runs and which events are
    /// pending.
    fn ask_why(&mut self) {
        if self.send(&[KEYS, b"qe", KEYS].concat()).is_ok() {
            let end = Instant::now() + ANSWER;
            while Instant::now() < end && self.read(ANSWER).is_some() {}
        }
    }

    /// Types on the serial line.
    pub fn send(&mut self, text: &[u8]) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the serial line is closed")?;
        stdin.write_all(text).and_then(|()| stdin.flush()).context("typing on the serial line")
    }

    /// Takes the serial line's input end, for a thread that types what a person types.
    pub fn take_input(&mut self) -> Option<std::process::ChildStdin> {
        self.stdin.take()
    }

    /// Whether the machine has ended by itself.
    pub fn ended(&self) -> bool {
        matches!(self.guard.child().try_wait(), Ok(Some(_)))
    }

    /// Waits for the machine's own end, or ends it after `limit`. Reads the serial line to its end.
    pub fn finish(&mut self, limit: Duration) -> Result<Ending> {
        let end = Instant::now() + limit;
        while !self.ended() && Instant::now() < end {
            self.read(Duration::from_millis(20));
        }
        let status = self.guard.wait(Duration::ZERO)?;
        self.take_what_came(status.is_some());
        if !self.lines.partial.is_empty() {
            self.lines.push(b"\n", self.start.elapsed());
        }
        Ok(status.map_or(Ending::TimeOut, |status| Ending::from_code(status.code())))
    }

    /// Ends the machine now and returns what QEMU itself had to say.
    pub fn end(mut self) -> String {
        let _ = self.guard.child().kill();
        let _ = self.guard.child().wait();
        self.said()
    }

    /// Why something waited for did not come, for whoever reads the error: the time was over, or the machine.
    pub fn missed(&mut self, limit: Duration) -> String {
        match self.ended() {
            true => format!("before QEMU ended; it says: {:?}", self.said()),
            false => format!("within {} s", limit.as_secs()),
        }
    }

    /// What QEMU itself printed, to its end.
    fn said(&mut self) -> String {
        if let Some(reader) = self.messages.take() {
            self.said = reader.join().unwrap_or_default();
        }
        self.said.clone()
    }
}

/// Ports below those that Linux gives to outgoing connections: one of these could take a port before QEMU does.
const PORTS: std::ops::Range<u16> = 20_000..32_768;
/// Where the next search begins.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A TCP port of 127.0.0.1 that nobody listens on at this moment; another one each time.
pub fn free_port() -> Result<u16> {
    // Programs that look at the same time begin at different places.
    let first = std::process::id().wrapping_mul(97) as usize;
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut ports = PORTS.map(|_| {
        let at = first + usize::from(NEXT.fetch_add(1, Ordering::Relaxed));
        PORTS.start + (at % PORTS.len()) as u16
    });
    ports.find(is_free).context("no free port of 127.0.0.1 from 20000 to 32767")
}

/// Refuses a port that somebody else listens on.
pub fn require_free_port(port: u16) -> Result<()> {
    if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
        unable!("port {port} of 127.0.0.1 is in use; take another: --http-port {}", free_port()?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualization_is_a_whole_flag() {
        assert!(has_virtualization("processor: 0\nflags\t\t: fpu vmx smx\n"));
        assert!(has_virtualization("flags : svm"));
        assert!(!has_virtualization("flags : fpu vmxnet\nmodel name : vmx\n"));
    }

    #[test]
    fn lines_are_cut_and_cleaned_as_they_come() {
        let mut lines = Lines::default();
        lines.push(b"\x1b[0K\x1b[1;32mone\x1b[0m\r\ntw", Duration::from_secs(1));
        lines.push(b"o\nprompt# ab\r\x1b[K[ 1.0] log\r\nprompt# ", Duration::from_secs(2));
        let texts: Vec<_> = lines.whole.iter().map(|line| (line.at.as_secs(), line.text.as_str())).collect();
        assert_eq!(texts, [(1, "one"), (2, "two"), (2, "[ 1.0] log")]);
        assert_eq!(lines.partial(), "prompt# ");
    }

    #[test]
    fn what_an_ended_machine_said_is_waited_for() {
        let log = std::env::temp_dir().join(format!("ferrule-late-{}.log", std::process::id()));
        let mut machine = Running::start("true", &[], &log).unwrap();
        std::fs::remove_file(log).unwrap();
        // A reader that has no CPU for a while.
        let (sender, chunks) = channel();
        machine.chunks = chunks;
        let reader = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            sender.send(b"SUCCESS\r\n".to_vec())
        });
        assert_eq!(machine.finish(Duration::from_secs(10)).unwrap(), Ending::PowerOff);
        assert_eq!(machine.lines().first().map(|line| line.text.as_str()), Some("SUCCESS"));
        reader.join().unwrap().unwrap();
    }

    #[test]
    fn each_documented_exit_code_has_its_meaning() {
        assert_eq!(Ending::from_code(Some(33)), Ending::PowerOff);
        assert_eq!(Ending::from_code(Some(0)), Ending::PowerOff);
        assert_eq!(Ending::from_code(Some(35)), Ending::DomainCrash);
        assert_eq!(Ending::from_code(Some(37)), Ending::CorePanic);
        assert_eq!(Ending::from_code(Some(1)), Ending::Other(Some(1)));
        assert_eq!(Ending::from_code(None), Ending::Other(None));
    }

    #[test]
    fn a_port_in_use_is_a_mistake_with_a_way_out() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let error = require_free_port(port).unwrap_err();
        assert_eq!(crate::fail::code(&error), 2);
        assert!(error.to_string().contains("--http-port"), "{error}");
        assert!(require_free_port(free_port().unwrap()).is_ok());
    }

    #[test]
    fn instruction_counting_excludes_everything_that_is_not_exact() {
        let mut machine = Machine::new(Path::new("core"), "", "");
        machine.icount = true;
        machine.smp = 4;
        let args = machine.args().join(" ");
        assert!(args.contains("-icount shift=0,sleep=off") && args.contains("-smp 1"), "{args}");
        assert!(!args.contains("thread=multi") && !args.contains("-smp 4"), "{args}");
    }
}
