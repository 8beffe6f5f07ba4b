//! The machine's interrupts, ports and frames, given to domains.
//!
//! A domain names an interrupt by a *pirq* of its own, which stands for a [`Line`] of the machine. A line that several
//! domains share (INTx) goes to all of them, and is let through again when all that it was raised for have said that
//! they served it. Message-signalled interrupts are programmed by the core alone: whoever writes their address and data
//! can interrupt anybody.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::{Range, RangeInclusive};

pub use abi::physdev::PciDevice;
use abi::{Errno, Mfn, Port};

use crate::{Core, Domain, Platform, Privilege, refuse_if};

/// First line that is a message, not a GSI, and first pirq that is given for one; below, a pirq is the GSI it stands for
/// unless another was asked for.
pub const FIRST_MESSAGE: u32 = 64;
/// How many lines there are: a vector each.
pub const LINES: u32 = 192;
/// The line whose vector (0x30 more) is that of `int 0x80`, which ring 3 may use: nothing else may raise it.
const SYSTEM_CALL_LINE: Line = Line(0x80 - 0x30);
/// How many pirqs a domain can have.
pub const PIRQS: u32 = 256;
/// Ranges of one kind that a domain can be given.
const MAX_RANGES: usize = 64;
/// Sharers of a line.
const MAX_SHARERS: usize = 8;

/// An interrupt line of the machine as the core numbers it: a GSI, or a number above all GSIs for MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line(pub u32);

/// A set of numbers as ranges that neither overlap nor touch.
#[derive(Debug, Default)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Are all of these, of which there are some, in it?
    pub fn has(&self, wanted: &Range<u64>) -> bool {
        self.0.iter().any(|r| r.start <= wanted.start && wanted.end <= r.end)
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts a range in, as one piece with those that it touches, or takes it out. ENOMEM where there would be too many
    /// pieces.
    pub fn set(&mut self, range: Range<u64>, within: bool) -> Result<(), Errno> {
        let touching = self.0.iter().filter(|r| within && r.start <= range.end && range.start <= r.end);
        let whole = touching.fold(range.clone(), |all, r| all.start.min(r.start)..all.end.max(r.end));
        let mut pieces = Vec::new();
        pieces.try_reserve_exact(self.0.len() + 2).map_err(|_| Errno::ENOMEM)?;
        let around = |r: &Range<u64>| [r.start..r.end.min(whole.start), r.start.max(whole.end)..r.end];
        let added = within.then(|| whole.clone());
        pieces.extend(self.0.iter().flat_map(around).chain(added).filter(|piece| !piece.is_empty()));
        refuse_if(pieces.len() > MAX_RANGES, Errno::ENOMEM)?;
        self.0 = pieces;
        Ok(())
    }
}

/// What a pirq of a domain stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pirq {
    number: u32,
    line: Line,
    /// The device and MSI-X entry of a message.
    message: Option<(PciDevice, Option<u16>)>,
}

/// What of the machine a domain was given.
#[derive(Debug, Default)]
pub struct Devices {
    /// I/O ports.
    pub ports: Ranges,
    /// Machine frames that are not RAM.
    pub frames: Ranges,
    /// Interrupt lines by GSI.
    pub lines: Ranges,
    /// The PCI configuration address that it wrote last (port 0xcf8).
    pub config_address: u32,
    pirqs: Vec<Pirq>,
}

impl Devices {
    fn pirq(&self, number: u32) -> Option<Pirq> {
        self.pirqs.iter().copied().find(|p| p.number == number)
    }

    /// A pirq that is free: from the message range, or for any GSI.
    pub fn free_pirq(&self, message: bool) -> Option<u32> {
        let mut numbers = if message { FIRST_MESSAGE..PIRQS } else { 16..FIRST_MESSAGE };
        numbers.find(|&n| self.pirq(n).is_none())
    }
}

/// One domain that has a line.
struct Sharer<P: Platform> {
    domain: Weak<Domain<P>>,
    pirq: u32,
    /// The port that it bound to it last; 0 before.
    port: Port,
    shares: bool,
    /// The line was raised for it, and it has not said yet that it served it.
    owes_eoi: bool,
}

