# In and out of ring 0. While a guest runs, GS is its own and the per-CPU pointer waits in KERNEL_GS_BASE; swapgs at every
# entry from ring 3 and before every return to it.
#
# The guest's registers are stored straight into its Run: TSS.RSP0 and PERCPU_FRAME_END point behind `ss` of its
# register file, whose layout (struct cpu_user_regs) is that of the pushes below. Nothing is copied at a vCPU switch.
# PERCPU_CALLER says who that guest is, for whatever serves it.

    .set PERCPU_SCRATCH, 8
    .set PERCPU_FRAME_END, 16
    .set PERCPU_STACK, 24
    .set PERCPU_CALLER, 32
    .set REGS_ERROR, 120
    .set REGS_RIP, 128
    .set REGS_CS, 136
    .set REGS_RFLAGS, 144
    .set FLAT_CS32, 0xe023
    .set FLAT_CS64, 0xe033
    .set FLAT_SS, 0xe02b

    .macro PUSH_REGISTERS
    .irp register, rdi, rsi, rdx, rcx, rax, r8, r9, r10, r11, rbx, rbp, r12, r13, r14, r15
    pushq %\register
    .endr
    .endm

    # What lies in the places of r11 and rcx goes there, or is dropped: into registers that are loaded after them.
    .macro POP_REGISTERS r11=r11, rcx=rcx
    .irp register, r15, r14, r13, r12, rbp, rbx, \r11, r10, r9, r8, rax, \rcx, rdx, rsi, rdi
    popq %\register
    .endr
    .endm

    # A fault at `at` in ring 0 goes on at `landing` (core_trap).
    .macro FIXUP at, landing
    .pushsection .fixups, "a"
    .quad \at, \landing
    .popsection
    .endm

    # Room for an instruction of three bytes that cpu.rs puts there on CPUs with SMAP: clac (ca) or stac (cb).
    .macro SMAP opcode
771:
    .byte 0x0f, 0x1f, 0x00                 # nopl (%rax)
    .pushsection .smap, "a"
    .quad 771b, 0x\opcode\()010f
    .popsection
    .endm

    .section .text.entry, "ax"

# ---- SYSCALL: hypercalls, and system calls of guests' user mode. ----------------------------------------------------
    .macro SYSCALL_ENTRY cs, handler
    swapgs
    movq %rsp, %gs:PERCPU_SCRATCH
    movq %gs:PERCPU_FRAME_END, %rsp
    pushq $FLAT_SS
    pushq %gs:PERCPU_SCRATCH
    pushq %r11
    pushq $\cs
    pushq %rcx
    pushq $0
    movb $1, 5(%rsp)                       # TRAP_syscall, 0x100, in entry_vector
    PUSH_REGISTERS
    movq %gs:PERCPU_STACK, %rsp
    movq %gs:PERCPU_CALLER, %rdi
    call \handler
    .endm

    .align 64
    .global entry_syscall32
entry_syscall32:                           # 32-bit code, on CPUs that have SYSCALL there
    SYSCALL_ENTRY FLAT_CS32, guest_syscall32
    jmp resume_guest

    .align 64
    .global entry_syscall
entry_syscall:
    SYSCALL_ENTRY FLAT_CS64, guest_syscall

# ---- Back to the guest whose register file rax points to. ---------------------------------------------------------------
    .global resume_guest
resume_guest:
    movq %rax, %rsp
    # sysretq where the guest was entered by SYSCALL or a bounce, and it loads what is wanted: flat selectors, a canonical
    # address (lesson 15) and no odd flags.
    testb $1, REGS_ERROR + 5(%rsp)
    jz 1f
    movq REGS_RIP(%rsp), %rcx
    movq %rcx, %rax
    shlq $16, %rax
    sarq $16, %rax
    cmpq %rax, %rcx
    jne 1f
    movl REGS_RFLAGS(%rsp), %r11d
    testl $0x30100, %r11d                  # VM, RF, TF
    jnz 1f
    cmpw $FLAT_CS64, REGS_CS(%rsp)
    jne 1f
    POP_REGISTERS r10, rdx                 # r11 is rflags already, and rcx is rip
    movq 32(%rsp), %rsp
    swapgs
    sysretq
