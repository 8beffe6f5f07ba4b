//! `mmu_update` (1): a batch of page-table and machine-to-physical updates.
//!
//! - Arguments: the address of an array of requests; how many; the address of a u32 that is raised by the number done,
//!   or 0; whose (low half: the domain whose frames new entries name; high half: 1 + the domain whose tables they are,
//!   or 0 for the caller).
//! - Returns: 0 when all are done, else the error of the first that is not. Those before it stay done.
//! - Faults: EINVAL: not a frame of the domain's, or an entry or slot that may not be. EBUSY: an L1 entry names a frame
//!   that is not the domain's, or writable what is a table. EPERM: another domain without the builder's privilege, or
//!   a frame that is not RAM and was not given. ESRCH: no such domain; the caller by its own number. ENOSYS: an unknown
//!   kind. EFAULT.
//! - Notes: a frame that is no table is simply written. No flush is done that the guest did not ask for, but a frame
//!   changes its type only after one. Preemptible: the count's top bit marks what is left.
//! - Source: `xen.h`.

use alloc::sync::Arc;

use abi::mmu::{MMU_UPDATE_PREEMPTED, MmuUpdate, MmuUpdateKind};
use abi::{DomId, Errno, Mfn, PAGE_SHIFT, Pte};
use zerocopy::FromZeros;

use crate::mm::{MappedOwner, Session, Store};
use crate::{Args, Caller, Domain, Frame, HcResult, PageType, Platform, Privilege, Stop, guest, refuse_if};

/// Requests copied in at once.
const CHUNK: usize = 8;
const PREEMPTED: u64 = MMU_UPDATE_PREEMPTED as u64;

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let who = a[3];
    let tables = table_owner(c, who as u32)?;
    let tables = tables.as_deref().unwrap_or(c.domain);
    let frames = FrameOwner::find(c, DomId(who as u16))?;
    batch(c, a, tables, size_of::<MmuUpdate>(), |c, requests, count, made| {
        let mut batch = Batch { tables, frames: &frames, session: c.core.mm(tables), cached: None };
        (batch.run(c, requests, count, made), batch.session.finish().is_err())
    })
}

/// What `mmu_update` and `mmuext_op` have in common: `run` is given the requests' address, how many they are, and what
/// to raise with each that is done; it returns the result, and whether something of what was let go of is unfinished.
///
/// The count's top bit marks a batch that is resumed; without requests, one of which nothing is left but what it let
/// go of in `owner`'s tables, with its result where `done_at` was.
pub(super) fn batch<'a, P: Platform>(
    c: &mut Caller<'a, P>,
    a: &mut Args,
    owner: &Domain<P>,
    bytes: usize,
    run: impl FnOnce(&mut Caller<'a, P>, u64, u32, &mut u32) -> (HcResult, bool),
) -> HcResult {
    let [requests, count, done_at, who, _] = *a;
    if requests == 0 && count == PREEMPTED {
        if owner.id != c.domain.id {
            c.need(Privilege::BUILDER)?;
        }
        c.core.mm(owner).finish()?;
        return Ok(i64::from(done_at as i32));
    }
    let resumed = count & PREEMPTED != 0;
    let count = count as u32 & !MMU_UPDATE_PREEMPTED;
    let mut made = 0;
    let (mut result, unfinished) = run(c, requests, count, &mut made);
    if result == Err(Stop::PREEMPTED) {
        let at = requests.wrapping_add(u64::from(made) * bytes as u64);
        *a = [at, u64::from(count - made) | PREEMPTED, done_at, who, 0];
    } else if unfinished {
        let code = match result {
            Err(Stop::PREEMPTED | Stop::REPLACED) => 0,
            Ok(value) | Err(Stop(value)) => value,
        };
        *a = [0, PREEMPTED, code as u64, who, 0];
        result = Err(Stop::PREEMPTED);
    }
    if done_at != 0 {
        let done: u32 = if resumed { c.get(done_at).unwrap_or(0) } else { 0 };
        // That it cannot be written changes nothing about what was done.
        let _ = c.put(done_at, &done.wrapping_add(made));
    }
    result
}

/// The domain whose tables are meant, where it is named; else the caller's own are.
fn table_owner<P: Platform>(c: &Caller<'_, P>, who: u32) -> Result<Option<Arc<Domain<P>>>, Errno> {
    match (who >> 16) as u16 {
        0 => Ok(None),
        id => c.core.domains.get(DomId(id - 1)).map(Some).ok_or(Errno::ESRCH),
    }
}

/// Whose frames a hypercall's argument names.
pub(super) enum FrameOwner<P: Platform> {
    Caller,
    Other(Arc<Domain<P>>),
    Io,
}

impl<P: Platform> FrameOwner<P> {
    /// ESRCH where there is no such domain, or the caller named itself by its number, as in Xen.
    pub(super) fn find(c: &Caller<'_, P>, id: DomId) -> Result<Self, Errno> {
        match id {
            DomId::SELF => Ok(Self::Caller),
            DomId::IO => Ok(Self::Io),
            _ if id == c.domain.id => Err(Errno::ESRCH),
            _ => c.core.domains.get(id).map(Self::Other).ok_or(Errno::ESRCH),
        }
    }

