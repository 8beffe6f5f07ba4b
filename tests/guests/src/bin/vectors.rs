//! XSAVE as a guest has it: CPUID shows it, CR4.OSXSAVE and XCR0 are the vCPU's own, the instructions save and load what is
//! on and refuse the rest, and AVX registers are kept when two vCPUs share a CPU.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::VcpuId;
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::trap::vector;
use conformance_guests::abi::vcpu::{RunstateInfo, VcpuGuestContext, VcpuOp};
use conformance_guests::code;
use conformance_guests::domain_rt::probe::{self, Entry, Regs, call, exec};
use conformance_guests::ops::{system_time, vcpu};
use conformance_guests::{Test, guest};

guest!(run);

const MS: u64 = 1_000_000;
/// How long both watch their registers, in system time.
const TOGETHER: u64 = 400 * MS;
const OURS: u64 = 0xa5a5_8765_4321_fedc;
const UD: Entry = Entry::Exception(vector::UD);
const GP: Entry = Entry::Exception(vector::GP);
const XSAVE: u64 = 1 << 26;
const OSXSAVE: u64 = 1 << 27;

fn leaf(leaf: u64, subleaf: u64) -> [u64; 4] {
    let mut regs = Regs { rax: leaf, rcx: subleaf, ..Regs::default() };
    exec(code::CPUID, &mut regs);
    [regs.rax, regs.rbx, regs.rcx, regs.rdx]
}

fn xsetbv(which: u64, value: u64) -> Option<probe::Frame> {
    exec(code::XSETBV, &mut Regs { rax: value, rcx: which, ..Regs::default() })
}

fn now() -> u64 {
    system_time(probe::vcpu_info())
}

fn run(t: &mut Test) {
    let [_, _, features, _] = leaf(1, 0);
    if features & XSAVE == 0 {
        return t.skip("no XSAVE");
    }
    // The hypervisor's own, which Linux looks for.
    t.eq("OSXSAVE is set", features & OSXSAVE, OSXSAVE);
    t.eq("XGETBV is the processor's, whatever CR4", probe::xcr0(), 3);
    t.traps("XSETBV before it is set", xsetbv(0, 3), UD, 0);
    probe::enable_xsave();
    t.eq("XCR0 at first", probe::xcr0(), 3);
    let [states, _, most, _] = leaf(0xd, 0);
    t.eq("x87, SSE, AVX", states & 7, 7);
    t.yes("as many bytes as they need", most >= 0x340);
    t.eq("AVX's place", leaf(0xd, 2), [0x100, 0x240, 0, 0]);
    for (value, name) in [(0, "none"), (2, "no x87"), (5, "AVX without SSE"), (1 << 62 | 3, "one there is not")] {
        t.traps(
            name,
            exec(code::XSETBV, &mut Regs { rax: value & 0xffff_ffff, rdx: value >> 32, ..Regs::default() }),
            GP,
            0,
        );
    }
    t.traps("XCR1", xsetbv(1, 3), GP, 0);
    t.runs("AVX", xsetbv(0, 7));
    t.eq("is on", probe::xcr0(), 7);
    instructions(t);
    shared(t);
}

