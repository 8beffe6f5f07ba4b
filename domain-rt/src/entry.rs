//! The way in and the two ways out: start, return, panic.

/// Makes a function the start of a domain image. It gets `&'static StartInfo` and returns a
/// [`ShutdownReason`](abi::sched::ShutdownReason) or never:
/// ```ignore
/// #![cfg_attr(target_os = "none", no_std, no_main)]
/// domain_rt::entry!(run);
/// fn run(start: &'static StartInfo) -> ShutdownReason { ... }
/// ```
/// On a host the program does nothing.
#[macro_export]
macro_rules! entry {
    ($run:path) => {
        $crate::notes!();

        #[cfg(target_os = "none")]
        ::core::arch::global_asm!(
            ".pushsection .text.entry, \"ax\"",
            ".globl _start",
            "_start:",
            "cld",
            "lea rsp, [rip + __stack_top]",
            "xor ebp, ebp",
            "mov rdi, rsi",
            "call {start}",
            "ud2",
            ".popsection",
            start = sym __domain_start,
        );

        /// Called once, by `_start`.
        #[cfg(target_os = "none")]
        extern "C" fn __domain_start(start: &'static $crate::abi::start_info::StartInfo) -> ! {
            #[allow(unreachable_code, clippy::diverging_sub_expression, reason = "the function may never return")]
            {
                let reason: $crate::abi::sched::ShutdownReason = $run(start);
                $crate::hypercall::shutdown(reason)
            }
        }

        #[cfg(not(target_os = "none"))]
        fn main() {
            #[allow(unreachable_code, clippy::diverging_sub_expression, reason = "the function may never return")]
            let _: fn(&'static $crate::abi::start_info::StartInfo) -> $crate::abi::sched::ShutdownReason =
                |start| $run(start);
        }
    };
}

/// Says where and why, then ends the domain as crashed.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    crate::println!("{info}");
    crate::hypercall::shutdown(abi::sched::ShutdownReason::CRASH)
}
