//! From the entry code into the core's logic and back to a guest.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use abi::Vaddr;
use abi::regs::CpuUserRegs;
use abi::trap::vector;
use ferrule_core::cpu::pending;
use ferrule_core::trap::DR6_DEFAULT;
use ferrule_core::{Caller, Cpu};
use x86_64::registers::control::Cr2;

use crate::machine::{self, Machine, core};
use crate::percpu::{self, Running};
use crate::{apic, apic::FIRST_LINE_VECTOR, flush, keys, layout, switch, world};

/// `int 0x80`: a gate of its own that ring 3 may use, since some CPUs report the wrong vector for one that it may not.
const SYSTEM_CALL: u8 = 0x80;

/// Who runs here.
pub fn caller(mut running: Running) -> &'static mut Caller<'static, Machine> {
    // SAFETY: this CPU's alone, and code that holds a reference to it is not entered again: interrupts are off in ring 0
    // but in the idle loop, where nobody runs. Nobody keeps it beyond the next switch, which only `leave` makes.
    unsafe { running.as_mut() }
}

/// Calls `f` for the vCPU that runs here, and leaves to the guest. Where nothing but events wait, that is at once.
fn serve(running: Running, f: impl FnOnce(&mut Caller<'_, Machine>)) -> *const CpuUserRegs {
    let c = caller(running);
    f(c);
    // Whoever posts something from another CPU interrupts this one; so a plain look is enough.
    let quiet = c.cpu.pending.load(Relaxed) == 0 && (!c.core.has_news(c.vcpu) || tell(c));
    if quiet { &raw const c.run.regs } else { leave() }
}

/// Tells the guest of its events. True if nothing else came up by that.
#[inline(never)]
fn tell(c: &mut Caller<'_, Machine>) -> bool {
    c.core.deliver_news(c);
    c.cpu.pending.load(Relaxed) == 0
}

/// An exception or interrupt while a guest ran. Its registers are in its [`Run`](ferrule_core::Run) already.
#[unsafe(no_mangle)]
extern "C" fn guest_trap(running: Running) -> *const CpuUserRegs {
    let regs = &caller(running).run.regs;
    let (vector, error) = (regs.entry_vector as u8, regs.error_code);
    match vector {
        vector::NMI => machine_nmi(),
        vector::MC | vector::DF => panic!("exception {vector} in a guest, error {error:#x}"),
        0..32 => {
            let extra = match vector {
                vector::PF => Cr2::read_raw(),
                vector::DB => take_dr6(),
                _ => 0,
            };
            return serve(running, |c| c.core.exception(c, vector, error, extra));
        }
        SYSTEM_CALL => return serve(running, |c| c.core.software_interrupt(c, SYSTEM_CALL)),
        _ => interrupt(vector),
    }
    leave()
}

/// A hypercall, or a system call of a guest's user mode.
#[unsafe(no_mangle)]
extern "C" fn guest_syscall(running: Running) -> *const CpuUserRegs {
    serve(running, |c| match c.run.kernel_mode {
        true => ferrule_core::dispatch::hypercall(c),
        false => c.core.syscall_from_user(c),
    })
}

/// SYSCALL in 32-bit code, which makes no hypercalls.
#[unsafe(no_mangle)]
extern "C" fn guest_syscall32(running: Running) -> *const CpuUserRegs {
    serve(running, |c| c.core.syscall_from_user(c))
}

/// The way back to a guest faulted: what it asked for cannot be loaded. `fault` is the fault's own frame, whose general
/// registers are the guest's; the rest of its registers is intact in its register file.
#[unsafe(no_mangle)]
extern "C" fn guest_failed_return(running: Running, fault: *const CpuUserRegs) -> *const CpuUserRegs {
    // SAFETY: entry.s passes the frame that it has just stored. It lies over the lower half of the register file that it goes
    // to, so it is no reference, and is read whole, here: a copy from the one to the other would meet itself.
    let fault = unsafe { fault.read_volatile() };
    let address = Cr2::read_raw();
    serve(running, |c| {
        let regs = &mut c.run.regs;
        let CpuUserRegs { rip, cs, saved_upcall_mask, rflags, rsp, ss, es, ds, fs, gs, .. } = *regs;
        *regs = CpuUserRegs { rip, cs, saved_upcall_mask, rflags, rsp, ss, es, ds, fs, gs, ..fault };
        c.core.failed_return(c, fault.entry_vector as u8, fault.error_code, address);
    })
}

/// Looks after all that waits, until the vCPU that is to run may go on; returns its register file.
#[inline(never)]
pub fn leave() -> *const CpuUserRegs {
    let cpu = machine::cpu();
    loop {
        if cpu.pending.load(Relaxed) != 0 {
            look_after(cpu, cpu.pending.swap(0, SeqCst));
            continue;
        }
        let Some(c) = percpu::get().caller.get().map(caller) else {
            switch::idle(cpu);
            continue;
        };
        if !c.core.has_news(c.vcpu) || tell(c) {
            return &raw const c.run.regs;
        }
    }
}

/// Looks after what waits for this CPU.
fn look_after(cpu: &'static Cpu<Machine>, bits: u32) {
    if bits & world::REST_PENDING != 0 {
        world::rest();
    }
    if bits & pending::TIMER != 0 {
        core().run_timers(cpu, percpu::get().caller.get().map(|c| caller(c).vcpu));
    }
    if bits & machine::LINES_PENDING != 0 {
        machine::serve_lines();
    }
    if bits & keys::AUDIT_PENDING != 0 {
        keys::audit();
    }
    if bits & pending::RESCHEDULE != 0 {
        switch::reschedule(cpu);
    }
}

/// An interrupt, in a guest or in the idle loop.
fn interrupt(vector: u8) {
    match vector {
        apic::FLUSH_VECTOR => flush::serve(),
        // Whoever sent it has left word before; coming here is all that was wanted.
        apic::KICK_VECTOR => {}
        apic::TIMER_VECTOR => machine::cpu().post(pending::TIMER),
        FIRST_LINE_VECTOR..apic::FLUSH_VECTOR => machine::line_interrupt((vector - FIRST_LINE_VECTOR).into()),
        // The spurious one, which is not to be ended.
        _ => return,
    }
    apic::end_of_interrupt();
}

/// An exception or interrupt in ring 0: what may fault there (a copy to or from a guest is one), an NMI, the idle loop's
/// interrupt, or the end.
#[unsafe(no_mangle)]
extern "C" fn core_trap(regs: &mut CpuUserRegs) {
    match regs.entry_vector as u8 {
        // A breakpoint of the guest's on memory that the core copies, or one that the first instruction in ring 0 met: not
        // to be seen by the next debug trap.
        vector::DB => drop(take_dr6()),
        vector::NMI => machine_nmi(),
        vector @ 32.. => interrupt(vector),
        11..=14 if let Some([_, landing]) = fixups().iter().find(|[at, _]| *at == regs.rip) => regs.rip = *landing,
        vector => panic!("exception {vector} in ring 0, address {:#x}: {regs:x?}", Cr2::read_raw()),
    }
}

/// Where ring 0 may fault, and where it goes on then.
fn fixups() -> &'static [[u64; 2]] {
    unsafe extern "C" {
        static fixups: [u64; 2];
        static fixups_end: [u64; 2];
    }
    // SAFETY: image.ld puts the table between the two symbols, in read-only data.
    unsafe {
        let start = &raw const fixups;
        ::core::slice::from_raw_parts(start, (&raw const fixups_end).offset_from_unsigned(start))
    }
}

