//! A domain's two rings, the store's and the console's, and the task that serves them.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use abi::{DomId, Errno};
use dom0::builder::Built;
use dom0::console::Scrollback;
use dom0::store::Connection;
use domain_rt::events::Event;
use domain_rt::foreign::Foreign;
use ring_proto::console::Back;
use ring_proto::memory::RingMemory;
use ring_proto::sync::AtomicU32;

use super::Shared;

/// A mapped page that both ends of a ring use.
#[derive(Clone, Debug)]
pub struct Page(Rc<Foreign>);

impl RingMemory for Page {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn word(&self, offset: usize) -> &AtomicU32 {
        self.0.word(offset)
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        self.0.read(offset, out);
    }
    fn write(&self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }
}

/// The rings of one domain.
pub struct Channel {
    pub store: RefCell<Connection<Page>>,
    pub store_event: Event,
    console: RefCell<Back<Page>>,
    console_event: Event,
    pub scrollback: RefCell<Scrollback>,
    /// Typed and not yet in the ring.
    typed: RefCell<Vec<u8>>,
    closed: Cell<bool>,
    /// There is more to do, whatever the events say.
    kicked: Cell<bool>,
    /// Who waits for the end.
    wakers: RefCell<Vec<Waker>>,
}

/// Bytes typed ahead; more are dropped.
const TYPED_MAX: usize = 4096;

impl Channel {
    /// Maps the rings and binds the events of a new domain.
    pub fn open(built: &Built) -> Result<Self, Errno> {
        let map = |frame| Foreign::new(built.domain, &[frame]).map(|page| Page(Rc::new(page)));
        Ok(Self {
            store: RefCell::new(Connection::new(built.domain, map(built.store.0)?)),
            store_event: Event::bind_interdomain(built.domain, built.store.1)?,
            console: RefCell::new(Back::new(map(built.console.0)?)),
            console_event: Event::bind_interdomain(built.domain, built.console.1)?,
            scrollback: RefCell::default(),
            typed: RefCell::default(),
            closed: Cell::new(false),
            kicked: Cell::new(false),
            wakers: RefCell::default(),
        })
    }

    /// Ends the task that serves it; then the frames are unmapped and the ports closed.
    pub fn close(&self) {
        self.closed.set(true);
        self.wakers.take().into_iter().for_each(Waker::wake);
    }

    /// Lets the task run once more.
    pub fn kick(&self) {
        self.kicked.set(true);
        self.wakers.take().into_iter().for_each(Waker::wake);
    }

    /// Types on the domain's console.
    pub fn type_in(&self, bytes: &[u8]) {
        let room = TYPED_MAX.saturating_sub(self.typed.borrow().len());
        self.typed.borrow_mut().extend(bytes.iter().take(room));
        self.flush_typed();
    }

    fn flush_typed(&self) {
        let (mut typed, mut console) = (self.typed.borrow_mut(), self.console.borrow_mut());
        // A ring that is broken takes nothing; the domain's output says so soon enough.
        let written = console.input.write(&typed).unwrap_or(typed.len());
        typed.drain(..written);
        if console.input.publish().needed() {
            self.console_event.notify();
        }
    }

    /// What the domain has printed since the last call.
    fn printed(&self) -> Vec<u8> {
        let (mut console, mut all) = (self.console.borrow_mut(), Vec::new());
        let mut bytes = [0; 256];
        while let Ok(count) = console.output.read(&mut bytes)
            && count > 0
            && all.len() < 16 << 10
        {
            all.extend(bytes.iter().take(count));
        }
        if console.output.publish().needed() {
            self.console_event.notify();
        }
        all
    }

    /// Waits for an event of either ring; false once closed.
    async fn wait(&self) -> bool {
        let (mut store, mut console) = (pin!(self.store_event.wait()), pin!(self.console_event.wait()));
        self.until_closed(|context| {
            // Both are polled, so that both know whom to wake.
            let fired = [store.as_mut().poll(context).is_ready(), console.as_mut().poll(context).is_ready()];
            self.kicked.take() || fired.contains(&true)
        })
        .await
    }

    /// Waits for another event of the domain's; false once closed.
    pub async fn wait_with(&self, event: &Event) -> bool {
        let mut event = pin!(event.wait());
        self.until_closed(|context| event.as_mut().poll(context).is_ready()).await
    }

    async fn until_closed(&self, mut ready: impl FnMut(&mut Context<'_>) -> bool) -> bool {
        poll_fn(|context| {
            if self.closed.get() {
                return Poll::Ready(false);
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            if ready(context) { Poll::Ready(true) } else { Poll::Pending }
        })
        .await
    }
}

/// Serves a domain's rings until it is gone.
pub async fn serve(state: Shared, domain: DomId, channel: Rc<Channel>) {
    loop {
        let again = {
            let mut state = state.borrow_mut();
            let again = state.turn(domain);
            state.pump();
            let printed = channel.printed();
            if !printed.is_empty() {
                state.domain_prints(domain, &channel, &printed);
            }
            channel.flush_typed();
            again || !printed.is_empty()
        };
        if channel.closed.get() {
            break;
        }
        if again {
            yield_now().await;
        } else if !channel.wait().await {
            break;
        }
    }
}

/// Lets other tasks run.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
