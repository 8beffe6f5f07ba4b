//! What operations cost, in TSC ticks: instructions, under icount. `BENCH name value` a line, the median of many.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::event::{BindIpi, EvtchnOp, PortArg};
use conformance_guests::abi::grant::{
    Copy, CopyPtr, GrantOp, GrantStatus, MapGrantRef, SetupTable, UnmapGrantRef, gntmap,
};
use conformance_guests::abi::hypercall::Hypercall as H;
use conformance_guests::abi::memory::{MemoryOp, MemoryReservation};
use conformance_guests::abi::mmu::{MmuUpdate, MmuextCmd};
use conformance_guests::abi::multicall::MulticallEntry;
use conformance_guests::abi::{DomId, Errno, GrantRef, Maddr, Mfn, Port, Pte, Vaddr, VcpuId};
use conformance_guests::domain_rt::arch::rdtsc;
use conformance_guests::domain_rt::println;
use conformance_guests::domain_rt::probe::{self, Page, Regs, call, exec, exec_resuming, exec_user};
use conformance_guests::ops::{MAP, READ, evtchn, grant, memory, mmu_update, mmu_update_for, mmuext, update_va};
use conformance_guests::{Test, code, guest};

guest!(run);

/// Times an operation is measured.
const TIMES: usize = 101;

fn run(t: &mut Test) {
    let base = median(|| {});
    let bench = |name: &str, ticks: u64| println!("BENCH {name} {}", ticks.saturating_sub(base));
    hypercalls(t, &bench);
    tables(t, &bench);
    pages(t, &bench);
    grants(t, &bench);
    traps(t, &bench);
    events(t, &bench);
}

/// Median ticks of an operation, the clock's own included.
fn median(mut op: impl FnMut()) -> u64 {
    let mut ticks = [0u64; TIMES];
    for slot in &mut ticks {
        let start = rdtsc();
        op();
        *slot = rdtsc() - start;
    }
    middle(&mut ticks)
}

fn middle(ticks: &mut [u64]) -> u64 {
    ticks.sort_unstable();
    ticks.get(ticks.len() / 2).copied().unwrap_or(0)
}

fn hypercalls(t: &mut Test, bench: &dyn Fn(&str, u64)) {
    // Once more without the clock, for what it returns: both sides must have done the same.
    let mut timed = |name, number, args: &[u64], returns| {
        bench(
            name,
            median(|| {
                call(number, args);
            }),
        );
        t.returns(name, call(number, args), returns);
    };
    timed("hypercall_null", H::XEN_VERSION, &[0, 0], 4 << 16 | 17);
    timed("hypercall_unknown", H(60), &[], Errno::ENOSYS.code());
    let mut hc = |name, number, args: &[u64]| timed(name, number, args, 0);
    hc("stack_switch", H::STACK_SWITCH, &[0xe02b, probe::user_stack_top()]);
    hc("set_segment_base", H::SET_SEGMENT_BASE, &[0, 0]);
    hc("fpu_taskswitch", H::FPU_TASKSWITCH, &[0]);
    hc("set_timer_off", H::SET_TIMER_OP, &[0]);
    hc("set_timer_far", H::SET_TIMER_OP, &[1 << 50]);
    hc("set_timer_off_again", H::SET_TIMER_OP, &[0]);
    hc("yield", H::SCHED_OP, &[0, 0]);
    let entry = MulticallEntry { op: H::XEN_VERSION.0.into(), ..MulticallEntry::default() };
    let mut batch = [entry; 10];
    let at = batch.as_mut_ptr() as u64;
    hc("multicall_10", H::MULTICALL, &[at, 10]);
    let done = core::hint::black_box(batch).iter().filter(|entry| entry.result == 4 << 16 | 17).count();
    t.eq("each of ten", done, 10);
}

fn slot(va: u64) -> u64 {
    probe::pte_slot(Vaddr(va), 1).map_or(0, |(at, _)| at.0)
}

