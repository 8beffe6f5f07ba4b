//! Which segment descriptors a guest may have, and how they are changed to be safe.
//!
//! Source: the descriptor formats of the architecture; what a real Xen admits.

use abi::layout::{FIRST_RESERVED_GDT_BYTE, FLAT_RING3_CS64};

const PRESENT: u64 = 1 << 47;
const DPL: u64 = 3 << 45;
/// Code or data, not a system descriptor.
const CODE_OR_DATA: u64 = 1 << 44;
const TYPE: u64 = 0xf << 40;
const CALL_GATE: u64 = 0xc << 40;
/// First selector behind the guest's own part of the GDT.
const RESERVED: u16 = FIRST_RESERVED_GDT_BYTE as u16;

/// The descriptor as the core lets a guest have it, or none if it may not.
///
/// Not present: as it is. Code and data: DPL 3 is forced. Type 0 (the second half of a call gate): as it is. Call
/// gates into the guest's own segments: DPL 0, so that their use traps, with the DPL wanted in the selector's RPL.
/// Everything else is refused: TSS, LDT and interrupt gates are the core's alone.
pub fn admit(descriptor: u64) -> Option<u64> {
    if descriptor & PRESENT == 0 {
        return Some(descriptor);
    }
    if descriptor & CODE_OR_DATA != 0 {
        return Some(descriptor | DPL);
    }
    match descriptor & TYPE {
        0 => Some(descriptor),
        CALL_GATE => admit_gate(descriptor),
        _ => None,
    }
}

fn admit_gate(descriptor: u64) -> Option<u64> {
    const RESERVED_BITS: u64 = 0xff << 32;
    let target = (descriptor >> 16) as u16;
    let own = target < RESERVED || target == FLAT_RING3_CS64 || target & 4 != 0;
    if !own || descriptor & RESERVED_BITS != 0 {
        return None;
    }
    Some(descriptor & !DPL | 3 << 16)
}

/// Is this 64-bit code? The selector's descriptor is read by who asks.
pub fn is_long_code(descriptor: u64) -> bool {
    const LONG: u64 = 1 << 53;
    const CODE: u64 = 1 << 43;
    let wanted = PRESENT | CODE_OR_DATA | CODE | LONG;
    descriptor & wanted == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn system(kind: u64) -> u64 {
        PRESENT | kind << 40
    }

    #[test]
    fn code_and_data_get_dpl_3() {
        let kernel_code = 0x00af_9a00_0000_ffff;
        assert_eq!(admit(kernel_code), Some(0x00af_fa00_0000_ffff));
        let kernel_data = 0x00cf_9200_0000_ffff;
        assert_eq!(admit(kernel_data), Some(0x00cf_f200_0000_ffff));
        let user_data = 0x00cf_f200_0000_ffff;
        assert_eq!(admit(user_data), Some(user_data), "those that have it keep it");
    }

    #[test]
    fn absent_descriptors_are_left_alone() {
        for kind in 0..32 {
            assert_eq!(admit(kind << 40), Some(kind << 40));
        }
    }

    #[test]
    fn system_descriptors_are_refused_but_for_call_gates() {
        for kind in 1..16 {
            let admitted = admit(system(kind)).is_some();
            assert_eq!(admitted, kind == 0xc, "type {kind:#x}");
        }
        assert_eq!(admit(system(0)), Some(system(0)));
    }

    #[test]
    fn call_gates_trap_and_stay_in_the_guests_segments() {
        let gate = |selector: u16, dpl: u64| system(0xc) | dpl << 45 | u64::from(selector) << 16;
        assert_eq!(admit(gate(0x10, 3)), Some(system(0xc) | 0x13 << 16));
        assert_eq!(admit(gate(0xe033, 0)), Some(system(0xc) | 0xe033 << 16));
        assert!(admit(gate(0xe02c, 3)).is_some(), "an LDT selector");
        assert_eq!(admit(gate(0xe008, 3)), None, "the core's own code");
        assert_eq!(admit(gate(RESERVED, 3)), None);
        assert!(admit(gate(RESERVED - 8, 3)).is_some());
        assert_eq!(admit(gate(0x10, 3) | 1 << 32), None, "reserved bits");
    }

    #[test]
    fn long_code_is_recognised() {
        assert!(is_long_code(0x00af_fa00_0000_ffff));
        assert!(!is_long_code(0x00cf_fa00_0000_ffff));
        assert!(!is_long_code(0x00af_7a00_0000_ffff));
        assert!(!is_long_code(0x00af_f200_0000_ffff));
    }
}
