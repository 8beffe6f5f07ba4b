//! PCI configuration space for driver domains: each sees its own functions, and changes what is its to change.
//!
//! A driver domain may turn bus mastering and its interrupt line on and off, and measure its BARs. It cannot move a BAR,
//! reach another function, or touch MSI and MSI-X but by asking for vectors. That its BARs answer is settled when the
//! function is measured, before anything uses it: the driver may turn decoding off and on, and only it sees that.

use alloc::vec::Vec;

use abi::{Errno, Mfn, PAGE_SIZE};
use ring_proto::pciif::{Address, Operation, PciError, Register, WireOp};

use crate::control::Resource;
use crate::manifest::PciFunction;

/// Configuration space of the machine, by aligned words.
pub trait ConfigSpace {
    /// Reads the word at `register`, a multiple of 4.
    fn read(&mut self, function: PciFunction, register: u8) -> u32;
    /// Writes the word at `register`.
    fn write(&mut self, function: PciFunction, register: u8, value: u32);
    /// Maps an MSI-X entry of the function to the domain that has it: the entry, and the base of the BAR that holds the
    /// table, as `physdev_map_pirq` wants it; the pirq.
    fn map_msix(&mut self, function: PciFunction, entry: u16, bar: u64) -> Result<u16, Errno>;
}

const ID: u8 = 0x00;
const COMMAND: u8 = 0x04;
const HEADER_TYPE: u8 = 0x0c;
const BAR0: u8 = 0x10;
const BARS: usize = 6;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT: u8 = 0x3c;
/// Capability: MSI-X.
const CAP_MSIX: u8 = 0x11;
/// Bits of the command register a driver may set: I/O, memory, bus master, interrupt off.
const COMMAND_MASK: u32 = 0x0407;
/// Of those, the ones that make BARs answer: I/O, memory.
const DECODE: u32 = 0x0003;
/// Of those, the one that lets the function reach memory.
const BUS_MASTER: u32 = 0x0004;
/// In the status half: there is a list of capabilities.
const HAS_CAPABILITIES: u32 = 1 << 20;

/// A base address register: what it holds, and what it reads after all ones were written to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bar {
    value: u32,
    mask: u32,
    /// The driver has written all ones.
    measuring: bool,
}

/// One function, as its driver domain sees it.
#[derive(Clone, Debug)]
pub struct Device {
    function: PciFunction,
    bars: [Bar; BARS],
    /// The command register's decode bits: what they are, and what the driver has set.
    decode: u32,
    decode_shown: u32,
    /// Interrupt line, if the function has one; on the PC it is the GSI.
    line: Option<u8>,
    /// Machine address of the BAR that holds the MSI-X table, and the table's entries.
    msix: Option<(u64, u16)>,
}

impl Device {
    /// Looks at a function and measures its BARs, with decoding off meanwhile. `None` if there is none.
    pub fn probe(config: &mut impl ConfigSpace, function: PciFunction) -> Option<Self> {
        let kind = config.read(function, HEADER_TYPE) >> 16 & 0x7f;
        if config.read(function, ID) & 0xffff == 0xffff || kind != 0 {
            return None; // nothing there, or a bridge
        }
        let command = config.read(function, COMMAND) & 0xffff;
        config.write(function, COMMAND, command & !DECODE);
        let mut bars = [Bar::default(); BARS];
        for (register, bar) in (BAR0..).step_by(4).zip(&mut bars) {
            bar.value = config.read(function, register);
            config.write(function, register, u32::MAX);
            bar.mask = config.read(function, register);
            config.write(function, register, bar.value);
        }
        let interrupt = config.read(function, INTERRUPT);
        let line = (interrupt >> 8 & 0xff != 0).then_some(interrupt as u8).filter(|line| *line != 0xff);
        let mut device = Self { function, bars, decode: 0, decode_shown: command & DECODE, line, msix: None };
        let placed = (0..BARS).filter_map(|index| device.range(index)).filter(|(_, base, _)| *base != 0);
        device.decode = placed.fold(0, |bits, (io, ..)| bits | if io { 1 } else { 2 });
        config.write(function, COMMAND, command & !DECODE | device.decode);
        device.msix = device.find_msix(config);
        Some(device)
    }

