//! [`Platform`] over the real machine.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use abi::regs::msr::{FS_BASE, KERNEL_GS_BASE};
use abi::{Maddr, Mfn, PAGE_SIZE, Vaddr};
use ferrule_core::frame::Frame;
use ferrule_core::irq::{Line, PciDevice};
use ferrule_core::platform::{AddressSpace, Fault, Flush, Halt, Platform};
use ferrule_core::vcpu::{LDT_FRAMES, Run};
use ferrule_core::{Cpu, CpuId, CpuSet};
use x86_64::instructions::interrupts;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

use crate::lock::{SpinLock, SpinRwLock};
use crate::{
    apic, console, cpu, descriptors, flush, fpu, keys, layout, paging, pci, percpu, physical, power, time, trap,
};

/// The machine. All of its state is in hardware and in the statics of this image.
pub struct Machine;

/// The core that runs on it.
pub type Core = ferrule_core::Core<Machine>;

static CORE: AtomicPtr<Core> = AtomicPtr::new(::core::ptr::null_mut());
/// A frame of zeros, seen where a guest's descriptor table has no frame.
static ZERO: AtomicU64 = AtomicU64::new(0);

/// Makes `made` the core, for good, and `zero` the frame of zeros.
pub fn set_core(made: &'static Core, zero: u64) {
    CORE.store(::core::ptr::from_ref(made).cast_mut(), Ordering::Release);
    ZERO.store(zero, Ordering::Release);
}

/// The core.
pub fn core() -> &'static Core {
    // SAFETY: set once, before the first guest and the second CPU, to something that lives for good.
    unsafe { &*CORE.load(Ordering::Relaxed) }
}

/// The core, once it is made.
pub fn core_if_made() -> Option<&'static Core> {
    // SAFETY: null, or set once to something that lives for good.
    unsafe { CORE.load(Ordering::Acquire).as_ref() }
}

/// This CPU, as the core's logic sees it.
pub fn cpu() -> &'static Cpu<Machine> {
    percpu::get().cpu.get_or_init(|| &core().cpus[percpu::id() as usize])
}

/// In [`Cpu::pending`]: lines of [`RAISED`] wait.
pub const LINES_PENDING: u32 = 1 << 31;
/// The lines that went off and were not looked at yet.
static RAISED: [AtomicU64; apic::ALL_LINES.div_ceil(64) as usize] =
    [const { AtomicU64::new(0) }; apic::ALL_LINES.div_ceil(64) as usize];

/// An interrupt line of the machine went off. Level-triggered ones stay masked until their domain has served them. May
/// come in the middle of other work ([`Platform::preempt`]), so it only leaves word.
pub fn line_interrupt(line: u32) {
    if apic::is_level(line) {
        apic::mask_line(line, true);
    }
    if let Some(word) = RAISED.get((line / 64) as usize) {
        word.fetch_or(1 << (line % 64), Ordering::SeqCst);
        cpu().post(LINES_PENDING);
    }
}

/// Looks at the lines that went off.
pub fn serve_lines() {
    for (word, raised) in (0u32..).zip(&RAISED) {
        let mut bits = raised.swap(0, Ordering::SeqCst);
        while bits != 0 {
            serve_line(word * 64 + bits.trailing_zeros());
            bits &= bits - 1;
        }
    }
}

fn serve_line(line: u32) {
    if line == console::LINE {
        console::received();
        if apic::is_level(line) {
            apic::mask_line(line, false);
        }
    } else {
        core().line_interrupt(Line(line));
    }
}

fn read_msr(msr: u32) -> u64 {
    // SAFETY: only registers that every 64-bit CPU has, or that `Platform::rdmsr` lists.
    unsafe { Msr::new(msr).read() }
}

fn write_msr(msr: u32, value: u64) {
    // SAFETY: the segment bases of a guest, which nothing in ring 0 uses. They are canonical: `set_context` and
    // `set_segment_base` refuse others, and what the CPU held was.
    unsafe { Msr::new(msr).write(value) }
}

fn frame_bytes(frame: Frame, offset: usize, want: usize) -> (*mut u8, usize) {
    let offset = offset.min(PAGE_SIZE);
    (physical::at(frame.mfn().0 * PAGE_SIZE as u64 + offset as u64), want.min(PAGE_SIZE - offset))
}

