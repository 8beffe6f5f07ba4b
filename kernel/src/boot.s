# Multiboot 1 and 2 to long mode, on the CPU that starts the machine; and the same for the others, from a page below
# 1 MiB that smp.rs copies the code between ap_start and ap_end to.

    .macro NO_SEGMENTS
    xorl %eax, %eax
    .irp segment, ds, es, ss, fs, gs
    movl %eax, %\segment
    .endr
    .endm

    .section .multiboot, "a"
    .align 8
    .long 0x1badb002                       # multiboot 1: modules aligned, memory map wanted
    .long 0x00000003
    .long -(0x1badb002 + 0x00000003)
    .align 8
multiboot2:
    .long 0xe85250d6, 0
    .long multiboot2_end - multiboot2
    .long -(0xe85250d6 + (multiboot2_end - multiboot2))
    .short 6, 0                            # modules on page boundaries
    .long 8
    .short 0, 0
    .long 8
multiboot2_end:

    # The linker script computes the machine addresses of these.
    .global boot_entry, boot_long_mode, boot_gdt, boot_gdt_pointer, boot_l4, boot_l3_low, boot_l3_image, boot_l2

    .section .text.boot, "ax"
    .code32
boot_entry:
    cli
    cld
    movl %eax, %ebp                        # the loader's magic, kept in ebp
    movl %ebx, %esi                        # the loader's information, kept in esi

    movl $boot_l4_phys, %edi
    movl %edi, %cr3
    lgdt boot_gdt_pointer_phys

    movl %cr4, %eax
    orl $0x20, %eax                        # PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx                 # EFER: SCE, LME, NXE
    rdmsr
    orl $0x901, %eax
    wrmsr
    movl %cr0, %eax
    andl $0x9fffffff, %eax                 # caches on
    orl $0x80010001, %eax                  # PG, WP, PE
    movl %eax, %cr0
    ljmp $8, $boot_long_mode_phys

    .code64
boot_long_mode:
    movabsq $boot_high, %rax
    jmp *%rax
boot_high:
    NO_SEGMENTS
    leaq boot_stack_end(%rip), %rsp
    movl %ebp, %edi
    movl %esi, %esi
    xorl %ebp, %ebp
    call start
3:  hlt
    jmp 3b

# ---- The other CPUs. Runs at a page below 1 MiB: cs = page >> 4, ip = 0. Position-independent within its page. --------
    .code16
    .global ap_start
ap_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    movl $(ap_gdt_pointer - ap_start), %ebx
    lgdtl (%bx)
    movl $0x20, %eax
    movl %eax, %cr4
    movl ap_root - ap_start, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x901, %eax
    wrmsr
    movl $0x80010001, %eax                 # straight from real mode into long mode
    movl %eax, %cr0
    ljmpl *(ap_far - ap_start)
    .code64
ap_long_mode:
    movabsq $ap_high, %rax
    jmp *%rax
    .align 8
ap_gdt:
    .quad 0, 0x00af9b000000ffff
ap_gdt_pointer:
    .short 15
    .global ap_gdt_base
ap_gdt_base:
    .long 0                                # filled in: page + (ap_gdt - ap_start)
    .global ap_far
ap_far:
    .long ap_long_mode - ap_start          # the page is added
    .short 8
    .align 8
    .global ap_root
ap_root:
    .quad 0
    .global ap_end
ap_end:

ap_high:
    NO_SEGMENTS
    movq ap_final_root(%rip), %rax
    movq %rax, %cr3
    movq ap_stack(%rip), %rsp
    movq ap_cpu(%rip), %rdi
    xorl %ebp, %ebp
    call start_ap
4:  hlt
    jmp 4b

    .section .data.boot, "aw"
    .align 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff
boot_gdt_pointer:
    .short 15
    .long boot_gdt_phys
    .align 8
    .global ap_stack
ap_stack:
    .quad 0
    .global ap_final_root
ap_final_root:
    .quad 0
    .global ap_cpu
ap_cpu:
    .quad 0

    # The first tables: 4 GiB in 2 MiB pages, seen at 0 and (the first) at IMAGE_BASE.
    .align 4096
boot_l4:
    .quad boot_l3_low_phys + 3
    .fill 260, 8, 0
    .quad boot_l3_image_phys + 3
    .fill 250, 8, 0
boot_l3_low:
    .irp table, 0, 1, 2, 3
    .quad boot_l2_phys + \table * 4096 + 3
    .endr
    .fill 508, 8, 0
boot_l3_image:
    .fill 322, 8, 0
    .quad boot_l2_phys + 3
    .fill 189, 8, 0
boot_l2:
    .set entry, 0x83
    .rept 2048
    .quad entry
    .set entry, entry + 0x200000
    .endr

    .section .bss.boot, "aw", @nobits
    .align 4096
boot_stack:                                # boot information is passed by value: up to 10 KiB a copy
    .skip 16 * 4096
    .global boot_stack_end
boot_stack_end:
