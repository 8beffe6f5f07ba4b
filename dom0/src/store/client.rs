//! What waits to be sent to a domain.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;

use abi::DomId;
use ring_proto::store::{HEADER, Header, MessageType};

use super::Store;

/// One message for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its header; `len` is right.
    pub header: Header,
    /// Its payload, at most `PAYLOAD_MAX` bytes.
    pub payload: Rc<[u8]>,
}

/// The connection of one domain.
#[derive(Debug, Default)]
pub(super) struct Client {
    queue: VecDeque<Message>,
    bytes: usize,
    /// Events in the queue: the same one twice tells nothing new.
    events: BTreeSet<Rc<[u8]>>,
    last_transaction: u32,
}

impl Client {
    pub(super) fn queued_bytes(&self) -> usize {
        self.bytes
    }

    /// A transaction number that is not in use, by `used`.
    pub(super) fn next_transaction(&mut self, used: impl Fn(u32) -> bool) -> u32 {
        loop {
            self.last_transaction = self.last_transaction.wrapping_add(1);
            if self.last_transaction != 0 && !used(self.last_transaction) {
                return self.last_transaction;
            }
        }
    }

    pub(super) fn push_event(&mut self, payload: Vec<u8>) {
        let payload: Rc<[u8]> = payload.into();
        if self.events.insert(payload.clone()) {
            self.insert(self.queue.len(), MessageType::WATCH_EVENT, 0, 0, payload);
        }
    }

    /// Messages waiting.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Puts a message before the `at`-th, or at the end.
    pub(super) fn insert(&mut self, at: usize, kind: MessageType, req_id: u32, tx_id: u32, payload: Rc<[u8]>) {
        self.bytes += HEADER + payload.len();
        let header = Header { kind, req_id, tx_id, len: payload.len() as u32 };
        self.queue.insert(at.min(self.queue.len()), Message { header, payload });
    }

    #[cfg(test)]
    pub(super) fn peek(&self, at: usize) -> &Message {
        &self.queue[at]
    }

    /// Takes the `at`-th message.
    pub(super) fn take(&mut self, at: usize) -> Option<Message> {
        let message = self.queue.remove(at)?;
        self.bytes -= HEADER + message.payload.len();
        if message.header.kind == MessageType::WATCH_EVENT {
            self.events.remove(&message.payload);
        }
        Some(message)
    }
}

impl Store {
    /// A domain with messages waiting.
    pub fn ready(&self) -> impl Iterator<Item = DomId> {
        self.ready.iter().copied()
    }

    /// Takes the next message for `domain`.
    pub fn next_message(&mut self, domain: DomId) -> Option<Message> {
        let client = self.clients.get_mut(&domain)?;
        let message = client.take(0);
        if client.queue.is_empty() {
            self.ready.remove(&domain);
        }
        message
    }

    /// Whether a request of `domain` should be read now: not while it leaves too many answers lying.
    pub fn accepts(&self, domain: DomId) -> bool {
        self.clients.get(&domain).is_some_and(|client| client.bytes <= self.quotas.outstanding)
    }
}
