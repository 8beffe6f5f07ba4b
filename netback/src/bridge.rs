//! Which address is behind which port, as far as packets have shown.
//!
//! The table is of fixed size. An address that the toolstack gave to a vif is its alone: nobody else's packets move it.
//! Other addresses are learned from packets, a bounded number a port, forgotten after a while, and move when they are
//! seen elsewhere.

use ring_proto::net::Mac;

/// A port of the bridge: a place of the switch's, or the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// The NIC.
    Nic,
    /// The vif at this place.
    Vif(u16),
}

/// Sets of the table, a power of two, and entries of a set.
const SETS: usize = 256;
const WAYS: usize = 4;
/// Most learned addresses behind one vif.
const MAX_PER_VIF: usize = 32;
/// How long an address that is not seen is remembered, in nanoseconds.
const LIFETIME: u64 = 300_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: Mac,
    port: Port,
    /// Last seen; `None`: given, not learned.
    seen: Option<u64>,
}

/// The table.
#[derive(Debug)]
pub struct Bridge {
    sets: [[Option<Entry>; WAYS]; SETS],
}

impl Default for Bridge {
    fn default() -> Self {
        Self { sets: [[None; WAYS]; SETS] }
    }
}

fn set_of(mac: Mac) -> usize {
    // FNV-1a: guests choose addresses, but a full set costs only floods.
    mac.0.iter().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) as usize % SETS
}

fn expired(entry: &Entry, now: u64) -> bool {
    entry.seen.is_some_and(|seen| now.saturating_sub(seen) > LIFETIME)
}

impl Bridge {
    /// Gives an address to a vif for good. False: somebody else was given it, or its set is full of such.
    pub fn give(&mut self, mac: Mac, port: Port) -> bool {
        let set = &mut self.sets[set_of(mac)];
        if let Some(entry) = set.iter_mut().flatten().find(|entry| entry.mac == mac) {
            let free = entry.seen.is_some() || entry.port == port;
            if free {
                *entry = Entry { mac, port, seen: None };
            }
            return free;
        }
        let learned = |slot: &&mut Option<Entry>| slot.is_none_or(|entry| entry.seen.is_some());
        let Some(slot) = set.iter_mut().find(learned) else { return false };
        *slot = Some(Entry { mac, port, seen: None });
        true
    }

    /// Notes that a packet from `mac` came in at `port`. False: that address was given to another port, and the packet
    /// is a forgery.
    pub fn learn(&mut self, mac: Mac, port: Port, now: u64) -> bool {
        if mac.is_group() {
            return false;
        }
        let set = &mut self.sets[set_of(mac)];
        if let Some(entry) = set.iter_mut().flatten().find(|entry| entry.mac == mac) {
            if entry.port == port {
                entry.seen = entry.seen.map(|_| now);
                return true;
            }
            if entry.seen.is_none() {
                return false;
            }
            entry.port = port;
            entry.seen = Some(now);
            return true;
        }
        if port != Port::Nic && self.learned_at(port, now) >= MAX_PER_VIF {
            return true;
        }
        // The oldest learned entry makes room; given ones stay.
        let age = |slot: &Option<Entry>| match slot {
            None => Some(0),
            Some(entry) => entry.seen.map(|seen| seen.saturating_add(1)),
        };
        let set = &mut self.sets[set_of(mac)];
        let oldest = set.iter_mut().filter(|slot| age(slot).is_some()).min_by_key(|slot| age(slot));
        if let Some(slot) = oldest {
            *slot = Some(Entry { mac, port, seen: Some(now) });
        }
        true
    }

    fn learned_at(&self, port: Port, now: u64) -> usize {
        let live = |entry: &&Entry| entry.port == port && entry.seen.is_some() && !expired(entry, now);
        self.sets.iter().flatten().flatten().filter(live).count()
    }

    /// Where packets to `mac` go; `None`: everywhere.
    pub fn find(&self, mac: Mac, now: u64) -> Option<Port> {
        let set = &self.sets[set_of(mac)];
        let entry = set.iter().flatten().find(|entry| entry.mac == mac)?;
        (!expired(entry, now)).then_some(entry.port)
    }

    /// Forgets all that is behind a port.
    pub fn forget(&mut self, port: Port) {
        self.sets.iter_mut().flatten().filter(|slot| slot.is_some_and(|entry| entry.port == port)).for_each(|slot| {
            *slot = None;
        });
    }
}