1:  POP_REGISTERS
    addq $8, %rsp
    swapgs
    .global entry_iretq
entry_iretq:
    iretq

# ---- Exceptions and interrupts. ---------------------------------------------------------------------------------------
    # A stub of 16 bytes for each vector: its number goes above the error code, which is 0 where the CPU pushes none.
    .align 16
    .global entry_stubs
entry_stubs:
    .set vector, 0
    .rept 256
    .align 16
    .if vector > 31 || (0x60227d00 >> (vector & 31) & 1) == 0     # not 8, 10-14, 17, 21, 29, 30
    pushq $0
    .endif
    movl $vector, 4(%rsp)
    .if vector == 1 || vector == 2 || vector == 8 || vector == 18
    jmp entry_ist
    .else
    jmp entry_common
    .endif
    .set vector, vector + 1
    .endr

    .align 64
entry_common:
    PUSH_REGISTERS
    cld
    SMAP ca
    testb $3, REGS_CS(%rsp)
    jz entry_from_core
    swapgs
    movq %gs:PERCPU_STACK, %rsp
    movq %gs:PERCPU_CALLER, %rdi
    call guest_trap
    jmp resume_guest

entry_from_core:
    leaq entry_iretq(%rip), %rax
    cmpq %rax, REGS_RIP(%rsp)
    je entry_failed_return
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    call core_trap
leave_to_core:
    movq %rbx, %rsp
    POP_REGISTERS
    addq $8, %rsp
    iretq

# The iretq to a guest faulted: the selectors or addresses that it asked for are no good. Its GS is loaded already, and
# the CPU has stored this fault's frame in the room before its register file; its registers are still what they were.
entry_failed_return:
    swapgs
    movq %rsp, %rsi
    movq %gs:PERCPU_STACK, %rsp
    movq %gs:PERCPU_CALLER, %rdi
    call guest_failed_return
    jmp resume_guest

# NMI, #MC, #DF and #DB come on stacks of their own and may come anywhere, between swapgs and the guest too: GS is never
# trusted. The top word of each of these stacks holds the per-CPU pointer. From ring 3 the frame moves to the
# vCPU's register file and goes on as any exception; from ring 0 the GS base is kept, loaded and put back.
    .align 64
entry_ist:
    testb $3, 16(%rsp)
    jz 1f
    swapgs
    movq %rax, %gs:PERCPU_SCRATCH
    movq %rsp, %rax
    movq %gs:PERCPU_FRAME_END, %rsp
    .irp offset, 40, 32, 24, 16, 8, 0      # ss, rsp, rflags, cs, rip, error and vector
    pushq \offset\()(%rax)
    .endr
    movq %gs:PERCPU_SCRATCH, %rax
    swapgs
    jmp entry_common
1:  PUSH_REGISTERS
    cld
    SMAP ca
    movl $0xc0000101, %ecx                 # GS_BASE
    rdmsr
    movl %eax, %r12d
    movl %edx, %r13d
    movq %rsp, %rbx
    movq %rsp, %rdi
    orq $0xfff, %rdi
    movl -7(%rdi), %eax                    # the last word of the (one-page) stack
    movl -3(%rdi), %edx
    wrmsr
    movq %rbx, %rdi
    andq $-16, %rsp
    call core_trap
    movl $0xc0000101, %ecx
    movl %r12d, %eax
    movl %r13d, %edx
    wrmsr
    jmp leave_to_core

# ---- A vCPU's selectors. One that does not load becomes 0, and eax is not. ----------------------------------------------
    .align 16
    .global load_selectors
load_selectors:                            # edi es, esi ds, edx fs, ecx gs. GS base: the guest's is loaded by swapgs around
    xorl %eax, %eax
2:  movw %di, %es
3:  movw %si, %ds
4:  movw %dx, %fs
    swapgs
5:  movw %cx, %gs
    swapgs
    ret
    .macro ZERO at, register
6:  xorl %\register, %\register
    movl $1, %eax
    jmp \at\()b
    FIXUP \at\()b, 6b
    .endm
    ZERO 2, edi
    ZERO 3, esi
    ZERO 4, edx
    ZERO 5, ecx
