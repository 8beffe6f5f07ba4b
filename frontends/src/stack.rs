//! embassy-net on the first interface: address, gateway and name server by DHCP, or an address from the command line,
//! `ip=10.0.0.1/24`.

use crate::net::{self, Stats};
use crate::options::value;
use alloc::boxed::Box;
use domain_rt::println;
use domain_rt::runtime::Context;
use domain_rt::store::{Error, Store};
use domain_rt::time;
use embassy_net::{Config, Ipv4Cidr, Stack, StackResources, StaticConfigV4};

/// Sockets of a guest, those of DHCP and DNS included.
const SOCKETS: usize = 24;

/// Brings up the first interface as soon as there is a backend, and waits for its address.
pub async fn start(context: Context, store: Store) -> Result<(Stack<'static>, Stats), Error> {
    let handle = net::interfaces(store).await?.first().copied().ok_or(Error::BadReply)?;
    let (device, task) = net::connect(store, handle).await?;
    let (mac, stats) = (device.mac(), device.stats());
    context.spawn(async move {
        let end = task.run().await;
        println!("net: the interface is gone: {end:?}");
    });
    // Ports and sequence numbers differ from start to start and from guest to guest.
    let seed = mac.0.iter().fold(time::now(), |seed, octet| seed.rotate_left(8) ^ u64::from(*octet));
    let resources = Box::leak(Box::new(StackResources::<SOCKETS>::new()));
    let fixed = value(context.command_line(), "ip").and_then(|ip| ip.parse::<Ipv4Cidr>().ok());
    let config = match fixed {
        Some(address) => {
            Config::ipv4_static(StaticConfigV4 { address, gateway: None, dns_servers: heapless::Vec::new() })
        }
        None => Config::dhcpv4(Default::default()),
    };
    let (stack, mut runner) = embassy_net::new(device, config, resources, seed);
    context.spawn(async move { runner.run().await });
    stack.wait_config_up().await;
    if let Some(config) = stack.config_v4() {
        let gateway = config.gateway.map_or_else(|| "none".into(), |gateway| alloc::format!("{gateway}"));
        let first = stats.counters().first_sent.unwrap_or_default() / 1000;
        let (ms, us) = (first / 1000, first % 1000);
        println!("net: {mac} has {}, gateway {gateway}, first packet at {ms}.{us:03} ms", config.address);
        // For the toolstack's lists; a store that does not let us is no reason to stop.
        let _ = store.write("data/ipv4", config.address.address()).await;
    }
    Ok((stack, stats))
}
