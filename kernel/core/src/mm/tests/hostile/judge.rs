//! What the model says that an operation answers and stores; and whether the core is as the model says.

use super::*;
use crate::guest::WORDS;

/// What must come of an operation.
pub(super) struct Expected {
    result: Result<i64, Errno>,
    /// Requests of a batch that are done.
    done: u32,
    /// Frame, word, value.
    writes: Vec<(usize, usize, u64)>,
}

impl Expected {
    fn of(result: Result<i64, Errno>) -> Self {
        Self { result, done: 0, writes: Vec::new() }
    }
}

impl<const E: usize> World<E> {
    /// Reads what the model does not know better: what frames hold, and what is half done.
    pub(super) fn refresh(&mut self) {
        self.model.partial.clear();
        for (at, page) in self.model.pages.iter_mut().enumerate() {
            let Some(frame) = self.core.frames.get(Mfn(at as u64)).filter(|_| page.owner.is_some()) else { continue };
            for (index, word) in page.words.iter_mut().enumerate() {
                *word = self.core.platform.word(frame, index).load(SeqCst);
            }
            let info = self.core.frames.info(frame);
            if info.state().has(State::PARTIAL) {
                self.model.partial.push((at, info.state().kind().level(), info.progress()));
            }
        }
    }

    /// Takes over what the core says, after something that was given up half way or came to its end piece by piece.
    fn adopt(&mut self, who: usize) {
        for (at, page) in self.model.pages.iter_mut().enumerate().filter(|(_, page)| page.owner.is_some()) {
            let state = self.core.frames.info(self.core.frames.get(Mfn(at as u64)).expect("RAM")).state();
            page.allocated = state.has(State::ALLOCATED);
            page.pinned = state.has(State::PINNED).then(|| state.kind().level());
        }
        let run = self.players[who].vcpu.run.lock();
        assert!(run.kernel_root.is_some(), "a vCPU lost its root");
    }

    /// Roots and descriptor tables are what the vCPUs have.
    pub(super) fn holders(&mut self) {
        self.model.roots.clear();
        self.model.descriptors.clear();
        for player in &self.players {
            let run = player.vcpu.run.lock();
            self.model.roots.extend(run.kernel_root.iter().chain(&run.user_root).map(|frame| frame.index()));
            self.model.descriptors.extend(run.gdt.iter().flatten().map(|frame| frame.index()));
        }
    }

    /// Is any domain still to let go of tables?
    pub(super) fn is_unfinished(&self) -> bool {
        self.players.iter().any(|player| player.domain.mm.lock().unfinished)
    }

