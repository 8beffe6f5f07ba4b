//! The domain's memory: all of it mapped, linearly, with an allocator of frames.
//!
//! The builder maps the start of memory at the image's virtual base, page frame after page frame. [`init`] goes on
//! in the same way to the end, so that `address = base + pfn * 4096` holds for every frame and a frame has one
//! mapping. The machine address comes from the P2M. Page tables for it are filled as ordinary memory, made
//! read-only, then linked; the hypervisor checks them at the link.
//!
//! A second range, the *window*, has tables but no memory: grants of other domains and device memory are mapped
//! there ([`Window`]).

use crate::bitmap::PageSet;
use crate::hypercall;
use crate::sync::Local;
use abi::layout::{MACH2PHYS_NR_ENTRIES, MACH2PHYS_VIRT_START};
use abi::mmu::{MmuUpdate, uvmf};
use abi::start_info::StartInfo;
use abi::{DomId, Errno, Maddr, Mfn, PAGE_SIZE, Pfn, Pte, PteFlags, TABLE_ENTRIES, Vaddr};
use core::ops::Range;
use core::ptr::NonNull;

/// Flags of a table entry that is not a leaf.
const TABLE: PteFlags = PteFlags::PRESENT.union(PteFlags::RW).union(PteFlags::USER).union(PteFlags::ACCESSED);
/// Flags of a page that is read.
const READ: PteFlags =
    PteFlags::PRESENT.union(PteFlags::USER).union(PteFlags::ACCESSED).union(PteFlags::DIRTY).union(PteFlags::NX);
/// Flags of a page that is read and written, never run.
const WRITE: PteFlags = READ.union(PteFlags::RW);
/// Bytes that one L1 table maps.
const L1_SPAN: u64 = (PAGE_SIZE * TABLE_ENTRIES) as u64;
/// L1 tables linked with one hypercall.
const LINK_BATCH: usize = 32;

/// First address of the window: L4 slot 384, far from the image and the hypervisor.
const WINDOW: u64 = 0xffff_c000_0000_0000;
/// Pages of the window.
const WINDOW_PAGES: usize = 1 << 15;

struct Memory {
    /// Address of frame 0.
    base: u64,
    /// The frame of each page frame number.
    p2m: &'static [Mfn],
    /// The L4's address.
    root: Vaddr,
    /// Frames that hold the module, where the builder left it unmapped.
    module: Range<u64>,
    free: PageSet<'static>,
    window: PageSet<'static>,
}

static MEMORY: Local<Option<Memory>> = Local::new(None);

/// Memory ran out, or the hypervisor refused a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No free frame or no free address.
    OutOfMemory,
    /// The hypervisor's answer.
    Refused(Errno),
}

impl From<Errno> for MapError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

fn with<T>(f: impl FnOnce(&mut Memory) -> T) -> T {
    f(MEMORY.lock().as_mut().expect("memory::init runs before anything else"))
}

/// The page frame number that the hypervisor's table has for a frame; only good for frames of this domain.
fn mfn_to_pfn(mfn: Mfn) -> Pfn {
    assert!(mfn.0 < MACH2PHYS_NR_ENTRIES, "frame {mfn:?} out of range");
    let entry = (MACH2PHYS_VIRT_START.0 + 8 * mfn.0) as *const u64;
    // SAFETY: the hypervisor maps the table for every frame of RAM, read-only, and callers pass frames that page
    // tables or start_info name; the entry is a plain word that another CPU may write.
    Pfn(unsafe { entry.read_volatile() })
}

impl Memory {
    fn address(&self, pfn: Pfn) -> u64 {
        self.base + pfn.0 * PAGE_SIZE as u64
    }

    fn pfn(&self, address: u64) -> Pfn {
        Pfn((address - self.base) / PAGE_SIZE as u64)
    }

    fn mfn(&self, pfn: Pfn) -> Mfn {
        self.p2m[pfn.0 as usize]
    }

