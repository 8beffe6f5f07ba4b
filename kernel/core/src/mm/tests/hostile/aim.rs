//! Which operation comes next: most aim at something that is there, some do not.

use super::*;

impl<const E: usize> World<E> {
    /// A frame: mostly one of `owner`'s that `wanted` likes, or just of its own; sometimes anybody's, or none.
    fn frame(&self, c: &mut Choices<'_>, owner: usize, wanted: impl Fn(usize, &Page<E>) -> bool) -> Mfn {
        let pages = || self.model.pages.iter().enumerate();
        let id = self.id(owner);
        let from: Vec<usize> = match c.weighted(&[12, 4, 1, 1]) {
            0 => pages().filter(|(at, page)| page.owner == Some(id) && wanted(*at, page)).map(|(at, _)| at).collect(),
            1 => pages().filter(|(_, page)| page.owner == Some(id)).map(|(at, _)| at).collect(),
            2 => pages().filter(|(_, page)| page.owner.is_some()).map(|(at, _)| at).collect(),
            _ => return Mfn([0, 3, FRAMES as u64 - 1, FRAMES as u64, u64::MAX >> 12, u64::MAX][c.below(6)]),
        };
        Mfn(from.get(c.below(from.len())).map_or(0, |at| *at as u64))
    }

    fn any_frame(&self, c: &mut Choices<'_>, owner: usize) -> Mfn {
        self.frame(c, owner, |_, _| true)
    }

    /// An entry of a table of a level (0: of one that is no table), that names a frame of `owner`'s.
    fn entry(&self, c: &mut Choices<'_>, owner: usize, level: u8, uses: &[Use]) -> Pte {
        let flags = match c.weighted(&[10, 8, 6, 1, 1, 1, 1, 1, 1, 1]) {
            0 => WRITABLE,
            1 => READ_ONLY,
            2 => return Pte::EMPTY,
            3 => READ_ONLY | PteFlags::PSE,
            4 => WRITABLE | PteFlags::PCD,
            5 => PteFlags(3),
            6 => READ_ONLY | PteFlags::GLOBAL,
            7 => WRITABLE | PteFlags::NX | PteFlags(0x60),
            8 => PteFlags(READ_ONLY.0 | 1 << 62),
            _ => PteFlags(c.word()),
        };
        let wanted = |at: usize, _: &Page<E>| match level {
            0 => true,
            1 if flags.contains(PteFlags::RW) => uses[at].typed == 0 || uses[at].kind == PageType::Writable,
            1 => true,
            _ => uses[at].typed == 0 || uses[at].kind == PageType::table(level - 1),
        };
        Pte::new(self.frame(c, owner, wanted), flags)
    }

    fn named(&self, c: &mut Choices<'_>, who: usize) -> Whose {
        match c.weighted(&[14, 4, 1, 1]) {
            0 => Whose::Domain(self.id(who)),
            1 => Whose::Domain(self.id(c.below(GUESTS))),
            2 => Whose::Domain(self.model.dead.last().copied().unwrap_or(DomId(999))),
            _ => Whose::Io,
        }
    }

    fn number(&self, whose: Whose, who: usize) -> usize {
        self.players.iter().position(|player| whose == Whose::Domain(player.domain.id)).unwrap_or(who)
    }

    /// Entries on the way to an address: those that the tree of the beginning has, or others.
    fn at(c: &mut Choices<'_>) -> [usize; 4] {
        let top = if c.one_in(8) { c.below(E.min(4) - 1) } else { 0 };
        let mut middle = || if c.one_in(8) { c.below(E.min(4)) } else { 0 };
        [top, middle(), middle(), c.below(E.min(4))]
    }

    fn other(c: &mut Choices<'_>, who: usize) -> usize {
        if c.one_in(if who == 0 { 3 } else { 12 }) { c.below(GUESTS) } else { who }
    }

