//! The page shared with the hypervisor: events of the domain, state and clock of vCPU 0.

use crate::memory::Window;
use abi::shared_info::SharedInfo;
use abi::start_info::StartInfo;
use abi::vcpu::{VcpuInfo, VcpuTimeInfo};
use abi::{DomId, Errno, PteFlags};
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

static PAGE: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

/// Words of the pending and mask bitmaps.
pub const EVENT_WORDS: usize = 64;

/// Maps the page.
pub fn init(info: &StartInfo) -> Result<(), Errno> {
    let window = Window::reserve(1).map_err(|_| Errno::ENOMEM)?;
    window.map(0, core::iter::once(info.shared_info.mfn()), PteFlags::NONE, DomId::SELF)?;
    PAGE.store(window.address(0).0 as *mut u8, Ordering::Release);
    // The page stays mapped for good.
    core::mem::forget(window);
    Ok(())
}

/// Whether the page is mapped.
pub fn ready() -> bool {
    !PAGE.load(Ordering::Acquire).is_null()
}

/// The shared page, by its words.
#[derive(Clone, Copy, Debug)]
pub struct Shared(*mut u8);

/// The page.
///
/// # Panics
/// Before [`init`].
pub fn page() -> Shared {
    let page = PAGE.load(Ordering::Acquire);
    assert!(!page.is_null(), "shared::init runs before anything that uses the page");
    Shared(page)
}

impl Shared {
    /// The 64-bit word at `offset`.
    fn word(self, offset: usize) -> &'static AtomicU64 {
        debug_assert!(offset.is_multiple_of(8) && offset < size_of::<SharedInfo>());
        // SAFETY: the page is mapped for good, the offset is aligned and inside it, and the memory is only used
        // through atomics.
        unsafe { AtomicU64::from_ptr(self.0.add(offset).cast()) }
    }

    fn byte(self, offset: usize) -> &'static AtomicU8 {
        debug_assert!(offset < size_of::<SharedInfo>());
        // SAFETY: as in `word`; a byte is always aligned.
        unsafe { AtomicU8::from_ptr(self.0.add(offset)) }
    }

    fn half(self, offset: usize) -> &'static AtomicU32 {
        debug_assert!(offset.is_multiple_of(4) && offset < size_of::<SharedInfo>());
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(self.0.add(offset).cast()) }
    }

    /// Non-zero: some event is pending.
    pub fn upcall_pending(self) -> &'static AtomicU8 {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_pending))
    }

    /// Non-zero: no upcall is delivered.
    pub fn upcall_mask(self) -> &'static AtomicU8 {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_mask))
    }

    /// One bit for each word of the pending bitmap that has news.
    pub fn pending_selector(self) -> &'static AtomicU64 {
        self.word(offset_of!(VcpuInfo, evtchn_pending_sel))
    }

    /// A word of the pending bitmap; `index` below [`EVENT_WORDS`].
    pub fn pending(self, index: usize) -> &'static AtomicU64 {
        self.word(offset_of!(SharedInfo, evtchn_pending) + 8 * (index % EVENT_WORDS))
    }

    /// A word of the mask bitmap; `index` below [`EVENT_WORDS`].
    pub fn mask(self, index: usize) -> &'static AtomicU64 {
        self.word(offset_of!(SharedInfo, evtchn_mask) + 8 * (index % EVENT_WORDS))
    }

    /// The address of the last page fault.
    pub fn fault_address(self) -> u64 {
        self.word(offset_of!(VcpuInfo, arch)).load(Ordering::Relaxed)
    }

    /// The clock's parameters, of one version.
    pub fn clock(self) -> Clock {
        const TIME: usize = offset_of!(VcpuInfo, time);
        let version = self.half(TIME + offset_of!(VcpuTimeInfo, version));
        let shift = self.byte(TIME + offset_of!(VcpuTimeInfo, tsc_shift));
        loop {
            let before = version.load(Ordering::Acquire);
            let clock = Clock {
                tsc: self.word(TIME + offset_of!(VcpuTimeInfo, tsc_timestamp)).load(Ordering::Relaxed),
                system: self.word(TIME + offset_of!(VcpuTimeInfo, system_time)).load(Ordering::Relaxed),
                scale: self.half(TIME + offset_of!(VcpuTimeInfo, tsc_to_system_mul)).load(Ordering::Relaxed),
                shift: shift.load(Ordering::Relaxed) as i8,
            };
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && version.load(Ordering::Relaxed) == before {
                return clock;
            }
            core::hint::spin_loop();
        }
    }

    /// The wall clock at system time 0: seconds and nanoseconds since 1970.
    pub fn wall_clock(self) -> (u64, u32) {
        let version = self.half(offset_of!(SharedInfo, wc_version));
        let load = |offset| self.half(offset).load(Ordering::Relaxed);
        loop {
            let before = version.load(Ordering::Acquire);
            let low = load(offset_of!(SharedInfo, wc_sec));
            let high = load(offset_of!(SharedInfo, wc_sec_hi));
            let nanoseconds = load(offset_of!(SharedInfo, wc_nsec));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && version.load(Ordering::Relaxed) == before {
                return (u64::from(high) << 32 | u64::from(low), nanoseconds);
            }
            core::hint::spin_loop();
        }
    }
}

/// How TSC ticks become system time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// TSC at `system`.
    pub tsc: u64,
    /// Nanoseconds since boot.
    pub system: u64,
    /// Nanoseconds a shifted tick, in units of 2^-32.
    pub scale: u32,
    /// Left shift of ticks, or right shift if negative.
    pub shift: i8,
}

impl Clock {
    /// Nanoseconds since boot when the TSC reads `now`.
    pub fn at(&self, now: u64) -> u64 {
        // The counter is modular: where it is emulated it may have been "negative" at the update. A counter that is
        // a little behind the update, on another CPU, counts as not having moved.
        let ticks = (now.wrapping_sub(self.tsc) as i64).max(0) as u64;
        let distance = u32::from(self.shift.unsigned_abs()).min(63);
        let ticks = if self.shift < 0 { ticks >> distance } else { ticks << distance };
        let passed = (u128::from(ticks) * u128::from(self.scale)) >> 32;
        self.system.wrapping_add(passed as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_scaled() {
        // 2 GHz: half a nanosecond a tick.
        let clock = Clock { tsc: 1000, system: 7, scale: 1 << 31, shift: 0 };
        assert_eq!((clock.at(3000), clock.at(1000), clock.at(0)), (1007, 7, 7));
        // An emulated counter that began after the update.
        assert_eq!(Clock { tsc: 1000u64.wrapping_sub(3000), ..clock }.at(1000), 1507);
        // 500 MHz, shifted left; 8 GHz, shifted right.
        assert_eq!(Clock { scale: 1 << 31, shift: 2, ..clock }.at(1010), 27);
        assert_eq!(Clock { scale: 1 << 31, shift: -2, ..clock }.at(1800), 107);
    }
}
