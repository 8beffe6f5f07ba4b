//! From a register file to a hypercall and back.

use alloc::sync::Arc;

use core::sync::atomic::Ordering;

use abi::hypercall::Hypercall;
use abi::{Errno, Vaddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{AddressSpace, Core, Cpu, Domain, Fault, Platform, Privilege, Run, Vcpu, counters, guest};

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
pub type Args = [u64; 5];

/// How a hypercall ends other than by a value: by an error, as the caller sees it, or as below. One word, like a value,
/// so that a result is returned in two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop(pub(crate) i64);

impl Stop {
    /// Work is left: the call is to be made again with the arguments as they now stand.
    pub const PREEMPTED: Self = Self(i64::MIN);
    /// The registers were replaced as a whole (iret): rax is not a result.
    pub const REPLACED: Self = Self(i64::MAX);

    /// The error, if it is one.
    pub fn errno(self) -> Option<Errno> {
        Errno::check(self.0).err()
    }
}

/// What a hypercall handler returns: rax, or how it ended instead.
pub type HcResult = Result<i64, Stop>;

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self(errno.code())
    }
}

impl From<Fault> for Stop {
    fn from(_: Fault) -> Self {
        Errno::EFAULT.into()
    }
}

impl<P: Platform> Caller<'_, P> {
    /// The caller's address space.
    pub fn space(&self) -> Result<AddressSpace, Stop> {
        self.run.space().ok_or(Errno::EFAULT.into())
    }

    /// Copies an argument in. The copy is the only one: check it, not the original.
    pub fn get<T: FromBytes + IntoBytes>(&self, from: u64) -> Result<T, Stop> {
        let mut value = T::new_zeroed();
        self.get_to(from, &mut value)?;
        Ok(value)
    }

    /// The same, to where it is to lie.
    pub fn get_to<T: FromBytes + IntoBytes + ?Sized>(&self, from: u64, to: &mut T) -> Result<(), Stop> {
        Ok(self.core.platform.copy_from_guest(self.space()?, Vaddr(from), to.as_mut_bytes())?)
    }

    /// Copies a result out.
    pub fn put<T: IntoBytes + Immutable + ?Sized>(&self, to: u64, value: &T) -> Result<(), Stop> {
        Ok(guest::put(&self.core.platform, self.space()?, Vaddr(to), value)?)
    }

    /// Copies the result out, of a call that returns 0 then.
    pub fn answer<T: IntoBytes + Immutable>(&self, to: u64, value: &T) -> HcResult {
        self.put(to, value).map(|()| 0)
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
    /// takes the builder's privilege. ESRCH where there is none, to anyone, as in Xen; EPERM where the caller may not.
    pub fn target(&self, id: abi::DomId) -> Result<Arc<Domain<P>>, Stop> {
        if id == abi::DomId::SELF || id == self.domain.id {
            return Ok(self.domain.clone());
        }
        let domain = self.core.domains.get(id).ok_or(Errno::ESRCH)?;
        self.need(Privilege::BUILDER)?;
        Ok(domain)
    }
}

/// Makes the hypercall that the caller's registers ask for: number in rax (its low half, as Xen takes it), result back
/// in rax.
pub fn hypercall<P: Platform>(c: &mut Caller<'_, P>) {
    let regs = &c.run.regs;
    let mut args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8];
    match call(c, regs.rax as u32, &mut args) {
        Ok(value) => c.run.regs.rax = value as u64,
        Err(stop) => stopped(c, stop, &args),
    }
}

