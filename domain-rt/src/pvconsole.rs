//! The domain's console: the ring that start_info names. The initial domain has none and uses the hypervisor's.

use crate::events::Event;
use crate::hypercall;
use crate::page::StaticPage;
use crate::sync::Local;
use crate::time;
use abi::Port;
use abi::sched::SchedOp;
use abi::start_info::StartInfo;
use alloc::sync::Arc;
use embedded_io_async::{ErrorType, Read, Write};
use ring_proto::console::Front;
use ring_proto::ring::Corrupt;

/// How long a line waits for room before it is dropped: a second.
const PATIENCE: u64 = 1_000_000_000;

static RING: Local<Option<(Front<StaticPage>, Arc<Event>)>> = Local::new(None);

/// Takes the console that `info` names, if it is not the initial domain's.
pub fn init(info: &StartInfo) {
    if info.flags & StartInfo::SIF_INITDOMAIN != 0 {
        return;
    }
    let page = StaticPage::of(info.console_mfn);
    let event = Event::adopt(Port(info.console_evtchn));
    if let (Some(page), Ok(event)) = (page, event) {
        *RING.lock() = Some((Front::new(page), Arc::new(event)));
    }
}

/// Writes what fits; `None` if there is no ring, or it is in use or broken.
fn write_some(bytes: &[u8]) -> Option<usize> {
    let mut ring = RING.try_lock()?;
    let (front, event) = ring.as_mut()?;
    let written = front.output.write(bytes).ok()?;
    if front.output.publish().needed() {
        event.notify();
    }
    Some(written)
}

/// Writes text whole, waiting for room if need be; false if there is no ring to write to.
pub(crate) fn write_now(text: &[u8]) -> bool {
    let mut rest = text;
    let mut give_up = None;
    while !rest.is_empty() {
        let Some(written) = write_some(rest) else { return false };
        rest = rest.get(written..).unwrap_or(&[]);
        if written == 0 {
            let now = time::now();
            if now > *give_up.get_or_insert(now + PATIENCE) {
                return true;
            }
            let _ = hypercall::sched_op(SchedOp::YIELD, &mut ());
        }
    }
    true
}

/// The console as an asynchronous stream of bytes. Made once; prints go to the same ring.
#[derive(Debug)]
pub struct Console {
    event: Arc<Event>,
}

/// The console daemon broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub Corrupt);

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the console's other end broke the protocol")
    }
}
impl core::error::Error for Broken {}
impl embedded_io_async::Error for Broken {
    fn kind(&self) -> embedded_io_async::ErrorKind {
        embedded_io_async::ErrorKind::ConnectionAborted
    }
}

impl Console {
    /// The console, if the domain has a ring.
    pub fn open() -> Option<Self> {
        RING.lock().as_ref().map(|(_, event)| Self { event: event.clone() })
    }
}

impl ErrorType for Console {
    type Error = Broken;
}

impl Read for Console {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Broken> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some((front, event)) = RING.lock().as_mut() {
                let count = front.input.read(out).map_err(Broken)?;
                if front.input.publish().needed() {
                    event.notify();
                }
                if count > 0 {
                    return Ok(count);
                }
                if front.input.final_check().map_err(Broken)? {
                    continue;
                }
            }
            self.event.wait().await;
        }
    }
}

impl Write for Console {
    async fn write(&mut self, data: &[u8]) -> Result<usize, Broken> {
        loop {
            match write_some(data) {
                Some(0) if !data.is_empty() => self.event.wait().await,
                Some(count) => return Ok(count),
                None => return Ok(data.len()),
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        Ok(())
    }
}
