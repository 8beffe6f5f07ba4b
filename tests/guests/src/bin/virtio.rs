//! The first virtio disk of the machine, driven by the initial domain itself: interrupt, DMA, flush.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use abi::PAGE_SIZE;
use abi::sched::ShutdownReason;
use abi::start_info::StartInfo;
use domain_rt::interrupt::Interrupt;
use domain_rt::page::Pages;
use domain_rt::pci::{ConfigurationAccess, DeviceFunction, Ports};
use domain_rt::println;
use domain_rt::runtime::{self, Context};
use domain_rt::virtio::{Buffer, DeviceType, Direction, Features, Queue, VirtioPci};
use embassy_time::{Duration, with_timeout};
use ring_proto::memory::RingMemory;

domain_rt::entry!(run);

fn run(start: &'static StartInfo) -> ShutdownReason {
    runtime::start(start, tests)
}

async fn tests(_context: Context) {
    let reason = match test().await {
        Ok(()) => {
            println!("SUCCESS");
            ShutdownReason::POWEROFF
        }
        Err(what) => {
            println!("FAIL {what}");
            ShutdownReason::CRASH
        }
    };
    domain_rt::hypercall::shutdown(reason)
}

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;

struct Disk {
    device: VirtioPci<Ports>,
    queue: Queue<Pages>,
    interrupt: Interrupt,
}

impl Disk {
    /// Does one request of up to three pages: header and status in the first, data in the others.
    async fn request(&mut self, kind: u32, sector: u64, pages: Pages, data: usize) -> Result<Pages, &'static str> {
        pages.write(0, &kind.to_le_bytes());
        pages.write(8, &sector.to_le_bytes());
        pages.write(512, &[0xff]);
        let way = if kind == READ { Direction::FromDevice } else { Direction::ToDevice };
        let header = Buffer::of_pages(&pages, 0, 16, Direction::ToDevice);
        let status = Buffer::of_pages(&pages, 512, 1, Direction::FromDevice);
        let data = (1..=data).map(|page| Buffer::of_pages(&pages, page * PAGE_SIZE, PAGE_SIZE, way));
        let buffers: Option<alloc::vec::Vec<_>> = [header].into_iter().chain(data).chain([status]).collect();
        self.queue.push(&buffers.ok_or("bad buffer")?, pages).map_err(|_| "queue refuses")?;
        if self.queue.publish() {
            self.device.notify(0);
        }
        loop {
            if let Some(used) = self.queue.pop().map_err(|_| "queue broken")? {
                let mut status = [0];
                used.owner.read(512, &mut status);
                return if status == [0] { Ok(used.owner) } else { Err("request failed") };
            }
            if !self.queue.final_check() {
                let wait = with_timeout(Duration::from_secs(5), self.interrupt.wait());
                wait.await.map_err(|_| "no interrupt in 5 s")?;
                self.device.acknowledge();
                self.interrupt.end();
            }
        }
    }
}

async fn test() -> Result<(), &'static str> {
    let ports = Ports::open().map_err(|_| "no I/O privilege")?;
    let function = |device| DeviceFunction { bus: 0, device, function: 0 };
    let blocks = [0x1001_1af4, 0x1042_1af4];
    let found = (0..32).map(function).find(|at| blocks.contains(&ports.read_word(*at, 0)));
    let found = found.ok_or("no virtio disk")?;
    println!("disk at {:02x}:{:02x}.{}", found.bus, found.device, found.function);
    let flush = Features::from_bits_retain(1 << 9);
    let mut device = VirtioPci::open(ports, found, DeviceType::Block, flush).map_err(|error| {
        println!("{error}");
        "not opened"
    })?;
    println!("features {:?}", device.features());
    let queue = device.queue(128).map_err(|_| "no queue")?;
    let sectors = [device.config::<u32>(0), device.config::<u32>(4)];
    println!("capacity {sectors:?} sectors, queue of {}", queue.size());
    let mut interrupts = device.start().map_err(|error| {
        println!("{error:?}");
        "not started"
    })?;
    println!("MSI-X {}, pirq {}", device.has_msix(), interrupts[0].pirq());
    let mut disk = Disk { device, queue, interrupt: interrupts.remove(0) };

    let pages = Pages::new(3).map_err(|_| "no memory")?;
    let pages = disk.request(READ, 0, pages, 2).await?;
    let mut text = [0; 16];
    pages.read(PAGE_SIZE, &mut text);
    println!("first sector: {}", text.escape_ascii());
    for i in 0..500u32 {
        let pages = Pages::new(3).map_err(|_| "no memory")?;
        let mark = i.wrapping_mul(0x9e37_79b9).to_le_bytes();
        pages.write(2 * PAGE_SIZE - 4, &mark);
        pages.write(3 * PAGE_SIZE - 4, &mark);
        let sector = u64::from(i % 50) * 16 + 16;
        let pages = disk.request(WRITE, sector, pages, 2).await?;
        drop(pages);
        let pages = disk.request(READ, sector, Pages::new(3).map_err(|_| "no memory")?, 2).await?;
        let mut back = [0; 4];
        pages.read(3 * PAGE_SIZE - 4, &mut back);
        if back != mark {
            return Err("read back something else");
        }
    }
    disk.request(FLUSH, 0, Pages::new(1).map_err(|_| "no memory")?, 0).await?;
    println!("ok   500 writes read back");
    Ok(())
}