/// A hypercall that has no value to return.
#[cold]
fn stopped<P: Platform>(c: &mut Caller<'_, P>, stop: Stop, args: &Args) {
    match stop {
        Stop::REPLACED => {}
        Stop::PREEMPTED => {
            let regs = &mut c.run.regs;
            // SYSCALL is two bytes long: it is executed again, with what is left to do.
            regs.rip = regs.rip.wrapping_sub(SYSCALL_BYTES);
            [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8] = *args;
        }
        Stop(code) => {
            if c.core.log_refusals {
                let ([a, b, d, e, _], number) = (*args, c.run.regs.rax as u32);
                let call = format_args!("hypercall {number} ({a:#x}, {b:#x}, {d:#x}, {e:#x})");
                let (domain, vcpu, errno) = (c.domain.id.0, c.vcpu.id.0, Errno(-code as i32));
                c.core.log(format_args!("d{domain}v{vcpu}: {call} refused: {errno:?}"));
            }
            c.run.regs.rax = code as u64;
        }
    }
}

const SYSCALL_BYTES: u64 = 2;

/// Makes one hypercall, of its own or inside a multicall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, number: impl Into<u64>, a: &mut Args) -> HcResult {
    let number = number.into();
    let allowed = c.domain.hypercalls.load(Ordering::Relaxed);
    match Core::<P>::HANDLERS.get(number as usize) {
        Some(handler) if allowed >> number & 1 != 0 => {
            c.run.recent = c.run.recent << 8 | number;
            if c.core.tally.is_some() { counters::tallied(c, number as u32, a, *handler) } else { handler(c, a) }
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// What makes one hypercall.
pub type Handler<P> = fn(&mut Caller<'_, P>, &mut Args) -> HcResult;

impl<P: Platform> Core<P> {
    /// The hypercalls, by number.
    const HANDLERS: [Handler<P>; 64] = {
        use crate::hypercall as h;
        let mut table: [Handler<P>; 64] = [|_, _| Err(Stop(Errno::ENOSYS.code())); 64];
        let calls: [(Hypercall, Handler<P>); 29] = [
            (Hypercall::SET_TRAP_TABLE, h::set_trap_table::call),
            (Hypercall::MMU_UPDATE, h::mmu_update::call),
            (Hypercall::SET_GDT, h::set_gdt::call),
            (Hypercall::STACK_SWITCH, h::stack_switch::call),
            (Hypercall::SET_CALLBACKS, h::set_callbacks::call),
            (Hypercall::FPU_TASKSWITCH, h::fpu_taskswitch::call),
            (Hypercall::SET_DEBUGREG, h::debugreg::set),
            (Hypercall::GET_DEBUGREG, h::debugreg::get),
            (Hypercall::UPDATE_DESCRIPTOR, h::update_descriptor::call),
            (Hypercall::MEMORY_OP, h::memory_op::call),
            (Hypercall::MULTICALL, h::multicall::call),
            (Hypercall::UPDATE_VA_MAPPING, h::update_va_mapping::call),
            (Hypercall::SET_TIMER_OP, h::set_timer_op::call),
            (Hypercall::XEN_VERSION, h::xen_version::call),
            (Hypercall::CONSOLE_IO, h::console_io::call),
            (Hypercall::GRANT_TABLE_OP, h::grant_table_op::call),
            (Hypercall::VM_ASSIST, h::vm_assist::call),
            (Hypercall::UPDATE_VA_MAPPING_OTHERDOMAIN, h::update_va_mapping::other_domain),
            (Hypercall::IRET, h::iret::call),
            (Hypercall::VCPU_OP, h::vcpu_op::call),
            (Hypercall::SET_SEGMENT_BASE, h::set_segment_base::call),
            (Hypercall::MMUEXT_OP, h::mmuext_op::call),
            (Hypercall::NMI_OP, h::callback_op::nmi_op),
            (Hypercall::SCHED_OP, h::sched_op::call),
            (Hypercall::CALLBACK_OP, h::callback_op::call),
            (Hypercall::EVENT_CHANNEL_OP, h::event_channel_op::call),
            (Hypercall::PHYSDEV_OP, h::physdev_op::call),
            (Hypercall::SYSCTL, h::sysctl::call),
            (Hypercall::DOMCTL, h::domctl::call),
        ];
        let mut n = 0;
        while n < calls.len() {
            table[calls[n].0.0 as usize] = calls[n].1;
            n += 1;
        }
        table
    };
}
