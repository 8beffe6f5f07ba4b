//! A test aid: spoils something that the audit must find (the core's option `audit-inject=`). The machine is not to be
//! trusted afterwards.

use abi::{DomId, Pte, TABLE_ENTRIES};

use super::entry::RW;
use crate::{Core, Domain, Frame, Platform, State, guest};

/// What to spoil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    /// One reference too many on a frame.
    Reference,
    /// A writable mapping of a page table.
    Alias,
    /// Half an event channel.
    Port,
}

impl Spoil {
    /// By the name that the option has for it.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "reference" => Some(Self::Reference),
            "alias" => Some(Self::Alias),
            "port" => Some(Self::Port),
            _ => None,
        }
    }
}

impl<P: Platform> Core<P> {
    /// Spoils something of the initial domain's; false where there is nothing that could be.
    pub fn spoil(&self, what: Spoil) -> bool {
        let Some(domain) = self.domains.get(DomId(0)) else { return false };
        match what {
            Spoil::Reference => domain.memory.lock().iter(&self.frames).next().is_some_and(|f| self.get_again(f)),
            Spoil::Alias => self.spoil_alias(&domain),
            Spoil::Port => self.leak_port(&domain).is_ok(),
        }
    }

    fn spoil_alias(&self, domain: &Domain<P>) -> bool {
        let state = |frame: Frame| self.frames.info(frame).state();
        let shows_table = |pte: Pte| {
            let frame = self.frames.get(pte.mfn()).filter(|_| pte.present() && pte.0 & RW == 0);
            frame.is_some_and(|frame| state(frame).has(State::VALIDATED) && state(frame).kind().level() != 0)
        };
        let account = domain.memory.lock();
        for table in account.iter(&self.frames).filter(|&frame| state(frame).is_table(1)) {
            for index in 0..TABLE_ENTRIES {
                let pte = Pte(guest::load(&self.platform, table, index));
                if shows_table(pte) {
                    guest::store_entry(&self.platform, table, index, pte.0 | RW);
                    return true;
                }
            }
        }
        false
    }
}
