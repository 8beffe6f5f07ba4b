//! Every ring class against a hostile peer, as one fuzz target: whatever it writes, what is taken off a ring is within
//! bounds, every entry is answered once, and a broken index ends that ring alone.

use crate::blk::{Blk, BlkStatus, Limits, Request, SEGMENTS_PER_PAGE, Source, sectors_of};
use crate::net::*;
use crate::net_rx::RxReader;
use crate::net_tx::{TxItem, TxReader};
use crate::pciif::{self, Command, Operation, WireOp};
use crate::peers::hostile::{CONSOLE_WORDS, HostileFront, PCI_WORDS, RING_WORDS, STORE_WORDS, Scribbler};
use crate::peers::{Pages, Rng, blk as blk_peers, net as net_peers};
use crate::ring::{Back, Front, PopError};
use crate::store::{self, PAYLOAD_MAX, Receiver};
use crate::words::WordMemory;
use crate::{console, memory::RingMemory};
use abi::GrantRef;
use fuzz::{Choices, Tally, Target};
use std::sync::Arc;
use std::vec::Vec;

type Memory = Arc<WordMemory>;
const SECTORS: u64 = 4096;
const LIMITS: Limits =
    Limits { sectors: SECTORS, read_only: false, flush: true, discard: true, indirect_segments: 128 };

/// One ring of each class, and who is hostile on it.
struct World {
    grants: Vec<GrantRef>,
    rng: Rng,
    blk: (HostileFront<Memory, Blk>, Back<Memory, Blk>),
    tx: (HostileFront<Memory, Tx>, Back<Memory, Tx>, TxReader),
    rx: Receive,
    pci: (Scribbler<Memory>, pciif::Front<Memory>, pciif::Back<Memory>),
    console: (Scribbler<Memory>, console::Back<Memory>),
    store: (Scribbler<Memory>, store::Back<Memory>, Receiver),
}

struct Receive {
    front: Front<Memory, Rx>,
    back: Back<Memory, Rx>,
    scribbler: Scribbler<Memory>,
    reader: RxReader,
    outstanding: usize,
}

impl Receive {
    fn new(seed: u64) -> Self {
        let memory = WordMemory::new(4096);
        let front = Front::new(memory.clone()).unwrap();
        let back = Back::attach(memory.clone()).unwrap();
        Self {
            front,
            back,
            scribbler: Scribbler::new(memory, RING_WORDS, seed),
            reader: RxReader::default(),
            outstanding: 0,
        }
    }
}

fn fronts<C: crate::ring::RingClass>(seed: u64) -> (HostileFront<Memory, C>, Back<Memory, C>) {
    let memory = WordMemory::new(4096);
    let front = HostileFront::new(memory.clone(), seed, seed.is_multiple_of(2));
    (front, Back::attach(memory).unwrap())
}

impl World {
    fn blk(&mut self, tally: &mut Tally) {
        let grants = &self.grants;
        let _ = self.blk.0.step(|rng| blk_peers::hostile_request(rng, grants, SECTORS));
        loop {
            let popped = self.blk.1.pop();
            assert!(self.blk.1.known() < self.blk.1.slots(), "more than the ring holds");
            let request = match popped {
                Ok(request) => request,
                Err(PopError::Empty) => break,
                Err(PopError::Corrupt(_)) => {
                    tally.note("block request", "corrupt");
                    self.blk = fronts(self.rng.next());
                    return;
                }
            };
            let parsed = request.parse(&LIMITS);
            let status = parsed.as_ref().err().copied().unwrap_or(BlkStatus::OKAY);
            match parsed {
                Ok(Request::Transfer { sector, source: Source::Direct(segments), .. }) => {
                    let inside =
                        |s: &crate::blk::Segment| usize::from(s.offset) + usize::from(s.len) <= PAGE && s.len > 0;
                    assert!(!segments.is_empty() && segments.iter().all(inside));
                    assert!(sector + sectors_of(&segments) <= SECTORS, "beyond the disk");
                }
                Ok(Request::Transfer { source: Source::Indirect { pages, count }, .. }) => {
                    assert!((1..=LIMITS.indirect_segments).contains(&count));
                    assert_eq!(pages.len(), usize::from(count).div_ceil(SEGMENTS_PER_PAGE));
                }
                Ok(Request::Discard { sector, count, .. }) => assert!(count > 0 && sector + count <= SECTORS),
                Ok(Request::Flush) | Err(_) => {}
            }
            let outcome = match status {
                BlkStatus::OKAY => Tally::OK,
                BlkStatus::EOPNOTSUPP => "EOPNOTSUPP",
                _ => "ERROR",
            };
            tally.note("block request", outcome);
            self.blk.1.push(&request.tag().response(status)).expect("one answer a request");
        }
        let _ = self.blk.1.publish();
    }

