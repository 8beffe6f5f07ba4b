//! `cargo xtask run`: the machine, the tour, dom0's prompt.

pub mod console;
mod hand_over;
mod http;
pub mod log;
mod tour;
pub mod world;

use crate::build::{Part, build, built};
use crate::check;
use crate::place::Place;
use crate::qemu::{Accel, Ending, Machine, Running, require_free_port};
use crate::terminal::is_interactive;
use crate::unable;
use anyhow::{Context, Result, bail};
use dom0::manifest::Manifest;
use std::path::PathBuf;
use std::time::Duration;
use tour::{Count, Tour};

/// The manifest of the tour.
const MANIFEST: &str = "examples/tour.toml";
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
    /// CPUs of the machine
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Memory of the machine in MiB
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    mem: u32,
    /// Port of 127.0.0.1 that leads to port 80 of `web`
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    http_port: u16,
    /// What executes guest code
    #[arg(long, value_enum, default_value_t = Accel::Tcg)]
    accel: Accel,
    /// Wait for a debugger before the first instruction
    #[arg(long)]
    gdb: bool,
    /// How much the core and dom0 log
    #[arg(long, value_enum, default_value_t = Level::Info)]
    log: Level,
    /// A folder whose files dom0's `create` finds by name; may be given again
    #[arg(long, value_name = "DIR")]
    add: Vec<PathBuf>,
    /// Take only this step of the tour
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
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
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
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
    let mut running = machine(place, options, accel, image)?.start(&log_file(place)?)?;
    let ending = hand_over::until_end(&mut running)?;
    close(place, running, ending)
}

/// dom0, the driver domains, two guests; the tour; the prompt.
fn whole(place: &Place, options: &Options, accel: Accel) -> Result<()> {
    if let Some(name) = &options.step
        && !tour::STEPS.iter().any(|step| step.name == name)
    {
        let names: Vec<&str> = tour::STEPS.iter().map(|step| step.name).collect();
        unable!("no step {name}; there are: {}", names.join(", "));
    }
    let config = options.config.clone().unwrap_or_else(|| place.root.join(MANIFEST));
    let manifest = check::read(&config)?;
    enough_memory(options.mem, &manifest)?;
    require_free_port(options.http_port)?;
    build(place, &[Part::Core, Part::Domains])?;
    let Some(dom0) = built(place, Part::Domains, "dom0") else {
        unable!("dom0 has no image yet; `cargo xtask run --dom0 IMAGE` boots any PV64 image as the initial domain");
    };
    let ramdisk = place.out().join("ferrule-ramdisk");
    let beside = config.parent().unwrap_or(&place.root);
    let files = [world::added(&options.add)?, world::named(place, &manifest, beside)?].concat();
    world::ramdisk(&ramdisk, &std::fs::read(&config)?, &files)?;
    let disk = world::disk(place)?;
    let initrd = format!("{} log-consoles log={},{}", dom0.display(), options.log.name(), ramdisk.display());
    let mut machine = machine(place, options, accel, &initrd)?;
    let devices = [
        "-netdev",
        &format!("user,id=net0,hostfwd=tcp:127.0.0.1:{}-:80", options.http_port),
        "-device",
        "virtio-net-pci,netdev=net0,addr=2",
        "-drive",
        &format!("if=none,id=disk0,format=raw,file={}", disk.image.display()),
        "-device",
        "virtio-blk-pci,drive=disk0,addr=3",
    ];
    machine.extra.splice(0..0, devices.map(str::to_string));
    let counted = count_instructions(place, &machine, options.gdb);
    let mut running = machine.start(&log_file(place)?)?;
    header(place, &mut running, accel, options.gdb)?;
    let domains = manifest.domains.iter().filter(|domain| domain.autostart).map(|domain| domain.name.clone()).collect();
    if let Err(error) = console::attach(&mut running, boot_limit(options.gdb)) {
        for line in log::last_about(running.lines(), "dom0", 20) {
            println!("       | {line}");
        }
        bail!("{error:#} {}\nfull log: {}", running.end(), place.show(&log_file(place)?));
    }
    let mut tour = Tour::new(running, disk, options.http_port, domains, counted);
    let with_config = options.config.iter().map(|config| format!(" --config {}", config.display())).collect::<String>();
    let all = tour::take(&mut tour, options.step.as_deref(), &format!("cargo xtask run{with_config} --step"));
    let mut running = tour.machine;
    if is_interactive() {
        println!("try: list | console web (leave: Ctrl-]) | store ls | help | poweroff   (Ctrl-C twice ends it all)");
        print!("{}", running.partial());
        std::io::Write::flush(&mut std::io::stdout())?;
    } else {
        running.send(b"poweroff\r")?;
    }
    let ending = match is_interactive() {
        true => hand_over::until_end(&mut running)?,
        false => running.finish(Duration::from_secs(30))?,
    };
    close(place, running, ending)?;
    if !all {
        bail!("not every step held");
    }
    Ok(())
}

