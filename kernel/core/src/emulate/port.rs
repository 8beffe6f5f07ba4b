//! IN, OUT, INS and OUTS.
//!
//! Two questions: may the guest's mode do I/O at all (its virtual IOPL), else #GP; and was its domain given the port, else
//! it reads all ones and writes nothing.

use abi::Vaddr;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::Outcome;
use super::operand::{self, mask};
use crate::trap::{Exception, fault};
use crate::{AddressSpace, Caller, Core, Fault, Platform, Privilege};
use abi::regs::rflags;

/// PCI configuration address and data.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// Data of the timer's channel 2: calibration loops wait for it to fall to 0.
const TIMER_2: u16 = 0x42;

impl<P: Platform> Core<P> {
    /// Decodes and executes an I/O instruction.
    pub(super) fn emulate_io(&self, c: &mut Caller<'_, P>, code: &[u8]) -> Outcome {
        let i = Decoder::with_ip(64, code, c.run.regs.rip, DecoderOptions::NONE).decode();
        let length = i.len() as u64;
        let done = match i.mnemonic() {
            _ if i.is_invalid() || i.has_lock_prefix() => None,
            Mnemonic::In => self.io_register(c, &i, 1, true).map(|()| Outcome::Done(length)),
            Mnemonic::Out => self.io_register(c, &i, 0, false).map(|()| Outcome::Done(length)),
            Mnemonic::Insb => self.io_string(c, &i, 1, true),
            Mnemonic::Insw => self.io_string(c, &i, 2, true),
            Mnemonic::Insd => self.io_string(c, &i, 4, true),
            Mnemonic::Outsb => self.io_string(c, &i, 1, false),
            Mnemonic::Outsw => self.io_string(c, &i, 2, false),
            Mnemonic::Outsd => self.io_string(c, &i, 4, false),
            _ => None,
        };
        done.unwrap_or(Outcome::Refused)
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

    /// INS and OUTS, one element at a time: with a REP prefix the instruction is executed again until rcx is 0.
    fn io_string(&self, c: &mut Caller<'_, P>, i: &Instruction, bytes: u8, input: bool) -> Option<Outcome> {
        let repeats = i.has_rep_prefix() || i.has_repne_prefix();
        let address_mask = match i.op_kinds().find(|k| !matches!(k, OpKind::Register))? {
            OpKind::MemoryESRDI | OpKind::MemorySegRSI => u64::MAX,
            OpKind::MemoryESEDI | OpKind::MemorySegESI => 0xffff_ffff,
            _ => return None,
        };
        if repeats && c.run.regs.rcx & address_mask == 0 {
            return Some(Outcome::Done(i.len() as u64));
        }
        let port = c.run.regs.rdx as u16;
        self.has_iopl(c).then_some(())?;
        let space = c.run.space()?;
        let base = match i.memory_segment() {
            Register::FS if !input => c.run.fs_base,
            Register::GS if !input => c.run.gs_base(),
            _ => 0,
        };
        let index = if input { c.run.regs.rdi } else { c.run.regs.rsi } & address_mask;
        let at = Vaddr(base.wrapping_add(index));
        let moved = match input {
            true => self.input_to(c, space, at, port, bytes),
            false => self.output_from(c, space, at, port, bytes),
        };
        if moved.is_err() {
            let write = if input { fault::WRITE } else { 0 };
            return Some(Outcome::Raise(Exception::page(write, at.0)));
        }
        let r = &mut c.run.regs;
        let step = if r.rflags & rflags::DF != 0 { -i64::from(bytes) } else { i64::from(bytes) } as u64;
        let pointer = if input { &mut r.rdi } else { &mut r.rsi };
        *pointer = index.wrapping_add(step) & address_mask;
        if repeats {
            r.rcx = (r.rcx & address_mask).wrapping_sub(1) & address_mask;
            if r.rcx != 0 {
                return Some(Outcome::Again);
            }
        }
        Some(Outcome::Done(i.len() as u64))
    }

    fn input_to(&self, c: &Caller<'_, P>, space: AddressSpace, at: Vaddr, port: u16, bytes: u8) -> Result<(), Fault> {
        // A port's value may be gone once it is read: the memory is tried first.
        let mut old = [0u8; 4];
        let old = old.get_mut(..usize::from(bytes)).ok_or(Fault)?;
        self.platform.copy_from_guest(space, at, old)?;
        self.platform.copy_to_guest(space, at, old)?;
        let value = self.port_read(c, port, bytes).to_le_bytes();
        self.platform.copy_to_guest(space, at, value.get(..usize::from(bytes)).ok_or(Fault)?)
    }

    fn output_from(
        &self,
        c: &Caller<'_, P>,
        space: AddressSpace,
        at: Vaddr,
        port: u16,
        bytes: u8,
    ) -> Result<(), Fault> {
        let mut value = [0u8; 4];
        self.platform.copy_from_guest(space, at, value.get_mut(..usize::from(bytes)).ok_or(Fault)?)?;
        self.port_write(c, port, bytes, u32::from_le_bytes(value));
        Ok(())
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
