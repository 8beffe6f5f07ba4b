//! `echo`: a guest with a frontend of the class `echo`. It sends messages and checks what comes back.
//!
//! Command line: `upper` if capitals are to come back, `messages=N` (default 10000), `window=N`: how many
//! of them may be without an answer (default: as many as the ring holds), `poll`: never waits for an event.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use abi::DomId;
use abi::sched::{SchedOp, ShutdownReason};
use abi::start_info::StartInfo;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::future::pending;
use domain_rt::backend::Signal;
use domain_rt::events::Event;
use domain_rt::frontend::{self, Frontend};
use domain_rt::grant::{Access, Granted};
use domain_rt::runtime::{self, Context};
use domain_rt::store::{KeySet, Store};
use domain_rt::{driver, hypercall, println};
use echo_driver::{CLASS, Echo, FrontKeys, Message};
use ring_proto::keys::Put;
use ring_proto::path::Class;
use ring_proto::ring::{Corrupt, Front};

domain_rt::entry!(run);

/// What is said, and what comes back of it in capitals.
const SAID: &[u8] = b"anything of up to 56 bytes";
const SHOUTED: &[u8] = b"ANYTHING OF UP TO 56 BYTES";
/// Messages sent, if the command line does not say.
const COUNT: u32 = 10_000;
/// Answers taken at a time.
const PIECE: usize = 8;

fn run(start: &'static StartInfo) -> ShutdownReason {
    runtime::start(start, talk)
}

async fn talk(context: Context) {
    let words = || context.command_line().split_whitespace();
    let number = |key: &str| words().find_map(|word| word.strip_prefix(key)?.parse::<u32>().ok());
    let (count, window) = (number("messages=").unwrap_or(COUNT), number("window=").unwrap_or(u32::MAX));
    let has = |wanted| words().any(|word| word == wanted);
    let talk = Talk { upper: has("upper"), poll: has("poll"), count, window, ..Talk::default() };
    match context.store {
        Some(store) => println!("echo: {}", if device(context, store, talk).await { "SUCCESS" } else { "FAIL" }),
        None => println!("echo: no store"),
    }
    hypercall::shutdown(ShutdownReason::POWEROFF)
}

/// Talks to the first device; whether all went well.
async fn device(context: Context, store: Store, talk: Talk) -> bool {
    let numbers = frontend::devices(store, CLASS).await.unwrap_or_default();
    let Some(number) = numbers.first().copied() else { return false };
    let talk = Rc::new(talk);
    let task = talk.clone();
    context.spawn(async move {
        let end = frontend::run(store, number, &*task).await;
        println!("echo: the device is gone: {end:?}");
    });
    talk.done.wait().await;
    let (messages, events, connections) = (talk.count, talk.events.get(), talk.met.get());
    println!("echo: {messages} messages came back, {events} events sent, {connections} connections");
    true
}

/// The ring to one backend, and its event.
type Ring = (Front<Granted, Echo>, Rc<Event>);

/// The device, and how far the conversation has come.
#[derive(Default)]
struct Talk {
    upper: bool,
    poll: bool,
    count: u32,
    window: u32,
    ring: RefCell<Option<Ring>>,
    sent: Cell<u32>,
    answered: Cell<u32>,
    events: Cell<u32>,
    met: Cell<u32>,
    done: Signal,
}

impl Frontend for Talk {
    const CLASS: Class = CLASS;

    fn setup(&self, peer: DomId, _: &KeySet) -> Option<impl FnOnce(Put<'_>)> {
        let ring = Front::<_, Echo>::new(Granted::new(peer, 1, Access::ReadWrite).ok()?).ok()?;
        let event = Event::alloc_unbound(peer).ok()?;
        let keys = FrontKeys { ring: *ring.memory().grants().first()?, event: event.port() };
        self.ring.replace(Some((ring, Rc::new(event))));
        // What another backend was asked and did not answer is asked again.
        self.sent.set(self.answered.get());
        self.met.set(self.met.get() + 1);
        Some(move |put: Put<'_>| keys.publish(put))
    }

    fn lost(&self) {
        self.ring.take();
    }

    async fn work(&self) {
        let event = self.ring.borrow().as_ref().map(|(_, event)| event.clone());
        let Some(event) = event else { return pending().await };
        while self.turn().is_ok() {
            if self.poll {
                // The backend may want this CPU.
                let _ = hypercall::sched_op(SchedOp::YIELD, &mut ());
                driver::give_way().await;
            } else {
                event.wait().await;
            }
        }
    }
}

impl Talk {
    /// Sends and takes what there is, until an event will tell of more, or there is no more to poll for.
    fn turn(&self) -> Result<(), Corrupt> {
        let mut ring = self.ring.borrow_mut();
        let Some((ring, event)) = ring.as_mut() else { return Ok(()) };
        let mut piece = [Message::new(0, &[]); PIECE];
        loop {
            let end = self.answered.get().saturating_add(self.window).min(self.count);
            while self.sent.get() < end && ring.push(&Message::new(self.sent.get(), SAID)).is_ok() {
                self.sent.set(self.sent.get() + 1);
            }
            if ring.publish().needed() {
                self.events.set(self.events.get() + 1);
                event.notify();
            }
            let before = self.answered.get();
            while let Ok(taken) = ring.pop_many(&mut piece) {
                piece.iter().take(taken).try_for_each(|answer| self.take(answer))?;
            }
            // Asks for an event, unless there is more by now; a ring that the backend broke says so.
            if self.answered.get() == before && (self.poll || !ring.final_check()?) {
                return Ok(());
            }
        }
    }

    /// Checks an answer: a backend is trusted no more than a guest.
    fn take(&self, answer: &Message) -> Result<(), Corrupt> {
        let expected = Message::new(self.answered.get(), if self.upper { SHOUTED } else { SAID });
        if answer.id != expected.id || answer.text() != expected.text() {
            return Err(Corrupt::Protocol("an answer to nothing"));
        }
        self.answered.set(self.answered.get() + 1);
        if self.answered.get() == self.count {
            self.done.raise();
        }
        Ok(())
    }
}