    /// The entry for `address` in the table of `level`, and where it is; `None` if there is no such table.
    fn entry(&self, address: u64, level: u32) -> Option<(Maddr, Pte)> {
        let mut table = self.root.0;
        for at in (level..=4).rev() {
            let index = Vaddr(address).table_index(at);
            let slot = table + 8 * index as u64;
            // SAFETY: `table` is a page table of this domain, mapped read-only in the linear range; the hypervisor
            // may change the word.
            let entry = unsafe { (slot as *const Pte).read_volatile() };
            if at == level {
                let mfn = self.mfn(self.pfn(table));
                return Some((Maddr(mfn.maddr().0 + 8 * index as u64), entry));
            }
            if !entry.present() {
                return None;
            }
            table = self.address(mfn_to_pfn(entry.mfn()));
        }
        None
    }

    /// Takes a frame for a page table and fills it by `entry`; the update that makes it read-only, and its frame.
    fn new_table(&mut self, entry: impl Fn(usize) -> Pte) -> Result<(MmuUpdate, Mfn), MapError> {
        let pfn = Pfn(self.free.take(1).ok_or(MapError::OutOfMemory)? as u64);
        let address = self.address(pfn);
        for index in 0..TABLE_ENTRIES {
            // SAFETY: the frame was free, so nothing else refers to it, and free frames are mapped writable.
            unsafe { (address as *mut Pte).add(index).write(entry(index)) };
        }
        let (slot, _) = self.entry(address, 1).expect("free frames are mapped");
        let mfn = self.mfn(pfn);
        Ok((MmuUpdate { ptr: slot.0, val: Pte::new(mfn, READ).0 }, mfn))
    }

    /// Makes the tables above level `level` for `address`, where they are missing.
    fn ensure(&mut self, address: u64, level: u32) -> Result<(), MapError> {
        for above in (level + 1..=4).rev() {
            let (slot, entry) = self.entry(address, above).expect("the table above was made before");
            if !entry.present() {
                let (protect, mfn) = self.new_table(|_| Pte::EMPTY)?;
                let link = MmuUpdate { ptr: slot.0, val: Pte::new(mfn, TABLE).0 };
                // SAFETY: the frame was free and becomes a table of addresses that nothing uses yet.
                unsafe { hypercall::mmu_update(&[protect, link], DomId::SELF)? };
            }
        }
        Ok(())
    }

    /// Maps all frames from `mapped` on.
    fn map_rest(&mut self, mapped: u64) -> Result<(), MapError> {
        let end = self.p2m.len() as u64;
        let mut batch: heapless::Vec<MmuUpdate, { 2 * LINK_BATCH }> = heapless::Vec::new();
        let mut first = mapped;
        let mut ready = mapped;
        while first < end {
            let address = self.address(Pfn(first));
            let chunk = (L1_SPAN - address % L1_SPAN) / PAGE_SIZE as u64;
            let next = (first + chunk).min(end);
            // The frames for tables come from memory mapped so far, so link what is filled before it runs short.
            let short = self.free.free() < 4;
            if short || batch.is_full() {
                self.link(&mut batch, &mut ready, first)?;
            }
            self.ensure(address, 2)?;
            let (slot, entry) = self.entry(address, 2).expect("just made");
            if entry.present() {
                self.link(&mut batch, &mut ready, first)?;
                self.fill(first, next)?;
                self.release(first, next);
                ready = next;
            } else {
                let (p2m, base) = (self.p2m, self.base);
                let start = address - address % L1_SPAN;
                let (protect, mfn) = self.new_table(|index| {
                    let page = start + (index * PAGE_SIZE) as u64;
                    let pfn = page.checked_sub(base).map(|offset| offset / PAGE_SIZE as u64);
                    let mfn = pfn.filter(|pfn| (first..next).contains(pfn)).map(|pfn| p2m[pfn as usize]);
                    mfn.map_or(Pte::EMPTY, |mfn| Pte::new(mfn, WRITE))
                })?;
                let link = MmuUpdate { ptr: slot.0, val: Pte::new(mfn, TABLE).0 };
                batch.extend([protect, link]);
            }
            first = next;
        }
        self.link(&mut batch, &mut ready, end)
    }

