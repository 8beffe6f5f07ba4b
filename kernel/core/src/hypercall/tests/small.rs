//! Calls that change the calling vCPU: the last value that each takes and the first that it does not.

use std::string::String;
use std::vec::Vec;

use abi::callback::{CallbackOp, CallbackRegister, CallbackType};
use abi::hypercall::Hypercall;
use abi::mmu::{MmuextCmd, MmuextOp};
use abi::regs::{IretContext, rflags};
use abi::sched::{SchedOp, Shutdown, ShutdownReason};
use abi::version::{FeatureInfo, XenVersionOp};
use abi::{DomId, Errno, Vaddr};
use zerocopy::IntoBytes;

use super::setup;
use crate::trap::{ARCHITECTURAL_IOPL, ENTRY_SYSCALL};
use crate::{Privilege, Stop};

#[test]
fn an_io_breakpoint_is_the_guests_alone_in_each_place() {
    let s = setup(Privilege::empty());
    let set = |value: u64| s.call(Hypercall::SET_DEBUGREG, &[7, value]);
    for n in 0..4 {
        let (on_io, enables) = (2u64 << (16 + 4 * n), 3 << (2 * n));
        s.guest.run(&s.core, |c| c.run.cr4 = 0);
        assert_eq!(set(on_io), Ok(0), "nothing is enabled");
        assert_eq!(set(on_io | enables), Err(Errno::EPERM), "without CR4.DE");
        s.guest.run(&s.core, |c| c.run.cr4 = 8);
        assert_eq!(set(on_io | 0xff), Ok(0));
        s.guest.run(&s.core, |c| assert_eq!(c.run.debug[7], 0x400 | on_io | 0xff & !enables));
        assert_eq!(s.call(Hypercall::GET_DEBUGREG, &[7]), Ok((0x400 | on_io | 0xff) as i64));
    }
}

#[test]
fn what_iret_restores() {
    let frame = IretContext {
        rax: 1,
        r11: 2,
        rcx: 3,
        flags: 0,
        rip: 0x1000,
        cs: 0xe030,
        rflags: 0x3_7ad7,
        rsp: 0x2000,
        ss: 0xe028,
    };
    for (architectural, in_syscall, masked) in [(false, false, false), (true, true, true)] {
        let s = setup(Privilege::empty());
        let flags = if in_syscall { IretContext::IN_SYSCALL } else { 0 };
        let rflags = if masked { frame.rflags & !rflags::IF } else { frame.rflags };
        s.guest.poke(&s.core, 1, 0, IretContext { flags, rflags, ..frame }.as_bytes());
        if architectural {
            s.guest.domain.assist.store(ARCHITECTURAL_IOPL, std::sync::atomic::Ordering::SeqCst);
        }
        s.guest.run(&s.core, |c| {
            c.run.regs.rsp = s.guest.va(1).0;
            c.run.regs.entry_vector = ENTRY_SYSCALL | 7;
            (c.run.iopl, c.run.callbacks.in_nmi) = (1, true);
            let done = crate::dispatch::call(c, Hypercall::IRET.0, &mut [0; 5]);
            assert_eq!(done, Err(Stop::REPLACED));
            let r = &c.run.regs;
            // IF is always set, IOPL and VM never; the guest's own IF is its event mask.
            let shown = 0x4fd7 | rflags::IF | 0x2;
            assert_eq!((r.rax, r.rip, r.cs, r.rsp, r.ss), (1, 0x1000, 0xe033, 0x2000, 0xe02b));
            assert_eq!(r.rflags, frame.rflags & !(rflags::IOPL | rflags::VM) | rflags::IF, "{shown:#x}");
            assert_eq!((r.rcx, r.r11), if in_syscall { (r.rip, r.rflags) } else { (3, 2) });
            assert_eq!(
                r.entry_vector,
                if in_syscall { ENTRY_SYSCALL | 7 } else { 7 },
                "SYSRET is for where rcx and r11 say no more"
            );
            assert_eq!(c.run.iopl, if architectural { 3 } else { 1 });
            assert!(!c.run.callbacks.in_nmi && c.run.kernel_mode);
            assert_eq!(c.core.upcall_mask(c.vcpu), masked);
        });
    }
    // The privilege level is two bits, whatever is beside them.
    let s = setup(Privilege::empty());
    s.guest.domain.assist.store(ARCHITECTURAL_IOPL, std::sync::atomic::Ordering::SeqCst);
    s.guest.poke(&s.core, 1, 0, IretContext { rflags: 0x1_1000, ..frame }.as_bytes());
    s.guest.run(&s.core, |c| {
        c.run.regs.rsp = s.guest.va(1).0;
        let _ = crate::dispatch::call(c, Hypercall::IRET.0, &mut [0; 5]);
        assert_eq!(c.run.iopl, 1);
    });
}

