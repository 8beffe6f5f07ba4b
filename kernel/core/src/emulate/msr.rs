//! The model-specific registers that a guest can see. All others raise #GP in it.

use super::Outcome;
use crate::hypercall::set_segment_base::{self, Base};
use crate::{Caller, Core, Platform};

/// MSR numbers.
mod number {
    pub const TSC: u32 = 0x10;
    pub const APIC_BASE: u32 = 0x1b;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MISC_FEATURES_ENABLES: u32 = 0x140;
    pub const MCG_CAP: u32 = 0x179;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const PAT: u32 = 0x277;
    pub const PERF_CAPABILITIES: u32 = 0x345;
    pub const HYPERCALL_PAGE: u32 = 0x4000_0000;
    pub const EFER: u32 = 0xc000_0080;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

/// What MISC_ENABLE says of performance monitoring, which guests do not have: bits clear (7, available) and set (11 and
/// 12, no branch tracing and no event sampling; 23, no task priority messages).
const NO_PMU: (u64, u64) = (1 << 7, 1 << 11 | 1 << 12 | 1 << 23);

impl<P: Platform> Core<P> {
    pub(super) fn read_msr(&self, c: &mut Caller<'_, P>, length: u64) -> Outcome {
        let msr = c.run.regs.rcx as u32;
        let base = matches!(msr, number::FS_BASE | number::GS_BASE | number::KERNEL_GS_BASE);
        if base {
            self.platform.save_bases(c.run);
        }
        let value = match msr {
            number::FS_BASE => c.run.fs_base,
            number::GS_BASE => c.run.gs_base_kernel,
            number::KERNEL_GS_BASE => c.run.gs_base_user,
            number::TSC => self.platform.tsc(),
            number::PAT | number::EFER | number::MISC_ENABLE | number::BIOS_SIGN_ID => match self.platform.rdmsr(msr) {
                Some(value) if msr == number::MISC_ENABLE => value & !NO_PMU.0 | NO_PMU.1,
                Some(value) => value,
                None => return Outcome::Refused,
            },
            // Enabled, at the usual place, on the first CPU: Linux asks although none is shown.
            number::APIC_BASE => 0xfee0_0800 | if c.vcpu.id.0 == 0 { 0x100 } else { 0 },
            number::PLATFORM_INFO | number::MISC_FEATURES_ENABLES | number::PERF_CAPABILITIES => 0,
            // Machine checks: the next is MCG_STATUS. There is no bank.
            number::HYPERCALL_PAGE | number::MCG_CAP | 0x17a => 0,
            _ => return Outcome::Refused,
        };
        (c.run.regs.rax, c.run.regs.rdx) = (value & 0xffff_ffff, value >> 32);
        Outcome::Done(length)
    }

    pub(super) fn write_msr(&self, c: &mut Caller<'_, P>, length: u64) -> Outcome {
        let r = &c.run.regs;
        let value = r.rdx << 32 | r.rax & 0xffff_ffff;
        let base = match r.rcx as u32 {
            number::FS_BASE => Base::Fs,
            number::GS_BASE => Base::GsKernel,
            number::KERNEL_GS_BASE => Base::GsUser,
            number::MISC_FEATURES_ENABLES if value == 0 => return Outcome::Done(length),
            // Nothing of it can be changed, but it may be written back.
            number::EFER if self.platform.rdmsr(number::EFER) == Some(value) => return Outcome::Done(length),
            number::MISC_ENABLE if self.platform.rdmsr(number::MISC_ENABLE).is_some() => return Outcome::Done(length),
            _ => return Outcome::Refused,
        };
        match set_segment_base::set(c, base, value) {
            Ok(()) => Outcome::Done(length),
            Err(_) => Outcome::Refused,
        }
    }
}
