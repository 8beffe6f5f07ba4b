//! The machine's end: guests first, then the driver domains they write through, then the machine.

use alloc::format;
use alloc::vec::Vec;

use abi::DomId;
use abi::sched::ShutdownReason;
use dom0::control::Control;
use domain_rt::backend::Signal;
use domain_rt::hypercall;
use embassy_time::{Duration, with_timeout};

use super::{Shared, State};

/// How long the domains of a stage may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Domains whose end is waited for.
#[derive(Debug)]
pub(super) struct Awaited {
    domains: Vec<DomId>,
    all_ended: Signal,
}

/// Asks the domains of each stage to end, waits for them, and ends the machine.
pub(super) async fn power_off(state: Shared) {
    for drivers in [false, true] {
        let ended = state.borrow_mut().ask_to_end(drivers);
        if with_timeout(PATIENCE, ended.wait()).await.is_err() {
            state.borrow_mut().end_the_rest();
        }
    }
    state.borrow_mut().log("dom0", "power off");
    hypercall::shutdown(ShutdownReason::POWEROFF)
}

impl State {
    /// Asks guests, or driver domains, to power off; the signal says when the last of them has.
    fn ask_to_end(&mut self, drivers: bool) -> Signal {
        let is_meant = |config: &dom0::manifest::Domain| config.serves.is_empty() != drivers;
        let of_stage = self.tools.domains().filter(|running| running.ended.is_none() && is_meant(&running.config));
        let domains: Vec<DomId> = of_stage.map(|running| running.built.domain).collect();
        for domain in &domains {
            self.tools.forget_restarts(&self.name(*domain));
            match self.tools.ask(*domain, "poweroff") {
                // One that is paused could not do it.
                Ok(()) => drop(self.tools.control.unpause(*domain)),
                Err(_) => self.end_at_once(*domain, "it does not watch control/shutdown"),
            }
        }
        let all_ended = Signal::default();
        self.awaited = Some(Awaited { domains, all_ended: all_ended.clone() });
        self.sweep();
        all_ended
    }

    /// Destroys those of the stage that have not ended.
    fn end_the_rest(&mut self) {
        let mut awaited = self.awaited.take().map(|awaited| awaited.domains).unwrap_or_default();
        awaited.retain(|domain| self.is_alive(*domain));
        awaited.into_iter().for_each(|domain| self.end_at_once(domain, "it did not end when asked"));
        self.sweep();
    }

    fn end_at_once(&mut self, domain: DomId, why: &str) {
        let name = self.name(domain);
        self.log(&name, &format!("destroyed: {why}"));
        let _ = self.tools.destroy(domain);
    }

    fn is_alive(&self, domain: DomId) -> bool {
        self.tools.get(domain).is_some_and(|running| running.ended.is_none())
    }

    /// Tells who waits for domains to end that they have.
    pub(super) fn tell_of_endings(&mut self) {
        if let Some(Awaited { domains, all_ended }) = &self.awaited
            && !domains.iter().any(|domain| self.is_alive(*domain))
        {
            all_ended.raise();
        }
    }
}
