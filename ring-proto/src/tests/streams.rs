//! Byte rings, the store's messages, and pages that a peer scribbles over.

use crate::memory::RingMemory;
use crate::peers::hostile::{CONSOLE_WORDS, STORE_WORDS, Scribbler};
use crate::store::{self, ConnectionError, HEADER, Header, MessageType, PAYLOAD_MAX, Receiver, StoreError, strings};
use crate::stream::*;
use crate::words::WordMemory;
use crate::{console, ring::Corrupt};
use proptest::prelude::*;
use std::{vec, vec::Vec};
use zerocopy::IntoBytes;

const SMALL: StreamLayout = StreamLayout { data: 4, size: 8, cons: 12, prod: 16 };

proptest! {
    /// Bytes come out in order, whatever the chunks, across the wrap of ring and index.
    #[test]
    fn bytes_in_bytes_out(start: u32, chunks in prop::collection::vec((0..12usize, 0..12usize), 1..200)) {
        let memory = WordMemory::new(20);
        memory.word(12).store(start, crate::sync::Ordering::Relaxed);
        memory.word(16).store(start, crate::sync::Ordering::Relaxed);
        let mut producer = Producer::new(memory.clone(), SMALL, Wake::WhenIdle);
        let mut consumer = Consumer::new(memory, SMALL, Wake::WhenIdle);
        let (mut written, mut read) = (0u64, 0u64);
        for (write, take) in chunks {
            let was_empty = consumer.available().unwrap() == 0;
            let data: Vec<u8> = (0..write as u64).map(|n| (written + n) as u8).collect();
            let count = producer.write(&data).unwrap();
            prop_assert_eq!(count as u64, (write as u64).min(8 - (written - read)));
            written += count as u64;
            prop_assert_eq!(producer.publish().needed(), was_empty && count > 0);
            let was_full = consumer.available().unwrap() == 8;
            let mut buffer = [0; 12];
            let got = consumer.read(&mut buffer[..take]).unwrap();
            for byte in &buffer[..got] {
                prop_assert_eq!(*byte, read as u8);
                read += 1;
            }
            prop_assert_eq!(consumer.publish().needed(), was_full && got > 0);
        }
    }

    /// Any page whatever: an end reads, or says that the ring is corrupt, and stays so.
    #[test]
    fn impossible_indices_close_the_ring(prod: u32, cons: u32) {
        let memory = WordMemory::new(20);
        memory.word(12).store(cons, crate::sync::Ordering::Relaxed);
        let mut consumer = Consumer::new(memory.clone(), SMALL, Wake::Always);
        memory.word(16).store(prod, crate::sync::Ordering::Relaxed);
        let ahead = prod.wrapping_sub(cons);
        prop_assert_eq!(consumer.available().ok(), (ahead <= 8).then_some(ahead));
        memory.word(16).store(cons, crate::sync::Ordering::Relaxed);
        prop_assert_eq!(consumer.read(&mut [0; 4]).is_err(), ahead > 8);
    }

    /// Messages survive any chopping; a length beyond the limit closes the connection.
    #[test]
    fn messages_are_put_together(lengths in prop::collection::vec(0..=PAYLOAD_MAX, 1..6), chunk in 1usize..700) {
        let page = WordMemory::new(4096);
        let mut client = store::Front::new(page.clone());
        let mut server = store::Back::new(page, store::FEATURE_ERROR);
        let mut receiver = Receiver::default();
        for (index, length) in lengths.into_iter().enumerate() {
            let header = Header { kind: MessageType::WRITE, req_id: index as u32, tx_id: 0, len: length as u32 };
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let bytes = [header.as_bytes(), &payload].concat();
            let (mut sent, mut whole) = (0, false);
            while !whole {
                let end = bytes.len().min(sent + chunk);
                sent += client.requests.write(&bytes[sent..end]).unwrap();
                let _ = client.requests.publish();
                if let Some(message) = receiver.receive(&mut server.requests).unwrap() {
                    prop_assert_eq!(message.header, header);
                    prop_assert_eq!(message.payload, payload.as_slice());
                    whole = true;
                }
                let _ = server.requests.publish();
            }
            prop_assert_eq!(sent, bytes.len());
        }
        let bad = Header { kind: MessageType::READ, req_id: 0, tx_id: 0, len: PAYLOAD_MAX as u32 + 1 };
        client.requests.write(bad.as_bytes()).unwrap();
        let _ = client.requests.publish();
        let error = receiver.receive(&mut server.requests).unwrap_err();
        prop_assert_eq!(ConnectionError::from(error), ConnectionError::Protocol);
        server.report(error.into());
        prop_assert_eq!(client.error(), ConnectionError::Protocol as u32);
        prop_assert!(receiver.receive(&mut server.requests).is_err());
    }
}

