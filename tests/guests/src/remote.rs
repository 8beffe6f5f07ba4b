//! Instructions that the second domain executes in its kernel mode, under a net: what a protection fault ends, and where.
//!
//! The domain runs [`SERVER`] in the page at [`child::GIFT`], with the code that it is to execute in the page's second
//! half, and the registers in the page at [`child::DATA`].

use domain_rt::abi::Vaddr;
use domain_rt::abi::domctl::DomctlOp;
use domain_rt::abi::layout::FLAT_RING3_CS64;
use domain_rt::abi::trap::{TrapInfo, vector};
use domain_rt::probe::{self, Regs};

use crate::Test;
use crate::child::{self, Child, control};
use crate::views::{Fault, Kernel};

/// Where the code is put that it executes.
const CODE: u64 = child::GIFT + 0x800;
/// How long an answer may take, in ns.
const PATIENCE: u64 = 2_000_000_000;
/// What its code ends with: `ret`.
const RET: u8 = 0xc3;

/// Waits for registers at r15, executes the code at r14 with them, answers with what they are then, yields.
const SERVER: [u8; 81] = [
    0x49, 0x83, 0x3f, 0, // cmp qword [r15], 0
    0x74, 0x2c, // je 2f
    0x49, 0x8b, 0x47, 0x08, // mov rax, [r15 + 8]
    0x49, 0x8b, 0x5f, 0x10, // mov rbx, [r15 + 16]
    0x49, 0x8b, 0x4f, 0x18, // mov rcx, [r15 + 24]
    0x49, 0x8b, 0x57, 0x20, // mov rdx, [r15 + 32]
    0x49, 0x83, 0x67, 0x28, 0, // and qword [r15 + 40], 0
    0x41, 0xff, 0xd6, // call r14
    // 1:
    0x49, 0x89, 0x47, 0x08, // mov [r15 + 8], rax
    0x49, 0x89, 0x5f, 0x10, // mov [r15 + 16], rbx
    0x49, 0x89, 0x4f, 0x18, // mov [r15 + 24], rcx
    0x49, 0x89, 0x57, 0x20, // mov [r15 + 32], rdx
    0x49, 0x83, 0x27, 0, // and qword [r15], 0
    // 2:
    0xb8, 29, 0, 0, 0, // mov eax, sched_op
    0x31, 0xff, // xor edi, edi (yield)
    0x0f, 0x05, // syscall
    0xeb, 0xc3, // jmp to the start
    // The protection fault's handler: rcx, r11, the error code and rip are on the stack, which is left.
    0x59, // pop rcx
    0x41, 0x5b, // pop r11
    0x41, 0x8f, 0x47, 0x30, // pop [r15 + 48]
    0x41, 0x8f, 0x47, 0x28, // pop [r15 + 40]
    0x49, 0x8d, 0xa7, 0, 0x10, 0, 0, // lea rsp, [r15 + 4096]
    0xeb, 0xcd, // jmp 1b
];
/// Where the handler begins in there.
const HANDLER: u64 = 61;

/// The domain.
pub struct Remote {
    /// What it was built as.
    pub child: Child,
}

impl Remote {
    /// Builds the domain and lets it run. None where a step failed, which the verdict says.
    pub fn build(t: &mut Test) -> Option<Self> {
        let child = Child::build(t)?;
        (child.gift..).zip(SERVER).for_each(|(at, byte)| probe::modify(at, |_| byte));
        let mut context = child.context();
        (context.user_regs.rip, context.user_regs.r14, context.user_regs.r15) = (child::GIFT, CODE, child::DATA);
        let handler = Vaddr(child::GIFT + HANDLER);
        if let Some(entry) = context.trap_ctxt.get_mut(usize::from(vector::GP)) {
            *entry = TrapInfo { vector: vector::GP, cs: FLAT_RING3_CS64, address: handler, ..TrapInfo::default() };
        }
        t.ok("setvcpucontext", child.set_context(&context));
        t.ok("unpause", control(DomctlOp::UNPAUSEDOMAIN, child.id));
        Some(Self { child })
    }
}

impl Kernel for Remote {
    /// A fault at address 0 stands for no answer.
    fn execute(&self, code: &[u8], regs: &mut Regs) -> Option<Fault> {
        let (at, slot) = (self.child.data, self.child.gift + CODE - child::GIFT);
        (slot..).zip(code.iter().chain(&[RET])).for_each(|(at, byte)| probe::modify(at, |_| *byte));
        let words = [&mut regs.rax, &mut regs.rbx, &mut regs.rcx, &mut regs.rdx];
        (at + 8..).step_by(8).zip(&words).for_each(|(at, word)| probe::poke(at, **word));
        probe::poke(at, 1);
        if !child::patience(PATIENCE, || probe::peek(at) == 0) {
            return Some(Fault { error_code: 0, rip: 0 });
        }
        (at + 8..).step_by(8).zip(words).for_each(|(at, word)| *word = probe::peek(at));
        match probe::peek(at + 40) {
            0 => None,
            rip => Some(Fault { error_code: probe::peek(at + 48), rip }),
        }
    }

    fn code_at(&self) -> u64 {
        CODE
    }

    fn is_initial(&self) -> bool {
        false
    }
}