fn tables(t: &mut Test, bench: &dyn Fn(&str, u64)) {
    let (a, b) = (probe::page(), probe::page());
    let at = slot(a.va);
    let entries = [Pte::new(a.mfn, MAP), Pte::new(b.mfn, MAP)];
    let mut turn = 0;
    let mut next = || {
        turn ^= 1;
        entries.get(turn).copied().unwrap_or(Pte::EMPTY)
    };
    bench(
        "mmu_update",
        median(|| {
            mmu_update(at, next().0);
        }),
    );
    t.ok("mmu_update", mmu_update(at, next().0));
    bench(
        "mmu_update_16",
        median(|| {
            // Each entry changes.
            mmu_update_for(&mut [(); 16].map(|()| MmuUpdate { ptr: at, val: next().0 }), DomId::SELF);
        }),
    );
    let mut sixteen = [(); 16].map(|()| MmuUpdate { ptr: at, val: next().0 });
    t.eq("sixteen of them", mmu_update_for(&mut sixteen, DomId::SELF), (0, 16));
    bench(
        "update_va_new_frame_flush",
        median(|| {
            update_va(a.va, next(), 1);
        }),
    );
    t.ok("update_va_mapping", update_va(a.va, next(), 1));
    let flags = [Pte::new(a.mfn, MAP), Pte::new(a.mfn, READ)];
    let mut turn = 0;
    let mut flip = || {
        turn ^= 1;
        flags.get(turn).copied().unwrap_or(Pte::EMPTY)
    };
    update_va(a.va, Pte::new(a.mfn, MAP), 1);
    bench(
        "update_va_protect",
        median(|| {
            update_va(a.va, flip(), 0);
        }),
    );
    bench(
        "update_va_protect_invlpg",
        median(|| {
            update_va(a.va, flip(), 2);
        }),
    );
    t.ok("update_va_mapping of flags", update_va(a.va, flip(), 2));
    bench(
        "tlb_flush_local",
        median(|| {
            mmuext(MmuextCmd::TLB_FLUSH_LOCAL, 0, 0);
        }),
    );
    bench(
        "invlpg_local",
        median(|| {
            mmuext(MmuextCmd::INVLPG_LOCAL, a.va, 0);
        }),
    );
    t.ok("flush", mmuext(MmuextCmd::TLB_FLUSH_LOCAL, 0, 0));
    t.ok("invlpg", mmuext(MmuextCmd::INVLPG_LOCAL, a.va, 0));
    base_pointers(t, bench);
    pins(t, bench);
}

fn copy_of_l4(t: &mut Test) -> Page {
    let page = probe::page();
    for i in (0..256).chain(272..512) {
        page.set(i, probe::peek(conformance_guests::l4() + 8 * i as u64));
    }
    t.ok("protect", page.protect(false));
    t.ok("pin", mmuext(MmuextCmd::PIN_L4_TABLE, page.mfn.0, 0));
    page
}

fn base_pointers(t: &mut Test, bench: &dyn Fn(&str, u64)) {
    let other = copy_of_l4(t).mfn.0;
    let own = probe::mfn_of(conformance_guests::l4()).0;
    let mut here = own;
    bench(
        "new_baseptr",
        median(|| {
            here ^= own ^ other;
            mmuext(MmuextCmd::NEW_BASEPTR, here, 0);
        }),
    );
    t.ok("back", mmuext(MmuextCmd::NEW_BASEPTR, own, 0));
}

fn pins(t: &mut Test, bench: &dyn Fn(&str, u64)) {
    let (table, leaf) = (probe::page(), probe::page());
    (0..512).for_each(|i| table.set(i, Pte::new(leaf.mfn, MAP).0));
    t.ok("protect", table.protect(false));
    let (mut pins, mut unpins) = ([0u64; 9], [0u64; 9]);
    for (pin, unpin) in pins.iter_mut().zip(&mut unpins) {
        let start = rdtsc();
        mmuext(MmuextCmd::PIN_L1_TABLE, table.mfn.0, 0);
        let between = rdtsc();
        mmuext(MmuextCmd::UNPIN_TABLE, table.mfn.0, 0);
        (*pin, *unpin) = (between - start, rdtsc() - between);
    }
    t.ok("pin", mmuext(MmuextCmd::PIN_L1_TABLE, table.mfn.0, 0));
    t.ok("unpin", mmuext(MmuextCmd::UNPIN_TABLE, table.mfn.0, 0));
    bench("pin_l1_512", middle(&mut pins));
    bench("unpin_l1_512", middle(&mut unpins));
}

