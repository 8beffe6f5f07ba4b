//! Memory of a test guest: spare pages, shared pages, page tables as they are.

use super::{call, exec};
use abi::hypercall::Hypercall;
use abi::layout::MACH2PHYS_VIRT_START;
use abi::start_info::StartInfo;
use abi::{Maddr, Mfn, PAGE_SIZE, Pte, PteFlags, Vaddr};
use core::sync::atomic::{AtomicUsize, Ordering};

/// Pages [`page`] has to give.
const PAGES: usize = 640;

#[repr(C, align(4096))]
struct Pool([[u8; PAGE_SIZE]; PAGES]);

static mut POOL: Pool = Pool([[0; PAGE_SIZE]; PAGES]);
static NEXT: AtomicUsize = AtomicUsize::new(0);
static INFO: AtomicUsize = AtomicUsize::new(0);
static SHARED: AtomicUsize = AtomicUsize::new(0);

#[cfg(target_os = "none")]
unsafe extern "C" {
    static __image_start: u8;
}

/// Virtual address of PFN 0.
pub(super) fn base() -> u64 {
    #[cfg(target_os = "none")]
    {
        &raw const __image_start as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

/// A spare page, zeroed and mapped writable at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where it is mapped.
    pub va: u64,
    /// Its frame.
    pub mfn: Mfn,
}

impl Page {
    /// Reads an entry of the page seen as a table.
    pub fn get(self, index: usize) -> u64 {
        peek(self.va + 8 * index as u64)
    }

    /// Writes one.
    pub fn set(self, index: usize, value: u64) {
        poke(self.va + 8 * index as u64, value);
    }

    /// Machine address of an entry.
    pub fn slot(self, index: usize) -> u64 {
        self.mfn.maddr().0 + 8 * index as u64
    }

    /// Remaps the page read-only or writable; what `update_va_mapping` says.
    pub fn protect(self, writable: bool) -> i64 {
        let mut flags = PteFlags::PRESENT | PteFlags::USER | PteFlags::ACCESSED | PteFlags::DIRTY;
        if writable {
            flags = flags | PteFlags::RW;
        }
        call(Hypercall::UPDATE_VA_MAPPING, &[self.va, Pte::new(self.mfn, flags).0, 2])
    }
}

/// Takes a spare page.
pub fn page() -> Page {
    let index = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(index < PAGES, "out of spare pages");
    let va = &raw const POOL as u64 + (index * PAGE_SIZE) as u64;
    Page { va, mfn: mfn_of(va) }
}

/// An address whose page is spare but not needed as memory: its mapping is free to play with.
pub fn spare_va() -> u64 {
    page().va
}

/// Frame of an address of the image, from the table at the domain's start.
pub fn mfn_of(va: u64) -> Mfn {
    let list = INFO.load(Ordering::Relaxed);
    // SAFETY: `set_shared_info` was given the domain's `StartInfo`, and the image's addresses lie
    // within its frames.
    unsafe {
        let info = list as *const StartInfo;
        let list = (*info).mfn_list.0 as *const u64;
        Mfn(list.add(((va - base()) >> 12) as usize).read_volatile())
    }
}

/// Where the L4 is mapped that the domain started with.
pub fn start_tables() -> u64 {
    // SAFETY: as in `mfn_of`.
    unsafe { (*(INFO.load(Ordering::Relaxed) as *const StartInfo)).pt_base.0 }
}

/// Reads memory.
pub fn peek(va: u64) -> u64 {
    // SAFETY: as the module says: the experiment picks the address.
    unsafe { (va as *const u64).read_volatile() }
}

/// Writes memory.
pub fn poke(va: u64, value: u64) {
    // SAFETY: as above.
    unsafe { (va as *mut u64).write_volatile(value) }
}

/// Changes one byte of memory.
pub fn modify(va: u64, change: impl FnOnce(u8) -> u8) {
    // SAFETY: as above.
    unsafe { (va as *mut u8).write_volatile(change((va as *const u8).read_volatile())) }
}

/// Maps the shared-info page at a spare page's address. Returns that address, or the error.
pub fn set_shared_info(info: &StartInfo) -> Result<u64, i64> {
    INFO.store(&raw const *info as usize, Ordering::Relaxed);
    let va = &raw const POOL as u64 + (NEXT.fetch_add(1, Ordering::Relaxed) * PAGE_SIZE) as u64;
    let flags = PteFlags::PRESENT | PteFlags::RW | PteFlags::USER;
    let entry = Pte::new(info.shared_info.mfn(), flags);
    match call(Hypercall::UPDATE_VA_MAPPING, &[va, entry.0, 2]) {
        0 => {
            SHARED.store(va as usize, Ordering::Relaxed);
            exec::set_info(va);
            Ok(va)
        }
        error => Err(error),
    }
}

/// Where the shared-info page is mapped.
pub fn shared_info() -> u64 {
    SHARED.load(Ordering::Relaxed) as u64
}

/// Where vCPU 0's `vcpu_info` is, unless [`set_vcpu_info`] moved it.
pub fn vcpu_info() -> u64 {
    shared_info()
}

/// Tells the entry stubs that `vcpu_info` moved.
pub fn set_vcpu_info(va: u64) {
    exec::set_info(va);
}

/// The entry of the given level (1 to 4) on the way to an address: its machine address and value.
/// None where a level above maps nothing.
pub fn pte_slot(va: Vaddr, level: u32) -> Option<(Maddr, Pte)> {
    let info = INFO.load(Ordering::Relaxed) as *const StartInfo;
    // SAFETY: as in `mfn_of`.
    let mut table = unsafe { (*info).pt_base.0 };
    let mut mfn = mfn_of(table);
    for at in (level..=4).rev() {
        let index = va.table_index(at);
        let entry = Pte(peek(table + 8 * index as u64));
        if at == level {
            return Some((Maddr(mfn.maddr().0 + 8 * index as u64), entry));
        }
        if !entry.present() {
            return None;
        }
        mfn = entry.mfn();
        table = base() + (peek(MACH2PHYS_VIRT_START.0 + 8 * mfn.0) << 12);
    }
    None
}
