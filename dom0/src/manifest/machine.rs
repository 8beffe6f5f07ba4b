//! `[machine]`: what `cargo xtask run` gives the machine below the domains. dom0 reads it and passes it over.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use super::fields::{Fields, Mistakes};
use super::listed;

/// A machine for the domains of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its memory in MiB, unless the command line says another figure.
    pub memory: Option<u32>,
    /// The images of its disks, from PCI function 00:03.0 on; none is the tour's alone.
    pub disks: Vec<String>,
    /// The host's ports that lead to guests.
    pub forward: Vec<Forward>,
}

/// A port of 127.0.0.1 that leads to a guest: `2222:22`, or `8081:10.0.2.16:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The host's port.
    pub host: u16,
    /// The guest's address; none is the first that DHCP gives away.
    pub guest: Option<Ipv4Addr>,
    /// The guest's port.
    pub port: u16,
}

impl Forward {
    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let port = |text: &str| ring_proto::path::decimal::<u16>(text).filter(|port| *port != 0);
        let (host, rest) = text.split_once(':')?;
        let (guest, to) = match rest.split_once(':') {
            Some((guest, to)) => (Some(guest.parse().ok()?), to),
            None => (None, rest),
        };
        Some(Self { host: port(host)?, guest, port: port(to)? })
    }
}

pub(super) fn machine(mut table: Fields<'_, '_>, mistakes: &mut Mistakes<'_>) -> Machine {
    let complaint = "no port to forward, as in 2222:22 or 8081:10.0.2.16:80";
    let machine = Machine {
        memory: table.integer(mistakes, "memory", 64..=1 << 20),
        disks: table.strings(mistakes, "disks").into_iter().map(|(disk, _)| disk).collect(),
        forward: listed(&mut table, mistakes, "forward", complaint, Forward::parse),
    };
    table.finish(mistakes);
    machine
}
