//! Everything in its order: memory, traps, events, time, grants, console, store, tasks.

use crate::executor::{self, Spawner};
use crate::store::{self, Store};
use crate::{console, events, grant, hypercall, memory, pvconsole, shared, time, traps};
use abi::Vaddr;
use abi::sched::ShutdownReason;
use abi::start_info::StartInfo;
use core::fmt::Debug;
use core::future::Future;

/// What a domain's main function gets.
#[derive(Clone, Copy)]
pub struct Context {
    /// What the builder said.
    pub info: &'static StartInfo,
    /// Starts tasks.
    pub spawner: Spawner,
    /// The store, unless this domain runs it.
    pub store: Option<Store>,
}

impl Debug for Context {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Context").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Context {
    /// The command line.
    pub fn command_line(&self) -> &'static str {
        core::str::from_utf8(self.info.cmdline()).unwrap_or("")
    }

    /// Starts a task.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        executor::spawn(self.spawner, task);
    }
}

fn must<T, E: Debug>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

/// Sets the runtime up. Called once, first thing, by [`start`] or by a domain that has its own loop.
pub fn init(info: &'static StartInfo) {
    #[cfg(target_os = "none")]
    let (base, guard) = {
        unsafe extern "C" {
            static __image_start: u8;
            static __stack_guard: u8;
        }
        (Vaddr(&raw const __image_start as u64), Vaddr(&raw const __stack_guard as u64))
    };
    #[cfg(not(target_os = "none"))]
    let (base, guard) = (Vaddr::NULL, Vaddr::NULL);
    // SAFETY: `entry!` passes the start_info it was started with, and nothing has allocated yet.
    must("memory", unsafe { memory::init(info, base) });
    // SAFETY: the linker script keeps that page free.
    must("stack guard", unsafe { memory::unmap_guard(guard) });
    must("traps", traps::init());
    must("shared page", shared::init(info));
    must("events", events::init());
    must("time", time::init());
    must("grants", grant::init());
    pvconsole::init(info);
}

/// Ends the domain when the toolstack asks it to, by `control/shutdown` as xl does.
async fn obey(store: Store) {
    const NODE: &str = "control/shutdown";
    let Ok(mut watch) = store.watch(NODE).await else { return };
    while watch.changed().await.is_ok() {
        let reason = match store.read(NODE).await.as_deref() {
            Ok("poweroff" | "halt") => ShutdownReason::POWEROFF,
            Ok("reboot") => ShutdownReason::REBOOT,
            _ => continue,
        };
        // The answer that it was seen; whether it can be given changes nothing.
        let _ = store.write(NODE, "").await;
        hypercall::shutdown(reason);
    }
}

/// Sets the runtime up and runs `main` and what it spawns, for good.
pub fn start<F: Future<Output = ()> + 'static>(info: &'static StartInfo, main: impl FnOnce(Context) -> F) -> ! {
    init(info);
    let store = store::init(info).then(Store::new);
    executor::run(|spawner| {
        if let Some(store) = store {
            executor::spawn(spawner, store::serve());
            executor::spawn(spawner, obey(store));
        }
        if info.flags & StartInfo::SIF_INITDOMAIN == 0 && store.is_none() {
            console::print(format_args!("no store\n"));
        }
        main(Context { info, spawner, store })
    })
}
