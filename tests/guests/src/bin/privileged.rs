//! Privileged instructions as the hypervisor emulates them: control and debug registers, MSRs, CPUID, ports, FPU.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::Errno;
use conformance_guests::abi::cpuid;
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::physdev::{PhysdevOp, SetIopl};
use conformance_guests::abi::trap::vector;
use conformance_guests::domain_rt::probe::{self, Entry, Regs, call, exec};
use conformance_guests::ops::physdev;
use conformance_guests::{Test, code, guest};

guest!(run);

const GP: Entry = Entry::Exception(vector::GP);
const UD: Entry = Entry::Exception(vector::UD);

fn run(t: &mut Test) {
    control(t);
    msrs(t);
    cpuid_leaves(t);
    ports(t);
    fpu(t);
    debug(t);
}

/// Runs code with rax; the trap and rax after.
fn with(bytes: &[u8], rax: u64) -> (Option<probe::Frame>, u64) {
    let mut regs = Regs { rax, ..Regs::default() };
    (exec(bytes, &mut regs), regs.rax)
}

fn control(t: &mut Test) {
    let (trap, cr0) = with(code::READ_CR0, 0);
    t.runs("read cr0", trap);
    t.eq("cr0: PE, WP, PG", cr0 & 0x8001_0001, 0x8001_0001);
    t.eq("cr0: no TS", cr0 & 8, 0);
    t.runs("write cr0 as it is", with(code::WRITE_CR0, cr0).0);
    t.runs("set TS", with(code::WRITE_CR0, cr0 | 8).0);
    t.eq("is set", with(code::READ_CR0, 0).1 & 8, 8);
    t.runs("clts", with(code::CLTS, 0).0);
    t.eq("is clear", with(code::READ_CR0, 0).1 & 8, 0);
    t.traps("clear PG", with(code::WRITE_CR0, cr0 & !(1 << 31)).0, GP, 0);
    let (trap, cr3) = with(code::READ_CR3, 0);
    t.runs("read cr3", trap);
    t.eq("cr3 is the L4", cr3, probe::mfn_of(conformance_guests::l4()).maddr().0);
    t.runs("write cr3 as it is", with(code::WRITE_CR3, cr3).0);
    t.traps("write cr3 with a plain page", with(code::WRITE_CR3, probe::page().mfn.maddr().0).0, GP, 0);
    let (trap, cr4) = with(code::READ_CR4, 0);
    t.runs("read cr4", trap);
    t.eq("cr4: PAE", cr4 & 0x20, 0x20);
    t.runs("write cr4 as it is", with(code::WRITE_CR4, cr4).0);
    t.runs("write cr2", with(code::WRITE_CR2, 0x1234_5000).0);
    t.eq("read cr2", with(code::READ_CR2, 0).1, 0x1234_5000);
    t.traps("read cr8", with(code::READ_CR8, 0).0, GP, 0);
    t.traps("cli without I/O privilege", with(code::CLI, 0).0, GP, 0);
    t.traps("sti", with(code::STI, 0).0, GP, 0);
    t.runs("wbinvd", with(code::WBINVD, 0).0);
    t.traps("invd", with(code::INVD, 0).0, GP, 0);
    let page = probe::page();
    t.traps("invlpg", exec(code::INVLPG, &mut Regs { rdi: page.va, ..Regs::default() }), GP, 0);
    t.traps("lgdt", exec(code::LGDT, &mut Regs { rdi: page.va, ..Regs::default() }), GP, 0);
    t.traps("lidt", exec(code::LIDT, &mut Regs { rdi: page.va, ..Regs::default() }), GP, 0);
    t.traps("sysret", with(code::SYSRET, 0).0, GP, 0);
    t.runs("rdtsc", with(code::RDTSC, 0).0);
}

const EFER: u64 = 0xc000_0080;
const FS_BASE: u64 = 0xc000_0100;
const GS_BASE: u64 = 0xc000_0101;
const KERNEL_GS_BASE: u64 = 0xc000_0102;

fn rdmsr(msr: u64) -> (Option<probe::Frame>, u64) {
    let mut regs = Regs { rcx: msr, rax: 0xaaaa_aaaa_5555_5555, rdx: 0xaaaa_aaaa_5555_5555, ..Regs::default() };
    let trap = exec(code::RDMSR, &mut regs);
    (trap, regs.rax | regs.rdx << 32)
}

fn wrmsr(msr: u64, value: u64) -> Option<probe::Frame> {
    exec(code::WRMSR, &mut Regs { rcx: msr, rax: value & 0xffff_ffff, rdx: value >> 32, ..Regs::default() })
}

