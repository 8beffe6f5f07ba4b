//! `xen_version` (17): who we are and what we can do.
//!
//! - Arguments: the sub-operation; the address of its argument.
//! - Returns: 0 (version), 7 (page size) and 10 (build id) a number; the others 0.
//! - Faults: EFAULT. EINVAL: a feature submap that is not there; a page size asked with an argument. EPERM: the build id
//!   without the builder's privilege. ENODATA: there is no build id. ENOSYS: no such sub-operation.
//! - Notes: version(0) is what guests call to have their pending events delivered.
//! - Source: `version.h`, `features.h`.

use crate::{Args, Caller, HcResult, Platform, Privilege, Stop, refuse_if};
use abi::Errno;
use abi::version::{CompileInfo, FeatureInfo, VERSION_4_17, XenVersionOp, features};

/// What comes behind 4.17.
const EXTRA: &str = concat!("-ferrule-", env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [op, to, ..] = *a;
    // What guests call for its side effect alone is not to pay for the rest.
    if op as u32 == XenVersionOp::VERSION.0 { Ok(VERSION_4_17.into()) } else { other(c, XenVersionOp(op as u32), to) }
}

#[inline(never)]
fn other<P: Platform>(c: &mut Caller<'_, P>, op: XenVersionOp, to: u64) -> HcResult {
    let privileged = c.domain.privilege.contains(Privilege::BUILDER);
    match op {
        XenVersionOp::EXTRAVERSION => text::<16, P>(c, to, EXTRA),
        XenVersionOp::COMPILE_INFO => {
            let mut info = CompileInfo::default();
            put_text(&mut info.compiler, "rustc");
            put_text(&mut info.compile_by, "ferrule");
            c.answer(to, &info)
        }
        XenVersionOp::CAPABILITIES => text::<1024, P>(c, to, "xen-3.0-x86_64 "),
        XenVersionOp::CHANGESET => text::<64, P>(c, to, concat!("ferrule ", env!("CARGO_PKG_VERSION"))),
        XenVersionOp::PLATFORM_PARAMETERS => c.answer(to, &abi::layout::HYPERVISOR_VIRT_START),
        XenVersionOp::GET_FEATURES => {
            let mut info: FeatureInfo = c.get(to)?;
            info.submap = features_of(c, info.submap_idx)?;
            c.answer(to, &info)
        }
        XenVersionOp::PAGESIZE if to == 0 => Ok(abi::PAGE_SIZE as i64),
        XenVersionOp::PAGESIZE => Err(Errno::EINVAL.into()),
        XenVersionOp::GUEST_HANDLE => {
            let handle = *c.domain.handle.lock();
            c.answer(to, &handle)
        }
        XenVersionOp::COMMANDLINE => text::<1024, P>(c, to, if privileged { "" } else { "<denied>" }),
        XenVersionOp::BUILD_ID => Err(if privileged { Errno::ENODATA } else { Errno::EPERM }.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn features_of<P: Platform>(c: &Caller<'_, P>, submap: u32) -> Result<u32, Stop> {
    refuse_if(submap != 0, Errno::EINVAL)?;
    const PAE_EXTENDED_CR3: u64 = 1 << 3;
    let extended_cr3 = c.domain.assist.load(core::sync::atomic::Ordering::Relaxed) & PAE_EXTENDED_CR3 != 0;
    let all = [
        (true, features::MMU_PT_UPDATE_PRESERVE_AD),
        (true, features::HIGHMEM_ASSIST),
        (true, features::GNTTAB_MAP_AVAIL_BITS),
        (true, features::MEMORY_OP_VNODE_SUPPORTED),
        (true, features::DIRECT_MAPPED),
        (extended_cr3, features::PAE_PGDIR_ABOVE_4GB),
        (c.domain.privilege.contains(Privilege::INITIAL), features::DOM0),
    ];
    Ok(crate::flags(all.map(|(there, feature)| (there, 1 << feature))))
}

fn put_text(to: &mut [u8], words: &str) {
    for (slot, byte) in to.iter_mut().zip(words.bytes()) {
        *slot = byte;
    }
}

/// Copies text out, filled up with zeros to `N` bytes.
fn text<const N: usize, P: Platform>(c: &Caller<'_, P>, to: u64, words: &str) -> HcResult {
    let mut bytes = [0u8; N];
    put_text(&mut bytes, words);
    c.answer(to, &bytes)
}
