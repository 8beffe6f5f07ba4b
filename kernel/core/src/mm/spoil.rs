//! A test aid: spoils something that the audit must find (the core's option `audit-inject=`). The machine is not to be
//! trusted afterwards.

use abi::{DomId, Pte, TABLE_ENTRIES};

use super::entry::RW;
use crate::{Core, Domain, Frame, Platform, State, guest};

impl<P: Platform> Core<P> {
    /// Spoils something of the initial domain's: one `reference` too many on a frame, a writable `alias` of a page table,
    /// half a `port`. False where there is nothing that could be, or no such word.
    pub fn spoil(&self, what: &str) -> bool {
        let Some(domain) = self.domains.get(DomId(0)) else { return false };
        match what {
            "reference" => {
                domain.memory.lock().iter(&self.frames).next().is_some_and(|f| self.get_page(f.mfn(), &domain).is_ok())
            }
            "alias" => self.spoil_alias(&domain),
            "port" => self.leak_port(&domain).is_ok(),
            _ => false,
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
