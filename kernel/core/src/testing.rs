//! The core's machine for tests: frames on the heap, a clock that is set by hand, and a record of what the core did.
//!
//! ```ignore
//! let core = testing::core(1024, 2);
//! let guest = testing::guest(&core, Privilege::empty(), 16);
//! let rax = guest.hypercall(&core, Hypercall::MMUEXT_OP, [at, 1, 0, DomId::SELF.0.into(), 0]);
//! ```
//!
//! The TLBs are simulated as far as safety goes: [`TestMachine::touch`] makes a CPU remember a translation, flushes make
//! it forget, and [`stale_translations`] says which remembered ones are not allowed any more.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Range, RangeInclusive};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};

use abi::layout::{FIRST_XEN_SLOT, LAST_XEN_SLOT, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use abi::{Errno, Mfn, PAGE_SIZE, Pte, PteFlags, TABLE_ENTRIES, Vaddr};

use crate::buddy::Blocks;
use crate::dispatch;
use crate::domain::Domains;
use crate::frame::{FrameTable, PageInfo};
use crate::guest::WORDS;
use crate::lifecycle::NewDomain;
use crate::platform::Halt;
use crate::{
    AddressSpace, Caller, Core, Cpu, CpuId, CpuSet, Domain, Fault, Flush, Frame, Owner, PageType, Platform, Privilege,
    Run, Stop, Vcpu, mm,
};

/// A core over a [`TestMachine`].
pub type TestCore = Core<TestMachine>;

/// Where every address space has a page of its own, behind no page table: a model's guests keep the arguments of their
/// hypercalls there, so that nothing they do to their tables is out of bounds.
pub const WINDOW: Vaddr = Vaddr(0xffff_87ff_ffff_f000);

/// Where the hardware would look for the LDT.
pub const LDT: Vaddr = Vaddr(0xffff_8680_0000_0000);

/// Frames below this are no RAM: devices, for tests that map such.
pub const FIRST_RAM: u64 = 16;

type Words = Box<[AtomicU64; WORDS]>;

/// A translation that a CPU remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// On which CPU.
    pub cpu: CpuId,
    /// Of which page.
    pub va: Vaddr,
    /// To which frame.
    pub frame: Frame,
    /// May it write?
    pub writable: bool,
    /// Whose the frame was then.
    pub owner: Owner,
}

/// The machine. Its page tables have `ENTRIES` entries: 4 in a model, with the last of an L4 the core's.
pub struct TestMachine<const ENTRIES: usize = TABLE_ENTRIES> {
    table: FrameTable,
    memory: Vec<OnceLock<Words>>,
    m2p: Vec<AtomicU64>,
    /// System time, nanoseconds.
    pub clock: AtomicU64,
    /// What its CPUID answers, by leaf and subleaf, in place of a CPU that has everything.
    pub cpuid: Mutex<BTreeMap<(u32, u32), [u32; 4]>>,
    /// The MSRs that it has.
    pub msrs: Mutex<BTreeMap<u32, u64>>,
    /// How its ticks become nanoseconds: one tick each by default, 2^31 / 2^32, shifted left by one.
    pub tsc_scale: Mutex<(u32, i8)>,
    /// What it can keep by XSAVE.
    pub xcr0: AtomicU64,
    /// The deadline set last.
    pub deadline: AtomicU64,
    /// The CPU that the test is on.
    pub cpu: AtomicU32,
    /// The flushes since they were last taken.
    pub flushes: Mutex<Vec<(CpuSet, Flush)>>,
    /// CPUs kicked since they were last taken.
    pub kicks: Mutex<Vec<CpuId>>,
    /// What was printed.
    pub printed: Mutex<Vec<u8>>,
    /// What is typed.
    pub typed: Mutex<VecDeque<u8>>,
    /// Why it stopped.
    pub halted: Mutex<Option<Halt>>,
    /// Lines masked or not, and acknowledged: in order.
    pub lines: Mutex<Vec<(crate::irq::Line, LineEvent)>>,
    /// I/O: port, bytes, and what was written if it was a write.
    pub ports: Mutex<Vec<(u16, u8, Option<u32>)>>,
    /// Called before the next flush, once.
    pub at_flush: Mutex<Option<Box<dyn FnMut() + Send>>>,
    /// The frames of every device's MSI-X table.
    pub msix: Mutex<Option<Range<u64>>>,
    /// What is at [`WINDOW`].
    pub window: Mutex<Vec<u8>>,
    tlb: Mutex<Vec<Translation>>,
    polls: AtomicU64,
    interrupt_at: AtomicU64,
    interrupt_for: AtomicU64,
    interrupt_every: AtomicU64,
    interrupted: Mutex<BTreeMap<(&'static str, u32), u64>>,
}

/// What was done to an interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEvent {
    /// Masked.
    Masked,
    /// Unmasked.
    Unmasked,
    /// Programmed as an MSI.
    Enabled,
}