    fn transmit(&mut self, tally: &mut Tally) {
        let grants = &self.grants;
        let _ = self.tx.0.step(|rng| net_peers::hostile_slot(rng, grants));
        let (_, back, reader) = &mut self.tx;
        loop {
            assert!(back.known() <= back.slots(), "more than the ring holds");
            match reader.next(back) {
                Ok(TxItem::Packet(packet)) => {
                    let inside =
                        |f: &crate::net_tx::Fragment| usize::from(f.offset) + usize::from(f.len) <= PAGE && f.len > 0;
                    let len: usize = packet.fragments.iter().map(|f| usize::from(f.len)).sum();
                    assert!(packet.fragments.iter().all(inside) && packet.fragments.len() <= MAX_SLOTS);
                    assert!(len == usize::from(packet.len) && len >= ETH_HEADER);
                    let packet = packet.clone();
                    packet.answer(back, Status::OKAY);
                    tally.note("packet", Tally::OK);
                }
                Ok(TxItem::Multicast(..)) => panic!("not negotiated"),
                Ok(TxItem::Refused(_)) => tally.note("packet", "refused"),
                Err(PopError::Empty) => break,
                Err(PopError::Corrupt(_)) => {
                    tally.note("packet", "corrupt");
                    let (front, back) = fronts(self.rng.next());
                    self.tx = (front, back, TxReader::new(false));
                    return;
                }
            }
        }
        let _ = back.publish();
    }

    fn receive(&mut self, tally: &mut Tally) {
        let Receive { front, back, scribbler, reader, outstanding } = &mut self.rx;
        while front.room() > 0 {
            let id = (front.sent() & (front.slots() - 1)) as u16;
            front.push(&RxRequest { id, pad: 0, gref: GrantRef(1) }).unwrap();
            *outstanding += 1;
        }
        let _ = front.publish();
        for _ in 0..self.rng.below(20) {
            let Ok(request) = back.pop() else { break };
            let _ = back.push(&net_peers::hostile_answer(&mut self.rng, request.id));
        }
        let _ = back.publish();
        if self.rng.one_in(60) {
            scribbler.step();
        }
        loop {
            match reader.next(front) {
                Ok(packet) => {
                    *outstanding =
                        outstanding.checked_sub(packet.parts.len() + packet.spare.len()).expect("answered once");
                    let inside = |part: &crate::net_rx::RxPart| usize::from(part.offset + part.len) <= PAGE;
                    assert!(packet.parts.iter().all(inside) && packet.parts.len() <= MAX_SLOTS);
                    tally.note("delivery", Tally::OK);
                }
                Err(PopError::Empty) => return,
                Err(PopError::Corrupt(_)) => {
                    assert!(front.poison().is_some());
                    tally.note("delivery", "corrupt");
                    self.rx = Receive::new(self.rng.next());
                    return;
                }
            }
        }
    }

    fn pci(&mut self, tally: &mut Tally) {
        let (scribbler, front, back) = &mut self.pci;
        let at = pciif::Address { domain: 0, bus: 0, devfn: self.rng.below(256) as u8 };
        let mut op = WireOp::new(Command(self.rng.below(7) as u32), at);
        (op.offset, op.size) = (self.rng.edgy().into(), [1, 2, 4, 3][self.rng.below(4) as usize]);
        op.value = self.rng.edgy().into();
        front.submit(&op);
        if self.rng.one_in(2) {
            scribbler.step();
        }
        let Some(mut op) = back.take() else { return };
        let parsed = op.parse();
        match &parsed {
            Ok((_, Operation::Read(register) | Operation::Write(register, _))) => {
                assert!(register.offset + u16::from(register.width) <= 4096);
            }
            Ok((_, Operation::EnableMsix(count))) => assert!(usize::from(*count) <= op.msix.len()),
            Ok(_) => {}
            Err(error) => op.error = *error,
        }
        tally.note("pci operation", if parsed.is_ok() { Tally::OK } else { "refused" });
        back.answer(&op);
    }

