//! The core's own translations, built once at boot.

use core::sync::atomic::{AtomicU64, Ordering};

use ferrule_core::frame::PageInfo;
use heapless::Vec;

use crate::boot_info::{BootInfo, Range};
use crate::{layout, physical};

/// The entry maps something.
pub const PRESENT: u64 = 1;
/// Writes are allowed.
pub const WRITE: u64 = 1 << 1;
/// Ring 3 may use it.
pub const USER: u64 = 1 << 2;
/// Not cached.
pub const UNCACHED: u64 = 1 << 4 | 1 << 3;
const LARGE: u64 = 1 << 7;
/// Stays in the TLB over a CR3 load.
pub const GLOBAL: u64 = 1 << 8;
/// No instruction fetches.
pub const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 1 << 21;

unsafe extern "C" {
    static image_start: u8;
    static text_end: u8;
    static rodata_end: u8;
    static image_end: u8;
}

/// Hands out memory while the frame table is not there yet: from the largest usable range, bottom up.
pub struct Early {
    next: u64,
    end: u64,
    first: u64,
}

impl Early {
    /// Takes the largest usable range below 4 GiB that holds neither the image nor a module.
    pub fn new(boot: &BootInfo) -> Option<Self> {
        let best = free_ranges(boot, None)
            .into_iter()
            .map(|r| Range { start: r.start, end: r.end.min(1 << 32) })
            .filter(|r| r.end > r.start)
            .max_by_key(|r| r.end - r.start)?;
        Some(Self { next: best.start, end: best.end, first: best.start })
    }

    /// What was handed out.
    pub fn used(&self) -> Range {
        Range { start: self.first, end: self.next }
    }

    /// Zeroed memory, whole pages. Panics where there is none: the machine is too small to start.
    pub fn take(&mut self, bytes: u64) -> u64 {
        let (at, bytes) = (self.next, bytes.next_multiple_of(PAGE));
        assert!(bytes <= self.end - at, "too little memory to start: {bytes} bytes more are needed");
        self.next += bytes;
        // SAFETY: the range is usable memory that nothing else occupies, and both maps cover it.
        unsafe { physical::at::<u8>(at).write_bytes(0, bytes as usize) };
        at
    }
}

/// What of the memory map is usable and holds neither the image nor a module nor the first MiB nor what is `used`, in
/// whole pages.
pub fn free_ranges(boot: &BootInfo, used: Option<Range>) -> Vec<Range, 128> {
    let known = [Range { start: 0, end: 1 << 20 }, image()];
    let mut taken: Vec<Range, 16> = boot.modules.iter().map(|m| m.range).chain(known).chain(used).collect();
    taken.sort_unstable_by_key(|r| r.start);
    let mut free = Vec::new();
    for region in boot.regions_of(&[1]) {
        let mut start = region.start;
        for hole in taken.iter().filter(|t| t.end > region.start && t.start < region.end) {
            push_pages(&mut free, start, hole.start);
            start = start.max(hole.end);
        }
        push_pages(&mut free, start, region.end);
    }
    free
}

fn push_pages(to: &mut Vec<Range, 128>, start: u64, end: u64) {
    let (start, end) = (start.next_multiple_of(PAGE), end & !(PAGE - 1));
    if start < end {
        let _ = to.push(Range { start, end });
    }
}

/// The machine addresses of the image.
pub fn image() -> Range {
    let (start, end) = (&raw const image_start as u64, &raw const image_end as u64);
    Range { start: start - layout::IMAGE, end: end - layout::IMAGE }
}

/// The core's L4, whose slots 256-271 every guest's L4 gets.
static ROOT: AtomicU64 = AtomicU64::new(0);

/// The machine address of the core's L4.
pub fn root() -> u64 {
    ROOT.load(Ordering::Relaxed)
}

static M2P: AtomicU64 = AtomicU64::new(0);

/// The machine address of the machine-to-physical table.
pub fn m2p_start() -> u64 {
    M2P.load(Ordering::Relaxed)
}

/// The core's 16 L4 entries.
pub fn hypervisor_slots() -> [u64; 16] {
    core::array::from_fn(|n| physical::read(root() + (256 + n as u64) * 8))
}

