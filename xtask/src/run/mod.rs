//! `cargo xtask run`: the machine, the tour, dom0's prompt.

pub mod console;
mod hand_over;
pub mod held;
pub mod http;
pub mod hypervisor;
pub mod keys;
pub mod log;
pub mod offer;
pub mod ssh;
pub mod system;
pub mod tour;
pub mod world;

use crate::build::{Part, build, built};
use crate::check;
use crate::place::Place;
use crate::qemu::{Accel, Ending, Machine, Running, free_port, require_free_port};
use crate::terminal::is_interactive;
use crate::unable;
use anyhow::{Context, Result, bail};
use dom0::manifest::{self, Forward, Manifest};
use hypervisor::Hypervisor;
use offer::Offer;
use std::path::{Path, PathBuf};
use std::time::Duration;
use system::Plan;
use tour::{Count, Tour};

/// The manifest of the tour.
const MANIFEST: &str = "examples/tour.toml";
/// Memory of the machine in MiB, if nothing else is said.
const MEM: u32 = 512;
/// Memory of dom0 in MiB, as the core gives it by default when there is a ramdisk.
const DOM0_MIB: u32 = 128;
/// How long the core and dom0 may take to the first prompt, on a loaded machine.
const BOOT: Duration = Duration::from_secs(120);

/// How to run.
#[derive(clap::Args)]
pub struct Options {
    /// The manifest dom0 starts its domains from
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What runs the domains; they are the same on both
    #[arg(long, value_enum, default_value_t = Hypervisor::Ferrule)]
    hypervisor: Hypervisor,
    /// CPUs of the machine
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Memory of the machine in MiB [default: the manifest's, else 512]
    #[arg(long, value_name = "MIB")]
    mem: Option<u32>,
    /// Port of 127.0.0.1 that leads to port 80 of `web`; 0 takes any free one
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    http_port: u16,
    /// What executes guest code
    #[arg(long, value_enum, default_value_t = Accel::Tcg)]
    accel: Accel,
    /// Count instructions: one CPU, whose clock does not depend on how busy the host is
    #[arg(long)]
    icount: bool,
    /// Wait for a debugger before the first instruction
    #[arg(long)]
    gdb: bool,
    /// How much the core and dom0 log
    #[arg(long, value_enum, default_value_t = Level::Info)]
    log: Level,
    /// More options of the core, as docs/options.md has them: `--core "scatter dom0_mem=256M"`
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    core: String,
    /// A folder whose files dom0's `create` finds by name; may be given again
    #[arg(long, value_name = "DIR")]
    add: Vec<PathBuf>,
    /// Take only this step of the tour
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// Where the run's log and disk are made; for a second run at the same time [default: target/ferrule]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Boot only this PV64 image as the initial domain, without the tour; arguments follow it, in the same quotes
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["config", "add", "step"])]
    dom0: Option<String>,
    /// More arguments for QEMU
    #[arg(last = true, value_name = "QEMU ARGS")]
    qemu: Vec<String>,
}

/// A level of the log, as the `log=` option of the core takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// What happens to domains and devices
    Info,
    /// Also each hypercall that is refused, and each state of a device
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// Boots, shows, ends.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    let accel = options.accel.resolve()?;
    match &options.dom0 {
        Some(image) => one_image(place, options, accel, image),
        None => whole(place, options, accel),
    }
}

/// One image as the initial domain, its serial line passed through.
fn one_image(place: &Place, options: &Options, accel: Accel, image: &str) -> Result<()> {
    let path = PathBuf::from(image.split(' ').next().unwrap_or(image));
    if !path.is_file() {
        unable!("no image {}", path.display());
    }
    build(place, &[Part::Core])?;
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let append = format!("log={} {}", options.log.name(), options.core);
    let machine = Machine::new(&core, append.trim_end(), image);
    let machine = options.applied(place, machine, options.mem.unwrap_or(MEM), accel)?;
    let mut running = machine.start(&log_file(&options.dir(place))?)?;
    hand_over::until_end(&mut running, options.hypervisor)?;
    end(place, running, options.hypervisor, Duration::ZERO)
}

