//! Hypercalls in the shape guests use them: arguments as they are, the return value as it came.

use domain_rt::abi::event::EvtchnOp;
use domain_rt::abi::grant::GrantOp;
use domain_rt::abi::hypercall::Hypercall;
use domain_rt::abi::memory::MemoryOp;
use domain_rt::abi::mmu::{MmuUpdate, MmuextCmd, MmuextOp};
use domain_rt::abi::physdev::PhysdevOp;
use domain_rt::abi::sched::SchedOp;
use domain_rt::abi::vcpu::VcpuOp;
use domain_rt::abi::{DomId, Pte, PteFlags};
use domain_rt::probe::{call, call_with};

/// Flags of an ordinary mapping.
pub const MAP: PteFlags =
    PteFlags::PRESENT.union(PteFlags::RW).union(PteFlags::USER).union(PteFlags::ACCESSED).union(PteFlags::DIRTY);
/// Flags of a read-only mapping.
pub const READ: PteFlags = MAP.without(PteFlags::RW);
/// Flags of an entry that names a table.
pub const TABLE: PteFlags = PteFlags::PRESENT.union(PteFlags::RW).union(PteFlags::USER).union(PteFlags::ACCESSED);

/// `event_channel_op`
pub fn evtchn<T>(op: EvtchnOp, argument: &mut T) -> i64 {
    call_with(Hypercall::EVENT_CHANNEL_OP, &[op.0.into()], argument)
}

/// `sched_op`
pub fn sched<T>(op: SchedOp, argument: &mut T) -> i64 {
    call_with(Hypercall::SCHED_OP, &[op.0.into()], argument)
}

/// `vcpu_op`
pub fn vcpu<T>(op: VcpuOp, vcpu: u32, argument: &mut T) -> i64 {
    call_with(Hypercall::VCPU_OP, &[op.0.into(), vcpu.into()], argument)
}

/// `memory_op`
pub fn memory<T>(op: MemoryOp, argument: &mut T) -> i64 {
    call_with(Hypercall::MEMORY_OP, &[op.0.into()], argument)
}

/// `physdev_op`
pub fn physdev<T>(op: PhysdevOp, argument: &mut T) -> i64 {
    call_with(Hypercall::PHYSDEV_OP, &[op.0.into()], argument)
}

/// `grant_table_op` with one argument
pub fn grant<T>(op: GrantOp, argument: &mut T) -> i64 {
    let at = core::ptr::from_mut(argument) as u64;
    call(Hypercall::GRANT_TABLE_OP, &[op.0.into(), at, 1])
}

/// `mmu_update` of one entry, of the caller's own domain
pub fn mmu_update(ptr: u64, val: u64) -> i64 {
    mmu_update_for(&mut [MmuUpdate { ptr, val }], DomId::SELF).0
}

/// `mmu_update` of several entries for a domain; and how many were done
pub fn mmu_update_for(updates: &mut [MmuUpdate], domain: DomId) -> (i64, u32) {
    let mut done = u32::MAX;
    let (at, count) = (updates.as_mut_ptr() as u64, updates.len() as u64);
    let done_at = &raw mut done as u64;
    let ret = call(Hypercall::MMU_UPDATE, &[at, count, done_at, domain.0.into()]);
    (ret, core::hint::black_box(done))
}

/// `mmuext_op` of one request
pub fn mmuext(cmd: MmuextCmd, arg1: u64, arg2: u64) -> i64 {
    let mut op = MmuextOp::new(cmd, arg1, arg2);
    let at = &raw mut op as u64;
    call(Hypercall::MMUEXT_OP, &[at, 1, 0, DomId::SELF.0.into()])
}

/// `update_va_mapping`
pub fn update_va(va: u64, entry: Pte, flags: u64) -> i64 {
    call(Hypercall::UPDATE_VA_MAPPING, &[va, entry.0, flags])
}

/// System time in ns, from vCPU 0's clock in `vcpu_info` at this address.
pub fn system_time(info: u64) -> u64 {
    use domain_rt::probe::peek;
    loop {
        let version = peek(info + 32) as u32;
        let (stamp, base) = (peek(info + 40), peek(info + 48));
        let scale = peek(info + 56);
        let (mul, shift) = (scale as u32, (scale >> 32) as i8);
        let delta = domain_rt::arch::rdtsc().wrapping_sub(stamp);
        let delta = if shift < 0 { delta >> -shift } else { delta << shift };
        let now = base + ((u128::from(delta) * u128::from(mul)) >> 32) as u64;
        if version & 1 == 0 && peek(info + 32) as u32 == version {
            return now;
        }
    }
}

/// Ticks of the TSC in a millisecond, from the scale in vCPU 0's clock.
pub fn tsc_khz(info: u64) -> u32 {
    let scale = domain_rt::probe::peek(info + 56);
    let (mul, shift) = (scale as u32, (scale >> 32) as i8);
    // ns = (ticks << shift) * mul >> 32
    let per_ms = (1_000_000u128 << 32 << 32).checked_div(mul.into()).unwrap_or(0);
    (per_ms >> (32 + i32::from(shift))) as u32
}