impl Platform for Machine {
    type RawMutex = SpinLock;
    type RawRwLock = SpinRwLock;
    fn word(&self, frame: Frame, index: usize) -> &AtomicU64 {
        let at = layout::DIRECT + frame.mfn().0 * PAGE_SIZE as u64 + (index as u64 & 511) * 8;
        // SAFETY: a `Frame` is RAM, which the direct map covers for good; aligned; others change it as atomics do.
        unsafe { AtomicU64::from_ptr(at as *mut u64) }
    }

    fn read(&self, frame: Frame, offset: usize, to: &mut [u8]) {
        let (at, bytes) = frame_bytes(frame, offset, to.len());
        // SAFETY: `bytes` fit behind `offset` in a frame of RAM and in `to`.
        unsafe { to.as_mut_ptr().copy_from_nonoverlapping(at, bytes) };
    }

    fn write(&self, frame: Frame, offset: usize, from: &[u8]) {
        let (at, bytes) = frame_bytes(frame, offset, from.len());
        // SAFETY: `bytes` fit behind `offset` in a frame of RAM and in `from`; the core keeps no references into it.
        unsafe { at.copy_from_nonoverlapping(from.as_ptr(), bytes) };
    }

    fn copy(&self, from: (Frame, usize), to: (Frame, usize), len: usize) {
        let (source, bytes) = frame_bytes(from.0, from.1, len);
        let (target, bytes) = frame_bytes(to.0, to.1, bytes);
        // SAFETY: `bytes` fit in both; `copy` allows that they overlap.
        unsafe { target.copy_from(source, bytes) };
    }

    fn clear(&self, frame: Frame) {
        let (at, bytes) = frame_bytes(frame, 0, PAGE_SIZE);
        // SAFETY: the frame is RAM, and the core keeps no references into it.
        unsafe { at.write_bytes(0, bytes) };
    }

    fn set_m2p(&self, mfn: Mfn, pfn: u64) {
        // The writable alias of the table, through the direct map; guests see it read-only at `layout::M2P`.
        let at = physical::at::<u64>(paging::m2p_start() + mfn.0 * 8);
        // SAFETY: callers name frames of the frame table, which is as long as this one.
        unsafe { AtomicU64::from_ptr(at) }.store(pfn, Ordering::Relaxed);
    }

    fn copy_from_guest(&self, space: AddressSpace, from: Vaddr, to: &mut [u8]) -> Result<(), Fault> {
        if !is_loaded(space) {
            return core().copy_from_space(space, from, to);
        }
        // SAFETY: the range check keeps it out of the core's addresses.
        let done = trap::guest_range(from, to.len())
            && unsafe { trap::user_copy(to.as_mut_ptr(), from.0 as *const u8, to.len()) };
        if done { Ok(()) } else { Err(Fault) }
    }

    fn copy_to_guest(&self, space: AddressSpace, to: Vaddr, from: &[u8]) -> Result<(), Fault> {
        if !is_loaded(space) {
            return core().copy_to_space(space, to, from);
        }
        // SAFETY: the range check keeps it out of the core's addresses; CR0.WP makes read-only pages fault.
        let done =
            trap::guest_range(to, from.len()) && unsafe { trap::user_copy(to.0 as *mut u8, from.as_ptr(), from.len()) };
        if done { Ok(()) } else { Err(Fault) }
    }

    fn flush(&self, cpus: CpuSet, what: Flush) {
        flush::on(cpus, what);
    }

    fn load_root(&self, run: &Run) {
        let root = run.hardware_root.map_or_else(paging::root, |root| root.mfn().0 * PAGE_SIZE as u64);
        load_cr3(root);
    }

    fn hypervisor_slots(&self) -> [u64; 16] {
        paging::hypervisor_slots()
    }

    /// Shows the vCPU's descriptor tables in this CPU's windows.
    fn load_tables(&self, run: &Run) {
        let percpu = percpu::get();
        let area = layout::cpu_area(percpu.id);
        let zero = ZERO.load(Ordering::Relaxed);
        let entry = |frame: Option<Frame>| {
            let at = frame.map_or(zero, |f| f.mfn().0 * PAGE_SIZE as u64);
            at | paging::PRESENT | paging::NO_EXECUTE | if frame.is_some() { paging::WRITE } else { 0 }
        };
        let used = run.gdt.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let pages = used.max(percpu.gdt_pages.replace(used));
        set_window(area + layout::GDT_WINDOW, run.gdt.iter().take(pages).map(|frame| entry(*frame)));
        if run.ldt_entries != 0 {
            // What is not there is mapped when the guest uses it: see `ldt_offset`.
            let entries = run.ldt.iter().map(|frame| frame.map_or(0, |frame| entry(Some(frame))));
            set_window(area + layout::LDT_WINDOW, entries);
        }
        // SAFETY: this CPU's own tables, and interrupts are off.
        unsafe { (*percpu.tables.get()).load_ldt(percpu.id, run.ldt_entries) };
    }

