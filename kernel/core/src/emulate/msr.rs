//! The model-specific registers that a guest can see. All others raise #GP in it.

use abi::regs::msr;

use super::Outcome;
use crate::hypercall::set_segment_base::{self, FS, GS_KERNEL, GS_USER};
use crate::{Caller, Core, Platform};

/// What MISC_ENABLE says of performance monitoring, which guests do not have: bits clear (7, available) and set (11 and
/// 12, no branch tracing and no event sampling; 23, no task priority messages).
const NO_PMU: (u64, u64) = (1 << 7, 1 << 11 | 1 << 12 | 1 << 23);

impl<P: Platform> Core<P> {
    pub(super) fn read_msr(&self, c: &mut Caller<'_, P>, length: u64) -> Outcome {
        let number = c.run.regs.rcx as u32;
        if (msr::FS_BASE..=msr::KERNEL_GS_BASE).contains(&number) {
            self.platform.save_bases(c.run);
        }
        let value = match number {
            msr::FS_BASE => c.run.fs_base,
            msr::GS_BASE => c.run.gs_base_kernel,
            msr::KERNEL_GS_BASE => c.run.gs_base_user,
            msr::TSC => self.platform.tsc(),
            msr::PAT | msr::EFER | msr::MISC_ENABLE | msr::BIOS_SIGN_ID => match self.platform.rdmsr(number) {
                Some(value) if number == msr::MISC_ENABLE => value & !NO_PMU.0 | NO_PMU.1,
                Some(value) => value,
                None => return Outcome::Refused,
            },
            // Enabled, at the usual place, on the first CPU: Linux asks although none is shown.
            msr::APIC_BASE => 0xfee0_0800 | if c.vcpu.id.0 == 0 { 0x100 } else { 0 },
            msr::PLATFORM_INFO | msr::MISC_FEATURES_ENABLES | msr::PERF_CAPABILITIES => 0,
            // No bank of machine checks.
            msr::HYPERCALL_PAGE | msr::MCG_CAP | msr::MCG_STATUS => 0,
            _ => return Outcome::Refused,
        };
        (c.run.regs.rax, c.run.regs.rdx) = (value & 0xffff_ffff, value >> 32);
        Outcome::Done(length)
    }

    pub(super) fn write_msr(&self, c: &mut Caller<'_, P>, length: u64) -> Outcome {
        let r = &c.run.regs;
        let value = r.rdx << 32 | r.rax & 0xffff_ffff;
        let base = match r.rcx as u32 {
            msr::FS_BASE => FS,
            msr::GS_BASE => GS_KERNEL,
            msr::KERNEL_GS_BASE => GS_USER,
            msr::MISC_FEATURES_ENABLES if value == 0 => return Outcome::Done(length),
            // Nothing of it can be changed, but it may be written back.
            msr::EFER if self.platform.rdmsr(msr::EFER) == Some(value) => return Outcome::Done(length),
            msr::MISC_ENABLE if self.platform.rdmsr(msr::MISC_ENABLE).is_some() => return Outcome::Done(length),
            _ => return Outcome::Refused,
        };
        match set_segment_base::set(c, base, value) {
            Ok(()) => Outcome::Done(length),
            Err(_) => Outcome::Refused,
        }
    }
}