fn msrs(t: &mut Test) {
    let (trap, efer) = rdmsr(EFER);
    t.runs("read EFER", trap);
    t.eq("EFER: LME, LMA", efer & 0x500, 0x500);
    t.runs("write EFER as it is", wrmsr(EFER, efer));
    let page = probe::page();
    page.set(0, 0xf5);
    for (msr, load) in [(FS_BASE, code::LOAD_FS), (GS_BASE, code::LOAD_GS)] {
        t.runs("write a segment base", wrmsr(msr, page.va));
        t.eq("read it", rdmsr(msr).1, page.va);
        t.eq("used", with(load, 0).1, 0xf5);
        t.traps("not canonical", wrmsr(msr, 0x8000_0000_0000), GP, 0);
        t.runs("zero", wrmsr(msr, 0));
    }
    t.runs("user GS base", wrmsr(KERNEL_GS_BASE, page.va));
    t.eq("read it", rdmsr(KERNEL_GS_BASE).1, page.va);
    t.traps("not canonical", wrmsr(KERNEL_GS_BASE, 0x8000_0000_0000), GP, 0);
    t.traps("a register that is none", rdmsr(0xdead_beef).0, GP, 0);
    t.traps("written", wrmsr(0xdead_beef, 0), GP, 0);
    let (trap, _) = rdmsr(0x277);
    t.runs("read PAT", trap);
    let set = |which: u64, base: u64| call(Hypercall::SET_SEGMENT_BASE, &[which, base]);
    t.ok("set FS", set(0, page.va));
    t.eq("seen", rdmsr(FS_BASE).1, page.va);
    t.ok("set user GS", set(1, page.va + 8));
    t.eq("seen", rdmsr(KERNEL_GS_BASE).1, page.va + 8);
    t.ok("set kernel GS", set(2, page.va));
    t.eq("seen", rdmsr(GS_BASE).1, page.va);
    t.ok("set the user GS selector", set(3, 0));
    t.ok("one that does not exist is null", set(3, 0x8ff3));
    for which in [0, 1, 2] {
        t.err("not canonical", set(which, 0x8000_0000_0000), Errno::EINVAL);
    }
    t.err("no such base", set(4, 0), Errno::EINVAL);
    t.ok("FS 0", set(0, 0));
    t.ok("GS 0", set(2, 0));
    t.ok("user GS 0", set(1, 0));
}

fn leaf(leaf: u32) -> (Option<probe::Frame>, [u64; 4]) {
    let mut regs = Regs { rax: leaf.into(), rbx: !0, rcx: 0, rdx: !0, ..Regs::default() };
    let trap = exec(code::CPUID, &mut regs);
    (trap, [regs.rax, regs.rbx, regs.rcx, regs.rdx])
}

fn cpuid_leaves(t: &mut Test) {
    let (trap, base) = leaf(cpuid::FIRST_LEAF);
    t.runs("forced cpuid", trap);
    let want = [cpuid::SIGNATURE_EBX, cpuid::SIGNATURE_ECX, cpuid::SIGNATURE_EDX].map(u64::from);
    t.eq("signature", base.get(1..), Some(&want[..]));
    let last = u64::from(cpuid::FIRST_LEAF);
    t.yes("leaves", base.first().is_some_and(|&a| a >= last + 2 && a <= last + 5));
    t.eq("version", leaf(cpuid::FIRST_LEAF + 1).1, [0x4_0011, 0, 0, 0]);
    let (_, pages) = leaf(cpuid::FIRST_LEAF + 2);
    t.eq("hypercall pages, features", (pages.first(), pages.get(2)), (Some(&1), Some(&1)));
    let (_, one) = leaf(1);
    let [_, _, ecx, edx] = one;
    t.yes("FPU, TSC, MSR, CX8, FXSR, SSE, SSE2", edx & 0x0700_0131 == 0x0700_0131);
    t.eq("no VME, PSE, PGE, PSE36", edx & (1 << 1 | 1 << 3 | 1 << 13 | 1 << 17), 0);
    t.eq("hypervisor bit", ecx >> 31, 1);
    t.eq("no MONITOR, VMX, PCID, x2APIC, TSC deadline", ecx & (1 << 3 | 1 << 5 | 1 << 17 | 1 << 21 | 1 << 24), 0);
    let (_, seven) = leaf(7);
    let [_, ebx, ecx, _] = seven;
    t.eq("no SMEP, INVPCID, SMAP", ebx & (1 << 7 | 1 << 10 | 1 << 20), 0);
    t.eq("no UMIP, PKU, LA57", ecx & (1 << 2 | 1 << 3 | 1 << 16), 0);
    let (_, extended) = leaf(0x8000_0001);
    let [_, _, _, edx] = extended;
    t.eq("long mode, NX, SYSCALL", edx & (1 << 29 | 1 << 20 | 1 << 11), 1 << 29 | 1 << 20 | 1 << 11);
    t.eq("no 1 GiB pages", edx & 1 << 26, 0);
    let mut regs = Regs { rax: 0, ..Regs::default() };
    t.runs("cpuid of the processor", exec(code::NATIVE_CPUID, &mut regs));
    t.yes("answers", regs.rax != 0);
    // The prefix before anything else is just ud2.
    t.traps("prefix before nop", with(&[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x90], 0).0, UD, 0);
}

