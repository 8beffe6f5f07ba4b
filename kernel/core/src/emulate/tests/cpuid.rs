//! What CPUID tells a guest.

use std::string::String;
use std::sync::atomic::Ordering::SeqCst;

use abi::trap::vector;

use super::{HANDLER, ordinary, setup};
use crate::Privilege;

#[test]
fn cpuid_by_the_forced_prefix_answers_and_a_bare_ud2_is_the_guests() {
    let s = ordinary();
    let forced = b"\x0f\x0bxen\x0f\xa2";
    assert!(s.execute(forced, vector::UD, |r| (r.rax, r.rcx) = (0x4000_0000, 0)));
    let r = s.regs();
    assert_eq!([r.rbx, r.rcx, r.rdx], [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e]);
    assert!(r.rax >= 0x4000_0002);
    for other in [&b"\x0f\x0b"[..], b"\x0f\x0bxen\x0f\xa3", b"\x0f\x0bxem\x0f\xa2"] {
        assert!(!s.execute(other, vector::UD, |_| ()));
        assert_eq!(s.regs().rip, HANDLER);
    }
    // User mode may use the prefix too.
    s.with(|c| c.run.kernel_mode = false);
    assert!(s.execute(forced, vector::UD, |r| r.rax = 0x4000_0001));
    assert_eq!(s.regs().rax, 4 << 16 | 17);
}

/// Every leaf of a CPU that has everything, for each set of states that it can keep by XSAVE: none; x87 and SSE; AVX; AVX-512.
#[test]
fn every_leaf_of_a_cpu_that_has_everything() {
    const ALL: u32 = u32::MAX;
    const NONE: [u32; 4] = [0; 4];
    // Where only eax, ebx, ecx, or edx depends on the states.
    let leaf1 = |c| [ALL, 0xffff, c, 0x0fc9_cbf5];
    let leaf7 = |b, c, d| [1, b, c, d];
    let size = |xcr0, bytes| [xcr0, ALL, bytes, 0];
    let amd = |c| [ALL, ALL, c, 0xebd1_cbf5];
    let (bfloat, no_bfloat) = ([0x1c30, 0, 0, 0], [0x1c00, 0, 0, 0]);
    type Row = ((u32, u32), [[u32; 4]; 4]);
    let rows: [Row; 27] = [
        ((0, 0), [[0xd, ALL, ALL, ALL]; 4]),
        ((1, 0), [leaf1(0xc2d8_2203), leaf1(0xced8_2203), leaf1(0xfed8_3203), leaf1(0xfed8_3203)]),
        ((2, 0), [[ALL; 4]; 4]),
        ((4, 3), [[0x3fff, ALL, ALL, ALL]; 4]),
        ((5, 0), [NONE; 4]),
        ((6, 0), [NONE; 4]),
        (
            (7, 0),
            [
                leaf7(0x218c_2b49, 0x0200_0101, 0x4410),
                leaf7(0x218c_2b49, 0x0200_0101, 0x4410),
                leaf7(0x218c_2b69, 0x0200_0701, 0x4410),
                leaf7(0xfdaf_2b69, 0x0200_5f43, 0x441c),
            ],
        ),
        ((7, 1), [no_bfloat, no_bfloat, no_bfloat, bfloat]),
        ((0xa, 0), [NONE; 4]),
        ((0xb, 0), [NONE; 4]),
        ((0xd, 0), [NONE, size(3, 0x240), size(7, 0x340), size(0xe7, 0xa80)]),
        ((0xd, 1), [NONE, [7, 0, 0, 0], [7, 0, 0, 0], [7, 0, 0, 0]]),
        ((0xd, 2), [NONE, NONE, [ALL; 4], [ALL; 4]]),
        ((0xd, 3), [NONE; 4]),
        ((0xd, 5), [NONE, NONE, NONE, [ALL; 4]]),
        ((0xd, 62), [NONE; 4]),
        ((0xe, 0), [NONE; 4]),
        ((0x20, 0), [NONE; 4]),
        ((0x8000_0000, 0), [[0x8000_0021, ALL, ALL, ALL]; 4]),
        ((0x8000_0001, 0), [amd(0x0020_01e3), amd(0x0020_01e3), amd(0x0021_09e3), amd(0x0021_09e3)]),
        ((0x8000_0002, 0), [[ALL; 4]; 4]),
        ((0x8000_0007, 0), [[0, 0, 0, 0x100]; 4]),
        ((0x8000_0008, 0), [[0x30ff, 5, 0, 0]; 4]),
        ((0x8000_000a, 0), [NONE; 4]),
        ((0x8000_001b, 0), [NONE; 4]),
        ((0x8000_0021, 0), [NONE; 4]),
        ((0x8000_0022, 0), [NONE; 4]),
    ];
    let s = ordinary();
    {
        let mut native = s.core.platform.cpuid.lock().unwrap();
        native.extend(rows.map(|(leaf, _)| (leaf, [ALL; 4])));
        native.extend([((0, 0), [0x20, ALL, ALL, ALL]), ((0x8000_0000, 0), [0x8000_0021, ALL, ALL, ALL])]);
    }
    for (column, xcr0) in [0, 3, 7, 0xe7].into_iter().enumerate() {
        s.core.platform.xcr0.store(xcr0, SeqCst);
        for ((leaf, subleaf), shown) in rows {
            let got = s.with(|c| c.core.cpuid(c, leaf, subleaf));
            assert_eq!(got, shown[column], "{leaf:#x}.{subleaf}, XCR0 {xcr0:#x}: {got:x?}");
        }
    }
    // AMD's processors have no SYSENTER in long mode.
    s.core.platform.cpuid.lock().unwrap().insert((0, 0), [0x20, 0, u32::from_le_bytes(*b"cAMD"), 0]);
    assert_eq!(s.with(|c| c.core.cpuid(c, 1, 0))[3], 0x0fc9_c3f5);
    // And of one that has nothing, only the core is shown.
    s.core.platform.cpuid.lock().unwrap().insert((1, 0), [0; 4]);
    assert_eq!(s.with(|c| c.core.cpuid(c, 1, 0)), [0, 0, 1 << 31, 0]);
}

