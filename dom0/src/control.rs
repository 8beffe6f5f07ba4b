//! What the toolstack asks of the hypervisor, as a trait: the binary implements it by hypercalls, the tests by a mock.

use abi::sched::ShutdownReason;
use abi::vcpu::VcpuGuestContext;
use abi::{DomId, Errno, Mfn, Pfn, Port};
use ring_proto::memory::RingMemory;

use crate::manifest::PciFunction;

/// What a new domain may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Pages.
    pub pages: u64,
}

/// How a domain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Pages it has.
    pub pages: u64,
    /// vCPUs that are up.
    pub vcpus: u32,
    /// Nanoseconds of CPU time.
    pub cpu_time: u64,
    /// The toolstack has paused it.
    pub paused: bool,
    /// All its vCPUs wait.
    pub blocked: bool,
    /// One of its vCPUs runs.
    pub running: bool,
    /// It is being taken apart.
    pub dying: bool,
    /// It has ended, and why.
    pub shutdown: Option<ShutdownReason>,
    /// Frame of its shared info page.
    pub shared_info: Mfn,
}

/// A range of memory or I/O ports, or an interrupt, given to a driver domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Machine frames of device memory: the first, and how many.
    Memory(Mfn, u64),
    /// I/O ports: the first, and how many.
    Ports(u32, u32),
    /// A physical interrupt.
    Irq(u32),
}

/// The hypervisor, to the domain that may control others.
///
/// Every call names a domain; an error leaves everything as it was unless the call says otherwise.
pub trait Control {
    /// Frames of another domain, mapped until dropped.
    type Mapping: RingMemory;

    /// Makes an empty domain, paused, and allocates its vCPUs.
    ///
    /// # Errors
    /// Nothing of it is left behind.
    fn create(&mut self, limits: Limits) -> Result<DomId, Errno>;

    /// Gives memory to the domain: its frames from `first` on, as many as `frames` has room for.
    ///
    /// # Errors
    /// Part of the memory may have been given; it goes with the domain.
    fn populate(&mut self, domain: DomId, first: Pfn, frames: &mut [Mfn]) -> Result<(), Errno>;

    /// Maps frames of the domain, writable.
    fn map(&mut self, domain: DomId, frames: &[Mfn]) -> Result<Self::Mapping, Errno>;

    /// Makes a port of `domain` that this domain may bind.
    fn alloc_unbound(&mut self, domain: DomId) -> Result<Port, Errno>;

    /// Makes `root` a page table for good.
    fn pin(&mut self, domain: DomId, root: Mfn) -> Result<(), Errno>;

    /// Sets the state of vCPU 0.
    fn set_context(&mut self, domain: DomId, context: &VcpuGuestContext) -> Result<(), Errno>;

    /// Gives a device's resource to the domain, or takes it back.
    fn permit(&mut self, domain: DomId, resource: Resource, allow: bool) -> Result<(), Errno>;

    /// Gives a PCI function to the domain, or takes it back. Without an IOMMU this only records who has it.
    fn assign(&mut self, domain: DomId, function: PciFunction, give: bool) -> Result<(), Errno>;

    /// Stops a PCI function from reaching memory, for good or until a driver lets it.
    fn silence(&mut self, function: PciFunction);

    /// Stops the domain's vCPUs until `unpause`.
    fn pause(&mut self, domain: DomId) -> Result<(), Errno>;

    /// Lets the domain run.
    fn unpause(&mut self, domain: DomId) -> Result<(), Errno>;

    /// Sets how many pages the domain may have at most. It keeps those it has beyond.
    fn limit(&mut self, domain: DomId, pages: u64) -> Result<(), Errno>;

    /// Takes the domain apart. What this domain has mapped of it stays until unmapped.
    fn destroy(&mut self, domain: DomId) -> Result<(), Errno>;

    /// How the domain is; `ESRCH` if there is none.
    fn status(&mut self, domain: DomId) -> Result<Status, Errno>;
}
