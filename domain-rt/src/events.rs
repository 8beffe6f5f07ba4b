//! Event channels as futures.
//!
//! Upcalls stay masked while Rust code runs: the executor's loop looks at the pending bits itself ([`dispatch`]), and
//! only `sched_op(block)` opens the mask, in one step with going to sleep, so no event is lost in between. The upcall
//! that ends the sleep then has nothing to do but return. Nothing ever runs concurrently with a task.

use crate::shared::{self, EVENT_WORDS};
use crate::sync::Local;
use crate::{counts, hypercall};
use abi::event::*;
use abi::sched::{Poll as SchedPoll, SchedOp};
use abi::{DomId, Errno, Port, VcpuId, Virq};
use alloc::vec::Vec;
use core::future::poll_fn;
use core::sync::atomic::Ordering;
use core::task::{Context, Poll, Waker};

/// What is known of a port.
#[derive(Default)]
struct Slot {
    fired: bool,
    waiter: Option<Waker>,
}

impl Slot {
    /// Takes an event that has come, or waits for one.
    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        if core::mem::take(&mut self.fired) {
            self.waiter = None;
            return Poll::Ready(());
        }
        self.waiter = Some(context.waker().clone());
        Poll::Pending
    }
}

static SLOTS: Local<Vec<Slot>> = Local::new(Vec::new());

fn with_slot<T>(port: Port, f: impl FnOnce(&mut Slot) -> T) -> T {
    let mut slots = SLOTS.lock();
    let index = port.0 as usize;
    if slots.len() <= index {
        slots.resize_with(index + 1, Slot::default);
    }
    f(&mut slots[index])
}

#[cfg(target_os = "none")]
core::arch::global_asm!(
    // The frame, from RSP up: RCX, R11, RIP, CS, RFLAGS, RSP, SS. The upcall left events masked; return so, without
    // IRET, by way of the interrupted stack: three words below its pointer are free, as there is no red zone. They
    // may be the frame's own last three, which are read before they are overwritten.
    ".globl __event_upcall",
    "__event_upcall:",
    "mov rcx, [rsp + 40]",
    "mov r11, [rsp + 16]",
    "mov [rcx - 8], r11",
    "mov r11, [rsp + 32]",
    "mov [rcx - 16], r11",
    "mov r11, [rsp]",
    "mov [rcx - 24], r11",
    "mov r11, [rsp + 8]",
    "lea rsp, [rcx - 24]",
    "pop rcx",
    "popfq",
    "ret",
    // Reached when a selector cannot be loaded on the way back here, which no code of this domain causes.
    ".globl __failsafe_upcall",
    "__failsafe_upcall:",
    "ud2",
);

/// Masks all ports and sets the callbacks.
pub fn init() -> Result<(), Errno> {
    let page = shared::page();
    (0..EVENT_WORDS).for_each(|word| page.mask(word).store(u64::MAX, Ordering::Relaxed));
    #[cfg(target_os = "none")]
    {
        unsafe extern "C" {
            fn __event_upcall();
            fn __failsafe_upcall();
        }
        // SAFETY: the handlers keep every register, and the stack they use is the interrupted one's free part.
        unsafe {
            hypercall::set_callbacks(__event_upcall as *const () as usize, __failsafe_upcall as *const () as usize, 0)?
        };
    }
    Ok(())
}

/// Wakes who waits for the events that are pending; whether there were any.
pub fn dispatch() -> bool {
    let page = shared::page();
    if page.upcall_pending().load(Ordering::Relaxed) == 0 {
        return false;
    }
    // In this order the hypervisor sets them the other way round: what it sets after a swap is seen next time.
    page.upcall_pending().swap(0, Ordering::AcqRel);
    let mut selector = page.pending_selector().swap(0, Ordering::AcqRel);
    while selector != 0 {
        let word = selector.trailing_zeros() as usize;
        selector &= selector - 1;
        let mut bits = page.pending(word).load(Ordering::Acquire) & !page.mask(word).load(Ordering::Relaxed);
        page.pending(word).fetch_and(!bits, Ordering::AcqRel);
        while bits != 0 {
            fire(Port((word * 64) as u32 + bits.trailing_zeros()));
            bits &= bits - 1;
        }
    }
    true
}

fn fire(port: Port) {
    let waiter = with_slot(port, |slot| {
        slot.fired = true;
        slot.waiter.take()
    });
    waiter.into_iter().for_each(Waker::wake);
}

/// Sleeps until an event is pending; returns at once if one is.
pub fn block() {
    counts::SLEEPS.add(1);
    // An error could only mean that blocking does not exist; the loop then polls.
    let _ = hypercall::sched_op(SchedOp::BLOCK, &mut ());
    // If the vCPU woke without an upcall, the mask is still open.
    shared::page().upcall_mask().store(1, Ordering::Release);
}

