//! One domain's connection: requests out of its ring into the store, replies and events back.

use alloc::vec::Vec;

use abi::DomId;
use ring_proto::memory::RingMemory;
use ring_proto::ring::Corrupt;
use ring_proto::store::{Back, Receiver};
use zerocopy::IntoBytes;

use super::{Act, Store};

/// Requests served before others get their turn.
const TURN: usize = 64;

/// The store's end of a domain's ring.
#[derive(Debug)]
pub struct Connection<M> {
    domain: DomId,
    ring: Back<M>,
    receiver: Receiver,
    /// A message that did not fit the ring whole, and how much of it did.
    sending: Option<(Vec<u8>, usize)>,
    broken: bool,
}

/// What a turn led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Turn {
    /// The domain is to be sent an event.
    pub notify: bool,
    /// There is more to do at once.
    pub again: bool,
    /// What requests asked of the program.
    pub acts: Vec<Act>,
    /// The connection has just broken, and why: nothing more comes of it.
    pub broken: Option<Corrupt>,
}

impl<M: RingMemory + Clone> Connection<M> {
    /// Serves the ring in `page`.
    pub fn new(domain: DomId, page: M) -> Self {
        let ring = Back::new(page, ring_proto::store::FEATURE_ERROR);
        Self { domain, ring, receiver: Receiver::default(), sending: None, broken: false }
    }

    /// Does what there is to do, up to a limit.
    pub fn turn(&mut self, store: &mut Store) -> Turn {
        let mut turn = Turn::default();
        if self.broken {
            return turn;
        }
        if let Err(corrupt) = self.work(store, &mut turn) {
            self.broken = true;
            self.ring.report(corrupt.into());
            store.reset(self.domain);
            turn = Turn { notify: true, broken: Some(corrupt), acts: turn.acts, again: false };
        }
        turn
    }

    fn work(&mut self, store: &mut Store, turn: &mut Turn) -> Result<(), Corrupt> {
        for _ in 0..TURN {
            self.send(store)?;
            if !store.accepts(self.domain) {
                break; // its event, when it has taken some, is the next turn
            }
            let Some(request) = self.receiver.receive(&mut self.ring.requests)? else { break };
            turn.acts.extend(store.request(self.domain, &request.header, request.payload));
            turn.again = true;
        }
        self.send(store)?;
        let (taken, sent) = (self.ring.requests.publish(), self.ring.replies.publish());
        turn.notify = taken.or(sent).needed();
        // Once more, now that the domain has seen it all.
        turn.again &= store.accepts(self.domain);
        turn.again |= self.ring.requests.final_check()? && store.accepts(self.domain);
        turn.again |= self.sending.is_some() && self.ring.replies.final_check()?;
        Ok(())
    }

    /// Moves messages from the store's queue to the ring, as far as there is room.
    fn send(&mut self, store: &mut Store) -> Result<(), Corrupt> {
        loop {
            if self.sending.is_none() {
                let Some(message) = store.next_message(self.domain) else { return Ok(()) };
                self.sending = Some(([message.header.as_bytes(), &message.payload].concat(), 0));
            }
            let Some((bytes, done)) = &mut self.sending else { return Ok(()) };
            *done += self.ring.replies.write(bytes.get(*done..).unwrap_or_default())?;
            if *done < bytes.len() {
                return Ok(());
            }
            self.sending = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use proptest::prelude::*;
    use ring_proto::store::{Front, HEADER, Header, MessageType};
    use ring_proto::words::WordMemory;

    type Page = Arc<WordMemory>;

    const DOMAIN: DomId = DomId(1);

    fn connected() -> (Store, Front<Page>, Connection<Page>, Page) {
        let page = WordMemory::new(4096);
        let mut store = Store::default();
        store.put("/local/domain/1/name", "web").unwrap();
        store.introduce(DOMAIN);
        (store, Front::new(page.clone()), Connection::new(DOMAIN, page.clone()), page)
    }

    fn send(front: &mut Front<Page>, kind: MessageType, payload: &[u8]) {
        let header = Header { kind, req_id: 9, tx_id: 0, len: payload.len() as u32 };
        front.requests.write(header.as_bytes()).unwrap();
        front.requests.write(payload).unwrap();
        let _ = front.requests.publish();
    }

    #[test]
    fn a_request_and_its_reply() {
        let (mut store, mut front, mut connection, _) = connected();
        send(&mut front, MessageType::GET_DOMAIN_PATH, b"1\0");
        let turn = connection.turn(&mut store);
        assert!(turn.notify && turn.broken.is_none());
        let mut receiver = Receiver::default();
        let reply = receiver.receive(&mut front.replies).unwrap().unwrap();
        assert_eq!((reply.header.req_id, reply.payload), (9, &b"/local/domain/1\0"[..]));
        assert_eq!(connection.turn(&mut store), Turn::default());
    }

    #[test]
    fn a_reply_longer_than_the_ring_goes_in_pieces() {
        let (mut store, mut front, mut connection, _) = connected();
        store.put("/big", &"x".repeat(4000)).unwrap();
        send(&mut front, MessageType::READ, b"/big\0");
        let mut receiver = Receiver::default();
        for _ in 0..5 {
            let _ = connection.turn(&mut store);
            if let Some(reply) = receiver.receive(&mut front.replies).unwrap() {
                assert_eq!((reply.header.len, reply.payload.len()), (4000, 4000));
                return;
            }
            let _ = front.replies.publish();
        }
        panic!("no reply");
    }

    #[test]
    fn a_client_that_takes_nothing_stops_only_itself() {
        let (mut store, mut front, mut connection, _) = connected();
        let mut accepted = 0;
        for _ in 0..5000 {
            if front.requests.room().unwrap() < (HEADER + 2) as u32 {
                break;
            }
            send(&mut front, MessageType::GET_DOMAIN_PATH, b"1\0");
            let turn = connection.turn(&mut store);
            assert!(turn.broken.is_none());
            accepted += 1;
        }
        assert!((1000..5000).contains(&accepted), "{accepted}");
        assert!(!store.accepts(DOMAIN) && !connection.turn(&mut store).again);
    }

    #[test]
    fn a_message_too_long_ends_the_connection() {
        let (mut store, mut front, mut connection, page) = connected();
        let header = Header { kind: MessageType::READ, req_id: 0, tx_id: 0, len: 4097 };
        front.requests.write(header.as_bytes()).unwrap();
        let _ = front.requests.publish();
        let turn = connection.turn(&mut store);
        assert!(turn.notify && turn.broken.is_some());
        assert_ne!(page.word(2072).load(ring_proto::sync::Ordering::Relaxed), 0, "told so");
        assert_eq!(connection.turn(&mut store), Turn::default(), "nothing more comes of it");
    }

    proptest! {
        /// XSA-38: a client that scribbles over its page, indices and all.
        #[test]
        fn xsa_38_hostile_indices(steps in prop::collection::vec((0usize..1024, any::<u32>()), 1..60)) {
            let (mut store, _, mut connection, page) = connected();
            for (word, value) in steps {
                let word = if value % 3 == 0 { 512 + word % 8 } else { word };
                page.word(word * 4).store(value, ring_proto::sync::Ordering::Relaxed);
                for _ in 0..8 {
                    if !connection.turn(&mut store).again {
                        break;
                    }
                }
            }
            prop_assert!(store.nodes_of(DOMAIN) <= 1000);
        }
    }
}