    fn bytes(&mut self, tally: &mut Tally) {
        let (scribbler, back) = &mut self.console;
        scribbler.step();
        let mut out = [0; 4096];
        let read = back.output.read(&mut out);
        assert!(read.as_ref().is_ok_and(|count| *count <= 2048) || back.output.poison().is_some());
        let written = back.input.write(&out);
        assert!(written.as_ref().is_ok_and(|count| *count <= 1024) || back.input.poison().is_some());
        let (_, _) = (back.output.publish(), back.input.publish());
        tally.note("console bytes", if read.is_ok() && written.is_ok() { Tally::OK } else { "corrupt" });
        if read.is_err() && written.is_err() {
            let page = WordMemory::new(4096);
            self.console = (Scribbler::new(page.clone(), CONSOLE_WORDS, self.rng.next()), console::Back::new(page));
        }
    }

    fn messages(&mut self, tally: &mut Tally) {
        let (scribbler, back, receiver) = &mut self.store;
        scribbler.step();
        match receiver.receive(&mut back.requests) {
            Ok(Some(message)) => {
                assert!(message.payload.len() <= PAYLOAD_MAX);
                tally.note("store message", Tally::OK);
            }
            Ok(None) => tally.note("store message", "incomplete"),
            Err(_) => {
                assert!(back.requests.poison().is_some());
                tally.note("store message", "corrupt");
                self.store = daemon(self.rng.next());
                return;
            }
        }
        let _ = self.store.1.requests.publish();
    }
}

fn daemon(seed: u64) -> (Scribbler<Memory>, store::Back<Memory>, Receiver) {
    let page = WordMemory::new(4096);
    // Small messages, so that some are whole.
    (0..64).for_each(|word| page.write(word * 16 + 12, &[1, 0, 0, 0]));
    (Scribbler::new(page.clone(), STORE_WORDS, seed), store::Back::new(page, 0), Receiver::default())
}

impl Target for World {
    const NAME: &'static str = "rings";
    const EPISODE: u64 = 2000;
    const REACHED: &'static [(&'static str, &'static str)] = &[
        ("block request", "ok"),
        ("block request", "ERROR"),
        ("block request", "EOPNOTSUPP"),
        ("block request", "corrupt"),
        ("packet", "ok"),
        ("packet", "refused"),
        ("packet", "corrupt"),
        ("delivery", "ok"),
        ("delivery", "corrupt"),
        ("pci operation", "ok"),
        ("pci operation", "refused"),
        ("console bytes", "ok"),
        ("console bytes", "corrupt"),
        ("store message", "ok"),
        ("store message", "incomplete"),
        ("store message", "corrupt"),
    ];

    fn new(c: &mut Choices<'_>) -> Self {
        let pages = Pages::default();
        let (tx, tx_back) = fronts(c.word());
        let (pci, page) = (WordMemory::new(4096), WordMemory::new(4096));
        Self {
            grants: (0..8).map(|n| pages.grant(n % 2 == 0)).collect(),
            rng: Rng(c.word()),
            blk: fronts(c.word()),
            tx: (tx, tx_back, TxReader::new(false)),
            rx: Receive::new(c.word()),
            pci: (
                Scribbler::new(pci.clone(), PCI_WORDS, c.word()),
                pciif::Front::new(pci.clone()),
                pciif::Back::new(pci),
            ),
            console: (Scribbler::new(page.clone(), CONSOLE_WORDS, c.word()), console::Back::new(page)),
            store: daemon(c.word()),
        }
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        match c.below(6) {
            0 => self.blk(tally),
            1 => self.transmit(tally),
            2 => self.receive(tally),
            3 => self.pci(tally),
            4 => self.bytes(tally),
            _ => self.messages(tally),
        }
    }
}

#[test]
fn hostile_peers_of_every_class() {
    fuzz::slice::<World>(30_000);
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz rings"]
fn campaign_rings() {
    fuzz::campaign::<World>();
}
