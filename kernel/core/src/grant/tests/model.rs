//! Random operations of three domains on each other's grants, against a model that has nothing in common with the code.

use abi::grant::{GrantEntryV1 as Entry, GrantHandle, GrantStatus, gntmap};
use abi::{DomId, Maddr, Mfn, Pte};
use core::sync::atomic::Ordering::SeqCst;
use fuzz::{Choices, Tally, Target};
use proptest::prelude::{ProptestConfig, any, prop, proptest};
use std::collections::BTreeMap;
use std::vec::Vec;

use super::*;

const DOMAINS: usize = 3;
const GREFS: u32 = 4;
const SLOTS: usize = 4;
const IN_USE: u16 = Entry::GTF_READING | Entry::GTF_WRITING;

/// What is granted: one of the first frames, a page table, a frame of another domain's, or none.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Page(usize),
    Table,
    Foreign,
    Nothing,
}

#[derive(Clone, Debug)]
enum Op {
    Grant { from: usize, gref: u32, to: usize, what: What, read_only: bool },
    Revoke { from: usize, gref: u32 },
    Map { by: usize, from: usize, gref: u32, kinds: u32, read_only: bool, slot: usize, by_entry: bool },
    Unmap { by: usize, nth: usize, slot: Option<usize>, device: Option<bool> },
    Zap { by: usize, slot: usize },
    Copy { by: usize, from: usize, gref: u32, into: bool },
}

impl Op {
    fn next(c: &mut Choices<'_>) -> Self {
        let (by, from, gref) = (c.below(DOMAINS), c.below(DOMAINS), c.below(GREFS as usize) as u32);
        let (slot, read_only) = (c.below(SLOTS + 1), c.one_in(2));
        match c.weighted(&[3, 1, 6, 5, 1, 2]) {
            0 => {
                let what = match c.weighted(&[6, 1, 1, 1]) {
                    0 => What::Page(1 + c.below(3)),
                    1 => What::Table,
                    2 => What::Foreign,
                    _ => What::Nothing,
                };
                Self::Grant { from, gref, to: by, what, read_only }
            }
            1 => Self::Revoke { from, gref },
            2 => Self::Map { by, from, gref, kinds: c.below(4) as u32, read_only, slot, by_entry: c.one_in(2) },
            3 => {
                let slot = c.one_in(2).then_some(slot);
                let device = (c.below(5) < 3).then(|| !c.one_in(10));
                Self::Unmap { by, nth: c.below(6), slot, device }
            }
            4 => Self::Zap { by, slot: slot % SLOTS },
            _ => Self::Copy { by, from, gref, into: read_only },
        }
    }
}

/// An entry of a table as its granter wrote it, and the use that is made of it.
#[derive(Clone, Copy, Default)]
struct Slot {
    granted: Option<(usize, What, bool)>,
    /// Who uses it, and as what.
    used: Option<(usize, What)>,
    readers: u32,
    writers: u32,
}

#[derive(Clone, Copy)]
struct Mapping {
    from: usize,
    gref: u32,
    what: What,
    write: bool,
    host: bool,
    device: bool,
    by_entry: bool,
}

struct Model {
    table: [[Slot; GREFS as usize]; DOMAINS],
    /// By domain: the mappings by handle, oldest first.
    maps: [Vec<(GrantHandle, Mapping)>; DOMAINS],
    /// By domain and slot: the frame, whether it is writable.
    entries: [BTreeMap<usize, (usize, What, bool)>; DOMAINS],
}

impl Model {
    /// Takes an entry into use.
    fn pin(&mut self, by: usize, from: usize, gref: u32, write: bool) -> Result<What, GrantStatus> {
        let slot = &mut self.table[from][gref as usize];
        let fail = Err(GrantStatus::GENERAL_ERROR);
        let what = match slot.used {
            Some((who, _)) if who != by => return fail,
            Some((_, what)) if !write || slot.writers > 0 => what,
            used => match slot.granted {
                Some((to, what, read_only)) if to == by && !(write && read_only) => used.map_or(what, |(_, what)| what),
                _ => return fail,
            },
        };
        match what {
            What::Foreign | What::Nothing => return Err(GrantStatus::BAD_PAGE),
            What::Table if write => return fail,
            _ => {}
        }
        slot.used = Some((by, what));
        *(if write { &mut slot.writers } else { &mut slot.readers }) += 1;
        Ok(what)
    }

    fn unpin(&mut self, from: usize, gref: u32, write: bool) {
        let slot = &mut self.table[from][gref as usize];
        *(if write { &mut slot.writers } else { &mut slot.readers }) -= 1;
        if slot.readers + slot.writers == 0 {
            slot.used = None;
        }
    }
}

