use std::boxed::Box;
use std::vec::Vec;

use abi::hypercall::Hypercall;
use abi::layout::{FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS64};
use abi::regs::{CpuUserRegs, IretContext, rflags};
use abi::trap::{TrapInfo, vector};
use abi::{Pte, Vaddr};
use proptest::prelude::*;
use zerocopy::{FromZeros, IntoBytes};

use super::{ARCHITECTURAL_IOPL, Callback, fault};
use crate::platform::Halt;
use crate::testing::{self, Guest, TestCore, TestMachine};
use crate::{Args, Caller, Core, Platform, Privilege, Stage, Stop, guest};

const HANDLER: Vaddr = Vaddr(0x40_0000);
const KERNEL_STACK: usize = 2;

struct Setup {
    core: Box<TestCore>,
    guest: Guest,
}

/// A guest in kernel mode with its stack pointer in the middle of page 1, and page 2 as the stack from user mode.
fn setup() -> Setup {
    let core = testing::core(512, 1);
    let guest = testing::guest(&core, Privilege::empty(), 4);
    let stack = guest.va(1).0 + 0x800;
    let kernel_sp = guest.va(KERNEL_STACK).0 + 0x1000;
    guest.run(&core, |c| {
        c.run.regs = CpuUserRegs {
            rip: 0x1234,
            cs: FLAT_RING3_CS64,
            ss: FLAT_RING3_SS64,
            rsp: stack,
            rcx: 0xcc,
            r11: 0x11,
            rflags: 0x202,
            ..CpuUserRegs::default()
        };
        c.run.kernel_sp = kernel_sp;
        // The user's page table is the same as the kernel's here.
        c.run.user_root = c.run.kernel_root;
    });
    unmask(&core, &guest);
    Setup { core, guest }
}

fn unmask(core: &TestCore, guest: &Guest) {
    core.set_upcall_mask(&guest.vcpu, false);
}

fn set_gate(c: &mut Caller<'_, TestMachine>, vector: u8, flags: u8) {
    c.run.traps.set(TrapInfo { vector, flags, cs: 0xe033, address: HANDLER, ..TrapInfo::default() });
}

/// The words on the stack, from rsp up.
fn stack(c: &Caller<'_, TestMachine>, words: usize) -> Vec<u64> {
    (0..words as u64).map(|n| c.get::<u64>(c.run.regs.rsp + 8 * n).unwrap()).collect()
}

fn in_user_mode(c: &mut Caller<'_, TestMachine>) {
    c.run.kernel_mode = false;
    c.run.hardware_root = c.run.root();
}

#[test]
fn a_frame_from_kernel_mode() {
    let s = setup();
    s.guest.run(&s.core, |c| {
        set_gate(c, vector::BP, 0);
        let sp = c.run.regs.rsp;
        let odd = rflags::TF | rflags::NT | rflags::RF | rflags::AC | rflags::VM;
        c.run.regs.rflags |= rflags::CF | odd;
        c.core.exception(c, vector::BP, 0, 0);
        let frame = stack(c, 7);
        let flags = 0x202 | rflags::CF | odd;
        assert_eq!(frame, [0xcc, 0x11, 0x1234, 0xe030, flags, sp, 0xe02b]);
        let r = &c.run.regs;
        assert_eq!((r.rip, r.cs, r.ss), (HANDLER.0, FLAT_RING3_CS64, FLAT_RING3_SS64));
        assert_eq!(r.rsp, sp - 7 * 8);
        assert_eq!(r.rflags, 0x202 | rflags::CF);
        assert_eq!((r.rcx, r.r11), (r.rip, r.rflags), "SYSRET's own");
        assert!(!c.core.upcall_mask(c.vcpu));
    });
}

#[test]
fn selectors_that_did_not_load_are_in_the_failsafe_frame() {
    let s = setup();
    s.guest.run(&s.core, |c| {
        in_user_mode(c);
        c.run.callbacks.failsafe = Callback { address: HANDLER.0, masks: true };
        let r = &mut c.run.regs;
        (r.ds, r.es, r.fs, r.gs) = (0x2b, 0x33, 0x3b, 0x43);
        let sp = r.rsp;
        c.core.failsafe(c);
        let frame = stack(c, 11);
        assert_eq!(frame, [0xcc, 0x11, 0x2b, 0x33, 0x3b, 0x43, 0x1234, 0xe033, 0x202, sp, 0xe02b]);
        assert_eq!((c.run.regs.rip, c.run.regs.rsp), (HANDLER.0, c.run.kernel_sp - 11 * 8));
        assert!(c.run.kernel_mode && c.core.upcall_mask(c.vcpu));
        // Without a callback it cannot go on.
        c.run.callbacks.failsafe.address = 0;
        c.core.failsafe(c);
    });
    assert_eq!(s.guest.domain.stage(), Stage::Shutdown);
}

