//! Random, hostile operations of several domains. After each one everything is recomputed from the tables' contents.

use super::*;
use crate::{Owner, Stage};
use abi::memory::{MemoryExchange, MemoryOp, MemoryReservation};
use abi::{Mfn, Vaddr};
use proptest::prelude::*;

const FRAMES: u64 = 160;
const GUESTS: usize = 3;
const PAGES: usize = 14;
/// What entries of the model's tables are at: small, so that they collide, and around the core's slots.
const INDICES: [usize; 8] = [1, 2, 3, 64, 255, 256, 271, 511];

/// Guest 0 is a builder.
struct World {
    core: Box<TestCore>,
    guests: Vec<Guest>,
    /// All that ever were: they may put frames of their own into the tables of others.
    builders: Vec<DomId>,
}

/// One step: what, by which guest, on what.
type Step = (u8, u8, u16, u16, u8, u8);

impl World {
    fn new() -> Self {
        let core = testing::core(FRAMES as usize, 2);
        let mut world = Self { core, guests: Vec::new(), builders: Vec::new() };
        for number in 0..GUESTS {
            let guest = world.build(number);
            world.guests.push(guest);
        }
        world.builders.push(world.guests[0].domain.id);
        world
    }

    fn build(&self, number: usize) -> Guest {
        self.enter(number);
        let privilege = if number == 0 { Privilege::BUILDER } else { Privilege::empty() };
        let guest = testing::guest(&self.core, privilege, PAGES);
        guest.domain.dirty_cpus.store(1 << (number % 2), SeqCst);
        // The root that hypercall arguments are read through stays, whatever the guest does.
        self.core.mm(&guest.domain).pin(guest.tables[3].mfn(), 4).unwrap();
        guest
    }

    fn enter(&self, number: usize) {
        self.core.platform.cpu.store((number % 2) as u32, SeqCst);
    }

    /// A frame: mostly one of the guest's own.
    fn frame(&self, guest: &Guest, pick: u16) -> Mfn {
        if pick.is_multiple_of(4) {
            return Mfn(u64::from(pick / 4) % (FRAMES + 8));
        }
        let account = guest.domain.memory.lock();
        let own: Vec<Frame> = account.iter(&self.core.frames).collect();
        own.get(usize::from(pick / 4) % own.len().max(1)).map_or(Mfn(0), |frame| frame.mfn())
    }

    fn pte(&self, guest: &Guest, pick: u16, kind: u8) -> Pte {
        let flags = match kind % 12 {
            0 => return Pte::EMPTY,
            1 => READ_ONLY | PteFlags::PSE,
            2 => WRITABLE | PteFlags::PCD,
            3 => PteFlags(3),
            4 => READ_ONLY | PteFlags::GLOBAL,
            5 => WRITABLE | PteFlags::NX,
            6..9 => READ_ONLY,
            _ => WRITABLE,
        };
        Pte::new(self.frame(guest, pick), flags)
    }

    /// Would this entry take the guest's arguments away?
    fn is_vital(guest: &Guest, mfn: Mfn, index: usize) -> bool {
        let level = guest.tables.iter().position(|table| table.mfn() == mfn);
        level.is_some_and(|level| index == guest.va(0).table_index(level as u32 + 1))
    }

    fn step(&mut self, (what, who, a, b, c, d): Step) {
        let number = usize::from(who) % GUESTS;
        self.enter(number);
        let guest = &self.guests[number];
        let core = &*self.core;
        let index = INDICES[usize::from(c) % INDICES.len()];
        let mfn = self.frame(guest, a);
        match what % 16 {
            0 | 1 => self.update(guest, mfn, index, b, d, SELF),
            2 => {
                // As the owner of others' frames, or of others' tables.
                let other = &self.guests[usize::from(b) % GUESTS];
                let id = u64::from(other.domain.id.0);
                if d & 1 == 0 {
                    let target = self.frame(other, b);
                    let mut entry = Pte::new(target, if d & 2 == 0 { READ_ONLY } else { WRITABLE });
                    if d & 28 == 0 {
                        entry = Pte::EMPTY;
                    }
                    if !Self::is_vital(guest, mfn, index) {
                        let request = MmuUpdate { ptr: mfn.maddr().0 + index as u64 * 8, val: entry.0 };
                        update_of(core, guest, &[request], id);
                    }
                } else {
                    let table = self.frame(other, a);
                    if !Self::is_vital(other, table, index) {
                        self.update(guest, table, index, b, c, SELF | (id + 1) << 16);
                    }
                }
            }
            3 if d & 1 == 0 => drop(extended(core, guest, MmuextCmd(u32::from(c) % 4), mfn.0, 0)),
            3 => self.give_up(guest, MmuextCmd(u32::from(c) % 5), mfn),
            4 => {
                if mfn != guest.tables[3].mfn() {
                    extended(core, guest, MmuextCmd::UNPIN_TABLE, mfn.0, 0);
                }
            }
            5 | 6 => self.write(guest, mfn, index, b, d),
            7 => {
                let root = guest.space().root;
                let cmd = if c & 1 == 0 { MmuextCmd::NEW_BASEPTR } else { MmuextCmd::NEW_USER_BASEPTR };
                let mfn = if c & 14 == 0 { guest.tables[3].mfn() } else { mfn };
                extended(core, guest, cmd, mfn.0, 0);
                guest.vcpu.run.lock().hardware_root = Some(root);
            }
            8 => self.reservation(guest, mfn, c),
            9 => self.exchange(guest, mfn),
            10 => drop(extended(core, guest, MmuextCmd::CLEAR_PAGE, mfn.0, 0)),
            11 => {
                let from = self.frame(guest, b);
                // What is copied may well look like a table.
                extended(core, guest, MmuextCmd::COPY_PAGE, mfn.0, from.0);
            }
            12 | 13 => self.touch(guest, a, b),
            14 => core.platform.interrupt_every(u64::from(c) % 4),
            _ if c % 8 == 0 => self.replace(number),
            _ => self.descriptors(guest, mfn),
        }
    }

