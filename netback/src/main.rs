//! The network driver domain: a bridge between the vifs of all guests and the virtio network device that dom0 gives
//! this domain, if it gives one.
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
        println!("netback: no store, nothing to do");
        return;
    };
    let Some(switch) = driver::switch(context, store).await else {
        println!("netback: no memory for packets");
        return;
    };
    let vif = |device, gone| driver::vif::serve(store, switch.clone(), device, gone);
    let error = domain_rt::backend::serve_devices(context, store, ring_proto::path::Class::Vif, vif).await;
    println!("netback: the store failed: {error:?}");
}
