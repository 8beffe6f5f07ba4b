//! How an event reaches a vCPU: the 2-level layout, or by [`fifo`](super::fifo).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use abi::event::fifo::{MASKED, PENDING};
use abi::{Port, VcpuId, Virq};

use super::raise::{Notified, Set, Words};
use super::{Bound, layout};
use crate::{Core, Domain, Platform, Privilege, Vcpu, guest};

/// The port that a vCPU polls when it polls several.
const ANY: u32 = 0;

impl<P: Platform> Core<P> {
    /// Is an upcall due: an event pending, and not masked?
    #[inline(always)]
    pub fn upcall_due(&self, vcpu: &Vcpu<P>) -> bool {
        let (frame, at) = vcpu.info.get();
        let word = guest::shared_word(&self.platform, frame, at + layout::UPCALL).load(SeqCst);
        // Of the two bytes the upper, the mask, is 0, and the lower, pending, is not.
        (1..=layout::UPCALL_PENDING).contains(&(word & (layout::UPCALL_PENDING | layout::UPCALL_MASK)))
    }

    /// Are a vCPU's upcalls masked?
    #[inline(always)]
    pub fn upcall_mask(&self, vcpu: &Vcpu<P>) -> bool {
        let (frame, at) = vcpu.info.get();
        guest::load(&self.platform, frame, at + layout::UPCALL) & layout::UPCALL_MASK != 0
    }

    /// Masks or unmasks a vCPU's upcalls; returns whether they were masked.
    #[inline(always)]
    pub fn set_upcall_mask(&self, vcpu: &Vcpu<P>, masked: bool) -> bool {
        let (frame, at) = vcpu.info.get();
        let word = guest::shared_word(&self.platform, frame, at + layout::UPCALL);
        let old = if masked { word.fetch_or(1 << 8, SeqCst) } else { word.fetch_and(!layout::UPCALL_MASK, SeqCst) };
        old & layout::UPCALL_MASK != 0
    }

    /// Makes a port pending, from the core itself. A port that is closed meanwhile is left alone.
    #[cfg(test)]
    pub fn send_event(&self, domain: &Domain<P>, port: Port) {
        self.send_if(domain, port, Bound::is_open);
    }

    /// Raises a virtual interrupt: of a vCPU, or one of the whole domain. Not bound means not wanted.
    pub fn send_virq(&self, domain: &Domain<P>, vcpu: Option<VcpuId>, virq: Virq) {
        let vcpu = domain.vcpu(vcpu.unwrap_or(VcpuId(0)));
        let Some(port) = vcpu.and_then(|v| v.events.virq(virq)) else { return };
        // The port may be closed, and another's by now: the channel's own word decides. Port 0 is none.
        self.send_if(domain, Port(port.load(SeqCst)), |bound| matches!(bound, Bound::Virq(of) if *of == virq));
    }

    /// An interrupt that a domain was given went off; it was bound to this port. False if it is not any more.
    pub fn raise_pirq(&self, domain: &Domain<P>, pirq: u32, port: Port) -> bool {
        self.send_if(domain, port, |bound| bound.is_pirq(pirq))
    }

    fn send_if(&self, domain: &Domain<P>, port: Port, wanted: impl FnOnce(&Bound<P>) -> bool) -> bool {
        let ports = domain.events.ports.lock();
        let wanted = ports.get(port).filter(|channel| wanted(&channel.bound));
        wanted.inspect(|channel| self.deliver(domain, port, channel.vcpu)).is_some()
    }

    /// Raises a virtual interrupt of the machine's, in the domains whose business it is.
    pub fn send_global_virq(&self, whose: Privilege, virq: Virq) {
        let table = self.domains.table.read();
        table.iter().filter(|d| d.privilege.contains(whose)).for_each(|d| self.send_virq(d, None, virq));
    }

    /// Makes a port pending and tells its vCPU. The caller holds the lock of this port, or of the half of the channel
    /// that names it: so the domain has not gone, and neither has its `vcpu_info`.
    pub(super) fn deliver(&self, domain: &Domain<P>, port: Port, vcpu: VcpuId) {
        if domain.events.is_fifo() {
            return self.deliver_fifo(domain, port, vcpu);
        }
        let set = self.with_words(domain, port, |words| words.set());
        self.announce(domain, port, vcpu, set, Some(port));
    }

