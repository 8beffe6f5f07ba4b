//! Every operation of every call with the same few bad arguments, thousands of calls, from the initial domain and from one
//! without privileges: what real Xen answers, as a digest.
//!
//! Each line of output is one operation and its results, so that two logs can be compared where a digest differs. What
//! differs on purpose is left out, and said on the page of the call (docs/hypercalls).
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::domctl::DomctlOp;
use conformance_guests::abi::hypercall::Hypercall as H;
use conformance_guests::abi::{DomId, Mfn};
use conformance_guests::child::{self, Child};
use conformance_guests::domain_rt::print;
use conformance_guests::domain_rt::probe::{self, call};
use conformance_guests::{Ret, Test, guest};

guest!(run);

/// Nothing there, nothing mapped, the hypervisor's, no address at all.
const NOWHERE: [u64; 4] = [0, 0x1000, 0xffff_8300_0000_0000, 0x8000_0000_0000_0000];
/// What a page of arguments holds: a word at its beginning, and another in all the rest.
const WORDS: [(u64, u64); 4] = [(0, 0), (ONES, ONES), (NOBODY, 0), (u64::MAX, u64::MAX)];
const ONES: u64 = 1 << 32 | 1;
/// A domain that is not there.
const NOBODY: u64 = 77;
/// The highest number of a vCPU.
const MOST: u64 = u32::MAX as u64;
const SELF: u64 = DomId::SELF.0 as u64;
const IO: u64 = DomId::IO.0 as u64;

/// What a domain without privileges is refused with another error than by Xen, or not at all, as it concerns itself.
const SELF_RULED: [(H, u64); 6] = [
    (H::EVENT_CHANNEL_OP, 2),
    (H::MEMORY_OP, 7),
    (H::MEMORY_OP, 13),
    (H::MEMORY_OP, 15),
    (H::PHYSDEV_OP, 14),
    (H::PHYSDEV_OP, 24),
];

/// Results so far: FNV-1a, a word at a time.
struct Digest<'a> {
    /// The page of arguments: where who calls sees it, its frame, where we see it.
    va: u64,
    mfn: Mfn,
    view: u64,
    /// Who calls: the initial domain, or one without privileges.
    child: Option<&'a Child>,
    sum: u64,
}

impl Digest<'_> {
    fn quiet(&self, number: H, args: &[u64]) -> i64 {
        self.child.map_or_else(|| call(number, args), |child| child.call(number, args))
    }

    fn call(&mut self, number: H, args: &[u64]) {
        let op = args.first().copied().unwrap_or(0);
        if self.child.is_some() && SELF_RULED.contains(&(number, op)) {
            return;
        }
        let result = self.quiet(number, args);
        self.sum = (self.sum ^ result as u64).wrapping_mul(0x100_0000_01b3);
        print!(" {:?}", Ret(result));
    }

    fn set(&self, index: u64, word: u64) {
        probe::poke(self.view + 8 * index, word);
    }

    fn fill(&self, first: u64, rest: u64) {
        self.set(0, first);
        (1..512).for_each(|index| self.set(index, rest));
    }

    /// A line: one operation with its pointer at bad places.
    fn nowhere(&mut self, number: H, op: u64, args: impl Fn(u64) -> [u64; 4]) {
        print!("\n{} {op}", number.0);
        NOWHERE.iter().for_each(|at| self.call(number, &args(*at)));
    }

    /// The same, and at a page of bad contents.
    fn each(&mut self, number: H, op: u64, args: impl Fn(u64) -> [u64; 4]) {
        self.nowhere(number, op, &args);
        for (first, rest) in WORDS {
            self.fill(first, rest);
            let args = args(self.va);
            self.call(number, &args);
        }
    }
}