#[test]
fn callbacks_without_flags_mask_nothing_and_that_of_the_nmi_is_64_bit_code() {
    let s = setup(Privilege::empty());
    for kind in [CallbackType::FAILSAFE, CallbackType::NMI] {
        let r = CallbackRegister { kind, flags: 0, address: Vaddr(0x1000), _pad: 0 };
        assert_eq!(s.with(Hypercall::CALLBACK_OP, CallbackOp::REGISTER.0, &r), Ok(0));
    }
    s.guest.run(&s.core, |c| {
        assert!(!c.run.callbacks.failsafe.masks);
        assert_eq!(c.run.traps.get(2).cs, 0xe033);
    });
}

/// Descriptors of a table: 14 frames of 512, less those that are the hypervisor's.
#[test]
fn set_gdt_takes_14_frames_and_no_more() {
    let s = setup(Privilege::empty());
    let more: Vec<u64> = (0..14).map(|_| s.core.alloc_domain_page(&s.guest.domain).unwrap().mfn().0).collect();
    s.guest.poke(&s.core, 0, 0, more.as_bytes());
    assert_eq!(s.call(Hypercall::SET_GDT, &[s.guest.va(0).0, 7169]), Err(Errno::EINVAL));
    assert_eq!(s.call(Hypercall::SET_GDT, &[0x10, 7169]), Err(Errno::EINVAL), "before the list is looked at");
    assert_eq!(s.call(Hypercall::SET_GDT, &[0x10, 7170]), Err(Errno::EINVAL));
    assert_eq!(s.call(Hypercall::SET_GDT, &[s.guest.va(0).0, 7168]), Ok(0));
    s.guest.run(&s.core, |c| {
        assert_eq!(c.run.gdt.map(|f| f.unwrap().mfn().0).as_slice(), more);
        assert_eq!(c.run.gdt_entries, 7168);
        let mfns: Vec<_> = more.iter().map(|mfn| abi::Mfn(*mfn)).collect();
        assert_eq!(c.core.claim_gdt(c.domain, &mfns, 7169).err(), Some(Errno::EINVAL));
        assert_eq!(c.core.claim_gdt(c.domain, &mfns, 7170).err(), Some(Errno::EINVAL));
        let mut again = c.core.claim_gdt(c.domain, &mfns, 7168).unwrap();
        c.core.release_gdt(&mut again);
    });
}

#[test]
fn a_trap_table_ends_at_its_first_empty_entry_and_its_selectors_are_of_ring_3() {
    let s = setup(Privilege::empty());
    let trap = |vector, cs, address| abi::trap::TrapInfo { vector, cs, address: Vaddr(address), ..Default::default() };
    s.guest.poke(&s.core, 0, 0, [trap(1, 0xe030, 0x1000), trap(3, 0xe033, 0x3000), trap(9, 0, 0)].as_bytes());
    assert_eq!(s.call(Hypercall::SET_TRAP_TABLE, &[s.guest.va(0).0]), Ok(0));
    s.guest.run(&s.core, |c| {
        let got = [1, 3, 9].map(|vector| (c.run.traps.get(vector).cs, c.run.traps.get(vector).address.0));
        assert_eq!(got, [(0xe033, 0x1000), (0xe033, 0x3000), (0, 0)]);
    });
    assert_eq!(s.call(Hypercall::SET_TRAP_TABLE, &[0]), Ok(0));
    s.guest.run(&s.core, |c| assert_eq!(c.run.traps.get(1).address.0, 0));
    assert_eq!(s.call(Hypercall::STACK_SWITCH, &[0xe02b, 0x1000]), Ok(0));
    s.guest.run(&s.core, |c| assert_eq!(c.run.kernel_ss, 0xe02b));
}