    /// What is left of [`deliver`](Self::deliver), in either layout; in the 2-level one there is a selector to set.
    #[inline(always)]
    pub(super) fn announce(&self, domain: &Domain<P>, port: Port, vcpu: VcpuId, set: Set, selector: Option<Port>) {
        match set {
            Set::Already => {}
            _ if domain.events.pollers.load(SeqCst) != 0 => self.announce_polled(domain, port, vcpu, set),
            Set::Masked => {}
            Set::Raised => self.tell(domain, vcpu, selector),
        }
    }

    /// The same where vCPUs poll: wakes those that poll this port.
    #[inline(never)]
    fn announce_polled(&self, domain: &Domain<P>, port: Port, vcpu: VcpuId, set: Set) {
        if set == Set::Raised {
            self.tell(domain, vcpu, (!domain.events.is_fifo()).then_some(port));
        }
        for vcpu in domain.vcpus.iter().filter(|v| v.sched.state.view().polling()) {
            let polled = vcpu.sched.poll_port.load(SeqCst);
            if polled == ANY || polled == port.0 {
                self.wake(vcpu);
            }
        }
    }

    /// Unmasks an open port, and tells its vCPU if it was pending. The caller holds the lock of the domain's ports.
    pub(super) fn unmask(&self, domain: &Domain<P>, port: Port, vcpu: VcpuId) {
        if domain.events.is_fifo() {
            if self.event_word(domain, port).is_some_and(|word| word.clear(MASKED).any(PENDING)) {
                self.deliver_fifo(domain, port, vcpu);
            }
        } else if self.with_words(domain, port, |words| words.unmask()) {
            self.tell(domain, vcpu, Some(port));
        }
    }

    /// Has a port this bit of an event word, PENDING or MASKED, or what corresponds to it in the 2-level layout?
    #[inline(always)]
    pub(crate) fn port_is(&self, domain: &Domain<P>, port: Port, bit: u32) -> bool {
        if domain.events.is_fifo() {
            return self.event_word(domain, port).is_some_and(|word| word.any(bit));
        }
        self.with_words(domain, port, |w| (if bit == PENDING { w.pending } else { w.mask }).load(SeqCst) & w.bit != 0)
    }

    #[inline(always)]
    pub(super) fn with_words<R>(&self, domain: &Domain<P>, port: Port, f: impl FnOnce(Words<'_>) -> R) -> R {
        let at = port.0 as usize / 64 % 64;
        let page = domain.shared_info;
        f(Words {
            pending: guest::shared_word(&self.platform, page, layout::PENDING + at),
            mask: guest::shared_word(&self.platform, page, layout::MASK + at),
            bit: 1 << (port.0 % 64),
        })
    }

    /// Sets the upcall byte of a vCPU, and in the 2-level layout a port's bit in the selector, and makes it look.
    #[inline(always)]
    fn tell(&self, domain: &Domain<P>, vcpu: VcpuId, port: Option<Port>) {
        let Some(vcpu) = domain.vcpu(vcpu) else { return };
        let (frame, at) = vcpu.info.get();
        let word = |word| guest::shared_word(&self.platform, frame, at + word);
        let selector = port.map(|port| (word(layout::SELECTOR), 1 << (port.0 / 64 % 64)));
        if (Notified { selector, upcall: word(layout::UPCALL) }).tell() {
            self.kick(vcpu);
        }
    }

    /// SCHEDOP_block: the running vCPU unmasks its upcalls and waits for one. True if it has to wait: the caller
    /// posts a reschedule.
    pub fn block(&self, vcpu: &Arc<Vcpu<P>>) -> bool {
        self.set_upcall_mask(vcpu, false);
        vcpu.sched.state.block(false);
        // Look for events only now: one that came before the line above did not see that this vCPU waits.
        if self.upcall_due(vcpu) {
            self.wake(vcpu);
            return false;
        }
        true
    }

    /// SCHEDOP_poll begins: the vCPU counts as waiting from here on. What it waits for is looked at afterwards.
    pub(crate) fn begin_poll(&self, domain: &Domain<P>, vcpu: &Arc<Vcpu<P>>, only: Option<Port>) {
        vcpu.sched.poll_port.store(only.map_or(ANY, |port| port.0), SeqCst);
        domain.events.pollers.fetch_add(1, SeqCst);
        vcpu.sched.state.block(true);
    }

    /// Is one of the caller's own ports pending? None if it is no valid port.
    pub(crate) fn poll_port(&self, domain: &Domain<P>, port: Port) -> Option<bool> {
        let valid = port.0 < domain.events.ports.lock().valid();
        valid.then(|| self.port_is(domain, port, PENDING))
    }
}
