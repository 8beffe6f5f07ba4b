//! IN, OUT, INS and OUTS.
//!
//! Two questions: may the guest's mode do I/O at all (its virtual IOPL), else #GP; and was its domain given the port, else
//! it reads all ones and writes nothing.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

use super::operand;
use crate::{Caller, Core, Platform, Privilege};

/// PCI configuration address and data.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// Data of the timer's channel 2: calibration loops wait for it to fall to 0.
const TIMER_2: u16 = 0x42;

impl<P: Platform> Core<P> {
    /// Decodes and executes an I/O instruction. Returns its length.
    pub(super) fn emulate_io(&self, c: &mut Caller<'_, P>, code: &[u8]) -> Option<u64> {
        let i = Decoder::with_ip(64, code, c.run.regs.rip, DecoderOptions::NONE).decode();
        let (accumulator, port) = match i.mnemonic() {
            Mnemonic::In => (0, 1),
            Mnemonic::Out => (1, 0),
            _ => return None,
        };
        self.has_iopl(c).then_some(())?;
        let port = operand::source(&c.run.regs, &i, port)? as u16;
        let accumulator = i.try_op_register(accumulator).ok()?;
        let held = operand::get(&c.run.regs, accumulator)? as u32;
        let out = (i.mnemonic() == Mnemonic::Out).then_some(held);
        let value = self.access_ports(c, port, accumulator.size() as u8, out);
        if out.is_none() {
            operand::set(&mut c.run.regs, accumulator, value.into());
        }
        Some(i.len() as u64)
    }

    /// IN of 1, 2 or 4 bytes, or OUT of a value. Returns what is read, in its low bytes.
    fn access_ports(&self, c: &Caller<'_, P>, port: u16, bytes: u8, out: Option<u32>) -> u32 {
        let access = |port, bytes, out: Option<u32>| match out {
            Some(value) => {
                self.platform.port_out(port, bytes, value);
                value
            }
            None => self.platform.port_in(port, bytes),
        };
        if port == CONFIG_ADDRESS && bytes == 4 {
            let mut devices = c.domain.devices.lock();
            devices.config_address = out.unwrap_or(devices.config_address);
            return devices.config_address;
        }
        if port & !3 == CONFIG_DATA {
            let _one = self.lines.lock();
            return self.config_access(c, port, bytes).map_or(u32::MAX, |()| access(port, bytes, out));
        }
        if self.may_use_ports(c.domain, port, bytes) {
            return access(port, bytes, out);
        }
        // Byte by byte: those that were given are reached, the others are what nothing answers.
        let mut value = out.unwrap_or(u32::MAX).to_le_bytes();
        for (port, byte) in (port..=u16::MAX).zip(&mut value).take(bytes.into()) {
            if self.may_use_ports(c.domain, port, 1) {
                *byte = access(port, 1, out.map(|_| (*byte).into())) as u8;
            } else if port == TIMER_2 {
                *byte = 0;
            }
        }
        u32::from_le_bytes(value)
    }

    /// Selects the PCI configuration register that the domain named, if it may reach configuration space. The caller
    /// holds the lock of the lines, since the address and its data are two accesses.
    fn config_access(&self, c: &Caller<'_, P>, port: u16, bytes: u8) -> Option<()> {
        let address = c.domain.devices.lock().config_address;
        let inside = u32::from(port & 3) + u32::from(bytes) <= 4;
        let allowed = c.domain.privilege.contains(Privilege::HARDWARE) && inside && address >> 31 != 0;
        allowed.then(|| self.platform.port_out(CONFIG_ADDRESS, 4, address & !3))
    }
}