    fn ldt_offset(&self, address: u64) -> Option<u64> {
        let window = layout::cpu_area(percpu::id()) + layout::LDT_WINDOW;
        address.checked_sub(window).filter(|&offset| offset < (LDT_FRAMES * PAGE_SIZE) as u64)
    }

    fn load_bases(&self, run: &Run) {
        write_msr(FS_BASE, run.fs_base);
        write_msr(KERNEL_GS_BASE, run.gs_base());
    }

    fn swap_gs(&self, run: &mut Run) {
        let gs = read_msr(KERNEL_GS_BASE);
        let other = if run.kernel_mode {
            run.gs_base_kernel = gs;
            run.gs_base_user
        } else {
            run.gs_base_user = gs;
            run.gs_base_kernel
        };
        write_msr(KERNEL_GS_BASE, other);
    }

    fn load_user_gs(&self, run: &mut Run, selector: u16) {
        let (kernel, fs) = (read_msr(KERNEL_GS_BASE), read_msr(FS_BASE));
        save_selectors(run);
        run.regs.gs = selector;
        load_selectors(run);
        run.gs_base_user = read_msr(KERNEL_GS_BASE);
        write_msr(KERNEL_GS_BASE, kernel);
        write_msr(FS_BASE, fs);
    }

    fn save_bases(&self, run: &mut Run) {
        run.fs_base = read_msr(FS_BASE);
        let gs = read_msr(KERNEL_GS_BASE);
        if run.kernel_mode { run.gs_base_kernel = gs } else { run.gs_base_user = gs }
    }

    fn load_control(&self, run: &Run) {
        cpu::load_control(run.cr4);
    }

    fn set_task_switched(&self, _run: &mut Run, set: bool) {
        fpu::set_task_switched(set);
    }

    fn load_debug_registers(&self, run: &Run) {
        let d = &run.debug;
        // SAFETY: the values were checked when the guest set them: no breakpoint in the core's range.
        unsafe {
            ::core::arch::asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr6, {}", "mov dr7, {}",
                in(reg) d[0], in(reg) d[1], in(reg) d[2], in(reg) d[3], in(reg) d[6], in(reg) d[7], options(nostack));
        }
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        cpu::cpuid(leaf, subleaf)
    }

    fn rdmsr(&self, msr: u32) -> Option<u64> {
        let (low, high, fault): (u32, u32, u32);
        // SAFETY: reading a register that the core asks for by name changes nothing. One that is not there faults, and
        // `core_trap` goes on behind what takes the mark away.
        unsafe {
            ::core::arch::asm!("771: rdmsr", "xor {0:e}, {0:e}", "772:",
                ".pushsection .fixups, \"a\"; .quad 771b, 772b; .popsection",
                inout(reg) 1 => fault, in("ecx") msr, out("eax") low, out("edx") high, options(nostack));
        }
        (fault == 0).then_some(u64::from(high) << 32 | u64::from(low))
    }

    fn xcr0_offered(&self) -> u64 {
        fpu::offered()
    }

    fn set_xcr0(&self, value: u64) {
        fpu::set_xcr0(value);
    }

    fn port_in(&self, port: u16, bytes: u8) -> u32 {
        // SAFETY: the domain was given the port, by the core's own check.
        unsafe {
            match bytes {
                1 => u32::from(Port::<u8>::new(port).read()),
                2 => u32::from(Port::<u16>::new(port).read()),
                _ => Port::<u32>::new(port).read(),
            }
        }
    }

    fn port_out(&self, port: u16, bytes: u8, value: u32) {
        // SAFETY: the domain was given the port, by the core's own check.
        unsafe {
            match bytes {
                1 => Port::<u8>::new(port).write(value as u8),
                2 => Port::<u16>::new(port).write(value as u16),
                _ => Port::<u32>::new(port).write(value),
            }
        }
    }
    fn now(&self) -> u64 {
        time::now()
    }

    fn tsc(&self) -> u64 {
        time::tsc()
    }

    fn tsc_scale(&self) -> (u32, i8) {
        time::guest_scale()
    }

    fn wall_clock(&self) -> u64 {
        time::wall_clock()
    }

    fn set_timer(&self, deadline: u64) {
        time::set_timer(deadline);
    }

    fn kick(&self, cpu: CpuId) {
        apic::send(cpu.0, apic::KICK_VECTOR);
    }

    fn this_cpu(&self) -> CpuId {
        CpuId(percpu::id())
    }

    fn preempt(&self) -> bool {
        // Interrupts are off in ring 0: lets those that wait come in here, behind the NOP that `enable` ends with. Their
        // handlers only leave word, and take no lock that a caller can hold.
        interrupts::enable();
        interrupts::disable();
        cpu().pending.load(Ordering::Relaxed) != 0
    }

    fn irq_mask(&self, line: Line, masked: bool) {
        apic::mask_line(line.0, masked);
    }

    fn msi_disable(&self, device: PciDevice, entry: Option<u16>) {
        pci::disable(device, entry);
    }

    fn msix_table(&self, device: PciDevice) -> Option<::core::ops::Range<u64>> {
        pci::msix_table(device)
    }

    fn msi_enable(&self, device: PciDevice, entry: Option<u16>, line: Line) -> bool {
        pci::enable(device, entry, line)
    }

    fn console_write(&self, text: &[u8]) {
        console::write(text);
    }

    fn debug_key(&self, key: u8) {
        keys::press_within(key);
    }

    fn console_read(&self, to: &mut [u8]) -> usize {
        console::read(to)
    }

    fn halt(&self, why: Halt) {
        power::halt(why);
    }
}

