//! A virtio block device: the library's view of it over domain-rt's queue.

use abi::{DomId, GrantRef, PAGE_SIZE};
use alloc::vec;
use alloc::vec::Vec;
use blkback::gpt::{GptError, Header, Partition};
use blkback::kept::Page;
use blkback::medium::Geometry;
use blkback::virtio::{BlockDevice, Command, Finished, VirtioDisk, feature};
use domain_rt::driver::Function;
use domain_rt::grant::{Access, DeviceGrant, DeviceMapper};
use domain_rt::interrupt::Interrupt;
use domain_rt::page::Pages;
use domain_rt::pci::Proxy;
use domain_rt::virtio::{Buffer, DeviceType, Direction, Features, OpenError, Queue, VirtioPci};
use ring_proto::blk::{self, SECTOR, Segment};
use ring_proto::memory::RingMemory;

/// Requests in flight: each has its header and status in one page.
const DEPTH: u16 = 128;
/// Bytes a request has there: header, then status.
const AREA: usize = PAGE_SIZE / DEPTH as usize;
const HEADER: usize = 16;
/// The tag of a request of our own, before anybody is served.
const OWN: u16 = 0;

/// Offsets in the device's configuration.
const CAPACITY: usize = 0;
const SEG_MAX: usize = 12;
const BLK_SIZE: usize = 20;

/// What a request keeps until the device is done with it.
struct InFlight {
    tag: u16,
    pages: Vec<Page<DeviceGrant>>,
    /// Pages of our own.
    own: Option<Pages>,
}

/// The device.
pub struct VirtioBlock {
    device: VirtioPci<Proxy>,
    queue: Queue<InFlight>,
    areas: Pages,
    mapper: DeviceMapper,
    /// Buffers of the request in hand: of its data, and all. Kept so that they are allocated once.
    data: Vec<Buffer>,
    buffers: Vec<Buffer>,
    /// Requests that came back when the device was given up.
    abandoned: Vec<InFlight>,
}

/// Starts the device and reads its partition table.
pub async fn open(function: Function) -> Result<(VirtioDisk<VirtioBlock>, Interrupt, Vec<Partition>), OpenError> {
    let wanted = feature::SEG_MAX | feature::RO | feature::BLK_SIZE | feature::FLUSH;
    let wanted = Features::from_bits_retain(wanted);
    let mut device = VirtioPci::open(function.access, function.address, DeviceType::Block, wanted)?;
    let queue = device.queue(256)?;
    let interrupt = device.start()?.into_iter().next().ok_or(OpenError::Configuration)?;
    let has = |bit| device.features().bits() & bit != 0;
    // The field is aligned to 4 bytes only.
    let [low, high] = device.config::<[u32; 2]>(CAPACITY).ok_or(OpenError::Configuration)?;
    let sectors = u64::from(high) << 32 | u64::from(low);
    let block = device.config::<u32>(BLK_SIZE).filter(|_| has(feature::BLK_SIZE)).unwrap_or(SECTOR);
    let segments = device.config::<u32>(SEG_MAX).filter(|_| has(feature::SEG_MAX)).unwrap_or(1);
    let geometry = Geometry {
        sectors,
        physical_sector: if block >= SECTOR && block.is_multiple_of(SECTOR) { block } else { SECTOR },
        read_only: has(feature::RO),
        discard: false,
        maps: true,
        max_segments: segments.min(queue.max_buffers() as u32 - 2).min(blk::MAX_SEGMENTS as u32) as u16,
    };
    if usize::from(geometry.max_segments) < blk::DIRECT_SEGMENTS || sectors > u64::MAX / u64::from(SECTOR) {
        return Err(OpenError::Configuration);
    }
    let flush = has(feature::FLUSH);
    let mut block = VirtioBlock {
        device,
        queue,
        areas: Pages::new(1)?,
        mapper: DeviceMapper::default(),
        data: Vec::new(),
        buffers: Vec::new(),
        abandoned: Vec::new(),
    };
    let partitions = partitions(&mut block, &interrupt, sectors).await;
    Ok((VirtioDisk::new(block, geometry, flush, DEPTH), interrupt, partitions))
}

/// The partitions of the disk: the primary table's, or the backup's if that is damaged, or none.
async fn partitions(block: &mut VirtioBlock, interrupt: &Interrupt, sectors: u64) -> Vec<Partition> {
    for place in Header::places(sectors) {
        match table(block, interrupt, place, sectors).await {
            Some(Ok(partitions)) => return partitions,
            Some(Err(GptError::NoTable)) if place == 1 => {}
            Some(Err(error)) => domain_rt::println!("blkback: partition table in sector {place}: {error:?}"),
            None => return Vec::new(),
        }
    }
    Vec::new()
}

async fn table(
    block: &mut VirtioBlock,
    interrupt: &Interrupt,
    place: u64,
    sectors: u64,
) -> Option<Result<Vec<Partition>, GptError>> {
    let sector = block.read(interrupt, place, SECTOR as usize).await?;
    let header = match Header::parse(&sector, place, sectors) {
        Ok(header) => header,
        Err(error) => return Some(Err(error)),
    };
    let entries = block.read(interrupt, header.table, header.table_bytes()).await?;
    Some(header.partitions(&entries))
}