#[test]
fn every_feature_that_is_told() {
    for (privilege, assist, features) in [
        (Privilege::empty(), 0, 1 << 5 | 1 << 6 | 1 << 7 | 1 << 13 | 1 << 17),
        (Privilege::INITIAL, 1 << 3, 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 11 | 1 << 13 | 1 << 17),
        (Privilege::empty(), !(1 << 3), 1 << 5 | 1 << 6 | 1 << 7 | 1 << 13 | 1 << 17),
    ] {
        let s = setup(privilege);
        s.guest.domain.assist.store(assist, std::sync::atomic::Ordering::SeqCst);
        let ask = FeatureInfo { submap_idx: 0, submap: 0 };
        assert_eq!(s.with(Hypercall::XEN_VERSION, XenVersionOp::GET_FEATURES.0, &ask), Ok(0));
        assert_eq!(s.peek::<FeatureInfo>().submap, features);
    }
}

// ---- Batches -----------------------------------------------------------------------------------------------------------

fn entry(op: Hypercall, args: [u64; 2]) -> [u64; 8] {
    [u64::from(op.0), 99, args[0], args[1], 0, 0, 0, 0]
}

/// A batch that stops and goes on, between its calls and within one, does each call once and none behind its end.
#[test]
fn a_batch_that_goes_on_ends_where_it_ends() {
    let s = setup(Privilege::empty());
    let text = s.guest.va(1).0;
    s.guest.poke(&s.core, 1, 0, &[b'a'; 300]);
    s.guest.poke(&s.core, 1, 299, b"\n");
    let print = |count: u64| [u64::from(Hypercall::CONSOLE_IO.0), 99, 0, count, text, 0, 0, 0];
    // The second is interrupted itself: it is taken in pieces.
    let batch =
        [entry(Hypercall::FPU_TASKSWITCH, [1, 0]), print(300), print(1), entry(Hypercall::FPU_TASKSWITCH, [0, 0])];
    for every in [1, 2, 3] {
        s.guest.poke(&s.core, 0, 0, batch.as_bytes());
        s.core.platform.interrupt_every(every);
        assert_eq!(s.call(Hypercall::MULTICALL, &[s.guest.va(0).0, 3]), Ok(0));
        s.core.platform.interrupt_every(0);
        assert_eq!(s.peek::<[[u64; 8]; 4]>().map(|entry| entry[1]), [0, 0, 0, 99], "every {every}");
        s.guest.run(&s.core, |c| assert_eq!(c.run.cr0, 8));
        let printed: String = s.core.platform.take_printed();
        assert_eq!(printed.bytes().filter(|byte| *byte == b'a').count(), 299 + usize::from(every > 1), "{printed}");
    }
}

#[test]
fn a_batch_that_stops_late_has_no_more_to_do_than_is_left() {
    let s = setup(Privilege::empty());
    for stops_after in 0..2 {
        s.guest.poke(&s.core, 0, 0, [entry(Hypercall::FPU_TASKSWITCH, [1, 0]); 4].as_bytes());
        s.core.platform.interrupt_after(stops_after);
        assert_eq!(s.call(Hypercall::MULTICALL, &[s.guest.va(0).0, 3]), Ok(0));
        assert_eq!(s.peek::<[[u64; 8]; 4]>().map(|entry| entry[1]), [0, 0, 0, 99]);
    }
}

