//! `memory_op` (12): a domain's frames: how many, which, and what the machine's memory looks like.
//!
//! - Arguments: the operation, with the number of extents already done above its low 6 bits; the address of its
//!   structure.
//! - Returns: for increase_reservation, decrease_reservation and populate_physmap the number of extents done, however
//!   few and whatever stopped it; for questions the answer; else 0.
//! - Faults: ESRCH: no such domain. EPERM: another domain without the builder's privilege. EFAULT. EINVAL: what does not
//!   fit together, a memory map of more than 1024 regions. ENOMEM: exchange. EACCES: add_to_physmap and its inverse,
//!   which are for translated guests. ENOSYS: no memory map was set; an operation that this core has not.
//! - Notes: frames come cleared. A frame that is given back while something still maps it is freed when nothing does.
//!   Preemptible between extents.
//! - Source: `memory.h`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use abi::layout::{MACH2PHYS_NR_ENTRIES, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use abi::memory::{
    E820Entry, ForeignMemoryMap, MachphysMapping, MachphysMfnList, MemoryDomain, MemoryExchange, MemoryMap, MemoryOp,
    MemoryReservation, RemoveFromPhysmap,
};
use abi::{Errno, Mfn, PAGE_SHIFT, PteFlags, Vaddr};

use crate::frame::List;
use crate::{Args, Caller, Domain, Flush, HcResult, Platform, Privilege, Stop, guest, refuse_if};

