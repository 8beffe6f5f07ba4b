//! Mappings of frames that are not RAM: a device's registers.

use abi::{Errno, Pte};

use super::entry::{self, CACHE, RW};
use super::{MappedOwner, Session};
use crate::{Domain, Platform, Privilege};

/// Was the domain given anything of the machine, so that it has to do with caches and large blocks?
pub fn has_devices<P: Platform>(domain: &Domain<P>) -> bool {
    domain.privilege.contains(Privilege::HARDWARE) || !domain.devices.lock().frames.is_empty()
}

impl<P: Platform> Session<'_, P> {
    /// The L1 entry for a mapping of what is not RAM: read-only where nobody may write. There is nothing to count.
    ///
    /// EPERM: not given to the domain, or to the caller on whose authority it is mapped. EINVAL: the same, for an entry
    /// that none but a device's owner could have: with cacheability, or what becomes of INVALID_MFN.
    pub(super) fn get_io(&self, pte: Pte, owner: &MappedOwner<'_, P>) -> Result<Pte, Errno> {
        let (MappedOwner::Domain(owner) | MappedOwner::Io(owner)) = owner;
        let mfn = pte.mfn();
        let odd = pte.0 & CACHE != 0 || pte.0 & Pte::MFN_MASK == Pte::MFN_MASK;
        let refuse = |errno| if odd { Errno::EINVAL } else { errno };
        let writable = self.core.may_map(owner, mfn).map_err(refuse)?;
        if owner.id != self.domain.id {
            self.core.may_map(self.domain, mfn).map_err(refuse)?;
        }
        Ok(entry::adjust_l1(if writable { pte } else { Pte(pte.0 & !RW) }))
    }
}