/// Frame tables to use again: a [`FrameTable`] is over static memory, and tests make many machines.
static POOL: Mutex<Vec<&'static [PageInfo]>> = Mutex::new(Vec::new());

fn table_memory(frames: usize) -> &'static [PageInfo] {
    let mut pool = POOL.lock().unwrap();
    if let Some(at) = pool.iter().position(|infos| infos.len() == frames) {
        return pool.swap_remove(at);
    }
    Box::leak((0..frames).map(|_| PageInfo::default()).collect())
}

impl<const ENTRIES: usize> Drop for TestMachine<ENTRIES> {
    fn drop(&mut self) {
        let infos = self.table.infos();
        infos.iter().for_each(forget);
        if let Ok(mut pool) = POOL.lock() {
            pool.push(infos);
        }
    }
}

/// Makes it a frame that is not RAM again.
fn forget(info: &PageInfo) {
    info.reset(0);
    info.set_owner(Owner::NotRam);
    info.set_stamp(0);
}

/// A core with `frames` frames, all but the first [`FIRST_RAM`] free, and `cpus` CPUs.
pub fn core(frames: usize, cpus: u32) -> Box<TestCore> {
    core_with(frames, cpus, false)
}

/// The same, with frames handed out one by one in scattered order if `scatter`, and tables of any size.
pub fn core_with<const ENTRIES: usize>(frames: usize, cpus: u32, scatter: bool) -> Box<Core<TestMachine<ENTRIES>>> {
    let infos = table_memory(frames);
    let platform = TestMachine {
        table: FrameTable::new(infos, &[]),
        memory: (0..frames).map(|_| OnceLock::new()).collect(),
        m2p: (0..frames).map(|_| AtomicU64::new(u64::MAX)).collect(),
        clock: AtomicU64::new(1_000_000_000),
        cpuid: Mutex::default(),
        msrs: Mutex::default(),
        tsc_scale: Mutex::new((1 << 31, 1)),
        xcr0: AtomicU64::new(7),
        deadline: AtomicU64::new(u64::MAX),
        cpu: AtomicU32::new(0),
        flushes: Mutex::default(),
        kicks: Mutex::default(),
        printed: Mutex::default(),
        typed: Mutex::default(),
        halted: Mutex::default(),
        lines: Mutex::default(),
        ports: Mutex::default(),
        at_flush: Mutex::default(),
        msix: Mutex::default(),
        window: Mutex::default(),
        tlb: Mutex::default(),
        polls: AtomicU64::new(0),
        interrupt_at: AtomicU64::new(u64::MAX),
        interrupt_for: AtomicU64::new(1),
        interrupt_every: AtomicU64::new(0),
        interrupted: Mutex::default(),
    };
    let core = Box::new(Core {
        platform,
        frames: FrameTable::new(infos, &[]),
        free: crate::Lock::<TestMachine<ENTRIES>, _>::new(Blocks::new(scatter)),
        domains: Domains::new(),
        cpus: (0..cpus).map(|id| Cpu::new(CpuId(id))).collect(),
        lines: crate::Lock::<TestMachine<ENTRIES>, _>::new(crate::irq::Lines::new()),
        log_refusals: false,
        tally: None,
        messages: Default::default(),
    });
    for mfn in FIRST_RAM..frames as u64 {
        core.frames.add_ram(Mfn(mfn));
    }
    core.add_free(Mfn(FIRST_RAM), frames as u64 - FIRST_RAM);
    core
}

impl<const ENTRIES: usize> TestMachine<ENTRIES> {
    /// Answers true to the `n`th question from now, counted from 0, whether to make room for other work; once.
    pub fn interrupt_after(&self, n: u64) {
        self.interrupt_during(n, 1);
    }

    /// The same to that question and those after it, so many in a row.
    pub fn interrupt_during(&self, n: u64, times: u64) {
        self.interrupt_for.store(times, SeqCst);
        self.interrupt_at.store(self.polls.load(SeqCst).saturating_add(n), SeqCst);
    }

