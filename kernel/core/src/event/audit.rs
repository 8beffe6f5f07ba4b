//! What the audit checks of event channels.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use abi::{Errno, Port};

use super::{Both, Bound, Peer};
use crate::{Core, Domain, Platform, Stage};

impl<P: Platform> Core<P> {
    /// Looks at each open port of a domain, and complains of those to which nothing corresponds: half a channel, an
    /// interrupt that goes elsewhere, any port of a domain that is gone. Returns how many are open.
    pub(crate) fn audit_ports(&self, domain: &Arc<Domain<P>>, mut complain: impl FnMut(Port)) -> u64 {
        let mut open = 0;
        for port in (1..self.valid_ports(domain)).map(Port) {
            let Some(sound) = self.is_sound(domain, port) else { continue };
            open += 1;
            if !sound || domain.stage() == Stage::Zombie {
                complain(port);
            }
        }
        open
    }

    /// None for a port that is not open.
    fn is_sound(&self, domain: &Arc<Domain<P>>, port: Port) -> Option<bool> {
        Both::with(domain, port, |both| {
            let back = |peer: &Peer<P>| Arc::ptr_eq(&peer.domain, domain) && peer.port == port;
            let other = both.other(port).map(|channel| &channel.bound);
            let there_and_back = matches!(other, Some(Bound::Interdomain(peer)) if back(peer));
            Some(match &both.near.get(port)?.bound {
                Bound::Free | Bound::Reserved => return None,
                Bound::Interdomain(_) => there_and_back,
                Bound::Unbound(_) | Bound::Ipi => true,
                Bound::Pirq(pirq) => both.near.all().filter(|(_, channel)| channel.bound.is_pirq(*pirq)).count() == 1,
                Bound::Virq(virq) => {
                    let slots = domain.vcpus.iter().filter_map(|vcpu| vcpu.events.virq(*virq));
                    slots.filter(|slot| slot.load(SeqCst) == port.0).count() == 1
                }
            })
        })
    }

    /// For tests of the audit: opens half a channel.
    pub(crate) fn leak_port(&self, domain: &Arc<Domain<P>>) -> Result<Port, Errno> {
        let port = self.alloc_unbound(domain, domain.id)?;
        if let Some(channel) = domain.events.ports.lock().get_mut(port) {
            channel.bound =
                Bound::Interdomain(Peer { domain: domain.clone(), port: Port(u32::MAX), vcpu: channel.vcpu });
        }
        Ok(port)
    }
}