fn ports(t: &mut Test) {
    let access = |bytes: &[u8]| {
        let mut regs = Regs { rdx: 0x80, rax: 0, ..Regs::default() };
        exec(bytes, &mut regs)
    };
    let iopl = |iopl| physdev(PhysdevOp::SET_IOPL, &mut SetIopl { iopl });
    t.traps("out without I/O privilege", access(code::OUT_AL), GP, 0);
    t.traps("in", access(code::IN_AL), GP, 0);
    t.err("iopl 4", iopl(4), Errno::EINVAL);
    t.ok("iopl 1", iopl(1));
    t.runs("out", access(code::OUT_AL));
    t.runs("in", access(code::IN_AL));
    t.runs("cli", with(code::CLI, 0).0);
    t.runs("sti", with(code::STI, 0).0);
    t.ok("iopl 3", iopl(3));
    t.runs("out", access(code::OUT_AL));
    t.ok("iopl 0", iopl(0));
    t.traps("out", access(code::OUT_AL), GP, 0);
    t.err("argument nowhere", call(Hypercall::PHYSDEV_OP, &[6, 0x1000]), Errno::EFAULT);
    t.err("unknown physdev_op", call(Hypercall::PHYSDEV_OP, &[99, 0x1000]), Errno::ENOSYS);
}

fn fpu(t: &mut Test) {
    let taskswitch = |set: u64| call(Hypercall::FPU_TASKSWITCH, &[set]);
    t.runs("fpu", with(code::FPU, 0).0);
    t.ok("set", taskswitch(1));
    t.traps("fpu traps", with(code::FPU, 0).0, Entry::Exception(vector::NM), 0);
    t.eq("the trap clears TS", with(code::READ_CR0, 0).1 & 8, 0);
    t.runs("fpu", with(code::FPU, 0).0);
    t.ok("set again", taskswitch(1));
    t.ok("clear", taskswitch(0));
    t.runs("fpu", with(code::FPU, 0).0);
}

fn debug(t: &mut Test) {
    let set = |reg: u64, value: u64| call(Hypercall::SET_DEBUGREG, &[reg, value]);
    let get = |reg: u64| call(Hypercall::GET_DEBUGREG, &[reg]);
    let page = probe::page();
    for reg in 0..4 {
        t.ok("set an address", set(reg, page.va));
        t.returns("get it", get(reg), page.va as i64);
        t.ok("clear", set(reg, 0));
    }
    t.err("an address in the hypervisor", set(0, 0xffff_8300_0000_0000), Errno::EPERM);
    t.err("a non-canonical address", set(0, 0x8000_0000_0000), Errno::EPERM);
    for reg in [4, 5] {
        t.ok("dr4 is dr6, dr5 is dr7", set(reg, 0));
    }
    for reg in [8, 100] {
        t.err("no such register", set(reg, 0), Errno::ENODEV);
        t.err("to read", get(reg), Errno::ENODEV);
    }
    t.err("dr6 with high bits", set(6, 1 << 32), Errno::EINVAL);
    t.err("dr7 with high bits", set(7, 1 << 32), Errno::EINVAL);
    t.ok("dr6", set(6, 0));
    t.returns("reads back", get(6), 0xffff_0ff0);
    t.returns("dr7", get(7), 0x400);
    // A data breakpoint: write, 8 bytes, register 0, local.
    t.ok("address", set(0, page.va));
    t.ok("enable", set(7, 0x9_0401));
    let got = exec(code::STORE, &mut Regs { rdi: page.va, ..Regs::default() });
    t.traps("the write traps", got, Entry::Exception(vector::DB), 0);
    t.returns("dr6 tells", get(6) & 1, 1);
    t.ok("disable", set(7, 0x400));
    t.runs("no more", exec(code::STORE, &mut Regs { rdi: page.va, ..Regs::default() }));
    t.runs("mov from dr7", with(code::READ_DR7, 0).0);
    t.runs("mov to dr7", with(code::WRITE_DR7, 0x400).0);
}
