//! The hypercalls, one a file.
pub mod callback_op;
pub mod console_io;
pub mod debugreg;
pub mod domctl;
pub mod event_channel_op;
pub mod fpu_taskswitch;
pub mod grant_table_op;
pub mod iret;
pub mod memory_op;
pub mod mmu_update;
pub mod mmuext_op;
pub mod multicall;
pub mod physdev_op;
pub mod sched_op;
pub mod set_callbacks;
pub mod set_gdt;
pub mod set_segment_base;
pub mod set_timer_op;
pub mod set_trap_table;
pub mod stack_switch;
pub mod sysctl;
pub mod update_descriptor;
pub mod update_va_mapping;
pub mod vcpu_op;
pub mod vm_assist;
pub mod xen_version;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod interrupted;
#[cfg(test)]
mod tests;