    /// What must come of it.
    pub(super) fn expect(&mut self, who: usize, op: &Op) -> Expected {
        let (model, id) = (&self.model, self.id(who));
        let own = Whose::Domain(id);
        let mut trial = Trial::new(model, self.uses.clone());
        let plain = |result: Result<(), Errno>| Expected::of(result.map(|()| 0));
        let stranger = |owner: usize| if owner != who && who != 0 { Err(Errno::EPERM) } else { Ok(()) };
        match op {
            Op::Update { tables, frames, requests } => self.expect_batch(who, *tables, *frames, requests),
            Op::Address { at, entry, frames, .. } => {
                let allowed = self.may_name(who, *frames);
                let place = trial.walk(self.root(who), *at).ok_or(Errno::EINVAL);
                let place = allowed.and(place);
                let result = place.and_then(|(table, index)| trial.change(table, index, *entry, *frames));
                let writes = if let (Ok((table, index)), Ok(())) = (place, result) {
                    std::vec![(table, index, entry.0)]
                } else {
                    Vec::new()
                };
                Expected { writes, ..plain(result) }
            }
            Op::Trapped { at, word, value } => {
                let behind = trial.walk(self.root(who), *at).and_then(|(table, index)| {
                    let mapping = Pte(model.pages[table].words[index]);
                    let at = model.ram(mapping.mfn()).filter(|_| mapping.present() && !mapping.has(PteFlags::RW))?;
                    (trial.level(at) == 1 && model.pages[at].owner == Some(id)).then_some(at)
                });
                let place = behind.ok_or(Errno::EINVAL);
                let result = place.and_then(|at| trial.change(at, *word, Pte(*value), own));
                let writes =
                    if let (Ok(at), Ok(())) = (place, result) { std::vec![(at, *word, *value)] } else { Vec::new() };
                Expected { writes, ..plain(result) }
            }
            Op::Pin { owner, level, mfn } => plain(stranger(*owner).and_then(|()| {
                let at = trial.table(*mfn, *level, self.id(*owner))?;
                if model.pages[at].pinned.is_some() { Err(Errno::EINVAL) } else { Ok(()) }
            })),
            Op::Unpin { owner, mfn } => plain(stranger(*owner).and_then(|()| {
                let at = trial.own(*mfn, self.id(*owner)).ok_or(Errno::EINVAL)?;
                model.pages[at].pinned.map(|_| ()).ok_or(Errno::EINVAL)
            })),
            Op::Root { user, mfn } => {
                let run = self.players[who].vcpu.run.lock();
                let current = if *user {
                    run.user_root.map_or(Mfn(0), Frame::mfn)
                } else {
                    run.kernel_root.expect("a root").mfn()
                };
                let stays = current == *mfn || (*user && mfn.0 == 0);
                plain(if stays { Ok(()) } else { trial.table(*mfn, 4, id).map(|_| ()) })
            }
            Op::Clear { mfn } => {
                let at = trial.own(*mfn, id).ok_or(Errno::EINVAL).and_then(|at| trial.written(at).map(|()| at));
                let writes = at.map_or(Vec::new(), |at| (0..E).map(|index| (at, index, 0)).collect());
                Expected { writes, ..plain(at.map(|_| ())) }
            }
            Op::Copy { to, from } => {
                let from = trial.own(*from, id).ok_or(Errno::EINVAL);
                let to = trial.own(*to, id).ok_or(Errno::EINVAL).and_then(|at| trial.written(at).map(|()| at));
                let both = from.and_then(|from| Ok((from, to?)));
                let copied = |(from, to): (usize, usize)| (0..E).map(move |i| (to, i, model.pages[from].words[i]));
                Expected { writes: both.map_or(Vec::new(), |both| copied(both).collect()), ..plain(both.map(|_| ())) }
            }
            Op::Descriptors { frames } => {
                plain(frames.iter().try_for_each(|mfn| trial.described(*mfn, id).map(|_| ())))
            }
            Op::Store { at, index, value } => Expected { writes: std::vec![(*at, *index, *value)], ..plain(Ok(())) },
            Op::More => {
                let has = model.pages.iter().filter(|page| page.owner == Some(id) && !page.core).count() as u64;
                let room = has < MOST && self.core.free_frames() > 0;
                Expected::of(if room { Ok(1) } else { Err(Errno::EINVAL) })
            }
            Op::Less { mfn } => Expected::of(trial.own(*mfn, id).map(|_| 1).ok_or(Errno::EINVAL)),
            Op::Exchange { mfn } => {
                let at = trial.own(*mfn, id).filter(|&at| trial.uses[at].refs == 1 && model.pages[at].allocated);
                plain(match at.filter(|&at| !model.pages[at].core) {
                    Some(_) if self.core.free_frames() == 0 => Err(Errno::ENOMEM),
                    Some(_) => Ok(()),
                    None => Err(Errno::EINVAL),
                })
            }
            Op::Touch { .. } | Op::FlushTlb | Op::Interrupt { .. } | Op::Replace => plain(Ok(())),
        }
    }

    fn root(&self, who: usize) -> usize {
        self.players[who].vcpu.run.lock().kernel_root.expect("a root").index()
    }

    /// May entries of the caller's name these frames at all?
    fn may_name(&self, who: usize, whose: Whose) -> Result<(), Errno> {
        match whose {
            Whose::Domain(id) if id == self.id(who) => Ok(()),
            Whose::Domain(id) if self.core.domains.get(id).is_none() => Err(Errno::ESRCH),
            Whose::Domain(_) if who != 0 => Err(Errno::EPERM),
            _ => Ok(()),
        }
    }

    fn expect_batch(&self, who: usize, tables: usize, frames: Whose, requests: &[MmuUpdate]) -> Expected {
        let allowed = match (self.may_name(who, frames), tables == who) {
            (Ok(()), false) if who != 0 => Err(Errno::EPERM),
            (allowed, _) => allowed,
        };
        let mut model = self.model.clone();
        let mut expected = Expected::of(allowed.map(|()| 0));
        for request in requests.iter().filter(|_| allowed.is_ok()) {
            let (mfn, index, owner) = (Mfn(request.ptr >> 12), (request.ptr >> 3 & 511) as usize, self.id(tables));
            let mut trial = Trial::new(&model, model.uses());
            let own = model.ram(mfn).filter(|&at| model.pages[at].owner == Some(owner));
            let level = own.map_or(0, |at| trial.level(at));
            let mut value = request.val;
            let result = match request.ptr & 7 {
                0 | 3 => trial.update(mfn, index, Pte(value), owner, frames),
                2 => trial.update(mfn, index, Pte(value), owner, frames),
                1 => match frames {
                    _ if tables != who => Err(Errno::EPERM),
                    Whose::Io => Err(Errno::EINVAL),
                    Whose::Domain(whose) => trial.own(mfn, whose).map(|_| ()).ok_or(Errno::EINVAL),
                },
                _ => Err(Errno::ENOSYS),
            };
            if let Err(errno) = result {
                expected.result = Err(errno);
                break;
            }
            expected.done += 1;
            // What was half done is done now.
            let partial = trial.partial;
            model.partial = partial;
            if let Some(at) = own.filter(|_| request.ptr & 7 != 1) {
                if request.ptr & 7 == 2 && level > 0 {
                    value |= model.pages[at].words[index] & 0x60;
                }
                model.pages[at].words[index] = value;
                expected.writes.push((at, index, value));
            }
        }
        expected
    }

