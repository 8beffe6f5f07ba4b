# A PV64 image that knows nothing of Ferrule: ELF notes, a line on the console, an end. `cargo xtask test e2e` builds it
# with gcc and boots it as the initial domain. WHAT is 0: power off; 1: die of an undefined instruction; 2: sleep for good.

    .section .note.Xen, "a", @note
    .macro note type
    .align 4
    .long 4, 2f - 1f, \type
    .asciz "Xen"
1:
    .endm
    note 6                          # XEN_ELFNOTE_GUEST_OS
    .asciz "foreign"
2:  note 5                          # XEN_ELFNOTE_XEN_VERSION
    .asciz "xen-3.0"
2:  note 8                          # XEN_ELFNOTE_LOADER
    .asciz "generic"
2:  note 3                          # XEN_ELFNOTE_VIRT_BASE
    .quad 0
2:  note 4                          # XEN_ELFNOTE_PADDR_OFFSET
    .quad 0
2:  note 1                          # XEN_ELFNOTE_ENTRY
    .quad start
2:

    .text
    .global start
start:
    movq %rsi, %rbx                 # start_info
    leaq text(%rip), %rdx
    movl $text_end - text, %esi
    call print
    # start_info.flags, after magic, nr_pages and shared_info: SIF_PRIVILEGED | SIF_INITDOMAIN
    movl 48(%rbx), %eax
    andl $3, %eax
    cmpl $3, %eax
    jne 1f
    leaq initial(%rip), %rdx
    movl $initial_end - initial, %esi
    call print
1:
    .if WHAT == 1
    ud2
    .endif
    .if WHAT == 2
3:  movl $29, %eax                  # sched_op
    movl $1, %edi                   # block
    syscall
    jmp 3b
    .endif
    movl $29, %eax                  # sched_op
    movl $2, %edi                   # shutdown
    leaq reason(%rip), %rsi
    syscall
2:  jmp 2b

print:                              # rdx: text, esi: its length
    movl $18, %eax                  # console_io
    xorl %edi, %edi                 # write
    syscall
    ret

    .data
reason:
    .long 0                         # SHUTDOWN_poweroff
text:
    .ascii "foreign: hello\n"
text_end:
initial:
    .ascii "foreign: privileged initial domain\n"
initial_end:
