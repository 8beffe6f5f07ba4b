//! start_info (xen.h): what a domain is told at its start.

use abi::Vaddr;
use abi::start_info::StartInfo;
use zerocopy::FromZeros;

use crate::PAGE;
use crate::builder::Wiring;
use crate::memory::GuestMemory;
use crate::plan::{Plan, Role};

/// The start_info of a planned domain.
pub(crate) fn start_info<M: GuestMemory>(plan: &Plan<'_>, memory: &M, wiring: &Wiring<'_>) -> StartInfo {
    let mut info = StartInfo::new_zeroed();
    copy(&mut info.magic, StartInfo::MAGIC);
    copy(&mut info.cmd_line, plan.request.cmdline);
    info.nr_pages = plan.request.nr_pages;
    info.shared_info = wiring.shared_info;
    info.flags = StartInfo::SIF_VIRT_P2M_4TOOLS;
    info.pt_base = Vaddr(plan.vaddr(plan.page_tables.first));
    info.nr_pt_frames = plan.page_tables.pages;
    info.mfn_list = Vaddr(plan.p2m_vaddr);
    if let Some(area) = plan.p2m_outside {
        (info.first_p2m_pfn, info.nr_p2m_frames) = (area.first, area.pages);
    }
    if plan.ramdisk.pages > 0 {
        info.mod_start = plan.vaddr(plan.ramdisk.first);
        info.mod_len = plan.request.ramdisk.len();
    }
    if plan.ramdisk_unmapped {
        info.mod_start = plan.ramdisk.first.0;
        info.flags |= StartInfo::SIF_MOD_START_PFN;
    }
    match plan.request.role {
        Role::Initial => {
            info.flags |= StartInfo::SIF_PRIVILEGED | StartInfo::SIF_INITDOMAIN;
            // The union's other half: offset and size of the console information, two 32-bit words.
            let (offset, size) = (size_of::<StartInfo>() as u64, wiring.console_info().len() as u64);
            info.console_mfn.0 = if size == 0 { 0 } else { size << 32 | offset };
        }
        Role::Guest => {
            if let (Some(store), Some(console)) = (plan.store, plan.console) {
                (info.store_mfn, info.store_evtchn) = (memory.mfn(store), wiring.store_port.0);
                (info.console_mfn, info.console_evtchn) = (memory.mfn(console), wiring.console_port.0);
            }
        }
    }
    info
}

impl Wiring<'_> {
    /// The console information, as far as it fits the page behind start_info.
    pub(crate) fn console_info(&self) -> &[u8] {
        let room = PAGE as usize - size_of::<StartInfo>();
        self.console_info.get(..room).unwrap_or(self.console_info)
    }
}

/// Copies what fits and leaves the last byte zero.
fn copy(field: &mut [u8], text: &[u8]) {
    let room = field.len().saturating_sub(1);
    for (to, from) in field.iter_mut().take(room).zip(text) {
        *to = *from;
    }
}
