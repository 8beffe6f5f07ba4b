//! The checker that proves the invariants: it walks everything, recomputes every count, and compares.
//!
//! It trusts nothing but the tables' contents and the list of who holds references. It is for tests, and for the debug
//! key, while the machine stands still: what changes meanwhile looks like a fault.

use alloc::vec::Vec;

use abi::{DomId, Errno, Port, Pte};

use super::entry::{CACHE, RW};
use crate::{Core, Domain, Frame, Owner, PageType, Platform, Run, State, guest, refuse_if};

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// So many references were found; the frame counts others.
    Refs {
        /// General and type references that holders add up to.
        found: (u64, u64),
        /// What the frame says.
        counted: (u64, u64),
    },
    /// An entry of this table maps it writable although it is a table, or descriptors.
    WritableAlias(Frame),
    /// An entry of this table names it although it is not a table of the level below.
    WrongLevel(Frame),
    /// An entry of this table names it with a bit that may not be set, or names a table writable that it is in.
    BadEntry(Frame),
    /// Flags that do not go together, or an owner and a state that do not.
    BadState,
    /// It is on the list of a domain whose it is not; or it is the `shared_info` of one whose list and account differ.
    BadList,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A frame, whose it is, what it says of itself, and what is wrong with it.
    Frame(Frame, Owner, State, Fault),
    /// An open port to which nothing corresponds.
    Port(DomId, Port),
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    domains: u64,
    frames: u64,
    /// References that holders add up to.
    references: u64,
    ports: u64,
}

struct Audit<'a, P: Platform> {
    core: &'a Core<P>,
    /// What holders add up to, of the frames from `base` on: general and type references.
    counts: Vec<(u32, u32)>,
    base: usize,
    findings: Vec<Finding>,
    seen: Seen,
}

/// Findings kept; more are not told apart.
const MOST: usize = 64;
/// Frames whose counts are kept at once, 8 bytes each: where there is memory for it, and at least. The fewer, the oftener
/// everything is walked.
const USUAL_WINDOW: usize = 1 << 16;
const SMALLEST_WINDOW: usize = 1024;

impl<P: Platform> Core<P> {
    /// Walks everything. Empty: all is well.
    ///
    /// `running` are the states of the vCPUs that run somewhere, whose locks are held. ENOMEM where there is no room for
    /// counts.
    #[cfg(test)]
    pub fn audit(&self, running: &[&Run]) -> Result<Vec<Finding>, Errno> {
        Ok(self.audit_by(running, USUAL_WINDOW)?.0)
    }

    /// The same, with the counts of at most so many frames at once.
    pub(super) fn audit_by(&self, running: &[&Run], window: usize) -> Result<(Vec<Finding>, Seen), Errno> {
        let mut window = window.min(self.frames.count()).max(1);
        let mut counts = Vec::new();
        while counts.try_reserve_exact(window).is_err() {
            window = window.div_ceil(2);
            refuse_if(window < SMALLEST_WINDOW, Errno::ENOMEM)?;
        }
        let mut findings = Vec::new();
        findings.try_reserve_exact(MOST).map_err(|_| Errno::ENOMEM)?;
        let mut audit = Audit { core: self, counts, base: 0, findings, seen: Seen::default() };
        for base in (0..self.frames.count()).step_by(window) {
            audit.window(base, window.min(self.frames.count() - base), running);
        }
        for domain in self.domains.from(0) {
            audit.seen.domains += 1;
            let findings = &mut audit.findings;
            audit.seen.ports += self.audit_ports(&domain, |port| {
                if findings.len() < MOST {
                    findings.push(Finding::Port(domain.id, port));
                }
            });
        }
        Ok((audit.findings, audit.seen))
    }

    /// Says on the console what [`audit`](Self::audit) finds.
    pub fn report_audit(&self, running: &[&Run]) {
        let Ok((findings, seen)) = self.audit_by(running, USUAL_WINDOW) else {
            return self.log(format_args!("audit: no memory for it"));
        };
        for finding in &findings {
            match finding {
                Finding::Port(domain, port) => self.log(format_args!("audit: port {} of d{}", port.0, domain.0)),
                Finding::Frame(frame, owner, state, fault) => {
                    let (frame, state) = (frame.mfn().0, state.0);
                    self.log(format_args!("audit: frame {frame:#x} of {owner:?}, state {state:#x}: {fault:?}"));
                }
            }
        }
        let Seen { domains, frames, references, ports } = seen;
        self.log(format_args!(
            "audit: {}, {} findings in {frames} frames, {references} references, {ports} ports of {domains} domains",
            if findings.is_empty() { "ok" } else { "FAILED" },
            findings.len(),
        ));
    }
}

