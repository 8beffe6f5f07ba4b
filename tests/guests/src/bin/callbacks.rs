//! callback_op, set_callbacks, vm_assist, nmi_op.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::callback::{CallbackRegister, CallbackType, CallbackUnregister};
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::nmi::NmiCallback;
use conformance_guests::abi::{Errno, Vaddr};
use conformance_guests::domain_rt::probe::{self, Entry, Regs, call, call_with, exec};
use conformance_guests::{Test, code, guest};

guest!(run);

const HOLE: u64 = 0x8000_0000_0000;

fn run(t: &mut Test) {
    callbacks(t);
    at_once(t);
    assists(t);
    nmi(t);
}

fn callbacks(t: &mut Test) {
    let register = |kind, address, flags| {
        let mut arg = CallbackRegister {
            kind: CallbackType(kind),
            flags,
            address: Vaddr(address),
            ..CallbackRegister::default()
        };
        call_with(Hypercall::CALLBACK_OP, &[0], &mut arg)
    };
    let unregister = |kind| {
        let mut arg = CallbackUnregister { kind: CallbackType(kind), _unused: 0 };
        call_with(Hypercall::CALLBACK_OP, &[1], &mut arg)
    };
    let here = probe::code_page();
    for kind in [0, 1, 2, 5, 7] {
        t.ok("register", register(kind, here, 0));
        t.ok("masking events", register(kind, here, 1));
        t.err("not canonical", register(kind, HOLE, 0), Errno::EINVAL);
        t.err("unregister", unregister(kind), Errno::EINVAL);
    }
    t.ok("register nmi", register(4, here, 0));
    t.ok("unregister nmi", unregister(4));
    t.ok("twice", unregister(4));
    for kind in [3, 6, 8, 0xffff] {
        t.err("unknown type", register(kind, here, 0), Errno::ENOSYS);
        t.err("unknown type", unregister(kind), Errno::ENOSYS);
    }
    t.err("argument nowhere", call(Hypercall::CALLBACK_OP, &[0, 0x1000]), Errno::EFAULT);
    t.err("argument nowhere", call(Hypercall::CALLBACK_OP, &[1, 0x1000]), Errno::EFAULT);
    t.err("unknown op", call(Hypercall::CALLBACK_OP, &[2, 0x1000]), Errno::ENOSYS);
    t.ok("as before", probe::install(probe::vcpu_info(), 0, 0));
}

fn at_once(t: &mut Test) {
    let set = |a: u64, b: u64, c: u64| call(Hypercall::SET_CALLBACKS, &[a, b, c]);
    let here = probe::code_page();
    t.ok("set_callbacks", set(here, here, here));
    // What cannot be registered is passed over.
    t.ok("event not canonical", set(HOLE, here, here));
    t.ok("failsafe not canonical", set(here, HOLE, here));
    t.ok("syscall not canonical", set(here, here, HOLE));
    t.ok("as before", probe::install(probe::vcpu_info(), 0, 0));
    t.traps("traps work", exec(code::UD2, &mut Regs::default()), Entry::Exception(6), 0);
}

fn assists(t: &mut Test) {
    let assist = |cmd: u64, kind: u64| call(Hypercall::VM_ASSIST, &[cmd, kind]);
    for kind in [2, 4, 5, 32] {
        t.ok("enable", assist(0, kind));
        t.ok("enable again", assist(0, kind));
        t.ok("disable", assist(1, kind));
        t.ok("disable again", assist(1, kind));
    }
    // The others are for 32-bit guests.
    for kind in [0, 1, 3] {
        t.ok("enable", assist(0, kind));
        t.ok("disable", assist(1, kind));
    }
    for kind in [6, 31, 33, 63, 64, u32::MAX.into()] {
        t.err("unknown kind", assist(0, kind), Errno::EINVAL);
        t.err("unknown kind", assist(1, kind), Errno::EINVAL);
    }
    t.err("unknown command", assist(2, 5), Errno::ENOSYS);
}

fn nmi(t: &mut Test) {
    let mut arg = NmiCallback { handler_address: Vaddr(probe::code_page()), _pad: 0 };
    t.ok("nmi_op register", call_with(Hypercall::NMI_OP, &[0], &mut arg));
    arg.handler_address = Vaddr(1 << 63);
    t.err("nmi_op of no address", call_with(Hypercall::NMI_OP, &[0], &mut arg), Errno::EINVAL);
    t.ok("nmi_op unregister", call(Hypercall::NMI_OP, &[1, 0]));
    t.err("nmi_op unknown", call(Hypercall::NMI_OP, &[2, 0]), Errno::ENOSYS);
    t.err("nmi_op nowhere", call(Hypercall::NMI_OP, &[0, 0x1000]), Errno::EFAULT);
    let handler = probe::install(probe::vcpu_info(), 0, 0);
    t.ok("handlers", handler);
    // send_nmi to oneself: delivered on the way out of the call.
    // mov eax, 24; mov edi, 11; xor esi, esi; xor edx, edx; syscall; nop
    let send = [0xb8, 24, 0, 0, 0, 0xbf, 11, 0, 0, 0, 0x31, 0xf6, 0x31, 0xd2, 0x0f, 0x05, 0x90];
    let got = exec(&send, &mut Regs::default());
    t.traps("send_nmi", got, Entry::Nmi, 0);
}
