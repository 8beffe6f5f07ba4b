//! What event_channel_op, and the core itself, do to ports.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use abi::event::{PortStatus, Status};
use abi::{DomId, Errno, Port, VcpuId, Virq};

use super::{Both, Bound, Channel, Peer, Ports};
use crate::{Core, Domain, Platform, Stop, refuse_if};

/// Ports that a reset closes between two looks at whether it should make room.
const RESET_SLICE: u32 = 64;

/// Is a virtual interrupt one of the whole domain, rather than one of each vCPU?
fn is_global(virq: Virq) -> bool {
    !matches!(virq, Virq::TIMER | Virq::DEBUG | Virq::XENOPROF | Virq::XENPMU)
}

impl<P: Platform> Core<P> {
    /// Makes a port that `remote` may bind to. EINVAL for a dying domain, ENOSPC when it has no port left, ENOMEM.
    pub fn alloc_unbound(&self, domain: &Domain<P>, remote: DomId) -> Result<Port, Errno> {
        self.bind(domain, &mut domain.events.ports.lock(), Bound::Unbound(remote), VcpuId(0))
    }

    /// Connects a new port of `near` to an unbound one of `far`, and makes it pending: what was sent before there was
    /// anybody to hear is not lost. EINVAL if that port does not wait for `near`; else as `alloc_unbound`.
    pub fn bind_interdomain(&self, near: &Arc<Domain<P>>, far: &Arc<Domain<P>>, remote: Port) -> Result<Port, Errno> {
        refuse_if(near.is_dying() || far.is_dying(), Errno::EINVAL)?;
        let mut both = Both::lock(near, far);
        let port = near.events.find_free(&self.platform, &mut both.near)?;
        let waits = |half: &&mut Channel<P>| matches!(half.bound, Bound::Unbound(who) if who == near.id);
        let half = both.far().get_mut(remote).filter(waits).ok_or(Errno::EINVAL)?;
        // Both ports exist, which was all that could go wrong.
        half.bound = Bound::Interdomain(Peer { domain: near.clone(), port, vcpu: VcpuId(0) });
        let peer = Peer { domain: far.clone(), port: remote, vcpu: half.vcpu };
        both.near.open(port, Bound::Interdomain(peer), VcpuId(0));
        self.deliver(near, port, VcpuId(0));
        Ok(port)
    }

    /// Binds a port to a virtual interrupt. EINVAL for one that does not exist, and for one of the whole domain on
    /// another vCPU than 0; ENOENT without that vCPU; EEXIST if it is bound; else as `alloc_unbound`.
    pub fn bind_virq(&self, domain: &Domain<P>, virq: Virq, vcpu: VcpuId) -> Result<Port, Errno> {
        refuse_if(virq.0 >= Virq::COUNT || is_global(virq) && vcpu.0 != 0, Errno::EINVAL)?;
        let slot = domain.vcpu(vcpu).and_then(|v| v.events.virq(virq)).ok_or(Errno::ENOENT)?;
        let mut ports = domain.events.ports.lock();
        refuse_if(slot.load(SeqCst) != 0, Errno::EEXIST)?;
        let port = self.bind(domain, &mut ports, Bound::Virq(virq), vcpu)?;
        slot.store(port.0, SeqCst);
        Ok(port)
    }

    /// Binds a port for signals to one of the domain's own vCPUs. ENOENT without it; else as `alloc_unbound`.
    pub fn bind_ipi(&self, domain: &Domain<P>, vcpu: VcpuId) -> Result<Port, Errno> {
        domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
        self.bind(domain, &mut domain.events.ports.lock(), Bound::Ipi, vcpu)
    }