#[test]
fn frames_lie_below_a_stack_pointer_that_is_aligned_first() {
    for low in 0..16 {
        let s = setup();
        s.guest.run(&s.core, |c| {
            set_gate(c, vector::BP, 0);
            set_gate(c, vector::GP, 0);
            c.run.regs.rsp += low;
            let sp = c.run.regs.rsp;
            c.core.exception(c, vector::BP, 0, 0);
            assert_eq!(c.run.regs.rsp, (sp & !15) - 56);
            assert_eq!(stack(c, 7)[5], sp);
            c.run.regs.rsp = sp;
            c.core.exception(c, vector::GP, 0x18, 0);
            assert_eq!(c.run.regs.rsp, (sp & !15) - 64);
            assert_eq!(stack(c, 8)[2], 0x18);
        });
    }
}

#[test]
fn the_gate_decides_whether_events_are_masked_and_the_frame_remembers() {
    for (flags, before) in [(0, false), (0, true), (4, false), (4, true)] {
        let s = setup();
        s.core.set_upcall_mask(&s.guest.vcpu, before);
        s.guest.run(&s.core, |c| {
            set_gate(c, vector::BP, flags);
            c.core.exception(c, vector::BP, 0, 0);
            let frame = stack(c, 7);
            assert_eq!(frame[3] >> 32, u64::from(before), "the saved mask");
            assert_eq!(frame[4] & rflags::IF == 0, before);
            assert_eq!(c.core.upcall_mask(c.vcpu), before || flags == 4);
        });
    }
}

#[test]
fn a_page_fault_has_its_address_in_vcpu_info_and_the_user_bit_of_the_guests_own_mode() {
    for user in [false, true] {
        let s = setup();
        s.guest.run(&s.core, |c| {
            set_gate(c, vector::PF, 0);
            if user {
                in_user_mode(c);
            }
            c.core.exception(c, vector::PF, fault::WRITE | fault::USER, 0x7000_1238);
            let error = u64::from(fault::WRITE | if user { fault::USER } else { 0 });
            assert_eq!(stack(c, 3)[2], error);
            let (frame, word) = c.vcpu.info.get();
            assert_eq!(guest::load(&c.core.platform, frame, word + 2), 0x7000_1238);
            assert_eq!(c.core.cr2(c), 0x7000_1238);
        });
    }
}

#[test]
fn from_user_mode_the_kernels_stack_is_used_and_the_mode_changes() {
    let s = setup();
    s.guest.run(&s.core, |c| {
        set_gate(c, vector::BP, 0);
        in_user_mode(c);
        c.run.regs.cs = 0x33;
        let (sp, kernel_sp) = (c.run.regs.rsp, c.run.kernel_sp);
        c.core.exception(c, vector::BP, 0, 0);
        assert!(c.run.kernel_mode);
        assert_eq!(c.run.hardware_root, c.run.kernel_root);
        assert_eq!(c.run.regs.rsp, kernel_sp - 56);
        assert_eq!(stack(c, 7), [0xcc, 0x11, 0x1234, 0x33, 0x202, sp, 0xe02b]);
    });
}

/// What the way back to the guest does.
fn go(c: &mut Caller<'_, TestMachine>) {
    if c.core.has_news(c.vcpu) {
        c.core.deliver_news(c);
    }
}

fn pend(core: &TestCore, guest: &Guest) {
    let (frame, word) = guest.vcpu.info.get();
    guest::shared_word(&core.platform, frame, word).fetch_or(1, core::sync::atomic::Ordering::SeqCst);
}

