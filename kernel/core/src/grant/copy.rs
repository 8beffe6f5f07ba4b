//! Copying between granted frames, and the caller's own.

use abi::grant::{Copy, CopyPtr, GrantStatus};
use abi::{DomId, GrantRef, Mfn, PAGE_SIZE};
use alloc::sync::Arc;

use crate::{Core, Domain, Frame, Platform, guest, refuse_if};

/// The end that is read, or the one that is written, of a run of copies for one domain.
struct End<'a, P: Platform> {
    core: &'a Core<P>,
    caller: &'a Arc<Domain<P>>,
    write: bool,
    /// A frame of the caller's, with the references of one use.
    own: Option<(Mfn, Frame)>,
    /// A granted frame, with its pin.
    pinned: Option<(DomId, GrantRef, Frame)>,
    /// Whose grant was last asked for; whose pin it is.
    granter: Option<Arc<Domain<P>>>,
}

impl<P: Platform> End<'_, P> {
    /// The frame: the same as before, or taken now.
    #[inline(always)]
    fn frame(&mut self, ptr: &CopyPtr, granted: bool) -> Result<Frame, GrantStatus> {
        match (granted, self.own, self.pinned) {
            (false, Some((mfn, frame)), _) if (ptr.domid, ptr.frame) == (DomId::SELF, mfn.0) => Ok(frame),
            (true, _, Some((domid, gref, frame))) if (ptr.domid, ptr.frame as u32) == (domid, gref.0) => Ok(frame),
            (false, ..) => self.take_own(ptr.domid, Mfn(ptr.frame)),
            (true, ..) => self.pin(ptr.domid, GrantRef(ptr.frame as u32)),
        }
    }

    /// Takes a frame of the caller's in place of the one before.
    #[inline(never)]
    fn take_own(&mut self, domid: DomId, mfn: Mfn) -> Result<Frame, GrantStatus> {
        refuse_if(domid != DomId::SELF, GrantStatus::PERMISSION_DENIED)?;
        self.leave_own();
        let frame = self.core.use_granted(self.caller, mfn, self.write)?;
        self.own = Some((mfn, frame));
        Ok(frame)
    }

    /// Pins a grant in place of the one before.
    #[inline(never)]
    fn pin(&mut self, domid: DomId, gref: GrantRef) -> Result<Frame, GrantStatus> {
        self.unpin();
        let id = if domid == DomId::SELF { self.caller.id } else { domid };
        if self.granter.as_ref().is_none_or(|granter| granter.id != id) {
            self.granter = if id == self.caller.id { Some(self.caller.clone()) } else { self.core.domains.get(id) };
        }
        let granter = self.granter.as_ref().ok_or(GrantStatus::BAD_DOMAIN)?;
        let frame = self.core.pin_grant(granter, gref, self.caller.id, self.write, false)?;
        self.pinned = Some((domid, gref, frame));
        Ok(frame)
    }

    fn leave_own(&mut self) {
        self.own.take().into_iter().for_each(|(_, frame)| self.core.unuse_granted(frame, self.write));
    }

    fn unpin(&mut self) {
        if let (Some((_, gref, frame)), Some(granter)) = (self.pinned.take(), &self.granter) {
            self.core.unuse_granted(frame, self.write);
            self.core.unpin_grant(granter, gref, self.write);
        }
    }
}

impl<P: Platform> Drop for End<'_, P> {
    fn drop(&mut self) {
        self.leave_own();
        self.unpin();
    }
}

/// A run of copies for one domain. What a copy has in common with those before it is not taken again: of each end the last
/// frame of the caller's, and the last grant.
pub struct Copier<'a, P: Platform> {
    source: End<'a, P>,
    dest: End<'a, P>,
}

impl<'a, P: Platform> Copier<'a, P> {
    /// A copier for a domain.
    pub fn new(core: &'a Core<P>, caller: &'a Arc<Domain<P>>) -> Self {
        let end = |write| End { core, caller, write, own: None, pinned: None, granter: None };
        Self { source: end(false), dest: end(true) }
    }

    /// Makes one copy.
    ///
    /// PERMISSION_DENIED: a frame of another domain, not by grant. BAD_DOMAIN, BAD_GNTREF: no such. BAD_PAGE: no frame
    /// of the domain's. GENERAL_ERROR: not granted, or the destination cannot be written. BAD_COPY_ARG: it crosses the
    /// end of a page.
    #[inline]
    pub fn copy(&mut self, op: &Copy) -> Result<(), GrantStatus> {
        let from = self.source.frame(&op.source, op.flags & Copy::SOURCE_GREF != 0)?;
        let to = self.dest.frame(&op.dest, op.flags & Copy::DEST_GREF != 0)?;
        let [read, write, len] = [op.source.offset, op.dest.offset, op.len].map(usize::from);
        refuse_if(read.max(write) + len > PAGE_SIZE, GrantStatus::BAD_COPY_ARG)?;
        guest::copy(&self.source.core.platform, (from, read), (to, write), len);
        Ok(())
    }
}
