//! One vif: what it offers, and its connection.

use super::{Events, SharedSwitch};
use abi::DomId;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::slice;
use domain_rt::activity::Activity;
use domain_rt::backend::{self, Signal};
use domain_rt::events::{self, Event};
use domain_rt::grant::{Access, Mapping};
use domain_rt::xenbus::Half;
use netback::switch::VifId;
use netback::vif::VifConfig;
use ring_proto::keys::Put;
use ring_proto::net::Mac;
use ring_proto::net_keys::{self, BackKeys, FrontKeys, Offloads, QueueKeys};

/// Everything is taken from guests: what a destination does not do is done here. Queues: as many as this domain has vCPUs.
pub(super) const OFFERED: BackKeys = BackKeys {
    offloads: Offloads { scatter_gather: true, gso_tcpv4: true, gso_tcpv6: true, checksum_v4: true, checksum_v6: true },
    split_events: true,
    multicast_control: true,
    max_queues: 1,
};

/// A vif before anybody is connected.
pub struct Vif {
    pub(super) switch: Rc<SharedSwitch>,
    pub(super) mac: Mac,
    /// What the guest is offered.
    pub(super) offered: BackKeys,
}

/// A connected frontend. Dropping it closes the vif, then unmaps the rings and closes the events.
pub struct Connection {
    switch: Rc<SharedSwitch>,
    id: VifId,
    events: Rc<Vec<Events>>,
    broken: Signal,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.switch.close(self.id);
    }
}

impl backend::Connection for Connection {
    async fn wait(&self) {
        events::wait_any(self.events.iter().flat_map(Events::ports)).await;
    }

    async fn serve(&self) {
        self.switch.run().await;
    }

    fn broken(&self) -> &Signal {
        &self.broken
    }

    fn activity(&self) -> &Activity {
        &self.switch.activity
    }

    fn stats(&self) -> (String, String) {
        self.switch.stats(self.id)
    }
}

impl backend::Backend for Vif {
    type Connection = Connection;

    fn offer(&self, put: Put<'_>) {
        self.offered.publish(put);
    }

    async fn connect(&self, half: &Half) -> Result<Connection, String> {
        let keys = half.peer_keys().await.map_err(|error| format!("{error}"))?;
        let front = FrontKeys::parse(&keys, &self.offered).map_err(|error| format!("{error}"))?;
        let peer = half.peer();
        let config =
            VifConfig { peer, mac: self.mac, offloads: front.offloads, multicast_control: front.multicast_control };
        let (mut rings, mut events) = (Vec::new(), Vec::new());
        for queue in &front.queues {
            let (tx, rx, own) = map(peer, queue)?;
            rings.push((tx, rx));
            events.push(own);
        }
        let (events, broken) = (Rc::new(events), Signal::default());
        let id =
            self.switch.open(rings, config, events.clone(), broken.clone()).map_err(|error| format!("{error:?}"))?;
        let connection = Connection { switch: self.switch.clone(), id, events, broken };
        // What was sent before anybody listened.
        self.switch.run().await;
        Ok(connection)
    }

    fn describe(&self, _put: Put<'_>) {}
}

/// Maps a queue's rings and binds its events.
fn map(peer: DomId, queue: &QueueKeys) -> Result<(Mapping, Mapping, Events), String> {
    let ring = |name, grant| {
        Mapping::new(peer, slice::from_ref(grant), Access::ReadWrite).map_err(|status| format!("{name}: {status:?}"))
    };
    let event = |port| Event::bind_interdomain(peer, port).map_err(|error| format!("event channel: {error:?}"));
    let events = match queue.events {
        net_keys::Events::Shared(port) => Events::Shared(event(port)?),
        net_keys::Events::Split { tx, rx } => Events::Split(event(tx)?, event(rx)?),
    };
    Ok((ring("tx-ring-ref", &queue.tx_ring)?, ring("rx-ring-ref", &queue.rx_ring)?, events))
}
