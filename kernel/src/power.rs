//! The end: power-off, reboot, a crash. Each has its own last line and, with QEMU's isa-debug-exit at 0xf4, its own code.

use ferrule_core::platform::Halt;
use x86_64::instructions::{hlt, interrupts, port::Port};

use crate::acpi_tables::PowerOff;
use crate::console;

/// QEMU exits with twice the value written here plus one.
const DEBUG_EXIT: u16 = 0xf4;

static POWER_OFF: ferrule_core::sync::Lock<crate::machine::Machine, Option<PowerOff>> =
    ferrule_core::sync::Lock::<crate::machine::Machine, _>::new(None);

/// Notes how the machine is switched off.
pub fn init(how: Option<PowerOff>) {
    *POWER_OFF.lock() = how;
}

/// Ends the machine.
pub fn halt(why: Halt) -> ! {
    let (text, code) = match why {
        Halt::PowerOff => ("power-off", 0x10),
        Halt::Reboot => ("reboot", 0x10),
        Halt::DomainCrash => ("the initial domain crashed", 0x11),
    };
    crate::machine::core().dump_tally();
    crate::say!("ferrule: {text}");
    if why == Halt::Reboot {
        reset();
    }
    stop(code, why == Halt::PowerOff)
}

/// Ends the machine after a panic of the core. The panic's own lines are the last.
pub fn after_panic() -> ! {
    console::write_anyway(format_args!("(core) ferrule: core panic\n"));
    stop(0x12, false)
}

fn stop(code: u32, off: bool) -> ! {
    interrupts::disable();
    // SAFETY: where there is no such device, nothing happens.
    unsafe { Port::<u32>::new(DEBUG_EXIT).write(code) };
    if off {
        switch_off();
    }
    loop {
        hlt();
    }
}

fn switch_off() {
    let Some(how) = POWER_OFF.try_lock().and_then(|how| *how) else { return };
    console::drain();
    let value = |kind: u8| u16::from(kind & 7) << 10 | 1 << 13;
    // SAFETY: the ports and values that ACPI names for S5.
    unsafe {
        Port::<u16>::new(how.pm1a).write(value(how.sleep_type.0));
        if how.pm1b != 0 {
            Port::<u16>::new(how.pm1b).write(value(how.sleep_type.1));
        }
    }
}

fn reset() {
    // SAFETY: the reset register of every PC chip set, then the keyboard controller's.
    unsafe {
        Port::<u8>::new(0xcf9).write(6);
        Port::<u8>::new(0x64).write(0xfe);
    }
}
