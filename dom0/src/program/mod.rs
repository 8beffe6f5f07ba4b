//! The program around the library: state, tasks, events.

mod channel;
mod commands;
mod hypervisor;
mod making;
mod pci;
mod power;
mod terminal;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use abi::sched::ShutdownReason;
use abi::start_info::StartInfo;
use abi::{DomId, Virq};
use dom0::control::Control;
use dom0::cpio;
use dom0::manifest::{self, Domain as Config, Manifest};
use dom0::toolstack::devices::Link;
use dom0::toolstack::{Refusal, Toolstack};
use domain_rt::events::Event;
use domain_rt::runtime::{self, Context};
use domain_rt::{control, heap, hypercall, memory, time};
use embassy_time::Timer;
use ring_proto::path::{Class, Device, FrontDir};

use channel::Channel;
use hypervisor::Hypervisor;
use terminal::Terminal;

/// The manifest's file, unless the command line names another.
const MANIFEST: &str = "ferrule.toml";

/// All there is, borrowed by one task at a time and never across a wait.
struct State {
    tools: Toolstack<Hypervisor>,
    channels: BTreeMap<DomId, Rc<Channel>>,
    terminal: Terminal,
    manifest: Manifest,
    /// What domains print is logged as well.
    log_consoles: bool,
    /// States of devices are logged as they change (`log=debug`).
    log_devices: bool,
    /// The machine is being ended: no more prompts, no more restarts.
    ending: bool,
    awaited: Option<power::Awaited>,
    making: making::Making,
    context: Context,
    pci: pci::Pci,
    /// State keys of the frontends that were seen connected.
    connected: BTreeSet<String>,
    /// This state, for the tasks it starts.
    shared: Weak<RefCell<State>>,
}

type Shared = Rc<RefCell<State>>;

/// What the image starts with.
pub fn run(info: &'static StartInfo) -> ShutdownReason {
    runtime::start(info, |context| main(info, context))
}

async fn main(info: &'static StartInfo, context: Context) {
    let files = memory::module(info);
    let options = context.command_line();
    let option = |name: &str| options.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let state = Rc::new_cyclic(|shared| {
        RefCell::new(State {
            tools: Toolstack::new(Hypervisor::default(), files),
            channels: BTreeMap::new(),
            terminal: Terminal::default(),
            manifest: Manifest::default(),
            log_consoles: options.split_whitespace().any(|word| word == "log-consoles"),
            log_devices: option("log") == Some("debug"),
            ending: false,
            awaited: None,
            making: making::Making::default(),
            context,
            pci: pci::Pci::default(),
            connected: BTreeSet::new(),
            shared: shared.clone(),
        })
    });
    if let Ok(printed) = Event::bind_virq(Virq::CON_RING) {
        context.spawn(keep_prompt(state.clone(), printed));
    }
    match (Event::bind_virq(Virq::CONSOLE), Event::bind_virq(Virq::DOM_EXC)) {
        (Ok(console), Ok(endings)) => {
            context.spawn(listen(state.clone(), console));
            context.spawn(supervise(state.clone(), endings));
        }
        (console, endings) => state.borrow_mut().log("dom0", &format!("no events: {console:?}, {endings:?}")),
    }
    start_manifest(&state, option("manifest").unwrap_or(MANIFEST), info.nr_pages).await;
    let mut state = state.borrow_mut();
    state.log("dom0", "ready");
    state.terminal.open();
}

/// Reads the manifest and starts what starts by itself.
async fn start_manifest(state: &Shared, file: &str, pages: u64) {
    let parsed = {
        let state = state.borrow();
        match cpio::find(state.tools.files, file).map(str::from_utf8) {
            Some(Ok(text)) => manifest::parse(text).map_err(|error| error.to_string()),
            Some(Err(_)) => Err(format!("{file} is not text")),
            None if state.tools.files.is_empty() => Ok(Manifest::default()),
            None => Err(format!("no file {file} in the ramdisk")),
        }
    };
    let (manifest, mistakes) = match parsed {
        Ok(manifest) => (manifest, None),
        Err(mistakes) => (Manifest::default(), Some(mistakes)),
    };
    let domains = manifest.domains.clone();
    {
        let mut state = state.borrow_mut();
        state.manifest = manifest;
        state.log("dom0", &format!("up, {} MiB, {} domains in the manifest", pages >> 8, domains.len()));
        if let Some(mistakes) = mistakes {
            state.log("dom0", &format!("manifest: {mistakes}"));
        }
        let functions: Vec<_> = domains.iter().flat_map(|config| config.pci.iter().copied()).collect();
        // What cannot be measured is said when the domain that wants it is made.
        for function in functions {
            let _ = state.measure(&[function]);
        }
    }
    for config in domains.iter().filter(|config| config.autostart) {
        let _ = start(state, config).await;
    }
}

