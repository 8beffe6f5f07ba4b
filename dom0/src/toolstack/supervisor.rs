//! The supervisor: what follows when a domain ends.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use abi::DomId;
use abi::sched::ShutdownReason;

use super::{Control, Toolstack};
use crate::manifest::{Action, Domain as Config};

/// A second, in nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// A domain that ran so long is not in a loop of crashes.
const STABLE: u64 = 60 * SECOND;
/// The longest a restart is put off.
const LONGEST: u64 = 64 * SECOND;

/// What is known of restarts, by the domain's name.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    /// How many in a row came soon after the one before.
    quick: BTreeMap<String, u32>,
    /// What is to be started, and when.
    due: Vec<(u64, Config)>,
}

impl Restarts {
    /// Plans the restart of a domain that ran for `lifetime`; when it is due. The first is at once, then each waits
    /// twice as long as the one before.
    fn plan(&mut self, config: Config, lifetime: u64, now: u64) -> u64 {
        let quick = self.quick.entry(config.name.clone()).or_default();
        *quick = if lifetime >= STABLE { 0 } else { *quick + 1 };
        let delay = match *quick {
            0 | 1 => 0,
            times => (SECOND << (times - 2).min(6)).min(LONGEST),
        };
        self.due.push((now + delay, config));
        now + delay
    }
}

/// What the supervisor did, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The domain's number.
    pub domain: DomId,
    /// Its name.
    pub name: String,
    /// Why it ended.
    pub reason: ShutdownReason,
    /// What is done.
    pub action: Action,
    /// When it starts again, if it does.
    pub restart_at: Option<u64>,
}

impl<C: Control> Toolstack<C> {
    /// Looks which domains have ended since the last call, and does what their manifests say. Called for every
    /// VIRQ_DOM_EXC. What is to be restarted comes from [`due`](Self::due).
    pub fn bury(&mut self, now: u64) -> Vec<Ending> {
        let alive: Vec<DomId> = self.domains.values().filter(|r| r.ended.is_none()).map(|r| r.built.domain).collect();
        alive.into_iter().filter_map(|domain| self.look(domain, now)).collect()
    }

    fn look(&mut self, domain: DomId, now: u64) -> Option<Ending> {
        // A domain that has vanished crashed as badly as can be.
        let reason = match self.control.status(domain) {
            Ok(status) if status.dying => ShutdownReason::CRASH,
            Ok(status) => status.shutdown?,
            Err(_) => ShutdownReason::CRASH,
        };
        let running = self.domains.get_mut(&domain)?;
        running.ended = Some(reason);
        let (config, since) = (running.config.clone(), running.since);
        let action = match reason {
            ShutdownReason::POWEROFF => config.on_poweroff,
            ShutdownReason::REBOOT => config.on_reboot,
            _ => config.on_crash,
        };
        let name = config.name.clone();
        self.store.announce_shutdown();
        if action != Action::Preserve {
            let _ = self.destroy(domain);
        }
        let restart_at = (action == Action::Restart).then(|| {
            // A reboot is the domain's own wish and never put off.
            let lifetime = if reason == ShutdownReason::REBOOT { STABLE } else { now.saturating_sub(since) };
            self.restarts.plan(config, lifetime, now)
        });
        Some(Ending { domain, name, reason, action, restart_at })
    }

    /// Takes the domains that are to be started again by now.
    pub fn due(&mut self, now: u64) -> Vec<Config> {
        let (due, later) = core::mem::take(&mut self.restarts.due).into_iter().partition(|(at, _)| *at <= now);
        self.restarts.due = later;
        Vec::from_iter(Vec::into_iter(due).map(|(_, config)| config))
    }

    /// When the next restart is due.
    pub fn next_due(&self) -> Option<u64> {
        self.restarts.due.iter().map(|(at, _)| *at).min()
    }

    /// Ends a domain and plans its restart at once: what becomes of a driver domain that is destroyed.
    ///
    /// # Errors
    /// As [`destroy`](Self::destroy).
    pub fn replace(&mut self, domain: DomId, now: u64) -> Result<(), super::Refusal> {
        let config = self.get(domain).map(|running| running.config.clone());
        self.destroy(domain)?;
        self.restarts.due.extend(config.map(|config| (now, config)));
        Ok(())
    }

    /// A restart that failed is tried again, later each time.
    pub fn put_off(&mut self, config: Config, now: u64) {
        let quick = self.restarts.quick.entry(config.name.clone()).or_default();
        *quick = (*quick).max(1);
        self.restarts.plan(config, 0, now);
    }

    /// No more restarts of `name`, as when a person destroys it.
    pub fn forget_restarts(&mut self, name: &str) {
        self.restarts.due.retain(|(_, config)| config.name != name);
        self.restarts.quick.remove(name);
    }
}
