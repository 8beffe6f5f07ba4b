//! A second domain that does what it is told: built by domctl from a handful of pages, it makes the hypercalls that are
//! put in its mailbox.
//!
//! Its pages, from [`BASE`] on: the code, the mailbox, [`DATA`] for arguments, [`GIFT`] to be granted, [`HOLE`] with nothing
//! mapped, and [`SHARED`], its shared-info page. The parent sees the mailbox, the data, the gift and the shared-info page.

use domain_rt::abi::domctl::{CreateDomain, Domctl, DomctlOp, GetDomainInfo, MaxMem, VcpuContext};
use domain_rt::abi::hypercall::Hypercall;
use domain_rt::abi::layout::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use domain_rt::abi::memory::{MemoryOp, MemoryReservation};
use domain_rt::abi::vcpu::VcpuGuestContext;
use domain_rt::abi::{DomId, Mfn, Pte, Vaddr, VcpuId};
use domain_rt::probe::{self, call, call_with};

use crate::Test;
use crate::ops::{MAP, READ, TABLE, memory, system_time};

/// Where its pages begin.
pub const BASE: u64 = 0x4000_0000;
/// Where it sees the page for arguments.
pub const DATA: u64 = BASE + 0x2000;
/// Where it sees the page to be granted.
pub const GIFT: u64 = BASE + 0x3000;
/// An address of its own where nothing is mapped.
pub const HOLE: u64 = BASE + 0x4000;
/// Where it sees its shared-info page.
pub const SHARED: u64 = BASE + 0x5000;

const CODE: u64 = BASE;
const MAILBOX: u64 = BASE + 0x1000;
/// Four tables, and the code, the mailbox, the data and the gift.
const PAGES: usize = 8;
/// How long an answer may take, in ns.
const PATIENCE: u64 = 2_000_000_000;

/// Waits for a call in the mailbox at rbx, makes it, answers, yields.
const LOOP: [u8; 55] = [
    0x48, 0x8b, 0x03, // mov rax, [rbx]
    0x48, 0x85, 0xc0, // test rax, rax
    0x74, 0x24, // jz 1f
    0x48, 0x8b, 0x43, 0x08, // mov rax, [rbx + 8]
    0x48, 0x8b, 0x7b, 0x10, // mov rdi, [rbx + 16]
    0x48, 0x8b, 0x73, 0x18, // mov rsi, [rbx + 24]
    0x48, 0x8b, 0x53, 0x20, // mov rdx, [rbx + 32]
    0x4c, 0x8b, 0x53, 0x28, // mov r10, [rbx + 40]
    0x4c, 0x8b, 0x43, 0x30, // mov r8, [rbx + 48]
    0x0f, 0x05, // syscall
    0x48, 0x89, 0x43, 0x08, // mov [rbx + 8], rax
    0x31, 0xc0, // xor eax, eax
    0x48, 0x89, 0x03, // mov [rbx], rax
    0x90, // nop
    // 1:
    0xb8, 29, 0, 0, 0, // mov eax, sched_op
    0x31, 0xff, // xor edi, edi (yield)
    0x0f, 0x05, // syscall
    0xeb, 0xc9, // jmp to the start
];

/// The domain.
pub struct Child {
    /// Its number.
    pub id: DomId,
    /// Its frames: L4 to L1, code, mailbox, data, gift.
    frames: [Mfn; PAGES],
    /// Where the parent sees the mailbox.
    mailbox: u64,
    /// Where the parent sees [`DATA`].
    pub data: u64,
    /// Where the parent sees [`GIFT`].
    pub gift: u64,
    /// Where the parent sees its shared-info page.
    pub shared: u64,
}

/// `domctl` with a payload; and the payload afterwards.
pub fn domctl<T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable>(
    cmd: DomctlOp,
    domain: DomId,
    payload: &T,
) -> (i64, T) {
    let mut op = Domctl::new(cmd, domain, payload);
    let ret = call_with(Hypercall::DOMCTL, &[], &mut op);
    (ret, op.payload.get())
}

/// `domctl` without one.
pub fn control(cmd: DomctlOp, domain: DomId) -> i64 {
    domctl(cmd, domain, &[0u64; 16]).0
}

/// What `getdomaininfo` says of a domain.
pub fn info(domain: DomId) -> (i64, GetDomainInfo) {
    domctl(DomctlOp::GETDOMAININFO, domain, &GetDomainInfo::default())
}