/// Makes a domain, connects its rings and lets it run; the log says how that went. Others go on while its kernel is
/// unpacked.
async fn start(state: &Shared, config: &Config) -> Result<(), Refusal> {
    let since = time::now();
    let unpacked = making::unpack(state, config, |_| true).await;
    let started = unpacked.and_then(|()| try_start(state, config, since));
    state.borrow_mut().log_start(&config.name, &started);
    started.map(drop)
}

/// What making a domain took.
struct Created {
    domain: DomId,
    memory: u32,
    /// Nanoseconds.
    time: u64,
    /// Bytes that the core needs for it besides its memory, and bytes of dom0's heap.
    core: u64,
    dom0: usize,
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain: DomId(domain), memory, time, core, dom0 } = self;
        write!(f, "created, domain {domain}, {memory} MiB, in {}, ", Milliseconds(*time))?;
        write!(f, "{} KiB of the core, {dom0} bytes of dom0", core >> 10)
    }
}

/// Bytes of the machine that nobody has.
fn free_memory() -> u64 {
    control::free_memory().unwrap_or_default()
}

/// A time in nanoseconds, for people.
struct Milliseconds(u64);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} ms", self.0 / 1_000_000, self.0 / 1000 % 1000)
    }
}

/// Makes a domain, connects its rings and lets it run; it was asked for at `since`.
fn try_start(state: &Shared, config: &Config, since: u64) -> Result<Created, Refusal> {
    let (free, used) = (free_memory(), heap::used());
    let mut borrowed = state.borrow_mut();
    let built = borrowed.tools.create(config, time::now())?;
    let channel = match Channel::open(&built) {
        Ok(channel) => Rc::new(channel),
        Err(errno) => {
            let _ = borrowed.tools.destroy(built.domain);
            return Err(errno.into());
        }
    };
    borrowed.channels.insert(built.domain, channel.clone());
    let context = borrowed.context;
    context.spawn(channel::serve(state.clone(), built.domain, channel));
    let started =
        borrowed.give_devices(built.domain).and_then(|()| Ok(borrowed.tools.control.unpause(built.domain)?));
    if let Err(refusal) = started {
        let _ = borrowed.tools.destroy(built.domain);
        borrowed.sweep();
        return Err(refusal);
    }
    borrowed.watch_devices(built.domain);
    borrowed.pump();
    let own = u64::from(config.memory) << 20;
    Ok(Created {
        domain: built.domain,
        memory: config.memory,
        time: time::now() - since,
        core: free.saturating_sub(free_memory()).saturating_sub(own),
        dom0: heap::used().saturating_sub(used),
    })
}

impl State {
    /// Waits for the next restart that is due.
    fn plan_restarts(&mut self) {
        let due = self.tools.next_due().filter(|_| !self.ending);
        if let (Some(at), Some(state)) = (due, self.shared.upgrade()) {
            self.context.spawn(restart(state, at));
        }
    }

    /// Writes into the log how a domain's start went.
    fn log_start(&mut self, name: &str, started: &Result<Created, Refusal>) {
        match started {
            Ok(created) => self.log(name, &created.to_string()),
            Err(refusal) => self.log(name, &format!("not created: {refusal}")),
        }
    }

    /// Writes a line of the log.
    fn log(&mut self, who: &str, what: &str) {
        let now = time::now() / 1_000_000;
        self.terminal.print(&format!("[{:3}.{:03}] {who}: {what}", now / 1000, now % 1000));
    }

    /// Delivers what waits in the store's queues, and sees to what dom0 itself watches.
    fn pump(&mut self) {
        loop {
            let ready: Vec<DomId> = self.tools.store.ready().collect();
            for domain in ready {
                if self.turn(domain)
                    && let Some(channel) = self.channels.get(&domain)
                {
                    channel.kick();
                }
            }
            if !self.own_events() {
                break;
            }
        }
        for hit in self.tools.store.take_quota_hits() {
            let line = hit.to_string();
            let line = line.strip_prefix("store: ").unwrap_or(&line).to_string();
            self.log("store", &line);
        }
    }

    /// Serves one domain's store ring for a turn; whether there is more to do at once.
    fn turn(&mut self, domain: DomId) -> bool {
        let Some(channel) = self.channels.get(&domain).cloned() else {
            // dom0's own events, and those of a domain that is just going.
            return false;
        };
        let turn = channel.store.borrow_mut().turn(&mut self.tools.store);
        if turn.notify {
            channel.store_event.notify();
        }
        if let Some(corrupt) = turn.broken {
            self.log("store", &format!("domain {}: connection ended: {corrupt:?}", domain.0));
        }
        turn.again
    }