    /// Holds what came of an operation against what had to, if that was certain, and takes it into the model.
    pub(super) fn settle(&mut self, who: usize, op: &Op, expected: Option<Expected>, outcome: &Outcome) {
        if let Some(expected) = &expected {
            assert_eq!(*outcome, expected.result.map_err(Stop::from), "{op:?} of {who}");
            if let Op::Update { .. } = op {
                assert_eq!(self.told(DONE) as u32, expected.done, "requests done of {op:?}");
            }
        }
        let id = self.id(who);
        if let (Ok(_), Some(_)) = (outcome, &expected) {
            match op {
                Op::Pin { mfn, level, .. } => self.model.pages[mfn.0 as usize].pinned = Some(*level),
                Op::Unpin { mfn, .. } => self.model.pages[mfn.0 as usize].pinned = None,
                Op::Less { mfn } if !self.model.pages[mfn.0 as usize].core => {
                    self.model.pages[mfn.0 as usize].allocated = false;
                }
                _ => {}
            }
        }
        match (op, outcome) {
            (Op::More, Ok(_)) => self.arrived(self.told(LIST), id),
            (Op::Exchange { mfn }, Ok(_)) => {
                let new = self.told(OUTPUT);
                // The old one may have been taken for the new one at once.
                self.model.pages[mfn.0 as usize] = Page::FREE;
                self.arrived(new, id);
            }
            _ => {}
        }
        let before: Vec<[u64; E]> = self.model.pages.iter().map(|page| page.words).collect();
        self.refresh();
        self.holders();
        match expected {
            Some(expected) if !matches!(op, Op::Replace) => self.compare_words(op, before, &expected.writes),
            _ => self.adopt(who),
        }
        self.uses = self.model.uses();
        for (page, uses) in self.model.pages.iter_mut().zip(&self.uses).filter(|(_, uses)| uses.refs == 0) {
            if page.owner.is_some() {
                *page = Page::FREE;
            }
            assert_eq!(uses.typed, 0);
        }
        self.compare();
    }

    /// A domain has got a frame: it was free, and it is empty.
    fn arrived(&mut self, at: usize, id: DomId) {
        assert_eq!(self.model.pages[at].owner, None, "frame {at:#x} was somebody's");
        let frame = self.core.frames.get(Mfn(at as u64)).expect("RAM");
        assert!((0..WORDS).all(|i| self.core.platform.word(frame, i).load(SeqCst) == 0), "{at:#x} is not cleared");
        self.model.pages[at] = Page { owner: Some(id), allocated: true, ..Page::FREE };
    }

    /// Nothing was stored but what had to be.
    fn compare_words(&self, op: &Op, mut wanted: Vec<[u64; E]>, writes: &[(usize, usize, u64)]) {
        writes.iter().for_each(|&(at, index, value)| wanted[at][index] = value);
        for (at, (page, wanted)) in self.model.pages.iter().zip(&wanted).enumerate() {
            let described = matches!(op, Op::Descriptors { frames } if frames.contains(&Mfn(at as u64)));
            if page.owner.is_none() || page.core || described || self.model.descriptors.contains(&at) {
                continue;
            }
            for index in 0..E {
                let (new, wanted) = (page.words[index], wanted[index]);
                let cores = TestMachine::<E>::CORE_SLOTS.contains(&index);
                assert!(
                    cores || Model::<E>::is_adjusted(wanted, new),
                    "{at:#x}[{index}] is {new:#x}, not {wanted:#x}: {op:?}"
                );
            }
        }
    }

    /// Each frame says of itself what the model says of it.
    fn compare(&self) {
        for (at, (page, uses)) in self.model.pages.iter().zip(&self.uses).enumerate().skip(FIRST_RAM as usize) {
            let info = self.core.frames.info(self.core.frames.get(Mfn(at as u64)).expect("RAM"));
            let state = info.state();
            let Some(owner) = page.owner else {
                assert!(matches!(info.owner(), Owner::Free(_)) && state == State(0), "{at:#x} is {:?}", info.owner());
                continue;
            };
            assert_eq!(info.owner(), Owner::Domain(owner), "frame {at:#x}");
            assert_eq!((state.refs(), state.type_refs()), (uses.refs, uses.typed), "counts of {at:#x}: {uses:?}");
            let partial = self.model.partial.iter().any(|&(partial, ..)| partial == at);
            let flags = [
                (State::ALLOCATED, page.allocated),
                (State::PINNED, page.pinned.is_some()),
                (State::CORE, page.core),
                (State::VALIDATED, uses.typed > 0 && !partial),
            ];
            flags.iter().for_each(|&(flag, set)| assert_eq!(state.has(flag), set, "flag {flag:#x} of {at:#x}"));
            assert!(uses.typed == 0 || state.kind() == uses.kind, "{at:#x} is {:?}, not {:?}", state.kind(), uses.kind);
        }
    }
}
