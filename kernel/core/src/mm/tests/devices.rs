//! Frames that are not RAM.

use super::*;
use crate::irq::PciDevice;
use abi::Mfn;

#[test]
fn device_frames_for_those_that_were_given_them() {
    let core = testing::core(2048, 2);
    let hardware = testing::guest(&core, Privilege::HARDWARE, 8);
    let driver = testing::guest(&core, Privilege::empty(), 8);
    let pte = |mfn| Pte::new(Mfn(mfn), WRITABLE | PteFlags::PCD | PteFlags::PWT);
    assert_eq!(hardware.map(&core, 3, pte(0xfe000)), Ok(()));
    assert_eq!(driver.map(&core, 3, pte(0xfe000)), Err(Errno::EINVAL));
    assert_eq!(driver.map(&core, 3, Pte::new(Mfn(0xfe000), WRITABLE)), Err(Errno::EPERM));
    driver.domain.devices.lock().frames.set(0xfe000..0xfe004, true).unwrap();
    assert_eq!(driver.map(&core, 3, pte(0xfe003)), Ok(()));
    assert_eq!(driver.map(&core, 4, pte(0xfe004)), Err(Errno::EINVAL));
    // By DOMID_IO too, as Linux asks.
    let ask = |guest: &Guest, mfn| {
        let number = Hypercall::UPDATE_VA_MAPPING_OTHERDOMAIN.0;
        guest.hypercall(&core, number, [guest.va(5).0, pte(mfn).0, 0, DomId::IO.0.into(), 0])
    };
    assert_eq!(ask(&driver, 0xfe001), 0);
    assert_eq!(ask(&driver, u64::from(0xfe004u32)), EINVAL);
    // RAM is not DOMID_IO's.
    let ram = Pte::new(driver.frames[1].mfn(), WRITABLE);
    let number = Hypercall::UPDATE_VA_MAPPING_OTHERDOMAIN.0;
    let rc = driver.hypercall(&core, number, [driver.va(5).0, ram.0, 0, DomId::IO.0.into(), 0]);
    assert_eq!(rc, EBUSY);
    // What becomes of INVALID_MFN is no device's frame.
    assert_eq!(driver.map(&core, 4, Pte(Pte::MFN_MASK | WRITABLE.0)), Err(Errno::EINVAL));
    // Interrupt controllers are nobody's.
    assert!(hardware.map(&core, 4, pte(0xfee00)).is_err());
    sound(&core);
}

#[test]
fn whoever_maps_a_device_for_another_was_given_it_too() {
    let core = testing::core(2048, 2);
    let builder = testing::guest(&core, Privilege::BUILDER, 8);
    let driver = testing::guest(&core, Privilege::empty(), 8);
    let map = |who: &Guest| {
        let device = request(builder.tables[0], 300, Pte::new(Mfn(0xfe000), WRITABLE));
        update_of(&core, &builder, &[device], who.domain.id.0.into())
    };
    let give = |who: &Guest| who.domain.devices.lock().frames.set(0xfe000..0xfe001, true).unwrap();
    assert_eq!(map(&driver), EPERM);
    give(&driver);
    assert_eq!(map(&driver), EPERM);
    give(&builder);
    assert_eq!(map(&driver), 0);
    assert_eq!(update(&core, &builder, &[request(builder.tables[0], 300, Pte::EMPTY)]), 0);
    driver.domain.devices.lock().frames.set(0..1 << 40, false).unwrap();
    assert_eq!(map(&driver), EPERM);
}

/// Whoever writes there can raise any interrupt.
#[test]
fn the_vectors_of_a_device_are_there_to_be_read() {
    let core = testing::core(2048, 2);
    let hardware = testing::guest(&core, Privilege::HARDWARE, 8);
    *core.platform.msix.lock().unwrap() = Some(0xfe000..0xfe001);
    core.protect_msix(PciDevice { seg: 0, bus: 3, devfn: 8 }).unwrap();
    for (page, mfn, flags) in [(3, 0xfe000, READ_ONLY), (4, 0xfe001, WRITABLE)] {
        let wanted = Pte::new(Mfn(mfn), WRITABLE | PteFlags::PCD);
        assert_eq!(hardware.map(&core, page, wanted), Ok(()));
        assert_eq!(entry(&core, hardware.tables[0], page), Pte::new(Mfn(mfn), flags | PteFlags::PCD));
    }
}