/// The largest extent a domain may ask for, by order: 2 MiB; 16 MiB for those that were given devices.
const ORDER: u32 = 9;
const DEVICE_ORDER: u32 = 12;
/// The most regions that a memory map has: `E820MAX` of Xen.
const MAX_REGIONS: u32 = 1024;
/// Where `shared_info.arch.max_pfn` is, in words.
const MAX_PFN_WORD: usize = core::mem::offset_of!(abi::shared_info::SharedInfo, arch) / 8;

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [op, at, ..] = *a;
    let start = op >> MemoryOp::EXTENT_SHIFT;
    let kind = MemoryOp(op as u32 & MemoryOp::CMD_MASK);
    match kind {
        MemoryOp::INCREASE_RESERVATION | MemoryOp::DECREASE_RESERVATION | MemoryOp::POPULATE_PHYSMAP => {
            reservation(c, a, kind, start, at)
        }
        _ if start != 0 => Err(Errno::EINVAL.into()),
        MemoryOp::EXCHANGE => exchange(c, at),
        MemoryOp::ADD_TO_PHYSMAP | MemoryOp::REMOVE_FROM_PHYSMAP => {
            c.target(c.get::<RemoveFromPhysmap>(at)?.domid)?;
            Err(Errno::EACCES.into())
        }
        MemoryOp::MEMORY_MAP => memory_map(c, at),
        MemoryOp::MACHINE_MEMORY_MAP => machine_memory_map(c, at),
        MemoryOp::SET_MEMORY_MAP => set_memory_map(c, at),
        MemoryOp::MAXIMUM_RAM_PAGE => Ok(c.core.frames.count() as i64),
        MemoryOp::CURRENT_RESERVATION | MemoryOp::MAXIMUM_RESERVATION | MemoryOp::MAXIMUM_GPFN => question(c, kind, at),
        MemoryOp::MACHPHYS_MAPPING => {
            let max_mfn = Mfn(MACH2PHYS_NR_ENTRIES - 1);
            c.answer(at, &MachphysMapping { v_start: MACH2PHYS_VIRT_START, v_end: MACH2PHYS_VIRT_END, max_mfn })
        }
        MemoryOp::MACHPHYS_MFN_LIST => machphys_mfn_list(c, at),
        MemoryOp::SET_POD_TARGET | MemoryOp::GET_POD_TARGET => Err(Errno::EINVAL.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn max_order<P: Platform>(c: &Caller<'_, P>) -> u32 {
    if crate::mm::may_choose_caching(c.domain) { DEVICE_ORDER } else { ORDER }
}

/// The first frame that may not be used, by the address bits in the flags.
fn limit(flags: u32) -> Option<u64> {
    match flags & 0xff {
        0 | 64.. => Some(u64::MAX),
        bits if bits <= PAGE_SHIFT => None,
        bits => Some(1 << (bits - PAGE_SHIFT)),
    }
}

fn reservation<P: Platform>(c: &Caller<'_, P>, a: &mut Args, kind: MemoryOp, start: u64, at: u64) -> HcResult {
    let nothing = Ok(start as i64);
    let Ok(r) = c.get::<MemoryReservation>(at) else { return nothing };
    let most = u64::from(u32::MAX >> MemoryOp::EXTENT_SHIFT);
    let (Ok(domain), Some(limit)) = (c.target(r.domid), limit(r.mem_flags)) else { return nothing };
    if r.nr_extents > most || start >= r.nr_extents || r.extent_order > max_order(c) {
        return nothing;
    }
    let list = r.extent_start.0;
    let give_back = |extent| -> Result<(), Stop> {
        let first: Mfn = c.get_at(list, extent)?;
        for offset in 0..1 << r.extent_order {
            let frame = c.core.get_page(Mfn(first.0.wrapping_add(offset)), &domain)?;
            c.core.deallocate(frame);
            c.core.put_page(frame);
        }
        Ok(())
    };
    // Its place in the list holds the PFN that it is to be, if it is `named`, and is told the frame.
    let named = kind == MemoryOp::POPULATE_PHYSMAP;
    let populate = |extent| -> Result<(), Stop> {
        let pfn = if named { Some(c.get_at(list, extent)?) } else { None };
        let first = c.core.alloc_domain_pages(&domain, r.extent_order as u8, limit, pfn)?;
        if named || list != 0 { c.put_at(list, extent, &first.mfn()) } else { Ok(()) }
    };
    let mut done = start;
    while done < r.nr_extents {
        if done > start && c.core.platform.preempt() {
            a[0] = u64::from(kind.0) | done << MemoryOp::EXTENT_SHIFT;
            return Err(Stop::PREEMPTED);
        }
        let extent = if kind == MemoryOp::DECREASE_RESERVATION { give_back(done) } else { populate(done) };
        if extent.is_err() {
            break;
        }
        done += 1;
    }
    Ok(done as i64)
}

fn exchange<P: Platform>(c: &Caller<'_, P>, at: u64) -> HcResult {
    let mut x: MemoryExchange = c.get(at)?;
    let result = exchange_all(c, &mut x);
    // Progress is in the structure: if that cannot be written, it does not go on either.
    c.put(at.wrapping_add(core::mem::offset_of!(MemoryExchange, nr_exchanged) as u64), &x.nr_exchanged)?;
    result.map(|()| 0)
}

fn exchange_all<P: Platform>(c: &Caller<'_, P>, x: &mut MemoryExchange) -> Result<(), Stop> {
    let (input, output) = (x.input, x.output);
    let order = input.extent_order.max(output.extent_order);
    refuse_if(order > max_order(c), Errno::EPERM)?;
    let fits = |r: &MemoryReservation| u64::MAX >> r.extent_order >= r.nr_extents;
    if x.nr_exchanged > input.nr_extents
        || input.domid != output.domid
        || !fits(&input)
        || !fits(&output)
        || input.nr_extents << input.extent_order != output.nr_extents << output.extent_order
    {
        return Err(Errno::EINVAL.into());
    }
    let (domain, limit) = (c.target(input.domid)?, limit(output.mem_flags).ok_or(Errno::EINVAL)?);
    // A chunk is the larger of the two extents, and so many of the input's.
    let inputs = 1u64 << (order - input.extent_order);
    let begin = x.nr_exchanged / inputs;
    let mut pools = Pools { c, domain, input, output, taken: List::EMPTY, new: List::EMPTY };
    for chunk in begin..input.nr_extents / inputs {
        if chunk > begin && c.core.platform.preempt() {
            return Err(Stop::PREEMPTED);
        }
        let got = pools.fill(chunk * inputs..(chunk + 1) * inputs, limit);
        let told = pools.settle(chunk << order >> output.extent_order, got.is_ok());
        got?;
        x.nr_exchanged = (chunk + 1) * inputs;
        told?;
    }
    x.nr_exchanged = input.nr_extents;
    Ok(())
}

/// An exchange, and the frames of one of its chunks, which belong to nobody while they are here: those taken one by one,
/// of new ones the first of each extent.
struct Pools<'a, P: Platform> {
    c: &'a Caller<'a, P>,
    domain: Arc<Domain<P>>,
    input: MemoryReservation,
    output: MemoryReservation,
    taken: List,
    new: List,
}

impl<P: Platform> Pools<'_, P> {
    /// Takes the frames of these extents of the input, and new ones below `limit` for them.
    fn fill(&mut self, extents: Range<u64>, limit: u64) -> Result<(), Stop> {
        let core = self.c.core;
        let mut frames = 0u64;
        for extent in extents {
            let first: Mfn = self.c.get_at(self.input.extent_start.0, extent)?;
            for offset in 0..1u64 << self.input.extent_order {
                let frame = core.frames.get(Mfn(first.0.wrapping_add(offset))).ok_or(Errno::EINVAL)?;
                core.steal(&self.domain, frame)?;
                self.taken.push(&core.frames, frame);
                frames += 1;
            }
        }
        let order = self.output.extent_order as u8;
        for _ in 0..frames >> order {
            self.new.push(&core.frames, core.take_cleared(order, limit)?);
        }
        Ok(())
    }

    /// Makes the exchange, or undoes it. The output's extents, from `extent` on, say which PFN each is to be and hear
    /// which frame it is.
    fn settle(&mut self, mut extent: u64, done: bool) -> Result<(), Stop> {
        let (c, core, list) = (self.c, self.c.core, self.output.extent_start.0);
        let (taken, new) = ((&mut self.taken, 0), (&mut self.new, self.output.extent_order as u8));
        let ((free, free_order), (give, order)) = if done { (taken, new) } else { (new, taken) };
        while let Some(first) = free.pop(&core.frames) {
            core.frames.block(first, free_order).for_each(|frame| core.free_frame(frame));
        }
        let mut told = Ok(());
        while let Some(first) = give.pop(&core.frames) {
            if done {
                let named = c.get_at(list, extent).map(|pfn| core.set_pfns(first, order, pfn));
                told = told.and(named).and(c.put_at(list, extent, &first.mfn()));
                extent += 1;
            } else {
                // It lost its type, but a TLB may remember that it was writable.
                core.flush(core.stale(core.online(), core.frames.info(first).stamp()), Flush::All);
            }
            // A domain that began to die has been taken apart already.
            let _ = core.give(&self.domain, first, order);
        }
        told
    }
}