/// Builds the tables: all of memory, the frame table, the M2P at the given machine addresses, the image with each part
/// as it may be used. `zero` is a page of zeros.
pub fn build(early: &mut Early, boot: &BootInfo, m2p: Range, zero: u64) {
    let root = early.take(PAGE);
    ROOT.store(root, Ordering::Relaxed);
    M2P.store(m2p.start, Ordering::Relaxed);
    let data = PRESENT | WRITE | GLOBAL | NO_EXECUTE;
    for range in boot.regions_of(&[1, 3, 4]) {
        let (start, end) = (range.start & !(LARGE_PAGE - 1), range.end.next_multiple_of(LARGE_PAGE));
        map_range(early, layout::DIRECT + start, Range { start, end }, data);
    }
    map_frame_table(early, boot, zero);
    map_range(early, layout::M2P, m2p, PRESENT | USER | NO_EXECUTE);
    let (start, end) = (&raw const image_start as u64, &raw const image_end as u64);
    let (text, rodata) = (&raw const text_end as u64, &raw const rodata_end as u64);
    for (from, to, flags) in
        [(start, text, PRESENT | GLOBAL), (text, rodata, PRESENT | GLOBAL | NO_EXECUTE), (rodata, end, data)]
    {
        map_range(early, from, Range { start: from - layout::IMAGE, end: to - layout::IMAGE }, flags);
    }
    for slot in 256..272 {
        if physical::read::<u64>(root + slot * 8) == 0 {
            let table = early.take(PAGE);
            write_entry(root + slot * 8, table | PRESENT | WRITE);
        }
    }
    // The M2P is the one thing there that guests may see.
    write_entry(root + 256 * 8, physical::read::<u64>(root + 256 * 8) | USER);
}

/// The frame table has memory where there is RAM; elsewhere a page of zeros says that there is none.
fn map_frame_table(early: &mut Early, boot: &BootInfo, zero: u64) {
    let entry = size_of::<PageInfo>() as u64;
    let parts = boot.regions_of(&[1]).map(|r| (r.start / PAGE * entry) & !(PAGE - 1)..(r.end / PAGE * entry));
    let mut parts: Vec<core::ops::Range<u64>, 128> = parts.collect();
    parts.sort_unstable_by_key(|part| part.start);
    let mut at = 0;
    for part in parts {
        for hole in (at..part.start).step_by(PAGE as usize) {
            map(early, layout::FRAMES + hole, zero | PRESENT | GLOBAL | NO_EXECUTE, false);
        }
        let (start, end) = (part.start.max(at), part.end.next_multiple_of(PAGE));
        if start < end {
            let memory = early.take(end - start);
            let range = Range { start: memory, end: memory + (end - start) };
            map_range(early, layout::FRAMES + start, range, PRESENT | WRITE | GLOBAL | NO_EXECUTE);
            at = end;
        }
    }
}

fn map_range(early: &mut Early, virt: u64, range: Range, flags: u64) {
    let (mut virt, mut at) = (virt, range.start);
    while at < range.end {
        let large = (virt | at).is_multiple_of(LARGE_PAGE) && range.end - at >= LARGE_PAGE;
        let size = if large { LARGE_PAGE } else { PAGE };
        map(early, virt, at | flags | if large { LARGE } else { 0 }, large);
        virt += size;
        at += size;
    }
}

/// Maps one page, large or not; `entry` is the last level's.
fn map(early: &mut Early, virt: u64, entry: u64, large: bool) {
    if let Some(at) = slot(virt, if large { 21 } else { 12 }, Some((early, entry & USER))) {
        write_entry(at, entry);
    }
}

/// The machine address of the entry that maps `1 << last` bytes at an address. The tables on the way to it that are
/// missing are made, if with `make` there is memory for them, and flags. None where one is missing, or a large page.
fn slot(virt: u64, last: u32, mut make: Option<(&mut Early, u64)>) -> Option<u64> {
    let mut at = root() + (virt >> 39 & 511) * 8;
    for shift in [30, 21, 12].into_iter().filter(|&shift| shift >= last) {
        let mut next: u64 = physical::read(at);
        if next & PRESENT == 0 {
            let (early, flags) = make.as_mut()?;
            next = early.take(PAGE) | PRESENT | WRITE | *flags;
            write_entry(at, next);
        }
        if next & LARGE != 0 {
            return None;
        }
        at = (next & ADDRESS) + (virt >> shift & 511) * 8;
    }
    Some(at)
}

fn write_entry(at: u64, entry: u64) {
    // SAFETY: `at` lies in a table of the core's own, which guests cannot reach.
    unsafe { physical::at::<u64>(at).write_volatile(entry) };
}

/// Maps one page of the core's own range. For per-CPU areas and device registers, at boot.
pub fn map_page(early: &mut Early, virt: u64, address: u64, flags: u64) {
    map(early, virt, address | flags, false);
}

/// Where the last-level entry of an address of the core's own range is, if its tables exist.
pub fn entry_of(virt: u64) -> Option<*mut u64> {
    slot(virt, 12, None).map(physical::at)
}
