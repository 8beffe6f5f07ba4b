//! What happened, counted: by CPU, for a debug key; and by hypercall, for those who ask which ways a run took.

use alloc::collections::BTreeMap;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::hypercall::Hypercall;

use crate::dispatch::Handler;
use crate::{Args, Caller, Core, HcResult, Lock, Platform, Stop};

/// Adds to what a CPU counts. Only that CPU does, so no locked instruction is needed; anybody reads.
pub fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// Hypercalls by number, operation and outcome: counted where the core's option `tally` asks for it.
pub type Tally<P> = Option<Lock<P, BTreeMap<(u32, u32, i64), u64>>>;

/// Outcome, other than 0 for success and an error's code: to be made again.
const CONTINUED: i64 = 1;
/// Outcome of a grant operation that failed: this, and its status, which is negative.
const STATUS: i64 = -1000;
/// Operations that are not told apart: above all numbers, and arrays of another length than 1.
const OTHER: u32 = 255;
/// Calls whose first argument is the operation, but for those that the code below names.
const WITH_OPERATION: [u32; 9] = [17, 18, 24, 25, 28, 29, 30, 32, 33];

/// The operation that a call asks for, 0 where it has none; and where the status will be of a grant operation.
fn operation<P: Platform>(c: &Caller<'_, P>, number: u32, a: &Args) -> (u32, Option<u64>) {
    let [first, second, third, ..] = *a;
    let read = || c.get(first).unwrap_or(OTHER);
    let op = match Hypercall(number) {
        Hypercall::MMU_UPDATE | Hypercall::MMUEXT_OP if second as u32 != 1 => OTHER,
        Hypercall::MMU_UPDATE => read() & 3,
        Hypercall::MMUEXT_OP | Hypercall::SYSCTL | Hypercall::DOMCTL => read(),
        Hypercall::MEMORY_OP => first as u32 & 0x3f,
        Hypercall::VM_ASSIST => second as u32,
        Hypercall::GRANT_TABLE_OP => {
            let at = [18, 20, 8, 2, 16, 36, 12, 20].get(first as u32 as usize).filter(|_| third as u32 == 1);
            return ((first as u32).min(OTHER), at.map(|at| second.wrapping_add(*at)));
        }
        _ if WITH_OPERATION.contains(&number) => first as u32,
        _ => 0,
    };
    (op.min(OTHER), None)
}

/// Makes a hypercall, and counts how it went.
#[cold]
pub fn tallied<P: Platform>(c: &mut Caller<'_, P>, number: u32, a: &mut Args, handler: Handler<P>) -> HcResult {
    let (op, status) = operation(c, number, a);
    let result = handler(c, a);
    let status = status.map_or(0, |at| c.get::<i16>(at).unwrap_or(0)).min(0);
    let outcome = match result {
        Ok(_) if status != 0 => STATUS + i64::from(status),
        Err(Stop::PREEMPTED) => CONTINUED,
        Err(Stop::REPLACED) => 0,
        Ok(value) | Err(Stop(value)) => value.clamp(-999, 0),
    };
    c.core.tally.iter().for_each(|tally| *tally.lock().entry((number, op, outcome)).or_default() += 1);
    result
}

impl<P: Platform> Core<P> {
    /// One line for each hypercall, operation and outcome, and how often.
    pub fn dump_tally(&self) {
        for ((number, op, outcome), count) in self.tally.iter().flat_map(|tally| tally.lock().clone()) {
            self.log(format_args!("tally: {number} {op} {outcome} {count}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Privilege, testing};
    use abi::grant::{Copy, DumpTable, MapGrantRef, QuerySize, SetupTable, Transfer, UnmapAndReplace, UnmapGrantRef};
    use core::mem::offset_of;

    #[test]
    fn operations_are_told_apart_by_what_says_which_they_are() {
        let core = testing::core(512, 1);
        let guest = testing::guest(&core, Privilege::empty(), 4);
        let op = |call: Hypercall, args: [u64; 3]| {
            let [first, second, third] = args;
            guest.run(&core, |c| operation(c, call.0, &[first, second, third, 0, 0]))
        };
        for number in 0..64 {
            let call = Hypercall(number);
            let wanted = match call {
                Hypercall::XEN_VERSION | Hypercall::CONSOLE_IO | Hypercall::VCPU_OP | Hypercall::SET_SEGMENT_BASE => 77,
                Hypercall::NMI_OP | Hypercall::SCHED_OP | Hypercall::CALLBACK_OP => 77,
                Hypercall::EVENT_CHANNEL_OP | Hypercall::PHYSDEV_OP => 77,
                // By what is in memory, by another argument, or with a status.
                Hypercall::MMU_UPDATE | Hypercall::MMUEXT_OP | Hypercall::SYSCTL | Hypercall::DOMCTL => continue,
                Hypercall::MEMORY_OP | Hypercall::VM_ASSIST | Hypercall::GRANT_TABLE_OP => continue,
                _ => 0,
            };
            assert_eq!(op(call, [1 << 32 | 77, 3, 5]), (wanted, None), "{number}");
        }
        assert_eq!(op(Hypercall::SCHED_OP, [1000, 0, 0]), (OTHER, None));
        assert_eq!(op(Hypercall::MEMORY_OP, [5 << 6 | 24, 0, 0]), (24, None), "where it goes on is no matter");
        assert_eq!(op(Hypercall::VM_ASSIST, [1, 4, 0]), (4, None));
        let at = guest.va(0).0;
        guest.poke(&core, 0, 0, &0x1236u64.to_le_bytes());
        assert_eq!(op(Hypercall::MMU_UPDATE, [at, 1 << 32 | 1, 0]), (2, None));
        guest.poke(&core, 0, 0, &19u64.to_le_bytes());
        for call in [Hypercall::MMUEXT_OP, Hypercall::SYSCTL, Hypercall::DOMCTL] {
            assert_eq!((op(call, [at, 1, 0]), op(call, [0x10, 1, 0])), ((19, None), (OTHER, None)));
        }
        assert_eq!(op(Hypercall::MMUEXT_OP, [at, 2, 0]), (OTHER, None), "some of each perhaps");
        assert_eq!(op(Hypercall::MMU_UPDATE, [at, 0, 0]), (OTHER, None));
        let statuses = [
            offset_of!(MapGrantRef, status),
            offset_of!(UnmapGrantRef, status),
            offset_of!(SetupTable, status),
            offset_of!(DumpTable, status),
            offset_of!(Transfer, status),
            offset_of!(Copy, status),
            offset_of!(QuerySize, status),
            offset_of!(UnmapAndReplace, status),
        ];
        for (number, status) in (0..).zip(statuses) {
            let whole = Some(at + status as u64);
            assert_eq!(op(Hypercall::GRANT_TABLE_OP, [number.into(), at, 1]), (number, whole));
            assert_eq!(op(Hypercall::GRANT_TABLE_OP, [number.into(), at, 2]), (number, None));
        }
        assert_eq!(op(Hypercall::GRANT_TABLE_OP, [300, at, 1]), (OTHER, None));
    }

    #[test]
    fn a_tally_is_printed_line_by_line() {
        let mut core = testing::core(512, 1);
        core.tally = Some(Default::default());
        let guest = testing::guest(&core, Privilege::empty(), 4);
        for op in [0, 0, 99] {
            guest.hypercall(&core, Hypercall::XEN_VERSION.0, [op, 0, 0, 0, 0]);
        }
        core.dump_tally();
        assert_eq!(core.platform.take_printed(), "(core) tally: 17 0 0 2\n(core) tally: 17 99 -38 1\n");
    }
}
