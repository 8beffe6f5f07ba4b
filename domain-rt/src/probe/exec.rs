//! Runs instructions under a net: a trap ends them, is recorded, and the program goes on.
//!
//! `exec` copies code to a page, loads registers and jumps. Entries from the hypervisor land in
//! stubs, which save registers and frame; then either control returns to `exec`'s caller, as
//! `longjmp` would, or (resuming) to the interrupted code by the `iret` hypercall.

use crate::hypercall;
use abi::callback::{CallbackRegister, CallbackType};
use abi::hypercall::Hypercall;
use abi::layout::FLAT_RING3_CS64;
use abi::trap::{TrapInfo, vector};
use abi::{PAGE_SIZE, Vaddr};

/// General registers, before and after. An `rsp` of 0 stands for the caller's stack.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Regs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rflags: u64,
    pub rsp: u64,
}

/// What entered the guest: an exception, or a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An exception of that vector.
    Exception(u8),
    /// The system call callback.
    Syscall,
    /// The failsafe callback.
    Failsafe,
    /// The NMI callback.
    Nmi,
    /// The sysenter callback.
    Sysenter,
}

/// An entry and the frame the hypervisor pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What.
    pub entry: Entry,
    /// Error code, 0 where there is none.
    pub error_code: u64,
    /// Where.
    pub rip: u64,
    /// Code selector as pushed: RPL 0 if kernel mode was interrupted.
    pub cs: u16,
    /// The whole word the selector is in: bits 32..=39 are the saved event mask.
    pub cs_word: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack selector.
    pub ss: u64,
    /// CR2 as `vcpu_info` has it.
    pub cr2: u64,
    /// The event mask during the handler.
    pub masked: bool,
    /// Stack pointer of the handler's frame.
    pub frame_at: u64,
    /// DS, ES, FS, GS of a failsafe frame.
    pub selectors: [u64; 4],
}

const FAILSAFE: u64 = 32;
const SYSCALL: u64 = 33;
const NMI: u64 = 34;
const SYSENTER: u64 = 35;
#[cfg(target_os = "none")]
const STUBS: u64 = 36;

/// What the stubs and Rust share.
#[repr(C)]
struct State {
    /// Where to unwind to; 0 while no code runs under the net.
    saved_rsp: u64,
    /// The caller's register file.
    regs: u64,
    /// Where the code starts.
    target: u64,
    /// Scratch.
    scratch: u64,
    /// Entries seen.
    count: u64,
    /// Vector or callback of the last.
    kind: u64,
    /// Words of the frame, from rcx up.
    frame: [u64; 12],
    /// Address of the frame.
    frame_at: u64,
    /// Not 0: return to the interrupted code, this many bytes further plus 1.
    resume: u64,
    /// Event upcalls seen.
    upcalls: u64,
    /// vcpu_info of this vCPU.
    vcpu_info: u64,
    /// Mask byte at the last entry.
    masked: u64,
    /// Words of the last upcall's frame.
    upcall_frame: [u64; 7],
}

static mut STATE: State = State {
    saved_rsp: 0,
    regs: 0,
    target: 0,
    scratch: 0,
    count: 0,
    kind: 0,
    frame: [0; 12],
    frame_at: 0,
    resume: 0,
    upcalls: 0,
    vcpu_info: 0,
    masked: 0,
    upcall_frame: [0; 7],
};

#[repr(C, align(4096))]
struct Aligned<const N: usize>([u8; N]);

static mut CODE: Aligned<PAGE_SIZE> = Aligned([0; PAGE_SIZE]);
static mut USER_STACK: Aligned<{ 4 * PAGE_SIZE }> = Aligned([0; 4 * PAGE_SIZE]);
static mut KERNEL_STACK: Aligned<{ 4 * PAGE_SIZE }> = Aligned([0; 4 * PAGE_SIZE]);

