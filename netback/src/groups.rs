//! The multicast addresses that a guest wants.

use alloc::vec::Vec;
use ring_proto::net::Mac;
use ring_proto::net_tx::Multicast;

/// Most addresses of one guest.
const MOST: usize = 64;

/// A guest's list.
#[derive(Debug)]
pub(crate) struct Groups {
    /// None: it wants all.
    listed: Option<Vec<Mac>>,
}

impl Groups {
    /// All, or those only that the guest will name.
    pub fn new(only_named: bool) -> Self {
        Self { listed: only_named.then(Vec::new) }
    }

    /// Whether a packet to the group `mac` is wanted.
    pub fn has(&self, mac: Mac) -> bool {
        mac == Mac::BROADCAST || self.listed.as_ref().is_none_or(|listed| listed.contains(&mac))
    }

    /// Changes the list; whether it could.
    pub fn change(&mut self, change: Multicast) -> bool {
        let Some(listed) = &mut self.listed else { return false };
        match change {
            Multicast::Add(mac) if listed.contains(&mac) => true,
            Multicast::Add(mac) if mac.is_group() && listed.len() < MOST => {
                listed.push(mac);
                true
            }
            Multicast::Add(_) => false,
            Multicast::Remove(mac) => {
                listed.retain(|other| *other != mac);
                true
            }
        }
    }
}
