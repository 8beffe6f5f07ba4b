//! Copying between granted frames, and the caller's own.

use abi::grant::{Copy, CopyPtr, GrantStatus};
use abi::{DomId, GrantRef, Mfn, PAGE_SIZE};
use alloc::sync::Arc;

use crate::{Core, Domain, Frame, Platform, guest, refuse_if};

/// One end of a copy, with its references held.
struct End<P: Platform> {
    /// What it was asked for as: whose, by which number, and whether that is a grant's.
    name: (DomId, u64, bool),
    frame: Frame,
    /// The pin, where it is a grant.
    pin: Option<(Arc<Domain<P>>, GrantRef)>,
}

/// A run of copies for one domain. Ends that the next copy has in common with the one before are not taken again.
pub struct Copier<'a, P: Platform> {
    core: &'a Core<P>,
    domain: &'a Arc<Domain<P>>,
    source: Option<End<P>>,
    dest: Option<End<P>>,
}

impl<'a, P: Platform> Copier<'a, P> {
    /// A copier for a domain.
    pub fn new(core: &'a Core<P>, domain: &'a Arc<Domain<P>>) -> Self {
        Self { core, domain, source: None, dest: None }
    }

    /// Makes one copy.
    ///
    /// PERMISSION_DENIED: a frame of another domain, not by grant. BAD_DOMAIN, BAD_GNTREF: no such. BAD_PAGE: no frame
    /// of the domain's. GENERAL_ERROR: not granted, or the destination cannot be written. BAD_COPY_ARG: it crosses the
    /// end of a page.
    #[inline]
    pub fn copy(&mut self, op: &Copy) -> Result<(), GrantStatus> {
        let from = self.end(false, &op.source, op.flags & Copy::SOURCE_GREF != 0)?;
        let to = self.end(true, &op.dest, op.flags & Copy::DEST_GREF != 0)?;
        let (from, to) = ((from, usize::from(op.source.offset)), (to, usize::from(op.dest.offset)));
        let len = usize::from(op.len);
        refuse_if(from.1 + len > PAGE_SIZE || to.1 + len > PAGE_SIZE, GrantStatus::BAD_COPY_ARG)?;
        guest::copy(&self.core.platform, from, to, len);
        Ok(())
    }

    /// What is held of the end that is written, or of the one that is read.
    #[inline(always)]
    fn held(&mut self, write: bool) -> &mut Option<End<P>> {
        if write { &mut self.dest } else { &mut self.source }
    }

    /// The frame of an end: the same as before, or taken now.
    #[inline(always)]
    fn end(&mut self, write: bool, ptr: &CopyPtr, granted: bool) -> Result<Frame, GrantStatus> {
        let name = (ptr.domid, if granted { ptr.frame & 0xffff_ffff } else { ptr.frame }, granted);
        match self.held(write) {
            Some(end) if end.name == name => Ok(end.frame),
            _ => self.take(write, name),
        }
    }

    /// Takes an end in place of the one before.
    #[inline(never)]
    fn take(&mut self, write: bool, name: (DomId, u64, bool)) -> Result<Frame, GrantStatus> {
        self.give_up(write);
        let (core, caller) = (self.core, self.domain);
        let (domid, number, granted) = name;
        let own = domid == DomId::SELF;
        let (frame, pin) = if granted {
            let granter = if own { caller.clone() } else { core.domains.get(domid).ok_or(GrantStatus::BAD_DOMAIN)? };
            let gref = GrantRef(number as u32);
            (core.pin_grant(&granter, gref, caller.id, write, false)?, Some((granter, gref)))
        } else {
            refuse_if(!own, GrantStatus::PERMISSION_DENIED)?;
            (core.use_granted(caller, Mfn(number), write)?, None)
        };
        Ok(self.held(write).insert(End { name, frame, pin }).frame)
    }

    /// Gives the references of an end back.
    fn give_up(&mut self, write: bool) {
        let Some(End { frame, pin, .. }) = self.held(write).take() else { return };
        self.core.unuse_granted(frame, write);
        if let Some((granter, gref)) = pin {
            self.core.unpin_grant(&granter, gref, write);
        }
    }
}

impl<P: Platform> Drop for Copier<'_, P> {
    fn drop(&mut self) {
        self.give_up(false);
        self.give_up(true);
    }
}
