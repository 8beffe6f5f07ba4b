//! Where everything goes: the start-of-day memory layout of xen.h, computed before any memory exists.
//!
//! Frames are numbered from 0, in this order, each element on its own pages:
//! kernel, ramdisk, p2m list, start_info, store page, console page, page tables (L4, L3, L2, L1), stack, padding of at
//! least 512 KiB up to a 4 MiB boundary of virtual addresses; all of that is mapped from VIRT_BASE on. Behind the
//! mapped part follow, only where the image's notes allow it, the p2m list with the tables that map it at INIT_P2M, and
//! a ramdisk that is not mapped at all (MOD_START_PFN).

use core::ops::Range;

use abi::Pfn;
use abi::start_info::MAX_GUEST_CMDLINE;

use crate::PAGE;
use crate::error::ImageError;
use crate::features::DOM0;
use crate::image::Image;
use crate::space::{pages, usable};
use crate::tables::{Span, Tables};

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

/// The ramdisk (start_info calls it module).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ramdisk<'a> {
    /// None.
    #[default]
    None,
    /// The builder copies these bytes.
    Copy(&'a [u8]),
    /// So many bytes are in place already: the caller gave the domain the very frames they are in.
    InPlace(u64),
}

impl Ramdisk<'_> {
    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Copy(bytes) => bytes.len() as u64,
            Self::InPlace(len) => *len,
        }
    }

    /// Whether there is no ramdisk, or one without a byte.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a domain is to be made of.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The initial domain, or another.
    pub role: Role,
    /// Pages the domain gets, all numbered from 0.
    pub nr_pages: u64,
    /// Its ramdisk.
    pub ramdisk: Ramdisk<'a>,
    /// Its command line, without a terminating zero; at most 1023 bytes.
    pub cmdline: &'a [u8],
}

/// Whole pages in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Area {
    /// First frame.
    pub first: Pfn,
    /// Number of frames.
    pub pages: u64,
}

/// A domain laid out: nothing is written yet, and nothing can go wrong any more but the memory itself.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(crate) image: &'a Image<'a>,
    pub(crate) request: Request<'a>,
    pub(crate) tables: Tables,
    /// The frames of the ramdisk; none without one.
    pub ramdisk: Area,
    /// The ramdisk is not mapped: start_info gives its first frame, and the flag MOD_START_PFN says so.
    pub ramdisk_unmapped: bool,
    /// The p2m list, 8 bytes for each page of the domain.
    pub p2m: Area,
    /// Virtual address of the p2m list.
    pub p2m_vaddr: u64,
    /// Frames of the p2m list and of the tables that map it, when it is outside the kernel's mapping.
    pub p2m_outside: Option<Area>,
    /// start_info.
    pub start_info: Pfn,
    /// The ring page of the store.
    pub store: Option<Pfn>,
    /// The ring page of the console.
    pub console: Option<Pfn>,
    /// The page tables of the kernel's mapping; the first is the L4.
    pub page_tables: Area,
    /// The stack, one page.
    pub stack: Pfn,
    /// Pages mapped from VIRT_BASE on.
    pub mapped_pages: u64,
}

/// Hands out frames in ascending order.
struct Cursor(u64);

impl Cursor {
    fn take(&mut self, pages: u64) -> Area {
        let first = self.0;
        self.0 += pages; // every term is below 2^40
        Area { first: Pfn(first), pages }
    }
}

