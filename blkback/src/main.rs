//! The block driver domain: its disks are the virtio block devices that dom0 gives it, named `vda`, `vdb`, ... in the
//! order of their places, and RAM disks.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

mod driver;

domain_rt::entry!(domain_rt::driver::run::<driver::Blkback>);
