//! How long a vCPU has run, waited for a CPU, waited for an event, or been kept from running.

use core::sync::atomic::Ordering::Relaxed;

use abi::Vaddr;

use crate::sched::state::View;
use crate::{AddressSpace, Core, Platform, Run, Vcpu, guest};

/// `XEN_RUNSTATE_UPDATE` of `vcpu.h`: the copy in guest memory is being written.
const UPDATE: u64 = 1 << 63;
/// `VMASST_TYPE_runstate_update_flag` of `xen.h`.
const ASSIST_UPDATE_FLAG: u64 = 1 << 5;

/// `RUNSTATE_*` of `vcpu.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RunState {
    /// It runs.
    Running = 0,
    /// It could run, but no CPU runs it.
    Runnable = 1,
    /// It waits for an event.
    Blocked = 2,
    /// It is paused or down, and does not wait for an event.
    Offline = 3,
}

impl RunState {
    /// The runstate that a vCPU's state word means.
    fn of(view: View) -> Self {
        match () {
            () if view.stays() && view.runnable() => Self::Running,
            () if view.runnable() => Self::Runnable,
            () if view.blocked() => Self::Blocked,
            () => Self::Offline,
        }
    }
}

/// How long a vCPU has been in each state, in nanoseconds: `vcpu_runstate_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunTimes {
    /// The state it is in.
    pub state: RunState,
    /// Since when.
    pub since: u64,
    /// How long it was in each, the present one up to `since` only. The sum is `since`.
    pub times: [u64; 4],
}

impl RunTimes {
    pub(super) fn new() -> Self {
        Self { state: RunState::Offline, since: 0, times: [0; 4] }
    }

    /// Counts the present state up to `now`, and enters `state`.
    fn enter(&mut self, state: RunState, now: u64) {
        *self = Self { state, since: now.max(self.since), times: self.at(now).times };
    }

    /// The same with the present state counted up to `now`.
    fn at(&self, now: u64) -> Self {
        let mut later = *self;
        if let Some(time) = later.times.get_mut(self.state as usize) {
            *time = time.saturating_add(now.saturating_sub(self.since));
        }
        later
    }

    /// As the guest sees it: the bytes of `vcpu_runstate_info`, as words.
    pub fn words(&self) -> [u64; 6] {
        let [a, b, c, d] = self.times;
        [self.state as u64, self.since, a, b, c, d]
    }
}

impl<P: Platform> Core<P> {
    /// A vCPU's state word has changed: enters the runstate that it now means.
    ///
    /// The word is read under the lock, so that of two changes at once the later one stays.
    pub(crate) fn note_runstate(&self, vcpu: &Vcpu<P>, now: u64) {
        let mut times = vcpu.time.times.lock();
        let state = RunState::of(vcpu.sched.state.view());
        if state != times.state {
            times.enter(state, now);
        }
    }

    /// A vCPU's times up to `now`.
    pub fn run_times(&self, vcpu: &Vcpu<P>, now: u64) -> RunTimes {
        vcpu.time.times.lock().at(now)
    }

    /// Sets where a vCPU wants its runstate written: an address in its kernel; 0 for nowhere. Written now if `space`,
    /// the vCPU's own, is given; whether that can be done is the guest's affair, as in Xen.
    pub fn set_runstate_area(&self, vcpu: &Vcpu<P>, space: Option<AddressSpace>, at: u64) {
        vcpu.time.runstate_area.store(at, Relaxed);
        if let Some(space) = space {
            self.write_runstate_in(vcpu, space);
        }
    }

    /// Writes a vCPU's runstate to where it wants it. To be called with its `Run` at hand: after it was switched to, and
    /// before its state is stored when another takes its place.
    pub fn write_runstate(&self, vcpu: &Vcpu<P>, run: &Run) {
        if vcpu.time.runstate_area.load(Relaxed) != 0
            && let Some(root) = run.kernel_root
        {
            self.write_runstate_in(vcpu, AddressSpace { root });
        }
    }

    fn write_runstate_in(&self, vcpu: &Vcpu<P>, space: AddressSpace) {
        let at = vcpu.time.runstate_area.load(Relaxed);
        let Some(domain) = vcpu.domain.upgrade().filter(|_| at != 0) else { return };
        let mut words = self.run_times(vcpu, self.platform.now()).words();
        let since = words[1];
        let put = |offset, words: &[u64]| guest::put(&self.platform, space, Vaddr(at.wrapping_add(offset)), words);
        let written = if domain.assist.load(Relaxed) & ASSIST_UPDATE_FLAG == 0 {
            put(0, &words)
        } else {
            words[1] |= UPDATE;
            put(8, &[words[1]]).and_then(|()| put(0, &words)).and_then(|()| put(8, &[since]))
        };
        // The guest's own tables do not map it now: it is written the next time they do.
        let _ = written;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_never_go_back() {
        let mut t = RunTimes::new();
        t.enter(RunState::Runnable, 10);
        t.enter(RunState::Running, 15);
        t.enter(RunState::Blocked, 12);
        t.enter(RunState::Running, 40);
        assert_eq!(t.times, [0, 5, 25, 10]);
        assert_eq!(t.times.iter().sum::<u64>(), t.since);
        assert_eq!(t.at(50).times, [10, 5, 25, 10]);
        assert_eq!(t.at(50).words()[..2], [0, 40]);
    }
}
