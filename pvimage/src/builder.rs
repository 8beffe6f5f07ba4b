//! Writing a planned domain into its memory, and the state its first vCPU starts in.

use abi::layout::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use abi::regs::rflags;
use abi::start_info::StartInfo;
use abi::vcpu::VcpuGuestContext;
use abi::{Maddr, Mfn, Pfn, Port, Pte, PteFlags, Vaddr};
use zerocopy::{FromZeros, IntoBytes};

use crate::PAGE;
use crate::hypercall_page::{STUB_SIZE, STUBS, stub};
use crate::memory::{GuestMemory, WORDS, write_at, write_word, zero_range};
use crate::plan::{Plan, Role};

/// Flags of a leaf: user, because a PV64 kernel runs in ring 3.
const LEAF: PteFlags = PteFlags::PRESENT.union(PteFlags::USER).union(PteFlags::ACCESSED);
/// Flags of an entry that refers to a table.
const TABLE: PteFlags = LEAF.union(PteFlags::RW).union(PteFlags::DIRTY);

/// What start_info says about the world outside the domain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wiring {
    /// Machine address of the shared info page.
    pub shared_info: Maddr,
    /// The domain's end of the event channel to the store; unused for the initial domain.
    pub store_port: Port,
    /// The domain's end of the event channel to its console; unused for the initial domain.
    pub console_port: Port,
}

impl Plan<'_> {
    /// Writes everything, and the state that the first vCPU starts in to `context`, which is zero before.
    ///
    /// # Errors
    /// Only what `memory` returns.
    pub fn build<M: GuestMemory>(
        &self,
        memory: &mut M,
        wiring: &Wiring,
        context: &mut VcpuGuestContext,
    ) -> Result<(), M::Error> {
        for segment in self.image.segments().flatten() {
            write_at(memory, segment.paddr, segment.bytes)?;
            zero_range(memory, segment.paddr + segment.bytes.len() as u64, segment.end)?;
        }
        if let Some(page) = self.image.hypercall_page {
            for number in 0..STUBS {
                memory.write(Pfn(page / PAGE), number as usize * STUB_SIZE, &stub(number))?;
            }
        }
        write_at(memory, self.ramdisk.0 * PAGE, self.request.ramdisk)?;
        for pfn in 0..self.request.nr_pages.next_multiple_of(WORDS) {
            let mfn = if pfn < self.request.nr_pages { memory.mfn(Pfn(pfn)) } else { Mfn::INVALID };
            write_word(memory, self.p2m, pfn, mfn.0)?;
        }
        // start_info, and the rings of those that have them, come before the tables; the stack comes behind.
        zero_range(memory, self.start_info.0 * PAGE, (self.stack.0 + 1) * PAGE)?;
        let info = self.start_info(memory, wiring);
        memory.write(self.start_info, 0, info.as_bytes())?;
        self.write_tables(memory)?;
        // The start of day of xen.h: the address of start_info in rsi, the stack empty.
        let (stack, regs) = (self.vaddr(self.stack) + PAGE, &mut context.user_regs);
        (regs.rip, regs.rsp, regs.rflags) = (self.image.entry, stack, rflags::IF);
        regs.rsi = self.vaddr(self.start_info);
        // FLAT_RING3_DS64, of all others, is the null selector.
        (regs.cs, regs.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
        (context.kernel_ss, context.kernel_sp) = (FLAT_RING3_SS64.into(), Vaddr(stack));
        context.ctrlreg[3] = memory.mfn(Pfn(self.tables.root)).maddr().0;
        context.flags = VcpuGuestContext::VGCF_IN_KERNEL | VcpuGuestContext::VGCF_ONLINE;
        Ok(())
    }

    /// What the domain is told at its start (xen.h).
    fn start_info<M: GuestMemory>(&self, memory: &M, wiring: &Wiring) -> StartInfo {
        let mut info = StartInfo::new_zeroed();
        copy(&mut info.magic, StartInfo::MAGIC);
        copy(&mut info.cmd_line, self.request.cmdline);
        info.nr_pages = self.request.nr_pages;
        info.shared_info = wiring.shared_info;
        info.flags = StartInfo::SIF_VIRT_P2M_4TOOLS;
        info.pt_base = Vaddr(self.vaddr(Pfn(self.tables.root)));
        info.nr_pt_frames = self.stack.0 - self.tables.root;
        info.mfn_list = Vaddr(self.vaddr(self.p2m));
        info.mod_len = self.request.ramdisk.len() as u64;
        if info.mod_len > 0 && self.image.unmapped_ramdisk {
            info.mod_start = self.ramdisk.0;
            info.flags |= StartInfo::SIF_MOD_START_PFN;
        } else if info.mod_len > 0 {
            info.mod_start = self.vaddr(self.ramdisk);
        }
        match self.request.role {
            Role::Initial => info.flags |= StartInfo::SIF_PRIVILEGED | StartInfo::SIF_INITDOMAIN,
            Role::Guest => {
                (info.store_mfn, info.store_evtchn) = (memory.mfn(self.store), wiring.store_port.0);
                (info.console_mfn, info.console_evtchn) = (memory.mfn(self.console), wiring.console_port.0);
            }
        }
        info
    }

    /// Each present entry of each table, from the root down. The tables themselves are mapped read-only.
    fn write_tables<M: GuestMemory>(&self, memory: &mut M) -> Result<(), M::Error> {
        for level in (1..=4).rev() {
            let (first, table) = (self.tables.numbers(level).start * WORDS, Pfn(self.tables.frames(level).start));
            for (number, pfn) in self.tables.numbers(level - 1).zip(self.tables.frames(level - 1)) {
                let flags = match level {
                    1 if self.tables.all().contains(&pfn) => LEAF,
                    1 => LEAF | PteFlags::RW,
                    _ => TABLE,
                };
                write_word(memory, table, number - first, Pte::new(memory.mfn(Pfn(pfn)), flags).0)?;
            }
        }
        Ok(())
    }
}

/// Copies what fits and leaves the last byte zero.
fn copy(field: &mut [u8], text: &[u8]) {
    let room = field.len().saturating_sub(1);
    field.iter_mut().take(room).zip(text).for_each(|(to, from)| *to = *from);
}
