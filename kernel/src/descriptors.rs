//! GDT, TSS and IDT of each CPU.
//!
//! The GDT register always points at the CPU's window (layout.rs): 14 pages of the guest that runs, then the core's own
//! page, whose selectors are those of the public headers (`FLAT_RING3_CS64` and its relatives).

use core::arch::asm;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, Segment};
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::registers::model_specific::Msr;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::structures::tss::TaskStateSegment;

use crate::layout;

/// The core's code segment.
pub const CORE_CS: u16 = 0xe008;
/// The core's data segment.
pub const CORE_SS: u16 = 0xe010;
const TSS: u16 = 0xe040;
const LDT: u16 = 0xe050;
/// The first byte of the table that is the core's: entry 7168.
const FIRST: u16 = 0xe000;
/// IST slots, by their number in the gates; [`layout::IST_STACKS`] has a stack for each.
const IST: [(usize, u8); 4] = [(2, 1), (8, 2), (18, 3), (1, 4)];

/// What a CPU's descriptor-table registers point at.
#[repr(C, align(4096))]
pub struct Tables {
    /// The core's page of the GDT.
    gdt: [u64; 512],
    idt: [[u64; 2]; 256],
    /// The TSS.
    pub tss: TaskStateSegment,
}

unsafe extern "C" {
    static entry_stubs: u8;
    fn entry_syscall();
    fn entry_syscall32();
}

impl Tables {
    /// Empty tables.
    pub const fn new() -> Self {
        Self { gdt: [0; 512], idt: [[0; 2]; 256], tss: TaskStateSegment::new() }
    }

    fn set(&mut self, selector: u16, entry: u64) {
        self.gdt[usize::from((selector - FIRST) >> 3)] = entry;
    }

    /// A system descriptor takes two entries.
    fn set_system(&mut self, selector: u16, base: u64, limit: u64, kind: u64) {
        let low = limit & 0xffff | (base & 0xff_ffff) << 16 | (0x80 | kind) << 40 | (base >> 24 & 0xff) << 56;
        self.set(selector, low);
        self.set(selector + 8, base >> 32);
    }

    /// Fills the tables in for one CPU.
    pub fn fill(&mut self, cpu: u32) {
        self.set(CORE_CS, 0x00af_9b00_0000_ffff);
        self.set(CORE_SS, 0x00cf_9300_0000_ffff);
        self.set(0xe020, 0x00cf_fb00_0000_ffff);
        self.set(0xe028, 0x00cf_f300_0000_ffff);
        self.set(0xe030, 0x00af_fb00_0000_ffff);
        let tss = &raw const self.tss as u64;
        self.set_system(TSS, tss, size_of::<TaskStateSegment>() as u64 - 1, 9);
        let area = layout::cpu_area(cpu);
        for (_, slot) in IST {
            self.tss.interrupt_stack_table[usize::from(slot) - 1] = VirtAddr::new(ist_stack_end(area, slot) - 16);
        }
        for (vector, entry) in self.idt.iter_mut().enumerate() {
            let ist = IST.iter().find(|(v, _)| *v == vector).map_or(0, |(_, slot)| *slot);
            let dpl = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
            *entry = gate(&raw const entry_stubs as u64 + vector as u64 * 16, ist, dpl);
        }
    }

    /// Loads all three registers, and the SYSCALL entry with them. The window's last page is `gdt` already.
    pub fn load(&mut self, cpu: u32) {
        let table = |limit, base| DescriptorTablePointer { limit, base: VirtAddr::new(base) };
        let (gdt, idt) = (layout::cpu_area(cpu) + layout::GDT_WINDOW, &raw const self.idt as u64);
        // TF, IF, DF, IOPL, NT, RF, AC: all off in ring 0 behind SYSCALL.
        const MASK: u64 = 0x0005_7700;
        // SAFETY: both tables belong to this CPU for good and are filled; the selectors loaded are entries of them (SYSRET
        // adds 8 and 16 to e023), the entries are entry.s's. The data segments stay empty, as boot.s leaves them: ring 0
        // uses none.
        unsafe {
            lgdt(&table(0xefff, gdt));
            lidt(&table(4095, idt));
            CS::set_reg(SegmentSelector(CORE_CS));
            load_tss(SegmentSelector(TSS));
            Msr::new(0xc000_0081).write(0xe023_u64 << 48 | u64::from(CORE_CS) << 32);
            Msr::new(0xc000_0082).write(entry_syscall as *const () as u64);
            Msr::new(0xc000_0083).write(entry_syscall32 as *const () as u64);
            Msr::new(0xc000_0084).write(MASK);
        }
    }

    /// Points the LDT register at the CPU's LDT window, `entries` long; 0 for none.
    pub fn load_ldt(&mut self, cpu: u32, entries: u32) {
        let selector = if entries == 0 {
            0
        } else {
            let base = layout::cpu_area(cpu) + layout::LDT_WINDOW;
            self.set_system(LDT, base, u64::from(entries) * 8 - 1, 2);
            LDT
        };
        // SAFETY: the descriptor lies in this CPU's GDT and covers pages of the window that hold checked descriptors.
        unsafe { asm!("lldt {0:x}", in(reg) selector, options(nostack, preserves_flags)) };
    }
}

/// Where an IST stack ends; each has one page, with an unmapped one before it.
pub fn ist_stack_end(area: u64, slot: u8) -> u64 {
    area + layout::IST_STACKS + u64::from(slot) * 0x2000
}

/// An interrupt gate: interrupts stay off in ring 0.
fn gate(at: u64, ist: u8, dpl: u64) -> [u64; 2] {
    let low = at & 0xffff | u64::from(CORE_CS) << 16 | u64::from(ist) << 32 | (0x8e | dpl << 5) << 40;
    [low | (at >> 16 & 0xffff) << 48, at >> 32]
}