#[test]
fn the_leaves_of_the_hypervisor() {
    let s = ordinary();
    let leaf = |leaf: u32, subleaf| s.with(|c| c.core.cpuid(c, 0x4000_0000 + leaf, subleaf));
    assert_eq!(leaf(0, 0), [0x4000_0005, 0x566e_6558, 0x6558_4d4d, 0x4d4d_566e]);
    assert_eq!(leaf(1, 0), [4 << 16 | 17, 0, 0, 0]);
    assert_eq!(leaf(2, 0), [1, 0x4000_0000, 1, 0], "one page of hypercalls, by this MSR; features: by machine address");
    assert_eq!(leaf(5, 0), [0, 21, 0, 0], "512 frames");
    for (beyond, subleaf) in [(3, 3), (4, 0), (5, 1), (6, 0), (0xff, 0)] {
        assert_eq!(leaf(beyond, subleaf), [0; 4]);
    }
    for ((mul, shift), khz) in
        [((1 << 31, 1), 1_000_000), ((1 << 31, 0), 2_000_000), ((1 << 31, -1), 4_000_000), ((0, 0), u32::MAX)]
    {
        *s.core.platform.tsc_scale.lock().unwrap() = (mul, shift);
        assert_eq!(leaf(3, 0)[1..], [0, khz, 0], "the guest's TSC, which is the host's");
        assert_eq!(leaf(3, 1), [0, 0, mul, shift as u32], "its scale");
        assert_eq!(leaf(3, 2), [khz, 0, 0, 0]);
    }
}

