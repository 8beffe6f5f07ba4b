use std::boxed::Box;
use std::vec::Vec;

use abi::regs::{CpuUserRegs, rflags};
use abi::trap::{TrapInfo, vector};
use abi::{Pte, Vaddr};
use proptest::prelude::*;

use crate::lifecycle::NewDomain;
use crate::testing::{self, Guest, TestCore, TestMachine};
use crate::{Caller, Privilege};

mod cpuid;
mod operands;
mod tables;

const HANDLER: u64 = 0x40_0000;
const CODE: usize = 3;
/// The page behind which a guest of four pages sees its L1.
const TABLE: usize = 4;

struct Setup {
    core: Box<TestCore>,
    guest: Guest,
}

fn setup(privilege: Privilege) -> Setup {
    let core = testing::core(512, 1);
    let guest = testing::guest(&core, privilege, 4);
    guest.run(&core, |c| {
        c.run.regs = CpuUserRegs { cs: 0xe033, ss: 0xe02b, rsp: guest.va(1).0 + 0x800, ..CpuUserRegs::default() };
        c.run.user_root = c.run.kernel_root;
        for vector in [vector::GP, vector::PF, vector::UD, vector::DB] {
            c.run.traps.set(TrapInfo { vector, flags: 4, cs: 0xe033, address: Vaddr(HANDLER), ..TrapInfo::default() });
        }
    });
    Setup { core, guest }
}

impl Setup {
    /// Executes an instruction that raises `vector`, with some registers set. True: it was emulated to its end.
    fn execute(&self, code: &[u8], vector: u8, set: impl FnOnce(&mut CpuUserRegs)) -> bool {
        self.guest.poke(&self.core, CODE, 0x100, &[0x90; 15]);
        self.guest.poke(&self.core, CODE, 0x100, code);
        let rip = self.guest.va(CODE).0 + 0x100;
        self.guest.run(&self.core, |c| {
            c.run.regs.rip = rip;
            set(&mut c.run.regs);
            c.core.exception(c, vector, 0, 0);
            c.run.regs.rip == rip + code.len() as u64
        })
    }

    fn privileged(&self, code: &[u8], set: impl FnOnce(&mut CpuUserRegs)) -> bool {
        self.execute(code, vector::GP, set)
    }

    fn regs(&self) -> CpuUserRegs {
        self.guest.run(&self.core, |c| c.run.regs)
    }