/// What `createdomain` takes for a plain PV domain.
pub fn plain() -> CreateDomain {
    CreateDomain {
        max_vcpus: 1,
        max_evtchn_port: 1023,
        max_grant_frames: 4,
        max_maptrack_frames: 4,
        grant_opts: 1,
        ..CreateDomain::default()
    }
}

/// `createdomain`; the number of the new domain, or the error.
pub fn create(wanted: DomId, config: &CreateDomain) -> Result<DomId, i64> {
    let mut op = Domctl::new(DomctlOp::CREATEDOMAIN, wanted, config);
    match call_with(Hypercall::DOMCTL, &[], &mut op) {
        0 => Ok(op.domain),
        error => Err(error),
    }
}

/// `update_va_mapping_otherdomain`
pub fn map_foreign(va: u64, entry: Pte, owner: DomId) -> i64 {
    call(Hypercall::UPDATE_VA_MAPPING_OTHERDOMAIN, &[va, entry.0, 2, owner.0.into()])
}

/// `destroydomain` until it is done: 0, or the error.
pub fn destroy(id: DomId) -> i64 {
    control(DomctlOp::DESTROYDOMAIN, id)
}

/// Lets others run until something is so, for so many ns at most; whether it is.
pub fn patience(ns: u64, mut is: impl FnMut() -> bool) -> bool {
    let end = system_time(probe::vcpu_info()) + ns;
    while !is() {
        if system_time(probe::vcpu_info()) > end {
            return false;
        }
        call(Hypercall::SCHED_OP, &[0, 0]);
    }
    true
}

impl Child {
    /// Builds one, paused. None where a step failed, which the verdict says.
    pub fn build(t: &mut Test) -> Option<Self> {
        let id = match create(DomId(0), &plain()) {
            Ok(id) => id,
            Err(error) => {
                t.ok("createdomain", error);
                return None;
            }
        };
        t.ok("max_vcpus", domctl(DomctlOp::MAX_VCPUS, id, &1u32).0);
        t.ok("max_mem", domctl(DomctlOp::MAX_MEM, id, &MaxMem { max_memkb: 1024 }).0);
        let mut list: [u64; PAGES] = core::array::from_fn(|pfn| pfn as u64);
        let mut reservation = MemoryReservation {
            extent_start: Vaddr(list.as_mut_ptr() as u64),
            nr_extents: PAGES as u64,
            domid: id,
            ..MemoryReservation::default()
        };
        let got = memory(MemoryOp::POPULATE_PHYSMAP, &mut reservation);
        t.returns("populate_physmap for it", got, PAGES as i64);
        let frames = core::hint::black_box(list).map(Mfn);
        let shared_info = info(id).1.shared_info_frame;
        let views: [u64; PAGES] = core::array::from_fn(|_| probe::spare_va());
        for (va, mfn) in views.iter().zip(frames) {
            t.ok("map its page", map_foreign(*va, Pte::new(mfn, MAP), id));
        }
        let [l4, l3, l2, l1, code, mailbox, data, gift] = views;
        let [_, m3, m2, m1, pages @ ..] = frames;
        for page in views {
            (0..512).for_each(|word| probe::poke(page + 8 * word, 0));
        }
        probe::poke(l4, Pte::new(m3, TABLE).0);
        probe::poke(l3 + 8, Pte::new(m2, TABLE).0);
        probe::poke(l2, Pte::new(m1, TABLE).0);
        for (slot, mfn) in (0..).zip(pages) {
            probe::poke(l1 + 8 * slot, Pte::new(mfn, MAP).0);
        }
        probe::poke(l1 + 8 * 5, Pte::new(shared_info, MAP).0);
        for (at, byte) in (code..).zip(LOOP) {
            probe::modify(at, |_| byte);
        }
        for table in [l4, l3, l2, l1] {
            t.ok("let go of its table", map_foreign(table, Pte::EMPTY, id));
        }
        let shared = probe::spare_va();
        t.ok("map its shared info", map_foreign(shared, Pte::new(shared_info, MAP), id));
        // Its events wait: it has no handler.
        probe::modify(shared + 1, |_| 1);
        let child = Self { id, frames, mailbox, data, gift, shared };
        t.ok("setvcpucontext", child.set_context(&child.context()));
        Some(child)
    }

