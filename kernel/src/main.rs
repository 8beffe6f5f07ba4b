//! The ring-0 image of Ferrule: what multiboot starts, and what stands between hardware and [`ferrule_core`].
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "on the host this is only checked"))]

extern crate alloc;

#[cfg(target_os = "none")]
use image::*;

/// The image itself. Its parts lie beside this file, and name each other as parts of the crate.
#[cfg(target_os = "none")]
#[path = "."]
mod image {
    pub mod acpi_tables;
    pub mod apic;
    pub mod boot_info;
    pub mod console;
    pub mod construct;
    pub mod cpu;
    pub mod descriptors;
    pub mod flush;
    pub mod fpu;
    pub mod heap;
    pub mod keys;
    pub mod layout;
    pub mod lock;
    pub mod machine;
    pub mod paging;
    pub mod pci;
    pub mod percpu;
    pub mod physical;
    pub mod power;
    pub mod smp;
    pub mod start;
    pub mod switch;
    pub mod time;
    pub mod trap;
    pub mod world;

    core::arch::global_asm!(include_str!("boot.s"), options(att_syntax));
    core::arch::global_asm!(include_str!("entry.s"), options(att_syntax));
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs in ring 0: build it with `cargo xtask build` and boot it with `cargo xtask run`");
}
