//! A hypervisor for tests: it keeps domains as data, refuses calls in the wrong order, and can be told to fail the n-th
//! call.

extern crate std;

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use std::format;
use std::string::String;

use abi::sched::ShutdownReason;
use abi::vcpu::VcpuGuestContext;
use abi::{DomId, Errno, Mfn, PAGE_SIZE, Pfn, Port};
use ring_proto::memory::RingMemory;
use ring_proto::sync::AtomicU32;
use ring_proto::words::WordMemory;

use crate::control::{Control, Limits, Resource, Status};
use crate::manifest::PciFunction;

/// One domain of the mock.
#[derive(Debug, Default)]
pub struct MockDomain {
    pub limits: Option<Limits>,
    pub frames: Vec<Mfn>,
    pub ports: u32,
    pub pinned: Option<Mfn>,
    pub context: Option<alloc::boxed::Box<VcpuGuestContext>>,
    pub paused: bool,
    pub shutdown: Option<ShutdownReason>,
    pub resources: Vec<Resource>,
    pub functions: Vec<PciFunction>,
}

/// The hypervisor.
#[derive(Debug, Default)]
pub struct Mock {
    pub domains: BTreeMap<u16, MockDomain>,
    pub memory: Rc<RefCell<BTreeMap<u64, alloc::sync::Arc<WordMemory>>>>,
    /// Frames mapped now, by anybody.
    pub mapped: Rc<RefCell<Vec<Mfn>>>,
    /// Every call, in order.
    pub calls: Vec<String>,
    /// The call to fail, counted from 0, and with what.
    pub fail: Option<(usize, Errno)>,
    /// Free frames of the machine.
    pub free: u64,
    next_frame: Cell<u64>,
    next_domain: u16,
}

/// A mapping of the mock.
#[derive(Debug)]
pub struct MockMapping {
    pages: Vec<alloc::sync::Arc<WordMemory>>,
    frames: Vec<Mfn>,
    mapped: Rc<RefCell<Vec<Mfn>>>,
}

impl Drop for MockMapping {
    fn drop(&mut self) {
        self.mapped.borrow_mut().retain(|frame| !self.frames.contains(frame));
    }
}

impl RingMemory for MockMapping {
    fn len(&self) -> usize {
        self.pages.len() * PAGE_SIZE
    }
    fn word(&self, offset: usize) -> &AtomicU32 {
        self.pages[offset / PAGE_SIZE].word(offset % PAGE_SIZE)
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        self.pages[offset / PAGE_SIZE].read(offset % PAGE_SIZE, out);
    }
    fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset % PAGE_SIZE + data.len() <= PAGE_SIZE, "a write across pages");
        self.pages[offset / PAGE_SIZE].write(offset % PAGE_SIZE, data);
    }
}

impl Mock {
    /// A machine with so many free frames.
    pub fn new(free: u64) -> Self {
        Self { free, next_domain: 1, next_frame: Cell::new(0x1000), ..Self::default() }
    }

    fn call(&mut self, name: &str) -> Result<(), Errno> {
        let index = self.calls.len();
        self.calls.push(name.into());
        match self.fail {
            Some((at, errno)) if at == index => Err(errno),
            _ => Ok(()),
        }
    }

    pub fn domain(&mut self, domain: DomId) -> Result<&mut MockDomain, Errno> {
        self.domains.get_mut(&domain.0).ok_or(Errno::ESRCH)
    }

    /// The bytes of a frame.
    pub fn page(&self, frame: Mfn) -> Vec<u8> {
        let mut page = alloc::vec![0; PAGE_SIZE];
        self.memory.borrow()[&frame.0].read(0, &mut page);
        page
    }

    /// Ends a domain as if it had done so itself.
    pub fn end(&mut self, domain: DomId, reason: ShutdownReason) {
        if let Ok(ended) = self.domain(domain) {
            ended.shutdown = Some(reason);
        }
    }

    fn frame(&self) -> Mfn {
        // Frames are scattered, as a used machine's are.
        let number = self.next_frame.get();
        self.next_frame.set(number + 1);
        let frame = Mfn(number ^ 0x2a5);
        self.memory.borrow_mut().insert(frame.0, WordMemory::new(PAGE_SIZE));
        frame
    }

    fn shared_info(domain: DomId) -> Mfn {
        Mfn(0x100 + u64::from(domain.0))
    }
}

impl Control for Mock {
    type Mapping = MockMapping;

    fn create(&mut self, limits: Limits) -> Result<DomId, Errno> {
        self.call("create")?;
        let domain = DomId(self.next_domain);
        self.next_domain += 1;
        self.domains.insert(domain.0, MockDomain { limits: Some(limits), paused: true, ..MockDomain::default() });
        self.memory.borrow_mut().insert(Self::shared_info(domain).0, WordMemory::new(PAGE_SIZE));
        Ok(domain)
    }

