//! How long a vCPU has run, waited for a CPU, waited for an event, or been kept from running.

use core::sync::atomic::Ordering::Relaxed;

use abi::Vaddr;
use abi::vcpu::RunstateInfo;
use zerocopy::IntoBytes;

use crate::sched::state::View;
use crate::{AddressSpace, Caller, Core, Domain, Platform, Run, Vcpu, guest};

/// `VMASST_TYPE_runstate_update_flag` of `xen.h`.
const ASSIST_UPDATE_FLAG: u64 = 1 << 5;

/// The runstate that a vCPU's state word means.
fn state_of(view: View) -> i32 {
    match () {
        () if view.stays() && view.runnable() => RunstateInfo::RUNNING,
        () if view.runnable() => RunstateInfo::RUNNABLE,
        () if view.blocked() => RunstateInfo::BLOCKED,
        () => RunstateInfo::OFFLINE,
    }
}

/// Counts the present state up to `now`.
fn count(times: &mut RunstateInfo, now: u64) {
    if let Some(time) = times.time.get_mut(times.state as usize) {
        *time = time.saturating_add(now.saturating_sub(times.state_entry_time));
    }
}

/// Counts the present state up to `now`, and enters `state`. So the times always add up to when it was entered.
fn enter(times: &mut RunstateInfo, state: i32, now: u64) {
    count(times, now);
    (times.state, times.state_entry_time) = (state, now.max(times.state_entry_time));
}

impl<P: Platform> Core<P> {
    /// A vCPU's state word has changed: enters the runstate that it now means.
    ///
    /// The word is read under the lock, so that of two changes at once the later one stays.
    pub(crate) fn note_runstate(&self, vcpu: &Vcpu<P>, now: u64) {
        let mut times = vcpu.time.times.lock();
        let state = state_of(vcpu.sched.state.view());
        if state != times.state {
            enter(&mut times, state, now);
        }
    }

    /// A vCPU's times up to `now`.
    pub fn run_times(&self, vcpu: &Vcpu<P>, now: u64) -> RunstateInfo {
        let mut times = *vcpu.time.times.lock();
        count(&mut times, now);
        times
    }

    /// Sets where a vCPU wants its runstate written: an address in its kernel; 0 for nowhere. Written now in the
    /// caller's; whether that can be done is the guest's affair, as in Xen.
    pub fn set_runstate_area(&self, c: &Caller<'_, P>, vcpu: &Vcpu<P>, at: u64) {
        vcpu.time.runstate_area.store(at, Relaxed);
        self.write_runstate(c.domain, vcpu, c.run);
    }

    /// Writes a vCPU's runstate to where it wants it. To be called with its `Run` at hand: after it was switched to, and
    /// before its state is stored when another takes its place.
    pub fn write_runstate(&self, domain: &Domain<P>, vcpu: &Vcpu<P>, run: &Run) {
        let at = vcpu.time.runstate_area.load(Relaxed);
        if at != 0
            && let Some(root) = run.kernel_root
        {
            self.put_runstate(domain, vcpu, AddressSpace { root }, at);
        }
    }

    #[inline(never)]
    fn put_runstate(&self, domain: &Domain<P>, vcpu: &Vcpu<P>, space: AddressSpace, at: u64) {
        let mut times = self.run_times(vcpu, self.platform.now());
        let put = |offset, bytes: &[u8]| guest::put(&self.platform, space, Vaddr(at.wrapping_add(offset)), bytes);
        // Where the guest's own tables do not map it now, it is written the next time they do.
        let _ = if domain.assist.load(Relaxed) & ASSIST_UPDATE_FLAG == 0 {
            put(0, times.as_bytes())
        } else {
            let since = times.state_entry_time;
            times.state_entry_time |= RunstateInfo::UPDATE;
            let begun = put(8, times.state_entry_time.as_bytes()).and_then(|()| put(0, times.as_bytes()));
            begun.and_then(|()| put(8, since.as_bytes()))
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_never_go_back() {
        let mut t = RunstateInfo { state: RunstateInfo::OFFLINE, ..Default::default() };
        enter(&mut t, RunstateInfo::RUNNABLE, 10);
        enter(&mut t, RunstateInfo::RUNNING, 15);
        enter(&mut t, RunstateInfo::BLOCKED, 12);
        enter(&mut t, RunstateInfo::RUNNING, 40);
        assert_eq!(t.time, [0, 5, 25, 10]);
        assert_eq!(t.time.iter().sum::<u64>(), t.state_entry_time);
        count(&mut t, 50);
        assert_eq!((t.time, t.state, t.state_entry_time), ([10, 5, 25, 10], 0, 40));
    }
}