    fn with<R>(&self, f: impl FnOnce(&mut Caller<'_, TestMachine>) -> R) -> R {
        self.guest.run(&self.core, f)
    }
}

fn ordinary() -> Setup {
    setup(Privilege::empty())
}

#[test]
fn control_registers_read_and_write() {
    let s = ordinary();
    // mov %cr0,%rax; mov %cr0,%r15
    assert!(s.privileged(&[0x0f, 0x20, 0xc0], |_| ()));
    assert_eq!(s.regs().rax, 0x8005_0033);
    assert!(s.privileged(&[0x41, 0x0f, 0x20, 0xc7], |_| ()));
    assert_eq!(s.regs().r15, 0x8005_0033);
    // mov %rbx,%cr0: TS may change, nothing else.
    assert!(s.privileged(&[0x0f, 0x22, 0xc3], |r| r.rbx = 0x8005_003b));
    assert!(s.privileged(&[0x0f, 0x20, 0xc0], |_| ()));
    assert_eq!(s.regs().rax, 0x8005_003b);
    assert!(s.privileged(&[0x0f, 0x22, 0xc3], |r| r.rbx = 0x8005_0033));
    assert_eq!(s.with(|c| core::mem::replace(&mut c.run.cr0, 8)), 0, "TS is clear");
    assert!(!s.privileged(&[0x0f, 0x22, 0xc3], |r| r.rbx = 0x8004_0033));
    // clts
    assert!(s.privileged(&[0x0f, 0x06], |_| ()));
    assert_eq!(s.with(|c| c.run.cr0), 0);
    // mov %rdi,%cr2; mov %cr2,%rsi
    assert!(s.privileged(&[0x0f, 0x22, 0xd7], |r| r.rdi = 0xabcd));
    assert!(s.privileged(&[0x0f, 0x20, 0xd6], |_| ()));
    assert_eq!(s.regs().rsi, 0xabcd);
    // mov %cr3,%rax is the frame of the kernel's root.
    assert!(s.privileged(&[0x0f, 0x20, 0xd8], |_| ()));
    assert_eq!(s.regs().rax, s.guest.tables[3].mfn().0 << 12);
    // mov %rax,%cr3: the same root again, then something that can be none.
    assert!(s.privileged(&[0x0f, 0x22, 0xd8], |_| ()));
    assert!(!s.privileged(&[0x0f, 0x22, 0xd8], |r| r.rax = s.guest.frames[0].mfn().0 << 12));
    assert_ne!(s.regs().rip, s.guest.va(CODE).0 + 0x100, "a fault, not to be tried again");
    // mov %rax,%cr4; mov %cr4,%rcx: own bits stay, the core's are shown.
    assert!(s.privileged(&[0x0f, 0x22, 0xe0], |r| r.rax = 1 << 18 | 1 << 16 | 1 << 20 | 1 << 7));
    assert!(s.privileged(&[0x0f, 0x20, 0xe1], |_| ()));
    assert_eq!(s.regs().rcx, 1 << 18 | 1 << 16 | 0x660);
    // TSD, DE, FSGSBASE, OSXSAVE; FSGSBASE where CPUID has it.
    s.with(|c| assert_eq!(c.core.admit_cr4(u64::MAX), 1 << 2 | 1 << 3 | 1 << 16 | 1 << 18));
    s.core.platform.cpuid.lock().unwrap().insert((7, 0), [u32::MAX, !1, u32::MAX, u32::MAX]);
    s.with(|c| assert_eq!(c.core.admit_cr4(u64::MAX), 1 << 2 | 1 << 3 | 1 << 18));
    // CR8, CR1 and CR5 do not exist.
    assert!(!s.privileged(&[0x44, 0x0f, 0x20, 0xc0], |_| ()));
    assert!(!s.privileged(&[0x0f, 0x20, 0xc8], |_| ()));
    assert!(!s.privileged(&[0x0f, 0x22, 0xe8], |_| ()));
}

#[test]
fn debug_registers_by_instruction() {
    let s = ordinary();
    // mov %rax,%dr0; mov %dr0,%rbx; DR4 is another name of DR6.
    assert!(s.privileged(&[0x0f, 0x23, 0xc0], |r| r.rax = 0x1000));
    assert!(s.privileged(&[0x0f, 0x21, 0xc3], |_| ()));
    assert_eq!(s.regs().rbx, 0x1000);
    assert!(s.privileged(&[0x0f, 0x23, 0xe0], |r| r.rax = 0));
    assert!(s.privileged(&[0x0f, 0x21, 0xf1], |_| ()));
    assert_eq!(s.regs().rcx, 0xffff_0ff0);
    assert!(!s.privileged(&[0x0f, 0x23, 0xc0], |r| r.rax = 0xffff_8000_0000_1000), "the core's own addresses");
}

#[test]
fn segment_bases_by_msr_before_there_is_any_trap_table() {
    let s = ordinary();
    s.with(|c| *c.run.traps = Default::default());
    for (msr, at) in [(0xc000_0100u64, 0), (0xc000_0101, 1), (0xc000_0102, 2)] {
        let base = 0xffff_8880_0000_1000 + at;
        assert!(s.privileged(&[0x0f, 0x30], |r| (r.rcx, r.rax, r.rdx) = (msr, base & 0xffff_ffff, base >> 32)));
        assert!(s.privileged(&[0x0f, 0x32], |_| ()));
        assert_eq!(s.regs().rdx << 32 | s.regs().rax, base);
        let bases = s.with(|c| [c.run.fs_base, c.run.gs_base_kernel, c.run.gs_base_user]);
        assert_eq!(bases[at as usize], base);
    }
}

/// Every short instruction of the kernel's, and with a REX prefix, which is a byte more and else nothing.
#[test]
fn a_prefix_is_a_byte_more() {
    let s = ordinary();
    s.with(|c| (c.run.iopl, c.run.cr4) = (1, 1 << 18));
    let codes: [&[u8]; 11] = [
        &[0x0f, 0x20, 0xc3], // mov %cr0,%rbx
        &[0x0f, 0x22, 0xd3], // mov %rbx,%cr2
        &[0x0f, 0x06],       // clts
        &[0x0f, 0x09],       // wbinvd
        &[0x0f, 0x30],       // wrmsr
        &[0x0f, 0x32],       // rdmsr
        &[0x0f, 0xa2],       // cpuid
        &[0x0f, 0x31],       // rdtsc
        &[0x0f, 0x01, 0xd1], // xsetbv
        &[0xfa],             // cli
        &[0xfb],             // sti
    ];
    for code in codes {
        for prefix in [None, Some(0x48)] {
            let code: Vec<u8> = prefix.into_iter().chain(code.iter().copied()).collect();
            let number = if code.contains(&0x01) { 0 } else { 0xc000_0100 };
            assert!(s.privileged(&code, |r| (r.rax, r.rcx, r.rdx) = (7, number, 0)), "{code:x?}");
        }
    }
}

#[test]
fn the_time_stamp_counter_by_instruction_and_by_msr() {
    let s = ordinary();
    s.core.platform.clock.store(0x1_2345_6789_abcd, std::sync::atomic::Ordering::SeqCst);
    for code in [[0x0f, 0x31], [0x0f, 0x32]] {
        assert!(s.privileged(&code, |r| (r.rax, r.rcx, r.rdx) = (u64::MAX, 0x10, u64::MAX)));
        assert_eq!((s.regs().rdx, s.regs().rax), (0x1_2345, 0x6789_abcd));
    }
}

#[test]
fn msrs_that_the_machine_has_are_shown_and_may_be_written_back() {
    let (bios, misc_enable, pat, efer) = (0x8b, 0x1a0, 0x277, 0xc000_0080);
    let s = ordinary();
    let read = |msr: u32| {
        let done = s.privileged(&[0x0f, 0x32], |r| (r.rax, r.rcx, r.rdx) = (1, msr.into(), 1));
        done.then(|| s.regs().rdx << 32 | s.regs().rax)
    };
    let write = |msr: u32, value: u64| {
        s.privileged(&[0x0f, 0x30], |r| (r.rax, r.rcx, r.rdx) = (value & 0xffff_ffff, msr.into(), value >> 32))
    };
    for msr in [bios, misc_enable, pat, efer] {
        assert_eq!((read(msr), write(msr, 0)), (None, false), "a machine without {msr:#x}");
        s.core.platform.msrs.lock().unwrap().insert(msr, u64::MAX);
    }
    assert_eq!([bios, pat, efer].map(read), [Some(u64::MAX); 3]);
    // No performance monitoring, no MONITOR; no branch tracing, no event sampling, no task priority messages.
    assert_eq!(read(misc_enable), Some(!(1 << 7 | 1 << 18)));
    s.core.platform.msrs.lock().unwrap().insert(misc_enable, 0);
    assert_eq!(read(misc_enable), Some(1 << 11 | 1 << 12 | 1 << 23));
    assert!(write(misc_enable, 0x1234), "it makes no difference");
    assert!(write(efer, u64::MAX), "as it is");
    assert!(!write(efer, 0xd01));
    assert!(!write(pat, u64::MAX));
    assert_eq!([0xce, 0x140, 0x345, 0x4000_0000, 0, 1].map(read), [Some(0); 6]);
    assert!(write(0x140, 0) && !write(0x140, 1));
    // The APIC is enabled, at its place; the first CPU is the one that boots.
    assert_eq!(read(0x1b), Some(0xfee0_0900));
    let two = NewDomain { vcpus: 2, ..NewDomain::ordinary(1) };
    let two = testing::guest_of(&s.core, two, 4);
    let mut run = two.vcpu.run.lock();
    let mut second =
        Caller { core: &*s.core, cpu: &s.core.cpus[0], domain: &two.domain, vcpu: &two.domain.vcpus[1], run: &mut run };
    assert_eq!(s.core.read_msr(&mut second, 0x1b), Ok(()));
    assert_eq!(second.run.regs.rax, 0xfee0_0800);
}

#[test]
fn other_msrs_are_protection_faults() {
    let s = ordinary();
    for msr in [0x1d9, 0x174, 0x8b0, 0xc000_0081, 0xc000_0082, 0x4000_0001, 0xffff_ffff] {
        assert!(!s.privileged(&[0x0f, 0x32], |r| r.rcx = msr), "rdmsr {msr:#x}");
        assert!(!s.privileged(&[0x0f, 0x30], |r| (r.rcx, r.rax) = (msr, 1)), "wrmsr {msr:#x}");
    }
    // A base that is not canonical.
    assert!(!s.privileged(&[0x0f, 0x30], |r| (r.rcx, r.rdx) = (0xc000_0101, 0x8000)));
}

#[test]
fn machine_checks_have_two_banks_in_which_nothing_is_seen() {
    let s = ordinary();
    for (msr, value) in [(0x179, 2), (0x17a, 0), (0x17b, 0), (0x280, 0), (0x401, 0), (0x407, 0), (0x47f, 0)] {
        assert!(s.privileged(&[0x0f, 0x32], |r| (r.rax, r.rcx, r.rdx) = (1, msr, 1)), "rdmsr {msr:#x}");
        assert_eq!((s.regs().rax, s.regs().rdx), (value, 0), "{msr:#x}");
    }
    for msr in [0x400, 0x404] {
        assert!(s.privileged(&[0x0f, 0x32], |r| (r.rax, r.rcx, r.rdx) = (1, msr, 1)), "rdmsr {msr:#x}");
        assert_eq!((s.regs().rax, s.regs().rdx), (0xffff_ffff, 0xffff_ffff));
    }
    for (msr, value, heard) in
        [(0x400, 5, true), (0x401, 0, true), (0x401, 1, false), (0x408, 5, true), (0x480, 0, false)]
    {
        let made = s.privileged(&[0x0f, 0x30], |r| (r.rax, r.rcx, r.rdx) = (value, msr, 0));
        assert_eq!(made, heard, "wrmsr {msr:#x}, {value}");
    }
}

#[test]
fn a_frame_becomes_a_hypercall_page() {
    let s = ordinary();
    let free = s.core.frames.count() as u64;
    let page = s.guest.frames[3].mfn().0 << 12;
    for (value, made) in [(page | 1, false), (free << 12, false), (page, true)] {
        let got =
            s.privileged(&[0x0f, 0x30], |r| (r.rax, r.rcx, r.rdx) = (value & 0xffff_ffff, 0x4000_0000, value >> 32));
        assert_eq!(got, made, "{value:#x}");
    }
    assert_eq!(
        crate::guest::load(&s.core.platform, s.guest.frames[3], 0) as u32,
        0xb853_4151,
        "push rcx; push r11; mov eax"
    );
}

#[test]
fn instructions_of_the_kernel_are_refused_to_user_mode() {
    let codes: [&[u8]; 9] = [
        &[0x0f, 0x20, 0xc0],
        &[0x0f, 0x22, 0xe0],
        &[0x0f, 0x21, 0xc0],
        &[0x0f, 0x30],
        &[0x0f, 0x32],
        &[0x0f, 0x06],
        &[0x0f, 0x09],
        &[0x0f, 0x01, 0xd1],
        &[0xfa],
    ];
    for code in codes {
        let s = ordinary();
        s.with(|c| {
            c.run.kernel_mode = false;
            c.run.kernel_sp = c.run.regs.rsp;
            c.run.iopl = 0;
        });
        assert!(!s.privileged(code, |r| r.rcx = 0xc000_0100), "{code:x?}");
        assert_eq!(s.regs().rip, HANDLER);
    }
}

#[test]
fn caches_interrupt_flag_and_xcr0() {
    let s = ordinary();
    assert!(s.privileged(&[0x0f, 0x09], |_| ()));
    assert!(!s.privileged(&[0x0f, 0x08], |_| ()), "INVD would lose data");
    // cli and sti need the virtual IOPL, and then do nothing.
    assert!(!s.privileged(&[0xfa], |_| ()));
    s.with(|c| c.run.iopl = 1);
    assert!(s.privileged(&[0xfa], |_| ()) && s.privileged(&[0xfb], |_| ()));
    // xsetbv needs CR4.OSXSAVE, x87, and nothing that is not shown.
    assert!(!s.privileged(&[0x0f, 0x01, 0xd1], |r| (r.rax, r.rcx, r.rdx) = (7, 0, 0)));
    s.with(|c| c.run.cr4 = 1 << 18);
    assert!(s.privileged(&[0x0f, 0x01, 0xd1], |r| (r.rax, r.rcx, r.rdx) = (7, 0, 0)));
    assert_eq!(s.with(|c| c.run.xcr0), 7);
    for (rax, rcx, rdx) in [(6, 0, 0), (5, 0, 0), (7, 1, 0), (1 << 9 | 7, 0, 0), (7, 0, 1)] {
        assert!(!s.privileged(&[0x0f, 0x01, 0xd1], |r| (r.rax, r.rcx, r.rdx) = (rax, rcx, rdx)));
    }
    s.core.platform.xcr0.store(0xe7, std::sync::atomic::Ordering::SeqCst);
    for (xcr0, allowed) in [(3, true), (0xe7, true), (0xe3, false), (0x67, false), (0x27, false)] {
        assert_eq!(s.privileged(&[0x0f, 0x01, 0xd1], |r| (r.rax, r.rcx, r.rdx) = (xcr0, 0, 0)), allowed, "{xcr0:#x}");
    }
}

#[test]
fn an_emulated_instruction_steps() {
    let s = ordinary();
    assert!(!s.privileged(&[0x0f, 0x09], |r| r.rflags |= rflags::TF));
    assert_eq!(s.regs().rip, HANDLER);
    assert_eq!(s.with(|c| c.run.debug[6]) & 1 << 14, 1 << 14);
    let saved = s.with(|c| c.get::<u64>(c.run.regs.rsp + 16).unwrap());
    assert_eq!(saved, s.guest.va(CODE).0 + 0x102, "behind the instruction");
}

/// Executes what is already in memory at `rip`; where the guest goes on.
fn go_on_from(s: &Setup, rip: u64) -> u64 {
    s.with(|c| {
        c.run.regs.rip = rip;
        c.core.exception(c, vector::GP, 0, 0);
        c.run.regs.rip
    })
}

#[test]
fn an_instruction_at_the_end_of_what_is_mapped_and_across_it() {
    let s = ordinary();
    // mov %cr0,%rcx, across the end of page 2.
    s.guest.poke(&s.core, CODE - 1, 0xffe, &[0x0f, 0x20, 0xc1]);
    let rip = s.guest.va(CODE - 1).0 + 0xffe;
    assert_eq!((go_on_from(&s, rip), s.regs().rcx), (rip + 3, 0x8005_0033));
    // Page 3 is followed by the tables: unmap the first of them.
    s.guest.map(&s.core, TABLE, Pte::EMPTY).unwrap();
    s.guest.poke(&s.core, CODE, 0xffe, &[0x0f, 0x09]);
    let rip = s.guest.va(CODE).0 + 0xffe;
    assert_eq!(go_on_from(&s, rip), rip + 2);
    // One that goes on where nothing is: what cannot be read is not made up.
    s.guest.poke(&s.core, CODE, 0xffe, &[0x0f, 0x20]);
    assert_eq!(go_on_from(&s, rip), HANDLER);
}

#[test]
fn instructions_are_those_of_64_bit_code() {
    const CODE64: u64 = 0x00af_fb00_0000_ffff;
    const CODE32: u64 = 0x00cf_fb00_0000_ffff;
    let s = ordinary();
    let (gdt, ldt) = (s.guest.frames[0], s.guest.frames[1]);
    for (frame, index, descriptor) in
        [(gdt, 3, CODE64), (gdt, 4, CODE32), (gdt, 5, CODE64), (ldt, 3, CODE32), (ldt, 4, CODE64)]
    {
        crate::guest::store(&s.core.platform, frame, index, descriptor);
    }
    // The second frame of each table: descriptors 512 to 516 of the GDT, of which 517 is beyond the end, and all of the LDT.
    s.with(|c| {
        (c.run.gdt[1], c.run.gdt_entries) = (Some(gdt), 517);
        (c.run.ldt[1], c.run.ldt_entries) = (Some(ldt), 1024);
    });
    for (cs, long) in [
        (0xe033, true),
        (0xe023, false),
        ((512 + 3) << 3 | 3, true),
        ((512 + 4) << 3 | 3, false),
        ((512 + 5) << 3 | 3, false),
        (3 << 3 | 3, false),
        ((512 + 3) << 3 | 7, false),
        ((512 + 4) << 3 | 7, true),
        (4 << 3 | 7, false),
    ] {
        assert_eq!(s.privileged(&[0x0f, 0x09], |r| r.cs = cs), long, "{cs:#x}");
    }
    s.with(|c| c.run.gdt_entries = 516);
    assert!(s.privileged(&[0x0f, 0x09], |r| r.cs = (512 + 3) << 3 | 3), "the last");
    s.with(|c| c.run.gdt_entries = 515);
    assert!(!s.privileged(&[0x0f, 0x09], |r| r.cs = (512 + 3) << 3 | 3), "behind the last");
}

// ---- I/O ---------------------------------------------------------------------------------------------------------------

fn accesses(s: &Setup) -> Vec<(u16, u8, Option<u32>)> {
    core::mem::take(&mut *s.core.platform.ports.lock().unwrap())
}

#[test]
fn io_needs_the_virtual_iopl() {
    for (iopl, kernel, allowed) in [(0, true, false), (1, true, true), (1, false, false), (3, false, true)] {
        let s = ordinary();
        s.with(|c| {
            c.run.iopl = iopl;
            c.run.kernel_mode = kernel;
            c.run.kernel_sp = c.run.regs.rsp;
        });
        // in (%dx),%al
        assert_eq!(s.privileged(&[0xec], |r| r.rdx = 0x80), allowed);
    }
}

#[test]
fn ports_that_were_not_given_read_ones_and_write_nothing() {
    let s = ordinary();
    s.with(|c| c.run.iopl = 1);
    // in (%dx),%al; in (%dx),%ax; in (%dx),%eax; in $0x42,%al
    for (code, before, after) in [
        (&[0xec][..], 0x1122_3344_5566_7788, 0x1122_3344_5566_77ff),
        (&[0x66, 0xed], 0x1122_3344_5566_7788, 0x1122_3344_5566_ffff),
        (&[0xed], 0x1122_3344_5566_7788, 0xffff_ffff),
        (&[0xe4, 0x42], 7, 0),
        (&[0xe4, 0x60], 7, 0xff),
    ] {
        assert!(s.privileged(code, |r| (r.rax, r.rdx) = (before, 0x3c0)));
        assert_eq!(s.regs().rax, after, "{code:x?}");
    }
    assert!(s.privileged(&[0xee], |r| r.rdx = 0x3c0));
    assert!(s.privileged(&[0xe7, 0x80], |_| ()));
    assert_eq!(accesses(&s), []);
}

#[test]
fn ports_that_were_given_are_reached_and_their_neighbours_are_not() {
    let s = ordinary();
    s.with(|c| c.run.iopl = 1);
    s.guest.domain.devices.lock().ports.set(0x1000..0x1004, true).unwrap();
    assert!(s.privileged(&[0xed], |r| (r.rax, r.rdx) = (0, 0x1000)));
    assert_eq!(s.regs().rax, 0x1122_3344);
    assert!(s.privileged(&[0xed], |r| r.rdx = 0x1001), "crosses the end");
    assert_eq!(s.regs().rax, 0xff44_4444, "byte by byte");
    assert!(s.privileged(&[0x66, 0xef], |r| (r.rax, r.rdx) = (0xabcd_1234, 0x1002)));
    assert!(s.privileged(&[0x66, 0xef], |r| (r.rax, r.rdx) = (0x5678, 0xfff)));
    // Two bytes of which the first is given, and the one behind them.
    s.guest.domain.devices.lock().ports.set(0x1001..0x1002, false).unwrap();
    assert!(s.privileged(&[0x66, 0xed], |r| r.rdx = 0x1000));
    let bytes = (0x1001..0x1004).map(|port| (port, 1, None));
    let mut expected: Vec<_> = std::vec![(0x1000, 4, None)];
    expected.extend(bytes);
    expected.extend([(0x1002, 2, Some(0x1234)), (0x1000, 1, Some(0x56)), (0x1000, 1, None)]);
    assert_eq!(accesses(&s), expected);
    // Behind the last port is none, not the first.
    for given in [0..2, 0xffff..0x1_0000] {
        s.guest.domain.devices.lock().ports.set(given, true).unwrap();
    }
    assert!(s.privileged(&[0xed], |r| r.rdx = 0xfffe));
    assert_eq!(s.regs().rax, 0xffff_44ff);
    assert!(s.privileged(&[0xef], |r| (r.rax, r.rdx) = (0x1234_5678, 0xfffe)));
    assert_eq!(accesses(&s), [(0xffff, 1, None), (0xffff, 1, Some(0x56))]);
}

#[test]
fn pci_configuration_is_the_hardware_domains() {
    for (privilege, reached) in [(Privilege::empty(), false), (Privilege::HARDWARE, true)] {
        let s = setup(privilege);
        s.with(|c| c.run.iopl = 1);
        // The address is the domain's own, and reaches the hardware only with its data.
        assert!(s.privileged(&[0xef], |r| (r.rax, r.rdx) = (0x8000_1004, 0xcf8)));
        assert!(s.privileged(&[0xed], |r| r.rax = 0));
        assert_eq!(s.regs().rax, 0x8000_1004);
        assert_eq!(accesses(&s), []);
        assert!(s.privileged(&[0x66, 0xed], |r| (r.rax, r.rdx) = (0, 0xcfe)));
        let expected = if reached { 0x3344 } else { 0xffff };
        assert_eq!(s.regs().rax, expected);
        let seen: &[_] = if reached { &[(0xcf8, 4, Some(0x8000_1004)), (0xcfe, 2, None)] } else { &[] };
        assert_eq!(accesses(&s), seen);
        assert!(s.privileged(&[0xef], |r| (r.rax, r.rdx) = (0xabcd, 0xcfc)));
        let seen: &[_] = if reached { &[(0xcf8, 4, Some(0x8000_1004)), (0xcfc, 4, Some(0xabcd))] } else { &[] };
        assert_eq!(accesses(&s), seen);
        // What would cross the end of the data reaches nothing.
        for port in [0xcfd, 0xcfe] {
            assert!(s.privileged(&[0xed], |r| (r.rax, r.rdx) = (0, port)));
            assert_eq!((s.regs().rax, accesses(&s)), (0xffff_ffff, Vec::new()));
        }
    }
}

#[test]
fn a_locked_access_is_none() {
    let s = ordinary();
    s.with(|c| c.run.iopl = 1);
    assert!(s.privileged(&[0xec], |r| r.rdx = 0x80));
    assert!(!s.privileged(&[0xf0, 0xec], |r| r.rdx = 0x80));
}

#[test]
fn the_cores_own_ports_are_nobodys() {
    let s = setup(Privilege::all());
    s.with(|c| c.run.iopl = 1);
    for port in [0x20, 0xa1, 0x40, 0x61, 0x71, 0x3f8] {
        assert!(s.privileged(&[0xee], |r| r.rdx = port));
    }
    assert_eq!(accesses(&s), []);
    // Four bytes that end in one of them: the others are reached.
    assert!(s.privileged(&[0xef], |r| r.rdx = 0x1d));
    assert_eq!(accesses(&s).iter().map(|a| a.0).collect::<Vec<_>>(), [0x1d, 0x1e, 0x1f]);
}

// ---- Anything -------------------------------------------------------------------------------------------------------

proptest! {
    /// Whatever bytes a guest executes, with whatever registers: it goes on, in its own handler or behind them.
    #[test]
    fn lesson_17_any_bytes_are_survived(code: [u8; 15], general: [u64; 8], page_fault: bool, kernel: bool) {
        let s = setup(Privilege::empty());
        s.guest.poke(&s.core, CODE, 0x100, &code);
        s.with(|c| {
            let r = &mut c.run.regs;
            [r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.r8, r.r9, r.r15] = general;
            r.rip = s.guest.va(CODE).0 + 0x100;
            r.rdi = s.guest.va(TABLE).0 + 64;
            c.run.iopl = 1;
            c.run.kernel_mode = kernel;
            c.run.kernel_sp = r.rsp;
            if page_fault {
                let at = c.run.regs.rdi;
                c.core.exception(c, vector::PF, 3 | 4, at);
            } else {
                c.core.exception(c, vector::GP, 0, 0);
                c.core.exception(c, vector::UD, 0, 0);
            }
        });
        prop_assert_eq!(s.guest.domain.stage(), crate::domain::Stage::Alive);
    }
}