#[test]
fn a_batch_ends_with_its_domain() {
    let s = setup(Privilege::empty());
    s.guest.poke(&s.core, 1, 0, Shutdown { reason: ShutdownReason::POWEROFF }.as_bytes());
    let shutdown = entry(Hypercall::SCHED_OP, [SchedOp::SHUTDOWN.0.into(), s.guest.va(1).0]);
    s.guest.poke(&s.core, 0, 0, [shutdown, entry(Hypercall::FPU_TASKSWITCH, [1, 0])].as_bytes());
    assert_eq!(s.call(Hypercall::MULTICALL, &[s.guest.va(0).0, 2]), Ok(0));
    assert_eq!(s.peek::<[[u64; 8]; 2]>().map(|entry| entry[1]), [0, 99]);
}

// ---- The TLB and caches ------------------------------------------------------------------------------------------------

#[test]
fn flushes_of_caches_are_for_those_who_may_choose_caching() {
    for (privilege, local, global) in
        [(Privilege::empty(), Err(Errno::EACCES), Err(Errno::EINVAL)), (Privilege::HARDWARE, Ok(0), Ok(0))]
    {
        let s = setup(privilege);
        let op = |cmd| {
            s.guest.poke(&s.core, 0, 0, MmuextOp::new(cmd, 0, 0).as_bytes());
            s.call(Hypercall::MMUEXT_OP, &[s.guest.va(0).0, 1, 0, DomId::SELF.0.into()])
        };
        assert_eq!((op(MmuextCmd::FLUSH_CACHE), op(MmuextCmd::FLUSH_CACHE_GLOBAL)), (local, global));
        assert_eq!(op(MmuextCmd(999)), Err(Errno::ENOSYS));
    }
}

/// A builder may do to another's tables what concerns them, not what concerns a vCPU.
#[test]
fn another_domains_vcpus_are_not_the_callers() {
    let s = setup(Privilege::BUILDER);
    let other = crate::testing::guest(&s.core, Privilege::empty(), 4);
    let op = |cmd, arg1: u64, arg2: u64| {
        s.guest.poke(&s.core, 0, 0, MmuextOp::new(cmd, arg1, arg2).as_bytes());
        s.call(Hypercall::MMUEXT_OP, &[s.guest.va(0).0, 1, 0, other.domain.id.0.into()])
    };
    let root = other.tables[3].mfn().0;
    for cmd in [
        MmuextCmd::NEW_BASEPTR,
        MmuextCmd::NEW_USER_BASEPTR,
        MmuextCmd::SET_LDT,
        MmuextCmd::TLB_FLUSH_LOCAL,
        MmuextCmd::TLB_FLUSH_ALL,
        MmuextCmd::FLUSH_CACHE,
    ] {
        assert_eq!(op(cmd, root, 0), Err(Errno::EPERM), "{cmd:?}");
    }
    assert_eq!(op(MmuextCmd::PIN_L4_TABLE, root, 0), Ok(0));
    assert_eq!(op(MmuextCmd::UNPIN_TABLE, root, 0), Ok(0));
}

// ---- Console -----------------------------------------------------------------------------------------------------------

#[test]
fn what_is_typed_is_read_as_far_as_there_is_room_for_it() {
    let s = setup(Privilege::CONSOLE);
    let typed: Vec<u8> = (0..300u32).map(|n| n as u8).collect();
    let read = |count: u64| s.call(Hypercall::CONSOLE_IO, &[1, count, s.guest.va(0).0]);
    assert_eq!((read(i32::MAX as u64), read(0)), (Ok(0), Ok(0)));
    s.core.platform.typed.lock().unwrap().extend(&typed);
    assert_eq!(read(200), Ok(200));
    assert_eq!(s.peek::<[u8; 200]>(), typed[..200]);
    assert_eq!(read(200), Ok(100));
    assert_eq!(s.peek::<[u8; 100]>(), typed[200..]);
}

