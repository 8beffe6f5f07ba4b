//! Index arithmetic of the request/response ring.

use crate::memory::RingMemory;
use crate::ring::*;
use crate::sync::Ordering::*;
use crate::words::WordMemory;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::vec::Vec;

/// Requests larger than responses.
enum Class {}
impl RingClass for Class {
    type Request = [u32; 3];
    type Response = u32;
}

fn pair(slots: usize) -> (Front<std::sync::Arc<WordMemory>, Class>, Back<std::sync::Arc<WordMemory>, Class>) {
    let memory = WordMemory::new(64 + slots * Class::SLOT);
    (Front::new(memory.clone()).unwrap(), Back::attach(memory).unwrap())
}

#[test]
fn sizes_are_those_of_the_header() {
    let count = |bytes| slots::<Class>(bytes);
    assert_eq!([0, 63, 75, 76, 87, 88, 4096, 8192].map(count), [0, 0, 0, 1, 1, 2, 256, 512]);
    assert!(Front::<_, Class>::new(WordMemory::new(72)).is_err());
    assert!(Back::<_, Class>::attach(WordMemory::new(8)).is_err());
}

#[test]
fn a_fresh_ring_asks_for_the_first_event() {
    let (mut front, mut back) = pair(4);
    front.push(&[1; 3]).unwrap();
    assert!(front.publish().needed());
    assert!(!front.publish().needed(), "nothing new");
    front.push(&[2; 3]).unwrap();
    assert!(!front.publish().needed(), "the back is awake");
    assert_eq!(back.pop(), Ok([1; 3]));
    assert!(back.final_check().unwrap());
    assert_eq!(back.pop(), Ok([2; 3]));
    assert!(!back.final_check().unwrap());
    front.push(&[3; 3]).unwrap();
    assert!(front.publish().needed(), "the back asked");
}

#[test]
fn many_entries_are_shown_at_once_and_bring_one_event() {
    let (mut front, mut back) = pair(256);
    let mut out = [[0; 3]; 256];
    for _ in 0..3 {
        // Several pieces, and the end of the ring.
        assert_eq!(front.push_many(&[[7; 3]; 200]), 200);
        assert_eq!(back.pop_many(&mut out), Ok(200));
        assert!(front.publish().needed(), "the back had asked for the first");
        assert!(!front.publish().needed(), "once");
        assert_eq!(back.push_many(&[9; 200]), 200);
        assert!(back.publish().needed());
        while front.pop() == Ok(9) {}
        assert!(!front.final_check().unwrap() && !back.final_check().unwrap());
    }
}

#[test]
fn an_event_after_several_comes_after_several() {
    let (mut front, mut back) = pair(8);
    for n in 0..6 {
        front.push(&[n; 3]).unwrap();
    }
    let _ = front.publish();
    assert!(!front.final_check_after(3).unwrap());
    let mut notified = Vec::new();
    for n in 0..6 {
        back.pop().unwrap();
        back.push(&n).unwrap();
        notified.push(back.publish().needed());
        // Asked again, it asks for the same one, until it is there.
        assert_eq!(n < 3 && front.final_check_after(3).unwrap(), n == 2);
    }
    assert_eq!(notified, [false, false, true, false, false, false]);
}

#[test]
fn a_new_back_goes_on_after_the_last_response() {
    let (mut front, mut back) = pair(4);
    for n in 0..3 {
        front.push(&[n; 3]).unwrap();
    }
    let _ = front.publish();
    back.pop().unwrap();
    back.pop().unwrap();
    back.push(&0).unwrap();
    let _ = back.publish();
    let mut next = Back::<_, Class>::attach(back.into_memory()).unwrap();
    assert_eq!((next.pop(), next.pop(), next.pop()), (Ok([1; 3]), Ok([2; 3]), Err(PopError::Empty)));
    next.push(&1).unwrap();
    let _ = next.publish();
    assert_eq!((front.pop(), front.pop(), front.pop()), (Ok(0), Ok(1), Err(PopError::Empty)));
}

#[test]
fn a_back_cannot_answer_more_than_it_was_asked() {
    let (mut front, mut back) = pair(4);
    assert_eq!(back.push(&0), Err(Full));
    front.push(&[0; 3]).unwrap();
    let _ = front.publish();
    back.pop().unwrap();
    assert_eq!((back.push(&0), back.push(&0)), (Ok(()), Err(Full)));
}