    /// Answers true to every `n`th such question; 0 for never.
    pub fn interrupt_every(&self, n: u64) {
        self.interrupt_every.store(n, SeqCst);
    }

    /// How often it was asked.
    pub fn polls(&self) -> u64 {
        self.polls.load(SeqCst)
    }

    /// Where in the core it answered true, file and line, and how often.
    pub fn interrupted(&self) -> BTreeMap<(&'static str, u32), u64> {
        self.interrupted.lock().unwrap().clone()
    }

    /// Takes what was printed.
    pub fn take_printed(&self) -> String {
        String::from_utf8_lossy(&core::mem::take(&mut *self.printed.lock().unwrap())).into_owned()
    }

    /// Takes the record of flushes.
    pub fn take_flushes(&self) -> Vec<(CpuSet, Flush)> {
        core::mem::take(&mut *self.flushes.lock().unwrap())
    }

    /// The machine-to-physical entry of a frame; all ones where there is none.
    pub fn m2p(&self, mfn: Mfn) -> u64 {
        self.m2p.get(mfn.0 as usize).map_or(u64::MAX, |entry| entry.load(SeqCst))
    }

    fn words(&self, frame: Frame) -> &Words {
        let slot = self.memory.get(frame.mfn().0 as usize).expect("a frame of this machine");
        slot.get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS]))
    }

    /// Walks as the hardware does; the frame that is reached and whether it may be written.
    pub fn translate(&self, space: AddressSpace, va: Vaddr) -> Option<(Frame, bool)> {
        if !mm::is_guest_address(va) {
            return None;
        }
        let mut frame = space.root;
        let mut writable = true;
        for level in (1..=4).rev() {
            let pte = Pte(self.word(frame, va.table_index(level)).load(SeqCst));
            if !pte.has(PteFlags::PRESENT | PteFlags::USER) {
                return None;
            }
            writable &= pte.has(PteFlags::RW);
            frame = self.table.get(pte.mfn())?;
        }
        Some((frame, writable))
    }

    /// Makes a CPU use an address, and remember its translation if there is one.
    pub fn touch(&self, cpu: CpuId, space: AddressSpace, va: Vaddr) {
        if let Some((frame, writable)) = self.translate(space, va) {
            let owner = self.table.info(frame).owner();
            let translation = Translation { cpu, va: va.page_base(), frame, writable, owner };
            let mut tlb = self.tlb.lock().unwrap();
            if !tlb.contains(&translation) {
                tlb.push(translation);
            }
        }
    }

    fn access(&self, space: AddressSpace, at: Vaddr, write: bool) -> Result<(Frame, usize), Fault> {
        match self.translate(space, at) {
            Some((frame, writable)) if writable || !write => Ok((frame, at.page_offset())),
            _ => Err(Fault),
        }
    }
}

/// So many bytes of a frame by its words: which word, which bytes of it, and which of all they are. None are beyond its end.
fn parts(offset: usize, len: usize) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let end = PAGE_SIZE.min(offset + len);
    let mut at = offset;
    core::iter::from_fn(move || {
        let next = (at / 8 * 8 + 8).min(end);
        let part = (at < end).then(|| (at / 8, at % 8..at % 8 + (next - at), at - offset..next - offset));
        at = next;
        part
    })
}

/// Translations that some CPU remembers, and by which a guest could do what it may not: write a page table, or reach a
/// frame that is another's by now.
pub fn stale_translations<const ENTRIES: usize>(core: &Core<TestMachine<ENTRIES>>) -> Vec<Translation> {
    let tlb = core.platform.tlb.lock().unwrap();
    let bad = |t: &&Translation| {
        let info = core.frames.info(t.frame);
        let state = info.state();
        let free = matches!(info.owner(), Owner::Free(_));
        let typed = state.type_refs() > 0 && !matches!(state.kind(), PageType::Writable | PageType::None);
        // What is free has not been handed out yet: the flush comes then.
        !free && (info.owner() != t.owner || (t.writable && typed))
    };
    tlb.iter().filter(bad).copied().collect()
}

