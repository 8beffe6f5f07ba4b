//! The hypercall page: 128 stubs of 32 bytes, one for each number (xen/arch-x86/xen.h, xen-x86_64.h).

/// Bytes of a stub.
pub const STUB_SIZE: usize = 32;
/// Stubs in the page.
pub const STUBS: u32 = 128;

/// `iret` does not return: its stub pushes what the hypervisor's frame holds (xen-x86_64.h, struct iret_context).
const IRET: u32 = 23;

/// The stub for hypercall `number`.
///
/// The kernel calls it; `syscall` clobbers rcx and r11, so the stub saves both. The rest is filled with `int3`.
pub const fn stub(number: u32) -> [u8; STUB_SIZE] {
    let [n0, n1, n2, n3] = number.to_le_bytes();
    let mut code = [0xcc; STUB_SIZE];
    let body: &[u8] = if number == IRET {
        // push %rcx; push %r11; push %rax; mov $number,%eax; syscall
        &[0x51, 0x41, 0x53, 0x50, 0xb8, n0, n1, n2, n3, 0x0f, 0x05]
    } else {
        // push %rcx; push %r11; mov $number,%eax; syscall; pop %r11; pop %rcx; ret
        &[0x51, 0x41, 0x53, 0xb8, n0, n1, n2, n3, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3]
    };
    code.split_at_mut(body.len()).0.copy_from_slice(body);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_are_what_xen_fills_in() {
        assert_eq!(&stub(17)[..15], b"\x51\x41\x53\xb8\x11\0\0\0\x0f\x05\x41\x5b\x59\xc3\xcc");
        assert_eq!(&stub(23)[..12], b"\x51\x41\x53\x50\xb8\x17\0\0\0\x0f\x05\xcc");
    }
}
