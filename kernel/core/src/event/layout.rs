//! Where the words of the 2-level layout are, as indices of 64-bit words (`shared_info` and `vcpu_info` of `xen.h`).

use core::mem::offset_of;

use abi::shared_info::SharedInfo;
use abi::vcpu::VcpuInfo;

/// Pending bits, in `shared_info`.
pub const PENDING: usize = offset_of!(SharedInfo, evtchn_pending) / 8;
/// Mask bits, in `shared_info`.
pub const MASK: usize = offset_of!(SharedInfo, evtchn_mask) / 8;
/// Version and seconds of the wall clock, in `shared_info`; nanoseconds and the high half of the seconds behind it.
pub const WALL_CLOCK: usize = offset_of!(SharedInfo, wc_version) / 8;
/// `evtchn_upcall_pending` (low byte) and `evtchn_upcall_mask` (next byte), in `vcpu_info`.
pub const UPCALL: usize = 0;
/// `evtchn_pending_sel`, in `vcpu_info`.
pub const SELECTOR: usize = offset_of!(VcpuInfo, evtchn_pending_sel) / 8;
/// CR2 of the last page fault, in `vcpu_info`.
pub const CR2: usize = offset_of!(VcpuInfo, arch) / 8;
/// The time page, in `vcpu_info`.
pub const TIME: usize = offset_of!(VcpuInfo, time) / 8;

/// In the word [`UPCALL`]: an upcall is due.
pub const UPCALL_PENDING: u64 = 0xff;
/// In the word [`UPCALL`]: but not now.
pub const UPCALL_MASK: u64 = 0xff00;

const _: () =
    assert!(offset_of!(VcpuInfo, evtchn_upcall_pending) == 0 && offset_of!(VcpuInfo, evtchn_upcall_mask) == 1);
const _: () = assert!(offset_of!(SharedInfo, wc_nsec) / 8 == WALL_CLOCK + 1);