impl<const ENTRIES: usize> Platform for TestMachine<ENTRIES> {
    const ENTRIES: usize = ENTRIES;
    const CORE_SLOTS: RangeInclusive<usize> =
        if ENTRIES == TABLE_ENTRIES { FIRST_XEN_SLOT..=LAST_XEN_SLOT } else { ENTRIES - 1..=ENTRIES - 1 };
    // A lock that is taken against the order in which others were fails, whether or not another thread waits.
    type RawMutex = tracing_mutex::lockapi::TracingWrapper<parking_lot::RawMutex>;
    type RawRwLock = tracing_mutex::lockapi::TracingWrapper<parking_lot::RawRwLock>;

    fn word(&self, frame: Frame, index: usize) -> &AtomicU64 {
        &self.words(frame)[index & (WORDS - 1)]
    }

    fn read(&self, frame: Frame, offset: usize, to: &mut [u8]) {
        for (index, bytes, part) in parts(offset, to.len()) {
            let word = self.word(frame, index).load(SeqCst).to_le_bytes();
            to[part].copy_from_slice(&word[bytes]);
        }
    }

    fn write(&self, frame: Frame, offset: usize, from: &[u8]) {
        for (index, bytes, part) in parts(offset, from.len()) {
            let word = self.word(frame, index);
            let mut merged = word.load(SeqCst).to_le_bytes();
            merged[bytes].copy_from_slice(&from[part]);
            word.store(u64::from_le_bytes(merged), SeqCst);
        }
    }

    fn copy(&self, from: (Frame, usize), to: (Frame, usize), len: usize) {
        if (from.1, to.1, len) == (0, 0, PAGE_SIZE) {
            let words = self.words(from.0).iter().zip(self.words(to.0).iter());
            return words.for_each(|(from, to)| to.store(from.load(SeqCst), SeqCst));
        }
        let mut bytes = alloc::vec![0; len.min(PAGE_SIZE - from.1).min(PAGE_SIZE - to.1)];
        self.read(from.0, from.1, &mut bytes);
        self.write(to.0, to.1, &bytes);
    }

    fn clear(&self, frame: Frame) {
        if let Some(words) = self.memory.get(frame.mfn().0 as usize).and_then(OnceLock::get) {
            words.iter().for_each(|word| word.store(0, SeqCst));
        }
    }

    fn set_m2p(&self, mfn: Mfn, pfn: u64) {
        if let Some(entry) = self.m2p.get(mfn.0 as usize) {
            entry.store(pfn, SeqCst);
        }
    }

    fn copy_from_guest(&self, space: AddressSpace, from: Vaddr, to: &mut [u8]) -> Result<(), Fault> {
        if from.page_base() == WINDOW {
            let window = self.window.lock().unwrap();
            to.copy_from_slice(window.get(from.page_offset()..).and_then(|at| at.get(..to.len())).ok_or(Fault)?);
            return Ok(());
        }
        let (mut at, mut rest) = (from, to);
        while !rest.is_empty() {
            let len = rest.len().min(PAGE_SIZE - at.page_offset());
            let (part, behind) = rest.split_at_mut(len);
            if (MACH2PHYS_VIRT_START..MACH2PHYS_VIRT_END).contains(&at) {
                for (entry, byte) in (at.0 - MACH2PHYS_VIRT_START.0..).zip(part) {
                    *byte = (self.m2p(Mfn(entry / 8)) >> (entry % 8 * 8)) as u8;
                }
            } else {
                let (frame, offset) = self.access(space, at, false)?;
                self.read(frame, offset, part);
            }
            (at, rest) = (Vaddr(at.0.wrapping_add(len as u64)), behind);
        }
        Ok(())
    }