    /// Begins to pin or unpin, and does not go on when interrupted.
    fn give_up(&self, guest: &Guest, cmd: MmuextCmd, mfn: Mfn) {
        if mfn == guest.tables[3].mfn() {
            return;
        }
        guest.poke(&self.core, 0, 0, MmuextOp::new(cmd, mfn.0, 0).as_bytes());
        let mut args = crate::Args([guest.va(0).0, 1, 0, SELF, 0]);
        let _ = guest.run(&self.core, |c| crate::dispatch::call(c, Hypercall::MMUEXT_OP.0, &mut args));
    }

    fn update(&self, guest: &Guest, table: Mfn, index: usize, pick: u16, kind: u8, who: u64) {
        if Self::is_vital(guest, table, index) {
            return;
        }
        let keep = if kind & 64 == 0 { 0 } else { 2 };
        let request =
            MmuUpdate { ptr: (table.maddr().0 + index as u64 * 8) | keep, val: self.pte(guest, pick, kind).0 };
        update_of(&self.core, guest, &[request, request], who);
    }

    /// A store by the guest itself, where it has a writable mapping.
    fn write(&self, guest: &Guest, mfn: Mfn, index: usize, pick: u16, kind: u8) {
        let Some(frame) = self.core.frames.get(mfn).filter(|f| *f != guest.frames[0]) else { return };
        let info = self.core.frames.info(frame);
        let state = info.state();
        if info.is_owned_by(guest.domain.id) && state.type_refs() > 0 && state.kind() == PageType::Writable {
            self.core.platform.word(frame, index).store(self.pte(guest, pick, kind).0, SeqCst);
        }
    }

    fn reservation(&self, guest: &Guest, mfn: Mfn, more: u8) {
        let op = if more.is_multiple_of(3) { MemoryOp::INCREASE_RESERVATION } else { MemoryOp::DECREASE_RESERVATION };
        if guest.tables.iter().chain(&guest.frames[..1]).any(|frame| frame.mfn() == mfn) {
            return;
        }
        let list = Vaddr(guest.va(0).0 + 1024);
        guest.poke(&self.core, 0, 1024, mfn.as_bytes());
        let r = MemoryReservation { extent_start: list, nr_extents: 1, domid: DomId::SELF, ..Default::default() };
        guest.poke(&self.core, 0, 0, r.as_bytes());
        guest.hypercall(&self.core, Hypercall::MEMORY_OP.0, [u64::from(op.0), guest.va(0).0, 0, 0, 0]);
    }

    fn exchange(&self, guest: &Guest, mfn: Mfn) {
        let list = |offset| Vaddr(guest.va(0).0 + offset);
        guest.poke(&self.core, 0, 1024, mfn.as_bytes());
        let r = MemoryReservation { nr_extents: 1, domid: DomId::SELF, ..Default::default() };
        let x = MemoryExchange {
            input: MemoryReservation { extent_start: list(1024), ..r },
            output: MemoryReservation { extent_start: list(2048), ..r },
            nr_exchanged: 0,
        };
        guest.poke(&self.core, 0, 0, x.as_bytes());
        let op = u64::from(MemoryOp::EXCHANGE.0);
        guest.hypercall(&self.core, Hypercall::MEMORY_OP.0, [op, guest.va(0).0, 0, 0, 0]);
    }