/// XGETBV, XSAVE and XRSTOR are the processor's own, with what XCR0 has on.
fn instructions(t: &mut Test) {
    let area = probe::page();
    let with = |code: &[u8], at: u64, states: u64| exec(code, &mut Regs { rdi: at, rax: states, ..Regs::default() });
    let [kinds, ..] = leaf(0xd, 1);
    let xgetbv = |which: u64| {
        let mut regs = Regs { rcx: which, ..Regs::default() };
        (exec(code::XGETBV, &mut regs), regs.rax)
    };
    t.traps("XGETBV of none", xgetbv(2).0, GP, 0);
    if kinds & 4 != 0 {
        let (trap, used) = xgetbv(1);
        t.runs("XGETBV of what is in use", trap);
        t.eq("no more than is on", used & !7, 0);
    }
    // Bytes 512 to 575 are the header: components, form, and zeros.
    for (what, code, there) in
        [("XSAVE", XSAVE_RDI, true), ("XSAVEOPT", XSAVEOPT_RDI, kinds & 1 != 0), ("XSAVEC", XSAVEC_RDI, kinds & 2 != 0)]
    {
        if there {
            (0..512).for_each(|word| area.set(word, 0));
            t.runs(what, with(code, area.va, !0));
            t.eq("no more than is on", area.get(64) & !7, 0);
            t.runs("and back", with(XRSTOR_RDI, area.va, !0));
            t.traps("not aligned", with(code, area.va + 8, !0), GP, 0);
        }
    }
    (0..512).for_each(|word| area.set(word, 0));
    t.runs("XSAVE again", with(XSAVE_RDI, area.va, !0));
    for (what, word, value) in
        [("a component that is off", 64, 1 << 9), ("one there is not", 64, 1 << 62), ("a form there is not", 66, 1)]
    {
        let before = area.get(word);
        area.set(word, value);
        t.traps(what, with(XRSTOR_RDI, area.va, !0), GP, 0);
        area.set(word, before);
    }
    t.traps("XRSTOR that is not aligned", with(XRSTOR_RDI, area.va + 16, !0), GP, 0);
    // It reads the header, or writes what is in front of it first.
    let got = with(XSAVE_RDI, 0x1000, !0).map(|f| (f.entry, f.error_code & !2));
    t.eq("XSAVE to nowhere", got, Some((Entry::Exception(vector::PF), 0)));
    t.runs("XRSTOR of all", with(XRSTOR_RDI, area.va, !0));
}

/// `xsave [rdi]`, `xsaveopt [rdi]`, `xsavec [rdi]`, `xrstor [rdi]`
const XSAVE_RDI: &[u8] = &[0x0f, 0xae, 0x27];
const XSAVEOPT_RDI: &[u8] = &[0x0f, 0xae, 0x37];
const XSAVEC_RDI: &[u8] = &[0x0f, 0xc7, 0x27];
const XRSTOR_RDI: &[u8] = &[0x0f, 0xae, 0x2f];

/// Another vCPU watches its registers on the same CPU.
fn shared(t: &mut Test) {
    (0..2).for_each(|v| {
        call(Hypercall::VCPU_OP, &[VcpuOp::STOP_PERIODIC_TIMER.0.into(), v, 0]);
    });
    let mut context = VcpuGuestContext::default();
    probe::watcher_context(&mut context, probe::mfn_of(t.info.pt_base.0).maddr().0);
    t.ok("initialise", vcpu(VcpuOp::INITIALISE, 1, &mut context));
    probe::fill_ymm(OURS);
    t.ok("up", call(Hypercall::VCPU_OP, &[VcpuOp::UP.0.into(), 1, 0]));
    let mut kept = true;
    let start = now();
    while now() - start < TOGETHER || probe::watched().0 == 0 {
        kept &= probe::ymm_holds(OURS);
        call(Hypercall::SCHED_OP, &[0, 0]);
    }
    t.yes("our registers are kept", kept);
    // Less here is no less there.
    t.runs("SSE alone", xsetbv(0, 3));
    let (before, start) = (probe::watched().0, now());
    while now() - start < TOGETHER / 4 || probe::watched().0 == before {
        t.eq("XCR0 is our own", probe::xcr0(), 3);
        call(Hypercall::SCHED_OP, &[0, 0]);
    }
    t.runs("AVX again", xsetbv(0, 7));
    t.yes("still there", probe::ymm_holds(OURS));
    t.ok("down", call(Hypercall::VCPU_OP, &[VcpuOp::DOWN.0.into(), 1, 0]));
    let mut info = RunstateInfo::default();
    t.ok("get_runstate_info", vcpu(VcpuOp::GET_RUNSTATE_INFO, VcpuId(1).0, &mut info));
    t.yes("the other has run", info.time[0] > TOGETHER / 8);
    t.yes("and its registers are kept", probe::watched().1);
}
