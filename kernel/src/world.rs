//! Standing still: one CPU works alone, all others wait where they hold nothing but the vCPUs that run there.

use core::mem::forget;

use spin::RelaxStrategy;
use spin::rwlock::RwLock;

use crate::lock::Serve;
use crate::machine::{self, core};
use crate::{apic, time};

/// In [`ferrule_core::Cpu::pending`]: somebody wants to be alone.
pub const REST_PENDING: u32 = 1 << 29;

/// Held by each CPU that is at work, for reading; by one that is alone, for writing.
static AT_WORK: RwLock<(), Serve> = RwLock::new(());
/// How long others are waited for, in nanoseconds.
const PATIENCE: u64 = 1_000_000_000;

/// Waits until nobody is alone. From then on this CPU is at work: in the core or in a guest.
pub fn begin() {
    forget(AT_WORK.read());
}

fn end() {
    // SAFETY: every CPU that comes here is at work: `begin` has taken what is given back.
    unsafe { AT_WORK.force_read_decrement() };
}

/// Lets whoever wants it be alone. The caller holds no lock but its vCPU's, and no reference into that.
pub fn rest() {
    end();
    begin();
}

/// Calls `f` while all other CPUs rest; false if one did not come to that: it may wait for a vCPU that runs on a CPU that
/// rests, or on this one, and is to be tried again once the caller has looked at what else there is to do. As for [`rest`].
pub fn alone(f: impl FnOnce()) -> bool {
    end();
    // From here on nobody begins.
    let mut waiting = AT_WORK.upgradeable_read();
    let me = machine::cpu().id;
    for other in core().cpus.iter().filter(|cpu| cpu.id != me) {
        other.post(REST_PENDING);
        apic::send(other.id.0, apic::KICK_VECTOR);
    }
    let patient_until = time::now() + PATIENCE;
    loop {
        match waiting.try_upgrade() {
            Ok(alone) => {
                f();
                forget(alone.downgrade());
                return true;
            }
            Err(not_yet) if time::now() <= patient_until => waiting = not_yet,
            Err(given_up) => {
                drop(given_up);
                begin();
                return false;
            }
        }
        Serve::relax();
    }
}