/// dom0, the driver domains, two guests; the tour; the prompt.
fn whole(place: &Place, options: &Options, accel: Accel) -> Result<()> {
    let config = options.config.clone().unwrap_or_else(|| place.root.join(MANIFEST));
    let manifest = check::read(&config)?;
    let mut steps = tour::steps(&manifest, options.step.as_deref())?;
    if is_interactive() && options.step.is_none() {
        steps.retain(|step| !step.ends_a_domain());
    }
    let mem = options.mem.or(manifest.machine.memory).unwrap_or(MEM);
    enough_memory(mem, &manifest)?;
    let forwards = forwards(options.http_port, &manifest.machine)?;
    let port = forwards.first().map_or(0, |forward| forward.host);
    build(place, &[Part::Core, Part::Domains])?;
    let dir = options.dir(place);
    let offer = Offer::of(dir.join(world::FILES))?;
    let plan = Plan {
        config: &config,
        add: &options.add,
        level: options.log.name(),
        forwards: &forwards,
        boot_file: Some(&offer.url(world::FIRST)),
        core: &options.core,
        dir: &dir,
    };
    let (machine, disk) = system::assemble(place, &plan)?;
    let machine = options.applied(place, machine, mem, accel)?;
    let counted = count_instructions(&machine, &dir, options);
    let mut running = machine.start(&log_file(&dir)?)?;
    let begun = header(place, &mut running, accel, options).and_then(|()| await_prompt(&mut running, options));
    if let Err(error) = begun {
        // Where the machine has ended, how it ended says more.
        let over = running.ended();
        return if over { end(place, running, options.hypervisor, Duration::ZERO) } else { Err(error) };
    }
    let domains = manifest.domains.iter().filter(|domain| domain.autostart).map(|domain| domain.name.clone()).collect();
    let mut tour = Tour::new(running, disk, port, ssh::Guest::of(place, &forwards), domains, counted);
    let all = tour::take(&mut tour, &steps, Some(&again(std::env::args())));
    let mut running = tour.machine;
    if is_interactive() {
        println!("try: list | console web (leave: Ctrl-]) | store ls | help | poweroff   (Ctrl-C twice ends it all)");
        print!("{}", running.partial());
        std::io::Write::flush(&mut std::io::stdout())?;
        hand_over::until_end(&mut running, options.hypervisor)?;
    } else {
        running.send(b"poweroff\r")?;
    }
    end(place, running, options.hypervisor, Duration::from_secs(30))?;
    if !all {
        bail!("not every step held");
    }
    Ok(())
}

/// Waits for dom0's prompt; shows its last lines if it does not come.
fn await_prompt(running: &mut Running, options: &Options) -> Result<()> {
    let attached = console::attach(running, boot_limit(options.gdb));
    if attached.is_err() {
        log::last_about(running.lines(), "dom0", 20).iter().for_each(|line| println!("       | {line}"));
    }
    attached
}

/// The way to port 80 of the first guest, then those of the manifest. Ports must be free; for port 0, and all others
/// with it, any free one is taken.
pub fn forwards(http_port: u16, machine: &manifest::Machine) -> Result<Vec<Forward>> {
    let first = Forward { host: http_port, guest: None, port: 80 };
    let mut forwards = vec![first];
    forwards.extend(machine.forward.iter().copied());
    for forward in &mut forwards {
        match http_port {
            0 => forward.host = free_port()?,
            _ => require_free_port(forward.host)?,
        }
    }
    Ok(forwards)
}

/// This very command with another `--step` at its end, up to the step's name, as a person would type it.
fn again(args: impl Iterator<Item = String>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+".contains(c);
    let quoted = |arg: String| match !arg.is_empty() && arg.chars().all(is_plain) {
        true => arg,
        false => format!("'{}'", arg.replace('\'', r"'\''")),
    };
    let mut command = "cargo xtask".to_string();
    let mut args = args.skip(1).peekable();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--" => break,
            "--step" => drop(args.next()),
            arg if arg.starts_with("--step=") => {}
            _ => command = format!("{command} {}", quoted(arg)),
        }
    }
    // What follows `--` is QEMU's; the step comes before it.
    let rest: String = args.map(|arg| format!(" {}", quoted(arg))).collect();
    if rest.is_empty() { format!("{command} --step STEP") } else { format!("{command} --step STEP --{rest}") }
}

fn boot_limit(gdb: bool) -> Duration {
    if gdb { Duration::from_secs(24 * 3600) } else { BOOT }
}

impl Options {
    /// Where this run's log, disk and ramdisk are.
    fn dir(&self, place: &Place) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| place.out())
    }

    /// A machine with what was asked for on the command line.
    fn applied(&self, place: &Place, mut machine: Machine, mem: u32, accel: Accel) -> Result<Machine> {
        self.hypervisor.under(place, &mut machine, &self.core)?;
        (machine.smp, machine.mem, machine.accel) = (self.smp, mem, accel);
        (machine.icount, machine.idles) = (self.icount, true);
        machine.extra.extend(self.qemu.iter().cloned());
        if self.gdb {
            let symbols = crate::toolchain::Route::ready().map(|route| route.artefact(place, crate::build::CORE));
            println!("waiting for: gdb -ex 'target remote :1234' {}", symbols.unwrap_or_default().display());
            machine.extra.extend(["-s".to_string(), "-S".to_string()]);
        }
        Ok(machine)
    }
}