/// One step of either half.
#[derive(Clone, Debug)]
enum Step {
    Ask(usize),
    Take(usize),
    Answer(usize),
    Collect(usize),
}

fn step() -> impl Strategy<Value = Step> {
    (0..4, 0..12usize).prop_map(|(kind, count)| match kind {
        0 => Step::Ask(count),
        1 => Step::Take(count),
        2 => Step::Answer(count),
        _ => Step::Collect(count),
    })
}

proptest! {
    /// Any schedule of batches, from any starting index: everything arrives once, in order, and no slot is reused
    /// early.
    #[test]
    fn both_halves_agree_with_queues(start: u32, log in 0u32..4, steps in prop::collection::vec(step(), 1..120)) {
        let memory = WordMemory::new(64 + (Class::SLOT << log));
        drop(Front::<_, Class>::new(memory.clone()).unwrap());
        // A ring that has run for long: both halves start at `start`.
        memory.word(0).store(start, Relaxed);
        memory.word(8).store(start, Relaxed);
        let mut back = Back::<_, Class>::attach(memory.clone()).unwrap();
        let mut front = Front::<_, Class>::resume_for_test(memory, start);
        let (mut asked, mut taken, mut answered) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let mut next = 0u32;
        for step in steps {
            match step {
                Step::Ask(count) => {
                    let room = front.room() as usize;
                    let entries: Vec<_> = (0..count as u32).map(|n| [next + n; 3]).collect();
                    let pushed = front.push_many(&entries);
                    prop_assert_eq!(pushed, count.min(room));
                    asked.extend((0..pushed as u32).map(|n| next + n));
                    next += count as u32;
                    let _ = front.publish();
                }
                Step::Take(count) => {
                    let mut out = [[0; 3]; 12];
                    let got = match back.pop_many(&mut out[..count]) {
                        Ok(got) => got,
                        Err(error) => { prop_assert_eq!(error, PopError::Empty); 0 }
                    };
                    prop_assert_eq!(got, count.min(asked.len()));
                    for entry in &out[..got] {
                        let expected = asked.pop_front().unwrap();
                        prop_assert_eq!(*entry, [expected; 3]);
                        taken.push_back(expected);
                    }
                }
                Step::Answer(count) => {
                    let entries: Vec<_> = taken.iter().copied().take(count).collect();
                    prop_assert_eq!(back.push_many(&entries), entries.len());
                    answered.extend(taken.drain(..entries.len()));
                    let _ = back.publish();
                }
                Step::Collect(count) => {
                    for _ in 0..count {
                        match answered.pop_front() {
                            Some(expected) => prop_assert_eq!(front.pop(), Ok(expected)),
                            None => prop_assert_eq!(front.pop(), Err(PopError::Empty)),
                        }
                    }
                }
            }
        }
    }

    /// A producer index is taken if an honest peer could have written it, and poisons the half if not.
    #[test]
    fn an_index_is_possible_or_fatal(index in prop_oneof![0u32..12, any::<u32>()], taken in 0u32..5, answered in 0u32..5) {
        let (mut front, mut back) = pair(4);
        let memory = front.memory().clone();
        for n in 0..taken.min(4) {
            front.push(&[n; 3]).unwrap();
        }
        let _ = front.publish();
        while back.pop().is_ok() {}
        for n in 0..answered.min(taken).min(4) {
            back.push(&n).unwrap();
        }
        let _ = back.publish();
        memory.word(0).store(index, Release);
        let (low, high) = (back.taken(), back.sent() + 4);
        let fine = (low..=high).contains(&index);
        match back.refresh() {
            Ok(count) => prop_assert!(fine && count == index - low),
            Err(corrupt) => {
                prop_assert!(!fine);
                prop_assert_eq!(corrupt, Corrupt::Index { index, from: low, ahead: high - low });
                memory.word(0).store(low, Release);
                prop_assert_eq!(back.pop(), Err(PopError::Corrupt(corrupt)));
                prop_assert!(!back.publish().needed());
            }
        }
        memory.word(8).store(index, Release);
        let published = taken.min(4);
        prop_assert_eq!(front.refresh().is_ok(), index <= published);
    }
}