#[cfg(target_os = "none")]
core::arch::global_asm!(
    // fn(regs: rdi, kind: rsi); kind 1 enters user mode.
    "__probe_exec:",
    "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "lea rax, [rip + {state}]",
    "mov [rax + {regs}], rdi",
    "mov [rax + {saved_rsp}], rsp",
    "mov rcx, [rdi + 16*8]",
    "test rcx, rcx",
    "jz 2f",
    "mov rsp, rcx",
    "2:",
    "cmp rsi, 1",
    "je 3f",
    "push qword ptr [rdi + 15*8]",
    "popfq",
    "call 4f",
    "jmp qword ptr [rip + {state} + {target}]",
    "3:",
    // A frame for the iret hypercall: rax, r11, rcx, flags, rip, cs, rflags, rsp, ss.
    "mov rax, rsp",
    "lea rcx, [rip + {state}]",
    "mov rsp, [rcx + {saved_rsp}]",
    "push 0xe02b",
    "push rax",
    "push qword ptr [rdi + 15*8]",
    "push 0xe033",
    "push qword ptr [rcx + {target}]",
    "push 0",
    "push qword ptr [rdi + 2*8]",
    "push qword ptr [rdi + 10*8]",
    "push qword ptr [rdi]",
    "call 4f",
    "mov eax, 23",
    "syscall",
    "ud2",
    // Loads all but rsp and rflags from [rdi].
    "4:",
    "mov rax, [rdi]", "mov rbx, [rdi + 8]", "mov rcx, [rdi + 16]", "mov rdx, [rdi + 24]",
    "mov rsi, [rdi + 32]", "mov rbp, [rdi + 48]", "mov r8, [rdi + 56]", "mov r9, [rdi + 64]",
    "mov r10, [rdi + 72]", "mov r11, [rdi + 80]", "mov r12, [rdi + 88]", "mov r13, [rdi + 96]",
    "mov r14, [rdi + 104]", "mov r15, [rdi + 112]", "mov rdi, [rdi + 40]",
    "ret",

    // The code came to its end: save registers, go home.
    "__probe_done:",
    "mov [rip + {state} + {scratch}], rax",
    "mov rax, [rip + {state} + {regs}]",
    "mov [rax + 8], rbx", "mov [rax + 16], rcx",
    "mov [rax + 128], rsp",
    "mov rsp, [rip + {state} + {saved_rsp}]",
    "pushfq",
    "pop qword ptr [rax + 120]",
    "mov rbx, [rip + {state} + {scratch}]",
    "mov [rax], rbx",
    "mov [rax + 80], r11",
    "jmp 5f",

    // Saves what is left of the register file at rax, and returns to exec's caller.
    "5:",
    "mov [rax + 24], rdx", "mov [rax + 32], rsi", "mov [rax + 40], rdi", "mov [rax + 48], rbp",
    "mov [rax + 56], r8", "mov [rax + 64], r9", "mov [rax + 72], r10",
    "mov [rax + 88], r12", "mov [rax + 96], r13", "mov [rax + 104], r14", "mov [rax + 112], r15",
    "cld",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
    "ret",

    // Entry stubs: 16 bytes each, push the kind.
    ".balign 16",
    "__probe_stubs:",
    ".set probe_kind, 0",
    ".rept {stubs}",
    ".balign 16",
    ".if probe_kind == {syscall}",
    "__probe_syscall:",
    ".endif",
    "push probe_kind",
    "jmp 6f",
    ".set probe_kind, probe_kind + 1",
    ".endr",

    // Stack: kind, rcx, r11, [error code], rip, cs, rflags, rsp, ss.
    "6:",
    "push rax",
    "push rbx",
    "lea rax, [rip + {state}]",
    "cmp qword ptr [rax + {saved_rsp}], 0",
    "je 9f",
    "inc qword ptr [rax + {count}]",
    "mov rbx, [rsp + 16]",
    "mov [rax + {kind}], rbx",
    "lea rbx, [rsp + 24]",
    "mov [rax + {frame_at}], rbx",
    // Twelve words reach past the shortest frame, but not past the stack's page of slack.
    "mov rbx, [rsp + 24]", "mov [rax + {frame}], rbx",
    "mov rbx, [rsp + 32]", "mov [rax + {frame} + 8], rbx",
    "mov rbx, [rsp + 40]", "mov [rax + {frame} + 16], rbx",
    "mov rbx, [rsp + 48]", "mov [rax + {frame} + 24], rbx",
    "mov rbx, [rsp + 56]", "mov [rax + {frame} + 32], rbx",
    "mov rbx, [rsp + 64]", "mov [rax + {frame} + 40], rbx",
    "mov rbx, [rsp + 72]", "mov [rax + {frame} + 48], rbx",
    "mov rbx, [rsp + 80]", "mov [rax + {frame} + 56], rbx",
    "mov rbx, [rsp + 88]", "mov [rax + {frame} + 64], rbx",
    "mov rbx, [rsp + 96]", "mov [rax + {frame} + 72], rbx",
    "mov rbx, [rsp + 104]", "mov [rax + {frame} + 80], rbx",
    "mov rbx, [rax + {vcpu_info}]",
    "movzx ebx, byte ptr [rbx + 1]",
    "mov [rax + {masked}], rbx",
    "cmp qword ptr [rax + {resume}], 0",
    "jne 7f",
    // Unwind: all registers as the code had them.
    "mov rax, [rax + {regs}]",
    "mov rbx, [rsp]", "mov [rax + 8], rbx",
    "mov rbx, [rsp + 8]", "mov [rax], rbx",
    "mov rbx, [rsp + 24]", "mov [rax + 16], rbx",
    "mov rbx, [rsp + 32]", "mov [rax + 80], rbx",
    "mov rsp, [rip + {state} + {saved_rsp}]",
    "jmp 5b",
    // Resume: drop the error code, if any, by moving what lies under it up.
    "7:",
    "mov rbx, [rax + {resume}]",
    "dec rbx",
    "mov rax, [rax + {kind}]",
    "cmp rax, 31",
    "ja 8f",
    "push rcx",
    "mov ecx, eax",
    "mov eax, 0x27d00",
    "bt eax, ecx",
    "pop rcx",
    "jnc 8f",
    // rbx, rax, kind, rcx, r11, ec, rip...: now kind, rbx, rax, -, rcx, r11, rip.
    "mov rax, [rsp + 32]", "mov [rsp + 40], rax",
    "mov rax, [rsp + 24]", "mov [rsp + 32], rax",
    "mov rax, [rsp + 8]", "mov [rsp + 16], rax",
    "mov rax, [rsp]", "mov [rsp + 8], rax",
    "add rsp, 8",
    "8:",
    // rbx, rax, x, rcx, r11, rip...
    "add [rsp + 40], rbx",
    "pop rbx",
    "pop rax",
    "add rsp, 8",
    "__probe_iret:",
    "pop rcx",
    "pop r11",
    "push 0",
    "push rcx",
    "push r11",
    "push rax",
    "mov eax, 23",
    "syscall",
    "ud2",
    // Nobody expected it.
    "9:",
    "lea rdi, [rsp + 24]",
    "mov rsi, [rsp + 16]",
    "and rsp, -16",
    "cld",
    "call {unexpected}",
    "ud2",

    // The event upcall: count, take the pending flag, go back.
    "__probe_upcall:",
    "push rax",
    "push rbx",
    "lea rax, [rip + {state}]",
    "inc qword ptr [rax + {upcalls}]",
    "mov rbx, [rsp + 16]", "mov [rax + {upcall_frame}], rbx",
    "mov rbx, [rsp + 24]", "mov [rax + {upcall_frame} + 8], rbx",
    "mov rbx, [rsp + 32]", "mov [rax + {upcall_frame} + 16], rbx",
    "mov rbx, [rsp + 40]", "mov [rax + {upcall_frame} + 24], rbx",
    "mov rbx, [rsp + 48]", "mov [rax + {upcall_frame} + 32], rbx",
    "mov rbx, [rsp + 56]", "mov [rax + {upcall_frame} + 40], rbx",
    "mov rbx, [rsp + 64]", "mov [rax + {upcall_frame} + 48], rbx",
    "mov rax, [rax + {vcpu_info}]",
    "mov byte ptr [rax], 0",
    "pop rbx",
    "pop rax",
    "jmp __probe_iret",
    state = sym STATE,
    unexpected = sym unexpected,
    stubs = const STUBS,
    syscall = const SYSCALL,
    saved_rsp = const core::mem::offset_of!(State, saved_rsp),
    regs = const core::mem::offset_of!(State, regs),
    target = const core::mem::offset_of!(State, target),
    scratch = const core::mem::offset_of!(State, scratch),
    count = const core::mem::offset_of!(State, count),
    kind = const core::mem::offset_of!(State, kind),
    frame = const core::mem::offset_of!(State, frame),
    frame_at = const core::mem::offset_of!(State, frame_at),
    resume = const core::mem::offset_of!(State, resume),
    upcalls = const core::mem::offset_of!(State, upcalls),
    vcpu_info = const core::mem::offset_of!(State, vcpu_info),
    masked = const core::mem::offset_of!(State, masked),
    upcall_frame = const core::mem::offset_of!(State, upcall_frame),
);

