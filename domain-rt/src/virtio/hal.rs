//! What virtio-drivers' PCI transport needs of us: device memory mapped. Its own queues are not used.

use crate::memory::Window;
use abi::{DomId, Maddr, Mfn, PAGE_SIZE, PteFlags};
use core::ptr::NonNull;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// The `Hal`.
#[derive(Debug)]
pub(super) struct Device;

/// Maps `len` bytes of device memory, uncached, for good; `None` if the hypervisor does not allow it.
pub(super) fn map_device_memory(address: Maddr, len: usize) -> Option<NonNull<u8>> {
    let first = address.mfn().0;
    let pages = (address.page_offset() + len).div_ceil(PAGE_SIZE);
    let window = Window::reserve(pages).ok()?;
    let start = window.address(0).0 as usize + address.page_offset();
    window.map(0, (first..).map(Mfn), PteFlags::PCD | PteFlags::PWT, DomId::IO).ok()?;
    core::mem::forget(window);
    NonNull::new(start as *mut u8)
}

// SAFETY: `mmio_phys_to_virt` returns a fresh mapping each time or does not return; the others refuse or are never
// called, as no queue of the crate is made.
unsafe impl Hal for Device {
    fn dma_alloc(_pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        (0, NonNull::dangling())
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        map_device_memory(Maddr(paddr), size).expect("the device's BARs can be mapped")
    }

    unsafe fn share(_buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        unreachable!("no queue of virtio-drivers is in use")
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
