//! The backend's logic against a polite guest and hostile ones, on the host.

use super::*;
use ring_proto::peers::Rng;
use ring_proto::peers::hostile::HostileFront;
use ring_proto::ring::Front;
use ring_proto::words::WordMemory;
use std::format;
use std::sync::Arc;

const PAGE: usize = 4096;
const PLAIN: Params = Params { upper: false, poll: false };
const UPPER: Params = Params { upper: true, poll: false };

/// A guest that sends and checks; each is told only when it has asked for it.
struct Polite {
    ring: Front<Arc<WordMemory>, Echo>,
    session: Session<Arc<WordMemory>>,
    answered: u32,
}

impl Polite {
    fn new(params: Params) -> Self {
        let memory = WordMemory::new(PAGE);
        let ring = Front::new(memory.clone()).unwrap();
        Self { ring, session: Session::new(memory, params).unwrap(), answered: 0 }
    }

    /// Fills the ring, lets the backend work until it sleeps, and takes all answers; how many events that took.
    fn turn(&mut self, answer: impl Fn(u32) -> Message) -> u32 {
        let mut sent = self.answered;
        while self.ring.push(&Message::new(sent, format!("message {sent}").as_bytes())).is_ok() {
            sent += 1;
        }
        let mut events = u32::from(self.ring.publish().needed());
        while self.session.run().map(|(notify, more)| (events += u32::from(notify.needed()), more).1).unwrap() {}
        while let Ok(message) = self.ring.pop() {
            assert_eq!(message, answer(self.answered));
            self.answered += 1;
        }
        assert!(self.answered == sent && !self.ring.final_check().unwrap());
        events
    }
}

#[test]
fn messages_come_back_in_order_with_two_events_a_ring_full() {
    for (upper, word) in [(false, "message"), (true, "MESSAGE")] {
        let mut guest = Polite::new(Params { upper, ..PLAIN });
        for _ in 0..100 {
            let events = guest.turn(|id| Message::new(id, format!("{word} {id}").as_bytes()));
            assert_eq!(events, 2, "one each way");
        }
        let counters = guest.session.counters();
        assert_eq!((counters.requests, counters.errors), (100 * 32, 0));
    }
}

#[test]
fn one_that_polls_asks_for_an_event_when_it_has_looked_often_enough() {
    let mut guest = Polite::new(Params { poll: true, ..PLAIN });
    let send = |guest: &mut Polite| {
        guest.ring.push(&Message::new(0, &[])).unwrap();
        guest.ring.publish().needed()
    };
    // A fresh ring asks for an event at its first message.
    assert!(send(&mut guest));
    for _ in 0..3 {
        assert!(guest.session.run().unwrap().1);
        for look in 2..=LOOKS {
            assert!(guest.session.run().unwrap().1 && guest.session.is_idle(), "look {look}");
        }
        assert!(!send(&mut guest), "it still polls");
        for look in 1..=LOOKS {
            assert!(guest.session.run().unwrap().1, "look {look}");
        }
        assert!(!guest.session.run().unwrap().1, "it sleeps");
        assert!(send(&mut guest), "and wants to be told");
    }
}

#[test]
fn params_are_words() {
    assert_eq!(Params::parse(""), Ok(PLAIN));
    assert_eq!(Params::parse("poll upper"), Ok(Params { upper: true, poll: true }));
    assert_eq!(Params::parse("upper loud"), Err("loud"));
}

#[test]
fn lengths_at_the_edges() {
    let mut guest = Polite::new(UPPER);
    for len in [0, 1, TEXT as u32, TEXT as u32 + 1, 0x8000_0000, u32::MAX] {
        let good = len as usize <= TEXT;
        let message = Message { id: 7, len, bytes: [b'a'; TEXT] };
        assert_eq!(message.text().is_some(), good, "{len}");
        guest.ring.push(&message).unwrap();
        let _ = guest.ring.publish();
        assert!(!guest.session.run().unwrap().1);
        let answer = guest.ring.pop().unwrap();
        assert_eq!((answer.id, answer.len), (7, if good { len } else { Message::BAD }));
        assert_eq!(answer.text().map(|text| text.iter().all(|byte| *byte == b'A')), good.then_some(true));
    }
    assert_eq!(guest.session.counters().errors, 3);
}

#[test]
fn a_hostile_guest_hurts_only_itself() {
    let mut innocent = Polite::new(PLAIN);
    let (mut ended, mut errors) = (0, 0);
    for seed in 0..200 {
        let memory = WordMemory::new(PAGE);
        let mut hostile = HostileFront::<_, Echo>::new(memory.clone(), seed, seed % 2 == 0);
        let mut session = Session::new(memory, UPPER).unwrap();
        let message = |rng: &mut Rng| {
            let mut bytes = [0; TEXT];
            rng.fill(&mut bytes);
            Message { id: rng.next() as u32, len: rng.edgy().into(), bytes }
        };
        for _ in 0..100 {
            let _ = hostile.step(message);
            if session.run().is_err() {
                ended += 1;
                assert!(session.run().is_err(), "it stays ended");
                break;
            }
        }
        errors += session.counters().errors;
        innocent.turn(|id| Message::new(id, format!("message {id}").as_bytes()));
    }
    assert!(ended > 10 && errors > 1000, "{ended} connections ended, {errors} errors");
}

#[test]
fn keys_are_read_as_they_are_written() {
    let keys = FrontKeys { ring: GrantRef(9), event: Port(3) };
    let mut written = std::vec::Vec::new();
    keys.publish(&mut |key, value| written.push((std::string::String::from(key), format!("{value}"))));
    let written: std::vec::Vec<(&str, &str)> = written.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(FrontKeys::parse(&written[..]), Ok(keys));
    assert_eq!(FrontKeys::parse(&written[..1]), Err(BadKey("event-channel")));
    assert_eq!(FrontKeys::parse(&[("ring-ref", "-1")][..]), Err(BadKey("ring-ref")));
}
