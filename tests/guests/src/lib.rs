//! The kit of the conformance guests: a [`Test`] that compares and gives one verdict.
//!
//! A guest is a file in `src/bin` and a line in `LIST.toml`. Its last line is its verdict:
//! `SUCCESS`, `SKIP reason` or `FAILURE what`. What it expects is what real Xen 4.17 does.
#![no_std]
#![forbid(unsafe_code)]

pub mod child;
pub mod code;
pub mod ops;
pub mod remote;
pub mod views;

use core::fmt::Debug;
use domain_rt::abi::Errno;
use domain_rt::abi::mmu::MmuextCmd;
use domain_rt::abi::sched::ShutdownReason;
use domain_rt::abi::start_info::StartInfo;
use domain_rt::println;
use domain_rt::probe::{self, Entry, Frame};

pub use domain_rt;
pub use domain_rt::abi;

/// Makes `fn run(t: &mut Test)` the guest.
#[macro_export]
macro_rules! guest {
    ($run:path) => {
        $crate::domain_rt::entry!(__guest_start);
        fn __guest_start(info: &'static $crate::abi::start_info::StartInfo) -> $crate::abi::sched::ShutdownReason {
            $crate::judge(info, $run)
        }
    };
}

/// What a guest compares against, and what came of it.
pub struct Test {
    /// What the domain was started with.
    pub info: &'static StartInfo,
    failures: u32,
    first: &'static str,
    skip: Option<&'static str>,
}

/// Where the L4 is mapped (read-only) that the domain started with.
pub fn l4() -> u64 {
    probe::start_tables()
}

/// Gives user mode an L4 with what the kernel has in its half.
pub fn user_table(t: &mut Test) -> probe::Page {
    let (page, kernel) = (probe::page(), l4());
    for i in (0..256).chain(272..512) {
        page.set(i, probe::peek(kernel + 8 * i as u64));
    }
    t.ok("protect", page.protect(false));
    t.ok("pin", ops::mmuext(MmuextCmd::PIN_L4_TABLE, page.mfn.0, 0));
    t.ok("user base", ops::mmuext(MmuextCmd::NEW_USER_BASEPTR, page.mfn.0, 0));
    page
}

/// Sets the guest up, runs it, prints the verdict.
pub fn judge(info: &'static StartInfo, run: fn(&mut Test)) -> ShutdownReason {
    let mut test = Test { info, failures: 0, first: "", skip: None };
    match probe::set_shared_info(info) {
        Ok(va) => {
            let traps = probe::install(va, 0, 0);
            test.ok("set_trap_table", traps);
            run(&mut test);
        }
        Err(error) => test.ok("map shared_info", error),
    }
    match (test.failures, test.skip) {
        (0, None) => println!("SUCCESS"),
        (0, Some(why)) => println!("SKIP {why}"),
        (1, _) => println!("FAILURE {}", test.first),
        (n, _) => println!("FAILURE {} and {} more", test.first, n - 1),
    }
    ShutdownReason::POWEROFF
}

impl Test {
    /// The property cannot be seen here.
    pub fn skip(&mut self, why: &'static str) {
        self.skip = Some(why);
    }

    /// Equal?
    pub fn eq<T: PartialEq + Debug>(&mut self, what: &'static str, got: T, want: T) {
        if got != want {
            println!("  {what}: got {got:x?}, want {want:x?}");
            self.fail(what);
        }
    }

    /// True?
    pub fn yes(&mut self, what: &'static str, holds: bool) {
        self.eq(what, holds, true);
    }

    /// A hypercall that succeeds with 0.
    pub fn ok(&mut self, what: &'static str, got: i64) {
        self.eq(what, Ret(got), Ret(0));
    }

    /// A hypercall that fails so.
    pub fn err(&mut self, what: &'static str, got: i64, want: Errno) {
        self.eq(what, Ret(got), Ret(want.code()));
    }

    /// A hypercall that returns this.
    pub fn returns(&mut self, what: &'static str, got: i64, want: i64) {
        self.eq(what, Ret(got), Ret(want));
    }

    /// No entry: the code came to its end.
    pub fn runs(&mut self, what: &'static str, got: Option<Frame>) {
        self.eq(what, got.map(|f| (f.entry, f.error_code, f.rip)), None);
    }

    /// Code that ends in this entry with this error code.
    pub fn traps(&mut self, what: &'static str, got: Option<Frame>, entry: Entry, error_code: u64) -> Option<Frame> {
        self.eq(what, got.map(|f| (f.entry, f.error_code)), Some((entry, error_code)));
        got
    }

    fn fail(&mut self, what: &'static str) {
        if self.failures == 0 {
            self.first = what;
        }
        self.failures += 1;
    }
}

/// A hypercall's return value, printed by the error's name.
#[derive(PartialEq, Eq)]
pub struct Ret(pub i64);

impl Debug for Ret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match Errno::check(self.0) {
            Ok(value) => write!(f, "{value:#x}"),
            Err(errno) => write!(f, "-{errno:?}"),
        }
    }
}
