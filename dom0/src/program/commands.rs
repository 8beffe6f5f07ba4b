//! What each command does.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::{DomId, Errno};
use dom0::control::{Control, Status};
use dom0::cpio;
use dom0::manifest::{self, Domain as Config};
use dom0::nearest::suggestion;
use dom0::shell::{Command, StoreCommand, Table, command, figures};
use dom0::toolstack::Refusal;
use domain_rt::{console, control, heap, memory, time};
use ring_proto::path::{BackDir, Class, FrontDir};
use ring_proto::store::StoreError;
use ring_proto::xenbus::State as Xenbus;

use super::{Shared, State, making};

/// Why a command failed, in a line.
struct Failure(String);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.to_string())
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self(format!("the hypervisor refused: {errno:?}"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

type Result<T> = core::result::Result<T, Failure>;

/// Does it and prints the result.
pub fn carry_out(state: &Shared, command: Command) {
    match try_carry_out(state, command) {
        Ok(text) if text.is_empty() => {}
        Ok(text) => console::print(format_args!("{text}\n")),
        Err(Failure(error)) => console::print(format_args!("error: {error}\n")),
    }
}

fn try_carry_out(shared: &Shared, command: Command) -> Result<String> {
    let none = Ok(String::new());
    if let Command::Create(name) = &command {
        return create(shared, name);
    }
    let mut state = shared.borrow_mut();
    match command {
        Command::List => state.list(),
        Command::Info(None) => machine(),
        Command::Info(Some(name)) => state.info(&name),
        Command::Create(_) => none,
        Command::Destroy(name) => state.destroy(&name),
        Command::Shutdown(name) => state.ask(&name, "poweroff"),
        Command::Reboot(name) => state.ask(&name, "reboot"),
        Command::Pause(name) => state.hold(&name, true),
        Command::Unpause(name) => state.hold(&name, false),
        Command::Console(name) => {
            let domain = state.find(&name)?;
            let name = state.name(domain);
            let channel = state.channels.get(&domain).cloned().ok_or_else(|| Failure("no console".into()))?;
            state.terminal.connect(domain, &name, &channel);
            none
        }
        Command::MemSet(name, mib) => state.set_memory(&name, mib),
        Command::NetworkList { domain, verbose } => state.devices(Class::VIF, domain, verbose),
        Command::BlockList { domain, verbose } => state.devices(Class::VBD, domain, verbose),
        Command::Store(command) => state.store(command),
        Command::Dmesg => dmesg(),
        Command::Uptime => Ok(format!("{}.{:03} s", time::now() / 1_000_000_000, time::now() / 1_000_000 % 1000)),
        Command::Help(of) => command::help(of.as_deref()).map_err(Failure),
        Command::PowerOff => {
            state.ending = true;
            state.give_up();
            let context = state.context;
            context.spawn(super::power::power_off(Rc::clone(shared)));
            none
        }
    }
}

/// Starts a domain of the manifest, or all of a manifest in the ramdisk.
fn create(shared: &Shared, name: &str) -> Result<String> {
    let configs: Vec<Config> = {
        let state = shared.borrow();
        match state.manifest.domains.iter().find(|config| config.name == name) {
            Some(config) => Vec::from([config.clone()]),
            None => {
                let file = cpio::find(state.tools.files, name).ok_or_else(|| state.nothing_to_start(name))?;
                let text = str::from_utf8(file).map_err(|_| Failure(format!("{name} is not text")))?;
                manifest::parse(text).map_err(|error| Failure(format!("{name}: {error}")))?.domains
            }
        }
    };
    for config in &configs {
        if !making::make(shared, config)? {
            let mut state = shared.borrow_mut();
            state.log(&config.name, &format!("unpacking {}; Ctrl-C gives up", config.kernel));
        }
    }
    Ok(String::new())
}

impl State {
    pub(super) fn name(&self, domain: DomId) -> String {
        self.tools.get(domain).map_or_else(|| domain.0.to_string(), |running| running.config.name.clone())
    }

    /// The domain of that name or number; else the failure names the one that may be meant.
    fn find(&self, name: &str) -> Result<DomId> {
        let names = || self.tools.domains().map(|running| running.config.name.as_str()).collect::<Vec<_>>();
        self.tools.find(name).map_err(|_| match name {
            "0" | "dom0" | "Domain-0" => Failure("that is this domain, dom0".into()),
            _ => Failure(format!("no domain {name}{}", suggestion(name, &names()))),
        })
    }

    fn nothing_to_start(&self, name: &str) -> Failure {
        let mut names: Vec<&str> = self.manifest.domains.iter().map(|config| config.name.as_str()).collect();
        names.extend(
            cpio::files(self.tools.files).flatten().map(|file| file.name).filter(|name| name.ends_with(".toml")),
        );
        Failure(format!("{name} is neither in the manifest nor a manifest in the ramdisk{}", suggestion(name, &names)))
    }

    /// Ends a domain at once. A driver domain that serves others starts again.
    fn destroy(&mut self, name: &str) -> Result<String> {
        if self.making.cancel(name) {
            self.log(name, "not created: given up");
            return Ok(String::new());
        }
        let domain = self.find(name)?;
        let name = self.name(domain);
        let (begin, served) = (time::now(), self.tools.served_by(domain).join(", "));
        if served.is_empty() {
            self.tools.destroy(domain)?;
            self.tools.forget_restarts(&name);
        } else {
            self.tools.replace(domain, begin)?;
        }
        // The last of its frames go with the rings that are mapped here.
        self.sweep();
        let restart = if served.is_empty() { String::new() } else { format!(", restart: it serves {served}") };
        self.log(&name, &format!("destroyed, in {}{restart}", super::Milliseconds(time::now() - begin)));
        self.plan_restarts();
        Ok(String::new())
    }

    /// Gives up making the domains that are not made yet.
    pub(super) fn give_up(&mut self) {
        for name in self.making.cancel_all() {
            self.log(&name, "not created: given up");
        }
    }

    /// Stops a domain's vCPUs, or lets them go on.
    fn hold(&mut self, name: &str, hold: bool) -> Result<String> {
        let domain = self.find(name)?;
        if self.tools.status(domain)?.paused == hold {
            return Err(Failure(format!("{name} is {}paused", if hold { "already " } else { "not " })));
        }
        let control = &mut self.tools.control;
        if hold { control.pause(domain) } else { control.unpause(domain) }?;
        Ok(String::new())
    }

    fn ask(&mut self, name: &str, request: &str) -> Result<String> {
        let domain = self.find(name)?;
        if self.tools.status(domain)?.paused {
            return Err(Failure(format!("{name} is paused; unpause it first")));
        }
        self.tools.ask(domain, request).map_err(|why| Failure(format!("{name}: {why}")))?;
        self.pump();
        Ok(String::new())
    }

    fn set_memory(&mut self, name: &str, mib: u32) -> Result<String> {
        let domain = self.find(name)?;
        self.tools.set_memory(domain, mib).map_err(|why| Failure(format!("{name}: {why}")))?;
        self.pump();
        Ok(String::new())
    }

    fn list(&mut self) -> Result<String> {
        let mut domains = Vec::from([(DomId::DOM0, "Domain-0".to_string(), None)]);
        domains.extend(self.tools.domains().map(|r| (r.built.domain, r.config.name.clone(), r.ended)));
        let mut table = Table::new(&["name", "id", "MiB", "vcpus", "state", "time(s)"]);
        for (domain, name, ended) in domains {
            let Ok(status) = self.tools.control.status(domain) else { continue };
            let seconds = status.cpu_time / 1_000_000_000;
            table.row([
                name,
                domain.0.to_string(),
                (status.pages >> 8).to_string(),
                status.vcpus.to_string(),
                letters(&status, ended.is_some()),
                format!("{seconds}.{}", status.cpu_time / 100_000_000 % 10),
            ]);
        }
        for config in self.making.configs() {
            let (memory, vcpus) = (config.memory.to_string(), config.vcpus.to_string());
            table.row([config.name.clone(), "-".into(), memory, vcpus, "unpacking".into(), "-".into()]);
        }
        Ok(table.to_string())
    }

    fn info(&mut self, name: &str) -> Result<String> {
        let domain = self.find(name)?;
        let status = self.tools.status(domain)?;
        let target = self.tools.memory_target(domain);
        let Some(running) = self.tools.get(domain) else { return Ok(String::new()) };
        let config = &running.config;
        let mut table = Table::new(&["name", name]);
        let mut row = |key: &str, value: String| table.row([key.to_string(), value]);
        row("domain", domain.0.to_string());
        row("kernel", config.kernel.clone());
        row("command line", config.cmdline.clone());
        let target = target
            .filter(|target| *target != config.memory)
            .map(|target| format!(", to have {target}"))
            .unwrap_or_default();
        row("memory", format!("{} MiB of {}{target}", status.pages >> 8, config.memory));
        row("vCPUs", format!("{} of {}", status.vcpus, config.vcpus));
        row("state", letters(&status, running.ended.is_some()));
        row("CPU time", super::Milliseconds(status.cpu_time).to_string());
        row("up", format!("{} s", time::now().saturating_sub(running.since) / 1_000_000_000));
        row("PCI", config.pci.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        row("serves", config.serves.iter().map(|class| class.name()).collect::<Vec<_>>().join(" "));
        row(
            "on poweroff, reboot, crash",
            format!("{:?}, {:?}, {:?}", config.on_poweroff, config.on_reboot, config.on_crash),
        );
        let nodes = self.tools.store.nodes_of(domain);
        table.row(["store nodes".to_string(), nodes.to_string()]);
        Ok(table.to_string())
    }

    /// The devices of a class: both ends' states; with `verbose` what their backends count, as they publish it.
    fn devices(&mut self, class: Class, domain: Option<String>, verbose: bool) -> Result<String> {
        let only = domain.map(|name| self.find(&name)).transpose()?;
        let links: Vec<_> = self
            .tools
            .domains()
            .filter(|running| only.is_none_or(|only| only == running.built.domain))
            .flat_map(|running| running.devices.iter().map(|link| (running.config.name.clone(), link.clone())))
            .filter(|(_, link)| link.device.class == class)
            .collect();
        let mut table = Table::new(&["domain", "device", "backend", "what", "states"]);
        let mut details = String::new();
        let mut backends = BTreeMap::new();
        for (name, link) in links {
            let (back, front) = (BackDir(link.device).to_string(), FrontDir(link.device).to_string());
            let state = |this: &mut Self, dir: &str| {
                format!("{:?}", Xenbus::parse(this.tools.store.get(&format!("{dir}/state")).as_deref()))
            };
            let states = format!("{} / {}", state(self, &front), state(self, &back));
            let keys = self.tools.store.read_directory(&back).0;
            let key = |name: &str| keys.get(name).cloned().unwrap_or_default();
            let (device, what) = match class {
                Class::VBD => (key("dev"), format!("{} {}", key("params"), key("mode"))),
                _ => (link.device.handle.to_string(), format!("{} {}", key("mac"), key("bridge"))),
            };
            if verbose {
                details += &format!("\n{name} {device}:{}", figures::of_device(class, &key("stats")));
                backends.insert(link.backend_name.clone(), link.device.back);
            }
            table.row([name, device, link.backend_name, what, states]);
        }
        for (name, domain) in backends {
            let stats = self.tools.store.get(&format!("/local/domain/{}/data/stats", domain.0)).unwrap_or_default();
            details += &format!("\n{name}:{}", figures::of_backend(class, &stats));
        }
        Ok(if table.is_empty() { String::new() } else { table.to_string() + &details })
    }

    fn store(&mut self, command: StoreCommand) -> Result<String> {
        let store = &mut self.tools.store;
        match command {
            StoreCommand::Ls(path) => {
                // Completion leaves a slash behind what has children.
                let path = if path == "/" { path } else { path.trim_end_matches('/').to_string() };
                if path != "/" && store.perms_text(&path).is_none() {
                    return Err(no_node(&path));
                }
                let names = store.list(&path);
                let prefix = if path == "/" { "" } else { path.as_str() };
                let line = |name: &String| {
                    let value = store.get(&format!("{prefix}/{name}")).unwrap_or_default();
                    if value.is_empty() { name.clone() } else { format!("{name} = {value}") }
                };
                Ok(names.iter().map(line).collect::<Vec<_>>().join("\n"))
            }
            StoreCommand::Read(path) => store.get(&path).ok_or_else(|| no_node(&path)),
            StoreCommand::Write(path, value) => {
                store.put(&path, &value)?;
                self.pump();
                Ok(String::new())
            }
            StoreCommand::Rm(path) => {
                if store.perms_text(&path).is_none() {
                    return Err(no_node(&path));
                }
                store.delete(&path)?;
                self.pump();
                Ok(String::new())
            }
            StoreCommand::Watch(path) => {
                store.watch(&path, "shell")?;
                self.terminal.watch(path);
                self.pump();
                Ok(String::new())
            }
        }
    }
}

fn no_node(path: &str) -> Failure {
    match path.starts_with('/') {
        true => Failure(format!("no node {path}")),
        false => Failure(format!("{path} is no path: it begins with /")),
    }
}

/// Running, blocked, paused, shut down, crashed, dying, as xl has it.
fn letters(status: &Status, ended: bool) -> String {
    let crashed = status.shutdown == Some(abi::sched::ShutdownReason::CRASH);
    let flags = [
        (status.running, 'r'),
        (status.blocked, 'b'),
        (status.paused, 'p'),
        (ended || status.shutdown.is_some(), 's'),
        (crashed, 'c'),
        (status.dying, 'd'),
    ];
    flags.iter().map(|(is, letter)| if *is { *letter } else { '-' }).collect()
}

fn machine() -> Result<String> {
    let machine = control::machine()?;
    let (free, all) = memory::usage();
    let mut table = Table::new(&["machine", ""]);
    table.row(["CPUs".into(), format!("{} at {} MHz", machine.nr_cpus, machine.cpu_khz / 1000)]);
    let (idle, up) = (control::idle()?, time::now().saturating_mul(machine.nr_cpus.into()));
    let busy = up.saturating_sub(idle);
    table.row(["busy".into(), format!("{} of {}, idle the rest", super::Milliseconds(busy), super::Milliseconds(up))]);
    table.row(["memory".into(), format!("{} MiB, {} MiB free", machine.total_pages >> 8, machine.free_pages >> 8)]);
    table.row(["dom0".into(), format!("{} MiB, {} MiB free, {} KiB of heap", all >> 8, free >> 8, heap::used() >> 10)]);
    Ok(table.to_string())
}

/// The whole log, as it is.
fn dmesg() -> Result<String> {
    let (mut text, mut index, mut buffer) = (Vec::new(), 0, [0; 1024]);
    loop {
        let (count, next) = control::read_log(index, &mut buffer)?;
        if count == 0 || text.len() > 64 << 10 {
            return Ok(String::from_utf8_lossy(&text).trim_end().to_string());
        }
        text.extend(buffer.iter().take(count));
        index = next;
    }
}