    /// The domain, if it is one.
    pub(super) fn domain<'a>(&'a self, c: &Caller<'a, P>) -> Option<&'a Domain<P>> {
        match self {
            Self::Caller => Some(c.domain),
            Self::Other(domain) => Some(domain),
            Self::Io => None,
        }
    }

    /// For new L1 entries.
    pub(super) fn mapped<'a>(&'a self, c: &Caller<'a, P>) -> MappedOwner<'a, P> {
        self.domain(c).map_or(MappedOwner::Io(c.domain), MappedOwner::Domain)
    }
}

struct Batch<'a, P: Platform> {
    tables: &'a Domain<P>,
    frames: &'a FrameOwner<P>,
    session: Session<'a, P>,
    /// The L1 table of the last request, for as long as only L1 entries were changed since: it cannot have become
    /// anything else.
    cached: Option<(Mfn, Frame)>,
}

impl<'a, P: Platform> Batch<'a, P> {
    fn run(&mut self, c: &Caller<'a, P>, requests: u64, count: u32, made: &mut u32) -> HcResult {
        let foreign = matches!(self.frames, FrameOwner::Other(_)) || self.tables.id != c.domain.id;
        let mapped = self.frames.mapped(c);
        if count == 1 && !foreign {
            self.session.finish().and_then(|()| self.request(c, &c.get(requests)?, &mapped))?;
            *made = 1;
            return Ok(0);
        }
        let mut chunk = [MmuUpdate::new_zeroed(); CHUNK];
        while *made < count {
            if *made > 0 && c.core.platform.preempt() {
                return Err(Stop::PREEMPTED);
            }
            let copied = self.fetch(c, requests, *made, count, &mut chunk)?;
            if foreign {
                c.need(Privilege::BUILDER)?;
            }
            for request in chunk.iter().take(copied) {
                // What the one before let go of may be what this one is about.
                self.session.finish()?;
                self.request(c, request, &mapped)?;
                *made += 1;
            }
        }
        Ok(0)
    }

    /// Copies requests in, as many as fit and can be read, but at least one.
    fn fetch(
        &self,
        c: &Caller<'a, P>,
        requests: u64,
        made: u32,
        count: u32,
        chunk: &mut [MmuUpdate; CHUNK],
    ) -> Result<usize, Stop> {
        let from = u64::from(made).wrapping_mul(size_of::<MmuUpdate>() as u64).wrapping_add(requests);
        for wanted in [CHUNK.min((count - made) as usize), 1] {
            let Some(some) = chunk.get_mut(..wanted) else { continue };
            if c.get_to(from, some).is_ok() {
                return Ok(wanted);
            }
        }
        Err(Errno::EFAULT.into())
    }

    fn request(&mut self, c: &Caller<'a, P>, request: &MmuUpdate, mapped: &MappedOwner<'a, P>) -> Result<(), Stop> {
        let how = match MmuUpdateKind((request.ptr & 7) as u32) {
            MmuUpdateKind::NORMAL_PT_UPDATE | MmuUpdateKind::PT_UPDATE_NO_TRANSLATE => Store::Plain,
            MmuUpdateKind::PT_UPDATE_PRESERVE_AD => Store::KeepAd,
            MmuUpdateKind::MACHPHYS_UPDATE => return Ok(self.machphys(c, request)?),
            _ => return Err(Errno::ENOSYS.into()),
        };
        let mfn = Mfn(request.ptr >> PAGE_SHIFT);
        let (table, level) = match self.cached {
            Some((cached, table)) if cached == mfn => (Some(table), 1),
            _ => self.session.table_level(mfn).map_or((None, 0), |(table, level)| (Some(table), level)),
        };
        let (index, new) = ((request.ptr >> 3 & 511) as usize, Pte(request.val));
        match table {
            Some(table) if level == 1 => {
                self.cached = Some((mfn, table));
                let old = Pte(guest::load(&c.core.platform, table, index));
                Ok(self.session.update_l1(table, index, (old, new), mapped, how)?)
            }
            Some(table) => {
                self.cached = None;
                refuse_if(self.frames.domain(c).is_none_or(|domain| domain.id != self.tables.id), Errno::EINVAL)?;
                self.session.update_table(table, level, index, new, how)
            }
            None => self.write_word(c, mfn, index, request.val),
        }
    }

    /// No table, or none in use: a word of memory.
    #[inline(never)]
    fn write_word(&self, c: &Caller<'a, P>, mfn: Mfn, index: usize, value: u64) -> Result<(), Stop> {
        let frame = c.core.get_page_and_type(mfn, self.tables, PageType::Writable)?;
        guest::store(&c.core.platform, frame, index, value);
        c.core.put_page_and_type(frame);
        Ok(())
    }

    #[inline(never)]
    fn machphys(&self, c: &Caller<'a, P>, request: &MmuUpdate) -> Result<(), Errno> {
        refuse_if(self.tables.id != c.domain.id, Errno::EPERM)?;
        let owner = self.frames.domain(c).ok_or(Errno::EINVAL)?;
        let frame = c.core.get_page(Mfn(request.ptr >> PAGE_SHIFT), owner)?;
        c.core.platform.set_m2p(frame.mfn(), request.val);
        c.core.put_page(frame);
        Ok(())
    }
}
