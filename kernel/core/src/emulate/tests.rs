use std::boxed::Box;
use std::string::String;
use std::vec::Vec;

use abi::regs::{CpuUserRegs, rflags};
use abi::trap::{TrapInfo, vector};
use abi::{Pte, Vaddr};
use proptest::prelude::*;

use crate::mm::PageType;
use crate::testing::{self, Guest, TestCore, TestMachine, WRITABLE};
use crate::{Caller, Privilege, guest};

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
fn cpuid_by_the_forced_prefix_answers_and_a_bare_ud2_is_the_guests() {
    let s = ordinary();
    let forced = b"\x0f\x0bxen\x0f\xa2";
    assert!(s.execute(forced, vector::UD, |r| (r.rax, r.rcx) = (0x4000_0000, 0)));
    let r = s.regs();
    assert_eq!([r.rbx, r.rcx, r.rdx], [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e]);
    assert!(r.rax >= 0x4000_0002);
    for other in [&b"\x0f\x0b"[..], b"\x0f\x0bxen\x0f\xa3", b"\x0f\x0bxem\x0f\xa2"] {
        assert!(!s.execute(other, vector::UD, |_| ()));
        assert_eq!(s.regs().rip, HANDLER);
    }
    // User mode may use the prefix too.
    s.with(|c| c.run.kernel_mode = false);
    assert!(s.execute(forced, vector::UD, |r| r.rax = 0x4000_0001));
    assert_eq!(s.regs().rax, 4 << 16 | 17);
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
    // mov %rax,%cr4; mov %cr4,%rcx: own bits stay, the core's are shown.
    assert!(s.privileged(&[0x0f, 0x22, 0xe0], |r| r.rax = 1 << 18 | 1 << 16 | 1 << 20 | 1 << 7));
    assert!(s.privileged(&[0x0f, 0x20, 0xe1], |_| ()));
    assert_eq!(s.regs().rcx, 1 << 18 | 1 << 16 | 0x660);
    // CR1 and CR5 do not exist.
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
    s.with(|c| *c.run.traps = crate::trap::TrapTable::EMPTY);
    for (msr, at) in [(0xc000_0100u64, 0), (0xc000_0101, 1), (0xc000_0102, 2)] {
        let base = 0xffff_8880_0000_1000 + at;
        assert!(s.privileged(&[0x0f, 0x30], |r| (r.rcx, r.rax, r.rdx) = (msr, base & 0xffff_ffff, base >> 32)));
        assert!(s.privileged(&[0x0f, 0x32], |_| ()));
        assert_eq!(s.regs().rdx << 32 | s.regs().rax, base);
        let bases = s.with(|c| [c.run.fs_base, c.run.gs_base_kernel, c.run.gs_base_user]);
        assert_eq!(bases[at as usize], base);
    }
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
    for (rax, rcx) in [(6, 0), (5, 0), (7, 1), (1 << 9 | 7, 0)] {
        assert!(!s.privileged(&[0x0f, 0x01, 0xd1], |r| (r.rax, r.rcx, r.rdx) = (rax, rcx, 0)));
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

#[test]
fn an_instruction_that_ends_at_the_end_of_what_is_mapped() {
    let s = ordinary();
    // Page 3 is followed by the tables: unmap the first of them.
    s.guest.map(&s.core, TABLE, Pte::EMPTY).unwrap();
    s.guest.poke(&s.core, CODE, 0xffe, &[0x0f, 0x09]);
    let rip = s.guest.va(CODE).0 + 0xffe;
    s.with(|c| {
        c.run.regs.rip = rip;
        c.core.exception(c, vector::GP, 0, 0);
        assert_eq!(c.run.regs.rip, rip + 2);
    });
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
    s.guest.domain.devices.lock().ports.add(&(0x1000..0x1004)).unwrap();
    assert!(s.privileged(&[0xed], |r| (r.rax, r.rdx) = (0, 0x1000)));
    assert_eq!(s.regs().rax, 0x1122_3344);
    assert!(s.privileged(&[0xed], |r| r.rdx = 0x1001), "crosses the end");
    assert_eq!(s.regs().rax, 0xff44_4444, "byte by byte");
    assert!(s.privileged(&[0x66, 0xef], |r| (r.rax, r.rdx) = (0xabcd_1234, 0x1002)));
    assert!(s.privileged(&[0x66, 0xef], |r| (r.rax, r.rdx) = (0x5678, 0xfff)));
    let bytes = (0x1001..0x1004).map(|port| (port, 1, None));
    let mut expected: Vec<_> = std::vec![(0x1000, 4, None)];
    expected.extend(bytes);
    expected.extend([(0x1002, 2, Some(0x1234)), (0x1000, 1, Some(0x56))]);
    assert_eq!(accesses(&s), expected);
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
    }
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

// ---- Page tables -------------------------------------------------------------------------------------------------------

/// Executes an instruction that writes entry 8 of the guest's L1, which is empty, through the read-only mapping.
/// Returns the entry, and the registers if it was emulated.
fn write_entry(code: &[u8], before: u64, set: impl FnOnce(&Setup, &mut CpuUserRegs)) -> (u64, Option<CpuUserRegs>) {
    let s = ordinary();
    let word = |s: &Setup| guest::load(&s.core.platform, s.guest.tables[0], 8);
    if before != 0 {
        s.guest.map(&s.core, 8, Pte(before | s.guest.frames[0].mfn().0 << 12)).unwrap();
    }
    let at = s.guest.va(TABLE).0 + 8 * 8;
    s.guest.poke(&s.core, CODE, 0x100, code);
    let rip = s.guest.va(CODE).0 + 0x100;
    let done = s.with(|c| {
        c.run.regs.rip = rip;
        c.run.regs.rdi = at;
        set(&s, &mut c.run.regs);
        c.core.exception(c, vector::PF, 3 | 4, at);
        (c.run.regs.rip == rip + code.len() as u64).then_some(c.run.regs)
    });
    let mfn = s.guest.frames[0].mfn().0 << 12;
    assert_eq!(s.core.frames.info(s.guest.tables[0]).state().kind(), PageType::L1);
    let entry = word(&s);
    (if entry & 1 != 0 { entry.wrapping_sub(mfn) & 0xf_ffff_ffff_ffff } else { entry }, done)
}

const U: u64 = 1 << 8; // GLOBAL, which the core adds to user mappings.

#[test]
fn page_table_writes_every_form() {
    let frame = |s: &Setup| s.guest.frames[0].mfn().0 << 12;
    // mov %rsi,(%rdi)
    let (entry, done) = write_entry(&[0x48, 0x89, 0x37], 0, |s, r| r.rsi = frame(s) | 0x65);
    assert!(done.is_some());
    assert_eq!(entry & !U, 0x65);
    // movq $0,(%rdi)
    let (entry, done) = write_entry(&[0x48, 0xc7, 0x07, 0, 0, 0, 0], 0x67, |_, _| ());
    assert!(done.is_some());
    assert_eq!(entry, 0);
    // xchg %rax,(%rdi): get and clear.
    let (entry, done) = write_entry(&[0x48, 0x87, 0x07], 0x67, |_, r| r.rax = 0);
    assert_eq!((entry, done.unwrap().rax & 0x67), (0, 0x67));
    // lock btrq $5,(%rdi): clear accessed; CF is the old bit.
    let (entry, done) = write_entry(&[0xf0, 0x48, 0x0f, 0xba, 0x37, 5], 0x67, |_, _| ());
    assert_eq!((entry & 0x67, done.unwrap().rflags & rflags::CF), (0x47, rflags::CF));
    // lock andb $0xfd,(%rdi): write-protect.
    let (entry, done) = write_entry(&[0xf0, 0x80, 0x27, 0xfd], 0x67, |_, _| ());
    assert!(done.is_some());
    assert_eq!(entry & 0x67, 0x65);
    // lock orb $0x40,(%rdi)
    let (entry, _) = write_entry(&[0xf0, 0x80, 0x0f, 0x40], 0x27, |_, _| ());
    assert_eq!(entry & 0x67, 0x67);
    // lock btsq %rdx,(%rdi)
    let (entry, done) = write_entry(&[0xf0, 0x48, 0x0f, 0xab, 0x17], 0x27, |_, r| r.rdx = 6);
    assert_eq!((entry & 0x67, done.unwrap().rflags & rflags::CF), (0x67, 0));
    // movl and movw: the other part of the entry stays.
    let (entry, done) = write_entry(&[0xc7, 0x47, 4, 0, 0, 0, 0], 0, |_, _| ());
    assert!(done.is_none(), "at another address than the fault's");
    assert_eq!(entry, 0);
    let (entry, done) = write_entry(&[0xc6, 0x07, 0], 0x67, |_, _| ());
    assert!(done.is_some());
    assert_eq!(entry & 1, 0, "not present any more");
    // xadd, add, sub, inc, dec, not, xor
    let (entry, done) = write_entry(&[0xf0, 0x48, 0x83, 0x07, 0x40], 0x27, |_, _| ());
    assert_eq!((entry & 0x67, done.is_some()), (0x67, true));
    let (entry, _) = write_entry(&[0x48, 0x83, 0x2f, 0x40], 0x67, |_, _| ());
    assert_eq!(entry & 0x67, 0x27);
    let (entry, _) = write_entry(&[0x80, 0x37, 0x40], 0x67, |_, _| ());
    assert_eq!(entry & 0x67, 0x27);
}

#[test]
fn cmpxchg_stores_only_where_memory_is_as_expected() {
    let cmpxchg = [0xf0, 0x48, 0x0f, 0xb1, 0x0f]; // lock cmpxchg %rcx,(%rdi)
    let (entry, done) = write_entry(&cmpxchg, 0, |s, r| (r.rax, r.rcx) = (0, s.guest.frames[0].mfn().0 << 12 | 0x65));
    assert_eq!((entry & 0x67, done.unwrap().rflags & rflags::ZF), (0x65, rflags::ZF));
    let (entry, done) = write_entry(&cmpxchg, 0x67, |_, r| (r.rax, r.rcx) = (0, 0));
    let r = done.unwrap();
    assert_eq!((entry & 0x67, r.rflags & rflags::ZF, r.rax & 0x67), (0x67, 0, 0x67));
}

#[test]
fn a_page_table_write_that_may_not_be_is_the_guests_page_fault() {
    // A writable mapping of the L1 itself, by mov %rsi,(%rdi).
    let s = ordinary();
    let at = s.guest.va(TABLE).0 + 8 * 8;
    s.guest.poke(&s.core, CODE, 0x100, &[0x48, 0x89, 0x37]);
    let rip = s.guest.va(CODE).0 + 0x100;
    let table = s.guest.tables[0].mfn().0 << 12;
    s.with(|c| {
        c.run.regs.rip = rip;
        (c.run.regs.rdi, c.run.regs.rsi) = (at, table | 7);
        c.core.exception(c, vector::PF, 3 | 4, at);
        assert_eq!(c.run.regs.rip, HANDLER);
        assert_eq!(c.core.cr2(c), at);
    });
    assert_eq!(guest::load(&s.core.platform, s.guest.tables[0], 8), 0);
}

#[test]
fn user_mode_and_other_read_only_pages_are_no_page_table_writes() {
    let s = ordinary();
    s.guest.map(&s.core, 9, Pte::new(s.guest.frames[0].mfn(), testing::READ_ONLY)).unwrap();
    s.guest.poke(&s.core, CODE, 0x100, &[0x48, 0x89, 0x37]);
    let rip = s.guest.va(CODE).0 + 0x100;
    for (at, kernel) in [(s.guest.va(9).0, true), (s.guest.va(TABLE).0 + 64, false)] {
        s.with(|c| {
            c.run.kernel_mode = kernel;
            c.run.kernel_sp = s.guest.va(1).0 + 0x1000;
            c.run.regs.rip = rip;
            c.run.regs.rdi = at;
            c.core.exception(c, vector::PF, 3 | 4, at);
            assert_eq!(c.run.regs.rip, HANDLER);
        });
    }
    assert_eq!(WRITABLE.0 & 2, 2);
}

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

    /// Arithmetic and its flags, against 128-bit arithmetic.
    #[test]
    fn flags_are_those_of_the_architecture(a: u64, b: u64, carry_bytes in 0usize..4, subtract: bool) {
        let bytes = [1u8, 2, 4, 8][carry_bytes];
        let bits = 8 * u32::from(bytes);
        let mask = super::operand::mask(bytes);
        let (a, b) = (a & mask, b & mask);
        let (result, flags) = super::operand::add(a, b, bytes, subtract);
        let signed = |v: u64| i128::from((v << (64 - bits)) as i64 >> (64 - bits));
        let (wide, wide_signed) = match subtract {
            true => (i128::from(a) - i128::from(b), signed(a) - signed(b)),
            false => (i128::from(a) + i128::from(b), signed(a) + signed(b)),
        };
        prop_assert_eq!(result, wide as u64 & mask);
        prop_assert_eq!(flags & rflags::CF != 0, wide < 0 || wide > i128::from(mask));
        prop_assert_eq!(flags & rflags::OF != 0, signed(result) != wide_signed);
        prop_assert_eq!(flags & rflags::ZF != 0, result == 0);
        prop_assert_eq!(flags & rflags::SF != 0, signed(result) < 0);
        let nibble = if subtract { (a & 15) < (b & 15) } else { (a & 15) + (b & 15) > 15 };
        prop_assert_eq!(flags & rflags::AF != 0, nibble);
    }
}

#[test]
fn what_cpuid_hides_and_shows() {
    let s = ordinary();
    let leaf = |leaf, subleaf| s.with(|c| c.core.cpuid(c, leaf, subleaf));
    let hidden = |word: u32, bits: &[u32]| {
        let seen: String = bits.iter().filter(|&&b| word >> b & 1 != 0).map(|b| std::format!("{b} ")).collect();
        assert_eq!(seen, "", "still shown");
    };
    let [_, _, c, d] = leaf(1, 0);
    hidden(c, &[3, 5, 15, 17, 21, 24]); // MONITOR, VMX, PDCM, PCID, x2APIC, TSC deadline
    hidden(d, &[1, 3, 12, 13, 17]); // VME, PSE, MTRR, PGE, PSE36
    let driver = setup(Privilege::HARDWARE);
    let mtrr = |leaf| driver.with(|c| c.core.cpuid(c, leaf, 0))[3] >> 12 & 1;
    assert_eq!((mtrr(1), mtrr(0x8000_0001)), (1, 1), "MTRR, to the kernel that drives the machine");
    driver.with(|c| c.run.kernel_mode = false);
    assert_eq!(mtrr(1), 0, "and not to its user mode");
    assert!([7, 9, 14].iter().all(|bit| d >> bit & 1 == 1), "MCE, APIC, MCA");
    assert!(c >> 31 == 1 && c >> 26 & 1 == 1 && d & 1 == 1, "hypervisor, XSAVE, FPU");
    for (kernel_mode, cr4, shown) in [(true, 0, 1), (false, 0, 0), (false, 1 << 18, 1), (true, 1 << 18, 1)] {
        s.with(|c| (c.run.kernel_mode, c.run.cr4) = (kernel_mode, cr4));
        assert_eq!(leaf(1, 0)[2] >> 27 & 1, shown, "OSXSAVE: to the kernel always, else as the guest has set it");
    }
    let [_, b, c, d] = leaf(7, 0);
    hidden(b, &[7, 10, 20]); // SMEP, INVPCID, SMAP
    hidden(c, &[2, 3, 4, 7, 16]); // UMIP, PKU, OSPKE, CET_SS, LA57
    hidden(d, &[20]); // CET_IBT
    hidden(leaf(0xd, 1)[0], &[3]); // XSAVES
    hidden(leaf(7, 0)[1], &[16, 30, 31]); // AVX-512, whose state is not kept
    assert_eq!(leaf(0xd, 0)[0], 7);
    s.core.platform.xcr0.store(0, std::sync::atomic::Ordering::SeqCst);
    hidden(leaf(1, 0)[2], &[12, 26, 28, 29]); // without XSAVE nothing that needs it
    hidden(leaf(7, 0)[1], &[5]);
    assert_eq!(leaf(0xd, 0), [0; 4]);
    assert!(s.privileged(&[0x0f, 0x22, 0xe0], |r| r.rax = 1 << 18));
    assert_eq!(s.with(|c| c.run.cr4), 0, "nor CR4.OSXSAVE");
    assert_eq!(leaf(0xa, 0), [0; 4], "no performance counters");
    hidden(leaf(0x8000_0001, 0)[3], &[12, 26]); // MTRR, 1 GiB pages
    assert_eq!((leaf(0xe, 0), leaf(0x8000_0008, 0)[0]), ([0; 4], 48 << 8 | 40), "beyond XSAVE; 48 bits of addresses");
    assert_eq!(leaf(0x8000_00ff, 0), [0; 4], "beyond the last leaf");
    assert_eq!(leaf(0x4000_0005, 0)[1], 21, "512 frames");
    assert_eq!(leaf(0x4000_0006, 0), [0; 4]);
    assert_eq!(leaf(0x4000_0003, 0), [4, 0, 0, 0], "RDTSCP, the TSC is native");
    assert_eq!(leaf(0x4000_0003, 2)[0], 1_000_000, "1 GHz");
}
