use std::boxed::Box;
use std::sync::atomic::Ordering::SeqCst;
use std::vec::Vec;

use abi::callback::{CallbackOp, CallbackRegister, CallbackType, CallbackUnregister, MASK_EVENTS};
use abi::hypercall::Hypercall;
use abi::physdev::*;
use abi::version::{FeatureInfo, XenVersionOp};
use abi::{DomId, Errno, Mfn, Vaddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::irq::{Line, PciDevice, Ranges};
use crate::testing::{self, Guest, LineEvent, TestCore};
use crate::{PageType, Privilege, guest};

mod builder;
mod events;
mod small;
mod vcpus;

struct Setup {
    core: Box<TestCore>,
    guest: Guest,
}

fn setup(privilege: Privilege) -> Setup {
    let core = testing::core(1024, 1);
    let guest = testing::guest(&core, privilege, 8);
    Setup { core, guest }
}

impl Setup {
    fn call(&self, number: Hypercall, args: &[u64]) -> Result<i64, Errno> {
        let mut all = [0; 5];
        all[..args.len()].copy_from_slice(args);
        Errno::check(self.guest.hypercall(&self.core, number.0, all)).map(|v| v as i64)
    }

    /// A call whose second argument is the address of `argument`, on page 0.
    fn with<T: IntoBytes + Immutable>(&self, number: Hypercall, op: u32, argument: &T) -> Result<i64, Errno> {
        self.guest.poke(&self.core, 0, 0, argument.as_bytes());
        self.call(number, &[op.into(), self.guest.va(0).0])
    }

    fn peek<T: FromBytes + IntoBytes>(&self) -> T {
        self.guest.peek(&self.core, 0)
    }

    /// Makes frame `page` something that can hold descriptors: it is mapped nowhere.
    fn hide(&self, page: usize) -> Mfn {
        self.guest.map(&self.core, page, abi::Pte::EMPTY).unwrap();
        self.guest.frames[page].mfn()
    }
}

#[test]
fn set_gdt_takes_frames_that_nobody_can_write() {
    let s = setup(Privilege::empty());
    let gdt = |mfns: &[u64], entries: u64| {
        s.guest.poke(&s.core, 0, 0, mfns.as_bytes());
        s.call(Hypercall::SET_GDT, &[s.guest.va(0).0, entries])
    };
    let own = s.guest.frames[3].mfn().0;
    assert_eq!(gdt(&[own], 8), Err(Errno::EINVAL), "mapped writable");
    let one = s.hide(3).0;
    let two = s.hide(4).0;
    assert_eq!(gdt(&[one], 8), Ok(0));
    let kind = |page: usize| {
        let state = s.core.frames.info(s.guest.frames[page]).state();
        (state.kind(), state.type_refs())
    };
    assert_eq!(kind(3), (PageType::SegmentDescriptor, 1));
    assert_eq!(gdt(&[two, s.guest.tables[0].mfn().0], 513), Err(Errno::EINVAL), "a page table");
    assert_eq!((kind(3).1, kind(4).1), (1, 0), "the old table stays, the new one is let go of");
    assert_eq!(gdt(&[two, one], 1024), Ok(0));
    assert_eq!((kind(3).1, kind(4).1), (1, 1));
    assert_eq!(gdt(&[], 7169), Err(Errno::EINVAL));
    assert_eq!(gdt(&[u64::MAX], 1), Err(Errno::EINVAL));
    assert_eq!(s.call(Hypercall::SET_GDT, &[0x10, 1]), Err(Errno::EFAULT));
    assert_eq!(gdt(&[], 0), Ok(0));
    assert_eq!((kind(3).1, kind(4).1), (0, 0));
}

#[test]
fn a_frame_of_descriptors_is_made_fit_or_refused() {
    let s = setup(Privilege::empty());
    let kernel_code = 0x00af_9a00_0000_ffff_u64;
    let tss = 0x0000_8900_0000_0067_u64;
    s.guest.poke(&s.core, 3, 8, kernel_code.as_bytes());
    s.guest.poke(&s.core, 4, 8, tss.as_bytes());
    let (good, bad) = (s.hide(3), s.hide(4));
    s.guest.poke(&s.core, 0, 0, &bad.0.to_le_bytes());
    assert_eq!(s.call(Hypercall::SET_GDT, &[s.guest.va(0).0, 2]), Err(Errno::EINVAL));
    s.guest.poke(&s.core, 0, 0, &good.0.to_le_bytes());
    assert_eq!(s.call(Hypercall::SET_GDT, &[s.guest.va(0).0, 2]), Ok(0));
    let word = guest::load(&s.core.platform, s.guest.frames[3], 1);
    assert_eq!(word, 0x00af_fa00_0000_ffff, "DPL 3");
    let live = s.core.frames.info(s.guest.frames[3]).state();
    assert_eq!(live.kind(), PageType::SegmentDescriptor);
}

/// XSA-213: what comes behind an iret to user mode in a batch is not done.
#[test]
fn a_change_of_privilege_ends_a_batch() {
    let s = setup(Privilege::empty());
    let root = s.guest.tables[3].mfn().0;
    s.guest.poke(&s.core, 0, 0, abi::mmu::MmuextOp::new(abi::mmu::MmuextCmd::NEW_USER_BASEPTR, root, 0).as_bytes());
    s.call(Hypercall::MMUEXT_OP, &[s.guest.va(0).0, 1, 0, DomId::SELF.0.into()]).unwrap();
    // rax, r11, rcx, flags, rip, cs, rflags, rsp, ss; then the batch.
    let frame = [0, 0, 0, 0, 0x1000, 0x33, 0x202, 0x2000, 0x2b_u64];
    s.guest.poke(&s.core, 1, 0, frame.as_bytes());
    let entry = |op: Hypercall, argument: u64| [u64::from(op.0), 99, argument, 0, 0, 0, 0, 0];
    let batch = [entry(Hypercall::FPU_TASKSWITCH, 0), entry(Hypercall::IRET, 0), entry(Hypercall::FPU_TASKSWITCH, 1)];
    s.guest.poke(&s.core, 0, 0, batch.as_bytes());
    s.guest.run(&s.core, |c| {
        c.run.regs.rsp = s.guest.va(1).0;
        let mut args = [s.guest.va(0).0, 3, 0, 0, 0];
        let done = crate::dispatch::call(c, Hypercall::MULTICALL.0, &mut args);
        assert_eq!(done, Err(crate::Stop::REPLACED));
        assert!(!c.run.kernel_mode && c.run.cr0 & 8 == 0, "the last one was done, too");
    });
    assert_eq!(s.peek::<[[u64; 8]; 3]>().map(|entry| entry[1]), [0, 99, 99], "results");
}

#[test]
fn update_descriptor_writes_what_is_admitted_where_it_may() {
    let s = setup(Privilege::empty());
    let code = 0x00af_9a00_0000_ffff;
    let update =
        |mfn: Mfn, offset: u64, value: u64| s.call(Hypercall::UPDATE_DESCRIPTOR, &[mfn.0 << 12 | offset, value]);
    let page = s.guest.frames[3].mfn();
    assert_eq!(update(page, 0x18, code), Ok(0));
    assert_eq!(guest::load(&s.core.platform, s.guest.frames[3], 3), 0x00af_fa00_0000_ffff);
    assert_eq!(update(page, 0x1c, code), Err(Errno::EINVAL), "not aligned");
    assert_eq!(update(page, 0x18, 0x0000_8900_0000_0067), Err(Errno::EINVAL), "a TSS");
    assert_eq!(update(s.guest.tables[0].mfn(), 0, 0), Err(Errno::EINVAL), "a page table");
    assert_eq!(update(Mfn(0), 0, 0), Err(Errno::EINVAL), "nobody's");
    // In a live descriptor table.
    s.hide(3);
    s.guest.poke(&s.core, 0, 0, &page.0.to_le_bytes());
    s.call(Hypercall::SET_GDT, &[s.guest.va(0).0, 8]).unwrap();
    assert_eq!(update(page, 0x20, 0), Ok(0));
    assert_eq!(update(page, 0x18, 0), Ok(0));
    assert_eq!(guest::load(&s.core.platform, s.guest.frames[3], 3), 0);
}

#[test]
fn debug_registers() {
    let s = setup(Privilege::empty());
    let set = |n: u64, value: u64| s.call(Hypercall::SET_DEBUGREG, &[n, value]);
    // The value may look like an error: it is taken as it is.
    let get = |n: u64| s.guest.hypercall(&s.core, Hypercall::GET_DEBUGREG.0, [n, 0, 0, 0, 0]);
    assert_eq!((set(0, 0x1234), get(0)), (Ok(0), 0x1234));
    assert_eq!((set(3, u64::MAX), get(3)), (Ok(0), -1));
    for bad in [1 << 47, 0xffff_8000_0000_0000, 0xffff_87ff_ffff_ffff] {
        assert_eq!(set(1, bad), Err(Errno::EPERM), "{bad:#x}");
    }
    assert_eq!((set(6, 0xffff_ffff), get(6)), (Ok(0), 0xffff_efff));
    assert_eq!((set(4, 0), get(4)), (Ok(0), 0xffff_0ff0));
    assert_eq!(set(6, 1 << 32), Err(Errno::EINVAL));
    assert_eq!((set(7, 0), get(7)), (Ok(0), 0x400));
    assert_eq!(set(7, 1 << 32), Err(Errno::EINVAL));
    assert_eq!(set(7, 0x2000), Err(Errno::EPERM), "general detect");
    assert_eq!((set(7, 0xd801), get(5)), (Ok(0), 0x401), "reserved bits");
    assert_eq!(set(7, 1 | 2 << 16), Err(Errno::EPERM), "an I/O breakpoint without CR4.DE");
    assert_eq!(set(7, 1 << 2 | 2 << 16), Err(Errno::EPERM), "its own enable bits do not matter");
    assert_eq!(get(7), 0x401);
    s.guest.run(&s.core, |c| c.run.cr4 = 8);
    assert_eq!((set(7, 3 | 2 << 16 | 4), get(7)), (Ok(0), 0x407 | 2 << 16));
    s.guest.run(&s.core, |c| assert_eq!(c.run.debug[7], 0x404 | 2 << 16, "the hardware never breaks on I/O"));
    assert_eq!((set(4, 0), get(5)), (Err(Errno::ENODEV), Errno::ENODEV.code()));
    assert_eq!((set(8, 0), get(8)), (Err(Errno::ENODEV), Errno::ENODEV.code()));
}

#[test]
fn segment_bases() {
    let s = setup(Privilege::empty());
    let set = |which: u64, base: u64| s.call(Hypercall::SET_SEGMENT_BASE, &[which, base]);
    for (which, base) in [(0, 0x1000), (1, 0x2000), (2, 0xffff_8880_0000_0000)] {
        assert_eq!(set(which, base), Ok(0));
        assert_eq!(set(which, 1 << 47), Err(Errno::EINVAL));
    }
    s.guest.run(&s.core, |c| {
        let bases = (c.run.fs_base, c.run.gs_base_user, c.run.gs_base_kernel);
        assert_eq!(bases, (0x1000, 0x2000, 0xffff_8880_0000_0000));
    });
    assert_eq!(set(3, 0x2b), Ok(0));
    assert_eq!(set(3, 0xffff), Ok(0), "a selector that is none");
    assert_eq!(set(4, 0), Err(Errno::EINVAL));
}

#[test]
fn vm_assist_every_kind() {
    let s = setup(Privilege::empty());
    let assist = |command: u64, kind: u64| s.call(Hypercall::VM_ASSIST, &[command, kind]);
    for kind in 0..70 {
        let known = kind < 6 || kind == 32;
        let expected = if known { Ok(0) } else { Err(Errno::EINVAL) };
        assert_eq!(assist(0, kind), expected, "enable {kind}");
        let bit = 1u64.checked_shl(kind as u32).unwrap_or(0);
        assert_eq!(s.guest.domain.assist.load(SeqCst) & bit != 0, known);
        assert_eq!(assist(1, kind), expected, "disable {kind}");
        assert_eq!(s.guest.domain.assist.load(SeqCst), 0);
        assert_eq!(assist(2, kind), if known { Err(Errno::ENOSYS) } else { Err(Errno::EINVAL) });
    }
}

#[test]
fn callbacks() {
    let s = setup(Privilege::empty());
    let register = |kind, flags, address| {
        let r = CallbackRegister { kind: CallbackType(kind), flags, address: Vaddr(address), _pad: 0 };
        s.with(Hypercall::CALLBACK_OP, CallbackOp::REGISTER.0, &r)
    };
    let unregister = |kind| {
        let r = CallbackUnregister { kind: CallbackType(kind), _unused: 0 };
        s.with(Hypercall::CALLBACK_OP, CallbackOp::UNREGISTER.0, &r)
    };
    for kind in 0..9u16 {
        let known = matches!(kind, 0 | 1 | 2 | 4 | 5 | 7);
        assert_eq!(
            register(kind, MASK_EVENTS, 0x1000 + u64::from(kind)),
            if known { Ok(0) } else { Err(Errno::ENOSYS) }
        );
        assert_eq!(register(kind, 0, 1 << 47), Err(Errno::EINVAL));
        let expected = match kind {
            4 => Ok(0),
            _ if known => Err(Errno::EINVAL),
            _ => Err(Errno::ENOSYS),
        };
        if kind == 4 {
            s.guest.run(&s.core, |c| {
                let nmi = c.run.traps.get(2);
                assert_eq!((nmi.address.0, nmi.masks_events()), (0x1004, true));
            });
        }
        assert_eq!(unregister(kind), expected, "{kind}");
    }
    s.guest.run(&s.core, |c| {
        let callbacks = c.run.callbacks;
        let all = [callbacks.event, callbacks.failsafe, callbacks.syscall, callbacks.sysenter, callbacks.syscall32];
        assert_eq!(all.map(|x| x.address), [0x1000, 0x1001, 0x1002, 0x1005, 0x1007]);
        assert!(all.iter().all(|x| x.masks));
        assert_eq!(c.run.traps.get(2).address.0, 0, "NMI unregistered");
    });
    assert_eq!(s.with(Hypercall::NMI_OP, 0, &[0x1234u64, 0]), Ok(0));
    assert_eq!(s.guest.run(&s.core, |c| c.run.traps.get(2).address.0), 0x1234);
    assert_eq!(s.with(Hypercall::NMI_OP, 0, &[1u64 << 47, 0]), Err(Errno::EINVAL));
    assert_eq!(s.with(Hypercall::NMI_OP, 1, &0u64), Ok(0));
    assert_eq!(s.guest.run(&s.core, |c| c.run.traps.get(2).address.0), 0);
    assert_eq!(s.with(Hypercall::NMI_OP, 2, &0u64), Err(Errno::ENOSYS));
    assert_eq!(s.with(Hypercall::CALLBACK_OP, 2, &0u64), Err(Errno::ENOSYS));
    assert_eq!(s.call(Hypercall::CALLBACK_OP, &[0, 0x10]), Err(Errno::EFAULT));
    // The old form: an address that is not canonical leaves its callback alone.
    assert_eq!(s.call(Hypercall::SET_CALLBACKS, &[0x2000, 1 << 47, 0x2002]), Ok(0));
    s.guest.run(&s.core, |c| {
        let callbacks = c.run.callbacks;
        let all = [callbacks.event, callbacks.failsafe, callbacks.syscall];
        assert_eq!(all.map(|x| (x.address, x.masks)), [(0x2000, false), (0x1001, true), (0x2002, false)]);
    });
}

#[test]
fn version_and_features() {
    for (privilege, commandline, build_id) in
        [(Privilege::empty(), &b"<denied>"[..], Errno::EPERM), (Privilege::all(), b"", Errno::ENODATA)]
    {
        let s = setup(privilege);
        let at = s.guest.va(0).0;
        let version = |op: XenVersionOp, to: u64| s.call(Hypercall::XEN_VERSION, &[op.0.into(), to]);
        assert_eq!(version(XenVersionOp::VERSION, 0), Ok(4 << 16 | 17));
        assert_eq!(version(XenVersionOp::EXTRAVERSION, at), Ok(0));
        assert_eq!(&s.peek::<[u8; 16]>()[..14], b"-ferrule-0.1\0\0");
        assert_eq!(version(XenVersionOp::CAPABILITIES, at), Ok(0));
        assert_eq!(&s.peek::<[u8; 16]>(), b"xen-3.0-x86_64 \0");
        assert_eq!(version(XenVersionOp::COMMANDLINE, at), Ok(0));
        assert_eq!(&s.peek::<[u8; 1024]>()[..commandline.len()], commandline);
        for op in [XenVersionOp::COMPILE_INFO, XenVersionOp::CHANGESET, XenVersionOp::GUEST_HANDLE] {
            assert_eq!((version(op, at), version(op, 0x10)), (Ok(0), Err(Errno::EFAULT)));
        }
        assert_eq!(version(XenVersionOp::PLATFORM_PARAMETERS, at), Ok(0));
        assert_eq!(s.peek::<u64>(), 0xffff_8000_0000_0000);
        assert_eq!(
            (version(XenVersionOp::PAGESIZE, 0), version(XenVersionOp::PAGESIZE, at)),
            (Ok(4096), Err(Errno::EINVAL))
        );
        assert_eq!(version(XenVersionOp::BUILD_ID, 0), Err(build_id));
        assert_eq!(version(XenVersionOp(11), 0), Err(Errno::ENOSYS));
        let features = |submap_idx| {
            s.with(Hypercall::XEN_VERSION, XenVersionOp::GET_FEATURES.0, &FeatureInfo { submap_idx, submap: 0 })?;
            Ok(s.peek::<FeatureInfo>().submap)
        };
        let bits: u32 = features(0).unwrap();
        assert_eq!(bits & (1 << 5 | 1 << 7), 1 << 5 | 1 << 7, "Linux needs both");
        assert_eq!(bits & 0b1101, 0, "what a PV guest cannot have");
        assert_eq!(bits >> 11 & 1 != 0, privilege.contains(Privilege::INITIAL));
        assert_eq!(features(1), Err(Errno::EINVAL));
    }
}

#[test]
fn stack_switch_and_the_rest_that_cannot_fail() {
    let s = setup(Privilege::empty());
    assert_eq!(s.call(Hypercall::STACK_SWITCH, &[0xe028, 0x1000]), Ok(0));
    s.guest.run(&s.core, |c| assert_eq!((c.run.kernel_ss, c.run.kernel_sp), (0xe02b, 0x1000)));
    assert_eq!(s.call(Hypercall::FPU_TASKSWITCH, &[1]), Ok(0));
    s.guest.run(&s.core, |c| assert_eq!(c.run.cr0, 8));
    assert_eq!(s.call(Hypercall::FPU_TASKSWITCH, &[1 << 32]), Ok(0));
    s.guest.run(&s.core, |c| assert_eq!(c.run.cr0, 0));
}

// ---- Console -----------------------------------------------------------------------------------------------------------

impl Setup {
    fn print(&self, text: &[u8]) -> Result<i64, Errno> {
        for (page, part) in (1..).zip(text.chunks(4096)) {
            self.guest.poke(&self.core, page, 0, part);
        }
        self.call(Hypercall::CONSOLE_IO, &[0, text.len() as u64, self.guest.va(1).0])
    }
}

#[test]
fn the_consoles_owner_writes_as_it_likes() {
    let s = setup(Privilege::all());
    let text: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
    s.core.platform.interrupt_every(1);
    assert_eq!(s.print(&text), Ok(0));
    assert_eq!(*s.core.platform.printed.lock().unwrap(), text);
    assert_eq!(s.call(Hypercall::CONSOLE_IO, &[0, 5, 0x10]), Err(Errno::EFAULT));
    assert_eq!(s.call(Hypercall::CONSOLE_IO, &[2, 0, 0]), Err(Errno::ENOSYS));
    // And reads what is typed.
    let read = |count: u64| s.call(Hypercall::CONSOLE_IO, &[1, count, s.guest.va(0).0]);
    assert_eq!(read(10), Ok(0));
    s.core.platform.typed.lock().unwrap().extend(b"hello");
    assert_eq!(read(3), Ok(3));
    assert_eq!(read(300), Ok(2));
    assert_eq!(s.peek::<[u8; 2]>(), *b"lo");
    assert_eq!(read(1 << 31), Err(Errno::E2BIG));
}

#[test]
fn the_cores_lines_leave_what_the_owner_has_begun_below_them() {
    let s = setup(Privilege::all());
    s.print(b"done\r\ndom0# li").unwrap();
    s.core.platform.take_printed();
    s.core.log(format_args!("word"));
    assert_eq!(s.core.platform.take_printed(), "\r\x1b[K(core) word\ndom0# li");
    s.print(b"st\n").unwrap();
    s.core.platform.take_printed();
    s.core.log(format_args!("more"));
    assert_eq!(s.core.platform.take_printed(), "(core) more\n");
    s.print(&[b'x'; 300]).unwrap();
    s.core.platform.take_printed();
    s.core.log(format_args!("long"));
    assert_eq!(s.core.platform.take_printed().len(), "\r\x1b[K(core) long\n".len() + 200);
}

#[test]
fn others_write_whole_lines_of_printable_bytes_and_not_too_many() {
    let s = setup(Privilege::empty());
    let d = s.guest.domain.id.0;
    assert_eq!(s.print(b"one\x1b[2J\ttwo"), Ok(0));
    assert_eq!(s.core.platform.take_printed(), "", "not at its end yet");
    assert_eq!(s.print(b"\nthree\n"), Ok(0));
    assert_eq!(s.core.platform.take_printed(), std::format!("(d{d}) one[2J\ttwo\n(d{d}) three\n"));
    assert_eq!(s.call(Hypercall::CONSOLE_IO, &[1, 1, 0]), Err(Errno::EPERM));
    for _ in 0..super::console_io::LINES_PER_SECOND + 50 {
        s.print(b"x\n").unwrap();
    }
    let lines = s.core.platform.take_printed().lines().count() as u32;
    assert!(lines <= super::console_io::LINES_PER_SECOND, "{lines}");
    s.core.platform.clock.fetch_add(1_000_000_000, SeqCst);
    s.print(b"y\n").unwrap();
    let said = s.core.platform.take_printed();
    assert!(said.starts_with(&std::format!("(core) d{d}: 52 lines dropped\n(d{d}) y")), "{said}");
    // A line without end is cut into lines.
    s.print(&[b'z'; 1000]).unwrap();
    assert!(s.core.platform.take_printed().lines().all(|l| l.len() <= 200));
}

// ---- Interrupts ----------------------------------------------------------------------------------------------------------

impl Setup {
    fn physdev<T: IntoBytes + Immutable>(&self, op: PhysdevOp, argument: &T) -> Result<i64, Errno> {
        self.with(Hypercall::PHYSDEV_OP, op.0, argument)
    }

    fn map(&self, map: MapPirq) -> Result<i32, Errno> {
        self.physdev(PhysdevOp::MAP_PIRQ, &map)?;
        Ok(self.peek::<MapPirq>().pirq)
    }

    fn events(&self) -> Vec<(Line, LineEvent)> {
        core::mem::take(&mut *self.core.platform.lines.lock().unwrap())
    }
}

fn gsi(index: i32, pirq: i32) -> MapPirq {
    MapPirq { domid: DomId::SELF, kind: MapPirqType::GSI, index, pirq, ..Default::default() }
}

#[test]
fn a_gsi_is_mapped_bound_raised_and_acknowledged() {
    let s = setup(Privilege::all());
    assert_eq!(s.map(gsi(11, -1)), Ok(11));
    assert_eq!(s.map(gsi(11, 11)), Ok(11), "again");
    assert_eq!(s.map(gsi(10, 11)), Err(Errno::EEXIST));
    assert_eq!(s.map(gsi(64, -1)), Err(Errno::EINVAL));
    assert_eq!(s.map(gsi(-1, -1)), Err(Errno::EINVAL));
    assert_eq!(s.map(MapPirq { kind: MapPirqType::UNKNOWN, ..gsi(1, 1) }), Err(Errno::EINVAL));
    let eoi = |irq| s.physdev(PhysdevOp::EOI, &Eoi { irq });
    assert_eq!(eoi(12), Err(Errno::EINVAL));
    s.core.bind_pirq(&s.guest.domain, 11, false).unwrap();
    assert_eq!(s.events(), [(Line(11), LineEvent::Unmasked)]);
    assert_eq!(eoi(11), Ok(0));
    assert_eq!(s.events(), [], "nothing was raised");
    s.core.line_interrupt(Line(11));
    assert_eq!((eoi(11), eoi(11)), (Ok(0), Ok(0)));
    assert_eq!(s.events(), [(Line(11), LineEvent::Unmasked)]);
    s.physdev(PhysdevOp::IRQ_STATUS_QUERY, &IrqStatusQuery { irq: 11, flags: 0 }).unwrap();
    assert_eq!(s.peek::<IrqStatusQuery>().flags, IrqStatusQuery::NEEDS_EOI);
    s.physdev(PhysdevOp::UNMAP_PIRQ, &UnmapPirq { domid: DomId::SELF, pirq: 11, _pad: 0 }).unwrap();
    assert_eq!(s.events(), [(Line(11), LineEvent::Masked)]);
    assert_eq!(eoi(11), Err(Errno::EINVAL));
}

#[test]
fn a_shared_line_waits_for_all_who_have_it() {
    let s = setup(Privilege::all());
    let other = testing::guest(&s.core, Privilege::empty(), 4);
    other.domain.devices.lock().lines.set(9..10, true).unwrap();
    s.core.map_gsi(&s.guest.domain, 9, None).unwrap();
    s.core.map_gsi(&other.domain, 9, None).unwrap();
    s.core.bind_pirq(&s.guest.domain, 9, true).unwrap();
    assert_eq!(s.core.bind_pirq(&other.domain, 9, false), Err(Errno::EBUSY));
    s.core.bind_pirq(&other.domain, 9, true).unwrap();
    s.events();
    s.core.line_interrupt(Line(9));
    s.core.end_of_interrupt(&s.guest.domain, 9).unwrap();
    assert_eq!(s.events(), [], "the other has not served it");
    s.core.end_of_interrupt(&other.domain, 9).unwrap();
    assert_eq!(s.events(), [(Line(9), LineEvent::Unmasked)]);
    // One that dies owes nothing any more.
    s.core.line_interrupt(Line(9));
    s.core.end_of_interrupt(&s.guest.domain, 9).unwrap();
    s.core.unmap_pirq(&other.domain, 9).unwrap();
    assert_eq!(s.events(), [(Line(9), LineEvent::Unmasked)]);
    assert_eq!(s.core.is_shared(&s.guest.domain, 9), Ok(true));
}

#[test]
fn messages_are_mapped_by_the_hardware_domain_for_itself_and_others() {
    let s = setup(Privilege::all());
    let other = testing::guest(&s.core, Privilege::empty(), 4);
    let msi = |domid, entry_nr| MapPirq {
        domid,
        kind: MapPirqType::MSI_SEG,
        index: -1,
        pirq: -1,
        bus: 0,
        devfn: 16,
        entry_nr,
        table_base: 0xfeb0_0000,
        ..Default::default()
    };
    let first = s.map(msi(other.domain.id, 0)).unwrap();
    assert_eq!(s.map(msi(other.domain.id, 0)), Ok(first), "the same again");
    let second = s.map(msi(other.domain.id, 1)).unwrap();
    assert_ne!(first, second);
    assert_eq!(s.events(), [(Line(64), LineEvent::Enabled), (Line(65), LineEvent::Enabled)]);
    s.core.bind_pirq(&other.domain, first as u32, false).unwrap();
    s.core.line_interrupt(Line(64));
    let (frame, word) = other.vcpu.info.get();
    assert_eq!(guest::load(&s.core.platform, frame, word) & 1, 1);
    // The domain itself may not choose what is programmed.
    let o = Setup { core: s.core, guest: other };
    assert_eq!(o.map(msi(DomId::SELF, 2)), Err(Errno::EPERM));
    assert_eq!(o.map(gsi(3, -1)), Err(Errno::EPERM), "a line that was not given");
    let every = (2..200).map_while(|n| {
        o.core.map_message(&o.guest.domain, PciDevice { seg: 0, bus: 1, devfn: n as u8 }, Some(n), None).ok()
    });
    assert_eq!(every.count(), 125, "then the lines are used up, but for that of int 0x80");
    o.core.release_devices(&o.guest.domain);
    assert!(o.core.map_message(&o.guest.domain, PciDevice { seg: 0, bus: 1, devfn: 0 }, None, None).is_ok());
}

#[test]
fn small_operations_on_devices() {
    let s = setup(Privilege::all());
    for (iopl, result) in [(0, Ok(0)), (3, Ok(0)), (4, Err(Errno::EINVAL)), (256, Err(Errno::EINVAL))] {
        assert_eq!(s.physdev(PhysdevOp::SET_IOPL, &SetIopl { iopl }), result);
    }
    assert_eq!(s.guest.run(&s.core, |c| c.run.iopl), 3);
    for op in [PhysdevOp::SETUP_GSI, PhysdevOp::MANAGE_PCI_ADD_EXT, PhysdevOp::PCI_DEVICE_ADD, PhysdevOp::PREPARE_MSIX]
    {
        assert_eq!(s.physdev(op, &[0u64; 2]), Ok(0));
    }
    for op in [7, 8, 10, 17, 28, 29, 999].map(PhysdevOp) {
        assert_eq!(s.physdev(op, &[0u64; 2]), Err(Errno::ENOSYS));
    }
    s.physdev(PhysdevOp::GET_FREE_PIRQ, &GetFreePirq { kind: MapPirqType::MSI, pirq: 0 }).unwrap();
    assert_eq!(s.peek::<GetFreePirq>().pirq, 64);
}

#[test]
fn ranges_against_a_set_of_bits() {
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut ranges = Ranges::default();
    let mut bits = [false; 64];
    for _ in 0..5000 {
        let (a, b) = (random(64), random(64));
        let range = a.min(b)..a.max(b) + 1;
        let add = random(2) == 0;
        ranges.set(range.clone(), add).unwrap();
        range.for_each(|n| bits[n as usize] = add);
        for from in 0..64u64 {
            let to = (from + random(8)).min(63);
            let all = (from..=to).all(|n| bits[n as usize]);
            assert_eq!(ranges.has(&(from..to + 1)), all);
        }
    }
    ranges.set(0..u64::MAX, true).unwrap();
    ranges.set(u64::MAX - 1..u64::MAX, false).unwrap();
    assert!(ranges.has(&(0..u64::MAX - 1)) && !ranges.has(&(u64::MAX - 1..u64::MAX)));
    let mut many = Ranges::default();
    let added = (0..1000u64).take_while(|n| many.set(n * 2..n * 2 + 1, true).is_ok()).count();
    assert_eq!(added, 64, "bounded");
}

#[test]
fn a_tally_tells_operations_errors_statuses_and_continuations_apart() {
    let mut s = setup(Privilege::empty());
    s.core.tally = Some(Default::default());
    assert_eq!(s.with(Hypercall::SYSCTL, 0, &0u64), Err(Errno::EFAULT));
    assert_eq!(s.call(Hypercall::DOMCTL, &[s.guest.va(0).0]), Err(Errno::EACCES));
    assert_eq!(s.call(Hypercall::SCHED_OP, &[77, 0]), Err(Errno::ENOSYS));
    assert_eq!(s.call(Hypercall::XEN_VERSION, &[0]), Ok(0x4_0011));
    // query_size of nobody.
    s.guest.poke(&s.core, 0, 0, [77u32, 0, 0, 0].as_bytes());
    assert_eq!(s.call(Hypercall::GRANT_TABLE_OP, &[6, s.guest.va(0).0, 1]), Ok(0));
    // Two requests at once.
    assert_eq!(s.call(Hypercall::MMUEXT_OP, &[0x10, 2, 0, DomId::SELF.0.into()]), Err(Errno::EFAULT));
    // A batch of two, and something else to do after the first.
    s.guest.poke(&s.core, 0, 0, [[17u64, 0, 0, 0, 0, 0, 0, 0]; 2].as_bytes());
    s.core.platform.interrupt_every(1);
    assert_eq!(s.call(Hypercall::MULTICALL, &[s.guest.va(0).0, 2]), Ok(0));
    let tally: Vec<_> = s.core.tally.as_ref().unwrap().lock().clone().into_iter().collect();
    let error = |errno: Errno| errno.code();
    let wanted = [
        ((13, 0, 0), 1),
        ((13, 0, 1), 1),
        ((17, 0, 0), 3),
        ((20, 6, -1002), 1),
        ((26, 255, error(Errno::EFAULT)), 1),
        ((29, 77, error(Errno::ENOSYS)), 1),
        ((35, 255, error(Errno::EFAULT)), 1),
        ((36, 0, error(Errno::EACCES)), 1),
    ];
    assert_eq!(tally, wanted);
}
