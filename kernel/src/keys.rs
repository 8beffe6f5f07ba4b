//! Debug keys: Ctrl-A three times on the serial console, then one key a command, until Ctrl-A three times again.

use alloc::string::String;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ferrule_core::Run;
use ferrule_core::cpu::MAX_CPUS;
use ferrule_core::platform::Halt;
use heapless::Vec;
use lock_api::Mutex;

use crate::lock::SpinLock;
use crate::machine::core;
use crate::{heap, machine, power, say, start, world};

const CTRL_A: u8 = 1;
/// In [`ferrule_core::Cpu::pending`]: an audit is asked for.
pub const AUDIT_PENDING: u32 = 1 << 30;

static ACTIVE: AtomicBool = AtomicBool::new(false);
static IN_A_ROW: AtomicU32 = AtomicU32::new(0);

/// What is spoiled right before the next audit, once: the core's option `audit-inject=`, a test aid.
pub static SPOIL: Mutex<SpinLock, Option<String>> = Mutex::new(None);

/// Looks at a typed byte; true if it was for the keys and not for the console's reader.
pub fn take(byte: u8) -> bool {
    if byte == CTRL_A {
        if IN_A_ROW.fetch_add(1, Ordering::Relaxed) == 2 {
            IN_A_ROW.store(0, Ordering::Relaxed);
            let active = !ACTIVE.fetch_xor(true, Ordering::Relaxed);
            say!("{}", if active { "debug keys on; h: help" } else { "debug keys off" });
        }
        return true;
    }
    IN_A_ROW.store(0, Ordering::Relaxed);
    let active = ACTIVE.load(Ordering::Relaxed);
    if active {
        press(byte);
    }
    active
}

/// What one key does, for a hypercall. The audit waits until that is over.
pub fn press_within(key: u8) {
    match key {
        b'a' => machine::cpu().post(AUDIT_PENDING),
        _ => press(key),
    }
}

/// What one key does.
fn press(key: u8) {
    match key {
        b'h' => say!("h help | q CPUs and domains | e event channels | g grants | a audit | R reboot"),
        b'q' => {
            let ((heap, used), all) = (heap::size(), start::bytes());
            say!("the core has {} KiB; its heap uses {} of {} KiB", all >> 10, used >> 10, heap >> 10);
            core().dump_domains();
        }
        b'e' => core().dump_events(),
        b'g' => core().dump_grants(),
        b'a' => audit(),
        b'R' => power::halt(Halt::Reboot),
        _ => say!("no debug key {:?}; h: help", char::from(key)),
    }
}

/// Audits the frames, with the world standing still. Not in the middle of anything.
pub fn audit() {
    let done = world::alone(|| {
        if let Some(what) = SPOIL.lock().take() {
            core().spoil(&what);
        }
        let domains = core().domains.table.read();
        let running = domains.iter().flat_map(|domain| &domain.vcpus).filter(|vcpu| vcpu.run.is_locked());
        // SAFETY: the CPUs that hold these locks rest, this one among them, and keep no reference into what they hold.
        let runs: Vec<&Run, MAX_CPUS> = running.map(|vcpu| unsafe { &*vcpu.run.data_ptr() }).collect();
        core().report_audit(&runs);
    });
    if !done {
        machine::cpu().post(AUDIT_PENDING);
    }
}