    fn requests(&self, c: &mut Choices<'_>, tables: usize, frames: Whose, who: usize, uses: &[Use]) -> Vec<MmuUpdate> {
        let count = if c.one_in(4) { 2 + c.below(2) } else { 1 };
        let request = |c: &mut Choices<'_>| {
            let level = 1 + c.weighted(&[4, 2, 2, 2]) as u8;
            let table = match c.one_in(3) {
                true => self.any_frame(c, tables),
                false => self.frame(c, tables, |at, _| uses[at].typed > 0 && uses[at].kind == PageType::table(level)),
            };
            let level = self.model.ram(table).filter(|&at| uses[at].typed > 0).map_or(0, |at| uses[at].kind.level());
            let names = if level <= 1 { self.number(frames, who) } else { tables };
            let val = self.entry(c, names, level, uses).0;
            let kind = [0, 0, 0, 0, 0, 2, 2, 3, 1, 5][c.below(10)];
            MmuUpdate { ptr: table.0 << 12 | (c.below(E.min(4)) as u64) << 3 | kind, val }
        };
        (0..count).map(|_| request(c)).collect()
    }

    /// The next operation, of this domain.
    pub(super) fn next(&self, c: &mut Choices<'_>, who: usize) -> Op {
        let uses = &self.uses;
        let typed = |at: usize, kind| uses[at].typed > 0 && uses[at].kind == kind;
        match c.weighted(&[24, 12, 6, 14, 8, 6, 3, 3, 4, 10, 3, 3, 3, 5, 2, 3]) {
            0 => {
                let tables = Self::other(c, who);
                let frames = if tables == who { self.named(c, who) } else { Whose::Domain(self.id(tables)) };
                Op::Update { tables, frames, requests: self.requests(c, tables, frames, who, uses) }
            }
            1 => {
                let frames = self.named(c, who);
                let entry = self.entry(c, self.number(frames, who), 1, uses);
                let flush = [uvmf::NONE, uvmf::TLB_FLUSH | uvmf::ALL, uvmf::INVLPG | uvmf::ALL][c.below(3)];
                Op::Address { at: Self::at(c), entry, frames, flush }
            }
            2 => Op::Trapped {
                at: if c.one_in(2) { [0, 0, 0, 2] } else { Self::at(c) },
                word: c.below(E.min(4)),
                value: self.entry(c, who, 1, uses).0,
            },
            3 => {
                let (owner, level) = (Self::other(c, who), 1 + c.below(4) as u8);
                let wanted = |at: usize, page: &Page<E>| {
                    page.pinned.is_none() && (uses[at].typed == 0 || typed(at, PageType::table(level)))
                };
                Op::Pin { owner, level, mfn: self.frame(c, owner, wanted) }
            }
            4 => {
                let owner = Self::other(c, who);
                Op::Unpin { owner, mfn: self.frame(c, owner, |_, page| page.pinned.is_some()) }
            }
            5 => {
                let mfn = self.frame(c, who, |at, _| uses[at].typed == 0 || typed(at, PageType::L4));
                Op::Root { user: c.one_in(2), mfn: if c.one_in(6) { Mfn(0) } else { mfn } }
            }
            6 => Op::Clear { mfn: self.frame(c, who, |at, _| uses[at].typed == 0) },
            // What is copied may well look like a table.
            7 => Op::Copy { to: self.frame(c, who, |at, _| uses[at].typed == 0), from: self.any_frame(c, who) },
            8 => {
                let frames = (0..c.below(3)).map(|_| self.frame(c, who, |at, _| uses[at].typed == 0)).collect();
                Op::Descriptors { frames }
            }
            9 => {
                let writable = |(at, page): &(usize, &Page<E>)| !page.core && typed(*at, PageType::Writable);
                let all: Vec<usize> = self.model.pages.iter().enumerate().filter(writable).map(|(at, _)| at).collect();
                let Some(&at) = all.get(c.below(all.len())) else { return Op::FlushTlb };
                let level = 1 + c.below(4) as u8;
                // Segment descriptors, or an entry.
                let value = match c.one_in(8) {
                    true => [0x00af_9a00_0000_ffff, 0x0000_8900_0000_0000, 0x0000_8c00_0010_0000][c.below(3)],
                    false => self.entry(c, who, level, uses).0,
                };
                Op::Store { at, index: c.below(E.min(4)), value }
            }
            10 => Op::More,
            11 => Op::Less { mfn: self.frame(c, who, |at, _| uses[at].refs == 1) },
            12 => Op::Exchange { mfn: self.frame(c, who, |at, _| uses[at].refs == 1) },
            13 => Op::Touch { at: Self::at(c) },
            14 => Op::FlushTlb,
            _ if c.one_in(8) => Op::Replace,
            _ => Op::Interrupt { every: [0, 0, 1, 2, 3][c.below(5)] },
        }
    }
}
