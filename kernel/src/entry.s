# In and out of ring 0. While a guest runs, GS is its own and the per-CPU pointer waits in KERNEL_GS_BASE; swapgs at every
# entry from ring 3 and before every return to it.
#
# The guest's registers are stored straight into its Run: TSS.RSP0 and PERCPU_FRAME_END point behind `ss` of its
# register file, whose layout (struct cpu_user_regs) is that of the pushes below. Nothing is copied at a vCPU switch.

    .set PERCPU_SCRATCH, 8
    .set PERCPU_FRAME_END, 16
    .set PERCPU_STACK, 24
    .set REGS_ERROR, 120
    .set REGS_CS, 136
    .set FLAT_CS64, 0xe033
    .set FLAT_SS, 0xe02b

    .macro PUSH_REGISTERS
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %rax
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    .endm

    .macro POP_REGISTERS
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rax
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    .endm

    .section .text.entry, "ax"

# ---- SYSCALL: hypercalls, and system calls of guests' user mode. ----------------------------------------------------
    .align 64
    .global entry_syscall
entry_syscall:
    swapgs
    movq %rsp, %gs:PERCPU_SCRATCH
    movq %gs:PERCPU_FRAME_END, %rsp
    pushq $FLAT_SS
    pushq %gs:PERCPU_SCRATCH
    pushq %r11
    pushq $FLAT_CS64
    pushq %rcx
    subq $8, %rsp
    movl $0, (%rsp)
    movl $0x100, 4(%rsp)                   # TRAP_syscall
    PUSH_REGISTERS
    movq %rsp, %rdi
    movq %gs:PERCPU_STACK, %rsp
    xorl %ebp, %ebp
    call guest_syscall

# ---- Back to the guest whose register file rax points to. ---------------------------------------------------------------
    .global resume_guest
resume_guest:
    movq %rax, %rsp
    testl $0x100, REGS_ERROR + 4(%rsp)
    jz 1f
    # sysretq, where it loads what is wanted: flat selectors, a canonical address and no odd flags.
    cmpw $FLAT_CS64, REGS_CS(%rsp)
    jne 1f
    cmpw $FLAT_SS, 160(%rsp)
    jne 1f
    movq 128(%rsp), %rcx
    movq %rcx, %rax
    shlq $16, %rax
    sarq $16, %rax
    cmpq %rax, %rcx
    jne 1f
    movl 144(%rsp), %r11d
    testl $0x30100, %r11d                  # VM, RF, TF
    jnz 1f
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    addq $8, %rsp                          # r11 is rflags
    popq %r10
    popq %r9
    popq %r8
    popq %rax
    addq $8, %rsp                          # rcx is rip
    popq %rdx
    popq %rsi
    popq %rdi
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
    .macro STUB vector, has_error=0, ist=0
    .align 16
stub_\vector:
    .if \has_error == 0
    pushq $0
    .endif
    movl $\vector, 4(%rsp)
    .if \ist
    jmp entry_ist
    .else
    jmp entry_common
    .endif
    .endm

    STUB 0
    STUB 1, 0, 1
    STUB 2, 0, 1
    STUB 3
    STUB 4
    STUB 5
    STUB 6
    STUB 7
    STUB 8, 1, 1
    STUB 9
    STUB 10, 1
    STUB 11, 1
    STUB 12, 1
    STUB 13, 1
    STUB 14, 1
    STUB 15
    STUB 16
    STUB 17, 1
    STUB 18, 0, 1
    STUB 19
    STUB 20
    STUB 21, 1
    .align 16
    .global entry_stubs_rest
entry_stubs_rest:
    .set vector, 22
    .rept 234
    .align 16
    .if vector == 29
    movl $29, 4(%rsp)
    .elseif vector == 30
    movl $30, 4(%rsp)
    .else
    pushq $0
    movl $vector, 4(%rsp)
    .endif
    jmp entry_common
    .set vector, vector + 1
    .endr

    .align 64
entry_common:
    PUSH_REGISTERS
    cld
    testb $3, REGS_CS(%rsp)
    jz entry_from_core
    swapgs