    /// Base and size of the BAR at `index`; `None` for one that is not there, or the upper half of another.
    fn range(&self, index: usize) -> Option<(bool, u64, u64)> {
        let bar = self.bars.get(index)?;
        let above = index.checked_sub(1).and_then(|before| self.bars.get(before));
        if bar.mask == 0 || above.is_some_and(|before| is_wide(before) && self.range(index - 1).is_some()) {
            return None;
        }
        if bar.value & 1 != 0 {
            // Only 16 bits of an I/O address exist on the PC, and some devices have no others.
            let size = !(bar.mask & !3 | 0xffff_0000) & 0xffff;
            return Some((true, u64::from(bar.value & !3), u64::from(size) + 1));
        }
        let high = |word: fn(&Bar) -> u32| self.bars.get(index + 1).filter(|_| is_wide(bar)).map_or(0, word);
        let base = u64::from(bar.value & !15) | u64::from(high(|bar| bar.value)) << 32;
        let ones = if is_wide(bar) { u64::from(high(|bar| bar.mask)) << 32 } else { 0xffff_ffff << 32 };
        let size = !(u64::from(bar.mask & !15) | ones);
        Some((false, base, size.wrapping_add(1)))
    }

    fn find_msix(&self, config: &mut impl ConfigSpace) -> Option<(u64, u16)> {
        if config.read(self.function, COMMAND) & HAS_CAPABILITIES == 0 {
            return None;
        }
        let mut at = config.read(self.function, CAPABILITIES) as u8 & !3;
        // A list cannot be longer than configuration space has room for.
        for _ in 0..48 {
            if at < 0x40 {
                return None;
            }
            let head = config.read(self.function, at);
            if head as u8 == CAP_MSIX {
                let table = config.read(self.function, at.checked_add(4)?);
                let (io, base, size) = self.range((table & 7) as usize)?;
                let offset = u64::from(table & !7);
                let entries = (head >> 16 & 0x7ff) as u16 + 1;
                let fits = offset + u64::from(entries) * 16 <= size;
                return (!io && fits).then_some((base, entries));
            }
            at = (head >> 8) as u8 & !3;
        }
        None
    }

    /// What the driver domain must be allowed to use.
    pub fn resources(&self) -> Vec<Resource> {
        let ranges = (0..BARS).filter_map(|index| self.range(index)).filter(|(_, base, _)| *base != 0);
        let resource = |(io, base, size): (bool, u64, u64)| match io {
            true => Resource::Ports(base as u32, size as u32),
            false => {
                let first = base / PAGE_SIZE as u64;
                Resource::Memory(Mfn(first), (base + size).div_ceil(PAGE_SIZE as u64) - first)
            }
        };
        ranges.map(resource).chain(self.line.map(|line| Resource::Irq(line.into()))).collect()
    }

    fn read(&self, config: &mut impl ConfigSpace, register: Register) -> u32 {
        let word = (register.offset & 0xfc) as u8;
        let bar = word.checked_sub(BAR0).and_then(|offset| self.bars.get(usize::from(offset) / 4));
        let value = match bar {
            Some(bar) if bar.measuring => bar.mask,
            Some(bar) => bar.value,
            None if word == COMMAND => config.read(self.function, word) & !DECODE | self.decode_shown,
            None => config.read(self.function, word),
        };
        value >> (8 * (register.offset % 4)) & (u32::MAX >> (32 - 8 * u32::from(register.width)))
    }

    fn write(&mut self, config: &mut impl ConfigSpace, register: Register, value: u32) -> Result<(), PciError> {
        let word = (register.offset & 0xfc) as u8;
        let bar = word.checked_sub(BAR0).and_then(|offset| self.bars.get_mut(usize::from(offset) / 4));
        match (bar, word) {
            (Some(bar), _) if register.width == 4 => {
                bar.measuring = value == u32::MAX;
                Ok(())
            }
            (None, COMMAND) if register.offset == COMMAND.into() && register.width >= 2 => {
                self.decode_shown = value & DECODE;
                let now = config.read(self.function, COMMAND) & 0xffff;
                let new = now & !COMMAND_MASK | value & COMMAND_MASK & !DECODE | self.decode;
                // The upper half, the status, is cleared by ones: written as zeros.
                config.write(self.function, COMMAND, new);
                Ok(())
            }
            // Drivers set these as a matter of form; the firmware has set them right.
            (None, HEADER_TYPE | INTERRUPT) => Ok(()),
            _ => Err(PciError::DENIED),
        }
    }

    fn enable_msix(&self, config: &mut impl ConfigSpace, op: &mut WireOp, count: u8) -> Result<(), PciError> {
        let (bar, entries) = self.msix.ok_or(PciError::FAILED)?;
        for slot in op.msix.iter_mut().take(count.into()) {
            if slot.entry >= entries {
                return Err(PciError::FAILED);
            }
            slot.vector = config.map_msix(self.function, slot.entry, bar).map_err(|_| PciError::FAILED)?;
        }
        Ok(())
    }
}

/// Stops a function from reaching memory.
pub fn silence(config: &mut impl ConfigSpace, function: PciFunction) {
    let command = config.read(function, COMMAND) & 0xffff;
    config.write(function, COMMAND, command & !BUS_MASTER);
}

fn is_wide(bar: &Bar) -> bool {
    bar.value & 7 == 4
}