#[test]
fn lines_are_counted_by_the_second_and_a_call_that_is_done_is_not_interrupted() {
    let s = setup(Privilege::empty());
    s.core.platform.interrupt_every(1);
    let before = s.core.platform.polls();
    let most = super::super::console_io::LINES_PER_SECOND;
    for _ in 0..most + 1 {
        s.print(b"x\n").unwrap();
    }
    assert_eq!(s.core.platform.polls(), before, "one piece each");
    // Half a second later it is still the same second.
    s.core.platform.clock.fetch_add(500_000_000, std::sync::atomic::Ordering::SeqCst);
    s.print(b"y\n").unwrap();
    assert_eq!(s.core.platform.take_printed().lines().count() as u32, most);
}

// ---- What is made a call -----------------------------------------------------------------------------------------------

#[test]
fn a_call_by_registers_answers_in_rax_and_is_made_again_where_it_was_interrupted() {
    let mut s = setup(Privilege::empty());
    let call = |s: &super::Setup, rax: u64, args: [u64; 5]| {
        s.guest.run(&s.core, |c| {
            let r = &mut c.run.regs;
            (r.rax, r.rip) = (rax, 0x1002);
            [r.rdi, r.rsi, r.rdx, r.r10, r.r8] = args;
            crate::dispatch::hypercall(c);
            let r = &c.run.regs;
            (r.rax as i64, r.rip, [r.rdi, r.rsi, r.rdx, r.r10, r.r8])
        })
    };
    let version = Hypercall::XEN_VERSION.0.into();
    // The upper half of rax is no part of the number.
    assert_eq!(call(&s, 1 << 32 | version, [0; 5]), (0x4_0011, 0x1002, [0; 5]));
    assert_eq!(call(&s, version, [11, 0, 0, 0, 0]).0, Errno::ENOSYS.code());
    assert_eq!(s.core.platform.take_printed(), "");
    s.core.log_refusals = true;
    call(&s, version, [11, 1, 2, 3, 4]);
    let d = s.guest.domain.id.0;
    let line = std::format!("(core) d{d}v0: hypercall 17 (0xb, 0x1, 0x2, 0x3) refused: ENOSYS\n");
    assert_eq!(s.core.platform.take_printed(), line);
    // Two pieces of text: it is executed again, with what is left of it.
    let text = s.guest.va(1).0;
    s.core.platform.interrupt_after(0);
    assert_eq!(call(&s, Hypercall::CONSOLE_IO.0.into(), [0, 200, text, 7, 8]).1, 0x1000);
    assert_eq!(s.guest.run(&s.core, |c| (c.run.regs.rsi, c.run.regs.rdx)), (72, text + 128));
}

#[test]
fn only_the_calls_that_a_domain_may_make_are_made_and_remembered() {
    let s = setup(Privilege::empty());
    let version = Hypercall::XEN_VERSION;
    s.guest.run(&s.core, |c| c.run.recent = 0);
    assert_eq!(s.call(version, &[0]), Ok(0x4_0011));
    assert_eq!(s.call(Hypercall::FPU_TASKSWITCH, &[0]), Ok(0));
    assert_eq!(s.call(Hypercall(64), &[0]), Err(Errno::ENOSYS));
    assert_eq!(s.call(Hypercall(64 + version.0), &[0]), Err(Errno::ENOSYS));
    assert_eq!(s.guest.run(&s.core, |c| c.run.recent), 17 << 8 | 5);
    s.guest.domain.hypercalls.store(!(1 << version.0), std::sync::atomic::Ordering::SeqCst);
    assert_eq!(s.call(version, &[0]), Err(Errno::ENOSYS));
    assert_eq!(s.call(Hypercall::FPU_TASKSWITCH, &[0]), Ok(0));
    s.guest.domain.hypercalls.store(1 << version.0, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(s.call(version, &[0]), Ok(0x4_0011));
    assert_eq!(s.call(Hypercall::FPU_TASKSWITCH, &[0]), Err(Errno::ENOSYS));
}
