//! What each CPU has for itself, found by GS.

use alloc::sync::Arc;
use core::cell::{Cell, OnceCell, UnsafeCell};
use core::mem::offset_of;
use core::ptr::NonNull;

use abi::Mfn;
use ferrule_core::sync::ArcGuard;
use ferrule_core::vcpu::GDT_FRAMES;
use ferrule_core::{Caller, Cpu, Domain, Run, Vcpu};

use crate::descriptors::Tables;
use crate::machine::Machine;

/// The vCPU that runs on a CPU. Holding its [`Run`] is what "runs" means.
pub struct Current {
    /// Its domain.
    pub domain: Arc<Domain<Machine>>,
    /// The vCPU.
    pub vcpu: Arc<Vcpu<Machine>>,
    /// Its machine state, ours until it is switched away.
    pub run: ArcGuard<Machine, Run>,
}

/// The vCPU that runs on a CPU, and its machine: good until the next switch there.
pub type Running = NonNull<Caller<'static, Machine>>;

/// A CPU's own data. The first fields are at offsets that entry.s knows.
#[repr(C, align(64))]
pub struct PerCpu {
    this: *const PerCpu,
    scratch: u64,
    /// Behind `ss` of the current vCPU's register file; where entries store.
    pub frame_end: UnsafeCell<u64>,
    /// The top of this CPU's stack.
    pub stack_top: u64,
    /// Who runs here, ready for the core's logic: lies in `seen`.
    pub caller: Cell<Option<Running>>,
    /// Which CPU this is.
    pub id: u32,
    /// The same, as the core's logic sees it: see [`cpu`](crate::machine::cpu).
    pub cpu: OnceCell<&'static Cpu<Machine>>,
    /// Who runs here.
    pub current: UnsafeCell<Option<Current>>,
    /// The same as the core's logic sees it: refers into `current`, which nobody else touches while this is there.
    pub seen: UnsafeCell<Option<Caller<'static, Machine>>>,
    /// Its descriptor tables.
    pub tables: UnsafeCell<Tables>,
    /// How many pages of the GDT window, from its first on, may have a frame of a guest's.
    pub gdt_pages: Cell<usize>,
    /// The frame of the root that is loaded.
    pub root: UnsafeCell<Mfn>,
}

const _: () = assert!(offset_of!(PerCpu, scratch) == 8);
const _: () = assert!(offset_of!(PerCpu, frame_end) == 16);
const _: () = assert!(offset_of!(PerCpu, stack_top) == 24);
const _: () = assert!(offset_of!(PerCpu, caller) == 32);

impl PerCpu {
    /// A CPU's data, its own address not yet known.
    pub fn new(id: u32, stack_top: u64) -> Self {
        Self {
            this: core::ptr::null(),
            scratch: 0,
            frame_end: UnsafeCell::new(stack_top),
            stack_top,
            caller: Cell::new(None),
            id,
            cpu: OnceCell::new(),
            current: UnsafeCell::new(None),
            seen: UnsafeCell::new(None),
            tables: UnsafeCell::new(Tables::new()),
            gdt_pages: Cell::new(GDT_FRAMES),
            root: UnsafeCell::new(Mfn(0)),
        }
    }

    /// Notes where it has come to lie, and makes this CPU find it by GS.
    pub fn install(&'static mut self) -> &'static Self {
        self.this = self;
        let this: &'static Self = self;
        x86_64::registers::model_specific::GsBase::write(x86_64::VirtAddr::from_ptr(this));
        this
    }
}

/// This CPU's data.
pub fn get() -> &'static PerCpu {
    let this: *const PerCpu;
    // SAFETY: GS holds the address of this CPU's `PerCpu` whenever Rust code runs in ring 0 (`install`, and swapgs at
    // each entry), its first word is that address, and it is never freed. Not `nomem`: it must stay behind what loads GS.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) this, options(pure, readonly, nostack, preserves_flags));
        &*this
    }
}

/// The number of this CPU.
pub fn id() -> u32 {
    get().id
}