#[cfg(target_os = "none")]
unsafe extern "C" {
    fn __probe_exec(regs: *mut Regs, kind: u64);
    fn __probe_done();
    fn __probe_stubs();
    fn __probe_upcall();
}

/// Host stand-ins, so that the crate compiles there.
#[cfg(not(target_os = "none"))]
mod host {
    pub unsafe extern "C" fn __probe_exec(_: *mut super::Regs, _: u64) {}
    pub extern "C" fn __probe_done() {}
    pub extern "C" fn __probe_stubs() {}
    pub extern "C" fn __probe_upcall() {}
}
#[cfg(not(target_os = "none"))]
use host::*;

/// The one state; a guest has one thread that uses it.
fn state() -> *mut State {
    &raw mut STATE
}

/// A trap outside [`exec`]: print and fail.
#[cfg(target_os = "none")]
extern "C" fn unexpected(frame: *const u64, kind: u64) -> ! {
    // SAFETY: the stub passes the address of a frame of at least 7 words.
    let word = |i: usize| unsafe { frame.add(i).read_volatile() };
    crate::println!("FAILURE unexpected entry {kind}");
    for i in 0..8 {
        crate::print!(" {:x}", word(i));
    }
    // SAFETY: set by `install`.
    let cr2 = unsafe { ((*state()).vcpu_info as *const u64).add(2).read_volatile() };
    crate::println!(" cr2 {cr2:x}");
    hypercall::shutdown(abi::sched::ShutdownReason::POWEROFF)
}

