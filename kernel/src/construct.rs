//! Builds the initial domain from the loader's modules: image first, ramdisk second.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::convert::Infallible;

use abi::vcpu::VcpuGuestContext;
use abi::{Errno, Maddr, Mfn, PAGE_SIZE, Pfn, Port};
use ferrule_core::frame::Frame;
use ferrule_core::lifecycle::NewDomain;
use ferrule_core::platform::Platform;
use ferrule_core::{Domain, Stop, guest};
use pvimage::{GuestMemory, Image, Plan, Ramdisk, Request, Role, Wiring};

use crate::boot_info::{BootInfo, Range, parse_size};
use crate::machine::{Core, Machine, core};
use crate::physical;

/// Memory of the initial domain when it has a ramdisk and nothing else is said.
const DEFAULT_BYTES: u64 = 128 << 20;
/// What stays with the core when the initial domain gets all, besides a word for each of its pages while it is built.
const KEEP_PAGES: u64 = 1024;
/// Words in a frame.
const WORDS: u64 = (PAGE_SIZE / 8) as u64;

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
        ramdisk: ramdisk.map_or(Ramdisk::None, |m| Ramdisk::Copy(module_bytes(m.range))),
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
    let free = core().free.frames();
    let all = free.saturating_sub(KEEP_PAGES + free / WORDS);
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
    let wiring = Wiring {
        shared_info: Maddr(domain.shared_info.mfn().0 * PAGE_SIZE as u64),
        store_port: Port(0),
        console_port: Port(0),
        console_info: &[],
    };
    let Ok(start) = plan.build(&mut memory, &wiring);
    memory.give_back();
    let mut context = zeroed_context()?;
    let (Some(context), Some(vcpu)) = (context.first_mut(), domain.vcpus.first()) else { return Err(Errno::EINVAL) };
    start.fill(context);
    // Its root comes pinned, as other domains' do from their builder.
    finish(|| core.mm(&domain).pin(start.root, 4))?;
    finish(|| core.set_context(&domain, vcpu, context))?;
    core.unpause_from_outside(&domain)
}

/// Does what may be preempted, to its end.
fn finish(mut step: impl FnMut() -> Result<(), Stop>) -> Result<(), Errno> {
    loop {
        match step() {
            Ok(()) => return Ok(()),
            Err(Stop::Preempted) => {}
            Err(Stop::Error(errno)) => return Err(errno),
            Err(Stop::Replaced) => return Err(Errno::EINVAL),
        }
    }
}

/// A context is 5 KiB: not for the stack.
fn zeroed_context() -> Result<Box<[VcpuGuestContext]>, Errno> {
    let mut context = Vec::new();
    context.try_reserve_exact(1).map_err(|_| Errno::ENOMEM)?;
    context.push(VcpuGuestContext::default());
    Ok(context.into_boxed_slice())
}

/// The domain's memory while it is built: which machine frame each pseudo-physical frame is, in frames of its own.
struct Memory {
    core: &'static Core,
    index: Vec<Frame>,
}

impl Memory {
    /// Takes `pages` pages for the domain.
    fn take(core: &'static Core, domain: &Arc<Domain<Machine>>, pages: u64) -> Result<Self, Errno> {
        let mut index = Vec::new();
        index.try_reserve_exact(pages.div_ceil(WORDS) as usize).map_err(|_| Errno::ENOMEM)?;
        for _ in 0..pages.div_ceil(WORDS) {
            index.push(core.alloc_core_page(None)?);
        }
        let memory = Self { core, index };
        let mut pfn = 0;
        while pfn < pages {
            let order = (pages - pfn).ilog2().min(9) as u8;
            let block = core.alloc_domain_pages(domain, order, u64::MAX, None);
            let (first, count) = match block {
                Ok(first) => (first, 1 << order),
                Err(_) => (core.alloc_domain_page(domain)?, 1),
            };
            for n in 0..count {
                memory.note(pfn + n, first.mfn().0 + n);
            }
            pfn += count;
        }
        Ok(memory)
    }

    fn note(&self, pfn: u64, mfn: u64) {
        if let Some(&page) = self.index.get((pfn / WORDS) as usize) {
            guest::store(&self.core.platform, page, (pfn % WORDS) as usize, mfn);
        }
        self.core.platform.set_m2p(Mfn(mfn), pfn);
    }

    fn frame(&self, pfn: Pfn) -> Option<Frame> {
        self.core.frames.get(self.mfn(pfn))
    }

    fn give_back(self) {
        for page in self.index {
            self.core.free_core_page(page);
        }
    }
}

impl GuestMemory for Memory {
    type Error = Infallible;

    fn mfn(&self, pfn: Pfn) -> Mfn {
        let page = self.index.get((pfn.0 / WORDS) as usize);
        Mfn(page.map_or(u64::MAX, |&page| guest::load(&self.core.platform, page, (pfn.0 % WORDS) as usize)))
    }

    fn write(&mut self, pfn: Pfn, offset: usize, bytes: &[u8]) -> Result<(), Infallible> {
        if let Some(frame) = self.frame(pfn) {
            guest::write(&self.core.platform, frame, offset, bytes);
        }
        Ok(())
    }

    /// Nothing to do: a domain's pages come cleared.
    fn zero(&mut self, _: Pfn, _: usize, _: usize) -> Result<(), Infallible> {
        Ok(())
    }
}