/// Carries out one operation of a driver domain on its devices; `op` gets the answer.
pub fn serve(devices: &mut [Device], config: &mut impl ConfigSpace, op: &mut WireOp) {
    let result = carry_out(devices, config, op);
    op.error = result.err().unwrap_or(PciError::SUCCESS);
}

fn carry_out(devices: &mut [Device], config: &mut impl ConfigSpace, op: &mut WireOp) -> Result<(), PciError> {
    let (address, operation) = op.parse()?;
    let is_it = |device: &&mut Device| {
        let PciFunction { segment, bus, .. } = device.function;
        Address { domain: segment, bus, devfn: device.function.devfn() } == address
    };
    let device = devices.iter_mut().find(is_it).ok_or(PciError::NO_DEVICE)?;
    let within = |register: Register| if register.offset < 256 { Ok(register) } else { Err(PciError::BAD_OFFSET) };
    match operation {
        Operation::Read(register) => op.value = device.read(config, within(register)?),
        Operation::Write(register, value) => device.write(config, within(register)?, value)?,
        Operation::EnableMsix(count) => device.enable_msix(config, op, count)?,
        // The vectors go with the domain.
        Operation::DisableMsix => {}
        Operation::EnableMsi | Operation::DisableMsi => return Err(PciError::NOT_IMPLEMENTED),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;
    use ring_proto::pciif::Command;

    const FUNCTION: PciFunction = PciFunction { segment: 0, bus: 0, device: 2, function: 0 };

    /// A virtio device as QEMU has it: I/O at BAR 0, MSI-X in BAR 1, 64-bit memory in BARs 4 and 5.
    struct Machine {
        words: BTreeMap<u8, u32>,
        masks: [u32; BARS],
        decoded_while_measured: bool,
        vectors: Vec<(u16, u64)>,
    }

    impl Machine {
        fn new() -> Self {
            let words = [
                (0x00, 0x1000_1af4),
                (0x04, 0x0010_0007),
                (0x10, 0xc001),
                (0x14, 0xfebd_1000),
                (0x20, 0xfe00_000c),
                (0x34, 0x98),
                (0x3c, 0x010b),
                (0x98, 0x8003_0011),
                (0x9c, 0x0000_0801),
            ];
            let masks = [0xffff_ffe1, 0xffff_f000, 0, 0, 0xffff_c00c, 0xffff_ffff];
            Self { words: words.into(), masks, decoded_while_measured: false, vectors: Vec::new() }
        }
    }

    impl ConfigSpace for Machine {
        fn read(&mut self, function: PciFunction, register: u8) -> u32 {
            assert_eq!(register % 4, 0);
            if function == FUNCTION { self.words.get(&register).copied().unwrap_or(0) } else { u32::MAX }
        }
        fn write(&mut self, function: PciFunction, register: u8, value: u32) {
            assert_eq!(function, FUNCTION);
            let bar = register.checked_sub(BAR0).map(|offset| usize::from(offset / 4)).filter(|bar| *bar < BARS);
            if let Some(bar) = bar {
                self.decoded_while_measured |= self.words[&0x04] & 3 != 0;
                let fixed = if self.masks[bar] & 1 != 0 { 3 } else { 15 };
                let kept = self.masks[bar] & fixed;
                self.words.insert(register, value & self.masks[bar] & !fixed | kept);
            } else if register == COMMAND {
                let status = self.words[&0x04] & 0xffff_0000 & !value;
                self.words.insert(register, value & 0xffff | status);
            } else {
                self.words.insert(register, value);
            }
        }
        fn map_msix(&mut self, _: PciFunction, entry: u16, bar: u64) -> Result<u16, Errno> {
            self.vectors.push((entry, bar));
            Ok(100 + entry)
        }
    }

    fn op(command: Command, offset: i32, size: i32, value: u32) -> WireOp {
        let mut op = WireOp::new(command, Address { domain: 0, bus: 0, devfn: FUNCTION.devfn() });
        (op.offset, op.size, op.value) = (offset, size, value);
        op
    }

    fn ask(devices: &mut [Device], machine: &mut Machine, mut op: WireOp) -> Result<u32, PciError> {
        serve(devices, machine, &mut op);
        if op.error == PciError::SUCCESS { Ok(op.value) } else { Err(op.error) }
    }

    fn set_up() -> (Machine, [Device; 1]) {
        let mut machine = Machine::new();
        let device = Device::probe(&mut machine, FUNCTION).unwrap();
        (machine, [device])
    }

    #[test]
    fn a_function_is_measured_and_left_as_it_was() {
        let (machine, [device]) = set_up();
        assert_eq!(
            (machine.words[&0x10], machine.words[&0x20], machine.words[&0x04]),
            (0xc001, 0xfe00_000c, 0x0010_0007)
        );
        assert!(!machine.decoded_while_measured);
        assert_eq!(
            device.resources(),
            [
                Resource::Ports(0xc000, 32),
                Resource::Memory(Mfn(0xfebd1), 1),
                Resource::Memory(Mfn(0xfe000), 4),
                Resource::Irq(11),
            ]
        );
        assert_eq!(device.msix, Some((0xfebd_1000, 4)));
        let elsewhere = PciFunction { device: 9, ..FUNCTION };
        assert!(Device::probe(&mut Machine::new(), elsewhere).is_none());
    }

    #[test]
    fn drivers_measure_bars_and_do_not_move_them() {
        let (mut machine, mut devices) = set_up();
        let before = machine.words.clone();
        assert_eq!(ask(&mut devices, &mut machine, op(Command::CONF_WRITE, 0x14, 4, u32::MAX)), Ok(u32::MAX));
        assert_eq!(ask(&mut devices, &mut machine, op(Command::CONF_READ, 0x14, 4, 0)), Ok(0xffff_f000));
        ask(&mut devices, &mut machine, op(Command::CONF_WRITE, 0x14, 4, 0x1234_5000)).unwrap();
        assert_eq!(ask(&mut devices, &mut machine, op(Command::CONF_READ, 0x14, 4, 0)), Ok(0xfebd_1000));
        assert_eq!(machine.words, before);
    }

    #[test]
    fn reads_of_every_width() {
        let (mut machine, mut devices) = set_up();
        let mut read = |offset, size| ask(&mut devices, &mut machine, op(Command::CONF_READ, offset, size, 0));
        assert_eq!((read(0, 2), read(2, 2), read(1, 1)), (Ok(0x1af4), Ok(0x1000), Ok(0x1a)));
        assert_eq!(
            (read(1, 2), read(256, 4), read(-4, 4)),
            (Err(PciError::BAD_OFFSET), Err(PciError::BAD_OFFSET), Err(PciError::BAD_OFFSET))
        );
    }

    #[test]
    fn only_what_is_the_drivers_is_written() {
        let (mut machine, mut devices) = set_up();
        ask(&mut devices, &mut machine, op(Command::CONF_WRITE, 0x04, 4, 0xffff_ffff)).unwrap();
        assert_eq!(machine.words[&0x04], 0x0010_0407, "no bits but the driver's, and no status cleared");
        for offset in [0x00, 0x30, 0x98, 0x9c, 0xfc] {
            let before = machine.words.clone();
            let refused = ask(&mut devices, &mut machine, op(Command::CONF_WRITE, offset, 4, 0xffff_ffff));
            assert_eq!((refused, &machine.words), (Err(PciError::DENIED), &before), "{offset:#x}");
        }
        ask(&mut devices, &mut machine, op(Command::CONF_WRITE, 0x04, 2, 0x0404)).unwrap();
        assert_eq!(machine.words[&0x04], 0x0010_0407, "its BARs go on answering");
        assert_eq!(ask(&mut devices, &mut machine, op(Command::CONF_READ, 0x04, 2, 0)), Ok(0x0404), "not that it sees");
        silence(&mut machine, FUNCTION);
        assert_eq!(machine.words[&0x04], 0x0010_0403);
        let mut other = op(Command::CONF_READ, 0, 4, 0);
        other.devfn = 3 << 3;
        assert_eq!(ask(&mut devices, &mut machine, other), Err(PciError::NO_DEVICE));
    }

    #[test]
    fn msix_vectors_within_the_table() {
        let (mut machine, mut devices) = set_up();
        let mut enable = op(Command::ENABLE_MSIX, 0, 0, 2);
        enable.msix[1].entry = 3;
        serve(&mut devices, &mut machine, &mut enable);
        assert_eq!((enable.error, enable.msix[0].vector, enable.msix[1].vector), (PciError::SUCCESS, 100, 103));
        assert_eq!(machine.vectors, [(0, 0xfebd_1000), (3, 0xfebd_1000)]);
        enable.msix[1].entry = 4;
        serve(&mut devices, &mut machine, &mut enable);
        assert_eq!(enable.error, PciError::FAILED);
    }

    proptest! {
        /// Whatever a driver domain asks, BARs stay where they are and capabilities as they are.
        #[test]
        fn hostile_operations(ops in prop::collection::vec((0u32..7, -8i32..300, 0i32..6, any::<u32>(), 0u32..40), 0..40)) {
            let (mut machine, mut devices) = set_up();
            let mut before = machine.words.clone();
            before.remove(&0x04);
            for (command, offset, size, value, devfn) in ops {
                let mut op = op(Command(command), offset, size, value);
                op.devfn = devfn;
                serve(&mut devices, &mut machine, &mut op);
            }
            machine.words.remove(&0x04);
            prop_assert_eq!(machine.words, before);
        }
    }
}