/// A port of this domain, closed when dropped.
#[derive(Debug)]
pub struct Event {
    port: Port,
}

impl Event {
    /// Takes a port that is bound already, as start_info names the store's.
    pub fn adopt(port: Port) -> Result<Self, Errno> {
        with_slot(port, |slot| *slot = Slot::default());
        let event = Self { port };
        hypercall::event_channel_op(EvtchnOp::UNMASK, &mut PortArg { port })?;
        Ok(event)
    }

    /// Makes a port that `peer` may bind.
    pub fn alloc_unbound(peer: DomId) -> Result<Self, Errno> {
        let mut args = AllocUnbound { dom: DomId::SELF, remote_dom: peer, port: Port(0) };
        hypercall::event_channel_op(EvtchnOp::ALLOC_UNBOUND, &mut args)?;
        Self::adopt(args.port)
    }

    /// Binds to a port that `peer` made for this domain.
    pub fn bind_interdomain(peer: DomId, remote: Port) -> Result<Self, Errno> {
        let mut args = BindInterdomain { remote_dom: peer, remote_port: remote, ..BindInterdomain::default() };
        hypercall::event_channel_op(EvtchnOp::BIND_INTERDOMAIN, &mut args)?;
        Self::adopt(args.local_port)
    }

    /// Binds a virtual interrupt of vCPU 0 or of the domain.
    pub fn bind_virq(virq: Virq) -> Result<Self, Errno> {
        let mut args = BindVirq { virq, vcpu: VcpuId(0), port: Port(0) };
        hypercall::event_channel_op(EvtchnOp::BIND_VIRQ, &mut args)?;
        Self::adopt(args.port)
    }

    /// Binds a physical interrupt that was mapped to this domain.
    pub fn bind_pirq(pirq: u32, share: bool) -> Result<Self, Errno> {
        let flags = if share { BindPirq::WILL_SHARE } else { 0 };
        let mut args = BindPirq { pirq, flags, port: Port(0) };
        hypercall::event_channel_op(EvtchnOp::BIND_PIRQ, &mut args)?;
        Self::adopt(args.port)
    }

    /// The port's number.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Sends an event to the other end. A peer that is gone does not hear it, which its death makes known elsewhere.
    pub fn notify(&self) {
        counts::EVENTS.add(1);
        let _ = hypercall::event_channel_op(EvtchnOp::SEND, &mut PortArg { port: self.port });
    }

    /// Takes an event that has come, without waiting for one.
    pub fn take(&self) -> bool {
        with_slot(self.port, |slot| core::mem::take(&mut slot.fired))
    }

    /// Waits for an event; one that came since the last wait counts. One task at a time waits for a port.
    pub async fn wait(&self) {
        poll_fn(|context| with_slot(self.port, |slot| slot.poll(context))).await;
    }

    /// Puts the whole domain to sleep until the port is pending or the system time reaches `deadline` (nanoseconds),
    /// and takes the event. For the few places that cannot be asynchronous.
    pub fn wait_blocking(&self, deadline: u64) {
        let page = shared::page();
        let (word, bit) = (self.port.0 as usize / 64, 1u64 << (self.port.0 % 64));
        // While masked, the port becomes pending without an upcall, and poll returns all the same.
        page.mask(word).fetch_or(bit, Ordering::AcqRel);
        let ports = [self.port];
        let mut poll = SchedPoll {
            ports: abi::Vaddr(ports.as_ptr() as u64),
            nr_ports: 1,
            timeout: deadline,
            ..SchedPoll::default()
        };
        let _ = hypercall::sched_op(SchedOp::POLL, &mut poll);
        page.pending(word).fetch_and(!bit, Ordering::AcqRel);
        with_slot(self.port, |slot| slot.fired = false);
        let _ = hypercall::event_channel_op(EvtchnOp::UNMASK, &mut PortArg { port: self.port });
    }
}

/// Waits for an event at any of these ports; all that came count. It may be dropped while it waits.
pub async fn wait_any<'a>(events: impl Iterator<Item = &'a Event> + Clone) {
    poll_fn(|context| {
        let ready = |event: &Event| with_slot(event.port, |slot| slot.poll(context).is_ready());
        if events.clone().fold(false, |any, event| ready(event) | any) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Drop for Event {
    fn drop(&mut self) {
        let page = shared::page();
        let (word, bit) = (self.port.0 as usize / 64 % EVENT_WORDS, 1u64 << (self.port.0 % 64));
        page.mask(word).fetch_or(bit, Ordering::AcqRel);
        let _ = hypercall::event_channel_op(EvtchnOp::CLOSE, &mut PortArg { port: self.port });
        page.pending(word).fetch_and(!bit, Ordering::AcqRel);
        with_slot(self.port, |slot| *slot = Slot::default());
    }
}