    /// The state it starts in.
    pub fn context(&self) -> VcpuGuestContext {
        let flags = VcpuGuestContext::VGCF_IN_KERNEL | VcpuGuestContext::VGCF_ONLINE;
        let mut context = VcpuGuestContext { flags, ..VcpuGuestContext::default() };
        context.user_regs.rip = CODE;
        context.user_regs.rbx = MAILBOX;
        context.user_regs.rsp = DATA + 0x1000;
        context.user_regs.cs = FLAT_RING3_CS64;
        context.user_regs.ss = FLAT_RING3_SS64;
        context.user_regs.rflags = 0x202;
        context.kernel_ss = FLAT_RING3_SS64.into();
        context.kernel_sp = Vaddr(DATA + 0x1000);
        let [l4, ..] = self.frames;
        context.ctrlreg[3] = l4.maddr().0;
        context
    }

    /// `setvcpucontext` of its vCPU.
    pub fn set_context(&self, context: &VcpuGuestContext) -> i64 {
        let at = VcpuContext { vcpu: VcpuId(0), _pad: 0, ctxt: Vaddr(&raw const *context as u64) };
        domctl(DomctlOp::SETVCPUCONTEXT, self.id, &at).0
    }

    /// `getvcpucontext` of its vCPU.
    pub fn get_context(&self, context: &mut VcpuGuestContext) -> i64 {
        let at = VcpuContext { vcpu: VcpuId(0), _pad: 0, ctxt: Vaddr(&raw mut *context as u64) };
        domctl(DomctlOp::GETVCPUCONTEXT, self.id, &at).0
    }

    /// The frame of the page at [`GIFT`].
    pub fn gift_frame(&self) -> Mfn {
        let [.., gift] = self.frames;
        gift
    }

    /// The frame of the page at [`DATA`].
    pub fn data_frame(&self) -> Mfn {
        let [.., data, _] = self.frames;
        data
    }

    /// A page for arguments of hypercalls that it does not make by its mailbox: its frame, and where the parent sees it.
    pub fn spare(&self) -> (Mfn, u64) {
        let [.., mailbox, _, _] = self.frames;
        (mailbox, self.mailbox)
    }

    /// The frame of its root.
    pub fn root_frame(&self) -> Mfn {
        let [root, ..] = self.frames;
        root
    }

    /// Where the parent can map its root: read-only.
    pub fn map_root(&self, va: u64) -> i64 {
        map_foreign(va, Pte::new(self.root_frame(), READ), self.id)
    }

    /// Puts a hypercall into its mailbox.
    pub fn ask(&self, number: Hypercall, args: &[u64]) {
        probe::poke(self.mailbox + 8, number.0.into());
        for slot in 0..5 {
            probe::poke(self.mailbox + 16 + 8 * slot, args.get(slot as usize).copied().unwrap_or(0));
        }
        probe::poke(self.mailbox, 1);
    }

    /// Whether it has answered what it was asked, and what; None while it has not.
    pub fn answer(&self) -> Option<i64> {
        (probe::peek(self.mailbox) == 0).then(|| probe::peek(self.mailbox + 8) as i64)
    }

    /// Has it make a hypercall; -1 << 32 where no answer comes.
    pub fn call(&self, number: Hypercall, args: &[u64]) -> i64 {
        self.ask(number, args);
        self.wait(PATIENCE).unwrap_or(-1 << 32)
    }

    /// Waits so many ns for its answer, and lets it run meanwhile.
    pub fn wait(&self, ns: u64) -> Option<i64> {
        patience(ns, || self.answer().is_some());
        self.answer()
    }

    /// Has it make a hypercall with a structure, put at [`DATA`], as the argument after `words`.
    pub fn call_with<T>(&self, number: Hypercall, words: &[u64], argument: &mut T) -> i64
    where
        T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
    {
        for (at, byte) in (self.data..).zip(argument.as_bytes()) {
            probe::modify(at, |_| *byte);
        }
        let mut all = [0; 5];
        all.iter_mut().zip(words.iter().chain(&[DATA, 1])).for_each(|(to, from)| *to = *from);
        let ret = self.call(number, &all);
        for (at, byte) in (self.data..).zip(argument.as_mut_bytes()) {
            probe::modify(at, |now| {
                *byte = now;
                now
            });
        }
        ret
    }
}