fn boot_limit(gdb: bool) -> Duration {
    if gdb { Duration::from_secs(24 * 3600) } else { BOOT }
}

/// What every machine of `run` has.
fn machine(place: &Place, options: &Options, accel: Accel, initrd: &str) -> Result<Machine> {
    let core = built(place, Part::Core, "").context("the core did not build")?;
    let mut machine = Machine::new(&core, &format!("log={}", options.log.name()), initrd);
    (machine.smp, machine.mem, machine.accel) = (options.smp, options.mem, accel);
    machine.extra = options.qemu.clone();
    if options.gdb {
        let symbols = crate::toolchain::Route::ready().map(|route| route.artefact(place, crate::build::CORE));
        println!("waiting for: gdb -ex 'target remote :1234' {}", symbols.unwrap_or_default().display());
        machine.extra.extend(["-s".to_string(), "-S".to_string()]);
    }
    Ok(machine)
}

fn log_file(place: &Place) -> Result<PathBuf> {
    std::fs::create_dir_all(place.out())?;
    Ok(place.out().join("run.log"))
}

/// The first line: version, CPUs and memory as the core counts them.
fn header(place: &Place, running: &mut Running, accel: Accel, gdb: bool) -> Result<()> {
    let is_banner = |line: &str| line.contains("ferrule ") && line.contains(" CPU");
    let Some(index) = running.wait_line(0, boot_limit(gdb), is_banner) else {
        let log = log_file(place)?;
        bail!("the core did not start; full log: {}", place.show(&log));
    };
    let line = running.lines().get(index).map(|line| line.text.clone()).unwrap_or_default();
    let version = line.split("ferrule ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("?");
    let cpus = log::number_before(&line, "CPUs").unwrap_or(1.0);
    let mib = log::number_before(&line, "MiB").context("no memory in the core's first line")?;
    let noun = if cpus == 1.0 { "CPU" } else { "CPUs" };
    let log = log_file(place)?;
    println!("ferrule {version}   {cpus} {noun} ({})   {mib} MiB   full log: {}", accel.name(), place.show(&log));
    Ok(())
}

/// Boots the same images once more as far as dom0, counting instructions, beside the machine that is shown.
fn count_instructions(place: &Place, machine: &Machine, gdb: bool) -> Count {
    if gdb {
        return Box::new(|| None);
    }
    let mut counted = machine.clone();
    (counted.icount, counted.extra) = (true, Vec::new());
    let log = place.out().join("run-icount.log");
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

/// What the machine's end means for the person who started it.
fn close(place: &Place, running: Running, ending: Ending) -> Result<()> {
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
    fn the_tour_s_manifest_is_one_that_dom0_reads() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(MANIFEST);
        let manifest = check::read(&path).unwrap();
        assert!(enough_memory(512, &manifest).is_ok());
        let names: Vec<_> = manifest.domains.iter().map(|domain| domain.name.as_str()).collect();
        assert_eq!(names, ["netback", "blkback", "web", "client"]);
    }
}