impl<P: Platform> Sharer<P> {
    /// Is it this pirq of this domain's?
    fn is(&self, domain: &Domain<P>, pirq: u32) -> bool {
        core::ptr::eq(self.domain.as_ptr(), domain) && self.pirq == pirq
    }
}

/// Who has which line: a list of sharers by line.
///
/// Its lock is also what makes one of the two port accesses that reach PCI configuration space.
pub struct Lines<P: Platform> {
    lines: Vec<(Line, Sharer<P>)>,
    /// Frames that nobody may write: MSI-X tables.
    tables: Ranges,
}

impl<P: Platform> Lines<P> {
    /// Nobody has any.
    pub const fn new() -> Self {
        Self { lines: Vec::new(), tables: Ranges(Vec::new()) }
    }

    /// One more who is to have a line, and room for him.
    fn room_for(&mut self, domain: &Arc<Domain<P>>, pirq: u32, port: Port, shares: bool) -> Result<Sharer<P>, Errno> {
        self.lines.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        Ok(Sharer { domain: Arc::downgrade(domain), pirq, port, shares, owes_eoi: false })
    }

    fn of(&mut self, line: Line) -> impl Iterator<Item = &mut Sharer<P>> {
        self.lines.iter_mut().filter(move |(l, _)| *l == line).map(|(_, sharer)| sharer)
    }
}

/// Ports that are the core's own whoever asks: interrupt controllers, timer, the CMOS, the first serial port.
const CORE_PORTS: [RangeInclusive<u16>; 6] =
    [0x20..=0x21, 0x40..=0x43, 0x61..=0x61, 0x70..=0x71, 0xa0..=0xa1, 0x3f8..=0x3ff];
/// The line that is the core's own: the first serial port's.
const CORE_LINE: u32 = 4;
/// Frames that are the core's own: I/O APICs, local APICs and the message range behind them.
const CORE_FRAMES: [RangeInclusive<u64>; 2] = [0xfec00..=0xfec0f, 0xfee00..=0xfeeff];

impl<P: Platform> Core<P> {
    /// Was the domain given these ports? The machine's hardware domain has all that are not the core's.
    pub fn may_use_ports(&self, domain: &Domain<P>, port: u16, bytes: u8) -> bool {
        let last = port.saturating_add(u16::from(bytes) - 1);
        let core = CORE_PORTS.iter().any(|r| port <= *r.end() && last >= *r.start());
        let given = domain.privilege.contains(Privilege::HARDWARE)
            || domain.devices.lock().ports.has(&(u64::from(port)..u64::from(last) + 1));
        given && !core
    }

    /// May the domain map this frame, which is not RAM? True: writable too. EPERM where it was not given it.
    pub fn may_map(&self, domain: &Domain<P>, mfn: Mfn) -> Result<bool, Errno> {
        let core = CORE_FRAMES.iter().any(|r| r.contains(&mfn.0));
        let frame = mfn.0..mfn.0 + 1;
        let given = domain.privilege.contains(Privilege::HARDWARE) || domain.devices.lock().frames.has(&frame);
        // No device answers at an address that the CPU cannot have: the walk would fault for a reserved bit.
        let width = self.platform.cpuid(0x8000_0008, 0)[0] & 0xff;
        refuse_if(core || !given || mfn.maddr().0.checked_shr(width) != Some(0), Errno::EPERM)?;
        Ok(!self.lines.lock().tables.has(&frame))
    }

    /// Protects a device's MSI-X table from now on: nobody maps it writable.
    pub fn protect_msix(&self, device: PciDevice) -> Result<(), Errno> {
        let mut lines = self.lines.lock();
        self.platform.msix_table(device).map_or(Ok(()), |frames| lines.tables.set(frames, true))
    }

    /// Was the domain given this GSI?
    pub fn may_have_line(&self, domain: &Domain<P>, gsi: u32) -> bool {
        let line = u64::from(gsi)..u64::from(gsi) + 1;
        let given = domain.privilege.contains(Privilege::HARDWARE) || domain.devices.lock().lines.has(&line);
        given && gsi != CORE_LINE
    }

