//! What CPUID and the model-specific registers say to a domain's kernel: the initial domain's, which a guest asks itself, and
//! that of a [`Remote`](crate::remote::Remote) domain without privileges.

pub mod cpuid;
pub mod msrs;

use domain_rt::abi::trap::vector;
use domain_rt::probe::{self, Entry, Regs, exec};

/// A domain's kernel mode, in which code is executed under a net.
pub trait Kernel {
    /// Executes code with these registers (rax, rbx, rcx, rdx), and stores them as they are then; the fault that ended it, if
    /// one did.
    fn execute(&self, code: &[u8], regs: &mut Regs) -> Option<Fault>;

    /// Where the code lies.
    fn code_at(&self) -> u64;

    /// Is it the initial domain, which drives the machine?
    fn is_initial(&self) -> bool;
}

/// The protection fault that ended a piece of code. Any other end has an error code that there is none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its error code.
    pub error_code: u64,
    /// The address of the instruction.
    pub rip: u64,
}

/// The guest's own kernel mode: the initial domain.
pub struct Own;

impl Kernel for Own {
    fn execute(&self, code: &[u8], regs: &mut Regs) -> Option<Fault> {
        let frame = exec(code, regs)?;
        let error_code = if frame.entry == Entry::Exception(vector::GP) { frame.error_code } else { u64::MAX };
        Some(Fault { error_code, rip: frame.rip })
    }

    fn code_at(&self) -> u64 {
        probe::code_page()
    }

    fn is_initial(&self) -> bool {
        true
    }
}