impl VirtioBlock {
    /// Takes the device off its interrupt line.
    pub fn acknowledge(&mut self) {
        self.device.acknowledge();
    }

    /// Reads sectors into memory of ours, with nothing else in flight.
    async fn read(&mut self, interrupt: &Interrupt, sector: u64, len: usize) -> Option<Vec<u8>> {
        let pages = Pages::new(len.div_ceil(PAGE_SIZE)).ok()?;
        let pieces = (0..len).step_by(PAGE_SIZE);
        let data = pieces
            .map(|at| Buffer::of_pages(&pages, at, (len - at).min(PAGE_SIZE), Direction::FromDevice))
            .collect::<Option<Vec<_>>>()?;
        let command = Command::Transfer(blk::Direction::Read, sector);
        let in_flight = InFlight { tag: OWN, pages: Vec::new(), own: Some(pages) };
        if !self.submit(command, &data, in_flight) {
            return None;
        }
        self.kick();
        loop {
            if let Some((in_flight, success)) = self.take() {
                let mut bytes = vec![0; len];
                in_flight.own.filter(|_| success)?.read(0, &mut bytes);
                return Some(bytes);
            }
            interrupt.wait().await;
            self.device.acknowledge();
            interrupt.end();
        }
    }

    fn submit(&mut self, command: Command, data: &[Buffer], in_flight: InFlight) -> bool {
        let area = usize::from(in_flight.tag) * AREA;
        let (kind, sector) = match command {
            Command::Transfer(blk::Direction::Read, sector) => (0u32, sector),
            Command::Transfer(blk::Direction::Write, sector) => (1, sector),
            Command::Flush => (4, 0),
        };
        self.areas.write(area, &kind.to_le_bytes());
        self.areas.write(area + 4, &[0; 4]);
        self.areas.write(area + 8, &sector.to_le_bytes());
        // No status that a device writes.
        self.areas.write(area + HEADER, &[0xff]);
        let header = Buffer::of_pages(&self.areas, area, HEADER, Direction::ToDevice);
        let status = Buffer::of_pages(&self.areas, area + HEADER, 1, Direction::FromDevice);
        self.buffers.clear();
        self.buffers.extend(header.into_iter().chain(data.iter().copied()).chain(status));
        self.queue.push(&self.buffers, in_flight).is_ok()
    }

    /// The next request that is done, and whether it succeeded.
    fn take(&mut self) -> Option<(InFlight, bool)> {
        loop {
            if let Some(in_flight) = self.abandoned.pop() {
                return Some((in_flight, false));
            }
            match self.queue.pop() {
                Ok(Some(used)) => {
                    let mut status = [0xff];
                    self.areas.read(usize::from(used.owner.tag) * AREA + HEADER, &mut status);
                    return Some((used.owner, status == [0]));
                }
                Ok(None) if self.queue.final_check() => {}
                Ok(None) => return None,
                Err(error) => {
                    let returned = self.device.reset(core::slice::from_mut(&mut self.queue));
                    if returned.is_empty() {
                        return None;
                    }
                    domain_rt::println!("blkback: the device is given up: {error:?}");
                    self.abandoned = returned;
                }
            }
        }
    }
}

impl BlockDevice for VirtioBlock {
    type Page = DeviceGrant;

    fn map(&mut self, pages: &[(DomId, GrantRef, bool)], mapped: &mut Vec<Option<DeviceGrant>>) {
        let access = |writable| if writable { Access::ReadWrite } else { Access::ReadOnly };
        let requests = pages.iter().map(|(peer, grant, writable)| (*peer, *grant, access(*writable)));
        mapped.extend(self.mapper.map(requests).map(Result::ok));
    }

    fn unmap(&mut self, pages: &mut Vec<DeviceGrant>) {
        self.mapper.unmap(pages.drain(..));
    }

    fn room(&self) -> usize {
        self.queue.room().into()
    }

    fn entries(&self, pages: usize) -> usize {
        if self.device.features().contains(Features::INDIRECT_DESC) { 1 } else { pages + 2 }
    }

    fn push(&mut self, tag: u16, command: Command, segments: &[Segment], pages: Vec<Page<DeviceGrant>>) -> bool {
        let direction = match command {
            Command::Transfer(blk::Direction::Read, _) => Direction::FromDevice,
            _ => Direction::ToDevice,
        };
        let buffer = |(segment, page): (&Segment, &Page<DeviceGrant>)| {
            Buffer::of_grant(page, segment.offset.into(), segment.len.into(), direction)
        };
        let mut data = core::mem::take(&mut self.data);
        data.clear();
        data.extend(segments.iter().zip(&pages).map_while(buffer));
        let whole = data.len() == segments.len();
        let pushed = whole && self.submit(command, &data, InFlight { tag, pages, own: None });
        self.data = data;
        pushed
    }

    fn kick(&mut self) {
        if self.queue.publish() {
            self.device.notify(0);
        }
    }

    fn pop(&mut self) -> Option<Finished<DeviceGrant>> {
        self.take().map(|(in_flight, success)| (in_flight.tag, success, in_flight.pages))
    }
}
