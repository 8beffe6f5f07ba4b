//! The block driver domain: its disks are the virtio block devices that dom0 gives it, named `vda`, `vdb`, ... in the
//! order of their places, and RAM disks.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

mod driver;

use domain_rt::abi::start_info::StartInfo;
use domain_rt::println;
use domain_rt::runtime::{self, Context};

domain_rt::entry!(run);

fn run(info: &'static StartInfo) -> ! {
    runtime::start(info, serve)
}

async fn serve(context: Context) {
    let Some(store) = context.store else {
        println!("blkback: no store, nothing to do");
        return;
    };
    let disks = driver::disks(context, store).await;
    let vbd = |device, gone| driver::vbd::serve(store, disks.clone(), device, gone);
    let error = domain_rt::backend::serve_devices(context, store, ring_proto::path::Class::Vbd, vbd).await;
    println!("blkback: the store failed: {error:?}");
}