    /// Makes a pirq of the domain's stand for a GSI; `wanted` or the GSI's own number. Returns the pirq. Whoever asks
    /// was given the GSI; whether the domain was is asked when it binds a port to it.
    ///
    /// EINVAL: no such GSI or pirq. EEXIST: the pirq stands for another.
    pub fn map_gsi(&self, domain: &Domain<P>, gsi: u32, wanted: Option<u32>) -> Result<u32, Errno> {
        let number = wanted.unwrap_or(gsi);
        refuse_if(gsi >= FIRST_MESSAGE || number >= PIRQS, Errno::EINVAL)?;
        let mut devices = domain.devices.lock();
        match devices.pirq(number) {
            Some(same) if same.line == Line(gsi) => return Ok(number),
            Some(_) => return Err(Errno::EEXIST),
            None => {}
        }
        devices.pirqs.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        devices.pirqs.push(Pirq { number, line: Line(gsi), message: None });
        Ok(number)
    }

    /// Makes a pirq of the domain's stand for a message of a device (an MSI-X entry, or MSI), and programs it. The
    /// caller has checked that the domain has the device.
    ///
    /// ESRCH: the domain is dying. ENOSPC: no line or pirq is free. ENODEV: the device has no such message. EEXIST: the
    /// pirq is taken.
    pub fn map_message(
        &self,
        domain: &Arc<Domain<P>>,
        device: PciDevice,
        entry: Option<u16>,
        wanted: Option<u32>,
    ) -> Result<u32, Errno> {
        self.protect_msix(device)?;
        let mut devices = domain.devices.lock();
        // Looked at under the lock: a domain's lines are taken back for good only after it began to die.
        refuse_if(domain.is_dying(), Errno::ESRCH)?;
        if let Some(same) = devices.pirqs.iter().find(|p| p.message == Some((device, entry))) {
            return if wanted.is_none_or(|n| n == same.number) { Ok(same.number) } else { Err(Errno::EEXIST) };
        }
        let number = wanted.or_else(|| devices.free_pirq(true)).filter(|&n| n < PIRQS).ok_or(Errno::ENOSPC)?;
        refuse_if(devices.pirq(number).is_some(), Errno::EEXIST)?;
        devices.pirqs.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let mut lines = self.lines.lock();
        let mut messages = (FIRST_MESSAGE..LINES).map(Line).filter(|&line| line != SYSTEM_CALL_LINE);
        let line = messages.find(|&line| lines.of(line).next().is_none()).ok_or(Errno::ENOSPC)?;
        let sharer = lines.room_for(domain, number, Port(0), false)?;
        refuse_if(!self.platform.msi_enable(device, entry, line), Errno::ENODEV)?;
        // From now on the line is this domain's.
        lines.lines.push((line, sharer));
        devices.pirqs.push(Pirq { number, line, message: Some((device, entry)) });
        Ok(number)
    }

    /// A pirq no longer stands for anything. EINVAL: it does not now. EBUSY is never: a bound port hears nothing more.
    pub fn unmap_pirq(&self, domain: &Domain<P>, number: u32) -> Result<(), Errno> {
        let mut devices = domain.devices.lock();
        let pirq = devices.pirq(number).ok_or(Errno::EINVAL)?;
        devices.pirqs.retain(|p| p.number != number);
        self.leave_line(domain, pirq, None);
        Ok(())
    }