fn stub(kind: u64) -> Vaddr {
    Vaddr(__probe_stubs as *const () as u64 + 16 * kind)
}

/// Sets handlers for all 32 exceptions, and event, failsafe and system call entries. `info` is the
/// address of this vCPU's `vcpu_info`. Handlers of exceptions do not mask events, except for
/// vectors in `masking`; user mode may raise the vectors in `user` by `int n`.
pub fn install(info: u64, masking: u32, user: u32) -> i64 {
    let mut table = [TrapInfo::default(); 33];
    for (v, entry) in (0u8..32).zip(table.iter_mut()) {
        let dpl = if user >> v & 1 != 0 { 3 } else { 0 };
        let mask = if masking >> v & 1 != 0 { TrapInfo::MASK_EVENTS } else { 0 };
        *entry = TrapInfo {
            vector: v,
            flags: dpl | mask,
            cs: FLAT_RING3_CS64,
            address: stub(v.into()),
            ..TrapInfo::default()
        };
    }
    // SAFETY: single thread.
    unsafe { (*state()).vcpu_info = info };
    let ret = super::call_with(Hypercall::SET_TRAP_TABLE, &[], &mut table);
    let register = |kind, address| {
        let entry = CallbackRegister { kind, address, ..CallbackRegister::default() };
        // SAFETY: the stubs deal with the frames.
        unsafe { hypercall::callback_register(entry) }
    };
    let upcall = Vaddr(__probe_upcall as *const () as u64);
    let _ = register(CallbackType::EVENT, upcall);
    let _ = register(CallbackType::FAILSAFE, stub(FAILSAFE));
    let _ = register(CallbackType::SYSCALL, stub(SYSCALL));
    let _ = register(CallbackType::NMI, stub(NMI));
    let _ = register(CallbackType::SYSENTER, stub(SYSENTER));
    let top = &raw const KERNEL_STACK as u64 + 4 * PAGE_SIZE as u64 - 256;
    super::call(Hypercall::STACK_SWITCH, &[abi::layout::FLAT_RING3_SS64.into(), top]);
    ret
}

/// Top of the stack that user code gets.
pub fn user_stack_top() -> u64 {
    &raw const USER_STACK as u64 + 4 * PAGE_SIZE as u64 - 256
}

