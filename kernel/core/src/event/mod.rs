//! Event channels.
//!
//! A domain's ports are in buckets of [`BUCKET`], allocated as they are needed. One lock a domain guards them; an
//! operation on an interdomain channel that changes both halves takes both locks, that of the lower domain first. Each
//! half of a channel holds all that is needed to notify the other, so that sending takes one lock only, and while that
//! is held the channel cannot be closed from either side.
//!
//! This page has what the ports are; [`deliver`](self) is how an event reaches a vCPU, `channel` what
//! event_channel_op does to ports.

mod audit;
mod channel;
mod deliver;
mod fifo;
mod info;
pub mod layout;
pub mod link;
pub mod raise;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::event::fifo::LINKED;
use abi::event::{EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_NR_CHANNELS};
use abi::{DomId, Errno, Port, VcpuId, Virq};

use crate::{Domain, Guard, Lock, Platform, refuse_if};

/// Ports in a bucket. A port is valid, in the sense of EINVAL, if its bucket exists: as in Xen.
const BUCKET: usize = 64;

/// A domain's event channels.
pub struct Events<P: Platform> {
    ports: Lock<P, Ports<P>>,
    /// What it has of the FIFO layout; none in the 2-level one.
    fifo: Lock<P, Option<fifo::Fifo>>,
    /// Is there a FIFO layout? Changed with both locks held.
    is_fifo: AtomicBool,
    /// How many of its vCPUs wait in SCHEDOP_poll.
    pub(crate) pollers: AtomicU32,
}

/// What is guarded by the lock of a domain's ports.
struct Ports<P: Platform> {
    #[expect(clippy::vec_box, reason = "a bucket is not to be copied when there is another")]
    buckets: Vec<Box<[Channel<P>; BUCKET]>>,
    /// One more than the highest port that may be used.
    limit: u32,
    /// Where a reset that was preempted goes on; 0 if none is under way.
    reset_at: u32,
    /// How many are open.
    open: u32,
}

/// One half of a channel.
struct Channel<P: Platform> {
    bound: Bound<P>,
    /// The vCPU it notifies.
    vcpu: VcpuId,
}

/// What a port is bound to.
enum Bound<P: Platform> {
    /// Nothing.
    Free,
    /// Port 0, which is never used.
    Reserved,
    /// A domain may bind to it.
    Unbound(DomId),
    /// A port of a domain, perhaps the same one.
    Interdomain(Peer<P>),
    /// An interrupt of the machine, as the domain numbers it.
    Pirq(u32),
    /// A virtual interrupt.
    Virq(Virq),
    /// A vCPU of the domain itself.
    Ipi,
}

impl<P: Platform> Bound<P> {
    /// Is the port in use?
    fn is_open(&self) -> bool {
        !matches!(self, Self::Free | Self::Reserved)
    }

    fn is_pirq(&self, pirq: u32) -> bool {
        matches!(self, Self::Pirq(of) if *of == pirq)
    }
}

/// The other half of a channel, and the vCPU that it notifies.
struct Peer<P: Platform> {
    domain: Arc<Domain<P>>,
    port: Port,
    vcpu: VcpuId,
}

impl<P: Platform> Channel<P> {
    const FREE: Self = Self { bound: Bound::Free, vcpu: VcpuId(0) };
}

impl<P: Platform> Ports<P> {
    fn get(&self, port: Port) -> Option<&Channel<P>> {
        self.buckets.get(port.0 as usize / BUCKET)?.get(port.0 as usize % BUCKET)
    }

    fn get_mut(&mut self, port: Port) -> Option<&mut Channel<P>> {
        self.buckets.get_mut(port.0 as usize / BUCKET)?.get_mut(port.0 as usize % BUCKET)
    }

    /// All that are valid.
    fn all(&self) -> impl Iterator<Item = (Port, &Channel<P>)> {
        (0..).map(Port).zip(self.buckets.iter().flat_map(|bucket| bucket.iter()))
    }

    /// The other half of a port's channel, as that names it.
    fn peer(&self, port: Port) -> Option<&Peer<P>> {
        match &self.get(port)?.bound {
            Bound::Interdomain(peer) => Some(peer),
            _ => None,
        }
    }

    /// How many ports are valid.
    fn valid(&self) -> u32 {
        (self.buckets.len() * BUCKET) as u32
    }

    /// Adds a bucket of free ports.
    fn grow(&mut self) -> Result<(), Errno> {
        self.buckets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        crate::headroom::<[Channel<P>; BUCKET]>(1)?;
        self.buckets.push(Box::new([const { Channel::FREE }; BUCKET]));
        Ok(())
    }

