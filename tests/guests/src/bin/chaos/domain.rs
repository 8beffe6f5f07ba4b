//! Domains that run this very image: the parent copies its code and constants into them, and gives each a stack a vCPU and
//! a page for what both say to each other.

use conformance_guests::abi::domctl::{CreateDomain, DomctlOp, GetDomainInfo, MaxMem, VcpuContext};
use conformance_guests::abi::memory::{MemoryOp, MemoryReservation};
use conformance_guests::abi::vcpu::VcpuGuestContext;
use conformance_guests::abi::{DomId, Mfn, Pte, Vaddr, VcpuId};
use conformance_guests::child::{control, create, destroy, domctl, info, map_foreign};
use conformance_guests::domain_rt::probe;
use conformance_guests::ops::{MAP, READ, TABLE, memory, update_va};

/// vCPUs of a domain.
pub const VCPUS: usize = 2;
/// Where its image is, and the pages behind it, by slot of the one table.
pub const BASE: u64 = 0xffff_ffff_8000_0000;
/// Slots: stacks, the page of words, the shared-info page, a page of arguments a vCPU, pages to play with, its own
/// tables (read-only), its grant table. From [`FREE`] on nothing is mapped.
pub const STACK: u64 = 64;
/// See [`STACK`].
pub const WORDS: u64 = 80;
/// See [`STACK`].
pub const SHARED: u64 = 81;
/// See [`STACK`].
pub const ARGS: u64 = 82;
/// See [`STACK`].
pub const PLAY: u64 = 96;
/// See [`STACK`].
pub const FREE: u64 = 160;
/// See [`STACK`].
pub const VIEWS: u64 = 240;
/// See [`STACK`].
pub const GRANTS: u64 = 244;
/// Pages to play with.
pub const PAGES: usize = 32;
/// The second table's addresses: all free.
pub const SECOND: u64 = BASE + (1 << 21);

/// Tables: L4, L3, L2, the L1 of the image, the second L1.
const TABLES: usize = 5;
/// Pages of a stack.
const STACK_PAGES: usize = 4;
/// Frames of a domain at most.
const FRAMES: usize = 96;

/// Words of the page that parent and child share.
pub mod word {
    /// The seed, the domain's own number, its peer's, the innocent one's, how many calls a vCPU makes.
    pub const SEED: u64 = 0;
    /// See [`SEED`].
    pub const OWN: u64 = 1;
    /// See [`SEED`].
    pub const PEER: u64 = 2;
    /// See [`SEED`].
    pub const INNOCENT: u64 = 3;
    /// See [`SEED`].
    pub const BUDGET: u64 = 4;
    /// By vCPU, 8 apart: calls made, calls that succeeded, a hash of all, 1 where it is through.
    pub const COUNTS: u64 = 16;
    /// The innocent domain's: rounds so far, what it found wrong, the port to its parent.
    pub const ROUNDS: u64 = 40;
    /// See [`ROUNDS`].
    pub const WRONG: u64 = 41;
    /// See [`ROUNDS`].
    pub const PORT: u64 = 42;
    /// Frames: of the pages to play with, of the tables, of others.
    pub const PLAY: u64 = 64;
    /// See [`PLAY`].
    pub const TABLES: u64 = 128;
    /// See [`PLAY`].
    pub const OTHERS: u64 = 136;
}

/// Address of a slot.
pub const fn at(slot: u64) -> u64 {
    BASE + (slot << 12)
}

/// Addresses of the parent's where it looks at a child's pages: for one child after the other.
#[derive(Clone, Copy)]
pub struct Views {
    words: u64,
    /// Where it sees the child's first page to play with.
    pub play: u64,
    /// Where it maps a grant of the child's.
    pub grant: u64,
}

impl Views {
    /// Takes the addresses.
    pub fn new() -> Self {
        Self { words: probe::spare_va(), play: probe::spare_va(), grant: probe::spare_va() }
    }
}

/// A child.
pub struct Domain {
    /// Its number.
    pub id: DomId,
    frames: [u64; FRAMES],
    count: usize,
    /// Where the parent sees it.
    pub views: Views,
}

impl Domain {
    /// Builds one that runs `start` on each vCPU, paused; the error of the step that failed.
    pub fn build(views: Views, window: u64, vcpus: usize, start: extern "C" fn(u64) -> !) -> Result<Self, i64> {
        let config = CreateDomain {
            max_vcpus: VCPUS as u32,
            max_evtchn_port: 4095,
            max_grant_frames: 4,
            max_maptrack_frames: 4,
            grant_opts: 1,
            ..CreateDomain::default()
        };
        let id = create(DomId(0), &config)?;
        let image = probe::constants();
        let code = ((image.end - image.start) >> 12) as usize;
        let count = TABLES + code + VCPUS * STACK_PAGES + 1 + VCPUS + PAGES;
        let mut child = Self { id, frames: core::array::from_fn(|pfn| pfn as u64), count, views };
        let built = child.fill(window, code, vcpus, start);
        built.map(|()| child).inspect_err(|_| {
            destroy(id);
        })
    }

