//! Control registers of a CPU, and what its features make of the image.

use core::arch::x86_64::__cpuid_count;

use x86_64::registers::control::{Cr0, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

/// Bits that are the guest's own: TSD, DE, FSGSBASE.
const CR4_GUEST: u64 = 1 << 2 | 1 << 3 | 1 << 16;
/// The PAT that guests see, as Xen has it: WB, WT, UC-, UC, WC, WP, UC, UC.
const PAT: u64 = 0x0000_0501_0007_0406;

/// CPUID's answer: eax, ebx, ecx, edx; zeros behind the last leaf of a range.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = __cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// What protects ring 0, where the CPU has it.
fn protection() -> Cr4Flags {
    let [last, ..] = cpuid(0, 0);
    let [_, b, c, _] = if last >= 7 { cpuid(7, 0) } else { [0; 4] };
    let smep = (b >> 7, Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION);
    let smap = (b >> 20, Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION);
    let umip = (c >> 2, Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION);
    [smep, smap, umip].into_iter().filter(|(feature, _)| feature & 1 != 0).map(|(_, flag)| flag).collect()
}

/// Sets the control registers and the PAT: the same on every CPU.
pub fn init() {
    let mut set = protection() | Cr4Flags::MACHINE_CHECK_EXCEPTION | Cr4Flags::PAGE_GLOBAL;
    set |= Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    set.set(Cr4Flags::OSXSAVE, crate::fpu::offered() != 0);
    // SAFETY: PAE stays; the bits are ones that this CPU has; MP, NE and AM on, EM and TS off in CR0. Entries 0-3 of the
    // PAT keep their meaning, which is all that the core's own tables use.
    unsafe {
        Cr4::update(|flags| flags.insert(set));
        Cr0::write_raw(Cr0::read_raw() & !0xc | 0x4_0022);
        Msr::new(0x277).write(PAT);
    }
}

/// Puts the instructions that open and close guests' memory where the code has room for them, if the CPU has SMAP. While
/// the loader's tables, by which the image can be written, are still in force.
pub fn patch() {
    unsafe extern "C" {
        static smap_places: [u64; 2];
        static smap_places_end: [u64; 2];
    }
    if !protection().contains(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION) {
        return;
    }
    // SAFETY: the table names three-byte instructions of ours, each with what is to be there instead; nobody executes them
    // yet.
    unsafe {
        let start = &raw const smap_places;
        let places = core::slice::from_raw_parts(start, (&raw const smap_places_end).offset_from_unsigned(start));
        for [at, instruction] in places {
            core::slice::from_raw_parts_mut(*at as *mut u8, 3).copy_from_slice(&instruction.to_le_bytes()[..3]);
        }
    }
}

/// Takes the bits of CR4 that are a guest's own into the hardware, where they differ.
pub fn load_control(guest: u64) {
    let old = Cr4::read_raw();
    let new = old & !CR4_GUEST | guest & CR4_GUEST;
    if new != old {
        // SAFETY: the bits are ones that this CPU has, as the core checked when the guest set them; ring 0 does not
        // depend on them.
        unsafe { Cr4::write_raw(new) };
    }
}
