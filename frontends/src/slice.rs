//! A part of a disk as a disk.

use crate::blk::{Disk, Error, SECTOR_SIZE};
use aligned::{A1, Aligned};
use block_device_driver::{BlockDevice, blocks_to_slice, blocks_to_slice_mut};

/// Consecutive sectors of a disk.
#[derive(Clone, Debug)]
pub struct Slice {
    disk: Disk,
    first: u64,
    sectors: u64,
}

impl Slice {
    /// `sectors` sectors from `first` on.
    pub fn new(disk: Disk, first: u64, sectors: u64) -> Self {
        Self { disk, first, sectors }
    }

    /// Where `count` sectors at `sector` are on the disk, if they lie in the slice.
    fn place(&self, sector: u32, count: usize) -> Result<u64, Error> {
        let end = u64::from(sector).checked_add(count as u64);
        let inside = end.is_some_and(|end| end <= self.sectors);
        inside.then(|| self.first.checked_add(sector.into())).flatten().ok_or(Error::Failed)
    }
}

impl BlockDevice<SECTOR_SIZE> for Slice {
    type Error = Error;
    type Align = A1;

    async fn read(&mut self, sector: u32, data: &mut [Aligned<A1, [u8; SECTOR_SIZE]>]) -> Result<(), Error> {
        let place = self.place(sector, data.len())?;
        self.disk.read(place, blocks_to_slice_mut(data)).await
    }

    async fn write(&mut self, sector: u32, data: &[Aligned<A1, [u8; SECTOR_SIZE]>]) -> Result<(), Error> {
        let place = self.place(sector, data.len())?;
        self.disk.write(place, blocks_to_slice(data)).await
    }

    async fn size(&mut self) -> Result<u64, Error> {
        Ok(self.sectors.saturating_mul(SECTOR_SIZE as u64))
    }
}
