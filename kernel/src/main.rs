//! The ring-0 image of Ferrule: what multiboot starts, and what stands between hardware and [`ferrule_core`].
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "on the host this is only checked"))]

extern crate alloc;

#[cfg(target_os = "none")]
mod acpi_tables;
#[cfg(target_os = "none")]
mod apic;
#[cfg(target_os = "none")]
mod boot_info;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod construct;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod descriptors;
#[cfg(target_os = "none")]
mod flush;
#[cfg(target_os = "none")]
mod fpu;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod keys;
#[cfg(target_os = "none")]
mod layout;
#[cfg(target_os = "none")]
mod lock;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod paging;
#[cfg(target_os = "none")]
mod pci;
#[cfg(target_os = "none")]
mod percpu;
#[cfg(target_os = "none")]
mod physical;
#[cfg(target_os = "none")]
mod power;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod switch;
#[cfg(target_os = "none")]
mod time;
#[cfg(target_os = "none")]
mod trap;
#[cfg(target_os = "none")]
mod world;

#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("boot.s"), options(att_syntax));
#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("entry.s"), options(att_syntax));

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs in ring 0: build it with `cargo xtask build` and boot it with `cargo xtask run`");
}
