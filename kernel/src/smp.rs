//! The other CPUs: each gets an area, is woken by INIT and start-up interrupts, and goes to its idle loop.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::acpi_tables::Machine as Firmware;
use crate::paging::{self, Early};
use crate::percpu::PerCpu;
use crate::{apic, layout, machine, physical, time, trap};

/// Where the other CPUs start, in real mode: a page below 1 MiB that the memory map leaves to us.
const START_PAGE: u64 = 0x8000;

unsafe extern "C" {
    static ap_start: u8;
    static ap_end: u8;
    static ap_gdt_base: u8;
    static ap_far: u8;
    static ap_root: u8;
    static mut ap_stack: u64;
    static mut ap_cpu: u64;
    static mut ap_final_root: u64;
    static boot_l4: u8;
}

/// CPUs that have come to their idle loop, the first included.
static ONLINE: AtomicU32 = AtomicU32::new(1);

/// Gives a CPU its area: stacks between unmapped pages, descriptor windows, its own data. Returns where the data is, as
/// a machine address.
pub fn make_area(early: &mut Early, cpu: u32, zero: u64) -> u64 {
    let area = layout::cpu_area(cpu);
    let data = paging::PRESENT | paging::WRITE | paging::NO_EXECUTE;
    let bytes = size_of::<PerCpu>() as u64;
    let own = early.take(bytes);
    let seen = layout::DIRECT + own;
    for page in 0..layout::STACK_PAGES {
        let at = early.take(4096);
        paging::map_page(early, area + layout::STACK + page * 4096, at, data | paging::GLOBAL);
    }
    for slot in 1..=4u8 {
        let (at, end) = (early.take(4096), crate::descriptors::ist_stack_end(area, slot));
        paging::map_page(early, end - 4096, at, data | paging::GLOBAL);
        // The entry code of these stacks finds the CPU's data in their last word.
        // SAFETY: the page was just taken for this, and both maps cover it.
        unsafe { physical::at::<u64>(at + 4088).write(seen) };
    }
    for page in 0..32u64 {
        let at = if page == 14 { own + core::mem::offset_of!(PerCpu, tables) as u64 } else { zero };
        let flags = if page == 14 { data } else { data & !paging::WRITE };
        paging::map_page(early, area + layout::GDT_WINDOW + page * 4096, at, flags);
    }
    let stack_top = area + layout::STACK + layout::STACK_PAGES * 4096;
    // SAFETY: `own` has room for it, whole pages, and belongs to this CPU for good.
    unsafe { physical::at::<PerCpu>(own).write(PerCpu::new(cpu, stack_top)) };
    own
}

/// Wakes the other CPUs, one after the other. Returns how many CPUs are online.
pub fn start_others(firmware: &Firmware, areas: &[u64]) -> u32 {
    copy_start_code();
    let me = apic::first_id();
    let others = firmware.cpus.iter().filter(|&&id| id != me);
    for ((cpu, &apic_id), &own) in (1u32..).zip(others).zip(areas.iter().skip(1)) {
        // SAFETY: only the CPU that is being woken reads these, and only one is woken at a time.
        unsafe {
            (&raw mut ap_stack).write_volatile(layout::cpu_area(cpu) + layout::STACK + layout::STACK_PAGES * 4096);
            (&raw mut ap_cpu).write_volatile(layout::DIRECT + own);
            (&raw mut ap_final_root).write_volatile(paging::root());
        }
        let before = ONLINE.load(Ordering::Acquire);
        apic::command(apic_id, 0x4500);
        wait_until(10_000_000, || false);
        for _ in 0..2 {
            apic::command(apic_id, 0x4600 | (START_PAGE >> 12) as u32);
            if wait_until(1_000_000, || ONLINE.load(Ordering::Acquire) > before) {
                break;
            }
        }
        if !wait_until(1_000_000_000, || ONLINE.load(Ordering::Acquire) > before) {
            crate::say!("CPU {cpu} (APIC {apic_id}) does not start; going on without it");
            break;
        }
    }
    ONLINE.load(Ordering::Acquire)
}

/// Waits for at most `nanoseconds`; true when `done` came true.
fn wait_until(nanoseconds: u64, done: impl Fn() -> bool) -> bool {
    let end = time::now() + nanoseconds;
    while time::now() < end {
        if done() {
            return true;
        }
        core::hint::spin_loop();
    }
    done()
}

fn copy_start_code() {
    // SAFETY: the symbols bound the start code; the page below 1 MiB is nobody's, and mapped.
    unsafe {
        let from = &raw const ap_start;
        let bytes = (&raw const ap_end).offset_from(from) as usize;
        let to = physical::at::<u8>(START_PAGE);
        to.copy_from_nonoverlapping(from, bytes);
        let patch = |symbol: *const u8, value: u32| {
            let at = to.offset(symbol.offset_from(from)).cast::<u32>();
            at.write_unaligned(at.read_unaligned().wrapping_add(value));
        };
        let table = (&raw const ap_gdt_base).offset_from(from) as u32 - 2 - 16;
        patch(&raw const ap_gdt_base, START_PAGE as u32 + table);
        patch(&raw const ap_far, START_PAGE as u32);
        patch(&raw const ap_root, (&raw const boot_l4 as u64 - layout::IMAGE) as u32);
    }
}

/// Where a woken CPU arrives, on its own stack and with the final tables.
#[unsafe(no_mangle)]
extern "C" fn start_ap(own: &'static mut PerCpu) -> ! {
    let percpu = own.install();
    crate::cpu::init();
    machine::load_tables(percpu.id);
    machine::load_cr3(paging::root());
    apic::init_local(percpu.id);
    ONLINE.fetch_add(1, Ordering::Release);
    trap::run()
}
