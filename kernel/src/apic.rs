//! Local APICs: interrupts between CPUs, and the timer. I/O APICs: the machine's interrupt lines.

use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ferrule_core::sync::Lock;
use heapless::Vec;
use x86_64::instructions::port::Port;

use crate::acpi_tables::Machine as Firmware;
use crate::layout;
use crate::machine::Machine;
use crate::paging::{self, Early};

/// Asks for a TLB flush.
pub const FLUSH_VECTOR: u8 = 0xf0;
/// Asks for a look at the CPU's flags.
pub const KICK_VECTOR: u8 = 0xf1;
/// The local timer.
pub const TIMER_VECTOR: u8 = 0xf2;
/// No interrupt after all.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// The first vector of the machine's interrupt lines; line n has this plus n.
pub const FIRST_LINE_VECTOR: u8 = 0x30;

const ID: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const END_OF_INTERRUPT: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const COMMAND_TARGET: u64 = 0x310;
const TIMER: u64 = 0x320;
const LINT0: u64 = 0x350;
const LINT1: u64 = 0x360;
const ERROR: u64 = 0x370;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;
const MASKED: u32 = 1 << 16;

/// Where the local APICs' registers are in memory.
const REGISTERS: u64 = 0xfee0_0000;
/// The most interrupt lines, of all I/O APICs together; message-signalled ones are numbered behind them.
pub const LINES: u32 = 64;
/// All lines: as many as there are vectors below those of the core.
pub const ALL_LINES: u32 = (FLUSH_VECTOR - FIRST_LINE_VECTOR) as u32;

fn register(offset: u64) -> *mut u32 {
    (layout::DEVICES + offset) as *mut u32
}

fn read(offset: u64) -> u32 {
    // SAFETY: the page is mapped uncached at boot and holds this CPU's local APIC.
    unsafe { register(offset).read_volatile() }
}

fn write(offset: u64, value: u32) {
    // SAFETY: as for `read`; the values are those of the APIC's manual.
    unsafe { register(offset).write_volatile(value) }
}

/// APIC identifiers by CPU number.
static IDS: [AtomicU32; 64] = [const { AtomicU32::new(0) }; 64];

/// Maps the registers, once.
pub fn map(early: &mut Early, firmware: &Firmware) {
    let flags = paging::PRESENT | paging::WRITE | paging::UNCACHED | paging::GLOBAL | paging::NO_EXECUTE;
    paging::map_page(early, layout::DEVICES, REGISTERS, flags);
    for (n, io) in (1u64..).zip(&firmware.io_apics) {
        paging::map_page(early, layout::DEVICES + 0x1000 * n, u64::from(io.io_apic_address) & !0xfff, flags);
    }
}