    /// Links the tables filled, and frees the frames `ready..end` that they map.
    fn link<const N: usize>(
        &mut self,
        batch: &mut heapless::Vec<MmuUpdate, N>,
        ready: &mut u64,
        end: u64,
    ) -> Result<(), MapError> {
        if !batch.is_empty() {
            // SAFETY: the frames were free and become tables of addresses that nothing uses yet.
            unsafe { hypercall::mmu_update(batch, DomId::SELF)? };
            batch.clear();
        }
        self.release(*ready, end);
        *ready = end;
        Ok(())
    }

    /// Makes frames free, but for the module's.
    fn release(&mut self, first: u64, end: u64) {
        let Range { start, end: module_end } = self.module;
        for (first, end) in [(first, end.min(start)), (first.max(module_end), end)] {
            if first < end {
                self.free.insert(first as usize, (end - first) as usize);
            }
        }
    }

    /// Maps frames in an L1 table that exists.
    fn fill(&mut self, first: u64, end: u64) -> Result<(), MapError> {
        for pfn in first..end {
            let (slot, entry) = self.entry(self.address(Pfn(pfn)), 1).expect("the L1 is there");
            if !entry.present() {
                let update = MmuUpdate { ptr: slot.0, val: Pte::new(self.mfn(Pfn(pfn)), WRITE).0 };
                // SAFETY: maps a frame that nothing uses at its own address.
                unsafe { hypercall::mmu_update(&[update], DomId::SELF)? };
            }
        }
        Ok(())
    }
}

/// Takes over the memory that `info` describes, whose frame 0 lies at `base`. Called once, before the first
/// allocation.
///
/// # Safety
/// `info` is the start_info of this domain, unchanged, and the domain is as its builder left it: free memory begins
/// after the stack page that follows the page tables.
pub unsafe fn init(info: &StartInfo, base: Vaddr) -> Result<(), MapError> {
    let pages = info.nr_pages as usize;
    // SAFETY: the builder put one entry a page there, in the initial mapping; nothing writes it.
    let p2m = unsafe { core::slice::from_raw_parts(info.mfn_list.0 as *const Mfn, pages) };
    let first_free = info.pt_base.0 + (info.nr_pt_frames + 1) * PAGE_SIZE as u64;
    let words = pages.div_ceil(64);
    let bitmap_pages = (words * 8).div_ceil(PAGE_SIZE) as u64;
    // SAFETY: the builder leaves 512 KiB of free memory mapped there, enough for the bits of 16 GiB, and this is the
    // first use of it.
    let bits = unsafe { core::slice::from_raw_parts_mut(first_free as *mut u64, words) };
    let window = {
        static WINDOW_BITS: Local<[u64; WINDOW_PAGES / 64]> = Local::new([0; WINDOW_PAGES / 64]);
        let mut window = PageSet::new(&mut lock_api::MutexGuard::leak(WINDOW_BITS.lock())[..]);
        window.insert(0, WINDOW_PAGES);
        window
    };
    let module = if info.flags & StartInfo::SIF_MOD_START_PFN != 0 {
        info.mod_start..info.mod_start + info.mod_len.div_ceil(PAGE_SIZE as u64)
    } else {
        // Mapped, so it lies before the free memory.
        0..0
    };
    let free = PageSet::new(bits);
    let mut memory = Memory { base: base.0, p2m, root: info.pt_base, module, free, window };
    let first = memory.pfn(first_free).0 + bitmap_pages;
    let mut mapped = first;
    while mapped < pages as u64
        && memory.entry(memory.address(Pfn(mapped)), 1).is_some_and(|(_, entry)| entry.present())
    {
        mapped += 1;
    }
    memory.release(first, mapped);
    memory.map_rest(mapped)?;
    *MEMORY.lock() = Some(memory);
    Ok(())
}

/// Takes `count` consecutive pages, writable, of any content; `None` if there is no such run.
pub fn take_pages(count: usize) -> Option<NonNull<u8>> {
    with(|memory| {
        let pfn = Pfn(memory.free.take(count)? as u64);
        NonNull::new(memory.address(pfn) as *mut u8)
    })
}

