//! Machine code that guests run under the net, by mnemonic.

/// `nop`
pub const NOP: &[u8] = &[0x90];
/// `ud2`
pub const UD2: &[u8] = &[0x0f, 0x0b];
/// `int3`
pub const INT3: &[u8] = &[0xcc];
/// `int 3`, the two-byte form
pub const INT_3: &[u8] = &[0xcd, 3];
/// `int 4`
pub const INT_4: &[u8] = &[0xcd, 4];
/// `int 0x80`
pub const INT_80: &[u8] = &[0xcd, 0x80];
/// `hlt`
pub const HLT: &[u8] = &[0xf4];
/// `cli`
pub const CLI: &[u8] = &[0xfa];
/// `sti`
pub const STI: &[u8] = &[0xfb];
/// `syscall`
pub const SYSCALL: &[u8] = &[0x0f, 0x05];
/// `push 0xe023; push rdi; retfq`: goes on at rdi in 32-bit code
pub const TO_32: &[u8] = &[0x68, 0x23, 0xe0, 0, 0, 0x57, 0x48, 0xcb];
/// `mov rax, [rdi]`
pub const LOAD: &[u8] = &[0x48, 0x8b, 0x07];
/// `mov [rdi], rax`
pub const STORE: &[u8] = &[0x48, 0x89, 0x07];
/// `mov byte [rdi], al`
pub const STORE8: &[u8] = &[0x88, 0x07];
/// `mov dword [rdi], eax`
pub const STORE32: &[u8] = &[0x89, 0x07];
/// `xchg [rdi], rax`
pub const XCHG: &[u8] = &[0x48, 0x87, 0x07];
/// `lock cmpxchg [rdi], rsi`
pub const CMPXCHG: &[u8] = &[0xf0, 0x48, 0x0f, 0xb1, 0x37];
/// `lock btr qword [rdi], 5`
pub const BTR_5: &[u8] = &[0xf0, 0x48, 0x0f, 0xba, 0x37, 5];
/// `lock and byte [rdi], 0xfd`
pub const AND_FD: &[u8] = &[0xf0, 0x80, 0x27, 0xfd];
/// `call rdi`
pub const CALL: &[u8] = &[0xff, 0xd7];
/// `jmp rdi`
pub const JMP: &[u8] = &[0xff, 0xe7];
/// `div cl`
pub const DIV: &[u8] = &[0xf6, 0xf1];
/// `xor ecx, ecx; div ecx`
pub const DIV_0: &[u8] = &[0x31, 0xc9, 0xf7, 0xf1];
/// `mov rax, cr0`
pub const READ_CR0: &[u8] = &[0x0f, 0x20, 0xc0];
/// `mov cr0, rax`
pub const WRITE_CR0: &[u8] = &[0x0f, 0x22, 0xc0];
/// `mov rax, cr2`
pub const READ_CR2: &[u8] = &[0x0f, 0x20, 0xd0];
/// `mov cr2, rax`
pub const WRITE_CR2: &[u8] = &[0x0f, 0x22, 0xd0];
/// `mov rax, cr3`
pub const READ_CR3: &[u8] = &[0x0f, 0x20, 0xd8];
/// `mov cr3, rax`
pub const WRITE_CR3: &[u8] = &[0x0f, 0x22, 0xd8];
/// `mov rax, cr4`
pub const READ_CR4: &[u8] = &[0x0f, 0x20, 0xe0];
/// `mov cr4, rax`
pub const WRITE_CR4: &[u8] = &[0x0f, 0x22, 0xe0];
/// `mov rax, cr8`
pub const READ_CR8: &[u8] = &[0x44, 0x0f, 0x20, 0xc0];
/// `clts`
pub const CLTS: &[u8] = &[0x0f, 0x06];
/// `rdmsr`
pub const RDMSR: &[u8] = &[0x0f, 0x32];
/// `wrmsr`
pub const WRMSR: &[u8] = &[0x0f, 0x30];
/// `wbinvd`
pub const WBINVD: &[u8] = &[0x0f, 0x09];
/// `invd`
pub const INVD: &[u8] = &[0x0f, 0x08];
/// `invlpg [rdi]`
pub const INVLPG: &[u8] = &[0x0f, 0x01, 0x3f];
/// `lgdt [rdi]`
pub const LGDT: &[u8] = &[0x0f, 0x01, 0x17];
/// `lidt [rdi]`
pub const LIDT: &[u8] = &[0x0f, 0x01, 0x1f];
/// `ltr ax`
pub const LTR: &[u8] = &[0x0f, 0x00, 0xd8];
/// `rdtsc`
pub const RDTSC: &[u8] = &[0x0f, 0x31];
/// `rdpmc`
pub const RDPMC: &[u8] = &[0x0f, 0x33];
/// `in al, dx`
pub const IN_AL: &[u8] = &[0xec];
/// `in eax, dx`
pub const IN_EAX: &[u8] = &[0xed];
/// `out dx, al`
pub const OUT_AL: &[u8] = &[0xee];
/// `xgetbv`
pub const XGETBV: &[u8] = &[0x0f, 0x01, 0xd0];
/// `xsetbv`
pub const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1];
/// `fninit; fnop`
pub const FPU: &[u8] = &[0xdb, 0xe3, 0xd9, 0xd0];
/// `sysret`
pub const SYSRET: &[u8] = &[0x48, 0x0f, 0x07];
/// `mov fs, ax`
pub const MOV_FS: &[u8] = &[0x8e, 0xe0];
/// `mov ds, ax`
pub const MOV_DS: &[u8] = &[0x8e, 0xd8];
/// `mov rax, fs:[0]`
pub const LOAD_FS: &[u8] = &[0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0];
/// `mov rax, gs:[0]`
pub const LOAD_GS: &[u8] = &[0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0];
/// `ud2; .ascii "xen"; cpuid`
pub const CPUID: &[u8] = &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2];
/// `cpuid`
pub const NATIVE_CPUID: &[u8] = &[0x0f, 0xa2];
/// `mov rax, dr7`
pub const READ_DR7: &[u8] = &[0x0f, 0x21, 0xf8];
/// `mov dr7, rax`
pub const WRITE_DR7: &[u8] = &[0x0f, 0x23, 0xf8];
/// `pushf; or dword [rsp], 0x100; popf; nop`
pub const SINGLE_STEP: &[u8] = &[0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x90];
/// `icebp`
pub const ICEBP: &[u8] = &[0xf1];
/// `sysenter`
pub const SYSENTER: &[u8] = &[0x0f, 0x34];
