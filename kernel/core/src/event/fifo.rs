//! The FIFO layout of event channels (`EVTCHNOP_init_control` and its kin in `event_channel.h`).
//!
//! Each port has an event word in the domain's event array, pages of the guest's that it adds one by one. Each vCPU has
//! 16 queues, one a priority: lists of event words, linked by port, whose heads are in the vCPU's control block. Of a
//! queue's contents the core believes nothing; it keeps its last port itself. See [`link`](super::link).
//!
//! All that the core keeps of it has one lock a domain, which is the innermost of event channels': who sends holds the
//! lock of his own ports, not those of the domain he sends to.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;

use abi::event::EVTCHN_FIFO_NR_CHANNELS;
use abi::event::fifo::{
    ControlBlock, LINKED, MASKED, MAX_QUEUES, PENDING, PRIORITY_DEFAULT, PRIORITY_MIN, WORDS_PER_PAGE,
};
use abi::{Errno, Mfn, PAGE_SIZE, Port, VcpuId};

use super::Ports;
use super::link::{Half, append};
use super::raise::Set;
use crate::{Core, Domain, Frame, PageType, Platform, guest, refuse_if};

/// Ports whose [`Slot`]s are kept together: those of a page of the array.
const SLOTS: usize = WORDS_PER_PAGE as usize;

/// What a domain in the FIFO layout has of it.
pub(super) struct Fifo {
    /// The pages of the event array, each with a writable reference held.
    array: Vec<Frame>,
    /// By port, at least for all that are valid.
    slots: Vec<Box<[Slot; SLOTS]>>,
    /// By vCPU.
    queues: Vec<Queues>,
}

/// What of a port is not in its event word.
#[derive(Clone, Copy)]
struct Slot {
    /// Its queue.
    priority: u8,
    /// The queue it was put on last: priority, and vCPU.
    last: (u8, VcpuId),
    /// An event came when the page of its word was not there yet.
    waits: bool,
}

/// A vCPU's queues.
#[derive(Clone)]
struct Queues {
    /// Its control block: a frame, with a writable reference held, and the number of a 32-bit word in it.
    block: Option<(Frame, usize)>,
    /// The port that was put on each last; 0 for none.
    last: [Port; MAX_QUEUES],
}

impl Slot {
    const NEW: Self = Self { priority: PRIORITY_DEFAULT as u8, last: (0, VcpuId(0)), waits: false };
}

/// A 32-bit word of a frame.
fn half<P: Platform>(platform: &P, frame: Frame, index: usize) -> Half<'_> {
    Half::new(guest::shared_word(platform, frame, index / 2), index & 1 != 0)
}

impl Fifo {
    /// Makes room for so many ports.
    pub(super) fn cover(&mut self, ports: u32) -> Result<(), Errno> {
        while self.slots.len() * SLOTS < ports as usize {
            self.slots.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            crate::headroom::<[Slot; SLOTS]>(1)?;
            self.slots.push(Box::new([Slot::NEW; SLOTS]));
        }
        Ok(())
    }

    fn slot(&mut self, port: Port) -> Option<&mut Slot> {
        self.slots.get_mut(port.0 as usize / SLOTS)?.get_mut(port.0 as usize % SLOTS)
    }

