//! Copies by the hypervisor: nothing is mapped.

use crate::page::Pages;
use crate::{counts, hypercall};
use abi::grant::{Copy as WireCopy, CopyPtr, GrantOp, GrantStatus};
use abi::{DomId, GrantRef};
use alloc::vec::Vec;

/// One side of a copy: where in which page.
#[derive(Clone, Copy, Debug)]
pub enum CopyEnd<'a> {
    /// A page of a peer, by its grant.
    Grant(DomId, GrantRef, u16),
    /// Own memory at an offset, within one page.
    Own(&'a Pages, usize),
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

impl CopyEnd<'_> {
    fn wire(self) -> (CopyPtr, bool) {
        let (frame, domid, offset, grant) = match self {
            Self::Grant(dom, gref, offset) => (u64::from(gref.0), dom, offset, true),
            Self::Own(pages, offset) => {
                let at = pages.maddr(offset);
                (at.mfn().0, DomId::SELF, at.page_offset() as u16, false)
            }
        };
        (CopyPtr { frame, domid, offset, ..CopyPtr::default() }, grant)
    }
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

fn wire(request: &CopyRequest<'_>) -> WireCopy {
    let (source, from_grant) = request.from.wire();
    let (dest, to_grant) = request.to.wire();
    let flags = if from_grant { WireCopy::SOURCE_GREF } else { 0 } | if to_grant { WireCopy::DEST_GREF } else { 0 };
    WireCopy { source, dest, len: request.len, flags, status: GrantStatus::GENERAL_ERROR, ..WireCopy::default() }
}
