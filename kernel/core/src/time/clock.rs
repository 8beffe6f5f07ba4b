//! What guests read the time from: `vcpu_time_info` and the wall clock in `shared_info`.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};

use abi::Vaddr;

use super::timers::NEVER;
use crate::event::layout;
use crate::{AddressSpace, Caller, Core, Domain, Frame, Platform, Run, Vcpu, guest};

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
    /// When its watchdogs go off; [`NEVER`] for one that is not in use.
    pub(crate) watchdogs: [AtomicU64; WATCHDOGS],
    /// A CPU's timer queue holds them.
    pub(super) watched: AtomicBool,
}

impl DomainClock {
    /// The clock of a domain that begins now.
    pub fn new<P: Platform>(platform: &P) -> Self {
        Self {
            tsc: platform.tsc(),
            system: platform.now(),
            offset: AtomicI64::new(0),
            watchdogs: [const { AtomicU64::new(NEVER) }; WATCHDOGS],
            watched: AtomicBool::new(false),
        }
    }
}

impl<P: Platform> Core<P> {
    /// Writes a vCPU's time page, wherever its `vcpu_info` is.
    ///
    /// The page refers to a fixed moment, so that this is needed only when it moves: on first use and on
    /// registration.
    pub fn update_time_page(&self, domain: &Domain<P>, vcpu: &Vcpu<P>) {
        let (frame, at) = vcpu.info.get();
        self.publish(frame, at + layout::TIME, 0, &self.time_page(&domain.clock));
    }

    /// The words of a time page behind its version.
    fn time_page(&self, clock: &DomainClock) -> [u64; 3] {
        let (mul, shift) = self.platform.tsc_scale();
        [clock.tsc, clock.system, u64::from(mul) | u64::from(shift as u8) << 32 | TSC_STABLE << 40]
    }

    /// Writes words into a page that its guest reads by the version protocol: the version is the lower half of the first,
    /// odd while the others change.
    fn publish(&self, frame: Frame, at: usize, first: u64, others: &[u64]) {
        let store = |word, value| guest::store(&self.platform, frame, at + word, value);
        let before = guest::load(&self.platform, frame, at);
        store(0, before | 1);
        (1..).zip(others).for_each(|(word, value)| store(word, *value));
        store(0, first | u64::from((before as u32 & !1).wrapping_add(2)));
    }

    /// Sets where a second copy of the time page goes: an address in the caller's kernel, which it is written to now. An
    /// address that does not take it is forgotten, as is 0.
    pub fn set_time_area(&self, c: &Caller<'_, P>, vcpu: &Vcpu<P>, at: u64) {
        vcpu.time.time_area.store(at, Relaxed);
        self.write_time_area(c.domain, vcpu, c.run);
    }

    /// Writes the second copy of a vCPU's time page, if it wants one, where `run`'s kernel has it.
    pub(crate) fn write_time_area(&self, domain: &Domain<P>, vcpu: &Vcpu<P>, run: &Run) {
        let at = vcpu.time.time_area.load(Relaxed);
        let Some(root) = run.kernel_root.filter(|_| at != 0) else { return };
        let [tsc, system, scale] = self.time_page(&domain.clock);
        let put = |words: &[u64]| guest::put(&self.platform, AddressSpace { root }, Vaddr(at), words);
        // The words behind the version first: a reader that sees the even version at the end sees them too.
        if put(&[1, tsc, system, scale]).and_then(|()| put(&[2])).is_err() {
            vcpu.time.time_area.store(0, Relaxed);
        }
    }

    /// Sets how many seconds a domain's wall clock is ahead of the machine's.
    pub fn set_time_offset(&self, domain: &Domain<P>, seconds: i64) {
        domain.clock.offset.store(seconds, Release);
        self.update_wall_clock(domain);
    }

    /// Writes the wall clock into a domain's `shared_info`.
    pub fn update_wall_clock(&self, domain: &Domain<P>) {
        let seconds = self.platform.wall_clock().wrapping_add_signed(domain.clock.offset.load(Acquire));
        // Behind the lower half of the seconds: nanoseconds, which are 0, and their upper half.
        self.publish(domain.shared_info, layout::WALL_CLOCK, seconds << 32, &[seconds >> 32 << 32]);
    }

    /// Virtual time of a domain, in nanoseconds: how long its vCPUs have run.
    pub fn virtual_time(&self, domain: &Domain<P>) -> u64 {
        let now = self.platform.now();
        domain.vcpus.iter().map(|v| self.run_times(v, now).time[0]).fold(0, u64::saturating_add)
    }
}