    /// A port's event word. None while its page is not there.
    pub(super) fn word<'a, P: Platform>(&self, platform: &'a P, port: Port) -> Option<Half<'a>> {
        let page = *self.array.get(port.0 as usize / SLOTS)?;
        Some(half(platform, page, port.0 as usize % SLOTS))
    }

    /// The port that was put on a queue last.
    fn last(&mut self, (priority, vcpu): (u8, VcpuId)) -> Option<&mut Port> {
        self.queues.get_mut(vcpu.0 as usize)?.last.get_mut(usize::from(priority))
    }

    /// Makes a port pending, and puts it on its queue where that is due. An event for a vCPU without a control block is
    /// dropped, as in Xen.
    fn raise<P: Platform>(&mut self, platform: &P, port: Port, vcpu: VcpuId) -> Option<Set> {
        let Some(word) = self.word(platform, port) else {
            self.slot(port)?.waits = true;
            return None;
        };
        let block = self.queues.get(vcpu.0 as usize)?.block?;
        let again = word.set(PENDING);
        // What is linked is found; what is masked is linked when it is unmasked.
        let due = !word.any(MASKED | LINKED) && !word.set(LINKED);
        Some(match due && self.append(platform, port, vcpu, block)? {
            true => Set::Raised,
            false if again => Set::Already,
            false => Set::Masked,
        })
    }

    /// Puts a port that has just become LINKED at the end of its queue. True if the vCPU is to be told.
    fn append<P: Platform>(&mut self, p: &P, port: Port, vcpu: VcpuId, (frame, at): (Frame, usize)) -> Option<bool> {
        let slot = self.slot(port)?;
        let queue = (slot.priority, vcpu);
        // It was taken off the queue that it was on before; if it was the last there, there is no last one now.
        let before = core::mem::replace(&mut slot.last, queue);
        let last = self.last(before).filter(|last| **last == port);
        last.into_iter().for_each(|last| *last = Port(0));
        let last = core::mem::replace(self.last(queue)?, port);
        let last = if last.0 == 0 { None } else { self.word(p, last) };
        let head = half(p, frame, at + 2 + usize::from(queue.0));
        Some(append(last, port.0, head, half(p, frame, at), 1 << queue.0))
    }

    /// The frames that it holds a writable reference on.
    fn frames(&self) -> impl Iterator<Item = Frame> {
        self.array.iter().copied().chain(self.queues.iter().filter_map(|queues| Some(queues.block?.0)))
    }

    /// Bytes of the heap that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.slots.len() * size_of::<[Slot; SLOTS]>() + size_of_val(&*self.queues)
    }
}

impl<P: Platform> Core<P> {
    /// Gives a vCPU its control block, at a byte offset in a frame. The first one switches the domain to the FIFO layout;
    /// what is pending then is raised anew once its event word is there.
    ///
    /// ENOENT without that vCPU; EINVAL for an offset that is no multiple of 8 or where the block would cross the
    /// frame's end, a vCPU that has a block, a frame that is not the domain's or cannot be writable; ENOMEM.
    pub fn init_control(&self, domain: &Domain<P>, vcpu: VcpuId, to: Mfn, offset: u32) -> Result<(), Errno> {
        domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
        refuse_if(offset as usize > PAGE_SIZE - size_of::<ControlBlock>() || !offset.is_multiple_of(8), Errno::EINVAL)?;
        let ports = domain.events.ports.lock();
        let mut guard = domain.events.fifo.lock();
        let mut new = None;
        let fifo = match guard.as_mut() {
            Some(fifo) => fifo,
            None => new.insert(self.begin_fifo(domain, &ports)?),
        };
        let block = &mut fifo.queues.get_mut(vcpu.0 as usize).ok_or(Errno::ENOENT)?.block;
        refuse_if(block.is_some(), Errno::EINVAL)?;
        *block = Some((self.event_frame(domain, to)?, offset as usize / 4));
        if new.is_some() {
            *guard = new;
            domain.events.is_fifo.store(true, SeqCst);
        }
        Ok(())
    }

    /// The state of a domain that changes over: events that are pending in the 2-level layout wait.
    fn begin_fifo(&self, domain: &Domain<P>, ports: &Ports<P>) -> Result<Fifo, Errno> {
        let mut fifo = Fifo { array: Vec::new(), slots: Vec::new(), queues: Vec::new() };
        fifo.queues.try_reserve_exact(domain.vcpus.len()).map_err(|_| Errno::ENOMEM)?;
        fifo.queues.resize(domain.vcpus.len(), Queues { block: None, last: [Port(0); MAX_QUEUES] });
        fifo.cover(ports.valid())?;
        for port in (1..ports.valid()).map(Port) {
            let waits = self.port_is(domain, port, PENDING);
            fifo.slot(port).into_iter().for_each(|slot| slot.waits = waits);
        }
        Ok(fifo)
    }

    /// A frame that the guest gives to be shared: with a writable reference. EINVAL where there can be none.
    fn event_frame(&self, domain: &Domain<P>, mfn: Mfn) -> Result<Frame, Errno> {
        // Looked at under the lock of its ports: they are closed for good, and this given back, after it began to die.
        refuse_if(domain.is_dying(), Errno::EINVAL)?;
        self.get_page_and_type(mfn, domain, PageType::Writable).map_err(|_| Errno::EINVAL)
    }

