//! Where everything goes: the start-of-day memory layout of xen.h, computed before any memory exists.
//!
//! Frames are numbered from 0, in this order, each element on its own pages:
//! kernel, ramdisk, p2m list, start_info, store page, console page, page tables (L4, L3, L2, L1), stack, padding of at
//! least 512 KiB up to a 4 MiB boundary of virtual addresses; all of that is mapped from VIRT_BASE on. A kernel that
//! says so (MOD_START_PFN) gets its ramdisk behind that, not mapped.

use abi::Pfn;
use abi::start_info::MAX_GUEST_CMDLINE;

use crate::PAGE;
use crate::image::{Image, ImageError, refuse_if, usable};
use crate::tables::Tables;

/// The most pages a domain may have here: 1 TiB.
pub const MAX_PAGES: u64 = 1 << 28;

/// The mapped part ends on a boundary of this many bytes...
const ALIGN: u64 = 4 << 20;
/// ...with at least this much padding behind the stack.
const PADDING: u64 = 512 << 10;

/// Which domain is built: the two differ in what start_info holds (xen.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The initial domain: no store page and no console page.
    Initial,
    /// Any other domain.
    Guest,
}

/// What a domain is to be made of.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The initial domain, or another.
    pub role: Role,
    /// Pages the domain gets, all numbered from 0.
    pub nr_pages: u64,
    /// Its ramdisk (start_info calls it module); empty for none.
    pub ramdisk: &'a [u8],
    /// Its command line, without a terminating zero; at most 1023 bytes.
    pub cmdline: &'a [u8],
}

/// A domain laid out: nothing is written yet, and nothing can go wrong any more but the memory itself.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(crate) image: &'a Image<'a>,
    pub(crate) request: Request<'a>,
    pub(crate) tables: Tables,
    /// The ramdisk.
    pub ramdisk: Pfn,
    /// The p2m list, 8 bytes for each page of the domain.
    pub p2m: Pfn,
    /// start_info.
    pub start_info: Pfn,
    /// The ring page of the store; meaningless in the initial domain.
    pub store: Pfn,
    /// The ring page of the console; likewise.
    pub console: Pfn,
    /// The stack, one page.
    pub stack: Pfn,
}

impl<'a> Plan<'a> {
    /// Lays out a domain.
    ///
    /// # Errors
    /// [`ImageError::TooLittleMemory`] with the pages needed; or what is wrong with the request.
    pub fn new(image: &'a Image<'a>, request: Request<'a>) -> Result<Self, ImageError> {
        refuse_if(request.cmdline.len() >= MAX_GUEST_CMDLINE, "command line longer than 1023 bytes")?;
        refuse_if(request.nr_pages > MAX_PAGES, "too many pages for one domain")?;
        let unfit = request.role == Role::Initial && !image.initial;
        refuse_if(unfit, "note SUPPORTED_FEATURES: lacks dom0, cannot be the initial domain")?;
        let mut next = image.pages;
        // Every term is below 2^40.
        let mut take = |pages: u64| {
            next += pages;
            Pfn(next - pages)
        };
        let ramdisk_pages = (request.ramdisk.len() as u64).div_ceil(PAGE);
        let mapped_ramdisk = take(if image.unmapped_ramdisk { 0 } else { ramdisk_pages });
        let p2m = take((request.nr_pages * 8).div_ceil(PAGE));
        let [start_info, store, console] = [1, 1, 1].map(&mut take);
        let tables = fit_tables(image, take(0).0)?;
        let end = tables.pages + if image.unmapped_ramdisk { ramdisk_pages } else { 0 };
        if end > request.nr_pages {
            return Err(ImageError::TooLittleMemory(end));
        }
        let ramdisk = if image.unmapped_ramdisk { Pfn(tables.pages) } else { mapped_ramdisk };
        let stack = Pfn(tables.all().end);
        Ok(Self { image, request, tables, ramdisk, p2m, start_info, store, console, stack })
    }

    /// Virtual address of `pfn` in the kernel's mapping.
    pub const fn vaddr(&self, pfn: Pfn) -> u64 {
        self.image.vaddr(pfn.0.wrapping_mul(PAGE))
    }
}

/// The tables of the mapped part: `root` pages before them, the tables (whose number depends on the length), stack and
/// padding.
fn fit_tables(image: &Image<'_>, root: u64) -> Result<Tables, ImageError> {
    let mut count = 4;
    loop {
        let bytes = (root + count + 1) * PAGE + PADDING;
        let end = image.virt_base.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(ALIGN));
        let pages = end.map(|end| (end - image.virt_base) / PAGE).filter(|&pages| usable(image.virt_base, pages));
        let pages = pages.ok_or(ImageError::Unfit("image, ramdisk and page tables do not fit the address space"))?;
        let tables = Tables::new(image.virt_base, pages, root);
        let needed = tables.all().end - root;
        if needed <= count {
            return Ok(tables);
        }
        count = needed; // grows, and is bounded by the address space
    }
}