#[test]
fn what_cpuid_hides_and_shows() {
    let s = ordinary();
    let leaf = |leaf, subleaf| s.with(|c| c.core.cpuid(c, leaf, subleaf));
    let hidden = |word: u32, bits: &[u32]| {
        let seen: String = bits.iter().filter(|&&b| word >> b & 1 != 0).map(|b| std::format!("{b} ")).collect();
        assert_eq!(seen, "", "still shown");
    };
    let [_, _, c, d] = leaf(1, 0);
    hidden(c, &[3, 5, 15, 17, 21, 24]); // MONITOR, VMX, PDCM, PCID, x2APIC, TSC deadline
    hidden(d, &[1, 3, 12, 13, 17]); // VME, PSE, MTRR, PGE, PSE36
    let driver = setup(Privilege::HARDWARE);
    let mtrr = |leaf| driver.with(|c| c.core.cpuid(c, leaf, 0))[3] >> 12 & 1;
    assert_eq!((mtrr(1), mtrr(0x8000_0001)), (1, 1), "MTRR, to the kernel that drives the machine");
    driver.with(|c| c.run.kernel_mode = false);
    assert_eq!(mtrr(1), 0, "and not to its user mode");
    assert!([7, 9, 14].iter().all(|bit| d >> bit & 1 == 1), "MCE, APIC, MCA");
    assert!(c >> 31 == 1 && c >> 26 & 1 == 1 && d & 1 == 1, "hypervisor, XSAVE, FPU");
    for (kernel_mode, cr4, shown) in [(true, 0, 1), (false, 0, 0), (false, 1 << 18, 1), (true, 1 << 18, 1)] {
        s.with(|c| (c.run.kernel_mode, c.run.cr4) = (kernel_mode, cr4));
        assert_eq!(leaf(1, 0)[2] >> 27 & 1, shown, "OSXSAVE: to the kernel always, else as the guest has set it");
    }
    let [_, b, c, d] = leaf(7, 0);
    hidden(b, &[7, 10, 20]); // SMEP, INVPCID, SMAP
    hidden(c, &[2, 3, 4, 7, 16]); // UMIP, PKU, OSPKE, CET_SS, LA57
    hidden(d, &[20]); // CET_IBT
    hidden(leaf(0xd, 1)[0], &[3]); // XSAVES
    hidden(leaf(7, 0)[1], &[16, 30, 31]); // AVX-512, whose state is not kept
    assert_eq!(leaf(0xd, 0)[0], 7);
    s.core.platform.xcr0.store(0, std::sync::atomic::Ordering::SeqCst);
    hidden(leaf(1, 0)[2], &[12, 26, 28, 29]); // without XSAVE nothing that needs it
    hidden(leaf(7, 0)[1], &[5]);
    assert_eq!(leaf(0xd, 0), [0; 4]);
    assert!(s.privileged(&[0x0f, 0x22, 0xe0], |r| r.rax = 1 << 18));
    assert_eq!(s.with(|c| c.run.cr4), 0, "nor CR4.OSXSAVE");
    assert_eq!(leaf(0xa, 0), [0; 4], "no performance counters");
    hidden(leaf(0x8000_0001, 0)[3], &[12, 26]); // MTRR, 1 GiB pages
    assert_eq!((leaf(0xe, 0), leaf(0x8000_0008, 0)[0]), ([0; 4], 48 << 8 | 40), "beyond XSAVE; 48 bits of addresses");
    assert_eq!(leaf(0x8000_00ff, 0), [0; 4], "beyond the last leaf");
    assert_eq!(leaf(0x4000_0005, 0)[1], 21, "512 frames");
    assert_eq!(leaf(0x4000_0006, 0), [0; 4]);
    assert_eq!(leaf(0x4000_0003, 0), [4, 0, 1_000_000, 0], "RDTSCP, the TSC is native");
    assert_eq!(leaf(0x4000_0003, 2)[0], 1_000_000, "1 GHz");
}