fn is_loaded(space: AddressSpace) -> bool {
    // SAFETY: this CPU's own, and interrupts are off.
    unsafe { *percpu::get().root.get() == space.root.mfn() }
}

/// Loads a page table: all translations that are not the core's own are dropped from the TLB.
pub fn load_cr3(root: u64) {
    // SAFETY: every root has the core's 16 slots, so the core goes on running; `root` is this CPU's own note of it.
    unsafe {
        ::core::arch::asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags));
        *percpu::get().root.get() = Maddr(root).mfn();
    }
}

/// Changes the pages of a window that are not as they are to be, and drops their translations.
fn set_window(at: u64, entries: impl Iterator<Item = u64>) {
    let Some(slots) = paging::entry_of(at) else { return };
    for (n, entry) in entries.enumerate() {
        // SAFETY: the last-level entries of this CPU's own window, which lie in one table as it begins at a multiple of 16
        // pages; the CPU may set their accessed and dirty bits.
        unsafe {
            let slot = slots.add(n);
            if slot.read_volatile() & !0x60 != entry {
                slot.write_volatile(entry);
                flush::local(Flush::Page(Vaddr(at + (n * PAGE_SIZE) as u64)));
            }
        }
    }
}

/// Loads the selectors of a vCPU that is switched to; its bases come after. False if one did not load.
pub fn load_selectors(run: &Run) -> bool {
    unsafe extern "C" {
        fn load_selectors(es: u32, ds: u32, fs: u32, gs: u32) -> u32;
    }
    let r = &run.regs;
    // SAFETY: selectors that do not load are replaced by 0 (`core_trap`); the core uses none of these segments but GS,
    // around whose load the routine swaps bases.
    unsafe { load_selectors(r.es.into(), r.ds.into(), r.fs.into(), r.gs.into()) == 0 }
}

/// Reads the selectors of the vCPU that is switched away.
pub fn save_selectors(run: &mut Run) {
    let (es, ds, fs, gs): (u16, u16, u16, u16);
    // SAFETY: reads only.
    unsafe {
        ::core::arch::asm!("mov {0:x}, es", "mov {1:x}, ds", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) es, out(reg) ds, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
    }
    (run.regs.es, run.regs.ds, run.regs.fs, run.regs.gs) = (es, ds, fs, gs);
}

/// Points this CPU's entries at a vCPU's register file.
pub fn store_registers_in(run: &Run) {
    let end = &raw const run.regs as u64 + ::core::mem::offset_of!(abi::regs::CpuUserRegs, es) as u64;
    let percpu = percpu::get();
    // SAFETY: this CPU's own, and interrupts are off; `run` stays where it is for as long as it is current.
    unsafe {
        *percpu.frame_end.get() = end;
        (*percpu.tables.get()).tss.privilege_stack_table[0] = x86_64::VirtAddr::new_truncate(end);
    }
}

/// The descriptor tables of this CPU, filled and loaded.
pub fn load_tables(cpu: u32) {
    // SAFETY: this CPU's own, before it runs anything else.
    let tables: &mut descriptors::Tables = unsafe { &mut *percpu::get().tables.get() };
    tables.fill(cpu);
    tables.load(cpu);
}