    fn copy_to_guest(&self, space: AddressSpace, to: Vaddr, from: &[u8]) -> Result<(), Fault> {
        if to.page_base() == WINDOW {
            let mut window = self.window.lock().unwrap();
            let at = window.get_mut(to.page_offset()..).and_then(|at| at.get_mut(..from.len())).ok_or(Fault)?;
            at.copy_from_slice(from);
            return Ok(());
        }
        let (mut at, mut rest) = (to, from);
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(rest.len().min(PAGE_SIZE - at.page_offset()));
            let (frame, offset) = self.access(space, at, true)?;
            self.write(frame, offset, part);
            (at, rest) = (Vaddr(at.0.wrapping_add(part.len() as u64)), behind);
        }
        Ok(())
    }

    fn flush(&self, cpus: CpuSet, what: Flush) {
        if cpus.is_empty() {
            return;
        }
        let observer = self.at_flush.lock().unwrap().take();
        if let Some(mut observer) = observer {
            observer();
        }
        self.flushes.lock().unwrap().push((cpus, what));
        self.tlb.lock().unwrap().retain(|t| {
            let hit = match what {
                Flush::All => true,
                Flush::Page(va) => va.page_base() == t.va,
            };
            !(cpus.has(t.cpu) && hit)
        });
    }

    fn load_root(&self, _run: &Run) {
        let here = self.this_cpu();
        self.tlb.lock().unwrap().retain(|t| t.cpu != here);
    }

    fn hypervisor_slots(&self) -> [u64; 16] {
        // Supervisor entries that lead to no frame of the test's memory.
        [3; 16]
    }

    fn load_tables(&self, _run: &Run) {}
    fn save_bases(&self, _run: &mut Run) {}
    fn load_bases(&self, _run: &Run) {}
    fn swap_gs(&self, _run: &mut Run) {}
    fn load_control(&self, _run: &Run) {}
    fn debug_key(&self, _key: u8) {}
    fn msi_disable(&self, _device: crate::irq::PciDevice, _entry: Option<u16>) {}

    fn ldt_offset(&self, address: u64) -> Option<u64> {
        address.checked_sub(LDT.0).filter(|offset| *offset < 1 << 16)
    }

    fn load_user_gs(&self, run: &mut Run, selector: u16) {
        run.regs.gs = selector;
    }

    fn msix_table(&self, _device: crate::irq::PciDevice) -> Option<Range<u64>> {
        self.msix.lock().unwrap().clone()
    }

    fn set_task_switched(&self, _run: &mut Run, _set: bool) {}
    fn load_debug_registers(&self, _run: &Run) {}

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        if let Some(answer) = self.cpuid.lock().unwrap().get(&(leaf, subleaf)) {
            return *answer;
        }
        match leaf {
            0 => [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
            0x8000_0000 => [0x8000_0008, 0, 0, 0],
            0x8000_0008 => [40, 0, 0, 0],
            // A CPU that has everything.
            1 | 7 | 0xd | 0x8000_0001 => [u32::MAX; 4],
            _ => [0; 4],
        }
    }

    fn rdmsr(&self, msr: u32) -> Option<u64> {
        self.msrs.lock().unwrap().get(&msr).copied()
    }

    fn xcr0_offered(&self) -> u64 {
        self.xcr0.load(SeqCst)
    }

    fn set_xcr0(&self, _value: u64) {}

    fn port_in(&self, port: u16, bytes: u8) -> u32 {
        self.ports.lock().unwrap().push((port, bytes, None));
        0x1122_3344
    }

    fn port_out(&self, port: u16, bytes: u8, value: u32) {
        self.ports.lock().unwrap().push((port, bytes, Some(value)));
    }

    fn now(&self) -> u64 {
        self.clock.load(SeqCst)
    }

    fn tsc(&self) -> u64 {
        self.now()
    }

    fn tsc_scale(&self) -> (u32, i8) {
        *self.tsc_scale.lock().unwrap()
    }

    fn wall_clock(&self) -> u64 {
        1_577_836_800
    }

    fn set_timer(&self, deadline: u64) {
        self.deadline.store(deadline, SeqCst);
    }

    fn kick(&self, cpu: CpuId) {
        self.kicks.lock().unwrap().push(cpu);
    }

    fn this_cpu(&self) -> CpuId {
        CpuId(self.cpu.load(SeqCst))
    }

    #[track_caller]
    fn preempt(&self) -> bool {
        let poll = self.polls.fetch_add(1, SeqCst);
        let (every, begin) = (self.interrupt_every.load(SeqCst), self.interrupt_at.load(SeqCst));
        let now = poll >= begin && poll - begin < self.interrupt_for.load(SeqCst);
        let yes = now || (every != 0 && poll.is_multiple_of(every));
        if yes {
            let asks = core::panic::Location::caller();
            *self.interrupted.lock().unwrap().entry((asks.file(), asks.line())).or_default() += 1;
        }
        yes
    }

    fn irq_mask(&self, line: crate::irq::Line, masked: bool) {
        let event = if masked { LineEvent::Masked } else { LineEvent::Unmasked };
        self.lines.lock().unwrap().push((line, event));
    }

    fn msi_enable(&self, _device: crate::irq::PciDevice, _entry: Option<u16>, line: crate::irq::Line) -> bool {
        self.lines.lock().unwrap().push((line, LineEvent::Enabled));
        true
    }

    fn console_write(&self, text: &[u8]) {
        self.printed.lock().unwrap().extend_from_slice(text);
    }

    fn console_read(&self, to: &mut [u8]) -> usize {
        let mut typed = self.typed.lock().unwrap();
        let count = to.len().min(typed.len());
        for (slot, byte) in to.iter_mut().zip(typed.drain(..count)) {
            *slot = byte;
        }
        count
    }

    fn halt(&self, why: Halt) {
        *self.halted.lock().unwrap() = Some(why);
    }
}