#[test]
fn an_upcall_is_delivered_when_it_is_due() {
    let s = setup();
    s.guest.run(&s.core, |c| {
        c.run.callbacks.event = Callback { address: HANDLER.0, masks: false };
        let before = c.run.regs;
        assert!(!c.core.has_news(c.vcpu), "nothing is pending");
        go(c);
        assert_eq!(c.run.regs, before);
        pend(c.core, &s.guest);
        c.core.set_upcall_mask(c.vcpu, true);
        go(c);
        assert_eq!(c.run.regs, before, "masked");
        c.core.set_upcall_mask(c.vcpu, false);
        go(c);
        assert_eq!(c.run.regs.rip, HANDLER.0);
        assert!(c.core.upcall_mask(c.vcpu), "whatever the callback's flag says");
        let rsp = c.run.regs.rsp;
        go(c);
        assert_eq!(c.run.regs.rsp, rsp, "once");
    });
}

#[test]
fn an_nmi_waits_for_the_end_of_the_one_before() {
    let s = setup();
    s.guest.run(&s.core, |c| {
        set_gate(c, vector::NMI, 4);
        let nmi = |c: &mut Caller<'_, TestMachine>| {
            c.vcpu.sched.nmi.store(true, std::sync::atomic::Ordering::SeqCst);
            let sp = c.run.regs.rsp;
            go(c);
            c.run.regs.rsp != sp
        };
        assert!(nmi(c));
        assert!(!nmi(c), "the first has not returned");
        iret(c);
        go(c);
        assert_eq!(c.run.regs.rip, HANDLER.0, "now the second");
    });
}

fn iret(c: &mut Caller<'_, TestMachine>) {
    // As a guest's stub does it: what the bounce frame has above rcx and r11 is behind rax, r11, rcx, flags.
    let (rcx, r11) = (stack(c, 2)[0], stack(c, 2)[1]);
    let rsp = c.run.regs.rsp + 16 - 32;
    c.put(rsp, &[0u64, r11, rcx, 0]).unwrap();
    c.run.regs.rsp = rsp;
    let done = crate::hypercall::iret::call(c, &mut Args::default());
    assert_eq!(done, Err(Stop::REPLACED));
}

#[test]
fn a_system_call_enters_the_kernel_with_the_direction_flag_clear() {
    for masks in [false, true] {
        let s = setup();
        s.guest.run(&s.core, |c| {
            c.run.callbacks.syscall = Callback { address: HANDLER.0, masks };
            in_user_mode(c);
            c.run.regs.rflags |= rflags::DF;
            c.core.syscall_from_user(c);
            assert_eq!(stack(c, 5)[4], 0x202 | rflags::DF);
            assert_eq!((c.run.regs.rip, c.run.regs.rflags & rflags::DF), (HANDLER.0, 0));
            assert_eq!(c.run.regs.r11, c.run.regs.rflags);
            assert_eq!(c.core.upcall_mask(c.vcpu), masks);
        });
    }
}

#[test]
fn a_system_call_without_callback_is_an_invalid_opcode() {
    let s = setup();
    s.guest.run(&s.core, |c| {
        set_gate(c, vector::UD, 0);
        in_user_mode(c);
        c.core.syscall_from_user(c);
        assert_eq!(stack(c, 3)[2], 0x1232, "at the SYSCALL itself");
    });
}

#[test]
fn a_32_bit_system_call_has_its_own_callback_or_is_an_invalid_opcode() {
    let s = setup();
    s.guest.run(&s.core, |c| {
        // That of 64-bit code says whether events are masked.
        c.run.callbacks.syscall = Callback { address: 0x1000, masks: true };
        set_gate(c, vector::UD, 0);
        for (own, to) in [(0, HANDLER.0), (0x2000, 0x2000)] {
            c.run.callbacks.syscall32.address = own;
            in_user_mode(c);
            c.run.regs.cs = FLAT_RING3_CS32;
            c.core.syscall_from_user(c);
            assert_eq!((c.run.regs.rip, c.core.upcall_mask(c.vcpu)), (to, own != 0));
        }
    });
}

#[test]
fn sysenter_forgets_where_it_was_and_has_its_callback_or_is_a_protection_fault() {
    for own in [0, 0x2000] {
        let s = setup();
        s.guest.poke(&s.core, 3, 0x100, &[0x0f, 0x34]);
        s.guest.run(&s.core, |c| {
            set_gate(c, vector::GP, 0);
            c.run.callbacks.sysenter = Callback { address: own, masks: true };
            in_user_mode(c);
            c.run.regs.rip = s.guest.va(3).0 + 0x100;
            c.core.exception(c, vector::GP, 0, 0);
            let (to, frame) = match own {
                0 => (HANDLER.0, [0xcc, 0x11, 0, 0, 3, 0x202, 0, 0xe02b].to_vec()),
                _ => (own, [0xcc, 0x11, 0, 3, 0x202, 0, 0xe02b].to_vec()),
            };
            assert_eq!((c.run.regs.rip, stack(c, frame.len())), (to, frame));
        });
    }
    // In kernel mode its stack is no more.
    let s = setup();
    s.guest.poke(&s.core, 3, 0x100, &[0x0f, 0x34]);
    s.guest.run(&s.core, |c| {
        c.run.callbacks.sysenter.address = 0x2000;
        c.run.regs.rip = s.guest.va(3).0 + 0x100;
        c.core.exception(c, vector::GP, 0, 0);
    });
    assert_eq!(s.guest.domain.stage(), Stage::Shutdown);
}

