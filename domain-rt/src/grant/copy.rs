//! Copies by the hypervisor: nothing is mapped.

use crate::page::Pages;
use crate::{counts, hypercall};
use abi::grant::{Copy as WireCopy, CopyPtr, GrantOp, GrantStatus};
use abi::{DomId, GrantRef};
use alloc::vec::Vec;
use core::marker::PhantomData;

/// One side of a copy: where in which page.
#[derive(Clone, Copy, Debug)]
pub struct CopyEnd<'a> {
    ptr: CopyPtr,
    granted: bool,
    /// Own memory is there until the copy is made.
    memory: PhantomData<&'a Pages>,
}

impl<'a> CopyEnd<'a> {
    /// In a page of a peer's, by its grant.
    #[inline]
    pub fn grant(peer: DomId, gref: GrantRef, offset: u16) -> Self {
        let ptr = CopyPtr { frame: u64::from(gref.0), domid: peer, offset, ..CopyPtr::default() };
        Self { ptr, granted: true, memory: PhantomData }
    }

    /// In own memory, at an offset; to the end of that page at most.
    ///
    /// # Panics
    /// If `offset` is outside.
    #[inline]
    pub fn own(pages: &'a Pages, offset: usize) -> Self {
        let at = pages.maddr(offset);
        let (frame, offset) = (at.mfn().0, at.page_offset() as u16);
        let ptr = CopyPtr { frame, domid: DomId::SELF, offset, ..CopyPtr::default() };
        Self { ptr, granted: false, memory: PhantomData }
    }
}

/// A copy within one page on each side.
#[derive(Clone, Copy, Debug)]
pub struct CopyRequest<'a> {
    /// From.
    pub from: CopyEnd<'a>,
    /// To.
    pub to: CopyEnd<'a>,
    /// Bytes.
    pub len: u16,
}

/// Does copies in batches. Kept and used again, it allocates nothing.
#[derive(Debug, Default)]
pub struct Copier {
    calls: Vec<WireCopy>,
}

impl Copier {
    /// Does the copies with one hypercall, or with none if there are none; [`statuses`](Self::statuses) says how it went.
    pub fn run<'a>(&mut self, requests: impl Iterator<Item = CopyRequest<'a>>) {
        self.calls.clear();
        self.calls.extend(requests.map(|request| wire(&request)));
        if !self.calls.is_empty() {
            // If the call itself fails, the statuses are as they were set.
            // SAFETY: what is written is a peer's page or `Pages`, borrowed until this returns and never by reference
            // into their bytes; the hypervisor refuses a copy that leaves its page.
            let _ = unsafe { hypercall::grant_table_op(GrantOp::COPY, &mut self.calls) };
        }
        let done = self.calls.iter().filter(|call| call.status == GrantStatus::OKAY);
        let (count, bytes) = done.fold((0, 0), |(count, bytes), call| (count + 1, bytes + u64::from(call.len)));
        counts::COPIES.add(count);
        counts::COPIED_BYTES.add(bytes);
    }

    /// A status for each copy of the last run, in order.
    pub fn statuses(&self) -> impl ExactSizeIterator<Item = GrantStatus> {
        self.calls.iter().map(|call| call.status)
    }
}

fn wire(CopyRequest { from, to, len }: &CopyRequest<'_>) -> WireCopy {
    let flags = if from.granted { WireCopy::SOURCE_GREF } else { 0 } | if to.granted { WireCopy::DEST_GREF } else { 0 };
    let status = GrantStatus::GENERAL_ERROR;
    WireCopy { source: from.ptr, dest: to.ptr, len: *len, flags, status, ..WireCopy::default() }
}
