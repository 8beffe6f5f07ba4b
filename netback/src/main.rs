//! The network driver domain: a bridge between the vifs of all guests and the virtio network device that dom0 gives
//! this domain, if it gives one.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

mod driver;

domain_rt::entry!(domain_rt::driver::run::<driver::Netback>);