/// A part of the calls, by name, and what Xen 4.17 makes of it: from the initial domain, from one without privileges.
type Part = (&'static str, fn(&mut Digest<'_>), u64, u64);
const PARTS: [Part; 12] = [
    ("numbers", numbers, 0x5eb4_42d9_3cbd_8bed, 0x5eb4_42d9_3cbd_8bed),
    ("texts", texts, 0x338d_873f_d789_8690, 0x8dbd_c1a5_4d50_97b7),
    ("events", events, 0x84ef_c535_0697_bd8b, 0xa228_27f6_833e_5e05),
    ("vcpus", vcpus, 0xbd63_7c38_10a3_6ad3, 0x30a0_2d1f_99d2_23f7),
    ("memory", memory, 0xe2fe_8aaa_bb23_e116, 0x54f1_5ca9_c0ad_f9d6),
    ("interrupts", interrupts, 0xed30_cce2_15c0_1fb6, 0x1ac5_df0e_2da1_189d),
    ("grants", grants, 0x389b_581e_1d8d_8986, 0x3754_58d4_494d_6136),
    ("callbacks", callbacks, 0x94df_05a3_f4b1_a135, 0x94df_05a3_f4b1_a135),
    ("tables", tables, 0x0163_7f24_3e67_9cb4, 0x30a9_cc22_7451_0c7e),
    ("registers", registers, 0x7be7_fd27_bc5b_350b, 0x7be7_fd27_bc5b_350b),
    ("descriptors", descriptors, 0x12c8_b149_44fd_16c5, 0x12c8_b149_44fd_16c5),
    ("control", control, 0xffe4_5d2a_209d_5c1e, 0x8d46_69ae_3d83_215d),
];

fn run(t: &mut Test) {
    // No upcall comes through callbacks that are no addresses of code.
    probe::mask_events(true);
    let page = probe::page();
    let sweep = |t: &mut Test, va, mfn, view, child: Option<&Child>| {
        for (name, part, by_initial, by_child) in PARTS {
            let mut digest = Digest { va, mfn, view, child, sum: 0xcbf2_9ce4_8422_2325 };
            part(&mut digest);
            print!("\n");
            t.eq(name, digest.sum, if child.is_some() { by_child } else { by_initial });
        }
    };
    sweep(t, page.va, page.mfn, page.va, None);
    let Some(child) = Child::build(t) else { return };
    t.ok("unpause", child::control(DomctlOp::UNPAUSEDOMAIN, child.id));
    sweep(t, child::GIFT, child.gift_frame(), child.gift, Some(&child));
}

fn numbers(d: &mut Digest) {
    print!("unknown");
    (50..70).chain([u32::MAX]).for_each(|number| d.call(H(number), &[0x1000; 3]));
}

fn texts(d: &mut Digest) {
    // Not 10: there is no build id.
    for op in (2..10).chain(11..20) {
        d.nowhere(H::XEN_VERSION, op, |at| [op, at, 0, 0]);
    }
    // Others than the initial domain may write here, and may not on Debian's Xen.
    for op in 0..if d.child.is_none() { 6 } else { 0 } {
        d.nowhere(H::CONSOLE_IO, op, |at| [op, 5, at, 0]);
        d.call(H::CONSOLE_IO, &[op, 1 << 31, 0x1000]);
        d.call(H::CONSOLE_IO, &[op, 0, 0x1000]);
    }
    for kind in (0..40).chain([MOST]) {
        print!("\n{} {kind}", H::VM_ASSIST.0);
        [0, 1, 2, MOST].iter().for_each(|command| d.call(H::VM_ASSIST, &[*command, kind]));
    }
}

fn events(d: &mut Digest) {
    for op in (0..10).chain(11..14).chain(15..20) {
        d.each(H::EVENT_CHANNEL_OP, op, |at| [op, at, 0, 0]);
    }
    d.nowhere(H::EVENT_CHANNEL_OP, 10, |at| [10, at, 0, 0]);
    // Good ones would end it, or wait for ever. Not 6 and 7, which are not there.
    for op in 2..6 {
        d.nowhere(H::SCHED_OP, op, |at| [op, at, 0, 0]);
    }
    for op in 8..12 {
        d.each(H::SCHED_OP, op, |at| [op, at, 0, 0]);
    }
}