/// Event upcalls so far.
pub fn upcalls() -> u64 {
    // SAFETY: a word the upcall increments.
    unsafe { (&raw const (*state()).upcalls).read_volatile() }
}

/// The frame of the last upcall: rcx, r11, rip, cs, rflags, rsp, ss.
pub fn upcall_frame() -> [u64; 7] {
    // SAFETY: as above.
    unsafe { (&raw const (*state()).upcall_frame).read_volatile() }
}

/// Sets the event mask of this vCPU.
pub fn mask_events(mask: bool) {
    // SAFETY: set by `install`; the byte is this vCPU's.
    unsafe { ((*state()).vcpu_info as *mut u8).add(1).write_volatile(mask.into()) };
}

/// Runs `code` in kernel mode with these registers, and stores them as they are at its end.
/// Returns the entry that ended it, if one did.
pub fn exec(code: &[u8], regs: &mut Regs) -> Option<Frame> {
    run(code, regs, 0, 0).0
}

/// As [`exec`], but an entry returns to the code by the `iret` hypercall, `skip` bytes after the
/// RIP of its frame. Returns the last entry and how many there were.
pub fn exec_resuming(code: &[u8], regs: &mut Regs, skip: u64) -> (Option<Frame>, u64) {
    run(code, regs, 0, skip + 1)
}

/// Runs `code` in user mode; a `syscall` ends it. There must be a user page table.
pub fn exec_user(code: &[u8], regs: &mut Regs) -> Option<Frame> {
    run(code, regs, 1, 0).0
}

fn run(code: &[u8], regs: &mut Regs, kind: u64, resume: u64) -> (Option<Frame>, u64) {
    let page = &raw mut CODE;
    // `syscall` for user mode; `jmp [rip]` to the end for kernel mode.
    let mut tail = [0x0f, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    if kind == 0 {
        tail[..6].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
        tail[6..].copy_from_slice(&(__probe_done as *const () as u64).to_le_bytes());
    }
    assert!(code.len() + tail.len() <= PAGE_SIZE);
    let state = state();
    if regs.rflags == 0 {
        regs.rflags = 0x202;
    }
    if kind == 1 && regs.rsp == 0 {
        regs.rsp = user_stack_top();
    }
    // SAFETY: one thread; the page is only ever run from here; the assembly keeps what the C
    // convention asks for, and uses the state as laid out above.
    unsafe {
        for (i, byte) in code.iter().chain(&tail).enumerate() {
            page.cast::<u8>().add(i).write_volatile(*byte);
        }
        (*state).target = page as u64;
        (*state).count = 0;
        (*state).resume = resume;
        __probe_exec(regs, kind);
        (*state).saved_rsp = 0;
        let count = (&raw const (*state).count).read_volatile();
        ((count != 0).then(|| frame(&*state)), count)
    }
}

/// Reads the recorded frame.
fn frame(state: &State) -> Frame {
    let entry = match state.kind {
        FAILSAFE => Entry::Failsafe,
        SYSCALL => Entry::Syscall,
        NMI => Entry::Nmi,
        SYSENTER => Entry::Sysenter,
        v => Entry::Exception(v as u8),
    };
    let words = &state.frame;
    let mut selectors = [0; 4];
    let mut at = 2;
    let mut error_code = 0;
    match entry {
        Entry::Failsafe => {
            selectors.copy_from_slice(&words[2..6]);
            at = 6;
        }
        Entry::Exception(v) if vector::has_error_code(v) => {
            error_code = words[2];
            at = 3;
        }
        _ => {}
    }
    Frame {
        entry,
        error_code,
        rip: words[at],
        cs: words[at + 1] as u16,
        cs_word: words[at + 1],
        rflags: words[at + 2],
        rsp: words[at + 3],
        ss: words[at + 4],
        // SAFETY: set by `install`.
        cr2: unsafe { (state.vcpu_info as *const u64).add(2).read_volatile() },
        masked: state.masked != 0,
        frame_at: state.frame_at,
        selectors,
    }
}

/// Tells the stubs where this vCPU's `vcpu_info` is now.
pub(super) fn set_info(info: u64) {
    // SAFETY: single thread.
    unsafe { (*state()).vcpu_info = info };
}

/// First address of the page that [`exec`] runs code from.
pub fn code_page() -> u64 {
    &raw const CODE as u64
}