impl<'a> Plan<'a> {
    /// Lays out a domain.
    ///
    /// # Errors
    /// [`ImageError::TooLittleMemory`] with the pages needed, [`ImageError::TooManyPages`],
    /// [`ImageError::DoesNotFitAddressSpace`], [`ImageError::InitP2m`], [`ImageError::CommandLine`], and for the
    /// initial domain [`ImageError::NotForInitialDomain`].
    pub fn new(image: &'a Image<'a>, request: Request<'a>) -> Result<Self, ImageError> {
        check_request(image, &request)?;
        let ramdisk_pages = pages(request.ramdisk.len());
        let p2m_pages = pages(request.nr_pages * 8);
        let ramdisk_unmapped = image.notes.mod_start_pfn && ramdisk_pages > 0;
        let init_p2m = image.notes.init_p2m;

        let mut cursor = Cursor(image.extent.end / PAGE);
        let mut ramdisk = cursor.take(if ramdisk_unmapped { 0 } else { ramdisk_pages });
        let mut p2m = cursor.take(if init_p2m.is_some() { 0 } else { p2m_pages });
        let start_info = cursor.take(1).first;
        let guest = request.role == Role::Guest;
        let store = guest.then(|| cursor.take(1).first);
        let console = guest.then(|| cursor.take(1).first);

        let kernel = fit_tables(image, cursor.0)?;
        let page_tables = cursor.take(1 + kernel.table_count());
        let stack = cursor.take(1).first;

        cursor.0 = kernel.len;
        let mut p2m_span = Span::default();
        if let Some(vaddr) = init_p2m {
            p2m = cursor.take(p2m_pages);
            p2m_span = Span::new(check_init_p2m(image, &kernel, vaddr, p2m_pages)?, p2m_pages, p2m.first.0);
        }
        let tables = Tables::new(kernel, page_tables.first.0, p2m_span, cursor.0);
        let outside = tables.p2m_frames();
        let outside = cursor.take(outside.end - outside.start);
        if ramdisk_unmapped {
            ramdisk = cursor.take(ramdisk_pages);
        }
        if cursor.0 > request.nr_pages {
            return Err(ImageError::TooLittleMemory(cursor.0));
        }
        Ok(Self {
            image,
            request,
            tables,
            ramdisk,
            ramdisk_unmapped,
            p2m,
            p2m_vaddr: init_p2m.unwrap_or_else(|| image.vaddr(p2m.first.0 * PAGE)),
            p2m_outside: init_p2m.map(|_| Area { first: p2m.first, pages: p2m.pages + outside.pages }),
            start_info,
            store,
            console,
            page_tables,
            stack,
            mapped_pages: kernel.len,
        })
    }

    /// Virtual address of `pfn` in the kernel's mapping.
    pub fn vaddr(&self, pfn: Pfn) -> u64 {
        self.image.vaddr(pfn.0.wrapping_mul(PAGE))
    }

    /// Every frame that holds a page table at start of day, in ascending order: these must never be writable to anyone.
    pub fn table_frames(&self) -> impl Iterator<Item = Pfn> + use<> {
        let ranges: [Range<u64>; 2] = [self.tables.kernel_frames(), self.tables.p2m_frames()];
        ranges.into_iter().flatten().map(Pfn)
    }
}

fn check_request(image: &Image<'_>, request: &Request<'_>) -> Result<(), ImageError> {
    if request.cmdline.len() >= MAX_GUEST_CMDLINE {
        return Err(ImageError::CommandLine);
    }
    if request.nr_pages > MAX_PAGES {
        return Err(ImageError::TooManyPages);
    }
    if request.ramdisk.len() > MAX_PAGES * PAGE {
        return Err(ImageError::TooLittleMemory(MAX_PAGES));
    }
    let refuses = image.notes.has_supported_features && !image.notes.features.supports(DOM0);
    if request.role == Role::Initial && refuses { Err(ImageError::NotForInitialDomain) } else { Ok(()) }
}

/// The mapped part: `used` pages before the tables, the tables (whose number depends on the length), stack, padding.
fn fit_tables(image: &Image<'_>, used: u64) -> Result<Span, ImageError> {
    let mut tables = 4;
    loop {
        let bytes = (used + tables + 1) * PAGE + PADDING;
        let end = image.virt_base.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(ALIGN));
        let len = end.ok_or(ImageError::DoesNotFitAddressSpace)? - image.virt_base;
        if !usable(image.virt_base, len) {
            return Err(ImageError::DoesNotFitAddressSpace);
        }
        let span = Span::new(image.virt_base, len / PAGE, 0);
        let needed = 1 + span.table_count();
        if needed <= tables {
            return Ok(span);
        }
        tables = needed; // grows, and is bounded by the address space
    }
}

fn check_init_p2m(image: &Image<'_>, kernel: &Span, vaddr: u64, p2m_pages: u64) -> Result<u64, ImageError> {
    let (bytes, mapped) = (p2m_pages * PAGE, kernel.len * PAGE);
    if !vaddr.is_multiple_of(PAGE) || !usable(vaddr, bytes) {
        return Err(ImageError::InitP2m);
    }
    let apart = vaddr + bytes <= image.virt_base || image.virt_base + mapped <= vaddr;
    if apart { Ok(vaddr) } else { Err(ImageError::InitP2m) }
}