fn vcpus(d: &mut Digest) {
    for vcpu in [1, 31, 32, MOST] {
        for op in 0..17 {
            d.each(H::VCPU_OP, op, |at| [op, vcpu, at, 0]);
        }
    }
    // Not 2, which ends it; 12 knows one CPU's vCPUs to be pinned; areas stay registered.
    for op in [0, 1, 3, 4, 6, 7, 8, 9, 14, 15, 16] {
        d.each(H::VCPU_OP, op, |at| [op, 0, at, 0]);
    }
    [7, 9].iter().for_each(|op| d.call(H::VCPU_OP, &[*op, 0, 0]));
}

fn memory(d: &mut Digest) {
    // Not 2 to 4, which depend on the machine, nor what is not there.
    for op in [0, 1, 5, 6, 7, 8, 9, 12, 13, 14, 15] {
        d.each(H::MEMORY_OP, op, |at| [op, at, 0, 0]);
    }
    d.nowhere(H::MEMORY_OP, 10, |at| [10, at, 0, 0]);
    d.nowhere(H::MEMORY_OP, 11, |at| [11, at, 0, 0]);
    print!("\nprogress");
    [2, 3, 4, 11, 14, 15].iter().for_each(|op| d.call(H::MEMORY_OP, &[op | 1 << 6, 0x1000]));
}

fn interrupts(d: &mut Digest) {
    for op in [5, 6, 13, 14, 15, 16, 19, 20, 21, 23, 24, 25, 26, 27, 30, 31] {
        d.nowhere(H::PHYSDEV_OP, op, |at| [op, at, 0, 0]);
    }
    for op in [0, 1, 2, 3, 6, 11, 12, 14, 18, 22, 32, 33, 34] {
        d.each(H::PHYSDEV_OP, op, |at| [op, at, 0, 0]);
    }
    d.quiet(H::PHYSDEV_OP, &[6, d.va]);
}

fn grants(d: &mut Digest) {
    // Not 3, 4, 9, 11 and 12, which are not there.
    for op in [0, 1, 2, 5, 6, 7, 8, 10, 13, 14, 15] {
        for count in [1, 1 << 31] {
            d.each(H::GRANT_TABLE_OP, op, |at| [op, at, count, 0]);
        }
    }
}

fn callbacks(d: &mut Digest) {
    for op in 0..4 {
        d.nowhere(H::CALLBACK_OP, op, |at| [op, at, 0, 0]);
        d.fill(u64::MAX, u64::MAX);
        d.call(H::CALLBACK_OP, &[op, d.va]);
        d.each(H::NMI_OP, op, |at| [op, at, 0, 0]);
    }
}

fn tables(d: &mut Digest) {
    let (own, by_child) = (d.mfn.0 << 12, d.child.is_some());
    for cmd in (0..14).chain(15..26) {
        print!("\n{} {cmd}", H::MMUEXT_OP.0);
        for arg in [0, 1 << 40, NOWHERE[2]] {
            d.fill(cmd, 0);
            d.set(1, arg);
            d.set(2, if cmd == 13 { 8193 } else { 0 });
            [SELF, NOBODY, 0].iter().for_each(|domain| d.call(H::MMUEXT_OP, &[d.va, 1, 0, *domain]));
        }
    }
    // Whose tables they are is looked at before the kind is.
    for kind in 0..if by_child { 4 } else { 8 } {
        print!("\n{} {kind}", H::MMU_UPDATE.0);
        for at in [1 << 40, NOWHERE[2]] {
            d.fill(at | kind, 0);
            for whose in [SELF, NOBODY, 0, IO, 78 << 16 | SELF, 1 << 16 | SELF] {
                d.call(H::MMU_UPDATE, &[d.va, 1, 0, whose]);
            }
        }
    }
    d.nowhere(H::MMU_UPDATE, 9, |at| [at, 1, 0, SELF]);
    d.nowhere(H::MMUEXT_OP, 99, |at| [at, 1, 0, SELF]);
    for va in [0, d.va, NOWHERE[2], NOWHERE[3], 0xffff_8000_0000_0000] {
        for entry in [0, own | 0x67, own | 0x67 | 1 << 59, own | 0x1067, 1 << 51 | 0x67] {
            print!("\n{} {} {:x}", H::UPDATE_VA_MAPPING.0, va == d.va, entry & 0xfff0_0000_0000_0fff);
            for flags in [0, 1, 2, 3, 6, 0x1001, 0x1002] {
                d.call(H::UPDATE_VA_MAPPING, &[va, entry, flags]);
                // A domain may map what it was given of the machine by this call too; on Xen by mmu_update only.
                for whose in [SELF, NOBODY, 0, IO].into_iter().filter(|whose| !by_child || *whose != IO) {
                    d.call(H::UPDATE_VA_MAPPING_OTHERDOMAIN, &[va, entry, flags, whose]);
                }
            }
            d.quiet(H::UPDATE_VA_MAPPING, &[d.va, own | 0x67, 2]);
        }
    }
}

