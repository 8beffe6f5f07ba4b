//! console_io and xen_version: every sub-operation, unknown ones, bad pointers.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::version::{CompileInfo, FeatureInfo, PlatformParameters, features};
use conformance_guests::abi::{Errno, layout};
use conformance_guests::domain_rt::probe::{call, call_with};
use conformance_guests::{Test, guest};

guest!(run);

/// An address that nothing maps.
const BAD: u64 = 0x1000;
/// Nowhere that a guest's bytes can be: around the edges of the address space's halves and of the hypervisor's range, and in it.
const EDGES: [u64; 9] = [
    0x7fff_ffff_fffc,
    0x8000_0000_0000,
    0xffff_7fff_ffff_fffc,
    layout::HYPERVISOR_VIRT_START.0,
    0xffff_8080_0000_0000,
    0xffff_82d0_8020_0000,
    0xffff_87ff_ffff_fffc,
    0xffff_8800_0000_0000,
    u64::MAX - 3,
];

fn run(t: &mut Test) {
    console(t);
    version(t);
    let unknown = [11, 38, 55, 56, 63, 64, 1000, u32::MAX];
    for number in unknown {
        t.err("unknown hypercall", call(Hypercall(number), &[]), Errno::ENOSYS);
    }
}

fn console(t: &mut Test) {
    let mut text = *b"console_io\n";
    let io = |args: &[u64]| call(Hypercall::CONSOLE_IO, args);
    t.ok("write", call_with(Hypercall::CONSOLE_IO, &[0, 11], &mut text));
    t.ok("write of nothing", io(&[0, 0, BAD]));
    t.err("write from a bad address", io(&[0, 4, BAD]), Errno::EFAULT);
    t.err("write from the hypervisor", io(&[0, 4, 0xffff_8300_0000_0000]), Errno::EFAULT);
    for at in EDGES {
        t.err("write from nowhere", io(&[0, 8, at]), Errno::EFAULT);
    }
    t.ok("read of nothing there", call_with(Hypercall::CONSOLE_IO, &[1, 11], &mut text));
    t.err("read of 2 GiB", io(&[1, 1 << 31, BAD]), Errno::E2BIG);
    t.err("unknown op", io(&[2, 0, 0]), Errno::ENOSYS);
}

fn version(t: &mut Test) {
    let v = |args: &[u64]| call(Hypercall::XEN_VERSION, args);
    t.returns("version", v(&[0, 0]), 0x4_0011);
    t.returns("version ignores its argument", v(&[0, BAD]), 0x4_0011);
    let mut text = [0xaau8; 1024];
    t.ok("extraversion", call_with(Hypercall::XEN_VERSION, &[1], &mut text));
    t.yes("extraversion is text", text.iter().take(16).any(|&b| b == 0));
    t.eq("extraversion is 16 bytes", text.get(16), Some(&0xaa));
    t.err("extraversion to a bad address", v(&[1, BAD]), Errno::EFAULT);
    for at in EDGES {
        t.err("extraversion to nowhere", v(&[1, at]), Errno::EFAULT);
    }
    let mut info = CompileInfo::default();
    t.ok("compile_info", call_with(Hypercall::XEN_VERSION, &[2], &mut info));
    t.yes("compiler", info.compiler.first().is_some_and(|&b| b != 0));
    t.err("compile_info to a bad address", v(&[2, BAD]), Errno::EFAULT);
    t.ok("capabilities", call_with(Hypercall::XEN_VERSION, &[3], &mut text));
    t.yes("capabilities name PV64", text.windows(14).any(|w| w == b"xen-3.0-x86_64"));
    text.fill(0);
    t.ok("changeset", call_with(Hypercall::XEN_VERSION, &[4], &mut text));
    let mut params = PlatformParameters::default();
    t.ok("platform_parameters", call_with(Hypercall::XEN_VERSION, &[5], &mut params));
    t.eq("virt_start", params.virt_start, layout::HYPERVISOR_VIRT_START);
    let mut feature = FeatureInfo { submap_idx: 0, submap: 0 };
    t.ok("get_features", call_with(Hypercall::XEN_VERSION, &[6], &mut feature));
    let on = |bit: u32| feature.submap >> bit & 1 != 0;
    t.yes("preserve_ad", on(features::MMU_PT_UPDATE_PRESERVE_AD));
    t.yes("map_avail_bits", on(features::GNTTAB_MAP_AVAIL_BITS));
    t.yes("dom0", on(features::DOM0));
    t.yes("no writable_page_tables", !on(features::WRITABLE_PAGE_TABLES));
    t.yes("no auto_translated", !on(features::AUTO_TRANSLATED_PHYSMAP));
    t.eq("features", feature.submap, 0x228e0);
    let mut feature = FeatureInfo { submap_idx: 1, submap: 5 };
    t.err("get_features past the last word", call_with(Hypercall::XEN_VERSION, &[6], &mut feature), Errno::EINVAL);
    t.err("get_features at a bad address", v(&[6, BAD]), Errno::EFAULT);
    t.returns("pagesize", v(&[7, 0]), 4096);
    t.err("pagesize with an argument", v(&[7, 8]), Errno::EINVAL);
    let mut handle = [0xaau8; 17];
    t.ok("guest_handle", call_with(Hypercall::XEN_VERSION, &[8], &mut handle));
    t.eq("guest_handle is 16 bytes", handle.get(15..), Some(&[0, 0xaa][..]));
    text.fill(0);
    t.ok("commandline", call_with(Hypercall::XEN_VERSION, &[9], &mut text));
    t.err("guest_handle at a bad address", v(&[8, BAD]), Errno::EFAULT);
    t.err("commandline at a bad address", v(&[9, BAD]), Errno::EFAULT);
    t.err("unknown op", v(&[11, 0]), Errno::ENOSYS);
    t.err("the highest op", v(&[u32::MAX.into(), 0]), Errno::ENOSYS);
}