    /// Opens a port.
    fn open(&mut self, port: Port, bound: Bound<P>, vcpu: VcpuId) {
        if let Some(channel) = self.get_mut(port) {
            *channel = Channel { bound, vcpu };
            self.open += 1;
        }
    }
}

impl<P: Platform> Events<P> {
    /// No channels. The domain may use ports up to `highest`. ENOMEM where there is no memory for the first bucket.
    pub fn new(highest: u32) -> Result<Self, Errno> {
        let mut ports = Ports { buckets: Vec::new(), limit: highest.saturating_add(1), reset_at: 0, open: 0 };
        ports.grow()?;
        if let Some(first) = ports.get_mut(Port(0)) {
            first.bound = Bound::Reserved;
        }
        let (fifo, is_fifo) = (Lock::<P, _>::new(None), AtomicBool::new(false));
        Ok(Self { ports: Lock::<P, _>::new(ports), fifo, is_fifo, pollers: AtomicU32::new(0) })
    }

    /// Has the domain the FIFO layout?
    fn is_fifo(&self) -> bool {
        self.is_fifo.load(Ordering::SeqCst)
    }

    /// The lowest free port, its bucket made where it has to be. ENOSPC when all that the domain may have are in use.
    fn find_free(&self, platform: &P, ports: &mut Ports<P>) -> Result<Port, Errno> {
        let mut fifo = self.fifo.lock();
        let most = if fifo.is_some() { EVTCHN_FIFO_NR_CHANNELS } else { EVTCHN_2L_NR_CHANNELS };
        // Whose word is still on a queue, as the guest has it, is nobody's next one.
        let linked =
            |port| fifo.as_ref().and_then(|fifo| fifo.word(platform, port)).is_some_and(|word| word.any(LINKED));
        let free = ports.all().find(|(port, channel)| matches!(channel.bound, Bound::Free) && !linked(*port));
        let found = free.map_or(Port(ports.valid()), |(port, _)| port);
        refuse_if(found.0 >= ports.limit.min(most), Errno::ENOSPC)?;
        if found.0 >= ports.valid() {
            fifo.as_mut().map_or(Ok(()), |fifo| fifo.cover(ports.valid() + BUCKET as u32))?;
            ports.grow()?;
        }
        Ok(found)
    }

    /// Bytes of the heap that the ports take.
    pub(crate) fn bytes(&self) -> usize {
        let ports = self.ports.lock();
        let fifo = self.fifo.lock().as_ref().map_or(0, fifo::Fifo::bytes);
        fifo + ports.buckets.len() * size_of::<[Channel<P>; BUCKET]>()
    }
}

/// The ports of two domains, locked in order; of one, if they are the same.
struct Both<'a, P: Platform> {
    near: Guard<'a, P, Ports<P>>,
    far: Option<Guard<'a, P, Ports<P>>>,
}

impl<'a, P: Platform> Both<'a, P> {
    fn lock(near: &'a Arc<Domain<P>>, far: &'a Arc<Domain<P>>) -> Self {
        if Arc::ptr_eq(near, far) {
            Self { near: near.events.ports.lock(), far: None }
        } else if near.id < far.id {
            let near = near.events.ports.lock();
            Self { near, far: Some(far.events.ports.lock()) }
        } else {
            let far = far.events.ports.lock();
            Self { near: near.events.ports.lock(), far: Some(far) }
        }
    }

    /// Does something with a port of `near`'s while nobody changes either half of its channel, if it is of one.
    fn with<R>(near: &Arc<Domain<P>>, port: Port, f: impl FnOnce(&mut Both<'_, P>) -> R) -> R {
        loop {
            let far = near.events.ports.lock().peer(port).map_or(near, |peer| &peer.domain).clone();
            let mut both = Both::lock(near, &far);
            // Unless it has become another channel meanwhile.
            if both.near.peer(port).is_none_or(|peer| Arc::ptr_eq(&peer.domain, &far)) {
                return f(&mut both);
            }
        }
    }

    fn far(&mut self) -> &mut Ports<P> {
        self.far.as_deref_mut().unwrap_or(&mut self.near)
    }

    /// The other half of a port's channel.
    fn other(&mut self, port: Port) -> Option<&mut Channel<P>> {
        let remote = self.near.peer(port)?.port;
        self.far().get_mut(remote)
    }
}

/// What of event channels belongs to a vCPU: the ports of its virtual interrupts; 0 where none is bound.
#[derive(Default)]
pub struct VcpuEvents([AtomicU32; Virq::COUNT as usize]);

impl VcpuEvents {
    /// The port that a virtual interrupt is bound to.
    fn virq(&self, virq: Virq) -> Option<&AtomicU32> {
        self.0.get(virq.0 as usize)
    }
}
