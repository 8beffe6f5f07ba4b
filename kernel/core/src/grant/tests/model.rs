//! Random operations of three domains on each other's grants, against a model that has nothing in common with the code.

use abi::grant::{GrantEntryV1 as Entry, GrantHandle, GrantStatus, gntmap};
use abi::{DomId, Maddr, Mfn, Pte};
use core::sync::atomic::Ordering::SeqCst;
use proptest::prelude::*;
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

fn op() -> impl Strategy<Value = Op> {
    let (d, gref, slot) = (0..DOMAINS, 0..GREFS, 0..SLOTS + 1);
    let what = prop_oneof![
        6 => (1usize..4).prop_map(What::Page),
        1 => Just(What::Table),
        1 => Just(What::Foreign),
        1 => Just(What::Nothing),
    ];
    let map = (d.clone(), d.clone(), gref.clone(), 0u32..4, any::<bool>(), slot.clone(), any::<bool>());
    prop_oneof![
        3 => (d.clone(), gref.clone(), d.clone(), what, any::<bool>()).prop_map(|(from, gref, to, what, read_only)| {
            Op::Grant { from, gref, to, what, read_only }
        }),
        1 => (d.clone(), gref.clone()).prop_map(|(from, gref)| Op::Revoke { from, gref }),
        6 => map.prop_map(|(by, from, gref, kinds, read_only, slot, by_entry)| {
            Op::Map { by, from, gref, kinds, read_only, slot, by_entry }
        }),
        5 => (d.clone(), 0usize..6, prop::option::of(slot.clone()), prop::option::weighted(0.6, prop::bool::weighted(0.9)))
            .prop_map(|(by, nth, slot, device)| Op::Unmap { by, nth, slot, device }),
        1 => (d.clone(), 0..SLOTS).prop_map(|(by, slot)| Op::Zap { by, slot }),
        2 => (d.clone(), d, gref, any::<bool>()).prop_map(|(by, from, gref, into)| Op::Copy { by, from, gref, into }),
    ]
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

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
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
            }
            Op::Revoke { from, gref } => {
                let slot = &mut self.model.table[from][gref as usize];
                let word = entry(&self.core, &self.d[from], gref);
                prop_assert_eq!(word.load(SeqCst) as u16 & IN_USE == 0, slot.used.is_none());
                if slot.used.is_none() {
                    word.store(0, SeqCst);
                    slot.granted = None;
                }
            }
            Op::Map { by, from, gref, kinds, read_only, slot, by_entry } => {
                return self.map(by, from, gref, kinds, !read_only, slot, by_entry);
            }
            Op::Unmap { by, nth, slot, device } => return self.unmap(by, nth, slot, device),
            Op::Zap { by, slot } => {
                self.d[by].map(&self.core, HOLE + slot, Pte::EMPTY).unwrap();
                self.model.entries[by].remove(&slot);
            }
            Op::Copy { by, from, gref, into } => {
                let own = end(self.d[by].frames[4].mfn().0, DomId::SELF, 8);
                let grant = end(u64::from(gref), self.d[from].domain.id, 16);
                let (source, dest, flags) = if into { (own, grant, 2) } else { (grant, own, 1) };
                let status = copy(&self.core, &self.d[by], source, dest, 64, flags);
                let wanted = self.model.pin(by, from, gref, into).map(|_| self.model.unpin(from, gref, into));
                prop_assert_eq!(status, wanted.err().unwrap_or(GrantStatus::OKAY));
            }
        }
        Ok(())
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
    ) -> Result<(), TestCaseError> {
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
        prop_assert_eq!(status, wanted.err().unwrap_or(GrantStatus::OKAY));
        if let Ok(what) = wanted {
            prop_assert_eq!(address, self.mfn(from, what).maddr());
            if host {
                self.model.entries[by].insert(slot, (from, what, write));
            }
            self.model.maps[by].push((handle, Mapping { from, gref, what, write, host, device, by_entry }));
        }
        Ok(())
    }

    fn unmap(&mut self, by: usize, nth: usize, slot: Option<usize>, device: Option<bool>) -> Result<(), TestCaseError> {
        let known = self.model.maps[by].get(nth).copied();
        let by_entry = known.is_some_and(|(_, m)| m.by_entry);
        let host = slot.map_or(0, |slot| self.place(by, slot, by_entry));
        let right = known.map_or(Maddr(4096), |(_, m)| self.mfn(m.from, m.what).maddr());
        let address = device.map_or(Maddr(0), |good| if good { right } else { Maddr(right.0 + 4096) });
        let handle = known.map_or(GrantHandle(77), |(handle, _)| handle);
        let status = unmap(&self.core, &self.d[by], handle, host, address);
        let Some((_, mut m)) = known else {
            prop_assert_eq!(status, GrantStatus::BAD_HANDLE);
            return Ok(());
        };
        let there = slot.is_some_and(|s| self.model.entries[by].get(&s) == Some(&(m.from, m.what, m.write)));
        let wanted = match () {
            () if m.device && device == Some(false) => GrantStatus::BAD_DEV_ADDR,
            () if m.host && slot.is_some() && !there => GrantStatus::GENERAL_ERROR,
            () => GrantStatus::OKAY,
        };
        prop_assert_eq!(status, wanted);
        if wanted != GrantStatus::OKAY {
            return Ok(());
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
        Ok(())
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        for (from, table) in self.model.table.iter().enumerate() {
            for (gref, slot) in (0..).zip(table) {
                let reading = if slot.used.is_some() { Entry::GTF_READING } else { 0 };
                let writing = if slot.writers > 0 { Entry::GTF_WRITING } else { 0 };
                let marks = flags(&self.core, &self.d[from], gref) & IN_USE;
                prop_assert_eq!(marks, reading | writing, "entry {} of {}", gref, from);
            }
        }
        for (by, entries) in self.model.entries.iter().enumerate() {
            for slot in 0..SLOTS {
                let found = self.core.platform.translate(self.d[by].space(), self.d[by].va(HOLE + slot));
                let found = found.map(|(frame, write)| (frame.mfn(), write));
                let wanted = entries.get(&slot).map(|(from, what, write)| (self.mfn(*from, *what), *write));
                prop_assert_eq!(found, wanted, "slot {} of {}", slot, by);
            }
            prop_assert_eq!(self.d[by].domain.grants.in_use().1, self.model.maps[by].len());
        }
        prop_assert_eq!(self.core.audit(&[]), Ok(Vec::new()));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn grants_do_what_the_model_does(ops in prop::collection::vec(op(), 1..80)) {
        let core = testing::core(256, 1);
        let d = core::array::from_fn(|_| guest(&core));
        let model = Model { table: Default::default(), maps: Default::default(), entries: Default::default() };
        let mut world = World { core, d, model };
        for op in &ops {
            world.apply(op)?;
            world.compare()?;
        }
    }
}