/// Gives pages back.
///
/// # Safety
/// They come from [`take_pages`] and nobody uses them any more, neither here nor, by a grant or as a device, outside.
pub unsafe fn give_pages(first: NonNull<u8>, count: usize) {
    with(|memory| {
        let pfn = memory.pfn(first.as_ptr() as u64);
        memory.free.insert(pfn.0 as usize, count);
    });
}

/// The module (ramdisk) that the domain was started with.
pub fn module(info: &StartInfo) -> &'static [u8] {
    let start = match info.flags & StartInfo::SIF_MOD_START_PFN {
        0 => info.mod_start,
        _ => with(|memory| memory.address(Pfn(info.mod_start))),
    };
    match NonNull::new(start as *mut u8) {
        // SAFETY: the builder put `mod_len` bytes there, mapped by it or by `init`; no allocation ever uses them.
        Some(start) => unsafe { core::slice::from_raw_parts(start.as_ptr(), info.mod_len as usize) },
        None => &[],
    }
}

/// Free pages and pages in all.
pub fn usage() -> (usize, usize) {
    with(|memory| (memory.free.free(), memory.p2m.len()))
}

/// The frame under an address of the linear range.
pub fn mfn_of(address: *const u8) -> Mfn {
    with(|memory| memory.mfn(memory.pfn(address as u64)))
}

/// The address of one of this domain's frames that the builder or the hypervisor named, like the store's page.
pub fn address_of(mfn: Mfn) -> Option<NonNull<u8>> {
    with(|memory| {
        let pfn = mfn_to_pfn(mfn);
        let own = memory.p2m.get(pfn.0 as usize) == Some(&mfn);
        own.then(|| NonNull::new(memory.address(pfn) as *mut u8)).flatten()
    })
}

/// Unmaps a page of the image for good, so that touching it faults.
///
/// # Safety
/// Nothing uses the page.
pub unsafe fn unmap_guard(address: Vaddr) -> Result<(), Errno> {
    // SAFETY: the caller's.
    unsafe { hypercall::update_va_mapping(address, Pte::EMPTY, uvmf::INVLPG | uvmf::LOCAL) }
}

/// A range of addresses with page tables and, at first, nothing mapped.
#[derive(Debug)]
pub struct Window {
    first: usize,
    pages: usize,
}

impl Window {
    /// Reserves `pages` pages of addresses.
    pub fn reserve(pages: usize) -> Result<Self, MapError> {
        with(|memory| {
            let first = memory.window.take(pages).ok_or(MapError::OutOfMemory)?;
            let window = Self { first, pages };
            let mut address = window.address(0).0;
            let end = address + (pages * PAGE_SIZE) as u64;
            while address < end {
                if let Err(error) = memory.ensure(address, 1) {
                    memory.window.insert(first, pages);
                    core::mem::forget(window);
                    return Err(error);
                }
                address = address - address % L1_SPAN + L1_SPAN;
            }
            Ok(window)
        })
    }

    /// The address of a page of the window.
    pub fn address(&self, page: usize) -> Vaddr {
        Vaddr(WINDOW + ((self.first + page) * PAGE_SIZE) as u64)
    }

    /// How many pages it has.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Maps machine frames writable from page `first` of the window on: device memory with `owner` [`DomId::IO`],
    /// the hypervisor's shared frames with [`DomId::SELF`].
    pub fn map(
        &self,
        first: usize,
        frames: impl Iterator<Item = Mfn>,
        flags: PteFlags,
        owner: DomId,
    ) -> Result<(), Errno> {
        (first..self.pages).zip(frames).try_for_each(|(page, mfn)| {
            let update = MmuUpdate { ptr: self.slot(page).0, val: Pte::new(mfn, WRITE | flags).0 };
            // SAFETY: the addresses are this window's, and who maps them decides what they are.
            unsafe { hypercall::mmu_update(&[update], owner) }
        })
    }

    fn slot(&self, page: usize) -> Maddr {
        with(|memory| memory.entry(self.address(page).0, 1).expect("reserving made the tables").0)
    }
}

/// The addresses are free again; whoever mapped something has unmapped it.
impl Drop for Window {
    fn drop(&mut self) {
        with(|memory| memory.window.insert(self.first, self.pages));
    }
}
