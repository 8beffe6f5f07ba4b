//! Images from well-formed to random, laid out and built on the heap, then read back as a kernel would.

extern crate std;

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::start_info::StartInfo;
use abi::vcpu::VcpuGuestContext;
use abi::{Maddr, Mfn, PAGE_SIZE, Pfn, Port, PteFlags, Vaddr};
use fuzz::{Choices, Tally, Target};
use proptest::prelude::*;
use zerocopy::FromBytes;

use crate::testing::{HeapMemory, ImageMaker};
use crate::*;

const LINUX: u64 = 0xffff_ffff_8000_0000;
const WIRING: Wiring = Wiring { shared_info: Maddr(0x777_7000), store_port: Port(1), console_port: Port(2) };

fn guest(nr_pages: u64) -> Request<'static> {
    Request { role: Role::Guest, nr_pages, ramdisk: &[], cmdline: b"root=/dev/xvda quiet" }
}

struct Built {
    memory: HeapMemory,
    context: Box<VcpuGuestContext>,
    info: StartInfo,
}

impl Built {
    fn new(file: &[u8], request: Request<'_>) -> Self {
        let image = Image::parse(file).unwrap();
        let plan = Plan::new(&image, request).unwrap();
        let mut memory = HeapMemory::new(request.nr_pages);
        let mut context = Box::new(VcpuGuestContext::default());
        let Ok(()) = plan.build(&mut memory, &WIRING, &mut context);
        let page = memory.page(plan.start_info);
        let (info, _) = StartInfo::read_from_prefix(page).unwrap();
        let built = Self { memory, context, info };
        built.check(&plan, &image);
        built
    }

    /// What holds for every domain, whatever its image.
    fn check(&self, plan: &Plan<'_>, image: &Image<'_>) {
        let end = image.virt_base + plan.tables.pages * 4096;
        assert!(end.is_multiple_of(4 << 20));
        assert!(end - self.context.kernel_sp.0 >= 512 << 10);
        assert!(self.at(end).is_none() && self.at(image.virt_base.wrapping_sub(4096)).is_none());
        let tables: Vec<Pfn> = plan.tables.all().map(Pfn).collect();
        for page in 0..plan.tables.pages {
            let (pfn, flags) = self.at(image.virt_base + page * 4096).unwrap();
            assert_eq!(pfn, Pfn(page));
            assert_eq!(flags.contains(PteFlags::RW), !tables.contains(&pfn), "{pfn:?}");
            assert!(flags.contains(PteFlags::USER));
        }
        let root = self.memory.pfn(self.root());
        assert_eq!(self.at(self.info.pt_base.0).unwrap().0, root);
        assert_eq!(self.info.nr_pages, plan.request.nr_pages);
        let p2m: Vec<u8> =
            (0..plan.request.nr_pages).flat_map(|pfn| self.memory.mfn(Pfn(pfn)).0.to_le_bytes()).collect();
        self.expect(self.info.mfn_list.0, &p2m);
        for segment in image.segments().flatten() {
            let mut bytes = segment.bytes.to_vec();
            let size = segment.end - segment.paddr;
            bytes.resize(size as usize, 0);
            if let Some(at) =
                image.hypercall_page.and_then(|page| page.checked_sub(segment.paddr)).filter(|at| *at < size)
            {
                bytes.truncate(at as usize); // the test of the hypercall page looks at the rest
            }
            self.expect(image.vaddr(segment.paddr), &bytes);
        }
    }

    /// Checks the bytes mapped at `vaddr`, page by page.
    fn expect(&self, mut vaddr: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let offset = vaddr as usize % PAGE_SIZE;
            let (now, later) = bytes.split_at(bytes.len().min(PAGE_SIZE - offset));
            let page = self.memory.page(self.at(vaddr).unwrap().0);
            assert!(page[offset..offset + now.len()] == *now, "wrong bytes at {vaddr:#x}");
            (vaddr, bytes) = (vaddr + now.len() as u64, later);
        }
    }

    fn root(&self) -> Mfn {
        Maddr(self.context.ctrlreg[3]).mfn()
    }

    fn at(&self, vaddr: u64) -> Option<(Pfn, PteFlags)> {
        self.memory.walk(self.root(), Vaddr(vaddr))
    }

    fn byte(&self, vaddr: u64) -> u8 {
        self.memory.page(self.at(vaddr).unwrap().0)[vaddr as usize % PAGE_SIZE]
    }

    fn word(&self, vaddr: u64) -> u64 {
        u64::from_le_bytes(core::array::from_fn(|at| self.byte(vaddr + at as u64)))
    }
}