fn registers(d: &mut Digest) {
    let values = [0, 1, 1 << 32, NOWHERE[2], NOWHERE[3], 0xffff_0ff0, 0x400, 0x2000, 0x2_0002, 0x155];
    for register in (0..12).chain([MOST]) {
        print!("\n{} {register}", H::SET_DEBUGREG.0);
        for value in values {
            d.call(H::SET_DEBUGREG, &[register, value]);
            d.call(H::GET_DEBUGREG, &[register]);
        }
        d.quiet(H::SET_DEBUGREG, &[7, 0]);
    }
    for which in (0..6).chain([MOST]) {
        print!("\n{} {which}", H::SET_SEGMENT_BASE.0);
        for base in [0, 3, 0xffff, NOWHERE[2], NOWHERE[3]] {
            d.call(H::SET_SEGMENT_BASE, &[which, base]);
        }
    }
    d.quiet(H::SET_SEGMENT_BASE, &[0, 0]);
}

fn descriptors(d: &mut Digest) {
    d.fill(0, 0);
    print!("\n{}", H::SET_GDT.0);
    for (frames, entries) in [(0x1000, 1), (NOWHERE[2], 1), (d.va, 7169), (d.va, MOST), (d.va, 512)] {
        d.call(H::SET_GDT, &[frames, entries]);
    }
    let own = d.mfn.0 << 12;
    for at in [4, 1 << 40, own, own + 8, own + 12] {
        print!("\n{} {:x}", H::UPDATE_DESCRIPTOR.0, at & 0xfff);
        for limit in [0, 0x00cf_9b00_0000_ffff, 0x8900_0000_ffff, 0x00cf_fb00_0000_ffff, 0x8c00_0000_ffff] {
            d.call(H::UPDATE_DESCRIPTOR, &[at, limit]);
        }
    }
    d.nowhere(H::SET_TRAP_TABLE, 1, |at| [if at == 0 { 0x1000 } else { at }, 0, 0, 0]);
}

fn control(d: &mut Digest) {
    d.nowhere(H::DOMCTL, 0, |at| [at, 0, 0, 0]);
    d.nowhere(H::SYSCTL, 0, |at| [at, 0, 0, 0]);
    let version = 0x15 << 32;
    print!("\n{} of nobody", H::DOMCTL.0);
    // Without privileges Xen 4.17 answers getdomaininfo (5) with EPERM in some runs, and with another error in others.
    for cmd in (2..92).filter(|cmd| *cmd != 5) {
        d.fill(cmd | version, 0);
        d.set(1, NOBODY);
        d.call(H::DOMCTL, &[d.va]);
    }
    print!("\n{} of another version", H::DOMCTL.0);
    for cmd in 0..92 {
        d.fill(cmd | 1 << 32, 0);
        d.call(H::DOMCTL, &[d.va]);
        d.call(H::SYSCTL, &[d.va]);
    }
    print!("\n{} of oneself", H::DOMCTL.0);
    for cmd in [2, 3, 4, 9, 13, 14, 15, 25, 30, 31, 93, 999] {
        for domain in [0, SELF] {
            d.fill(cmd | version, 0);
            d.set(1, domain);
            d.call(H::DOMCTL, &[d.va]);
        }
    }
    print!("\n{}", H::SYSCTL.0);
    for cmd in [0, 1, 3, 6, 7, 8, 30, 31, 999] {
        d.fill(cmd | version, 0);
        d.call(H::SYSCTL, &[d.va]);
    }
}