#[test]
fn software_interrupts_need_the_gates_privilege() {
    // Privilege of the gate, user mode?, is it let through?
    let cases =
        [(0, false, false), (1, false, true), (3, false, true), (1, true, false), (2, true, false), (3, true, true)];
    for (dpl, user, through) in cases {
        let s = setup();
        s.guest.run(&s.core, |c| {
            set_gate(c, 0x80, dpl);
            set_gate(c, vector::GP, 0);
            if user {
                in_user_mode(c);
            }
            c.core.exception(c, vector::GP, 0x80 << 3 | 2, 0);
            let frame = stack(c, 4);
            if through {
                assert_eq!(frame[2], 0x1236, "behind the instruction, no error code");
            } else {
                assert_eq!(frame[2..], [0x402, 0x1234]);
            }
        });
    }
}

#[test]
fn a_software_interrupt_by_the_hardwares_own_gate_needs_a_handler() {
    for (dpl, handled) in [(0, true), (3, true), (0, false)] {
        let s = setup();
        s.guest.run(&s.core, |c| {
            if handled {
                set_gate(c, 0x80, dpl);
            }
            set_gate(c, vector::GP, 0);
            in_user_mode(c);
            c.core.software_interrupt(c, 0x80);
            let frame = stack(c, 4);
            if handled {
                assert_eq!(frame[2], 0x1234, "rip is behind it already, no error code");
            } else {
                assert_eq!(frame[2..], [0x402, 0x1232]);
            }
        });
    }
}

#[test]
fn device_not_available_is_the_guests_only_if_it_set_ts() {
    let s = setup();
    s.guest.run(&s.core, |c| {
        set_gate(c, vector::NM, 0);
        let before = c.run.regs;
        c.core.exception(c, vector::NM, 0, 0);
        assert_eq!(c.run.regs, before);
        assert_eq!(crate::hypercall::fpu_taskswitch::call(c, &mut [1, 0, 0, 0, 0]), Ok(0));
        c.core.exception(c, vector::NM, 0, 0);
        assert_eq!((c.run.regs.rip, c.run.cr0), (HANDLER.0, 0));
    });
}

#[test]
fn debug_traps_show_in_dr6() {
    let s = setup();
    s.guest.run(&s.core, |c| {
        set_gate(c, vector::DB, 0);
        c.run.debug[6] = super::DR6_DEFAULT;
        c.core.exception(c, vector::DB, 0, 0xffff_4ff1);
        assert_eq!(c.run.debug[6], 0xffff_4ff1);
        // What it said before stays; a bit that means something when it is clear does too.
        c.core.exception(c, vector::DB, 0, 0xfffe_0ff3);
        assert_eq!(c.run.debug[6], 0xfffe_4ff3);
    });
}

#[test]
fn a_write_to_a_page_table_is_emulated_unless_there_is_more_to_it() {
    let write = fault::PRESENT | fault::WRITE | fault::USER;
    let cases = [
        (write, false, true),
        (write, true, false),
        (write | fault::RESERVED, false, false),
        (write | fault::FETCH, false, false),
        (fault::WRITE | fault::USER, false, false),
        (fault::PRESENT | fault::USER, false, false),
    ];
    for (error, user, emulated) in cases {
        let s = setup();
        // mov %rcx, (%rax)
        s.guest.poke(&s.core, 3, 0x100, &[0x48, 0x89, 0x08]);
        s.guest.run(&s.core, |c| {
            set_gate(c, vector::PF, 0);
            if user {
                in_user_mode(c);
            }
            let entry = s.guest.va(4).0 + 8 * 100;
            (c.run.regs.rip, c.run.regs.rax, c.run.regs.rcx) = (s.guest.va(3).0 + 0x100, entry, 0x1000);
            c.core.exception(c, vector::PF, error, entry);
            let done = (c.run.regs.rip, guest::load(&s.core.platform, s.guest.tables[0], 100));
            assert_eq!(done, if emulated { (s.guest.va(3).0 + 0x103, 0x1000) } else { (HANDLER.0, 0) });
        });
    }
}