/// The names of errors, for tallies.
pub fn name_of(errno: Errno) -> &'static str {
    const NAMES: [(Errno, &str); 49] = [
        (Errno::EPERM, "EPERM"),
        (Errno::ENOENT, "ENOENT"),
        (Errno::ESRCH, "ESRCH"),
        (Errno::EINTR, "EINTR"),
        (Errno::EIO, "EIO"),
        (Errno::ENXIO, "ENXIO"),
        (Errno::E2BIG, "E2BIG"),
        (Errno::ENOEXEC, "ENOEXEC"),
        (Errno::EBADF, "EBADF"),
        (Errno::ECHILD, "ECHILD"),
        (Errno::EAGAIN, "EAGAIN"),
        (Errno::ENOMEM, "ENOMEM"),
        (Errno::EACCES, "EACCES"),
        (Errno::EFAULT, "EFAULT"),
        (Errno::EBUSY, "EBUSY"),
        (Errno::EEXIST, "EEXIST"),
        (Errno::EXDEV, "EXDEV"),
        (Errno::ENODEV, "ENODEV"),
        (Errno::ENOTDIR, "ENOTDIR"),
        (Errno::EISDIR, "EISDIR"),
        (Errno::EINVAL, "EINVAL"),
        (Errno::ENFILE, "ENFILE"),
        (Errno::EMFILE, "EMFILE"),
        (Errno::ENOSPC, "ENOSPC"),
        (Errno::EROFS, "EROFS"),
        (Errno::EMLINK, "EMLINK"),
        (Errno::EDOM, "EDOM"),
        (Errno::ERANGE, "ERANGE"),
        (Errno::EDEADLK, "EDEADLK"),
        (Errno::ENAMETOOLONG, "ENAMETOOLONG"),
        (Errno::ENOLCK, "ENOLCK"),
        (Errno::ENOSYS, "ENOSYS"),
        (Errno::ENOTEMPTY, "ENOTEMPTY"),
        (Errno::ENODATA, "ENODATA"),
        (Errno::ETIME, "ETIME"),
        (Errno::EBADMSG, "EBADMSG"),
        (Errno::EOVERFLOW, "EOVERFLOW"),
        (Errno::EILSEQ, "EILSEQ"),
        (Errno::ERESTART, "ERESTART"),
        (Errno::ENOTSOCK, "ENOTSOCK"),
        (Errno::EMSGSIZE, "EMSGSIZE"),
        (Errno::EOPNOTSUPP, "EOPNOTSUPP"),
        (Errno::EADDRINUSE, "EADDRINUSE"),
        (Errno::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (Errno::ENOBUFS, "ENOBUFS"),
        (Errno::EISCONN, "EISCONN"),
        (Errno::ENOTCONN, "ENOTCONN"),
        (Errno::ETIMEDOUT, "ETIMEDOUT"),
        (Errno::ECONNREFUSED, "ECONNREFUSED"),
    ];
    NAMES.iter().find(|(known, _)| *known == errno).map_or("another", |(_, name)| name)
}

/// A domain with one vCPU that can make hypercalls: an address space whose pages from [`Guest::BASE`] on are its frames.
pub struct Guest {
    /// The domain.
    pub domain: Arc<Domain<TestMachine>>,
    /// Its first vCPU.
    pub vcpu: Arc<Vcpu<TestMachine>>,
    /// Its tables: L1, L2, L3, L4.
    pub tables: [Frame; 4],
    /// Its other frames; page `i` of the address space is frame `i`, writable.
    pub frames: Vec<Frame>,
}

/// PRESENT, RW, USER.
pub const WRITABLE: PteFlags = PteFlags(7);
/// PRESENT, USER.
pub const READ_ONLY: PteFlags = PteFlags(5);

