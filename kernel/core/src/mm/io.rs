//! Mappings of frames that are not RAM.

use abi::{Errno, Mfn};

use crate::domain::Domain;
use crate::platform::Platform;

/// Was the domain given anything of the machine, so that it may choose cacheability?
pub fn has_devices<P: Platform>(domain: &Domain<P>) -> bool {
    domain.privilege.contains(crate::Privilege::HARDWARE)
}

/// May `domain` map this frame? True: writable too.
///
/// EPERM where it was not given the frame.
pub fn access<P: Platform>(domain: &Domain<P>, mfn: Mfn) -> Result<bool, Errno> {
    let _ = (domain, mfn);
    Err(Errno::EPERM)
}
