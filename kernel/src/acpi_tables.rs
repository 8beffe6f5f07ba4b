//! What ACPI says: CPUs, I/O APICs, interrupt overrides, the power-management timer, how to switch off.

use core::ptr::NonNull;

use acpi::fadt::Fadt;
use acpi::madt::{InterruptSourceOverrideEntry, IoApicEntry, Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use heapless::Vec;

use crate::boot_info::BootInfo;
use crate::physical;

/// The machine, as far as firmware describes it.
#[derive(Debug, Default)]
pub struct Machine {
    /// Local APIC identifiers of the CPUs that can be used.
    pub cpus: Vec<u32, 64>,
    /// I/O APICs.
    pub io_apics: Vec<IoApicEntry, 8>,
    /// Legacy interrupts that are wired to another line, or another way, than usual.
    pub overrides: Vec<InterruptSourceOverrideEntry, 16>,
    /// I/O port of the 3.579545 MHz timer.
    pub pm_timer: Option<u16>,
    /// Ports of PM1a and PM1b control, and the values that switch off.
    pub power_off: Option<PowerOff>,
}

/// How to switch the machine off (the `\_S5_` package of the DSDT).
#[derive(Clone, Copy, Debug)]
pub struct PowerOff {
    /// PM1a control port.
    pub pm1a: u16,
    /// PM1b control port, 0 for none.
    pub pm1b: u16,
    /// SLP_TYP for each.
    pub sleep_type: (u8, u8),
}

#[derive(Clone, Copy)]
struct Mapper;

impl AcpiHandler for Mapper {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let at = NonNull::new(physical::at::<T>(address as u64)).unwrap_or(NonNull::dangling());
        // SAFETY: the loader's map, in force while tables are read, covers the first 4 GiB.
        unsafe { PhysicalMapping::new(address, at, size, size, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

impl Machine {
    /// Reads the tables. What is missing stays empty: a machine without a MADT has the one CPU.
    pub fn read(boot: &BootInfo) -> Self {
        let mut machine = Self::default();
        // SAFETY: the root is where the loader or the BIOS's convention says.
        let tables = unsafe {
            match boot.rsdp {
                Some(at) => AcpiTables::from_rsdp(Mapper, at as usize),
                None => AcpiTables::search_for_rsdp_bios(Mapper),
            }
        };
        let Ok(tables) = tables else { return machine };
        if let Ok(madt) = tables.find_table::<Madt>() {
            machine.read_madt(&madt);
        }
        if let Ok(fadt) = tables.find_table::<Fadt>() {
            machine.read_fadt(&fadt);
        }
        machine
    }

    fn read_madt(&mut self, madt: &PhysicalMapping<Mapper, Madt>) {
        for entry in madt.get().entries() {
            match entry {
                MadtEntry::LocalApic(cpu) if cpu.flags & 1 != 0 => {
                    let _ = self.cpus.push(u32::from(cpu.apic_id));
                }
                MadtEntry::IoApic(io) => {
                    let _ = self.io_apics.push(*io);
                }
                MadtEntry::InterruptSourceOverride(o) => {
                    let _ = self.overrides.push(*o);
                }
                _ => {}
            }
        }
    }

    fn read_fadt(&mut self, fadt: &Fadt) {
        let port = |block: Option<acpi::address::GenericAddress>| block.map(|b| b.address as u16);
        self.pm_timer = port(fadt.pm_timer_block().ok().flatten());
        let pm1a = port(fadt.pm1a_control_block().ok());
        let pm1b = port(fadt.pm1b_control_block().ok().flatten()).unwrap_or(0);
        let dsdt = fadt.dsdt_address().ok().map(|at| at as u64);
        if let (Some(pm1a), Some(sleep_type)) = (pm1a, dsdt.and_then(sleep_type)) {
            self.power_off = Some(PowerOff { pm1a, pm1b, sleep_type });
        }
    }
}

/// Finds `Name (_S5_, Package () { a, b, ... })` in the DSDT's byte code. The encodings are those of the ACPI
/// specification, chapter 20: NameOp 08, PackageOp 12, a package length of 1-4 bytes, the element count, then each
/// element as ZeroOp, OneOp or BytePrefix and a byte.
fn sleep_type(dsdt: u64) -> Option<(u8, u8)> {
    let length = u64::from(physical::read::<u32>(dsdt + 4));
    let byte = |at: u64| physical::read::<u8>(at);
    let at = (dsdt + 36..dsdt + length.saturating_sub(10))
        .find(|&at| physical::read::<[u8; 5]>(at) == *b"_S5_\x12" && (byte(at - 1) == 8 || byte(at - 2) == 8))?;
    let elements = at + 5 + u64::from(byte(at + 5) >> 6) + 2;
    let element = |at: u64| match byte(at) {
        0x0a => (byte(at + 1), at + 2),
        value => (value, at + 1),
    };
    let (a, next) = element(elements);
    Some((a, element(next).0))
}
