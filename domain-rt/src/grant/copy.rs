//! Copies by the hypervisor: nothing is mapped.

use crate::hypercall;
use crate::page::Pages;
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

/// Does the copies with one hypercall: a status each, in order.
pub fn copy(requests: &[CopyRequest<'_>]) -> Vec<GrantStatus> {
    let wire = |request: &CopyRequest<'_>| {
        let (source, from_grant) = request.from.wire();
        let (dest, to_grant) = request.to.wire();
        let flags = if from_grant { WireCopy::SOURCE_GREF } else { 0 } | if to_grant { WireCopy::DEST_GREF } else { 0 };
        let status = GrantStatus::GENERAL_ERROR;
        WireCopy { source, dest, len: request.len, flags, status, ..WireCopy::default() }
    };
    let mut calls: Vec<WireCopy> = requests.iter().map(wire).collect();
    if !calls.is_empty() {
        // If the call itself fails, the statuses are as they were set.
        // SAFETY: what is written is a peer's page or `Pages`, which nobody has references into; the hypervisor
        // refuses a copy that leaves its page.
        let _ = unsafe { hypercall::grant_table_op(GrantOp::COPY, &mut calls) };
    }
    calls.into_iter().map(|call| call.status).collect()
}