    /// The guest uses an address, by its own root.
    fn touch(&self, guest: &Guest, a: u16, b: u16) {
        let pick = |n: u16| INDICES[usize::from(n) % INDICES.len()] as u64;
        let va = pick(a) << 39 | pick(a >> 3) << 30 | pick(a >> 6) << 21 | pick(b) << 12;
        let va = if b & 1 == 0 { va } else { guest.va(usize::from(b >> 1) % PAGES).0 };
        let run = guest.vcpu.run.lock();
        let (Some(kernel), user) = (run.kernel_root, run.user_root) else { return };
        for root in [Some(kernel), user].into_iter().flatten() {
            let space = crate::platform::AddressSpace { root };
            self.core.platform.touch(self.core.platform.this_cpu(), space, Vaddr((va as i64) as u64));
        }
    }

    /// One frame as a descriptor table, or none.
    fn descriptors(&self, guest: &Guest, mfn: Mfn) {
        let frame = self.core.get_page_and_type(mfn, &guest.domain, PageType::SegmentDescriptor).ok();
        let old = core::mem::replace(&mut guest.vcpu.run.lock().gdt[0], frame);
        old.into_iter().for_each(|frame| self.core.put_page_and_type(frame));
    }

    /// A guest dies, and another takes its place.
    fn replace(&mut self, number: usize) {
        let guest = &self.guests[number];
        let (core, domain) = (&*self.core, guest.domain.clone());
        domain.life.store(Stage::Dying as u32, SeqCst);
        {
            let mut run = guest.vcpu.run.lock();
            run.gdt[0].take().into_iter().for_each(|frame| core.put_page_and_type(frame));
            run.hardware_root = None;
            let (kernel, user) = (run.kernel_root.take(), run.user_root.take());
            drop(run);
            for mut root in [kernel, user] {
                while core.drop_root(&domain, &mut root).is_err() {}
            }
        }
        while core.relinquish_memory(&domain).is_err() {
            assert_eq!(core.audit(&[]), Ok(Vec::new()));
        }
        core.free_core_page(domain.shared_info);
        domain.life.store(Stage::Zombie as u32, SeqCst);
        let others: Vec<_> = self.guests.iter().map(|guest| guest.domain.id).collect();
        // A zombie with frames that the builder still maps stays in the table.
        let mut table = core.domains.table.write();
        table.retain(|d| others.contains(&d.id) && d.id != domain.id || core.frames_left(d) > 0);
        drop(table);
        core.platform.interrupt_every(0);
        if core.free.frames() < PAGES as u64 + 6 {
            // The builder holds on to too much: it is replaced as well.
            assert_ne!(number, 0);
            self.replace(0);
            return self.replace_dead(number);
        }
        self.replace_dead(number);
    }

    fn replace_dead(&mut self, number: usize) {
        self.guests[number] = self.build(number);
        if number == 0 {
            self.builders.push(self.guests[0].domain.id);
        }
    }

    /// Nothing is wrong, and nobody unprivileged maps what is not its own.
    fn check(&self) -> Result<(), TestCaseError> {
        let core = &*self.core;
        prop_assert_eq!(core.audit(&[]), Ok(Vec::new()));
        prop_assert_eq!(stale_translations(core), Vec::new());
        for table in core.frames.iter() {
            let info = core.frames.info(table);
            let (Owner::Domain(owner), true) = (info.owner(), info.state().is_table(1)) else { continue };
            if self.builders.contains(&owner) {
                continue;
            }
            for index in 0..512 {
                let pte = entry(core, table, index);
                if pte.present() {
                    let target = core.frames.get(pte.mfn()).map(|frame| core.frames.info(frame).owner());
                    let builders = self.builders.iter().map(|id| Some(Owner::Domain(*id)));
                    prop_assert!(target == Some(Owner::Domain(owner)) || builders.into_iter().any(|b| b == target));
                }
            }
        }
        Ok(())
    }
}

fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<Step>(), 1..count)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("FERRULE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(64),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn lesson_12_random_operations_keep_the_counts(steps in steps(200)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check()?;
        }
    }
}

#[test]
fn the_model_reaches_what_it_is_about() {
    // A run is worth little if nothing is ever pinned, mapped across domains, interrupted or exchanged.
    let mut world = World::new();
    let mut seen = [0u32; 6];
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for step in 0..20_000 {
        let r = next();
        if step % 64 == 0 {
            world.check().unwrap_or_else(|e| panic!("before step {step}: {e}"));
        }
        world.step((r as u8, (r >> 8) as u8, (r >> 16) as u16, (r >> 32) as u16, (r >> 48) as u8, (r >> 56) as u8));
        for frame in world.core.frames.iter() {
            let state = world.core.frames.info(frame).state();
            let level = usize::from(state.kind().level());
            if level > 0 && state.has(crate::frame::State::PINNED) {
                seen[level - 1] += 1;
            }
            seen[4] += u32::from(state.has(crate::frame::State::PARTIAL));
            seen[5] += u32::from(state.type_refs() > 0 && state.kind() == PageType::SegmentDescriptor);
        }
    }
    world.check().unwrap();
    assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
}
