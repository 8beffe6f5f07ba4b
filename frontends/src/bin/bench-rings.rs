//! `bench-rings`: a load for netback or blkback, measured from outside (`cargo xtask bench net|blk`).
//!
//! Command line: without a word it receives packets and acknowledges each 32nd; `send=MAC` sends `count=N` packets of
//! `bytes=N` to such a one, at most 64 ahead of what was acknowledged; with `away` nobody acknowledges; with `ping`, each
//! packet waits for its acknowledgement. `disk=read` or `disk=write` asks its first disk for `count=N` blocks of `kib=N`,
//! `depth=N` at a time. `large`: packets may be of 64 KiB, to be segmented. `broken=N`: so many frames come before, with a
//! checksum that does not hold. It prints how long all took; with `latency` or `ping` it prints how long how many took:
//! `latency AT_MOST COUNT`, nanoseconds.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use abi::sched::ShutdownReason;
use abi::start_info::StartInfo;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::task::Poll;
use domain_rt::runtime::{self, Context};
use domain_rt::store::Store;
use domain_rt::{counts, hypercall, println, time};
use embassy_net_driver::{Driver, LinkState, RxToken, TxToken};
use frontends::net::Device;
use frontends::options::value;
use frontends::{blk, net};
use ring_proto::net::Mac;

domain_rt::entry!(run);

fn run(start: &'static StartInfo) -> ShutdownReason {
    runtime::start(start, bench)
}

/// How many took how long, in steps of a quarter of a power of two.
struct Latencies([Cell<u64>; 4 * STEPS]);
/// Powers of two: up to a minute.
const STEPS: usize = 36;

impl Default for Latencies {
    fn default() -> Self {
        Self([const { Cell::new(0) }; 4 * STEPS])
    }
}

impl Latencies {
    /// One that began at `start` has ended.
    fn note(&self, start: u64) {
        let took = time::now().saturating_sub(start).max(4);
        // The power of two, and the two bits below it.
        let power = took.ilog2();
        let step = 4 * power as usize + (took >> (power - 2)) as usize % 4;
        if let Some(count) = self.0.get(step) {
            count.set(count.get() + 1);
        }
    }

    fn print(&self) {
        for (step, count) in self.0.iter().enumerate().filter(|(_, count)| count.get() > 0) {
            let (power, quarter) = (step as u64 / 4, step as u64 % 4);
            println!("bench-rings: latency {} {}", ((5 + quarter) << power >> 2) - 1, count.get());
        }
    }
}

/// Packets sent before the receiver must have acknowledged some, and how many it acknowledges at a time.
const WINDOW: u64 = 64;
const BATCH: u64 = 32;

async fn bench(context: Context) {
    let line = context.command_line();
    let Some(store) = context.store else { return println!("bench-rings: no store") };
    let number = |key, default| value(line, key).and_then(|text| text.parse::<usize>().ok()).unwrap_or(default);
    let count = number("count", 10_000) as u64;
    let has = |wanted| line.split_whitespace().any(|word| word == wanted);
    let latencies = Latencies::default();
    let done = match value(line, "disk") {
        Some(way) => {
            let (bytes, depth) = (number("kib", 4) << 10, number("depth", 1));
            let timed = has("latency").then_some(&latencies);
            disk(context, store, Load { write: way == "write", bytes, depth, count }, timed).await
        }
        None => {
            let manner = match (has("away"), has("ping")) {
                (true, _) => Manner::Away,
                (_, true) => Manner::Ping(&latencies),
                _ => Manner::Acknowledged,
            };
            let to = value(line, "send").and_then(Mac::parse).map(|to| (to, manner));
            let longest = if has("large") { net::LARGE } else { net::FRAME };
            let packets = Packets { bytes: number("bytes", 1500), count, longest, broken: number("broken", 0) };
            network(context, store, to, packets).await
        }
    };
    latencies.print();
    println!("bench-rings: {} events sent", counts::read().events);
    println!("bench-rings: {}", if done.is_some() { "SUCCESS" } else { "FAIL" });
    hypercall::shutdown(ShutdownReason::POWEROFF)
}

/// What a disk is asked for.
#[derive(Clone, Copy)]
struct Load {
    write: bool,
    bytes: usize,
    depth: usize,
    count: u64,
}

/// Reads or writes blocks; `None` if the disk failed.
async fn disk(context: Context, store: Store, load: Load, timed: Option<&Latencies>) -> Option<()> {
    let Load { write, bytes, depth, count } = load;
    let number = *blk::disks(store).await.ok()?.first()?;
    let (disk, task) = blk::connect(store, number);
    context.spawn(async {
        let _ = task.run().await;
    });
    let sectors = (bytes / blk::SECTOR_SIZE) as u64;
    let area = disk.properties().await.ok()?.sectors.checked_div(sectors)?;
    let next = Cell::new(0);
    let workers = (0..depth).map(|_| async {
        let mut buffer = vec![2; bytes];
        while next.get() < count {
            let sector = next.replace(next.get() + 1) % area * sectors;
            let start = timed.map(|latencies| (latencies, time::now()));
            let done = if write { disk.write(sector, &buffer).await } else { disk.read(sector, &mut buffer).await };
            done.ok()?;
            if let Some((latencies, start)) = start {
                latencies.note(start);
            }
        }
        Some(())
    });
    let mut workers: Vec<_> = workers.map(Box::pin).collect();
    let start = time::now();
    let done = poll_fn(|context| {
        let mut all = Poll::Ready(Some(()));
        let mut index = 0;
        while let Some(worker) = workers.get_mut(index) {
            match worker.as_mut().poll(context) {
                Poll::Ready(Some(())) => drop(workers.swap_remove(index)),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    all = Poll::Pending;
                    index += 1;
                }
            }
        }
        all
    })
    .await;
    print_time(start);
    done
}

