//! CPUID and model-specific registers of a domain without privileges, which the initial domain builds by domctl and has execute
//! them: each leaf and each register as `cpuid` and `msrs` look at the initial domain's, and both beside one another.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::regs::msr;
use conformance_guests::domain_rt::println;
use conformance_guests::domain_rt::probe::{self, Regs};
use conformance_guests::remote::Remote;
use conformance_guests::views::msrs::{self, Registers};
use conformance_guests::views::{Kernel, Own, cpuid};
use conformance_guests::{Test, code, guest};

guest!(run);

/// Registers of AMD's.
const AMD: core::ops::Range<u32> = 0xc001_0000..0xc001_1100;
/// Of these, where memory and devices are: the machine's, and of nobody but who drives it.
const MACHINE: [u32; 9] = [
    0xc001_0010,
    0xc001_0016,
    0xc001_0017,
    0xc001_0018,
    0xc001_0019,
    0xc001_001a,
    0xc001_001d,
    0xc001_0112,
    0xc001_0113,
];
/// Features, by leaf and register (0 to 3), that no domain of this kind has, whatever the processor does.
const NEVER: [(u64, usize, u64); 7] = [
    // MONITOR, VMX, PCID, x2APIC, TSC deadline; VME, PSE, MTRR, PGE, PSE36.
    (1, 2, 1 << 3 | 1 << 5 | 1 << 17 | 1 << 21 | 1 << 24),
    (1, 3, 1 << 1 | 1 << 3 | 1 << 12 | 1 << 13 | 1 << 17),
    // SMEP, INVPCID, SMAP; UMIP, PKU, OSPKE, LA57.
    (7, 1, 1 << 7 | 1 << 10 | 1 << 20),
    (7, 2, 1 << 2 | 1 << 3 | 1 << 4 | 1 << 16),
    // SVM, IBS, SKINIT; PSE, MTRR, PGE, PSE36, 1 GiB pages.
    (0x8000_0001, 2, 1 << 2 | 1 << 10 | 1 << 12),
    (0x8000_0001, 3, 1 << 3 | 1 << 12 | 1 << 13 | 1 << 17 | 1 << 26),
    // Performance counters.
    (0xa, 0, !0),
];

fn run(t: &mut Test) {
    let Some(remote) = Remote::build(t) else { return };
    cpuid::check(t, &remote);
    features(t, &remote);
    msrs::check(t, &remote);
    of_the_machine(t, &remote);
    tsc(t, &remote);
    let (ours, (frame, view)) = (probe::page(), remote.child.spare());
    msrs::hypercall_page(t, &remote, frame, view, &[ours.mfn, remote.child.root_frame()]);
    t.eq("our page is as it was", (0..512).find(|word| ours.get(*word) != 0), None);
    their_own(t, &remote);
}

fn ask(kernel: &dyn Kernel, code: &[u8], leaf: u64, subleaf: u64) -> [u64; 4] {
    let mut regs = Regs { rax: leaf, rcx: subleaf, ..Regs::default() };
    kernel.execute(code, &mut regs);
    [regs.rax, regs.rbx, regs.rcx, regs.rdx]
}

/// It sees the same processor, and no more of it than the initial domain.
fn features(t: &mut Test, remote: &Remote) {
    for (leaf, register, bits) in NEVER {
        let shown = ask(remote, code::CPUID, leaf, 0);
        t.eq("never shown", (leaf, shown.get(register).map(|word| word & bits)), (leaf, Some(0)));
    }
    for leaf in [1, 7, 0xd, 0x8000_0001, 0x8000_0007, 0x8000_0008] {
        for subleaf in [0, 1] {
            let (its, ours) = (ask(remote, code::CPUID, leaf, subleaf), ask(&Own, code::CPUID, leaf, subleaf));
            let more = its.iter().zip(&ours).any(|(its, ours)| its & !ours != 0);
            t.eq("no more than ours", (leaf, more), (leaf, false));
            let (its, ours) = [(remote as &dyn Kernel), &Own].map(|k| ask(k, code::NATIVE_CPUID, leaf, subleaf)).into();
            t.eq("the processor's own", (leaf, its), (leaf, ours));
        }
    }
    let [.., ours] = ask(&Own, code::CPUID, 1, 0);
    t.yes("memory types, which we are shown", ours & 1 << 12 != 0);
}

/// What of the machine there is in registers: nothing that the initial domain has not.
fn of_the_machine(t: &mut Test, remote: &Remote) {
    let (its, ours) = (Registers(remote), Registers(&Own));
    for number in MACHINE {
        t.eq("a register of the machine", (number, its.read(number)), (number, None));
        t.eq("to be written", (number, its.write(number, 0), its.write(number, !0)), (number, false, false));
    }
    for number in AMD {
        let value = its.read(number);
        if value.is_some() && value != ours.read(number) {
            println!("  register {number:#x}: {value:x?}");
            t.yes("no more than ours", false);
        }
        if value.is_none() && its.write(number, 0) {
            println!("  register {number:#x}");
            t.yes("what is not there is not written", false);
        }
    }
}

/// One TSC, by its register and by the instruction.
fn tsc(t: &mut Test, remote: &Remote) {
    let registers = Registers(remote);
    let mut regs = Regs::default();
    let before = registers.read(msr::TSC);
    t.eq("RDTSC", remote.execute(code::RDTSC, &mut regs), None);
    let after = registers.read(msr::TSC);
    let between = Some(regs.rdx << 32 | regs.rax);
    t.yes("in between", before < between && between < after);
}

/// Bases are of the domain that wrote them.
fn their_own(t: &mut Test, remote: &Remote) {
    let (its, ours) = (Registers(remote), Registers(&Own));
    for (number, value) in (msr::FS_BASE..).zip([0x1000, 0x2000, 0x3000]) {
        let before = ours.read(number);
        t.yes("a base of its own", its.write(number, value));
        t.eq("is not ours", ours.read(number), before);
        t.eq("and stays", its.read(number), Some(value));
    }
}