#[test]
fn error_names_are_in_order() {
    for (index, (error, name)) in StoreError::NAMES.iter().enumerate() {
        assert_eq!(*error as usize, index);
        assert_eq!(error.name(), *name);
        assert_eq!(StoreError::from_payload(&[name.as_bytes(), b"\0"].concat()), *error);
    }
    assert_eq!(StoreError::from_payload(b"EWHATEVER\0"), StoreError::Einval);
}

#[test]
fn payloads_are_strings() {
    let split = |payload: &'static [u8]| strings(payload).collect::<Vec<_>>();
    assert_eq!(split(b""), [b""; 0]);
    assert_eq!(split(b"\0"), [b""]);
    assert_eq!(split(b"a\0bc\0"), [&b"a"[..], b"bc"]);
    assert_eq!(split(b"a\0\0c"), [&b"a"[..], b"", b"c"]);
    assert_eq!(HEADER, 16);
}

#[test]
fn a_store_connection_can_be_made_again() {
    let page = WordMemory::new(4096);
    let mut server = store::Back::new(page.clone(), store::FEATURE_RECONNECTION);
    let mut client = store::Front::new(page.clone());
    client.requests.write(b"half a message").unwrap();
    let _ = client.requests.publish();
    assert!(client.request_reconnect() && client.reconnecting() && server.reconnect_requested());
    server.reconnect();
    assert!(!client.reconnecting());
    let mut client = store::Front::new(page);
    assert_eq!(client.replies.available(), Ok(0));
    assert_eq!(client.requests.room(), Ok(1024));
    assert_eq!(server.requests.available(), Ok(0));
}

/// Both daemons' ends against a page that is scribbled over: what is read stays within bounds, or the end closes.
#[test]
fn scribbled_pages_hurt_one_connection() {
    for seed in 0..300 {
        let page = WordMemory::new(4096);
        let mut console = console::Back::new(page.clone());
        let mut scribbler = Scribbler::new(page, CONSOLE_WORDS, seed);
        for _ in 0..200 {
            scribbler.step();
            let mut out = vec![0; 4096];
            if let Ok(count) = console.output.read(&mut out) {
                assert!(count <= 2048);
            }
            let _ = console.output.publish();
            if let Ok(count) = console.input.write(&out) {
                assert!(count <= 1024);
            }
            let _ = console.input.publish();
        }
        let page = WordMemory::new(4096);
        let mut server = store::Back::new(page.clone(), 0);
        let mut scribbler = Scribbler::new(page, STORE_WORDS, seed);
        let mut receiver = Receiver::default();
        for _ in 0..200 {
            scribbler.step();
            match receiver.receive(&mut server.requests) {
                Ok(Some(message)) => assert!(message.payload.len() <= PAYLOAD_MAX),
                Ok(None) => {}
                Err(Corrupt::Index { .. } | Corrupt::Protocol(_)) => {
                    assert!(server.requests.poison().is_some())
                }
            }
            let _ = server.requests.publish();
        }
    }
}

#[test]
fn a_polite_console_loses_nothing() {
    let page = WordMemory::new(4096);
    let (mut guest, mut daemon) = (console::Front::new(page.clone()), console::Back::new(page));
    let text: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let (mut sent, mut got) = (0, Vec::<u8>::new());
    while got.len() < text.len() {
        sent += guest.output.write(&text[sent..]).unwrap();
        let _ = guest.output.publish();
        let mut chunk = [0; 300];
        let count = daemon.output.read(&mut chunk).unwrap();
        got.extend(&chunk[..count]);
        let _ = daemon.output.publish();
    }
    assert!(got == text);
    daemon.input.write(b"help\n").unwrap();
    assert!(daemon.input.publish().needed());
    let mut line = [0; 80];
    assert_eq!(guest.input.read(&mut line), Ok(5));
}
