//! Every interleaving of two halves, as far as loom bounds it: nothing is lost, torn or slept over.

use crate::ring::*;
use crate::stream::*;
use crate::words::WordMemory;
use alloc::sync::Arc;
use loom::sync::{Condvar, Mutex};
use loom::thread;

/// An event channel: a pending bit that a sleeper waits for and clears.
#[derive(Clone)]
struct Event(Arc<(Mutex<bool>, Condvar)>);

impl Event {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }
    fn send(&self, notify: Notify) {
        if notify.needed() {
            *self.0.0.lock().unwrap() = true;
            self.0.1.notify_one();
        }
    }
    /// Sleeps until sent to. loom reports a deadlock if that never happens: a lost wake-up.
    fn wait(&self) {
        let mut pending = self.0.0.lock().unwrap();
        while !*pending {
            pending = self.0.1.wait(pending).unwrap();
        }
        *pending = false;
    }
}

/// Two words: tearing would show.
enum Pair {}
impl RingClass for Pair {
    type Request = [u32; 2];
    type Response = u32;
}

/// A ring of two slots.
const BYTES: usize = 64 + 2 * 8;

fn explore(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

/// Pops, asleep when there is nothing.
fn pop<M: crate::memory::RingMemory, S: Side>(half: &mut Half<M, S>, event: &Event) -> S::In {
    loop {
        match half.pop() {
            Ok(entry) => return entry,
            Err(PopError::Corrupt(corrupt)) => panic!("{corrupt:?}"),
            Err(PopError::Empty) if half.final_check().unwrap() => {}
            Err(PopError::Empty) => event.wait(),
        }
    }
}

fn request_response(count: u32, batch: u32, early: bool) {
    let memory = WordMemory::new(BYTES);
    let mut front = Front::<_, Pair>::new(memory.clone()).unwrap();
    let mut back = Back::<_, Pair>::attach(memory).unwrap();
    let (to_front, to_back) = (Event::new(), Event::new());
    let (front_event, back_event) = (to_front.clone(), to_back.clone());
    let server = thread::spawn(move || {
        for expected in 0..count {
            let [a, b] = pop(&mut back, &back_event);
            assert_eq!((a, b), (expected, !expected));
            if early {
                assert_eq!(back.push_many(&[a]), 1);
            } else {
                back.push(&a).unwrap();
            }
            to_front.send(back.publish());
        }
    });
    let (mut asked, mut answered) = (0, 0);
    while answered < count {
        while asked < count && asked - answered < batch && front.room() > 0 {
            if early {
                assert_eq!(front.push_many(&[[asked, !asked]]), 1);
            } else {
                front.push(&[asked, !asked]).unwrap();
            }
            asked += 1;
        }
        to_back.send(front.publish());
        assert_eq!(pop(&mut front, &front_event), answered);
        answered += 1;
    }
    server.join().unwrap();
}

#[test]
fn loom_requests_and_responses_one_by_one() {
    explore(3, || request_response(2, 1, false));
}

#[test]
fn loom_requests_and_responses_in_batches() {
    explore(2, || request_response(4, 2, false));
}

#[test]
fn loom_requests_and_responses_shown_before_they_are_published() {
    explore(2, || request_response(4, 2, true));
}

/// A ring of four bytes.
const STREAM: StreamLayout = StreamLayout { data: 0, size: 4, cons: 4, prod: 8 };

fn byte_stream(wake: Wake, bytes: u8, chunk: usize) {
    let memory = WordMemory::new(12);
    let mut producer = Producer::new(memory.clone(), STREAM, wake);
    let mut consumer = Consumer::new(memory, STREAM, wake);
    let (room, data) = (Event::new(), Event::new());
    let (room_sender, data_sender) = (room.clone(), data.clone());
    let reader = thread::spawn(move || {
        let mut expected = 0;
        while expected < bytes {
            let mut buffer = [0; 4];
            let count = consumer.read(&mut buffer[..chunk]).unwrap();
            for byte in &buffer[..count] {
                assert_eq!(*byte, expected);
                expected += 1;
            }
            room_sender.send(consumer.publish());
            if count == 0 && !consumer.final_check().unwrap() {
                data.wait();
            }
        }
    });
    let all: alloc::vec::Vec<u8> = (0..bytes).collect();
    let mut rest = &all[..];
    while !rest.is_empty() {
        let count = producer.write(rest).unwrap();
        rest = &rest[count..];
        data_sender.send(producer.publish());
        if !rest.is_empty() && !producer.final_check().unwrap() {
            room.wait();
        }
    }
    reader.join().unwrap();
}

#[test]
fn loom_store_bytes() {
    explore(3, || byte_stream(Wake::WhenIdle, 7, 3));
}

#[test]
fn loom_console_bytes() {
    explore(2, || byte_stream(Wake::Always, 6, 4));
}

/// A peer that scribbles over the indices while a half looks: an error or an entry, never a panic, and for good.
#[test]
fn loom_index_scribbled_while_read() {
    explore(3, || {
        let memory = WordMemory::new(BYTES);
        let mut front = Front::<_, Pair>::new(memory.clone()).unwrap();
        let mut back = Back::<_, Pair>::attach(memory.clone()).unwrap();
        front.push(&[1, !1]).unwrap();
        let _ = front.publish();
        let scribbler = thread::spawn(move || {
            use crate::{memory::RingMemory, sync::Ordering::*};
            memory.word(0).store(77, Release);
            memory.word(0).store(1, Release);
        });
        match back.pop() {
            Ok(entry) => assert_eq!(entry, [1, !1]),
            Err(PopError::Corrupt(Corrupt::Index { index: 77, from: 0, ahead: 2 })) => {
                assert!(matches!(back.pop(), Err(PopError::Corrupt(_))), "corruption is for good");
                assert!(back.push(&0).is_err() && !back.publish().needed());
            }
            Err(other) => panic!("{other:?}"),
        }
        scribbler.join().unwrap();
    });
}
