//! The guest `first`: says how much memory it has and ends. A place to start from.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use domain_rt::abi::sched::ShutdownReason;
use domain_rt::abi::start_info::StartInfo;
use domain_rt::println;

domain_rt::entry!(run);

fn run(start: &'static StartInfo) -> ShutdownReason {
    println!("first: hello from a domain of {} KiB", start.nr_pages * 4);
    ShutdownReason::POWEROFF
}
