//! The hypervisor-domain contract: Xen's public interface of 4.17 for x86-64 PV.
//!
//! Numbers, structures and newtypes, one module per public header or topic; no logic. Each
//! structure is exactly its C counterpart (`layout!` asserts sizes and offsets beside it) and
//! derives `zerocopy`'s traits, so that it crosses the boundary as bytes and never as a
//! reference. Numbers a guest may choose are *open enums*: transparent newtypes with constants,
//! because anything may arrive. Padding is an explicit, public `_pad` field.
//!
//! Facts come from the public headers (`/usr/include/xen`, Debian's libxen-dev 4.17).
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

pub mod callback;
pub mod console;
pub mod cpuid;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod event;
pub mod features;
pub mod frame;
pub mod grant;
pub mod hypercall;
pub mod ids;
pub mod layout;
pub mod memory;
pub mod mmu;
pub mod multicall;
pub mod nmi;
pub mod physdev;
pub mod pte;
pub mod regs;
pub mod sched;
pub mod shared_info;
pub mod start_info;
pub mod sysctl;
pub mod trap;
pub mod vcpu;
pub mod version;

pub use errno::*;
pub use frame::*;
pub use ids::*;
pub use pte::*;