#[test]
fn a_small_guest() {
    let built = Built::new(&ImageMaker::small(LINUX).build(), guest(2048));
    assert_eq!(built.context.user_regs.rip, LINUX + 0x1000);
    // Kernel 1..4, p2m 4..8, start_info, store, console, tables, stack.
    assert_eq!(built.context.user_regs.rsi, LINUX + 8 * 4096, "start_info");
    assert_eq!(built.info.mfn_list, Vaddr(LINUX + 4 * 4096));
    assert_eq!(built.info.pt_base, Vaddr(LINUX + 11 * 4096));
    assert_eq!(built.info.nr_pt_frames, 5, "L4, L3, L2 and two L1 for 4 MiB");
    assert_eq!(built.memory.pfn(built.info.store_mfn), Pfn(9));
    assert_eq!(built.memory.pfn(built.info.console_mfn), Pfn(10));
    assert_eq!((built.info.store_evtchn, built.info.console_evtchn), (1, 2));
    assert_eq!(built.info.flags & !StartInfo::SIF_VIRT_P2M_4TOOLS, 0);
    assert_eq!(built.info.cmdline(), b"root=/dev/xvda quiet");
    assert_eq!(&built.info.magic[..15], b"xen-3.0-x86_64\0");
}

#[test]
fn the_initial_domain_has_no_rings() {
    let request = Request { role: Role::Initial, ..guest(2048) };
    let built = Built::new(&ImageMaker::small(0).build(), request);
    assert_eq!(built.info.flags & 3, StartInfo::SIF_PRIVILEGED | StartInfo::SIF_INITDOMAIN);
    assert_eq!((built.info.store_mfn.0, built.info.store_evtchn, built.info.console_evtchn), (0, 0, 0));
    assert_eq!(built.info.console_mfn.0, 0);
}

#[test]
fn ramdisk_mapped_unmapped_and_in_place() {
    let disk: Vec<u8> = (0..10_000u32).map(|at| (at / 3) as u8).collect();
    let request = Request { ramdisk: &disk, ..guest(2048) };
    let built = Built::new(&ImageMaker::small(LINUX).build(), request);
    assert_eq!((built.info.mod_start, built.info.mod_len), (LINUX + 4 * 4096, 10_000));
    assert!((0..10_000).all(|at| built.byte(built.info.mod_start + at) == disk[at as usize]));

    let file = ImageMaker::small(LINUX).note(16, 1).build();
    let built = Built::new(&file, request);
    assert_eq!(built.info.flags & StartInfo::SIF_MOD_START_PFN, StartInfo::SIF_MOD_START_PFN);
    assert_eq!(built.info.mod_start, 1024, "right behind the mapped 4 MiB");
    assert_eq!(built.memory.page(Pfn(1024))[..4096], disk[..4096]);
    assert_eq!(built.memory.page(Pfn(1026))[..1808], disk[8192..]);
}

#[test]
fn hypercall_page_is_filled() {
    let built = Built::new(&ImageMaker::small(0x40_0000).note(2, 0x40_1000).build(), guest(4096));
    assert_eq!(built.word(0x40_1000 + 32 * 12).to_le_bytes(), *b"\x51\x41\x53\xb8\x0c\0\0\0");
    assert_eq!(built.byte(0x40_1000 + 32 * 23 + 3), 0x50);
}

#[test]
fn initial_registers() {
    let built = Built::new(&ImageMaker::small(LINUX).build(), guest(1024));
    let context = &built.context;
    assert_eq!((context.user_regs.cs, context.user_regs.ss), (0xe033, 0xe02b));
    assert_eq!(context.user_regs.rsp, context.kernel_sp.0);
    assert_eq!(context.user_regs.rsp % 4096, 0);
    assert_eq!(built.memory.pfn(built.root()), Pfn(9), "the L4");
    assert_eq!(context.flags, 0x24);
}