/// DR6, and makes it say again that nothing happened.
fn take_dr6() -> u64 {
    let seen: u64;
    // SAFETY: DR6 only reports.
    unsafe {
        ::core::arch::asm!("mov {}, dr6", "mov dr6, {}", out(reg) seen, in(reg) DR6_DEFAULT, options(nomem, nostack));
    }
    seen
}

fn machine_nmi() {
    // An NMI may come while this CPU holds any lock.
    crate::console::write_anyway(format_args!("(core) NMI on CPU {}\n", percpu::id()));
}

/// A string instruction that touches a guest's memory, as often as is said. True if a fault was not the end of it.
macro_rules! repeat {
    ($instruction:literal, $to:expr, $from:expr, $times:expr) => {{
        let left: usize;
        ::core::arch::asm!(
            // Room for stac and clac, see `cpu::patch`.
            "771: .byte 0x0f, 0x1f, 0x00",
            concat!("772: rep ", $instruction),
            "773: .byte 0x0f, 0x1f, 0x00",
            ".pushsection .smap, \"a\"; .quad 771b, 0xcb010f, 773b, 0xca010f; .popsection",
            ".pushsection .fixups, \"a\"; .quad 772b, 773b; .popsection",
            inout("rdi") $to => _, inout("rsi") $from => _, inout("rcx") $times => left, options(nostack)
        );
        left == 0
    }};
}

/// Copies between the core and a guest's addresses that are translated by the loaded tables. False if part of it cannot
/// be reached.
///
/// # Safety
/// The side in the core is valid for `bytes`; the guest's side lies outside the core's range.
pub unsafe fn user_copy(to: *mut u8, from: *const u8, bytes: usize) -> bool {
    // SAFETY: the core's side is valid by the caller's word; a fault on the guest's side lands behind the instruction
    // (`core_trap`).
    unsafe {
        match bytes % 8 {
            0 => repeat!("movsq", to, from, bytes / 8),
            4 => repeat!("movsd", to, from, bytes / 4),
            _ => repeat!("movsb", to, from, bytes),
        }
    }
}

/// May `bytes` at a guest's address be touched at all? Everything but the core's range, whose beginning, the M2P, guests
/// read by themselves alone, as under Xen. What is no address, between the halves, faults.
pub fn guest_range(at: Vaddr, bytes: usize) -> bool {
    let before = (bytes as u64).saturating_sub(1);
    at.0.wrapping_sub(layout::M2P - before) >= layout::END - layout::M2P + before
}

/// Goes to whatever there is to do on this CPU, and never comes back: from now on it is entered through traps.
pub fn run() -> ! {
    world::begin();
    machine::cpu().post(pending::RESCHEDULE);
    let regs = leave();
    // SAFETY: `regs` is the register file of the vCPU that runs here, which `resume_guest` loads.
    unsafe { ::core::arch::asm!("jmp resume_guest", in("rax") regs, options(noreturn)) }
}