    /// Adds a page to a domain's event array, and raises what waited for it. EOPNOTSUPP in the 2-level layout; ENOSPC
    /// when all pages are there; EINVAL for a frame that is not the domain's or cannot be writable; ENOMEM.
    pub fn expand_array(&self, domain: &Domain<P>, page: Mfn) -> Result<(), Errno> {
        let ports = domain.events.ports.lock();
        let first = {
            let mut fifo = domain.events.fifo.lock();
            let array = &mut fifo.as_mut().ok_or(Errno::EOPNOTSUPP)?.array;
            refuse_if(array.len() * SLOTS >= EVTCHN_FIFO_NR_CHANNELS as usize, Errno::ENOSPC)?;
            array.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            array.push(self.event_frame(domain, page)?);
            (array.len() - 1) as u32 * WORDS_PER_PAGE
        };
        for port in (first..ports.valid().min(first + WORDS_PER_PAGE)).map(Port) {
            let waits = |fifo: &mut Fifo| fifo.slot(port).is_some_and(|slot| core::mem::take(&mut slot.waits));
            if domain.events.fifo.lock().as_mut().is_some_and(waits)
                && let Some(channel) = ports.get(port)
            {
                self.deliver(domain, port, channel.vcpu);
            }
        }
        Ok(())
    }

    /// Says which queue a port's next events go to. EINVAL for a port that is not valid, and for no priority; ENOSYS in
    /// the 2-level layout; EACCES for a port that is closed.
    pub fn set_priority(&self, domain: &Domain<P>, port: Port, priority: u32) -> Result<(), Errno> {
        let ports = domain.events.ports.lock();
        let channel = ports.get(port).ok_or(Errno::EINVAL)?;
        let mut fifo = domain.events.fifo.lock();
        let slot = fifo.as_mut().ok_or(Errno::ENOSYS)?.slot(port).ok_or(Errno::EINVAL)?;
        refuse_if(!channel.bound.is_open(), Errno::EACCES)?;
        refuse_if(priority > PRIORITY_MIN, Errno::EINVAL)?;
        slot.priority = priority as u8;
        Ok(())
    }

    /// [`deliver`](Self::deliver) in this layout.
    #[inline(never)]
    pub(super) fn deliver_fifo(&self, domain: &Domain<P>, port: Port, vcpu: VcpuId) {
        let set = domain.events.fifo.lock().as_mut().and_then(|fifo| fifo.raise(&self.platform, port, vcpu));
        self.announce(domain, port, vcpu, set.unwrap_or(Set::Already), None);
    }

    /// A port's event word, in this layout. To write to it the caller holds the lock of the domain's ports.
    pub(super) fn event_word(&self, domain: &Domain<P>, port: Port) -> Option<Half<'_>> {
        domain.events.fifo.lock().as_ref()?.word(&self.platform, port)
    }

    /// A port is closed, in either layout: its event is over, and its priority.
    pub(super) fn forget_event(&self, domain: &Domain<P>, port: Port) {
        let mut fifo = domain.events.fifo.lock();
        let Some(fifo) = fifo.as_mut() else {
            self.with_words(domain, port, |words| words.pending.fetch_and(!words.bit, SeqCst));
            return;
        };
        fifo.slot(port).into_iter().for_each(|slot| *slot = Slot { last: slot.last, ..Slot::NEW });
        if let Some(word) = fifo.word(&self.platform, port) {
            word.clear(PENDING);
        }
    }

    /// Back to the 2-level layout. The caller holds the lock of the ports, of which none is open: so nobody sends.
    pub(super) fn end_fifo(&self, domain: &Domain<P>) {
        domain.events.is_fifo.store(false, SeqCst);
        let fifo = domain.events.fifo.lock().take();
        fifo.iter().flat_map(Fifo::frames).for_each(|frame| self.put_page_and_type(frame));
    }

    /// The frames that a domain's event channels hold a writable reference on, for the audit. Not those of `vcpu_info`.
    pub(crate) fn each_event_frame(&self, domain: &Domain<P>, f: impl FnMut(Frame)) {
        domain.events.fifo.lock().iter().flat_map(Fifo::frames).for_each(f);
    }
}
