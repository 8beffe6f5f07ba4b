//! Domains that are made in the background, because their kernels are to be unpacked first: one at a time, in the order in
//! which they were asked for, a little at a time, so that the shell, the store and all consoles go on meanwhile.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use dom0::bzimage::BzError;
use dom0::manifest::Domain as Config;
use dom0::toolstack::Refusal;
use domain_rt::driver::give_way;
use domain_rt::time;

use super::{Milliseconds, Shared, State, try_start};

/// A domain to be made.
#[derive(Clone, Debug)]
struct Job {
    number: u64,
    config: Config,
    /// When it was asked for, nanoseconds.
    since: u64,
}

/// The domains to be made; the first is under way.
#[derive(Debug, Default)]
pub(super) struct Making {
    jobs: VecDeque<Job>,
    /// Jobs there ever were.
    count: u64,
    /// The task that does them is there.
    working: bool,
}

impl Making {
    /// What they are made from.
    pub fn configs(&self) -> impl Iterator<Item = &Config> {
        self.jobs.iter().map(|job| &job.config)
    }

    /// Gives up making a domain; whether it was to be made. What was unpacked of its kernel goes.
    pub fn cancel(&mut self, name: &str) -> bool {
        let before = self.jobs.len();
        self.jobs.retain(|job| job.config.name != name);
        self.jobs.len() < before
    }

    /// Gives up all; their names.
    pub fn cancel_all(&mut self) -> Vec<String> {
        self.jobs.drain(..).map(|job| job.config.name).collect()
    }

    fn goes_on(&self, number: u64) -> bool {
        self.jobs.front().is_some_and(|job| job.number == number)
    }
}

/// Makes a domain at once, or in the background if its kernel is to be unpacked first; says whether it was at once.
///
/// # Errors
/// Why it is not made, as far as that is known before its kernel is unpacked.
pub(super) fn make(state: &Shared, config: &Config) -> Result<bool, Refusal> {
    let since = time::now();
    let packed = {
        let state = state.borrow();
        if state.making.configs().any(|other| other.name == config.name) {
            return Err(Refusal::NameTaken(config.name.clone()));
        }
        state.tools.check(config)?;
        state.tools.is_packed(&config.kernel)?
    };
    if !packed {
        let created = try_start(state, config, since)?;
        state.borrow_mut().log_start(&config.name, &Ok(created));
        return Ok(true);
    }
    let mut borrowed = state.borrow_mut();
    let making = &mut borrowed.making;
    making.count += 1;
    making.jobs.push_back(Job { number: making.count, config: config.clone(), since });
    if !core::mem::replace(&mut making.working, true) {
        borrowed.context.spawn(work(Rc::clone(state)));
    }
    Ok(false)
}

/// Makes the domains that wait, until there are none.
async fn work(state: Shared) {
    loop {
        let job = state.borrow().making.jobs.front().cloned();
        let Some(Job { number, config, since }) = job else {
            state.borrow_mut().making.working = false;
            return;
        };
        let unpacked = unpack(&state, &config, |state| state.making.goes_on(number)).await;
        if !state.borrow().making.goes_on(number) {
            continue;
        }
        state.borrow_mut().making.jobs.pop_front();
        let made = unpacked.and_then(|()| try_start(&state, &config, since));
        state.borrow_mut().log_start(&config.name, &made);
    }
}

/// Unpacks a domain's kernel, if it is packed and that has not been done before, as long as it `goes_on`.
pub(super) async fn unpack(state: &Shared, config: &Config, goes_on: impl Fn(&State) -> bool) -> Result<(), Refusal> {
    let kernel = &config.kernel;
    let Some(mut unpacking) = state.borrow().tools.unpack(kernel)? else { return Ok(()) };
    let refusal = |error: BzError| Refusal::Kernel(kernel.clone(), error);
    let begin = time::now();
    while unpacking.step().map_err(refusal)? {
        give_way().await;
        if !goes_on(&state.borrow()) {
            return Ok(());
        }
    }
    let mut state = state.borrow_mut();
    let bytes = state.tools.keep_unpacked(kernel, unpacking.finish());
    let took = Milliseconds(time::now() - begin);
    state.log(&config.name, &alloc::format!("{kernel} unpacked, {} MiB, in {took}", bytes >> 20));
    Ok(())
}
