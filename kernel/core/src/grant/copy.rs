//! Copying between granted frames, and the caller's own.

use abi::grant::{Copy, CopyPtr, GrantStatus};
use abi::{DomId, GrantRef, Mfn, PAGE_SIZE};
use alloc::sync::Arc;

use crate::{Core, Domain, Frame, Platform, guest, refuse_if};

/// What an end of a copy is asked for as: whose, by which number, and whether that is a grant's.
type Name = (DomId, u64, bool);

/// The end that is read, or the one that is written, of a run of copies for one domain.
struct End<'a, P: Platform> {
    core: &'a Core<P>,
    caller: &'a Arc<Domain<P>>,
    write: bool,
    /// What is held, with its references.
    held: Option<(Name, Frame)>,
    /// Whose grant was last asked for; whose pin it is, where a grant is held.
    granter: Option<Arc<Domain<P>>>,
}

impl<P: Platform> End<'_, P> {
    /// The frame: the same as before, or taken now.
    #[inline(always)]
    fn frame(&mut self, ptr: &CopyPtr, granted: bool) -> Result<Frame, GrantStatus> {
        let name = (ptr.domid, if granted { ptr.frame & 0xffff_ffff } else { ptr.frame }, granted);
        match self.held {
            Some((held, frame)) if held == name => Ok(frame),
            _ => self.take(name),
        }
    }

    /// Takes a frame in place of the one before.
    #[inline(never)]
    fn take(&mut self, name: Name) -> Result<Frame, GrantStatus> {
        self.give_up();
        let (caller, (domid, number, granted)) = (self.caller, name);
        let frame = if granted {
            let id = if domid == DomId::SELF { caller.id } else { domid };
            if self.granter.as_ref().is_none_or(|granter| granter.id != id) {
                self.granter = if id == caller.id { Some(caller.clone()) } else { self.core.domains.get(id) };
            }
            let granter = self.granter.as_ref().ok_or(GrantStatus::BAD_DOMAIN)?;
            self.core.pin_grant(granter, GrantRef(number as u32), caller.id, self.write, false)?
        } else {
            refuse_if(domid != DomId::SELF, GrantStatus::PERMISSION_DENIED)?;
            self.core.use_granted(caller, Mfn(number), self.write)?
        };
        self.held = Some((name, frame));
        Ok(frame)
    }

    /// Gives its references back.
    fn give_up(&mut self) {
        let Some(((_, number, granted), frame)) = self.held.take() else { return };
        self.core.unuse_granted(frame, self.write);
        if granted && let Some(granter) = &self.granter {
            self.core.unpin_grant(granter, GrantRef(number as u32), self.write);
        }
    }
}

impl<P: Platform> Drop for End<'_, P> {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A run of copies for one domain. Ends that the next copy has in common with the one before are not taken again.
pub struct Copier<'a, P: Platform> {
    source: End<'a, P>,
    dest: End<'a, P>,
}

impl<'a, P: Platform> Copier<'a, P> {
    /// A copier for a domain.
    pub fn new(core: &'a Core<P>, caller: &'a Arc<Domain<P>>) -> Self {
        let [source, dest] = [false, true].map(|write| End { core, caller, write, held: None, granter: None });
        Self { source, dest }
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
