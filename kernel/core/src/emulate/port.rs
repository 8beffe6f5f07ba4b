//! IN, OUT, INS and OUTS.
//!
//! Two questions: may the guest's mode do I/O at all (its virtual IOPL), else #GP; and was its domain given the port, else
//! it reads all ones and writes nothing.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};

use super::Outcome;
use super::operand::{self, mask};
use crate::{Caller, Core, Platform, Privilege};

/// PCI configuration address and data.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// Data of the timer's channel 2: calibration loops wait for it to fall to 0.
const TIMER_2: u16 = 0x42;

impl<P: Platform> Core<P> {
    /// Decodes and executes an I/O instruction.
    pub(super) fn emulate_io(&self, c: &mut Caller<'_, P>, code: &[u8]) -> Outcome {
        let i = Decoder::with_ip(64, code, c.run.regs.rip, DecoderOptions::NONE).decode();
        let done = match i.mnemonic() {
            Mnemonic::In => self.io_register(c, &i, 1, true),
            Mnemonic::Out => self.io_register(c, &i, 0, false),
            _ => None,
        };
        done.map_or(Outcome::Refused, |()| Outcome::Done(i.len() as u64))
    }

    /// IN and OUT: the port is operand `which`, the accumulator the other.
    fn io_register(&self, c: &mut Caller<'_, P>, i: &Instruction, which: u32, input: bool) -> Option<()> {
        let port = operand::source(&c.run.regs, i, which)? as u16;
        let accumulator = i.try_op_register(1 - which).ok()?;
        let bytes = match accumulator {
            Register::AL => 1,
            Register::AX => 2,
            _ => 4,
        };
        self.has_iopl(c).then_some(())?;
        if input {
            let value = self.port_read(c, port, bytes);
            operand::set(&mut c.run.regs, accumulator, u64::from(value));
        } else {
            let value = operand::get(&c.run.regs, accumulator)? as u32;
            self.port_write(c, port, bytes, value);
        }
        Some(())
    }

    fn port_read(&self, c: &Caller<'_, P>, port: u16, bytes: u8) -> u32 {
        let ones = mask(bytes) as u32;
        if port == CONFIG_ADDRESS && bytes == 4 {
            return c.domain.devices.lock().config_address;
        }
        if port & !3 == CONFIG_DATA {
            let _one = self.lines.lock();
            return self.config_access(c, port, bytes).map_or(ones, |()| self.platform.port_in(port, bytes) & ones);
        }
        if self.may_use_ports(c.domain, port, bytes) {
            return self.platform.port_in(port, bytes) & ones;
        }
        // Byte by byte: each that was given is read, the others are what nothing answers.
        let byte = |port| match self.may_use_ports(c.domain, port, 1) {
            true => self.platform.port_in(port, 1) as u8,
            false if port == TIMER_2 => 0,
            false => 0xff,
        };
        let value: [u8; 4] =
            core::array::from_fn(|n| if n < usize::from(bytes) { byte(port.wrapping_add(n as u16)) } else { 0 });
        u32::from_le_bytes(value)
    }

    fn port_write(&self, c: &Caller<'_, P>, port: u16, bytes: u8, value: u32) {
        if port == CONFIG_ADDRESS && bytes == 4 {
            c.domain.devices.lock().config_address = value;
        } else if port & !3 == CONFIG_DATA {
            let _one = self.lines.lock();
            if self.config_access(c, port, bytes).is_some() {
                self.platform.port_out(port, bytes, value);
            }
        } else if self.may_use_ports(c.domain, port, bytes) {
            self.platform.port_out(port, bytes, value);
        } else {
            let given = (port..=u16::MAX).zip(value.to_le_bytes()).take(usize::from(bytes));
            for (port, byte) in given.filter(|&(port, _)| self.may_use_ports(c.domain, port, 1)) {
                self.platform.port_out(port, 1, u32::from(byte));
            }
        }
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
