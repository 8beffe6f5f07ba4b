//! Debug keys: Ctrl-A three times on the serial console, then one key a command, until Ctrl-A three times again.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ferrule_core::mm::Spoil;
use ferrule_core::platform::Halt;
use lock_api::Mutex;

use crate::lock::SpinLock;
use crate::machine::core;
use crate::{power, say};

const CTRL_A: u8 = 1;

static ACTIVE: AtomicBool = AtomicBool::new(false);
static IN_A_ROW: AtomicU32 = AtomicU32::new(0);

/// What is spoiled right before the next audit, once.
static SPOIL: Mutex<SpinLock, Option<Spoil>> = Mutex::new(None);

/// Takes the core's option `audit-inject=`: a test aid.
pub fn spoil_next(what: &str) {
    *SPOIL.lock() = Spoil::named(what);
}

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

/// What one key does. Also asked for by sysctl's debug_keys.
pub fn press(key: u8) {
    match key {
        b'h' => say!("h help | q CPUs and domains | e event channels | g grants | a audit | R reboot"),
        b'q' => core().dump_domains(),
        b'e' => core().dump_events(),
        b'g' => core().dump_grants(),
        b'a' => {
            if let Some(what) = SPOIL.lock().take() {
                core().spoil(what);
            }
            core().report_audit(None);
        }
        b'R' => power::halt(Halt::Reboot),
        _ => say!("no debug key {:?}; h: help", char::from(key)),
    }
}
