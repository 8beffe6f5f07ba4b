//! Making a domain: create it, give it memory, write its image, start it. A step that fails takes everything back.

mod memory;
#[cfg(test)]
mod tests;

use core::fmt;

use abi::vcpu::VcpuGuestContext;
use abi::{DomId, Errno, Maddr, Mfn, PAGE_SIZE, Pfn, Port};
use alloc::boxed::Box;
use alloc::vec;
use pvimage::{GuestMemory, Image, ImageError, Plan, Request, Role, Wiring};
use ring_proto::memory::RingMemory;

use crate::control::{Control, Limits};
use memory::ForeignMemory;

/// Pages in a MiB.
const PAGES_PER_MIB: u64 = (1 << 20) / PAGE_SIZE as u64;
/// Offset of `vcpu_info[n].evtchn_upcall_mask` in the shared info page, and from one n to the next (xen.h).
const UPCALL_MASK: (usize, usize) = (1, 64);

/// What a domain is made from.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// The ramdisk's file.
    pub ramdisk: Option<&'a [u8]>,
    /// The command line.
    pub cmdline: &'a str,
    /// Memory in MiB.
    pub memory: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
}

/// A domain that is ready to run and still paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// Its number.
    pub domain: DomId,
    /// Frame of its store ring, and its end of the event channel.
    pub store: (Mfn, Port),
    /// Frame of its console ring, and its end of the event channel.
    pub console: (Mfn, Port),
}

/// Why a domain could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The kernel cannot be started, or not in so much memory.
    Image(ImageError),
    /// The hypervisor refused a step.
    Refused(Step, Errno),
}

/// The steps the hypervisor can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is a method of Control")]
pub enum Step {
    Create,
    Populate,
    Map,
    EventChannel,
    Status,
    Pin,
    Context,
    Device,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(ImageError::TooLittleMemory(pages)) => {
                write!(f, "too little memory: it needs at least {} MiB", pages.div_ceil(PAGES_PER_MIB))
            }
            Self::Image(error) => write!(f, "kernel: {error}"),
            Self::Refused(Step::Populate, Errno::ENOMEM) => f.write_str("the machine has too little free memory"),
            Self::Refused(step, errno) => write!(f, "the hypervisor refused: {step:?}: {errno:?}"),
        }
    }
}

impl core::error::Error for BuildError {}

impl From<ImageError> for BuildError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

/// Turns the error of a step into a [`BuildError`].
fn refused(step: Step) -> impl Fn(Errno) -> BuildError {
    move |errno| BuildError::Refused(step, errno)
}

/// Makes a domain. It is paused; nothing knows of it yet.
///
/// # Errors
/// The first step that failed; then nothing of the domain is left.
pub fn build<C: Control>(control: &mut C, recipe: &Recipe<'_>) -> Result<Built, BuildError> {
    // All that can be said of the image is said before anything exists.
    let image = Image::parse(recipe.kernel)?;
    let nr_pages = u64::from(recipe.memory) * PAGES_PER_MIB;
    let request = Request {
        role: Role::Guest,
        nr_pages,
        ramdisk: recipe.ramdisk.unwrap_or_default(),
        cmdline: recipe.cmdline.as_bytes(),
    };
    let plan = Plan::new(&image, request)?;
    let limits = Limits { vcpus: recipe.vcpus, pages: nr_pages };
    let domain = control.create(limits).map_err(refused(Step::Create))?;
    let built = fill(control, domain, &plan, nr_pages);
    if built.is_err() {
        // It was never started; there is nothing to do if even that fails.
        let _ = control.destroy(domain);
    }
    built
}

fn fill<C: Control>(control: &mut C, domain: DomId, plan: &Plan<'_>, nr_pages: u64) -> Result<Built, BuildError> {
    let mut frames = vec![Mfn::INVALID; nr_pages as usize];
    control.populate(domain, Pfn(0), &mut frames).map_err(refused(Step::Populate))?;
    let store_port = control.alloc_unbound(domain).map_err(refused(Step::EventChannel))?;
    let console_port = control.alloc_unbound(domain).map_err(refused(Step::EventChannel))?;
    let shared_info = control.status(domain).map_err(refused(Step::Status))?.shared_info;
    init_shared_info(control, domain, shared_info).map_err(refused(Step::Map))?;

    let wiring = Wiring { shared_info: Maddr(shared_info.maddr().0), store_port, console_port };
    let mut memory = ForeignMemory::new(control, domain, &frames);
    let mut context = Box::new(VcpuGuestContext::default());
    plan.build(&mut memory, &wiring, &mut context).map_err(refused(Step::Map))?;
    let (store, console) = (memory.mfn(plan.store), memory.mfn(plan.console));
    drop(memory); // a frame mapped writable cannot become a page table

    control.pin(domain, Maddr(context.ctrlreg[3]).mfn()).map_err(refused(Step::Pin))?;
    control.set_context(domain, &context).map_err(refused(Step::Context))?;
    Ok(Built { domain, store: (store, store_port), console: (console, console_port) })
}

/// A vCPU starts with its events masked (xen.h); the rest of the page is zero.
fn init_shared_info<C: Control>(control: &mut C, domain: DomId, frame: Mfn) -> Result<(), Errno> {
    let page = control.map(domain, &[frame])?;
    page.write(0, &[0; PAGE_SIZE]);
    let (first, stride) = UPCALL_MASK;
    (0..abi::layout::LEGACY_MAX_VCPUS).for_each(|vcpu| page.write(first + vcpu * stride, &[1]));
    Ok(())
}
