//! Tasks: embassy's raw executor, idle in `sched_op(block)`.

use crate::sync::Local;
use crate::{events, time};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use embassy_executor::raw::{Executor, TaskStorage};
pub use embassy_executor::{SendSpawner, Spawner};

/// A future of any kind; freed when the task ends.
type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Whether a task was woken since the last poll.
static PENDING: AtomicBool = AtomicBool::new(false);
/// Task slots made so far; one that has ended is used again.
static SLOTS: Local<Vec<&'static TaskStorage<Task>>> = Local::new(Vec::new());

/// Called by the executor when a task is woken.
#[unsafe(export_name = "__pender")]
fn pender(_context: *mut ()) {
    PENDING.store(true, Ordering::Release);
}

/// Starts a task on the executor that the caller runs on, as often as wanted: its future is dropped when it ends.
pub fn spawn(spawner: Spawner, task: impl Future<Output = ()> + 'static) {
    let mut task: Option<Task> = Some(Box::pin(task));
    let mut start = |slot: &'static TaskStorage<Task>| {
        let token = slot.spawn(|| task.take().expect("a free slot takes the task once"));
        token.is_ok_and(|token| {
            spawner.spawn(token);
            true
        })
    };
    let mut slots = SLOTS.lock();
    if !slots.iter().any(|slot| start(slot)) {
        let slot: &'static TaskStorage<Task> = Box::leak(Box::new(TaskStorage::new()));
        slots.push(slot);
        assert!(start(slot), "a new slot is free");
    }
}

/// Runs `main` and all it spawns, for good.
pub fn run<F: Future<Output = ()> + 'static>(main: impl FnOnce(Spawner) -> F) -> ! {
    let executor: &'static Executor = Box::leak(Box::new(Executor::new(core::ptr::null_mut())));
    spawn(executor.spawner(), main(executor.spawner()));
    loop {
        // SAFETY: this loop is the only caller, and tasks do not call it: they have no access to the executor.
        unsafe { executor.poll() };
        let events = events::dispatch();
        let timers = time::fire();
        if !(events || timers || PENDING.swap(false, Ordering::Acquire)) {
            time::arm();
            // An event that comes from here on is pending when the hypervisor blocks, and ends the block at once.
            events::block();
        }
    }
}