#[test]
fn every_complaint_names_its_field() {
    let small = || ImageMaker::small(LINUX);
    let wrong: &[(ImageMaker, &str)] = &[
        (ImageMaker { notes: Vec::new(), ..small() }, "no Xen ELF notes"),
        (small().without(1).without(3).note(18, 0x10_0000), "PVH"),
        (small().raw(1, b"abc".to_vec()), "a number"),
        (small().text(5, "xen-4.0"), "XEN_VERSION"),
        (small().text(10, "!supervisor_mode_kernel"), "FEATURES"),
        (small().text(10, "a|!warp_drive"), "FEATURES"),
        (small().text(10, "a|!"), "FEATURES"),
        (small().loads(&[]), "no loadable segment"),
        (small().loads(&[(0x1000, 64, 32)]), "larger than its memory"),
        (small().loads(&[(u64::MAX, 1, 2)]), "physical address"),
        (small().note(4, 0x1001), "physical address"),
        (small().note(3, LINUX + 1), "VIRT_BASE"),
        (small().note(3, 0xffff_8000_0000_0000), "VIRT_BASE"),
        (small().note(3, 1 << 47), "VIRT_BASE"),
        (small().note(1, LINUX + 0x4000), "entry point"),
        (small().note(2, LINUX + 0x1800), "HYPERCALL_PAGE"),
        (small().note(2, LINUX + 0x4000), "HYPERCALL_PAGE"),
    ];
    let complains = |file: &[u8], about: &str| {
        let error = Image::parse(file).unwrap_err();
        assert!(matches!(error, ImageError::Unfit(why) if why.contains(about)), "{error}, not {about}");
    };
    for (maker, about) in wrong {
        complains(&maker.build(), about);
    }
    for file in [&b"#!/bin/sh"[..], b"\x7fELF\x01\x01", b"\x7fELF\x02\x01\x01"] {
        complains(file, "not an ELF image for x86-64");
    }
    let file = small().build();
    complains(&file[..file.len() - 1], "of the file");
    let unknown = small().text(10, "!writable_page_tables|pae_pgdir_above_4gb||newer");
    assert!(Image::parse(&unknown.build()).is_ok(), "unknown is harmless until required");
}

#[test]
fn a_domain_that_does_not_fit() {
    let plan = |maker: ImageMaker, request| {
        let file = maker.build();
        let image = Image::parse(&file).unwrap();
        Plan::new(&image, request).err()
    };
    let refused = |maker, request, about: &str| {
        let error = plan(maker, request);
        assert!(matches!(error, Some(ImageError::Unfit(why)) if why.contains(about)), "{error:?}, not {about}");
    };
    let small = || ImageMaker::small(LINUX);
    assert_eq!(plan(small(), guest(1023)), Some(ImageError::TooLittleMemory(1024)));
    refused(small(), guest(MAX_PAGES + 1), "too many pages");
    refused(small(), Request { cmdline: &[b'x'; 1024], ..guest(1024) }, "command line");
    assert_eq!(plan(small(), Request { cmdline: &[b'x'; 1023], ..guest(1024) }), None);
    let top = ImageMaker::small(u64::MAX - 0x3f_ffff).note(17, 0);
    refused(top.clone(), guest(4096), "address space");
    let initial = Request { role: Role::Initial, ..guest(4096) };
    refused(top, initial, "SUPPORTED_FEATURES");
    assert_eq!(plan(small().note(17, 1 << 11), initial), None);
    let low = ImageMaker::small((1 << 47) - (4 << 20));
    assert_eq!(plan(low, guest(4096)), None, "up to the very end of the low half");
}

#[test]
fn padding_adds_four_mebibytes_when_it_must() {
    // 4 MiB less 512 KiB: kernel, 16 pages of p2m, 3 special pages, 5 tables and the stack end 1 page too late or not.
    for (kernel_pages, mapped) in [(896 - 25, 1024), (896 - 24, 2048)] {
        let maker = ImageMaker::small(LINUX).loads(&[(0x1000, 16, (kernel_pages - 1) * 4096)]);
        let file = maker.build();
        let image = Image::parse(&file).unwrap();
        let plan = Plan::new(&image, guest(8192)).unwrap();
        assert_eq!(plan.tables.pages, mapped, "kernel of {kernel_pages} pages");
    }
}