#[test]
fn an_ldt_is_mapped_when_it_is_used_or_the_fault_is_the_guests() {
    let s = setup();
    let (frame, at) = (s.guest.frames[3], s.guest.va(3).0);
    s.guest.map(&s.core, 3, Pte::new(frame.mfn(), testing::READ_ONLY)).unwrap();
    s.guest.run(&s.core, |c| {
        set_gate(c, vector::PF, 0);
        c.set_ldt(at, 8).unwrap();
        let before = c.run.regs;
        c.core.exception(c, vector::PF, 0, testing::LDT.0 + 8);
        assert_eq!((c.run.regs, c.run.ldt[0]), (before, Some(frame)));
        // Behind its end; and by user mode itself, to which it is an address like any other.
        for (error, to, seen) in [(0, 64, at + 64), (fault::USER, 8, testing::LDT.0 + 8)] {
            c.run.regs = before;
            c.core.exception(c, vector::PF, error, testing::LDT.0 + to);
            assert_eq!((c.run.regs.rip, c.core.cr2(c)), (HANDLER.0, seen));
        }
    });
}

#[test]
fn lesson_15_no_way_back_meets_an_address_that_is_not_canonical() {
    for rip in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 0x1234_0000_0000_0000] {
        let s = setup();
        s.guest.run(&s.core, |c| {
            set_gate(c, vector::GP, 0);
            c.run.regs.rip = rip;
            // What IRETQ raises when it meets such an address; SYSRET does not (entry.s).
            c.core.failed_return(c, vector::GP, 0, 0);
            assert_eq!(c.run.regs.rip, HANDLER.0);
            assert_eq!(stack(c, 4)[2..], [0, rip]);
        });
    }
}

#[test]
fn a_return_that_faulted_is_told_of_as_it_was() {
    let s = setup();
    // cli, which the core emulates.
    s.guest.poke(&s.core, 3, 0x100, &[0xfa]);
    s.guest.run(&s.core, |c| {
        set_gate(c, vector::GP, 0);
        (c.run.regs.rip, c.run.iopl) = (s.guest.va(3).0 + 0x100, 3);
        let before = c.run.regs;
        c.core.exception(c, vector::GP, 0, 0);
        assert_eq!(c.run.regs.rip, before.rip + 1);
        // But it was not at fault here. A selector was, perhaps.
        for error in [0, 0x28] {
            c.run.regs = before;
            c.core.failed_return(c, vector::GP, error, 0);
            assert_eq!((c.run.regs.rip, stack(c, 4)[2..].to_vec()), (HANDLER.0, [error.into(), before.rip].to_vec()));
        }
        // Another vector has its own handler.
        c.run.traps.set(TrapInfo { vector: vector::GP, ..TrapInfo::default() });
        set_gate(c, vector::SS, 0);
        c.run.regs = before;
        c.core.failed_return(c, vector::SS, 0, 0);
        assert_eq!(c.run.regs.rip, HANDLER.0);
    });
    assert_eq!(s.guest.domain.stage(), Stage::Alive);
}

