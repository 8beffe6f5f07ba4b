//! What guests read the time from: `vcpu_time_info` and the wall clock in `shared_info`.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

use abi::Vaddr;

use super::timers::{NEVER, nowhere};
use crate::event::layout;
use crate::{AddressSpace, Core, Domain, Platform, Vcpu, guest};

/// `XEN_PVCLOCK_TSC_STABLE_BIT`: what a vCPU reads can be compared with what another of its domain reads.
const TSC_STABLE: u64 = 1;
/// How many watchdogs a domain has.
const WATCHDOGS: usize = 2;

/// A domain's clock.
pub struct DomainClock {
    /// The TSC at the moment that its time pages refer to.
    tsc: u64,
    /// System time at that moment. One pair for all vCPUs, so that their clocks agree to the tick.
    system: u64,
    /// Seconds that its wall clock is ahead of the machine's.
    offset: AtomicI64,
    /// When its watchdogs go off.
    pub(crate) watchdogs: [AtomicU64; WATCHDOGS],
    /// Which of them are in use: a bit each.
    pub(crate) watchdogs_used: AtomicU32,
    /// The CPU whose timer queue holds the watchdogs.
    pub(crate) watched: AtomicU32,
}

impl DomainClock {
    /// The clock of a domain that begins now.
    pub fn new<P: Platform>(platform: &P) -> Self {
        Self {
            tsc: platform.tsc(),
            system: platform.now(),
            offset: AtomicI64::new(0),
            watchdogs: [const { AtomicU64::new(NEVER) }; WATCHDOGS],
            watchdogs_used: AtomicU32::new(0),
            watched: nowhere(),
        }
    }
}

impl<P: Platform> Core<P> {
    /// Writes a vCPU's time page, by the version protocol, wherever its `vcpu_info` is.
    ///
    /// The page refers to a fixed moment, so that this is needed only when it moves: on first use and on
    /// registration.
    pub fn update_time_page(&self, vcpu: &Vcpu<P>) {
        let Some(domain) = vcpu.domain.upgrade() else { return };
        let (frame, at) = vcpu.info.get();
        let store = |word: usize, value| guest::store(&self.platform, frame, at + layout::TIME + word, value);
        let [version, tsc, system, scale] = self.time_page(&domain.clock);
        let before = guest::load(&self.platform, frame, at + layout::TIME) as u32 & !1;
        store(0, u64::from(before | 1));
        store(1, tsc);
        store(2, system);
        store(3, scale);
        store(0, u64::from(before.wrapping_add(version as u32)));
    }

    /// The four words of a time page, with the step of the version in the first.
    fn time_page(&self, clock: &DomainClock) -> [u64; 4] {
        let (mul, shift) = self.platform.tsc_scale();
        [2, clock.tsc, clock.system, u64::from(mul) | u64::from(shift as u8) << 32 | TSC_STABLE << 40]
    }

    /// Sets where a second copy of the time page goes: an address in the guest's kernel, which it is written to now,
    /// in `space`. An address that does not take it is forgotten, as is 0.
    pub fn set_time_area(&self, vcpu: &Vcpu<P>, space: AddressSpace, at: u64) {
        vcpu.time.time_area.store(at, Relaxed);
        self.write_time_area(vcpu, space);
    }

    /// Writes the second copy of a vCPU's time page, if it wants one.
    pub(crate) fn write_time_area(&self, vcpu: &Vcpu<P>, space: AddressSpace) {
        let at = vcpu.time.time_area.load(Relaxed);
        let Some(domain) = vcpu.domain.upgrade().filter(|_| at != 0) else { return };
        let [version, tsc, system, scale] = self.time_page(&domain.clock);
        // The words behind the version first: a reader that sees the even version at the end sees them too.
        let odd = [version - 1, tsc, system, scale];
        let put = |words: &[u64]| guest::put(&self.platform, space, Vaddr(at), words);
        if put(&odd).and_then(|()| put(&[version])).is_err() {
            vcpu.time.time_area.store(0, Relaxed);
        }
    }

    /// Sets how many seconds a domain's wall clock is ahead of the machine's.
    pub fn set_time_offset(&self, domain: &Domain<P>, seconds: i64) {
        domain.clock.offset.store(seconds, Release);
        self.update_wall_clock(domain);
    }

    /// Writes the wall clock into a domain's `shared_info`, by the version protocol.
    pub fn update_wall_clock(&self, domain: &Domain<P>) {
        let seconds = self.platform.wall_clock().wrapping_add_signed(domain.clock.offset.load(Acquire));
        let store =
            |word: usize, value| guest::store(&self.platform, domain.shared_info, layout::WALL_CLOCK + word, value);
        let before = guest::load(&self.platform, domain.shared_info, layout::WALL_CLOCK);
        let version = before as u32 & !1;
        store(0, before & !0xffff_ffff | u64::from(version | 1));
        // Nanoseconds, which are 0, and the upper half of the seconds.
        store(1, seconds >> 32 << 32);
        store(0, u64::from(version.wrapping_add(2)) | seconds << 32);
    }

    /// Virtual time of a domain, in nanoseconds: how long its vCPUs have run.
    pub fn virtual_time(&self, domain: &Domain<P>) -> u64 {
        let now = self.platform.now();
        domain.vcpus.iter().map(|v| self.run_times(v, now).time[0]).fold(0, u64::saturating_add)
    }

    /// Takes a watchdog, if one is not in use. Returns its number, from 1.
    pub(crate) fn take_watchdog(&self, domain: &Domain<P>) -> Option<usize> {
        (0..WATCHDOGS).find(|n| domain.clock.watchdogs_used.fetch_or(1 << n, SeqCst) & 1 << n == 0).map(|n| n + 1)
    }
}
