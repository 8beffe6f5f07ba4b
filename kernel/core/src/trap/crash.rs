//! The story of a domain's death: reason, registers, the page walk of the faulting address, the last hypercalls.

use core::fmt;

use super::Exception;
use crate::{Caller, Core, Platform, Stage};
use abi::sched::ShutdownReason;
use abi::trap::vector;

/// Why the core crashes a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// An exception for which it registered no handler.
    Unhandled(Exception),
    /// The bounce frame did not fit on its kernel stack, whose pointer this is.
    Stack(u64),
    /// A callback that is needed is not registered.
    NoCallback,
    /// `iret` found no frame at this stack pointer.
    IretFrame(u64),
    /// `iret` to user mode, but no user page table is set.
    NoUserRoot,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unhandled(e) => {
                write!(f, "no handler for vector {}", e.vector)?;
                if let Some(error) = e.error {
                    write!(f, ", error code {error:#x}")?;
                }
                if e.vector == vector::PF {
                    write!(f, ", address {:#x}", e.address)?;
                }
                Ok(())
            }
            Self::Stack(sp) => write!(f, "the kernel stack at {sp:#x} takes no bounce frame"),
            Self::NoCallback => f.write_str("the callback that is needed is not registered"),
            Self::IretFrame(sp) => write!(f, "iret finds no frame at {sp:#x}"),
            Self::NoUserRoot => f.write_str("iret to user mode without a user page table"),
        }
    }
}

impl Crash {
    /// The address that the story walks.
    fn address(&self) -> Option<u64> {
        match self {
            Self::Unhandled(e) if e.vector == vector::PF => Some(e.address),
            Self::Stack(sp) | Self::IretFrame(sp) => Some(*sp),
            _ => None,
        }
    }
}

impl<P: Platform> Core<P> {
    /// Ends the calling domain, and tells its story on the console.
    pub fn crash(&self, c: &mut Caller<'_, P>, why: Crash) {
        c.cpu.post(crate::cpu::pending::RESCHEDULE);
        if c.domain.stage() != Stage::Alive {
            // One story a domain: what follows its end on the way out is no news.
            return;
        }
        self.log(format_args!("d{}v{} crashed: {why}", c.domain.id.0, c.vcpu.id.0));
        self.log_state(c);
        if let (Some(address), Some(space)) = (why.address(), c.run.space()) {
            let [l4, l3, l2, l1] = self.walk(space, abi::Vaddr(address)).map(|entry| entry.0);
            self.log(format_args!("  walk of {address:#018x}: L4 {l4:x} L3 {l3:x} L2 {l2:x} L1 {l1:x}"));
        }
        self.shutdown(c.domain, ShutdownReason::CRASH);
    }

    /// Registers and last hypercalls of the caller.
    pub fn log_state(&self, c: &Caller<'_, P>) {
        let r = &c.run.regs;
        let mode = if c.run.kernel_mode { "kernel" } else { "user" };
        self.log(format_args!("  rip {:04x}:{:016x} rflags {:08x} {mode} mode", r.cs, r.rip, r.rflags));
        self.log(format_args!("  rsp {:04x}:{:016x} rbp {:016x}", r.ss, r.rsp, r.rbp));
        self.log(format_args!("  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx));
        self.log(format_args!("  rsi {:016x} rdi {:016x} r8  {:016x} r9  {:016x}", r.rsi, r.rdi, r.r8, r.r9));
        self.log(format_args!("  r10 {:016x} r11 {:016x} r12 {:016x} r13 {:016x}", r.r10, r.r11, r.r12, r.r13));
        self.log(format_args!("  r14 {:016x} r15 {:016x} cr2 {:016x}", r.r14, r.r15, self.cr2(c)));
        let root = |f: Option<crate::frame::Frame>| f.map_or(0, |f| f.mfn().0);
        let (kernel, user) = (root(c.run.kernel_root), root(c.run.user_root));
        self.log(format_args!(
            "  roots: kernel mfn {kernel:x}, user mfn {user:x}; fs {:x} gs {:x}",
            c.run.fs_base,
            c.run.gs_base()
        ));
        self.log(format_args!("  last hypercalls, newest last: {:?}", c.run.recent.to_be_bytes()));
    }
}