fn crash_of(f: impl FnOnce(&mut Caller<'_, TestMachine>)) -> std::string::String {
    let s = setup();
    s.guest.run(&s.core, |c| f(c));
    assert_eq!(s.guest.domain.stage(), crate::domain::Stage::Shutdown);
    assert_eq!(s.core.platform.halted.lock().unwrap().as_ref(), None);
    s.core.platform.take_printed()
}

#[test]
fn what_a_guest_cannot_take_crashes_it_alone_and_has_a_story() {
    let story = crash_of(|c| c.core.exception(c, vector::PF, 2, 0x5678));
    assert!(story.contains("no handler for vector 14, error code 0x2, address 0x5678"), "{story}");
    assert!(story.contains("rip e033:0000000000001234"), "{story}");
    assert!(story.contains("walk of 0x0000000000005678: L4 "), "{story}");
    let story = crash_of(|c| {
        set_gate(c, vector::BP, 0);
        c.run.regs.rsp = 0x10;
        c.core.exception(c, vector::BP, 0, 0);
    });
    assert!(story.contains("takes no bounce frame") && story.contains("walk of 0xffffffffffffffd8: L4 "), "{story}");
    let story = crash_of(|c| c.core.exception(c, vector::DE, 0, 0));
    assert!(story.contains("no handler for vector 0\n") && !story.contains("walk"), "{story}");
    let story = crash_of(|c| {
        pend(
            c.core,
            &Guest {
                domain: c.domain.clone(),
                vcpu: c.vcpu.clone(),
                tables: [c.domain.shared_info; 4],
                frames: Vec::new(),
            },
        );
        go(c);
    });
    assert!(story.contains("callback"), "{story}");
    crash_of(|c| {
        c.run.regs.rsp = 0x10;
        let _ = crate::hypercall::iret::call(c, &mut Args::default());
    });
    crash_of(|c| {
        c.run.user_root = None;
        let sp = c.run.regs.rsp;
        c.put(sp, &IretContext { cs: 0x33, ..IretContext::new_zeroed() }).unwrap();
        let _ = crate::hypercall::iret::call(c, &mut Args::default());
    });
}

#[test]
fn lesson_17_a_stack_in_the_cores_own_range_is_a_crash_and_nothing_worse() {
    for rsp in [0, 8, 0xffff_8000_0000_0000, 0xffff_8000_0000_0040, 0xffff_8800_0000_0000, u64::MAX, 1 << 47] {
        crash_of(|c| {
            set_gate(c, vector::BP, 0);
            c.run.regs.rsp = rsp;
            c.core.exception(c, vector::BP, 0, 0);
        });
    }
}

#[test]
fn the_initial_domains_crash_is_the_machines_end() {
    let core = testing::core(512, 1);
    let guest = testing::guest(&core, Privilege::all(), 4);
    guest.run(&core, |c| c.core.exception(c, vector::DE, 0, 0));
    assert_eq!(*core.platform.halted.lock().unwrap(), Some(Halt::DomainCrash));
}

#[test]
fn iret_goes_to_user_mode_by_the_rpl_and_forces_ring_3() {
    let s = setup();
    s.guest.run(&s.core, |c| {
        let sp = c.run.regs.rsp;
        let frame = IretContext {
            rax: 1,
            r11: 2,
            rcx: 3,
            flags: 0,
            rip: 0x5000,
            cs: 0x33,
            rflags: rflags::IOPL | rflags::VM | rflags::CF,
            rsp: 0x6000,
            ss: 0x2b,
        };
        c.put(sp, &frame).unwrap();
        assert_eq!(crate::hypercall::iret::call(c, &mut Args::default()), Err(Stop::REPLACED));
        let r = &c.run.regs;
        assert_eq!((r.rax, r.r11, r.rcx, r.rip, r.cs, r.rsp, r.ss), (1, 2, 3, 0x5000, 0x33, 0x6000, 0x2b));
        assert_eq!(r.rflags, rflags::CF | rflags::IF);
        assert!(!c.run.kernel_mode);
        assert!(c.core.upcall_mask(c.vcpu), "IF was clear in the frame");

        // To kernel mode, as SYSRET would.
        c.run.kernel_mode = true;
        c.run.regs.rsp = sp;
        c.put(sp, &IretContext { cs: 0xe030, ss: 0xe028, rflags: 0x200, flags: IretContext::IN_SYSCALL, ..frame })
            .unwrap();
        let _ = crate::hypercall::iret::call(c, &mut Args::default());
        let r = &c.run.regs;
        assert_eq!((r.cs, r.ss, r.rcx, r.r11), (0xe033, 0xe02b, 0x5000, r.rflags));
        assert!(c.run.kernel_mode && !c.core.upcall_mask(c.vcpu));
    });
}

#[test]
fn architectural_iopl_is_in_the_frame_and_comes_back_by_iret() {
    let s = setup();
    s.guest.run(&s.core, |c| {
        set_gate(c, vector::BP, 0);
        c.run.iopl = 2;
        c.core.exception(c, vector::BP, 0, 0);
        assert_eq!(stack(c, 5)[4] & rflags::IOPL, 0, "who did not ask for it");
        assert_ne!(c.run.regs.entry_vector & super::ENTRY_SYSCALL, 0, "SYSRET will do");
        c.domain.assist.store(ARCHITECTURAL_IOPL, std::sync::atomic::Ordering::SeqCst);
        c.core.exception(c, vector::BP, 0, 0);
        assert_eq!(stack(c, 5)[4] & rflags::IOPL, 2 << 12);
        let at = c.run.regs.rsp + 4 * 8;
        c.put(at, &(0x202u64 | 3 << 12)).unwrap();
        iret(c);
        assert_eq!((c.run.iopl, c.run.regs.rflags), (3, 0x202));
    });
}

#[test]
fn set_trap_table_takes_entries_until_the_end_or_an_error() {
    let s = setup();
    let at = s.guest.va(3).0;
    let entry =
        |vector, address| TrapInfo { vector, flags: 7, cs: 0x10, address: Vaddr(address), ..TrapInfo::default() };
    let table = [entry(3, 0x1000), entry(4, 0x2000), entry(5, 1 << 47), TrapInfo::default()];
    s.guest.poke(&s.core, 3, 0, table.as_bytes());
    let number = Hypercall::SET_TRAP_TABLE.0;
    assert_eq!(s.guest.hypercall(&s.core, number, [at, 0, 0, 0, 0]), -22);
    let handler = |v| s.guest.run(&s.core, |c| c.run.traps.get(v));
    assert_eq!((handler(3).address.0, handler(4).address.0, handler(5).address.0), (0x1000, 0x2000, 0));
    assert_eq!((handler(3).cs, handler(3).dpl(), handler(3).masks_events()), (0x13, 3, true));
    // Preempted after each entry: every one is taken all the same.
    s.guest.poke(&s.core, 3, 32, [entry(5, 0x3000)].as_bytes());
    s.core.platform.interrupt_every(1);
    assert_eq!(s.guest.hypercall(&s.core, number, [at, 0, 0, 0, 0]), 0);
    assert_eq!(handler(5).address.0, 0x3000);
    assert_eq!(s.guest.hypercall(&s.core, number, [0x10, 0, 0, 0, 0]), -14);
    assert_eq!(s.guest.hypercall(&s.core, number, [0; 5]), 0);
    assert_eq!(handler(3).address.0, 0);
}

proptest! {
    /// What a bounce frame saved, iret restores, in both modes and with whatever mask.
    #[test]
    fn a_bounce_and_iret_give_the_guest_back_as_it_was(
        user: bool, masked: bool, rip in 0u64..1 << 47, flags: u64, error: bool, general: [u64; 13],
    ) {
        let s = setup();
        s.core.set_upcall_mask(&s.guest.vcpu, masked);
        s.guest.run(&s.core, |c| {
            set_gate(c, vector::BP, 4);
            set_gate(c, vector::GP, 4);
            let user_bits = rflags::CF | rflags::ZF | rflags::DF | rflags::TF | rflags::AC | rflags::NT | rflags::ID;
            let r = &mut c.run.regs;
            r.rip = rip;
            r.rflags = flags & user_bits | rflags::IF | rflags::RESERVED1;
            [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14] = general;
            if user {
                in_user_mode(c);
                c.run.regs.cs = 0x33;
            }
            let before = c.run.regs;
            c.core.exception(c, if error { vector::GP } else { vector::BP }, 8, 0);
            assert!(c.core.upcall_mask(c.vcpu));
            if error {
                // The handler drops the error code before it returns: rcx and r11 move up.
                let (rcx, r11) = (stack(c, 2)[0], stack(c, 2)[1]);
                c.run.regs.rsp += 8;
                c.put(c.run.regs.rsp, &[rcx, r11]).unwrap();
            }
            iret(c);
            c.run.regs.entry_vector = before.entry_vector;
            assert_eq!(c.run.regs, before);
            assert_eq!(c.run.kernel_mode, !user);
            assert_eq!(c.core.upcall_mask(c.vcpu), masked);
        });
    }
}

#[test]
fn cr2_is_written_where_vcpu_info_is_now() {
    let s = setup();
    let to = s.guest.frames[3];
    s.guest.vcpu.info.set(to, 0x140 / 8);
    s.guest.run(&s.core, |c| c.core.set_cr2(c, 77));
    assert_eq!(s.core.platform.word(to, 0x140 / 8 + 2).load(std::sync::atomic::Ordering::SeqCst), 77);
}

/// The core must be shareable between CPUs.
const _: fn(&Core<TestMachine>) = |core| {
    fn shareable<T: Sync>(_: &T) {}
    shareable(core)
};
