//! One way: entries from one thread to another, by the byte ring that consoles have, beside queues of the same room.

use crate::Set;
use crate::pair::{both, least};
use crossbeam_queue::ArrayQueue;
use domain_rt::page::HostPages;
use ring_proto::console;
use ring_proto::stream::{Consumer, Producer, Wake};
use ringbuf::HeapRb;
use ringbuf::traits::{Consumer as _, Producer as _, Split as _};
use std::hint::{black_box, spin_loop};
use zerocopy::IntoBytes;

/// Entries of one measurement.
const COUNT: usize = 4_000;

type Entry<const WORDS: usize> = [u64; WORDS];

/// One case after the other; entries of 8, 64 and 112 bytes, as far as a batch fits the ring.
pub fn run(set: Set) {
    cases::<8>(&[32], &[1, 8, 32], set);
    if set == Set::Full {
        cases::<1>(&[], &[1, 8, 32], set);
        cases::<14>(&[], &[1, 8], set);
    }
}

fn cases<const WORDS: usize>(short: &[usize], full: &[usize], set: Set) {
    for batch in if set == Set::Full { full } else { short } {
        let name = format!("rings/oneway_{}_batch{batch}", WORDS * 8);
        let room = console::OUT.size as usize / (WORDS * 8);
        let row = |who: &str, ns: &dyn Fn() -> f64| println!("ROW {name} {who} {:.2}", least(ns));
        row("ring-proto", &|| stream::<WORDS>(*batch));
        row("rtrb-chunk", &|| rtrb_chunks::<WORDS>(room, *batch));
        row("rtrb", &|| rtrb::<WORDS>(room));
        row("ringbuf", &|| ringbuf::<WORDS>(room, *batch));
        row("crossbeam-queue", &|| queue::<WORDS>(room));
        row("crossbeam-channel", &|| channel::<WORDS>(room));
    }
}

/// Without a second thread: batches written and read in turn.
pub fn alone(name: &str, count: usize) -> bool {
    let Some((bytes, batch)) = name.strip_prefix("rings/oneway_").and_then(|rest| rest.split_once("_batch")) else {
        return false;
    };
    let batch = batch.parse().expect("a batch");
    match bytes {
        "8" => stream_alone::<1>(batch, count),
        "64" => stream_alone::<8>(batch, count),
        "112" => stream_alone::<14>(batch, count),
        _ => return false,
    }
    true
}

fn ends() -> (Producer<HostPages>, Consumer<HostPages>) {
    let page = HostPages::new(1);
    (Producer::new(page, console::OUT, Wake::WhenIdle), Consumer::new(page, console::OUT, Wake::WhenIdle))
}

fn stream_alone<const WORDS: usize>(batch: usize, count: usize) {
    let (mut producer, mut consumer) = ends();
    let (entries, mut taken) = (vec![[7u64; WORDS]; batch], vec![[0u64; WORDS]; batch]);
    for _ in 0..count / batch {
        assert_eq!(producer.write(black_box(&entries).as_bytes()), Ok(batch * WORDS * 8));
        let _ = producer.publish();
        assert_eq!(consumer.read(black_box(&mut taken).as_mut_bytes()), Ok(batch * WORDS * 8));
        let _ = consumer.publish();
    }
}

fn stream<const WORDS: usize>(batch: usize) -> f64 {
    let (mut producer, mut consumer) = ends();
    let send = move || {
        let entries = vec![[7u64; WORDS]; batch];
        for sent in (0..COUNT).step_by(batch) {
            let mut rest = black_box(&entries)[..batch.min(COUNT - sent)].as_bytes();
            while !rest.is_empty() {
                let written = producer.write(rest).expect("an honest peer");
                let _ = producer.publish();
                rest = &rest[written..];
                if written == 0 {
                    spin_loop();
                }
            }
        }
    };
    let take = move || {
        let mut entries = vec![[0u64; WORDS]; batch];
        let mut left = COUNT * WORDS * 8;
        while left > 0 {
            let most = left.min(batch * WORDS * 8);
            let taken = consumer.read(&mut entries.as_mut_bytes()[..most]).expect("an honest peer");
            let _ = consumer.publish();
            black_box(&entries);
            left -= taken;
            if taken == 0 {
                spin_loop();
            }
        }
    };
    both(COUNT as u64, send, take).0
}

