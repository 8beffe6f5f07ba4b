//! The one thing the core does in PCI configuration space: message-signalled interrupts, since whoever writes their
//! address and data can interrupt anybody.
//!
//! Configuration accesses take two ports. They are one at a time, since all callers hold the lock of `Core::lines`.

use core::sync::atomic::{AtomicU64, Ordering};

use ferrule_core::irq::{Line, PciDevice};
use x86_64::instructions::port::Port;

use crate::{apic, layout, paging};

const CAPABILITY_MSI: u8 = 0x05;
const CAPABILITY_MSIX: u8 = 0x11;
const STATUS: u8 = 0x06;
const HAS_CAPABILITIES: u32 = 1 << 20;
const FIRST_CAPABILITY: u8 = 0x34;
const BAR0: u8 = 0x10;

fn config_port(device: PciDevice, offset: u8) -> u32 {
    0x8000_0000 | u32::from(device.bus) << 16 | u32::from(device.devfn) << 8 | u32::from(offset & !3)
}

fn read(device: PciDevice, offset: u8) -> u32 {
    // SAFETY: the chip set's configuration ports; the core's accesses and those it makes for domains hold one lock.
    unsafe {
        Port::<u32>::new(0xcf8).write(config_port(device, offset));
        Port::<u32>::new(0xcfc).read()
    }
}

fn write(device: PciDevice, offset: u8, value: u32) {
    // SAFETY: as for `read`; only the message registers of a device that its domain was given are written.
    unsafe {
        Port::<u32>::new(0xcf8).write(config_port(device, offset));
        Port::<u32>::new(0xcfc).write(value);
    }
}

/// Finds a capability; the list is bounded, since a device may lie.
fn capability(device: PciDevice, wanted: u8) -> Option<u8> {
    if read(device, STATUS & !3) & HAS_CAPABILITIES == 0 {
        return None;
    }
    let mut at = read(device, FIRST_CAPABILITY) as u8 & !3;
    for _ in 0..48 {
        if at < 0x40 {
            return None;
        }
        let head = read(device, at);
        if head as u8 == wanted {
            return Some(at);
        }
        at = (head >> 8) as u8 & !3;
    }
    None
}

/// The message that raises a line on the first CPU: address and data.
fn message(line: Line) -> (u32, u32) {
    (0xfee0_0000 | apic::first_id() << 12, u32::from(apic::FIRST_LINE_VECTOR) + line.0)
}

/// Programs MSI (no entry) or one entry of MSI-X to raise a line, and switches it on; false if the device has none.
pub fn enable(device: PciDevice, entry: Option<u16>, line: Line) -> bool {
    match entry {
        None => enable_msi(device, line),
        Some(entry) => enable_msix(device, entry, line),
    }
}

fn enable_msi(device: PciDevice, line: Line) -> bool {
    let Some(at) = capability(device, CAPABILITY_MSI) else { return false };
    let (address, data) = message(line);
    let control = read(device, at);
    let wide = control & 1 << 23 != 0;
    write(device, at + 4, address);
    if wide {
        write(device, at + 8, 0);
    }
    write(device, at + if wide { 12 } else { 8 }, data);
    // Enable, one message.
    write(device, at, control & !(7 << 20) | 1 << 16);
    true
}

/// A device's MSI-X: its capability, where its table is, and how many entries that has.
fn msix(device: PciDevice) -> Option<(u8, u64, u64)> {
    let at = capability(device, CAPABILITY_MSIX)?;
    let table = read(device, at + 4);
    let start = bar(device, table as u8 & 7)? + u64::from(table & !7);
    Some((at, start, u64::from(read(device, at) >> 16 & 0x7ff) + 1))
}

/// The capability of MSI-X and the registers of an entry, if the device has it.
fn msix_entry(device: PciDevice, entry: u16) -> Option<(u8, *mut u32)> {
    let (at, start, _) = msix(device).filter(|&(.., entries)| u64::from(entry) < entries)?;
    let address = start + u64::from(entry) * 16;
    Some((at, (map_table(address & !0xfff)? + (address & 0xfff)) as *mut u32))
}

fn enable_msix(device: PciDevice, entry: u16, line: Line) -> bool {
    let Some((at, registers)) = msix_entry(device, entry) else { return false };
    let (low, data) = message(line);
    // SAFETY: the page is the device's MSI-X table, mapped uncached; the entry is within its size, which is 16-byte aligned.
    unsafe {
        registers.write_volatile(low);
        registers.add(1).write_volatile(0);
        registers.add(2).write_volatile(data);
        registers.add(3).write_volatile(0);
    }
    write(device, at, read(device, at) & !(1 << 30) | 1 << 31);
    true
}

/// The frames that a device's MSI-X table is in.
pub fn msix_table(device: PciDevice) -> Option<core::ops::Range<u64>> {
    let (_, start, entries) = msix(device)?;
    Some(start >> 12..(start + entries * 16).div_ceil(4096))
}

/// Masks one entry of MSI-X, or switches MSI off (no entry).
pub fn disable(device: PciDevice, entry: Option<u16>) {
    match entry {
        None => {
            if let Some(at) = capability(device, CAPABILITY_MSI) {
                write(device, at, read(device, at) & !(1 << 16));
            }
        }
        Some(entry) => {
            if let Some((_, registers)) = msix_entry(device, entry) {
                // SAFETY: an entry of the device's MSI-X table, mapped uncached; its last word is the mask.
                unsafe { registers.add(3).write_volatile(1) };
            }
        }
    }
}

/// Where the firmware put a memory BAR.
fn bar(device: PciDevice, number: u8) -> Option<u64> {
    let offset = BAR0 + number * 4;
    if number > 5 {
        return None;
    }
    let low = read(device, offset);
    match low & 7 {
        0 => Some(u64::from(low & !0xf)),
        4 if number < 5 => Some(u64::from(low & !0xf) | u64::from(read(device, offset + 4)) << 32),
        _ => None,
    }
}

/// The MSI-X table pages seen so far; each device has its own.
static TABLES: [AtomicU64; 32] = [const { AtomicU64::new(0) }; 32];

/// Maps the page of an MSI-X table, uncached, or finds it mapped.
fn map_table(page: u64) -> Option<u64> {
    for (n, slot) in TABLES.iter().enumerate() {
        let seen = layout::DEVICES + 0x10_0000 + n as u64 * 4096;
        match slot.compare_exchange(0, page, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                let flags = paging::PRESENT | paging::WRITE | paging::UNCACHED | paging::NO_EXECUTE;
                let entry = paging::entry_of(seen)?;
                // SAFETY: the entry is one of the core's own, for device registers, and was not in use.
                unsafe { entry.write_volatile(page | flags) };
                return Some(seen);
            }
            Err(same) if same == page => return Some(seen),
            Err(_) => {}
        }
    }
    None
}
