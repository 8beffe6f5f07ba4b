//! `bench-rings`: instructions a packet from guest to guest, and a block request, counted by the time stamp counter
//! (which under QEMU's icount counts instructions) and by the domain's own running time.
//!
//! Command line: `sink` receives and acknowledges; `send=MAC` sends `packets=N` of 1500 bytes to it; `disk=N` reads and
//! writes N blocks of 4 KiB, one at a time and sixteen at a time. Each figure is a line `BENCH NAME VALUE`.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use abi::VcpuId;
use abi::sched::ShutdownReason;
use abi::start_info::StartInfo;
use abi::vcpu::{RunstateInfo, VcpuOp};
use alloc::rc::Rc;
use alloc::vec;
use core::cell::Cell;
use core::future::poll_fn;
use core::task::Poll;
use domain_rt::runtime::{self, Context};
use domain_rt::store::Store;
use domain_rt::{arch, hypercall, println};
use embassy_futures::join::join_array;
use embassy_net_driver::{Driver, LinkState, RxToken, TxToken};
use frontends::net::Device;
use frontends::options::value;
use frontends::{blk, net};
use ring_proto::net::Mac;

domain_rt::entry!(run);

fn run(start: &'static StartInfo) -> ShutdownReason {
    runtime::start(start, bench)
}

/// Bytes of a packet, its Ethernet header included.
const PACKET: usize = 1514;
/// Packets sent before the sink must have acknowledged some, and how many it acknowledges at a time.
const WINDOW: u64 = 64;
const BATCH: u64 = 32;
/// Bytes of a block.
const BLOCK: usize = 4096;

async fn bench(context: Context) {
    let line = context.command_line();
    let Some(store) = context.store else { return println!("bench-rings: no store") };
    let number = |key| value(line, key).and_then(|text| text.parse::<u64>().ok());
    let done = if let Some(blocks) = number("disk") {
        disk(context, store, blocks).await
    } else {
        let to = value(line, "send").and_then(Mac::parse);
        network(context, store, to, number("packets").unwrap_or(10_000)).await
    };
    println!("bench-rings: {}", if done.is_some() { "SUCCESS" } else { "FAIL" });
    hypercall::shutdown(ShutdownReason::POWEROFF)
}

/// Instructions of the machine, and of this domain.
#[derive(Clone, Copy)]
struct Clock(u64, u64);

impl Clock {
    fn read() -> Self {
        let mut info = RunstateInfo::default();
        // The answer is zeros where it fails, and the figure says so.
        let _ = hypercall::vcpu_op(VcpuOp::GET_RUNSTATE_INFO, VcpuId(0), &mut info);
        let [running, ..] = info.time;
        Self(arch::rdtsc(), running)
    }

    /// Prints what one of `count` cost since `self`.
    fn report(self, name: &str, count: u64) {
        let Self(machine, domain) = Self::read();
        let each = |now: u64, then: u64| now.saturating_sub(then) / count.max(1);
        println!("BENCH {name} {}", each(machine, self.0));
        println!("BENCH {name}/this_domain {}", each(domain, self.1));
    }
}

/// Reads and writes blocks; `None` if the disk failed.
async fn disk(context: Context, store: Store, blocks: u64) -> Option<()> {
    let number = *blk::disks(store).await.ok()?.first()?;
    let (disk, task) = blk::connect(store, number);
    context.spawn(async {
        let _ = task.run().await;
    });
    let area = disk.properties().await.ok()?.sectors / 8;
    let one = async |index: u64, write: bool, buffer: &mut [u8]| {
        let sector = index % area * 8;
        let done = if write { disk.write(sector, buffer).await } else { disk.read(sector, buffer).await };
        done.ok()
    };
    for (name, write) in [("read", false), ("write", true)] {
        let mut buffer = vec![1; BLOCK];
        one(0, write, &mut buffer).await?;
        let start = Clock::read();
        for index in 0..blocks {
            one(index, write, &mut buffer).await?;
        }
        start.report(&alloc::format!("blk/{name}_4k_depth_1"), blocks);
        let start = Clock::read();
        let next = Cell::new(0);
        let worker = || async {
            let mut buffer = vec![2; BLOCK];
            while next.get() < blocks {
                one(next.replace(next.get() + 1), write, &mut buffer).await?;
            }
            Some(())
        };
        let done: [Option<()>; 16] = join_array([(); 16].map(|()| worker())).await;
        done.into_iter().collect::<Option<alloc::vec::Vec<()>>>()?;
        start.report(&alloc::format!("blk/{name}_4k_depth_16"), blocks);
    }
    Some(())
}

/// Sends packets to `to`, or receives them.
async fn network(context: Context, store: Store, to: Option<Mac>, packets: u64) -> Option<()> {
    let number = *frontends::devices(store, ring_proto::path::Class::Vif).await.ok()?.first()?;
    let (mut device, task) = net::connect(store, number).await.ok()?;
    let stats = device.stats();
    context.spawn(async {
        let _ = task.run().await;
    });
    poll_fn(|context| match device.link_state(context) {
        LinkState::Up => Poll::Ready(()),
        LinkState::Down => Poll::Pending,
    })
    .await;
    println!("bench-rings: up");
    match to {
        Some(to) => {
            send_all(&mut device, to, packets).await;
            println!("bench-rings: {:?}", stats.counters());
        }
        None => sink(&mut device).await,
    }
    Some(())
}

/// The next packet.
async fn receive(device: &mut Device) -> [u8; 32] {
    poll_fn(|context| match device.receive(context) {
        Some((packet, _)) => Poll::Ready(packet.consume(|bytes| {
            let mut head = [0; 32];
            head.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            head
        })),
        None => Poll::Pending,
    })
    .await
}

async fn transmit(device: &mut Device, to: Mac, from: Mac, len: usize, number: u64) {
    let token = poll_fn(|context| device.transmit(context).map_or(Poll::Pending, Poll::Ready)).await;
    token.consume(len, |bytes| {
        let number = number.to_le_bytes();
        let head = to.0.iter().chain(&from.0).chain(&[0x88, 0xb5]).chain(&number);
        bytes.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
    });
}

/// The number that a packet of ours carries, and who sent it.
fn number_in(packet: &[u8; 32]) -> Option<(u64, Mac)> {
    let (header, rest) = packet.split_first_chunk::<14>()?;
    let (_, header) = header.split_first_chunk::<6>()?;
    let (from, kind) = header.split_first_chunk::<6>()?;
    let (number, _) = rest.split_first_chunk::<8>()?;
    (kind == [0x88, 0xb5]).then_some((u64::from_le_bytes(*number), Mac(*from)))
}

async fn send_all(device: &mut Device, to: Mac, packets: u64) {
    let from = device.mac();
    let acknowledged = Rc::new(Cell::new(0));
    let mut start = Clock::read();
    // The first batch is for caches, heaps and the bridge to fill.
    for number in 1..=packets + BATCH {
        if number == BATCH + 1 {
            start = Clock::read();
        }
        transmit(device, to, from, PACKET, number).await;
        while number.is_multiple_of(BATCH) && number - acknowledged.get() >= WINDOW {
            if let Some((seen, _)) = number_in(&receive(device).await) {
                acknowledged.set(acknowledged.get().max(seen));
            }
        }
    }
    start.report("net/guest_to_guest_1500", packets);
}

async fn sink(device: &mut Device) {
    let own = device.mac();
    loop {
        let packet = receive(device).await;
        let Some((number, from)) = number_in(&packet) else { continue };
        if number.is_multiple_of(BATCH) {
            transmit(device, from, own, 60, number).await;
        }
    }
}
