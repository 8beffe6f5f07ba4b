//! Writing a planned domain into its memory, and the state its first vCPU starts in.

use abi::layout::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use abi::regs::rflags;
use abi::vcpu::VcpuGuestContext;
use abi::{Maddr, Mfn, Pfn, Port, Pte, PteFlags, Vaddr};
use zerocopy::IntoBytes;

use crate::PAGE;
use crate::hypercall_page::{STUB_SIZE, STUBS, stub};
use crate::memory::{GuestMemory, write_at, zero_range};
use crate::plan::{Plan, Ramdisk, Role};
use crate::start_info::start_info;
use crate::tables::{ENTRIES, Entry};

/// Entries written at a time: few enough for a small stack.
const BATCH: usize = 64;

/// Flags of a leaf: user, because a PV64 kernel runs in ring 3.
const LEAF: PteFlags = PteFlags::PRESENT.union(PteFlags::USER).union(PteFlags::ACCESSED);
/// Flags of an entry that refers to a table.
const TABLE: PteFlags = LEAF.union(PteFlags::RW).union(PteFlags::DIRTY);

/// What start_info says about the world outside the domain.
#[derive(Clone, Copy, Debug)]
pub struct Wiring<'a> {
    /// Machine address of the shared info page.
    pub shared_info: Maddr,
    /// The domain's end of the event channel to the store; unused for the initial domain.
    pub store_port: Port,
    /// The domain's end of the event channel to its console; unused for the initial domain.
    pub console_port: Port,
    /// struct dom0_vga_console_info for the initial domain, or empty; put behind start_info in its page.
    pub console_info: &'a [u8],
}

/// Where and how the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Virtual address of the first instruction.
    pub entry: u64,
    /// Virtual address of start_info, passed in rsi.
    pub start_info: u64,
    /// Virtual address just above the stack page.
    pub stack: u64,
    /// The L4 table.
    pub root: Mfn,
}

impl Plan<'_> {
    /// Writes everything and says how to start.
    ///
    /// # Errors
    /// Only what `memory` returns.
    pub fn build<M: GuestMemory>(&self, memory: &mut M, wiring: &Wiring<'_>) -> Result<Start, M::Error> {
        self.write_kernel(memory)?;
        if let Ramdisk::Copy(bytes) = self.request.ramdisk {
            write_at(memory, self.ramdisk.first.0 * PAGE, bytes)?;
        }
        self.write_p2m(memory)?;
        self.write_start_info(memory, wiring)?;
        for ring in [self.store, self.console].into_iter().flatten() {
            memory.zero(ring, 0, PAGE as usize)?;
        }
        self.write_tables(memory)?;
        memory.zero(self.stack, 0, PAGE as usize)?;
        Ok(Start {
            entry: self.image.entry,
            start_info: self.vaddr(self.start_info),
            stack: self.vaddr(self.stack) + PAGE,
            root: memory.mfn(self.page_tables.first),
        })
    }

    fn write_kernel<M: GuestMemory>(&self, memory: &mut M) -> Result<(), M::Error> {
        for segment in self.image.segments() {
            let bytes_end = segment.paddr + segment.bytes.len() as u64;
            write_at(memory, segment.paddr, segment.bytes)?;
            zero_range(memory, bytes_end, segment.paddr + segment.mem_size)?;
        }
        if let Some(page) = self.image.hypercall_page() {
            for number in 0..STUBS {
                memory.write(Pfn(page / PAGE), number as usize * STUB_SIZE, &stub(number))?;
            }
        }
        Ok(())
    }

    fn write_p2m<M: GuestMemory>(&self, memory: &mut M) -> Result<(), M::Error> {
        self.write_words(memory, self.p2m.first, self.p2m.pages, |memory, index| {
            if index < self.request.nr_pages { memory.mfn(Pfn(index)).0 } else { Mfn::INVALID.0 }
        })
    }

    fn write_tables<M: GuestMemory>(&self, memory: &mut M) -> Result<(), M::Error> {
        for (level, table, frame) in self.tables.iter() {
            self.write_words(memory, Pfn(frame), 1, |memory, slot| match self.tables.entry(level, table, slot) {
                None => 0,
                Some(Entry::Table(pfn)) => Pte::new(memory.mfn(Pfn(pfn)), TABLE).0,
                Some(Entry::Page(pfn)) => Pte::new(memory.mfn(Pfn(pfn)), LEAF | PteFlags::RW).0,
                Some(Entry::ReadOnly(pfn)) => Pte::new(memory.mfn(Pfn(pfn)), LEAF).0,
            })?;
        }
        Ok(())
    }

    /// Fills `pages` pages from `first` on with `word(0)`, `word(1)`...
    fn write_words<M: GuestMemory>(
        &self,
        memory: &mut M,
        first: Pfn,
        pages: u64,
        word: impl Fn(&M, u64) -> u64,
    ) -> Result<(), M::Error> {
        let mut batch = [0; BATCH];
        for start in (0..pages * ENTRIES).step_by(BATCH) {
            for (index, slot) in (start..).zip(&mut batch) {
                *slot = word(memory, index);
            }
            memory.write(Pfn(first.0 + start / ENTRIES), (start % ENTRIES) as usize * 8, batch.as_bytes())?;
        }
        Ok(())
    }

    fn write_start_info<M: GuestMemory>(&self, memory: &mut M, wiring: &Wiring<'_>) -> Result<(), M::Error> {
        let info = start_info(self, memory, wiring);
        let info = info.as_bytes();
        memory.zero(self.start_info, 0, PAGE as usize)?;
        memory.write(self.start_info, 0, info)?;
        match self.request.role {
            Role::Initial => memory.write(self.start_info, info.len(), wiring.console_info()),
            Role::Guest => Ok(()),
        }
    }
}

impl Start {
    /// Sets the state of the first vCPU in `context`, which is otherwise zero (xen.h, start of day).
    pub fn fill(&self, context: &mut VcpuGuestContext) {
        context.flags = VcpuGuestContext::VGCF_IN_KERNEL | VcpuGuestContext::VGCF_ONLINE;
        let regs = &mut context.user_regs;
        regs.rip = self.entry;
        regs.rsp = self.stack;
        regs.rsi = self.start_info;
        regs.rflags = rflags::IF;
        regs.cs = FLAT_RING3_CS64;
        regs.ss = FLAT_RING3_SS64;
        (regs.ds, regs.es) = (FLAT_RING3_SS64, FLAT_RING3_SS64);
        context.kernel_ss = FLAT_RING3_SS64.into();
        context.kernel_sp = Vaddr(self.stack);
        context.ctrlreg[3] = self.root.maddr().0;
    }
}