    /// Binds a port to an interrupt that the domain was given. EINVAL for a number that none has; EEXIST if it is bound;
    /// what [`Core::open_pirq`] says; else as `alloc_unbound`.
    pub fn bind_pirq(&self, domain: &Arc<Domain<P>>, pirq: u32, share: bool) -> Result<Port, Errno> {
        refuse_if(pirq >= crate::irq::PIRQS, Errno::EINVAL)?;
        let port = {
            let mut ports = domain.events.ports.lock();
            refuse_if(ports.all().any(|(_, channel)| channel.bound.is_pirq(pirq)), Errno::EEXIST)?;
            self.bind(domain, &mut ports, Bound::Pirq(pirq), VcpuId(0))?
        };
        // Outside the lock: an interrupt may come at once.
        self.open_pirq(domain, pirq, port, share).inspect_err(|_| {
            let _ = self.close(domain, port);
        })?;
        Ok(port)
    }

    /// Is the port bound to this interrupt?
    pub fn is_bound_to_pirq(&self, domain: &Domain<P>, port: Port, pirq: u32) -> bool {
        domain.events.ports.lock().get(port).is_some_and(|channel| channel.bound.is_pirq(pirq))
    }

    /// Takes a free port for `bound`.
    fn bind(&self, domain: &Domain<P>, ports: &mut Ports<P>, bound: Bound<P>, vcpu: VcpuId) -> Result<Port, Errno> {
        // Looked at under the lock: a domain's ports are closed for good only after it began to die.
        refuse_if(domain.is_dying(), Errno::EINVAL)?;
        let port = domain.events.find_free(&self.platform, ports)?;
        ports.open(port, bound, vcpu);
        Ok(port)
    }

