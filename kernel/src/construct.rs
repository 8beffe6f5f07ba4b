//! Builds the initial domain from the loader's modules: image first, ramdisk second.

use alloc::vec::Vec;
use core::convert::Infallible;

use abi::vcpu::VcpuGuestContext;
use abi::{Errno, Maddr, Mfn, PAGE_SIZE, Pfn};
use ferrule_core::frame::Frame;
use ferrule_core::lifecycle::NewDomain;
use ferrule_core::{Domain, Stop, guest};
use pvimage::{GuestMemory, Image, Plan, Request, Role, Wiring};
use zerocopy::FromZeros;

use crate::boot_info::{BootInfo, Range, parse_size};
use crate::machine::{Core, Machine, core};
use crate::physical;

/// Memory of the initial domain when it has a ramdisk and nothing else is said.
const DEFAULT_BYTES: u64 = 128 << 20;
/// What stays with the core when the initial domain gets all.
const KEEP_PAGES: u64 = 1024;

/// Builds it and lets it run. Panics, with what to do, where that cannot be.
pub fn initial_domain(boot: &BootInfo) {
    let Some(image) = boot.modules.first() else {
        panic!("no initial domain: give its image as the first module (QEMU: -initrd \"IMAGE ARGS,RAMDISK\")");
    };
    let ramdisk = boot.modules.get(1);
    let parsed = match Image::parse(module_bytes(image.range)) {
        Ok(parsed) => parsed,
        Err(e) => panic!("the initial domain's image (first module): {e}"),
    };
    let request = Request {
        role: Role::Initial,
        nr_pages: memory_pages(boot, ramdisk.is_some()),
        ramdisk: ramdisk.map_or(&[], |m| module_bytes(m.range)),
        cmdline: &image.text,
    };
    let plan = match Plan::new(&parsed, request) {
        Ok(plan) => plan,
        Err(e) => panic!("the initial domain with {} MiB (dom0_mem=): {e}", request.nr_pages >> 8),
    };
    let vcpus = boot.option("dom0_max_vcpus").and_then(|n| n.parse().ok()).unwrap_or(core().cpus.len() as u32);
    if let Err(e) = build(&plan, request.nr_pages, vcpus) {
        panic!("the initial domain cannot be built: {e:?}");
    }
}

fn module_bytes(range: Range) -> &'static [u8] {
    // SAFETY: the loader put the module there; its memory is not given to the allocator, and nobody writes it.
    unsafe { core::slice::from_raw_parts(physical::at(range.start), (range.end - range.start) as usize) }
}

/// `dom0_mem=`, or 128 MiB with a ramdisk, or all; never more than there is.
fn memory_pages(boot: &BootInfo, ramdisk: bool) -> u64 {
    let all = core().free_frames().saturating_sub(KEEP_PAGES);
    let wanted = match boot.option("dom0_mem") {
        Some(text) => match parse_size(text) {
            Some(bytes) => bytes,
            None => panic!("dom0_mem={text}: a size is a number with K, M or G behind it"),
        },
        None if ramdisk => DEFAULT_BYTES,
        None => u64::MAX,
    };
    (wanted / PAGE_SIZE as u64).min(all)
}

fn build(plan: &Plan<'_>, pages: u64, vcpus: u32) -> Result<(), Errno> {
    let core = core();
    let domain = core.create_domain(&NewDomain { max_pages: pages, ..NewDomain::initial(vcpus) })?;
    let mut memory = Memory::take(core, &domain, pages)?;
    let wiring = Wiring { shared_info: domain.shared_info.mfn().maddr(), ..Default::default() };
    // 5 KiB: not for the stack.
    let mut context = VcpuGuestContext::new_box_zeroed().map_err(|_| Errno::ENOMEM)?;
    let Ok(()) = plan.build(&mut memory, &wiring, &mut context);
    let vcpu = domain.vcpus.first().ok_or(Errno::EINVAL)?;
    // Its root comes pinned, as other domains' do from their builder.
    finish(|| core.mm(&domain).pin(Maddr(context.ctrlreg[3]).mfn(), 4))?;
    finish(|| core.set_context(&domain, vcpu, &context))?;
    core.unpause_from_outside(&domain)
}

/// Does what may be preempted, to its end.
fn finish(mut step: impl FnMut() -> Result<(), Stop>) -> Result<(), Errno> {
    loop {
        match step() {
            Ok(()) => return Ok(()),
            Err(Stop::PREEMPTED) => {}
            Err(stop) => return Err(stop.errno().unwrap_or(Errno::EINVAL)),
        }
    }
}

/// The domain's memory while it is built: its blocks of frames in ascending order, each with the pseudo-physical frame
/// that it begins with.
struct Memory {
    core: &'static Core,
    blocks: Vec<(u32, Frame)>,
}

impl Memory {
    /// Takes `pages` pages for the domain.
    fn take(core: &'static Core, domain: &Domain<Machine>, pages: u64) -> Result<Self, Errno> {
        let mut blocks = Vec::new();
        let mut pfn = 0;
        while pfn < pages {
            let order = (pages - pfn).ilog2().min(9) as u8;
            let block = core.alloc_domain_pages(domain, order, u64::MAX, Some(pfn)).map(|first| (first, 1 << order));
            let (first, count) =
                block.or_else(|_| core.alloc_domain_pages(domain, 0, u64::MAX, Some(pfn)).map(|first| (first, 1)))?;
            blocks.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            blocks.push((pfn as u32, first));
            pfn += count;
        }
        Ok(Self { core, blocks })
    }
}

impl GuestMemory for Memory {
    type Error = Infallible;

    fn mfn(&self, pfn: Pfn) -> Mfn {
        let behind = self.blocks.partition_point(|&(first, _)| u64::from(first) <= pfn.0);
        let block = behind.checked_sub(1).and_then(|at| self.blocks.get(at));
        block.map_or(Mfn::INVALID, |&(first, frame)| Mfn(frame.mfn().0 + pfn.0 - u64::from(first)))
    }

    fn write(&mut self, pfn: Pfn, offset: usize, bytes: &[u8]) -> Result<(), Infallible> {
        if let Some(frame) = self.core.frames.get(self.mfn(pfn)) {
            guest::write(&self.core.platform, frame, offset, bytes);
        }
        Ok(())
    }

    /// Nothing to do: a domain's pages come cleared.
    fn zero(&mut self, _: Pfn, _: usize, _: usize) -> Result<(), Infallible> {
        Ok(())
    }
}
