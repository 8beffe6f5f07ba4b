//! The smallest domain: prints and powers off.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use domain_rt::abi::sched::ShutdownReason;
use domain_rt::abi::start_info::StartInfo;
use domain_rt::println;

domain_rt::entry!(run);

fn run(start: &'static StartInfo) -> ShutdownReason {
    println!("hello: {} pages, {}", start.nr_pages, start.magic.escape_ascii());
    println!("SUCCESS");
    ShutdownReason::POWEROFF
}
