//! The model-specific registers that a guest can see. All others raise #GP in it.

use abi::Mfn;
use abi::regs::msr;

use super::Undone;
use crate::hypercall::domctl::hypercall_page;
use crate::hypercall::set_segment_base::{self, FS, GS_KERNEL, GS_USER};
use crate::{Caller, Core, Platform};

/// What MISC_ENABLE says of what guests do not have: bits clear (7, performance monitoring; 18, MONITOR) and set (11 and
/// 12, no branch tracing and no event sampling; 23, no task priority messages).
const NOT_THERE: (u64, u64) = (1 << 7 | 1 << 18, 1 << 11 | 1 << 12 | 1 << 23);

impl<P: Platform> Core<P> {
    pub(super) fn read_msr(&self, c: &mut Caller<'_, P>, number: u32) -> Result<(), Undone> {
        if (msr::FS_BASE..=msr::KERNEL_GS_BASE).contains(&number) {
            self.platform.save_bases(c.run);
        }
        let value = match number {
            msr::FS_BASE => c.run.fs_base,
            msr::GS_BASE => c.run.gs_base_kernel,
            msr::KERNEL_GS_BASE => c.run.gs_base_user,
            msr::TSC => self.platform.tsc(),
            msr::PAT | msr::EFER | msr::BIOS_SIGN_ID => self.platform.rdmsr(number).ok_or(Undone::Refused)?,
            msr::MISC_ENABLE => self.platform.rdmsr(number).ok_or(Undone::Refused)? & !NOT_THERE.0 | NOT_THERE.1,
            // Enabled, at the usual place, on the first CPU: Linux asks although none is shown.
            msr::APIC_BASE => 0xfee0_0800 | if c.vcpu.id.0 == 0 { 0x100 } else { 0 },
            msr::PLATFORM_INFO | msr::MISC_FEATURES_ENABLES | msr::PERF_CAPABILITIES => 0,
            // Two banks of machine checks, all enabled, in which nothing is ever seen; and the Pentium's registers of them.
            msr::MCG_CAP => 2,
            msr::MC0_CTL | msr::MC1_CTL => u64::MAX,
            0 | 1 | msr::MCG_STATUS | msr::MCG_CTL | 0x280..=0x29f | msr::MC0_CTL..=0x47f | msr::HYPERCALL_PAGE => 0,
            _ => return Err(Undone::Refused),
        };
        (c.run.regs.rax, c.run.regs.rdx) = (value & 0xffff_ffff, value >> 32);
        Ok(())
    }

    pub(super) fn write_msr(&self, c: &mut Caller<'_, P>, number: u32) -> Result<(), Undone> {
        let value = c.run.regs.rdx << 32 | c.run.regs.rax & 0xffff_ffff;
        let frame = Mfn(value >> 12);
        let base = match number {
            msr::FS_BASE => FS,
            msr::GS_BASE => GS_KERNEL,
            msr::KERNEL_GS_BASE => GS_USER,
            msr::MISC_FEATURES_ENABLES | 0x401..=0x403 | 0x405..=0x407 if value != 0 => return Err(Undone::Refused),
            // Frequencies and machine checks: whatever is written makes no difference.
            msr::MISC_FEATURES_ENABLES | 0xe7..=0xe8 | 0x179..=0x17b | 0x280..=0x29f | 0x400..=0x47f => return Ok(()),
            msr::HYPERCALL_PAGE if value & 0xfff == 0 && hypercall_page(self, c.domain, frame).is_ok() => return Ok(()),
            // Nothing of it can be changed, but it may be written back.
            msr::EFER if self.platform.rdmsr(msr::EFER) == Some(value) => return Ok(()),
            msr::MISC_ENABLE if self.platform.rdmsr(msr::MISC_ENABLE).is_some() => return Ok(()),
            _ => return Err(Undone::Refused),
        };
        set_segment_base::set(c, base, value).map_err(|_| Undone::Refused)
    }
}