    fn populate(&mut self, domain: DomId, first: Pfn, frames: &mut [Mfn]) -> Result<(), Errno> {
        self.call("populate")?;
        let held = self.domain(domain)?.frames.len();
        assert_eq!(first.0 as usize, held, "the test builds from frame 0 on");
        for slot in frames {
            self.free = self.free.checked_sub(1).ok_or(Errno::ENOMEM)?;
            *slot = self.frame();
            self.domain(domain)?.frames.push(*slot);
        }
        let limit = self.domain(domain)?.limits.ok_or(Errno::EINVAL)?.pages;
        if self.domain(domain)?.frames.len() as u64 > limit { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    fn map(&mut self, domain: DomId, frames: &[Mfn]) -> Result<MockMapping, Errno> {
        self.call("map")?;
        let shared = Self::shared_info(domain);
        for frame in frames {
            if *frame != shared && !self.domain(domain)?.frames.contains(frame) {
                return Err(Errno::EPERM);
            }
            assert!(!self.mapped.borrow().contains(frame), "mapped twice");
        }
        let pages = frames.iter().map(|frame| self.memory.borrow()[&frame.0].clone()).collect();
        self.mapped.borrow_mut().extend(frames);
        Ok(MockMapping { pages, frames: frames.to_vec(), mapped: self.mapped.clone() })
    }

    fn alloc_unbound(&mut self, domain: DomId) -> Result<Port, Errno> {
        self.call("alloc_unbound")?;
        let domain = self.domain(domain)?;
        domain.ports += 1;
        Ok(Port(domain.ports))
    }

    fn pin(&mut self, domain: DomId, root: Mfn) -> Result<(), Errno> {
        self.call("pin")?;
        if !self.mapped.borrow().is_empty() {
            return Err(Errno::EINVAL); // a table somebody can write
        }
        self.domain(domain)?.pinned = Some(root);
        Ok(())
    }

    fn set_context(&mut self, domain: DomId, context: &VcpuGuestContext) -> Result<(), Errno> {
        self.call("set_context")?;
        let domain = self.domain(domain)?;
        if domain.pinned.is_none_or(|root| root.maddr().0 != context.ctrlreg[3]) {
            return Err(Errno::EINVAL);
        }
        domain.context = Some(alloc::boxed::Box::new(*context));
        Ok(())
    }

    fn permit(&mut self, domain: DomId, resource: Resource, allow: bool) -> Result<(), Errno> {
        self.call(&format!("permit {allow}"))?;
        let resources = &mut self.domain(domain)?.resources;
        resources.retain(|other| *other != resource);
        resources.extend(allow.then_some(resource));
        Ok(())
    }

    fn assign(&mut self, domain: DomId, function: PciFunction, give: bool) -> Result<(), Errno> {
        self.call(&format!("assign {give}"))?;
        let functions = &mut self.domain(domain)?.functions;
        functions.retain(|other| *other != function);
        functions.extend(give.then_some(function));
        Ok(())
    }

    fn silence(&mut self, _: PciFunction) {
        self.calls.push("silence".into());
    }

    fn pause(&mut self, domain: DomId) -> Result<(), Errno> {
        self.call("pause")?;
        self.domain(domain)?.paused = true;
        Ok(())
    }

    fn unpause(&mut self, domain: DomId) -> Result<(), Errno> {
        self.call("unpause")?;
        let domain = self.domain(domain)?;
        if domain.context.is_none() {
            return Err(Errno::EINVAL);
        }
        domain.paused = false;
        Ok(())
    }

    fn destroy(&mut self, domain: DomId) -> Result<(), Errno> {
        self.call("destroy")?;
        let gone = self.domains.remove(&domain.0).ok_or(Errno::ESRCH)?;
        self.free += gone.frames.len() as u64;
        gone.frames.iter().for_each(|frame| drop(self.memory.borrow_mut().remove(&frame.0)));
        Ok(())
    }

    fn limit(&mut self, domain: DomId, pages: u64) -> Result<(), Errno> {
        self.call("limit")?;
        self.domain(domain)?.limits.iter_mut().for_each(|limits| limits.pages = pages);
        Ok(())
    }

    fn status(&mut self, domain: DomId) -> Result<Status, Errno> {
        self.call("status")?;
        let shared_info = Self::shared_info(domain);
        let domain = self.domain(domain)?;
        let MockDomain { paused, shutdown, .. } = *domain;
        Ok(Status { pages: domain.frames.len() as u64, vcpus: 1, paused, shutdown, shared_info, ..Status::default() })
    }
}