impl<P: Platform> Audit<'_, P> {
    /// Walks everything, and compares the counts of some frames.
    fn window(&mut self, base: usize, frames: usize, running: &[&Run]) {
        self.base = base;
        self.counts.clear();
        self.counts.resize(frames, (0, 0));
        running.iter().for_each(|run| self.vcpu(run));
        let core = self.core;
        core.domains.from(0).for_each(|domain| self.domain(&domain));
        core.frames.iter().for_each(|frame| self.frame(frame));
        core.frames.iter().for_each(|frame| self.compare(frame));
    }

    /// What is wrong apart from counts is noted the first time round alone.
    fn complain(&mut self, frame: Frame, fault: Fault) {
        if self.base > 0 && !matches!(fault, Fault::Refs { .. }) {
            return;
        }
        let info = self.core.frames.info(frame);
        if self.findings.len() < MOST {
            self.findings.push(Finding::Frame(frame, info.owner(), info.state(), fault));
        }
    }

    /// Somebody holds a general reference, and a type reference if `typed`.
    fn hold(&mut self, frame: Frame, typed: bool) {
        if let Some(count) = frame.index().checked_sub(self.base).and_then(|at| self.counts.get_mut(at)) {
            count.0 += 1;
            count.1 += u32::from(typed);
        }
    }

    fn vcpu(&mut self, run: &Run) {
        let roots = run.kernel_root.into_iter().chain(run.user_root);
        let descriptors = run.gdt.iter().chain(&run.ldt).flatten().copied();
        roots.chain(descriptors).for_each(|frame| self.hold(frame, true));
    }

    fn domain(&mut self, domain: &Domain<P>) {
        for vcpu in &domain.vcpus {
            if let Some(run) = vcpu.run.try_lock() {
                self.vcpu(&run);
            }
            let (info, _) = vcpu.info.get();
            if info != domain.shared_info {
                self.hold(info, true);
            }
        }
        self.core.each_event_frame(domain, |frame| self.hold(frame, true));
        domain.grants.track.lock().device_maps().for_each(|(frame, write)| self.hold(frame, write));
        self.list(domain);
    }

    fn list(&mut self, domain: &Domain<P>) {
        let account = domain.memory.lock();
        let mut pages = 0;
        for frame in account.all(&self.core.frames).take(self.core.frames.count()) {
            let info = self.core.frames.info(frame);
            if !info.is_owned_by(domain.id) || info.state().has(State::CORE) {
                self.complain(frame, Fault::BadList);
            }
            pages += 1;
        }
        if pages != account.pages {
            self.complain(domain.shared_info, Fault::BadList);
        }
    }

    fn frame(&mut self, frame: Frame) {
        let info = self.core.frames.info(frame);
        let state = info.state();
        let sound = match info.owner() {
            Owner::NotRam => false,
            Owner::Free(_) | Owner::Core => state == State(0),
            Owner::Domain(_) => {
                let partial = state.has(State::PARTIAL);
                let validated = state.has(State::VALIDATED);
                let held = state.type_refs() > 0;
                validated == (held && !partial)
                    && (!partial || (state.type_refs() == 1 && state.kind().level() > 0))
                    && (!state.has(State::PINNED) || (held && state.kind().level() > 0))
                    && (!held || state.kind() != PageType::None)
            }
        };
        if !sound {
            self.complain(frame, Fault::BadState);
        }
        for flag in [State::PINNED, State::PARTIAL] {
            if state.has(flag) {
                self.hold(frame, true);
            }
        }
        if state.has(State::ALLOCATED) {
            self.hold(frame, state.has(State::CORE));
        }
        self.table(frame, state);
    }

    fn table(&mut self, table: Frame, state: State) {
        let level = state.kind().level();
        if level == 0 || state.type_refs() == 0 {
            return;
        }
        let entries = if state.has(State::VALIDATED) { P::ENTRIES } else { self.core.frames.info(table).progress() };
        for index in 0..entries {
            let pte = Pte(guest::load(&self.core.platform, table, index));
            if !pte.present() || (level == 4 && P::CORE_SLOTS.contains(&index)) {
                continue;
            }
            match self.core.frames.get(pte.mfn()) {
                Some(frame) if level == 1 => self.leaf(table, frame, pte),
                Some(frame) => self.branch(table, level, frame, pte),
                None if level == 1 => {}
                None => self.complain(table, Fault::BadEntry(table)),
            }
        }
    }

    fn leaf(&mut self, table: Frame, frame: Frame, pte: Pte) {
        let writable = pte.0 & RW != 0;
        self.hold(frame, writable);
        if writable && self.core.frames.info(frame).state().kind() != PageType::Writable {
            self.complain(frame, Fault::WritableAlias(table));
        }
        if pte.0 & CACHE != 0 {
            self.complain(frame, Fault::BadEntry(table));
        }
    }

    fn branch(&mut self, table: Frame, level: u8, frame: Frame, pte: Pte) {
        let itself = frame == table;
        if pte.0 & super::entry::TABLE_FORBIDDEN != 0 || (itself && pte.0 & RW != 0) {
            self.complain(frame, Fault::BadEntry(table));
        }
        if itself {
            return;
        }
        self.hold(frame, true);
        if self.core.frames.info(frame).state().kind() != PageType::table(level - 1) {
            self.complain(frame, Fault::WrongLevel(table));
        }
    }

    fn compare(&mut self, frame: Frame) {
        let state = self.core.frames.info(frame).state();
        let Some(count) = frame.index().checked_sub(self.base).and_then(|at| self.counts.get(at)) else { return };
        let found = (u64::from(count.0), u64::from(count.1));
        self.seen.frames += 1;
        self.seen.references += found.0;
        let counted = (state.refs(), state.type_refs());
        if found != counted {
            self.complain(frame, Fault::Refs { found, counted });
        }
    }
}
