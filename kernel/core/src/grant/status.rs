//! The word of a grant entry, which the granter and the core change at once.
//!
//! An entry is one 64-bit word: flags, the domain it is for, the frame. The core only ever exchanges it as a whole,
//! so that the frame it reads is the one that was granted to this domain with these flags. While it is in use the
//! core has GTF_reading (and GTF_writing) set; the granter revokes an entry by exchanging flags without them for 0.

use core::sync::atomic::Ordering::SeqCst;

use abi::grant::{GrantEntryV1 as Entry, GrantStatus};
use abi::{DomId, Mfn};

use crate::sync::atomic::AtomicU64;

/// How often the granter may change the entry under our hands before that is its fault.
const TRIES: usize = 5;

/// Marks an entry as in use by `who`; returns the frame.
///
/// GENERAL_ERROR where it does not grant that: no access, another domain, read-only and to be written, part of a page
/// and to be mapped `whole`; and where the granter does not stop changing it.
pub fn claim(entry: &AtomicU64, who: DomId, write: bool, whole: bool) -> Result<Mfn, GrantStatus> {
    let mut mask = Entry::GTF_TYPE_MASK;
    if whole {
        mask |= Entry::GTF_SUB_PAGE;
    }
    if write {
        mask |= Entry::GTF_READONLY;
    }
    let wanted = u64::from(who.0) << 16 | u64::from(Entry::GTF_PERMIT_ACCESS);
    let in_use = u64::from(Entry::GTF_READING | if write { Entry::GTF_WRITING } else { 0 });
    let mut old = entry.load(SeqCst);
    for _ in 0..TRIES {
        if old & (0xffff << 16 | u64::from(mask)) != wanted {
            break;
        }
        match entry.compare_exchange(old, old | in_use, SeqCst, SeqCst) {
            Ok(_) => return Ok(Mfn(old >> 32)),
            Err(now) => old = now,
        }
    }
    Err(GrantStatus::GENERAL_ERROR)
}

/// Marks an entry as no longer written, or no longer in use at all.
pub fn release(entry: &AtomicU64, written: bool, all: bool) {
    let writing = if written { u64::from(Entry::GTF_WRITING) } else { 0 };
    let reading = if all { u64::from(Entry::GTF_READING) } else { 0 };
    entry.fetch_and(!(writing | reading), SeqCst);
}