    /// A port was bound to an interrupt of a domain's: lets it through.
    ///
    /// EPERM: the pirq stands for nothing, or for a GSI that the domain was not given. EBUSY: somebody has the line, and
    /// one of both does not share.
    pub fn open_pirq(&self, domain: &Arc<Domain<P>>, number: u32, port: Port, shares: bool) -> Result<(), Errno> {
        let pirq = domain.devices.lock().pirq(number).ok_or(Errno::EPERM)?;
        refuse_if(pirq.message.is_none() && !self.may_have_line(domain, pirq.line.0), Errno::EPERM)?;
        let mut lines = self.lines.lock();
        if let Some(known) = lines.of(pirq.line).find(|sharer| sharer.is(domain, number)) {
            known.port = port;
        } else {
            let alone = lines.of(pirq.line).any(|sharer| !(sharer.shares && shares));
            refuse_if(alone || lines.of(pirq.line).count() == MAX_SHARERS, Errno::EBUSY)?;
            let sharer = lines.room_for(domain, number, port, shares)?;
            lines.lines.push((pirq.line, sharer));
        }
        self.platform.irq_mask(pirq.line, false);
        Ok(())
    }

    /// The port was closed: the domain no longer hears of the line. A message stays its own.
    pub fn close_pirq(&self, domain: &Domain<P>, number: u32, port: Port) {
        if let Some(pirq) = domain.devices.lock().pirq(number).filter(|p| p.message.is_none()) {
            self.leave_line(domain, pirq, Some(port));
        }
    }

    /// A domain no longer has a pirq's line, and its device sends no message for it. If it is for a port that was closed, it
    /// still has the line where the pirq is bound once more by now.
    fn leave_line(&self, domain: &Domain<P>, pirq: Pirq, port: Option<Port>) {
        let mut lines = self.lines.lock();
        if let Some((device, entry)) = pirq.message {
            self.platform.msi_disable(device, entry);
        }
        let (mut left, mut owed) = (false, false);
        lines.lines.retain(|(l, sharer)| {
            let gone = |port| port == sharer.port && !self.is_bound_to_pirq(domain, port, pirq.number);
            let leaves = *l == pirq.line && sharer.is(domain, pirq.number) && port.is_none_or(gone);
            left |= leaves;
            owed |= leaves && sharer.owes_eoi;
            !leaves
        });
        if left && lines.of(pirq.line).next().is_none() {
            self.platform.irq_mask(pirq.line, true);
        } else if owed && lines.of(pirq.line).all(|s| !s.owes_eoi) {
            self.platform.irq_mask(pirq.line, false);
        }
    }

    /// A line went off. One that is level-triggered is masked until [`end_of_interrupt`](Self::end_of_interrupt).
    /// Apart from the way back to a guest, which nearly always comes without.
    #[inline(never)]
    pub fn line_interrupt(&self, line: Line) {
        let mut lines = self.lines.lock();
        for sharer in lines.of(line) {
            let domain = sharer.domain.upgrade();
            sharer.owes_eoi = domain.is_some_and(|domain| self.raise_pirq(&domain, sharer.pirq, sharer.port));
        }
    }

    /// A domain served an interrupt; where all have that owed it, the line is let through again. EINVAL: no such pirq.
    pub fn end_of_interrupt(&self, domain: &Domain<P>, number: u32) -> Result<(), Errno> {
        let pirq = domain.devices.lock().pirq(number).ok_or(Errno::EINVAL)?;
        let mut lines = self.lines.lock();
        let owes = |sharer: &mut Sharer<P>| sharer.is(domain, number) && core::mem::take(&mut sharer.owes_eoi);
        let owed = lines.of(pirq.line).any(owes);
        if owed && lines.of(pirq.line).all(|s| !s.owes_eoi) {
            self.platform.irq_mask(pirq.line, false);
        }
        Ok(())
    }

    /// Does a pirq share its line? EINVAL: no such pirq.
    pub fn is_shared(&self, domain: &Domain<P>, number: u32) -> Result<bool, Errno> {
        let pirq = domain.devices.lock().pirq(number).ok_or(Errno::EINVAL)?;
        Ok(self.lines.lock().of(pirq.line).any(|s| s.shares))
    }

    /// Takes everything of the machine back from a dying domain.
    pub fn release_devices(&self, domain: &Domain<P>) {
        let had = core::mem::take(&mut *domain.devices.lock());
        had.pirqs.into_iter().for_each(|pirq| self.leave_line(domain, pirq, None));
    }
}

#[cfg(test)]
mod tests;