/// How long all operations took.
fn print_time(start: u64) {
    println!("bench-rings: took {} ns", time::now() - start);
}

/// What is sent: so many packets of so many bytes, over an interface with frames of at most so many, and before them so
/// many that are broken.
#[derive(Clone, Copy)]
struct Packets {
    bytes: usize,
    count: u64,
    longest: usize,
    broken: usize,
}

/// How packets are sent.
#[derive(Clone, Copy)]
enum Manner<'a> {
    /// As many ahead as is agreed.
    Acknowledged,
    /// As fast as they go: to nobody that answers.
    Away,
    /// One at a time.
    Ping(&'a Latencies),
}

/// Sends packets, or receives them.
async fn network(context: Context, store: Store, to: Option<(Mac, Manner<'_>)>, packets: Packets) -> Option<()> {
    let number = *frontends::devices(store, ring_proto::path::Class::VIF).await.ok()?.first()?;
    let (mut device, task) = net::connect_with(store, number, packets.longest).await.ok()?;
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
        Some((to, manner)) => {
            for _ in 0..packets.broken {
                transmit_broken(&mut device, to).await;
            }
            send_all(&mut device, to, manner, packets).await;
        }
        None => sink(&mut device).await,
    }
    Some(())
}

/// The next packet.
async fn receive(device: &mut Device) -> [u8; 32] {
    poll_fn(|context| match device.receive(context) {
        // No frame is shorter.
        Some((packet, _)) => Poll::Ready(packet.consume(|bytes| bytes.first_chunk().copied().unwrap_or([0; 32]))),
        None => Poll::Pending,
    })
    .await
}

async fn transmit(device: &mut Device, to: Mac, from: Mac, len: usize, number: u64) {
    let token = poll_fn(|context| device.transmit(context).map_or(Poll::Pending, Poll::Ready)).await;
    token.consume(len, |bytes| {
        if let Some(head) = bytes.first_chunk_mut::<22>() {
            head[..6].copy_from_slice(&to.0);
            head[6..12].copy_from_slice(&from.0);
            head[12..14].copy_from_slice(&[0x88, 0xb5]);
            head[14..].copy_from_slice(&number.to_le_bytes());
        }
    });
}

/// A UDP datagram of 18 zeros whose checksum does not hold.
async fn transmit_broken(device: &mut Device, to: Mac) {
    const HEADERS: [u8; 30] =
        [8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 9, 0, 9, 0, 26, 0, 1];
    let from = device.mac();
    let token = poll_fn(|context| device.transmit(context).map_or(Poll::Pending, Poll::Ready)).await;
    token.consume(60, |bytes| {
        let head = to.0.iter().chain(&from.0).chain(&HEADERS);
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

async fn send_all(device: &mut Device, to: Mac, manner: Manner<'_>, Packets { bytes, count, .. }: Packets) {
    let from = device.mac();
    // Bytes of an IP packet, as MTUs are counted, where they are no whole frame's.
    let len = if bytes == 1500 { bytes + 14 } else { bytes };
    let packets = count.next_multiple_of(BATCH);
    // The receiver acknowledges multiples of so many; it has pages for seven large packets.
    let stride = match manner {
        Manner::Ping(_) => BATCH,
        _ if bytes > net::FRAME => BATCH / 2,
        _ => 1,
    };
    let mut acknowledged = 0;
    let begin = time::now();
    for number in (1..=packets).map(|number| number * stride) {
        let start = if let Manner::Ping(_) = manner { time::now() } else { 0 };
        transmit(device, to, from, len, number).await;
        let ahead = match manner {
            Manner::Acknowledged => WINDOW,
            Manner::Ping(_) => 1,
            Manner::Away => continue,
        };
        while number.is_multiple_of(BATCH) && number - acknowledged >= ahead {
            acknowledged = heard(device).await.max(acknowledged);
        }
        if let Manner::Ping(latencies) = manner {
            latencies.note(start);
        }
    }
    // All of them have arrived.
    while acknowledged < packets * stride && matches!(manner, Manner::Acknowledged) {
        acknowledged = heard(device).await.max(acknowledged);
    }
    print_time(begin);
}

/// The number that the next packet acknowledges; 0 if it is none of ours.
async fn heard(device: &mut Device) -> u64 {
    number_in(&receive(device).await).map_or(0, |(number, _)| number)
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