fn log_file(dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir.join("run.log"))
}

/// The first line: version, CPUs and memory as the core counts them.
fn header(place: &Place, running: &mut Running, accel: Accel, options: &Options) -> Result<()> {
    let banner = options.hypervisor.banner(running, boot_limit(options.gdb));
    let (name, cpus, mib) = banner.with_context(|| format!("full log: {}", place.show(&running.log)))?;
    let noun = if cpus == 1.0 { "CPU" } else { "CPUs" };
    println!("{name}   {cpus} {noun} ({})   {mib} MiB   full log: {}", accel.name(), place.show(&running.log));
    Ok(())
}

/// Boots the same images once more as far as dom0, counting instructions, beside the machine that is shown.
fn count_instructions(machine: &Machine, dir: &Path, options: &Options) -> Count {
    if options.gdb || options.hypervisor == Hypervisor::Xen {
        return Box::new(|| None);
    }
    let mut counted = machine.clone();
    (counted.icount, counted.idles, counted.extra) = (true, false, Vec::new());
    let log = dir.join("run-icount.log");
    let thread = std::thread::spawn(move || -> Option<f64> {
        let mut running = counted.start(&log).ok()?;
        let index = running.wait_line(0, BOOT, |line| line.contains("d0 starts after"))?;
        // Under icount a virtual nanosecond is an instruction.
        log::number_before(&running.lines().get(index)?.text, "ms").map(|ms| ms * 1e6)
    });
    Box::new(move || thread.join().ok().flatten())
}

/// The machine must hold dom0, the domains that start by themselves, and the core.
fn enough_memory(mem: u32, manifest: &Manifest) -> Result<()> {
    let domains = manifest.domains.iter().filter(|domain| domain.autostart);
    let wanted: u32 = domains.map(|domain| domain.memory).fold(DOM0_MIB, u32::saturating_add);
    let core = 8 + mem / 100;
    if mem < wanted.saturating_add(core) {
        unable!("--mem {mem}: dom0 and the manifest's domains want {wanted} MiB, the core about {core}");
    }
    Ok(())
}

/// Waits for the machine's end, and says what it means for the person who started it.
fn end(place: &Place, running: Running, hypervisor: Hypervisor, limit: Duration) -> Result<()> {
    match hypervisor {
        Hypervisor::Xen if !running.ended() => hypervisor.end(running, limit),
        _ => close(place, running, limit),
    }
}

/// The same, where the core or QEMU itself ends it.
pub fn close(place: &Place, mut running: Running, limit: Duration) -> Result<()> {
    let ending = running.finish(limit)?;
    let log = running.log.clone();
    let messages = running.end();
    match ending {
        Ending::PowerOff => Ok(()),
        Ending::Other(Some(1)) => unable!("QEMU would not start: {messages}"),
        ending => bail!("the machine ended as {ending:?} {messages}\nfull log: {}", place.show(&log)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(memory: u32) -> Manifest {
        dom0::manifest::parse(&format!("name = 'web'\nkernel = 'web'\nmemory = {memory}\n")).unwrap()
    }

    #[test]
    fn too_little_memory_is_said_before_anything_starts() {
        let error = enough_memory(256, &manifest(200)).unwrap_err();
        assert_eq!(crate::fail::code(&error), 2);
        assert!(error.to_string().contains("328 MiB"), "{error}");
        assert!(enough_memory(512, &manifest(200)).is_ok());
    }

    #[test]
    fn the_command_for_one_step_keeps_everything_else() {
        let again = |args: &[&str]| again(args.iter().map(|arg| arg.to_string()));
        assert_eq!(again(&["xtask", "run"]), "cargo xtask run --step STEP");
        let args = ["xtask", "run", "--step", "ping", "--mem", "256", "--step=disk", "--", "-M", "q35", "a b'c"];
        assert_eq!(again(&args), r"cargo xtask run --mem 256 --step STEP -- -M q35 'a b'\''c'");
    }

    #[test]
    fn the_tour_s_manifest_is_one_that_dom0_reads() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(MANIFEST);
        let manifest = check::read(&path).unwrap();
        assert!(enough_memory(512, &manifest).is_ok());
        let names: Vec<_> = manifest.domains.iter().map(|domain| domain.name.as_str()).collect();
        assert_eq!(names, ["netback", "blkback", "web", "client"]);
    }
}
