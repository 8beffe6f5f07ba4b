//! The way from the loader to the initial domain.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Mfn;
use ferrule_core::buddy::Blocks;
use ferrule_core::domain::Domains;
use ferrule_core::frame::{FrameTable, PageInfo};
use ferrule_core::platform::Platform;
use ferrule_core::{Cpu, CpuId};

use crate::boot_info::{BootInfo, Range};
use crate::machine::{self, Core, Machine};
use crate::paging::Early;
use crate::{
    acpi_tables, apic, console, construct, cpu, fpu, heap, keys, layout, paging, physical, power, smp, time, trap,
};

/// The heap's first memory.
const HEAP_BYTES: u64 = 1 << 20;

/// Where boot.s arrives, on the boot stack and with the loader's memory seen at its machine addresses.
#[unsafe(no_mangle)]
extern "C" fn start(magic: u32, info: u64) -> ! {
    time::start();
    cpu::patch();
    console::init();
    let boot = match BootInfo::read(magic, info) {
        Ok(boot) => boot,
        Err(e) => panic!("started by no multiboot loader (magic {:#x}): boot with QEMU's -kernel or GRUB", e.0),
    };
    let firmware = acpi_tables::Machine::read(&boot);
    let Some(mut early) = Early::new(&boot) else { panic!("the loader's memory map has no usable memory") };

    // The tables for every frame up to the end of usable memory.
    let frames = boot.regions_of(&[1]).map(|range| range.end >> 12).max().unwrap_or(0);
    let m2p = early.take(frames * 8);
    let heap = early.take(HEAP_BYTES);
    let zero = early.take(4096);
    let range = |start: u64, bytes: u64| Range { start, end: (start + bytes).next_multiple_of(4096) };
    paging::build(&mut early, &boot, range(m2p, frames * 8), zero);
    apic::map(&mut early, &firmware);
    let cpu_count = firmware.cpus.len().clamp(1, ferrule_core::cpu::MAX_CPUS) as u32;
    let areas: heapless::Vec<u64, 64> = (0..cpu_count).map(|n| smp::make_area(&mut early, n, zero)).collect();

    // From here on the core's own tables are in force.
    physical::use_direct_map();
    // SAFETY: the area was made for this CPU and is used by nobody else; the final tables map it.
    let percpu = unsafe { &mut *physical::at::<crate::percpu::PerCpu>(areas[0]) };
    // SAFETY: the tables built above map all that runs now at the same addresses, and all of memory.
    unsafe { core::arch::asm!("mov cr3, {}", in(reg) paging::root(), options(nostack)) };
    percpu.install();
    fpu::init(matches!(boot.option("xsave"), Some("0" | "no" | "off" | "false")));
    cpu::init();
    machine::load_tables(0);
    machine::load_cr3(paging::root());
    heap::init(heap, HEAP_BYTES);
    apic::init_local(0);
    apic::init_lines(&firmware);
    power::init(firmware.power_off);
    time::calibrate(firmware.pm_timer);

    let used = [early.used(), paging::image()].map(|range| range.end - range.start);
    BOOT_BYTES.store(used.iter().sum(), Ordering::Relaxed);
    let core = make_core(frames, &boot, early.used(), cpu_count);
    machine::set_core(core, zero);
    let online = smp::start_others(&firmware, &areas);
    crate::say!(
        "ferrule {} on {online} CPU{}, {} MiB, TSC {}.{:03} MHz",
        env!("CARGO_PKG_VERSION"),
        if online == 1 { "" } else { "s" },
        frames >> 8,
        time::tsc_hz() / 1_000_000,
        time::tsc_hz() / 1000 % 1000
    );
    *keys::SPOIL.lock() = boot.option("audit-inject").map(Into::into);
    apic::mask_line(console::LINE, false);
    construct::initial_domain(&boot);
    for module in &boot.modules {
        // What was in them is the initial domain's now.
        let (start, end) = (module.range.start.div_ceil(4096), module.range.end / 4096);
        core.add_free(Mfn(start), end.saturating_sub(start));
    }
    let now = time::now();
    crate::say!("d0 starts after {}.{:03} ms; the core has {} KiB", now / 1_000_000, now / 1000 % 1000, bytes() >> 10);
    trap::run()
}

/// What the core took while it started.
static BOOT_BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes of memory that the core has: all but what is free or a domain's, pages that domains are charged with among it.
pub fn bytes() -> u64 {
    let grown = heap::size().0 as u64;
    BOOT_BYTES.load(Ordering::Relaxed) + grown.saturating_sub(HEAP_BYTES)
}

/// Makes the core: every usable frame known, those that boot did not take free.
fn make_core(frames: u64, boot: &BootInfo, used: Range, cpus: u32) -> &'static Core {
    // SAFETY: `paging` mapped so many at FRAMES for good, zeroed: that is a `PageInfo`. What is read-only there is no RAM,
    // and only what is RAM is ever written.
    let infos: &'static [PageInfo] =
        unsafe { core::slice::from_raw_parts(layout::FRAMES as *const PageInfo, frames as usize) };
    let map: Vec<_> = boot.regions.iter().copied().collect();
    let table = FrameTable::new(infos, Box::leak(map.into_boxed_slice()));
    let cpus: Vec<_> = (0..cpus).map(|n| Cpu::new(CpuId(n))).collect();
    let free = ferrule_core::Lock::<Machine, _>::new(Blocks::new(boot.option("scatter").is_some()));
    let (domains, cpus) = (Domains::new(), cpus.into_boxed_slice());
    let core: &'static Core = Box::leak(Box::new(Core {
        platform: Machine,
        frames: table,
        free,
        domains,
        cpus,
        lines: ferrule_core::Lock::<Machine, _>::new(ferrule_core::irq::Lines::new()),
        log_refusals: boot.option("log") == Some("debug"),
        tally: boot.option("tally").map(|_| Default::default()),
        messages: Default::default(),
    }));
    for mfn in 0..frames {
        core.platform.set_m2p(Mfn(mfn), u64::MAX);
    }
    for range in boot.regions_of(&[1]) {
        for mfn in range.start.div_ceil(4096)..range.end >> 12 {
            core.frames.add_ram(Mfn(mfn));
        }
    }
    for range in paging::free_ranges(boot, Some(used)) {
        core.add_free(Mfn(range.start >> 12), (range.end - range.start) >> 12);
    }
    core
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    console::write_anyway(format_args!("(core) panic on CPU: {info}\n"));
    power::after_panic()
}