entry_from_guest:
    movq %rsp, %rdi
    movq %gs:PERCPU_STACK, %rsp
    xorl %ebp, %ebp
    call guest_trap
    jmp resume_guest

entry_from_core:
    leaq entry_iretq(%rip), %rax
    cmpq %rax, 128(%rsp)
    je entry_failed_return
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    call core_trap
    movq %rbx, %rsp
    POP_REGISTERS
    addq $8, %rsp
    iretq

# The iretq to a guest faulted: the selectors or addresses that it asked for are no good. Its GS is loaded already, and
# the CPU has stored this fault's frame in the room before its register file; its registers are still what they were.
entry_failed_return:
    swapgs
    movq %rsp, %rdi
    movq %gs:PERCPU_STACK, %rsp
    xorl %ebp, %ebp
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
    pushq %rax
    pushq %rcx
    pushq %rdx
    movq %gs:PERCPU_FRAME_END, %rcx
    movq %rsp, %rax
    .set i, 0
    .rept 6                                # ss, rsp, rflags, cs, rip, error and vector
    movq 64 - i(%rax), %rdx
    movq %rdx, -8 - i(%rcx)
    .set i, i + 8
    .endr
    popq %rdx
    leaq -48(%rcx), %rsp
    movq 8(%rax), %rcx
    movq 16(%rax), %rax
    PUSH_REGISTERS
    cld
    jmp entry_from_guest
1:  PUSH_REGISTERS
    cld
    movl $0xc0000101, %ecx                 # GS_BASE
    rdmsr
    shlq $32, %rdx
    orq %rdx, %rax
    movq %rax, %r12
    movq %rsp, %rbx
    movq %rsp, %rax
    orq $0xfff, %rax
    movq -7(%rax), %rax                    # the last word of the (one-page) stack
    movq %rax, %rdx
    shrq $32, %rdx
    wrmsr
    movq %rbx, %rdi
    andq $-16, %rsp
    call core_trap_ist
    movl $0xc0000101, %ecx
    movq %r12, %rax
    movq %r12, %rdx
    shrq $32, %rdx
    wrmsr
    movq %rbx, %rsp
    POP_REGISTERS
    addq $8, %rsp
    iretq

# ---- Copies to and from guests. A page fault inside goes to the matching landing (trap.rs), which returns what is left. -
    .align 16
    .global user_copy
user_copy:                                 # rdi to, rsi from, rdx bytes; returns bytes not copied
    movq %rdx, %rcx
    shrq $3, %rcx
    andl $7, %edx
    .global user_copy_words
user_copy_words:
    rep movsq
    movl %edx, %ecx
    .global user_copy_bytes
user_copy_bytes:
    rep movsb
    xorl %eax, %eax
    ret
    .global user_copy_words_fault
user_copy_words_fault:
    leaq (%rdx, %rcx, 8), %rax
    ret
    .global user_copy_bytes_fault
user_copy_bytes_fault:
    movq %rcx, %rax
    ret

    .section .rodata.stubs, "a"
    .align 8
    .global entry_stubs
entry_stubs:
    .quad stub_0, stub_1, stub_2, stub_3, stub_4, stub_5, stub_6, stub_7, stub_8, stub_9, stub_10
    .quad stub_11, stub_12, stub_13, stub_14, stub_15, stub_16, stub_17, stub_18, stub_19, stub_20, stub_21

# ---- A vCPU's selectors. A load that faults is made again with 0. --------------------------------------------------------
    .section .text.entry, "ax"
    .align 16
    .global load_selectors
load_selectors:                            # edi es, esi ds, edx fs, ecx gs. GS base: the guest's is loaded by swapgs around
    movl %edi, %eax
    .global load_selectors_faults
load_selectors_faults:
    movw %ax, %es
    movl %esi, %eax
    movw %ax, %ds
    movl %edx, %eax
    movw %ax, %fs
    movl %ecx, %eax
    swapgs
1:  movw %ax, %gs
    .global load_selectors_faults_end
load_selectors_faults_end:
    swapgs
    ret
