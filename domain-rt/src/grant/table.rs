//! The domain's grant table.

use super::{Access, GrantError};
use crate::hypercall;
use crate::memory::Window;
use crate::page::Pages;
use crate::sync::Local;
use abi::grant::{ENTRIES_PER_FRAME, GrantEntryV1, GrantOp, GrantStatus, NR_RESERVED_ENTRIES, QuerySize, SetupTable};
use abi::{DomId, Errno, GrantRef, Mfn, PAGE_SIZE, PteFlags, Vaddr};
use alloc::vec;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

struct Table {
    /// Addresses for every frame the table may ever have.
    window: Window,
    /// Frames mapped, the first of the window.
    frames: u32,
    free: Vec<GrantRef>,
    /// Pages whose grants a peer still uses.
    limbo: Vec<(Pages, Vec<GrantRef>)>,
}

static TABLE: Local<Option<Table>> = Local::new(None);

/// Sets up the first frame of the table.
pub fn init() -> Result<(), Errno> {
    let mut size = QuerySize { dom: DomId::SELF, ..QuerySize::default() };
    // SAFETY: it only fills the structure.
    unsafe { hypercall::grant_table_op(GrantOp::QUERY_SIZE, core::slice::from_mut(&mut size))? };
    if size.status != GrantStatus::OKAY || size.max_nr_frames == 0 {
        return Err(Errno::EINVAL);
    }
    let window = Window::reserve(size.max_nr_frames as usize).map_err(|_| Errno::ENOMEM)?;
    let mut table = Table { window, frames: 0, free: Vec::new(), limbo: Vec::new() };
    table.grow()?;
    *TABLE.lock() = Some(table);
    Ok(())
}

fn with<T>(f: impl FnOnce(&mut Table) -> T) -> T {
    f(TABLE.lock().as_mut().expect("grant::init runs before any grant"))
}

impl Table {
    /// Adds a frame.
    fn grow(&mut self) -> Result<(), Errno> {
        let frames = self.frames + 1;
        if frames as usize > self.window.pages() {
            return Err(Errno::ENOSPC);
        }
        let mut list = vec![Mfn::INVALID; frames as usize];
        let mut setup = SetupTable {
            dom: DomId::SELF,
            nr_frames: frames,
            frame_list: Vaddr(list.as_mut_ptr() as u64),
            ..SetupTable::default()
        };
        // SAFETY: the list has room for the frames asked for.
        unsafe { hypercall::grant_table_op(GrantOp::SETUP_TABLE, core::slice::from_mut(&mut setup))? };
        if setup.status != GrantStatus::OKAY {
            return Err(Errno::ENOSPC);
        }
        let new = list.last().copied().into_iter();
        self.window.map(self.frames as usize, new, PteFlags::NONE, DomId::SELF)?;
        let first = (self.frames * ENTRIES_PER_FRAME).max(NR_RESERVED_ENTRIES);
        self.frames = frames;
        self.free.extend((first..frames * ENTRIES_PER_FRAME).rev().map(GrantRef));
        Ok(())
    }

    /// A field of an entry.
    fn field(&self, grant: GrantRef, offset: usize) -> *mut u8 {
        assert!(grant.0 < self.frames * ENTRIES_PER_FRAME, "grant {grant:?} beyond the table");
        let at = grant.0 as usize * size_of::<GrantEntryV1>() + offset;
        (self.window.address(at / PAGE_SIZE).0 as usize + at % PAGE_SIZE) as *mut u8
    }

    fn flags(&self, grant: GrantRef) -> &AtomicU16 {
        // SAFETY: inside the mapped table (checked by `field`), aligned, and only used through atomics.
        unsafe { AtomicU16::from_ptr(self.field(grant, offset_of!(GrantEntryV1, flags)).cast()) }
    }

    fn peer(&self, grant: GrantRef) -> &AtomicU16 {
        // SAFETY: as in `flags`.
        unsafe { AtomicU16::from_ptr(self.field(grant, offset_of!(GrantEntryV1, domid)).cast()) }
    }

    fn frame(&self, grant: GrantRef) -> &AtomicU32 {
        // SAFETY: as in `flags`.
        unsafe { AtomicU32::from_ptr(self.field(grant, offset_of!(GrantEntryV1, frame)).cast()) }
    }

    /// Ends a grant; false if the peer has the page mapped or is being copied to or from.
    fn end(&mut self, grant: GrantRef) -> bool {
        const IN_USE: u16 = GrantEntryV1::GTF_READING | GrantEntryV1::GTF_WRITING;
        let end = |flags: u16| (flags & IN_USE == 0).then_some(GrantEntryV1::GTF_INVALID);
        // The hypervisor sets a use and checks the permission in one atomic step as well.
        let ended = self.flags(grant).fetch_update(Ordering::SeqCst, Ordering::Relaxed, end).is_ok();
        if ended {
            self.free.push(grant);
        }
        ended
    }

    /// Tries again to end what a peer had still used, and frees pages that nobody uses any more.
    fn sweep(&mut self) {
        for (pages, mut grants) in core::mem::take(&mut self.limbo) {
            grants.retain(|grant| !self.end(*grant));
            if !grants.is_empty() {
                self.limbo.push((pages, grants));
            }
        }
    }
}

/// Lets `peer` use a frame.
pub(super) fn allow(peer: DomId, mfn: Mfn, access: Access) -> Result<GrantRef, GrantError> {
    let frame = u32::try_from(mfn.0).map_err(|_| GrantError::FrameTooHigh)?;
    with(|table| {
        if table.free.is_empty() {
            table.sweep();
        }
        if table.free.is_empty() {
            table.grow().map_err(|_| GrantError::TableFull)?;
        }
        let grant = table.free.pop().ok_or(GrantError::TableFull)?;
        table.frame(grant).store(frame, Ordering::Relaxed);
        table.peer(grant).store(peer.0, Ordering::Relaxed);
        let flags = match access {
            Access::ReadOnly => GrantEntryV1::GTF_PERMIT_ACCESS | GrantEntryV1::GTF_READONLY,
            Access::ReadWrite => GrantEntryV1::GTF_PERMIT_ACCESS,
        };
        table.flags(grant).store(flags, Ordering::Release);
        Ok(grant)
    })
}

/// Ends grants of `pages` and frees them; what a peer still uses is kept aside, with its pages, until it no longer
/// does.
pub(super) fn retire(pages: Pages, mut grants: Vec<GrantRef>) {
    // The pages are dropped after the table's lock.
    let _freed = with(|table| {
        grants.retain(|grant| !table.end(*grant));
        if grants.is_empty() {
            return Some(pages);
        }
        table.limbo.push((pages, grants));
        None
    });
}

/// Pages that cannot be used again because a peer has not let go of them.
pub fn limbo() -> usize {
    with(|table| {
        table.sweep();
        table.limbo.iter().map(|(pages, _)| pages.count()).sum()
    })
}
