//! For guests that test the hypervisor: raw hypercalls, instructions run under a net, page tables.
//!
//! A conformance guest *is* the experiment. It owns all memory of its domain, passes numbers no
//! honest program would, and wants to see what happens; so the functions here are safe to call
//! although they may do anything to the domain, and nothing but such guests enables the feature
//! `probe`. What they take care of is that the program goes on after a fault ([`exec`]).

mod bench;
mod exec;
mod memory;
mod rough;
mod vcpu;
mod vector;

pub use bench::{DONE, RETURN, mark, mark_at, return_at_once};
pub use exec::{
    Entry, Frame, Regs, code_page, exec, exec_resuming, exec_user, install, mask_events, upcall_frame, upcalls,
    user_stack_top,
};
pub use memory::{
    Page, mfn_of, modify, page, peek, poke, pte_slot, set_shared_info, set_vcpu_info, shared_info, spare_va,
    start_tables, vcpu_info,
};
pub use rough::{constants, rough_context, rough_store};
pub use vcpu::{ap_context, ap_progress, ap_runs, work};
pub use vector::{enable_xsave, fill_ymm, set_xcr0, watched, watcher_context, xcr0, ymm_holds};

use crate::arch;
use abi::hypercall::Hypercall;

/// Any hypercall with any arguments (up to five; the rest are 0). Returns `rax`.
pub fn call(number: Hypercall, args: &[u64]) -> i64 {
    let mut all = [0; 5];
    all.iter_mut().zip(args).for_each(|(to, from)| *to = *from);
    // SAFETY: as the module says: what the call does is the experiment.
    unsafe { arch::hypercall(number.0, all) }
}

/// As [`call`], with a pointer to `argument` after `words`.
pub fn call_with<T: ?Sized>(number: Hypercall, words: &[u64], argument: &mut T) -> i64 {
    let mut all = [0; 5];
    all.iter_mut().zip(words).for_each(|(to, from)| *to = *from);
    if let Some(slot) = all.get_mut(words.len()) {
        *slot = (&raw mut *argument).cast::<u8>() as u64;
    }
    // SAFETY: as the module says.
    unsafe { arch::hypercall(number.0, all) }
}
