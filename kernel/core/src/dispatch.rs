//! From a register file to a hypercall and back.

use alloc::sync::Arc;

use abi::{Errno, Vaddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::cpu::Cpu;
use crate::domain::{Domain, Privilege};
use crate::platform::{AddressSpace, Fault, Platform};
use crate::vcpu::{Run, Vcpu};
use crate::{Core, guest};

/// Who calls, and on what: the vCPU that runs on this CPU.
pub struct Caller<'a, P: Platform> {
    /// The core.
    pub core: &'a Core<P>,
    /// The CPU this happens on.
    pub cpu: &'a Cpu<P>,
    /// The calling domain.
    pub domain: &'a Arc<Domain<P>>,
    /// The calling vCPU.
    pub vcpu: &'a Arc<Vcpu<P>>,
    /// Its machine state, ours for as long as it runs here.
    pub run: &'a mut Run,
}

/// A hypercall's arguments: rdi, rsi, rdx, r10, r8. A handler that is preempted leaves here what is left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Args(pub [u64; 5]);

/// How a hypercall ends other than by a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An error for the caller.
    Error(Errno),
    /// Work is left: the call is to be made again with the arguments as they now stand.
    Preempted,
    /// The registers were replaced as a whole (iret): rax is not a result.
    Replaced,
}

/// What a hypercall handler returns: rax, or how it ended instead.
pub type HcResult = Result<i64, Stop>;

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Error(errno)
    }
}

impl From<Fault> for Stop {
    fn from(_: Fault) -> Self {
        Self::Error(Errno::EFAULT)
    }
}

impl<P: Platform> Caller<'_, P> {
    /// The caller's address space.
    pub fn space(&self) -> Result<AddressSpace, Stop> {
        self.run.space().ok_or(Stop::Error(Errno::EFAULT))
    }

    /// Copies an argument in.
    pub fn get<T: FromBytes + IntoBytes>(&self, from: u64) -> Result<T, Stop> {
        Ok(guest::get(&self.core.platform, self.space()?, Vaddr(from))?)
    }

    /// Copies a result out.
    pub fn put<T: IntoBytes + Immutable>(&self, to: u64, value: &T) -> Result<(), Stop> {
        Ok(guest::put(&self.core.platform, self.space()?, Vaddr(to), value)?)
    }

    /// Copies in the `index`th of an array of arguments.
    pub fn get_at<T: FromBytes + IntoBytes>(&self, array: u64, index: u64) -> Result<T, Stop> {
        let offset = index.checked_mul(size_of::<T>() as u64).ok_or(Errno::EFAULT)?;
        self.get(array.checked_add(offset).ok_or(Errno::EFAULT)?)
    }

    /// Copies out the `index`th of an array of arguments.
    pub fn put_at<T: IntoBytes + Immutable>(&self, array: u64, index: u64, value: &T) -> Result<(), Stop> {
        let offset = index.checked_mul(size_of::<T>() as u64).ok_or(Errno::EFAULT)?;
        self.put(array.checked_add(offset).ok_or(Errno::EFAULT)?, value)
    }

    /// EPERM unless the caller has all of these privileges.
    pub fn need(&self, privilege: Privilege) -> Result<(), Stop> {
        if self.domain.privilege.contains(privilege) { Ok(()) } else { Err(Errno::EPERM.into()) }
    }

    /// The domain that an argument names: the caller itself (by DOMID_SELF or its own number), or another, which
    /// takes the builder's privilege. ESRCH where there is none, EPERM where the caller may not.
    pub fn target(&self, id: abi::DomId) -> Result<Arc<Domain<P>>, Stop> {
        if id == abi::DomId::SELF || id == self.domain.id {
            return Ok(self.domain.clone());
        }
        self.need(Privilege::BUILDER)?;
        self.core.domains.get(id).ok_or(Errno::ESRCH.into())
    }
}