/// An operation's name and its status.
type Counted = (&'static str, GrantStatus);

struct World {
    core: std::boxed::Box<TestCore>,
    d: [Guest; DOMAINS],
    model: Model,
}

impl World {
    fn mfn(&self, owner: usize, what: What) -> Mfn {
        match what {
            What::Page(n) => self.d[owner].frames[n].mfn(),
            What::Table => self.d[owner].tables[1].mfn(),
            What::Foreign => self.d[(owner + 1) % DOMAINS].frames[4].mfn(),
            What::Nothing => Mfn(0xffff_fff0),
        }
    }

    fn place(&self, by: usize, slot: usize, by_entry: bool) -> u64 {
        // The last slot is no place at all.
        match (slot == SLOTS, by_entry) {
            (true, true) => self.d[by].frames[1].mfn().maddr().0,
            (true, false) => 0x7fff_0000_0000,
            (false, true) => self.d[by].tables[0].mfn().maddr().0 + (HOLE + slot) as u64 * 8,
            (false, false) => self.d[by].va(HOLE + slot).0,
        }
    }

    /// Half of the unmaps name a mapping, and all of it.
    fn aim(&self, op: Op, c: &mut Choices<'_>) -> Op {
        let Op::Unmap { by, nth, .. } = op else { return op };
        let maps = &self.model.maps[by];
        let Some((_, m)) = maps.get(nth % maps.len().max(1)).filter(|_| c.one_in(2)) else { return op };
        let there = self.model.entries[by].iter().find(|(_, entry)| **entry == (m.from, m.what, m.write));
        let slot = there.map(|(slot, _)| *slot).filter(|_| m.host);
        Op::Unmap { by, nth: nth % maps.len(), slot, device: m.device.then_some(true) }
    }

    /// Does it; what it is counted as, and what became of it.
    fn apply(&mut self, op: &Op) -> Counted {
        match *op {
            Op::Grant { from, gref, to, what, read_only } => {
                // A granter that follows the rules does not touch an entry in use; one that does not only confuses
                // itself, but the model, too.
                if self.model.table[from][gref as usize].used.is_none() {
                    let flags = if read_only { Entry::GTF_READONLY } else { 0 };
                    let mfn = self.mfn(from, what);
                    grant(&self.core, &self.d[from], gref, self.d[to].domain.id, mfn, flags);
                    self.model.table[from][gref as usize].granted = Some((to, what, read_only));
                }
                ("grant", GrantStatus::OKAY)
            }
            Op::Revoke { from, gref } => {
                let slot = &mut self.model.table[from][gref as usize];
                let word = entry(&self.core, &self.d[from], gref);
                assert_eq!(word.load(SeqCst) as u16 & IN_USE == 0, slot.used.is_none());
                if slot.used.is_none() {
                    word.store(0, SeqCst);
                    slot.granted = None;
                }
                ("revoke", GrantStatus::OKAY)
            }
            Op::Map { by, from, gref, kinds, read_only, slot, by_entry } => {
                ("map", self.map(by, from, gref, kinds, !read_only, slot, by_entry))
            }
            Op::Unmap { by, nth, slot, device } => ("unmap", self.unmap(by, nth, slot, device)),
            Op::Zap { by, slot } => {
                self.d[by].map(&self.core, HOLE + slot, Pte::EMPTY).unwrap();
                self.model.entries[by].remove(&slot);
                ("zap", GrantStatus::OKAY)
            }
            Op::Copy { by, from, gref, into } => {
                let own = end(self.d[by].frames[4].mfn().0, DomId::SELF, 8);
                let grant = end(u64::from(gref), self.d[from].domain.id, 16);
                let (source, dest, flags) = if into { (own, grant, 2) } else { (grant, own, 1) };
                let status = copy(&self.core, &self.d[by], source, dest, 64, flags);
                let wanted = self.model.pin(by, from, gref, into).map(|_| self.model.unpin(from, gref, into));
                assert_eq!(status, wanted.err().unwrap_or(GrantStatus::OKAY));
                ("copy", status)
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the arguments of the operation")]
    fn map(
        &mut self,
        by: usize,
        from: usize,
        gref: u32,
        kinds: u32,
        write: bool,
        slot: usize,
        by_entry: bool,
    ) -> GrantStatus {
        let (device, host) = (kinds & gntmap::DEVICE_MAP != 0, kinds & gntmap::HOST_MAP != 0);
        let flags = kinds | if write { 0 } else { gntmap::READONLY } | if by_entry { gntmap::CONTAINS_PTE } else { 0 };
        let op = map_op(&self.d[from], gref, flags, self.place(by, slot, by_entry));
        let (status, handle, address) = map(&self.core, &self.d[by], op);
        let wanted = if kinds == 0 {
            Err(GrantStatus::BAD_GNTREF)
        } else {
            self.model.pin(by, from, gref, write).and_then(|what| {
                if host && slot == SLOTS {
                    self.model.unpin(from, gref, write);
                    return Err(GrantStatus::GENERAL_ERROR);
                }
                Ok(what)
            })
        };
        assert_eq!(status, wanted.err().unwrap_or(GrantStatus::OKAY));
        if let Ok(what) = wanted {
            assert_eq!(address, self.mfn(from, what).maddr());
            if host {
                self.model.entries[by].insert(slot, (from, what, write));
            }
            self.model.maps[by].push((handle, Mapping { from, gref, what, write, host, device, by_entry }));
        }
        status
    }

    fn unmap(&mut self, by: usize, nth: usize, slot: Option<usize>, device: Option<bool>) -> GrantStatus {
        let known = self.model.maps[by].get(nth).copied();
        let by_entry = known.is_some_and(|(_, m)| m.by_entry);
        let host = slot.map_or(0, |slot| self.place(by, slot, by_entry));
        let right = known.map_or(Maddr(4096), |(_, m)| self.mfn(m.from, m.what).maddr());
        let address = device.map_or(Maddr(0), |good| if good { right } else { Maddr(right.0 + 4096) });
        let handle = known.map_or(GrantHandle(77), |(handle, _)| handle);
        let status = unmap(&self.core, &self.d[by], handle, host, address);
        let Some((_, mut m)) = known else {
            assert_eq!(status, GrantStatus::BAD_HANDLE);
            return status;
        };
        let there = slot.is_some_and(|s| self.model.entries[by].get(&s) == Some(&(m.from, m.what, m.write)));
        let wanted = match () {
            () if m.device && device == Some(false) => GrantStatus::BAD_DEV_ADDR,
            () if m.host && slot.is_some() && !there => GrantStatus::GENERAL_ERROR,
            () => GrantStatus::OKAY,
        };
        assert_eq!(status, wanted);
        if wanted != GrantStatus::OKAY {
            return status;
        }
        if m.host
            && let Some(slot) = slot
        {
            self.model.entries[by].remove(&slot);
            m.host = false;
        }
        if device.is_some() {
            m.device = false;
        }
        if m.host || m.device {
            self.model.maps[by][nth].1 = m;
        } else {
            self.model.maps[by].remove(nth);
            self.model.unpin(m.from, m.gref, m.write);
        }
        status
    }

    fn compare(&self) {
        for (from, table) in self.model.table.iter().enumerate() {
            for (gref, slot) in (0..).zip(table) {
                let reading = if slot.used.is_some() { Entry::GTF_READING } else { 0 };
                let writing = if slot.writers > 0 { Entry::GTF_WRITING } else { 0 };
                let marks = flags(&self.core, &self.d[from], gref) & IN_USE;
                assert_eq!(marks, reading | writing, "entry {} of {}", gref, from);
            }
        }
        for (by, entries) in self.model.entries.iter().enumerate() {
            for slot in 0..SLOTS {
                let found = self.core.platform.translate(self.d[by].space(), self.d[by].va(HOLE + slot));
                let found = found.map(|(frame, write)| (frame.mfn(), write));
                let wanted = entries.get(&slot).map(|(from, what, write)| (self.mfn(*from, *what), *write));
                assert_eq!(found, wanted, "slot {} of {}", slot, by);
            }
            assert_eq!(self.d[by].domain.grants.in_use().1, self.model.maps[by].len());
        }
    }
}

impl Target for World {
    const NAME: &'static str = "grants";
    const EPISODE: u64 = 400;
    const REACHED: &'static [(&'static str, &'static str)] = &[
        ("grant", "ok"),
        ("revoke", "ok"),
        ("map", "ok"),
        ("map", "GENERAL_ERROR"),
        ("map", "BAD_GNTREF"),
        ("map", "BAD_PAGE"),
        ("unmap", "ok"),
        ("unmap", "GENERAL_ERROR"),
        ("unmap", "BAD_HANDLE"),
        ("unmap", "BAD_DEV_ADDR"),
        ("zap", "ok"),
        ("copy", "ok"),
        ("copy", "GENERAL_ERROR"),
        ("copy", "BAD_PAGE"),
    ];

    fn new(_: &mut Choices<'_>) -> Self {
        let core = testing::core(96, 1);
        let d = core::array::from_fn(|_| guest(&core));
        let model = Model { table: Default::default(), maps: Default::default(), entries: Default::default() };
        Self { core, d, model }
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        let op = self.aim(Op::next(c), c);
        let (name, status) = self.apply(&op);
        self.compare();
        if c.one_in(16) {
            assert_eq!(self.core.audit(&[]), Ok(Vec::new()));
        }
        tally.note(
            name,
            match status {
                GrantStatus::OKAY => Tally::OK,
                GrantStatus::GENERAL_ERROR => "GENERAL_ERROR",
                GrantStatus::BAD_GNTREF => "BAD_GNTREF",
                GrantStatus::BAD_HANDLE => "BAD_HANDLE",
                GrantStatus::BAD_PAGE => "BAD_PAGE",
                GrantStatus::BAD_DEV_ADDR => "BAD_DEV_ADDR",
                _ => "another",
            },
        );
    }

    fn end(self) {
        assert_eq!(self.core.audit(&[]), Ok(Vec::new()));
    }
}

#[test]
fn random_grants_do_what_the_model_does() {
    fuzz::slice::<World>(4_000);
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz grants"]
fn campaign_grants() {
    fuzz::campaign::<World>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]
    #[test]
    fn grants_do_what_the_model_does(bytes in prop::collection::vec(any::<u8>(), 1..800)) {
        fuzz::run::<World>(&bytes);
    }
}