    /// Sends an event through a port. EINVAL for one that nothing can be sent through; an unbound one drops it.
    pub fn send(&self, domain: &Domain<P>, port: Port) -> Result<(), Errno> {
        let ports = domain.events.ports.lock();
        match ports.get(port) {
            Some(Channel { bound: Bound::Interdomain(peer), .. }) => self.deliver(&peer.domain, peer.port, peer.vcpu),
            Some(Channel { bound: Bound::Ipi, vcpu }) => self.deliver(domain, port, *vcpu),
            Some(Channel { bound: Bound::Unbound(_), .. }) => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// Unmasks a port, and delivers what is pending; not if it is closed. EINVAL for one that is not valid.
    pub fn unmask_port(&self, domain: &Domain<P>, port: Port) -> Result<(), Errno> {
        let ports = domain.events.ports.lock();
        let channel = ports.get(port).ok_or(Errno::EINVAL)?;
        if channel.bound.is_open() {
            self.unmask(domain, port, channel.vcpu);
        }
        Ok(())
    }

    /// What a port is bound to. EINVAL for one that is not valid.
    pub fn port_info(&self, domain: &Domain<P>, port: Port) -> Result<Status, Errno> {
        let ports = domain.events.ports.lock();
        let channel = ports.get(port).ok_or(Errno::EINVAL)?;
        let (status, detail, remote_port) = match &channel.bound {
            Bound::Free | Bound::Reserved => (PortStatus::CLOSED, 0, Port(0)),
            Bound::Unbound(who) => (PortStatus::UNBOUND, u32::from(who.0), Port(0)),
            Bound::Interdomain(peer) => (PortStatus::INTERDOMAIN, u32::from(peer.domain.id.0), peer.port),
            Bound::Pirq(pirq) => (PortStatus::PIRQ, *pirq, Port(0)),
            Bound::Virq(virq) => (PortStatus::VIRQ, virq.0, Port(0)),
            Bound::Ipi => (PortStatus::IPI, 0, Port(0)),
        };
        Ok(Status { dom: domain.id, _pad: 0, port, status, vcpu: channel.vcpu, detail, remote_port })
    }

    /// How many ports are valid: all below are. For debugging and audits.
    pub fn valid_ports(&self, domain: &Domain<P>) -> u32 {
        domain.events.ports.lock().valid()
    }

    /// Moves a port's notifications to another vCPU. ENOENT without it; EINVAL for a port that is not valid, or is
    /// bound to a vCPU for good.
    pub fn bind_vcpu(&self, domain: &Arc<Domain<P>>, port: Port, vcpu: VcpuId) -> Result<(), Errno> {
        domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
        Both::with(domain, port, |both| {
            let channel = both.near.get_mut(port).ok_or(Errno::EINVAL)?;
            let movable = match &channel.bound {
                Bound::Interdomain(_) | Bound::Unbound(_) | Bound::Pirq(_) => true,
                Bound::Virq(virq) => is_global(*virq),
                Bound::Free | Bound::Reserved | Bound::Ipi => false,
            };
            refuse_if(!movable, Errno::EINVAL)?;
            channel.vcpu = vcpu;
            // The peer's half names the vCPU too.
            if let Some(Channel { bound: Bound::Interdomain(back), .. }) = both.other(port) {
                back.vcpu = vcpu;
            }
            Ok(())
        })
    }

    /// Closes a port. EINVAL for one that is not open. The other half of a channel waits for a new peer.
    pub fn close(&self, domain: &Arc<Domain<P>>, port: Port) -> Result<(), Errno> {
        let was = Both::with(domain, port, |both| {
            if let Some(other) = both.other(port) {
                // Its notifications stay with the vCPU they went to.
                other.bound = Bound::Unbound(domain.id);
            }
            self.free(domain, &mut both.near, port)
        });
        // Given up only now that the locks are: what was bound holds the peer.
        if let Bound::Pirq(pirq) = was.ok_or(Errno::EINVAL)? {
            self.close_pirq(domain, pirq, port);
        }
        Ok(())
    }

    /// Makes an open port free again; returns what it was bound to.
    fn free(&self, domain: &Domain<P>, ports: &mut Ports<P>, port: Port) -> Option<Bound<P>> {
        let channel = ports.get_mut(port).filter(|channel| channel.bound.is_open())?;
        let was = core::mem::replace(channel, Channel::FREE).bound;
        ports.open -= 1;
        if let Bound::Virq(virq) = was {
            for slot in domain.vcpus.iter().filter_map(|v| v.events.virq(virq)) {
                // Only the one that names this port changes.
                let _ = slot.compare_exchange(port.0, 0, SeqCst, SeqCst);
            }
        }
        self.forget_event(domain, port);
        Some(was)
    }

    /// Closes all ports of a domain, a slice at a time, and goes back to the 2-level layout: `PREEMPTED` while there are
    /// more. A reset of a live domain that was preempted is `resumed`; EBUSY for a second one meanwhile; EAGAIN if the
    /// guest bound ports behind its back, which are open still.
    pub fn reset_ports(&self, domain: &Arc<Domain<P>>, resumed: bool) -> Result<(), Stop> {
        let mut port = {
            let mut ports = domain.events.ports.lock();
            refuse_if(resumed != (ports.reset_at != 0), Errno::EBUSY)?;
            ports.reset_at = ports.reset_at.max(1);
            ports.reset_at
        };
        while port < self.valid_ports(domain) {
            // A port that is not open is no error here.
            let _ = self.close(domain, Port(port));
            port += 1;
            if port.is_multiple_of(RESET_SLICE) && self.platform.preempt() {
                domain.events.ports.lock().reset_at = port;
                return Err(Stop::PREEMPTED);
            }
        }
        let mut ports = domain.events.ports.lock();
        ports.reset_at = 0;
        refuse_if(ports.open != 0, Errno::EAGAIN)?;
        self.end_fifo(domain);
        Ok(())
    }

    /// Closes all ports of a dying domain, a slice at a time: `PREEMPTED` while there are more. May be called as often
    /// as one likes.
    pub fn destroy_ports(&self, domain: &Arc<Domain<P>>) -> Result<(), Stop> {
        // Nothing can be bound any more, whatever reset was under way.
        let resumed = domain.events.ports.lock().reset_at != 0;
        self.reset_ports(domain, resumed)
    }
}