    fn fill(&mut self, window: u64, code: usize, vcpus: usize, start: extern "C" fn(u64) -> !) -> Result<(), i64> {
        let done = |ret: i64| if ret == 0 { Ok(()) } else { Err(ret) };
        let id = self.id;
        done(domctl(DomctlOp::MAX_VCPUS, id, &(VCPUS as u32)).0)?;
        done(domctl(DomctlOp::MAX_MEM, id, &MaxMem { max_memkb: 1024 }).0)?;
        let mut reservation = MemoryReservation {
            extent_start: Vaddr(self.frames.as_mut_ptr() as u64),
            nr_extents: self.count as u64,
            domid: id,
            ..MemoryReservation::default()
        };
        let got = memory(MemoryOp::POPULATE_PHYSMAP, &mut reservation);
        done(got - self.count as i64)?;
        self.frames = core::hint::black_box(self.frames);
        // Each page in turn at one address: cleared, or a copy.
        let write = |mfn: u64, words: &dyn Fn(u64) -> u64| {
            done(map_foreign(window, Pte::new(Mfn(mfn), MAP), id))?;
            (0..512).for_each(|index| probe::poke(window + 8 * index, words(index)));
            Ok::<(), i64>(())
        };
        let frame = |index: usize| self.frames.get(index).copied().unwrap_or(0);
        let [m4, m3, m2, m1, second] = [0, 1, 2, 3, 4].map(frame);
        let table = |mfn: u64| Pte::new(Mfn(mfn), TABLE).0;
        write(m4, &|index| if index == 511 { table(m3) } else { 0 })?;
        write(m3, &|index| if index == 510 { table(m2) } else { 0 })?;
        write(m2, &|index| match index {
            0 => table(m1),
            1 => table(second),
            _ => 0,
        })?;
        write(second, &|_| 0)?;
        let from = TABLES + code;
        let stacks = VCPUS * STACK_PAGES;
        let (words, args) = (from + stacks, from + stacks + 1);
        let play = args + VCPUS;
        let shared_info = info(id).1.shared_info_frame.0;
        let slot = |slot: u64| -> u64 {
            let map = |mfn: u64| Pte::new(Mfn(mfn), MAP).0;
            let read = |mfn: u64| Pte::new(Mfn(mfn), READ).0;
            let within = |first: u64, count: usize| (first..first + count as u64).contains(&slot);
            let of = |first: u64, index: usize| map(frame(index + (slot - first) as usize));
            match slot {
                _ if within(0, code) => read(frame(TABLES + slot as usize)),
                _ if within(STACK, stacks) => of(STACK, from),
                WORDS => map(frame(words)),
                SHARED => map(shared_info),
                _ if within(ARGS, VCPUS) => of(ARGS, args),
                _ if within(PLAY, PAGES) => of(PLAY, play),
                VIEWS => read(m1),
                _ if slot == VIEWS + 1 => read(second),
                _ => 0,
            }
        };
        write(m1, &slot)?;
        for index in 0..code {
            let page = BASE + (index << 12) as u64;
            write(frame(TABLES + index), &|word| probe::peek(page + 8 * word))?;
        }
        for index in from..self.count {
            write(frame(index), &|_| 0)?;
        }
        done(update_va(window, Pte::EMPTY, 2))?;
        done(map_foreign(self.views.words, Pte::new(Mfn(frame(words)), MAP), id))?;
        done(map_foreign(self.views.play, Pte::new(Mfn(frame(play)), MAP), id))?;
        self.set(word::OWN, id.0.into());
        (0..PAGES).for_each(|index| self.set(word::PLAY + index as u64, frame(play + index)));
        [m4, m3, m2, m1, second].into_iter().zip(word::TABLES..).for_each(|(mfn, at)| self.set(at, mfn));
        for vcpu in 0..vcpus as u64 {
            let mut context = VcpuGuestContext::default();
            let stack = Vaddr(at(STACK + (vcpu + 1) * STACK_PAGES as u64));
            probe::rough_context(&mut context, start, vcpu, stack, Mfn(m4).maddr());
            let ctxt = Vaddr(&raw const context as u64);
            let at = VcpuContext { vcpu: VcpuId(vcpu as u32), _pad: 0, ctxt };
            done(domctl(DomctlOp::SETVCPUCONTEXT, id, &at).0)?;
        }
        Ok(())
    }

    /// Reads a word of the page that is shared with it.
    pub fn get(&self, word: u64) -> u64 {
        probe::peek(self.views.words + 8 * word)
    }

    /// Writes one.
    pub fn set(&self, word: u64, value: u64) {
        probe::poke(self.views.words + 8 * word, value);
    }

    /// Calls that its vCPUs have made.
    pub fn calls(&self) -> u64 {
        (0..VCPUS as u64).map(|vcpu| self.get(word::COUNTS + 8 * vcpu)).sum()
    }

    /// The frame of one of its pages to play with.
    pub fn play(&self, index: u64) -> Mfn {
        Mfn(self.get(word::PLAY + index))
    }

    /// A frame of its own, any.
    pub fn frame(&self, index: usize) -> Mfn {
        Mfn(self.frames.get(index % self.count).copied().unwrap_or(0))
    }

    /// Lets it run.
    pub fn start(&self) -> i64 {
        control(DomctlOp::UNPAUSEDOMAIN, self.id)
    }

    /// Whether it still lives: it has neither ended itself nor been ended.
    pub fn lives(&self) -> bool {
        let (ret, info) = info(self.id);
        let over = GetDomainInfo::DOMINF_DYING | GetDomainInfo::DOMINF_SHUTDOWN;
        ret == 0 && info.domain == self.id && info.flags & over == 0
    }

    /// Ends it; and 0, or the error.
    pub fn end(self) -> i64 {
        let unmapped = update_va(self.views.words, Pte::EMPTY, 2) | update_va(self.views.play, Pte::EMPTY, 2);
        destroy(self.id) | unmapped
    }
}