fn rtrb_chunks<const WORDS: usize>(room: usize, batch: usize) -> f64 {
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Entry<WORDS>>::new(room);
    let send = move || {
        let entries = vec![[7u64; WORDS]; batch];
        let mut sent = 0;
        while sent < COUNT {
            let now = batch.min(COUNT - sent).min(producer.slots());
            match producer.write_chunk_uninit(now) {
                Ok(chunk) if now > 0 => sent += chunk.fill_from_iter(black_box(&entries)[..now].iter().copied()),
                _ => spin_loop(),
            }
        }
    };
    let take = move || {
        let mut entries = vec![[0u64; WORDS]; batch];
        let mut left = COUNT;
        while left > 0 {
            let now = batch.min(left).min(consumer.slots());
            match consumer.read_chunk(now) {
                Ok(chunk) if now > 0 => {
                    let (first, second) = chunk.as_slices();
                    let (to, rest) = entries[..now].split_at_mut(first.len());
                    to.copy_from_slice(first);
                    rest.copy_from_slice(second);
                    chunk.commit_all();
                    black_box(&entries);
                    left -= now;
                }
                _ => spin_loop(),
            }
        }
    };
    both(COUNT as u64, send, take).0
}

/// Each entry by itself.
fn singly<const WORDS: usize>(
    mut push: impl FnMut(Entry<WORDS>) -> bool + Send,
    mut pop: impl FnMut() -> Option<Entry<WORDS>> + Send,
) -> f64 {
    let send = move || {
        for _ in 0..COUNT {
            while !push(black_box([7u64; WORDS])) {
                spin_loop();
            }
        }
    };
    let take = move || {
        let mut left = COUNT;
        while left > 0 {
            match pop() {
                Some(entry) => {
                    black_box(&entry);
                    left -= 1;
                }
                None => spin_loop(),
            }
        }
    };
    both(COUNT as u64, send, take).0
}

fn rtrb<const WORDS: usize>(room: usize) -> f64 {
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Entry<WORDS>>::new(room);
    singly(move |entry| producer.push(entry).is_ok(), move || consumer.pop().ok())
}

fn ringbuf<const WORDS: usize>(room: usize, batch: usize) -> f64 {
    let (mut producer, mut consumer) = HeapRb::<Entry<WORDS>>::new(room).split();
    let send = move || {
        let entries = vec![[7u64; WORDS]; batch];
        let mut sent = 0;
        while sent < COUNT {
            match producer.push_slice(&black_box(&entries)[..batch.min(COUNT - sent)]) {
                0 => spin_loop(),
                now => sent += now,
            }
        }
    };
    let take = move || {
        let mut entries = vec![[0u64; WORDS]; batch];
        let mut left = COUNT;
        while left > 0 {
            match consumer.pop_slice(&mut entries[..batch.min(left)]) {
                0 => spin_loop(),
                now => left -= now,
            }
            black_box(&entries);
        }
    };
    both(COUNT as u64, send, take).0
}

fn queue<const WORDS: usize>(room: usize) -> f64 {
    let queue = ArrayQueue::<Entry<WORDS>>::new(room);
    singly(|entry| queue.push(entry).is_ok(), || queue.pop())
}

fn channel<const WORDS: usize>(room: usize) -> f64 {
    let (sender, receiver) = crossbeam_channel::bounded::<Entry<WORDS>>(room);
    singly(move |entry| sender.try_send(entry).is_ok(), move || receiver.try_recv().ok())
}