    /// Watches both ends of a new domain's devices.
    fn watch_devices(&mut self, domain: DomId) {
        let devices: Vec<Device> =
            self.tools.get(domain).into_iter().flat_map(|r| r.devices.iter().map(|link| link.device)).collect();
        for device in devices {
            // A watch that is there already, from the backend before, serves as well.
            let _ = self.tools.store.watch(&format!("{}/state", FrontDir(device)), "device");
        }
    }

    /// What dom0 itself watches; whether there was any news.
    fn own_events(&mut self) -> bool {
        let mut any = false;
        while let Some((path, token)) = self.tools.store.next_event() {
            any = true;
            if token == "shell" {
                let value = self.tools.store.get(&path).unwrap_or_else(|| "(gone)".into());
                self.terminal.print(&format!("{path} = {value}"));
            } else {
                self.device_changed(&path);
            }
        }
        any
    }

    /// The state of a frontend, at `path`, has changed.
    fn device_changed(&mut self, path: &str) {
        let found = self.tools.domains().find_map(|running| {
            let is_it = |link: &&Link| path.strip_suffix("/state") == Some(FrontDir(link.device).to_string().as_str());
            running.devices.iter().find(is_it).map(|link| (running.config.name.clone(), link.clone()))
        });
        let Some((name, link)) = found else {
            // The device of a domain that is gone.
            self.connected.remove(path);
            let _ = self.tools.store.unwatch(path, "device");
            return;
        };
        let Device { class, handle, front, .. } = link.device;
        if class == Class::PCI {
            self.pci_step(front);
        }
        let device_state = self.tools.store.get(path);
        if self.log_devices {
            let now = device_state.as_deref().unwrap_or("gone");
            self.log(&name, &format!("{} {handle}: frontend in state {now}", class.name()));
        }
        let connected = device_state.as_deref() == Some("4");
        if !connected {
            self.connected.remove(path);
        } else if self.connected.insert(path.to_string()) {
            self.log(&name, &format!("{} {handle}: connected to {}", class.name(), link.backend_name));
        }
    }

    /// Drops what the program holds of domains that are no more.
    fn sweep(&mut self) {
        let gone: Vec<DomId> =
            self.channels.keys().copied().filter(|domain| self.tools.get(*domain).is_none()).collect();
        for domain in gone {
            if let Some(channel) = self.channels.remove(&domain) {
                channel.close();
            }
            self.forget_devices(domain);
            self.terminal.gone(domain);
        }
        self.pump();
        self.tell_of_endings();
    }
}

/// Takes what is typed.
async fn listen(state: Shared, event: Event) {
    loop {
        let mut bytes = [0; 128];
        while let Ok(count) = hypercall::console_read(&mut bytes)
            && count > 0
        {
            terminal::input(&state, bytes.get(..count).unwrap_or_default());
        }
        event.wait().await;
    }
}

/// Draws the prompt again when the hypervisor has printed. Xen says so; Ferrule puts its lines above the prompt itself.
async fn keep_prompt(state: Shared, event: Event) {
    loop {
        event.wait().await;
        state.borrow().terminal.redraw();
    }
}

/// Sees domains end, and starts again those that are to be.
async fn supervise(state: Shared, event: Event) {
    loop {
        event.wait().await;
        bury(&state);
    }
}

/// Looks for endings.
fn bury(state: &Shared) {
    let now = time::now();
    let mut borrowed = state.borrow_mut();
    for ending in borrowed.tools.bury(now) {
        let reason = match ending.reason {
            ShutdownReason::POWEROFF => "poweroff".to_string(),
            ShutdownReason::REBOOT => "reboot".to_string(),
            ShutdownReason::CRASH => "crash".to_string(),
            ShutdownReason::WATCHDOG => "watchdog".to_string(),
            other => other.0.to_string(),
        };
        let then = match (ending.action, ending.restart_at) {
            _ if borrowed.ending => "destroyed".into(),
            (manifest::Action::Restart, Some(at)) if at > now => {
                format!("restart in {} s", (at - now).div_ceil(1_000_000_000))
            }
            (manifest::Action::Restart, _) => "restart".into(),
            (manifest::Action::Destroy, _) => "destroyed".into(),
            (manifest::Action::Preserve, _) => "preserved".into(),
        };
        borrowed.log(&ending.name, &format!("ended: {reason}, {then}"));
    }
    borrowed.sweep();
    borrowed.plan_restarts();
}

/// Starts what is due at `at`.
async fn restart(state: Shared, at: u64) {
    let wait = at.saturating_sub(time::now());
    if wait > 0 {
        Timer::after_nanos(wait).await;
    }
    let due = state.borrow_mut().tools.due(time::now());
    for config in due {
        // Its backend may be down as well, and back soon.
        if start(&state, &config).await.is_err() {
            state.borrow_mut().tools.put_off(config, time::now());
        }
    }
    state.borrow_mut().plan_restarts();
}
