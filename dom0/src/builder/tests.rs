//! The builder against a mock hypervisor: what it builds, in which order, and what is left when a step fails.

use alloc::vec::Vec;

use abi::PAGE_SIZE;
use abi::start_info::StartInfo;
use pvimage::testing::ImageMaker;
use zerocopy::FromBytes;

use super::*;
use crate::mock::Mock;

const BASE: u64 = 0xffff_ffff_8000_0000;

fn recipe(kernel: &[u8]) -> Recipe<'_> {
    Recipe { kernel, ramdisk: Some(b"ramdisk"), cmdline: "quiet", memory: 8, vcpus: 2 }
}

#[test]
fn a_domain_is_built_and_can_run() {
    let kernel = ImageMaker::small(BASE).build();
    let mut mock = Mock::new(4096);
    let built = build(&mut mock, &recipe(&kernel)).unwrap();
    assert_eq!(mock.domain(built.domain).unwrap().limits, Some(Limits { vcpus: 2, pages: 2048 }));
    assert!(mock.domain(built.domain).unwrap().paused);
    mock.unpause(built.domain).unwrap();
    assert!(mock.mapped.borrow().is_empty(), "nothing stays mapped");

    let domain = mock.domain(built.domain).unwrap();
    let context = domain.context.clone().unwrap();
    let frames = domain.frames.clone();
    let at = |vaddr: u64| frames[((vaddr - BASE) / PAGE_SIZE as u64) as usize];
    assert_eq!(mock.page(at(BASE + 0x2000))[..4], *b"data");
    let (info, _) = StartInfo::read_from_prefix(&mock.page(at(context.user_regs.rsi))).unwrap();
    assert_eq!(info.cmdline(), b"quiet");
    assert_eq!((info.store_mfn, info.console_mfn), (built.store.0, built.console.0));
    assert_eq!((info.store_evtchn, info.console_evtchn), (1, 2));
    assert_eq!(mock.page(at(info.mod_start))[..7], *b"ramdisk");
    let shared_info = mock.status(built.domain).unwrap().shared_info;
    assert_eq!(info.shared_info, shared_info.maddr());
    let page = mock.page(shared_info);
    assert!(
        (0..32).all(|vcpu| page[vcpu * 64 + 1] == 1) && page.iter().map(|byte| usize::from(*byte)).sum::<usize>() == 32
    );
}

#[test]
fn whatever_step_fails_nothing_is_left() {
    let kernel = ImageMaker::small(BASE).build();
    let mut whole = Mock::new(4096);
    build(&mut whole, &recipe(&kernel)).unwrap();
    let steps = whole.calls.len();
    assert!(steps > 8, "{:?}", whole.calls);
    for step in 0..steps {
        let mut mock = Mock::new(4096);
        mock.fail = Some((step, Errno::EBUSY));
        let error = build(&mut mock, &recipe(&kernel)).unwrap_err();
        assert!(matches!(error, BuildError::Refused(_, Errno::EBUSY)), "step {step}: {error:?}");
        assert!(mock.domains.is_empty() && mock.free == 4096 && mock.mapped.borrow().is_empty(), "step {step}");
    }
}

#[test]
fn a_bad_image_makes_no_domain() {
    let mut mock = Mock::new(4096);
    let error = build(&mut mock, &recipe(b"#!/bin/sh")).unwrap_err();
    assert_eq!(error, BuildError::Image(ImageError::Unfit("not an ELF image for x86-64")));
    let kernel = ImageMaker::small(BASE).build();
    let small = Recipe { memory: 2, ..recipe(&kernel) };
    let error = build(&mut mock, &small).unwrap_err();
    assert_eq!(alloc::format!("{error}"), "too little memory: it needs at least 4 MiB");
    assert_eq!(mock.calls, Vec::<alloc::string::String>::new());
}

#[test]
fn a_machine_that_is_full() {
    let kernel = ImageMaker::small(BASE).build();
    let mut mock = Mock::new(1000);
    let error = build(&mut mock, &recipe(&kernel)).unwrap_err();
    assert_eq!(error, BuildError::Refused(Step::Populate, Errno::ENOMEM));
    assert!(mock.domains.is_empty());
}