fn pages(t: &mut Test, bench: &dyn Fn(&str, u64)) {
    let page = probe::page();
    let pfn = probe::peek(0xffff_8000_0000_0000 + 8 * page.mfn.0);
    t.ok("unmap", update_va(page.va, Pte::EMPTY, 2));
    let mut list = [page.mfn.0];
    let at = Vaddr(list.as_mut_ptr() as u64);
    let mut request =
        MemoryReservation { extent_start: at, nr_extents: 1, domid: DomId::SELF, ..MemoryReservation::default() };
    let (mut gives, mut takes) = ([0u64; TIMES], [0u64; TIMES]);
    for (give, take) in gives.iter_mut().zip(&mut takes) {
        let start = rdtsc();
        let given = memory(MemoryOp::DECREASE_RESERVATION, &mut request);
        *give = rdtsc() - start;
        probe::poke(at.0, pfn);
        let start = rdtsc();
        let taken = memory(MemoryOp::POPULATE_PHYSMAP, &mut request);
        *take = rdtsc() - start;
        t.eq("a page given and taken", (given, taken), (1, 1));
    }
    bench("decrease_reservation", middle(&mut gives));
    bench("populate_physmap", middle(&mut takes));
    core::hint::black_box(list);
}

fn grants(t: &mut Test, bench: &dyn Fn(&str, u64)) {
    let mut list = [0u64; 1];
    let mut setup = SetupTable {
        dom: DomId::SELF,
        nr_frames: 1,
        frame_list: Vaddr(list.as_mut_ptr() as u64),
        ..SetupTable::default()
    };
    t.ok("setup_table", grant(GrantOp::SETUP_TABLE, &mut setup));
    let table = probe::spare_va();
    let frame = Mfn(core::hint::black_box(list).first().copied().unwrap_or(0));
    t.ok("map the table", update_va(table, Pte::new(frame, MAP), 2));
    let (page, to, va) = (probe::page(), probe::page(), probe::spare_va());
    probe::poke(table + 8 * 9, 1 | page.mfn.0 << 32);
    probe::poke(table + 8 * 10, 1 | to.mfn.0 << 32);
    let (mut maps, mut unmaps) = ([0u64; TIMES], [0u64; TIMES]);
    for (map_ticks, unmap_ticks) in maps.iter_mut().zip(&mut unmaps) {
        let mut map = MapGrantRef {
            host_addr: va,
            flags: gntmap::HOST_MAP,
            gref: GrantRef(9),
            dom: DomId(0),
            ..MapGrantRef::default()
        };
        let start = rdtsc();
        grant(GrantOp::MAP_GRANT_REF, &mut map);
        *map_ticks = rdtsc() - start;
        let mut unmap =
            UnmapGrantRef { host_addr: va, dev_bus_addr: Maddr(0), handle: map.handle, ..UnmapGrantRef::default() };
        let start = rdtsc();
        grant(GrantOp::UNMAP_GRANT_REF, &mut unmap);
        *unmap_ticks = rdtsc() - start;
        t.eq("mapped and unmapped", (map.status, unmap.status), (GrantStatus::OKAY, GrantStatus::OKAY));
    }
    bench("grant_map", middle(&mut maps));
    bench("grant_unmap", middle(&mut unmaps));
    let end = |frame| CopyPtr { frame, domid: DomId::SELF, ..CopyPtr::default() };
    for (name, len) in [("grant_copy_4096", 4096), ("grant_copy_64", 64)] {
        let mut copy = Copy { source: end(9), dest: end(10), len, flags: 3, ..Copy::default() };
        bench(
            name,
            median(|| {
                grant(GrantOp::COPY, &mut copy);
            }),
        );
        t.eq("copied", copy.status.0, 0);
    }
}

/// `lfence`-free clock around code, in the code itself: the difference comes in `r8`.
fn timed(op: &[u8]) -> ([u8; 128], usize) {
    // rdtsc; shl rdx, 32; or rax, rdx; mov r8, rax; mov rax, r9; mov rdx, r10
    const BEFORE: &[u8] =
        &[0x0f, 0x31, 0x48, 0xc1, 0xe2, 32, 0x48, 0x09, 0xd0, 0x49, 0x89, 0xc0, 0x4c, 0x89, 0xc8, 0x4c, 0x89, 0xd2];
    // rdtsc; shl rdx, 32; or rax, rdx; sub rax, r8; mov r8, rax
    const AFTER: &[u8] = &[0x0f, 0x31, 0x48, 0xc1, 0xe2, 32, 0x48, 0x09, 0xd0, 0x4c, 0x29, 0xc0, 0x49, 0x89, 0xc0];
    let mut code = [0x90; 128];
    let bytes = BEFORE.iter().chain(op).chain(AFTER);
    code.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    (code, BEFORE.len() + op.len() + AFTER.len())
}