/// A domain with `pages` pages mapped writable (at most 500), and room for 64 more frames.
///
/// The tables are mapped read-only behind them: page `pages` is the L1.
pub fn guest(core: &TestCore, privilege: Privilege, pages: usize) -> Guest {
    guest_of(core, NewDomain { privilege, ..NewDomain::ordinary(1) }, pages)
}

/// The same, in a domain of one's own making.
pub fn guest_of(core: &TestCore, new: NewDomain, pages: usize) -> Guest {
    let new = NewDomain { max_pages: pages as u64 + 4 + 64, ..new };
    let domain = core.create_domain(&new).expect("memory for a domain");
    let page = || core.alloc_domain_page(&domain).expect("memory for a guest");
    let frames: Vec<Frame> = (0..pages).map(|_| page()).collect();
    let tables = [page(), page(), page(), page()];
    let word = |frame, index| core.platform.word(frame, index);
    let mapped = frames.iter().map(|f| (f, WRITABLE)).chain(tables.iter().map(|f| (f, READ_ONLY)));
    for (index, (frame, flags)) in mapped.enumerate() {
        word(tables[0], index).store(Pte::new(frame.mfn(), flags).0, SeqCst);
    }
    for level in 1..4 {
        let index = Guest::BASE.table_index(level as u32 + 1);
        word(tables[level], index).store(Pte::new(tables[level - 1].mfn(), WRITABLE).0, SeqCst);
    }
    let root = core.take_root(&domain, tables[3].mfn()).expect("a sound root");
    core.show_m2p(root, true);
    let vcpu = domain.vcpus[0].clone();
    {
        let mut run = vcpu.run.lock();
        run.kernel_root = Some(root);
        run.hardware_root = Some(root);
        run.initialised = true;
    }
    domain.dirty_cpus.store(1, SeqCst);
    Guest { domain, vcpu, tables, frames }
}

impl Guest {
    /// Where its pages are.
    pub const BASE: Vaddr = Vaddr(0x1_2345_6780_0000 & 0x7fff_ffe0_0000);

    /// The address of page `index`.
    pub fn va(&self, index: usize) -> Vaddr {
        Vaddr(Self::BASE.0 + index as u64 * PAGE_SIZE as u64)
    }

    /// Its address space.
    pub fn space(&self) -> AddressSpace {
        self.vcpu.run.lock().space().expect("a root")
    }

    /// Does something as the running vCPU, on the CPU that the test is on.
    pub fn run<R>(&self, core: &TestCore, f: impl FnOnce(&mut Caller<'_, TestMachine>) -> R) -> R {
        let mut run = self.vcpu.run.lock();
        f(&mut Caller {
            core,
            cpu: &core.cpus[core.platform.this_cpu().0 as usize],
            domain: &self.domain,
            vcpu: &self.vcpu,
            run: &mut run,
        })
    }

    /// Makes a hypercall, again and again while it is interrupted; returns what the guest sees in rax.
    pub fn hypercall(&self, core: &TestCore, number: u32, mut args: [u64; 5]) -> i64 {
        loop {
            match self.run(core, |c| dispatch::call(c, number, &mut args)) {
                Err(Stop::PREEMPTED) => {}
                Err(Stop::REPLACED) => return 0,
                Ok(value) | Err(Stop(value)) => return value,
            }
        }
    }

    /// Reads from the beginning of one of its pages, as itself.
    pub fn peek<T: zerocopy::FromBytes + zerocopy::IntoBytes>(&self, core: &TestCore, page: usize) -> T {
        let mut value = T::new_zeroed();
        core.platform.copy_from_guest(self.space(), self.va(page), value.as_mut_bytes()).expect("a page of its own");
        value
    }

    /// Writes to one of its pages, as itself.
    pub fn poke(&self, core: &TestCore, page: usize, offset: usize, bytes: &[u8]) {
        let to = Vaddr(self.va(page).0 + offset as u64);
        core.platform.copy_to_guest(self.space(), to, bytes).expect("a writable page");
    }

    /// Maps a frame at page `index`, by update_va_mapping.
    pub fn map(&self, core: &TestCore, index: usize, entry: Pte) -> Result<(), Errno> {
        let number = abi::hypercall::Hypercall::UPDATE_VA_MAPPING.0;
        let rax = self.hypercall(core, number, [self.va(index).0, entry.0, 0, 0, 0]);
        Errno::check(rax).map(|_| ())
    }
}