/// Switches this CPU's local APIC on.
pub fn init_local(cpu: u32) {
    let id = read(ID) >> 24;
    IDS[cpu as usize % 64].store(id, Ordering::Relaxed);
    write(TASK_PRIORITY, 0);
    write(LINT0, MASKED);
    write(LINT1, 4 << 8);
    write(ERROR, MASKED);
    write(DIVIDE, 0xb);
    write(TIMER, MASKED | u32::from(TIMER_VECTOR));
    write(SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
}

/// The interrupt in service is done with.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Sends an interrupt to another CPU.
pub fn send(cpu: u32, vector: u8) {
    command(IDS[cpu as usize % 64].load(Ordering::Relaxed), u32::from(vector) | 1 << 14);
}

/// Sends a raw command: INIT and start-up of other CPUs.
pub fn command(apic: u32, command: u32) {
    while read(COMMAND) & 1 << 12 != 0 {
        core::hint::spin_loop();
    }
    write(COMMAND_TARGET, apic << 24);
    write(COMMAND, command);
}

/// Starts the timer: one interrupt after `count` ticks; 0 stops it.
pub fn start_timer(count: u32) {
    write(TIMER, u32::from(TIMER_VECTOR));
    write(INITIAL_COUNT, count);
}

/// Starts counting down from the top without an interrupt, for calibration.
pub fn start_count() {
    write(TIMER, MASKED | u32::from(TIMER_VECTOR));
    write(INITIAL_COUNT, u32::MAX);
}

/// Ticks since [`start_count`].
pub fn counted() -> u32 {
    u32::MAX - read(CURRENT_COUNT)
}

// ---- Interrupt lines ---------------------------------------------------------------------------------------------------

/// The lines of each I/O APIC. Index and window of one are two accesses: made with the lock held.
static IO_APICS: Lock<Machine, Vec<Range<u32>, 8>> = Lock::<Machine, _>::new(Vec::new());
/// Redirection entries as programmed, by line.
static ENTRIES: [AtomicU64; LINES as usize] = [const { AtomicU64::new(0) }; LINES as usize];

/// An I/O APIC's window, on one of its registers.
fn window(n: usize, index: u32) -> *mut u32 {
    let base = (layout::DEVICES + 0x1000 * (n as u64 + 1)) as *mut u32;
    // SAFETY: the page is mapped uncached at boot; index and window are the I/O APIC's registers at 0 and 16.
    unsafe {
        base.write_volatile(index);
        base.byte_add(0x10)
    }
}

/// Masks the legacy PICs, and programs every line masked: ISA lines edge-triggered, others level and active low, but for
/// the overrides.
pub fn init_lines(firmware: &Firmware) {
    for (command, first_vector, cascade) in [(0x20u16, 0x20u8, 4), (0xa0, 0x28, 2)] {
        // SAFETY: the standard initialisation of a PIC, with all its lines masked at the end.
        unsafe {
            Port::<u8>::new(command).write(0x11);
            for word in [first_vector, cascade, 1, 0xff] {
                Port::<u8>::new(command + 1).write(word);
            }
        }
    }
    let mut io_apics = IO_APICS.lock();
    for (n, io) in firmware.io_apics.iter().enumerate() {
        // SAFETY: reading its version, and in it the number of its last line, has no effect.
        let last = unsafe { window(n, 1).read_volatile() } >> 16 & 0xff;
        let first = io.global_system_interrupt_base;
        let _ = io_apics.push(first..first.saturating_add(last + 1));
    }
    for line in 0..LINES {
        let isa = line < 16;
        // Polarity in bits 1-0, trigger mode in bits 3-2; 0 is the bus's own.
        let odd = firmware.overrides.iter().find(|o| o.global_system_interrupt == line).map_or(0, |o| o.flags);
        let level = if odd >> 2 & 3 == 0 { !isa } else { odd >> 2 & 3 == 3 };
        let low = if odd & 3 == 0 { !isa } else { odd & 3 == 3 };
        let entry = (u64::from(FIRST_LINE_VECTOR) + u64::from(line))
            | u64::from(low) << 13
            | u64::from(level) << 15
            | u64::from(MASKED)
            | u64::from(IDS[0].load(Ordering::Relaxed)) << 56;
        ENTRIES[line as usize].store(entry, Ordering::Relaxed);
        program(&io_apics, line, entry);
    }
}

fn program(io_apics: &[Range<u32>], line: u32, entry: u64) {
    if let Some((n, lines)) = io_apics.iter().enumerate().find(|(_, lines)| lines.contains(&line)) {
        let pin = line - lines.start;
        for (register, half) in [(0x11, entry >> 32), (0x10, entry)] {
            // SAFETY: a half of a line's entry, and the line has one.
            unsafe { window(n, register + pin * 2).write_volatile(half as u32) };
        }
    }
}

/// Masks or unmasks a line.
pub fn mask_line(line: u32, masked: bool) {
    if let Some(entry) = ENTRIES.get(line as usize) {
        let io_apics = IO_APICS.lock();
        let old = entry.load(Ordering::Relaxed);
        let new = if masked { old | u64::from(MASKED) } else { old & !u64::from(MASKED) };
        entry.store(new, Ordering::Relaxed);
        program(&io_apics, line, new);
    }
}

/// Is the line level-triggered? Then it is masked from its interrupt until its domain has served it.
pub fn is_level(line: u32) -> bool {
    ENTRIES.get(line as usize).is_some_and(|e| e.load(Ordering::Relaxed) & 1 << 15 != 0)
}

/// The identifier of the first CPU's local APIC, where the machine's interrupts go.
pub fn first_id() -> u32 {
    IDS[0].load(Ordering::Relaxed)
}