/// Median of `r8` after code under the clock.
fn median_of(op: &[u8], regs: Regs, run: impl Fn(&[u8], &mut Regs)) -> u64 {
    let (code, len) = timed(op);
    let mut ticks = [0u64; TIMES];
    for slot in &mut ticks {
        let mut regs = regs;
        run(code.get(..len).unwrap_or(&[]), &mut regs);
        *slot = regs.r8;
    }
    middle(&mut ticks)
}

fn traps(t: &mut Test, bench: &dyn Fn(&str, u64)) {
    let page = probe::page();
    page.set(1, Pte::new(page.mfn, READ).0);
    t.ok("protect", page.protect(false));
    t.ok("pin", mmuext(MmuextCmd::PIN_L1_TABLE, page.mfn.0, 0));
    let mut kernel = |name, op: &[u8], regs: Regs| {
        bench(
            name,
            median_of(op, regs, |code, regs| {
                exec(code, regs);
            }),
        );
        t.runs(name, exec(op, &mut { regs }));
    };
    let entry = Regs { rdi: page.va + 8, r9: Pte::new(page.mfn, READ).0, ..Regs::default() };
    kernel("pte_write_trapped", code::STORE, entry);
    kernel("read_cr0", code::READ_CR0, Regs::default());
    kernel("rdmsr", code::RDMSR, Regs { rcx: 0xc000_0080, ..Regs::default() });
    kernel("wrmsr", code::WRMSR, Regs { rcx: 0xc000_0100, ..Regs::default() });
    kernel("cpuid_forced", code::CPUID, Regs { r9: 0x4000_0001, ..Regs::default() });
    let mut resumed = |name, op: &[u8], regs: Regs, skip| {
        bench(
            name,
            median_of(op, regs, |code, regs| {
                exec_resuming(code, regs, skip);
            }),
        );
        t.eq(name, exec_resuming(op, &mut { regs }, skip).1, 1);
    };
    resumed("int3_round_trip", code::INT3, Regs::default(), 0);
    resumed("page_fault_round_trip", code::LOAD, Regs { rdi: 0x1000, ..Regs::default() }, 3);
    let user = copy_of_l4(t);
    t.ok("user base", mmuext(MmuextCmd::NEW_USER_BASEPTR, user.mfn.0, 0));
    // Into user mode by iret and back by syscall; the harness around it counts too.
    bench(
        "user_round_trip",
        median(|| {
            exec_user(&[], &mut Regs::default());
        }),
    );
    bench(
        "kernel_run",
        median(|| {
            exec(&[], &mut Regs::default());
        }),
    );
}

fn events(t: &mut Test, bench: &dyn Fn(&str, u64)) {
    let mut ipi = BindIpi { vcpu: VcpuId(0), port: Port(0) };
    t.ok("bind_ipi", evtchn(EvtchnOp::BIND_IPI, &mut ipi));
    let mut port = PortArg { port: ipi.port };
    let clear = || {
        probe::poke(probe::shared_info() + 2048, 0);
        probe::poke(probe::vcpu_info() + 8, 0);
        probe::modify(probe::vcpu_info(), |_| 0);
    };
    clear();
    let mut quiet = [0u64; TIMES];
    let mut upcall = [0u64; TIMES];
    for (quiet, upcall) in quiet.iter_mut().zip(&mut upcall) {
        probe::mask_events(true);
        let start = rdtsc();
        evtchn(EvtchnOp::SEND, &mut port);
        *quiet = rdtsc() - start;
        clear();
        probe::mask_events(false);
        let start = rdtsc();
        evtchn(EvtchnOp::SEND, &mut port);
        *upcall = rdtsc() - start;
        probe::mask_events(true);
        clear();
    }
    bench("evtchn_send_masked", middle(&mut quiet));
    bench("evtchn_send_upcall_round_trip", middle(&mut upcall));
    t.yes("upcalls came", probe::upcalls() >= TIMES as u64);
}