/// Parses, lays out and builds whatever `file` is; nothing may panic, and what is built must be right.
fn exercise(file: &[u8], ramdisk: usize, role: Role) {
    let Ok(image) = Image::parse(file) else { return };
    let disk = std::vec![7; ramdisk];
    let request = Request { role, ramdisk: &disk, ..guest(4096) };
    if let Ok(plan) = Plan::new(&image, request) {
        let mut memory = HeapMemory::new(4096);
        let Ok(()) = plan.build(&mut memory, &WIRING, &mut Default::default());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mutated_images_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        ramdisk in 0..1usize << 22,
        initial: bool,
    ) {
        let maker = ImageMaker::small(LINUX).note(2, LINUX + 0x1000).note(15, 0x80_0000_0000).note(16, 1).note(12, 0);
        let mut file = maker.build();
        // Mutate headers and notes, not the padding of the segments.
        let head = file.len() - 0x1004;
        for (at, value) in changes {
            let at = at.index(head);
            file[at] = value;
        }
        let role = if initial { Role::Initial } else { Role::Guest };
        exercise(&file, ramdisk, role);
        file.truncate(cut.index(file.len()));
        exercise(&file, ramdisk, role);
    }

    #[test]
    fn random_notes_never_panic(
        values in prop::collection::vec((1u32..19, prop_oneof![any::<u64>(), 0..1u64 << 26, Just(LINUX), Just(u64::MAX)]), 0..12),
        segments in prop::collection::vec((0..1u64 << 26, 0usize..64, 0..1u64 << 24), 0..5),
        legacy in any::<[u8; 24]>(),
    ) {
        let maker = values.iter().fold(ImageMaker::small(LINUX).loads(&segments), |maker, (kind, value)| maker.note(*kind, *value));
        exercise(&maker.build(), 0, Role::Guest);
        let maker = ImageMaker::small(LINUX).raw(10, legacy.to_vec()).raw(13, legacy.to_vec());
        exercise(&maker.build(), 0, Role::Guest);
    }

    #[test]
    fn any_sane_kernel_is_built_right(
        base in prop_oneof![Just(0u64), Just(LINUX), (0..1u64 << 26).prop_map(|page| page * 4096)],
        code in 1usize..9000, bss in 0..3_000_000u64, ramdisk in 0usize..100_000, unmapped: bool, initial: bool,
    ) {
        let maker = ImageMaker::small(base).loads(&[(0x1000, code, code as u64 + bss)]).note(16, unmapped.into());
        let disk = std::vec![7; ramdisk];
        let role = if initial { Role::Initial } else { Role::Guest };
        let request = Request { role, ramdisk: &disk, ..guest(4096) };
        Built::new(&maker.build(), request);
    }
}

#[test]
fn segments_may_overlap_but_not_without_number() {
    let image = |count: usize| ImageMaker::small(LINUX).loads(&alloc::vec![(0x1000, 64, 4096); count]).build();
    assert!(Image::parse(&image(32)).is_ok());
    let error = Image::parse(&image(33)).unwrap_err();
    assert_eq!(error, ImageError::Unfit("more than 32 loadable segments"));
}

/// ELF images with headers, notes and segments changed.
struct Mutated {
    whole: Vec<u8>,
    memory: HeapMemory,
}

impl Target for Mutated {
    const NAME: &'static str = "elf";
    const EPISODE: u64 = 20_000;
    const SUCCEED: u64 = 10;
    const REACHED: &'static [(&'static str, &'static str)] =
        &[("parse", "ok"), ("parse", "refused"), ("plan", "ok"), ("plan", "refused"), ("build", "ok")];

    fn new(_: &mut Choices<'_>) -> Self {
        let maker = ImageMaker::small(LINUX).note(2, LINUX + 0x1000).note(15, 0x80_0000_0000).note(16, 1).note(12, 0);
        Self { whole: maker.build(), memory: HeapMemory::new(4096) }
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        let file = &mut self.whole;
        // Mutate headers and notes, not the padding of the segments.
        let head = file.len() - 0x1004;
        let changes: Vec<(usize, u8)> = (0..c.below(4)).map(|_| (c.below(head), c.byte())).collect();
        let old: Vec<u8> = changes.iter().map(|(at, byte)| core::mem::replace(&mut file[*at], *byte)).collect();
        let shown = if c.one_in(6) { &file[..c.below(file.len())] } else { &file[..] };
        match Image::parse(shown) {
            Err(_) => tally.note("parse", "refused"),
            Ok(image) => {
                tally.note("parse", Tally::OK);
                let role = if c.one_in(2) { Role::Initial } else { Role::Guest };
                let plan = Plan::new(&image, Request { role, ..guest(c.below(4097) as u64) });
                tally.note("plan", if plan.is_ok() { Tally::OK } else { "refused" });
                // Building is slow, and much the same each time.
                if let Ok(plan) =
                    plan.as_ref().map_err(|_| ()).and_then(|plan| if c.one_in(2000) { Ok(plan) } else { Err(()) })
                {
                    let Ok(()) = plan.build(&mut self.memory, &WIRING, &mut Default::default());
                    tally.note("build", Tally::OK);
                }
            }
        }
        changes.iter().zip(old).rev().for_each(|((at, _), old)| self.whole[*at] = old);
    }
}

#[test]
fn mutated_images() {
    fuzz::slice::<Mutated>(20_000);
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz elf"]
fn campaign_elf() {
    fuzz::campaign::<Mutated>();
}