fn question<P: Platform>(c: &Caller<'_, P>, kind: MemoryOp, at: u64) -> HcResult {
    let which: MemoryDomain = c.get(at)?;
    let domain = c.target(which.domid)?;
    let account = domain.memory.lock();
    Ok(match kind {
        MemoryOp::CURRENT_RESERVATION => account.pages as i64,
        MemoryOp::MAXIMUM_RESERVATION => account.max_pages as i64,
        _ => {
            let pfns = guest::load(&c.core.platform, domain.shared_info, MAX_PFN_WORD);
            pfns.max(1) as i64 - 1
        }
    })
}

/// The frames that the machine-to-physical table is on, one for each 2 MiB of it.
fn machphys_mfn_list<P: Platform>(c: &Caller<'_, P>, at: u64) -> HcResult {
    const STEP: u64 = 2 << 20;
    let mut list: MachphysMfnList = c.get(at)?;
    let bytes = c.core.frames.count() as u64 * 8;
    let mut written = 0;
    while written < list.max_extents && u64::from(written) * STEP < bytes {
        let va = Vaddr(MACH2PHYS_VIRT_START.0 + u64::from(written) * STEP);
        let [.., large, small] = c.core.walk(c.space()?, va);
        let leaf = if large.has(PteFlags::PSE) { large } else { small };
        if !leaf.present() {
            break;
        }
        c.put_at(list.extent_start.0, u64::from(written), &leaf.mfn())?;
        written += 1;
    }
    list.nr_extents = written;
    c.answer(at, &list)
}

fn memory_map<P: Platform>(c: &Caller<'_, P>, at: u64) -> HcResult {
    let map: MemoryMap = c.get(at)?;
    // Told under the lock, since the builder may set another; it is small.
    let account = c.domain.memory.lock();
    tell_regions(c, at, map, &account.memory_map)
}

fn machine_memory_map<P: Platform>(c: &Caller<'_, P>, at: u64) -> HcResult {
    c.need(Privilege::HARDWARE)?;
    let map: MemoryMap = c.get(at)?;
    // Xen wants room for one more than there are.
    refuse_if(map.nr_entries as usize <= c.core.frames.memory_map.len(), Errno::EINVAL)?;
    tell_regions(c, at, map, c.core.frames.memory_map)
}

fn tell_regions<P: Platform>(c: &Caller<'_, P>, at: u64, mut map: MemoryMap, regions: &[E820Entry]) -> HcResult {
    refuse_if(regions.is_empty(), Errno::ENOSYS)?;
    let counted = map.buffer == Vaddr::NULL;
    let told = if counted { 0 } else { regions.len().min(map.nr_entries as usize) };
    for (index, region) in (0..).zip(regions.iter().take(told)) {
        c.put_at(map.buffer.0, index, region)?;
    }
    map.nr_entries = if counted { regions.len() } else { told } as u32;
    c.answer(at, &map)
}

fn set_memory_map<P: Platform>(c: &Caller<'_, P>, at: u64) -> HcResult {
    let new: ForeignMemoryMap = c.get(at)?;
    refuse_if(new.map.nr_entries > MAX_REGIONS, Errno::EINVAL)?;
    let domain = c.target(new.domid)?;
    c.need(Privilege::BUILDER)?;
    let mut regions: Vec<E820Entry> = Vec::new();
    regions.try_reserve_exact(new.map.nr_entries as usize).map_err(|_| Errno::ENOMEM)?;
    for index in 0..u64::from(new.map.nr_entries) {
        regions.push(c.get_at(new.map.buffer.0, index)?);
    }
    domain.memory.lock().memory_map = regions;
    Ok(0)
}
