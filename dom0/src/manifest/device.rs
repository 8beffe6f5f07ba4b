//! Names of devices as manifests and the store write them.

use core::fmt;

use ring_proto::path::decimal;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads `00:16:3e:01:02:03`; an address of a group is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        let group = bytes[0] & 1 != 0;
        (parts.next().is_none() && !group).then_some(Self(bytes))
    }

    /// The address of the `index`-th interface of a domain that has none in its manifest: in Xen's range 00:16:3e, the
    /// same at every start.
    pub fn derived(name: &str, index: usize) -> Self {
        // FNV-1a.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        let hash = name.bytes().chain([b'/', index as u8]).fold(0xcbf2_9ce4_8422_2325, step);
        let [a, b, c, ..] = (hash ^ hash >> 32).to_le_bytes();
        Self([0x00, 0x16, 0x3e, a & 0x7f, b, c])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A virtual disk's name, `xvda` to `xvdp`, a partition number from 1 to 15 behind it or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vdev {
    disk: u8,
    partition: u8,
}

impl Vdev {
    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        let (letter, digits) = text.strip_prefix("xvd")?.split_at_checked(1)?;
        let disk = letter.bytes().next()?.checked_sub(b'a').filter(|disk| *disk < 16)?;
        let partition =
            if digits.is_empty() { 0 } else { decimal(digits).filter(|number| (1..16).contains(number))? };
        Some(Self { disk, partition })
    }

    /// The number that names it in the store: major 202, 16 minors a disk (Xen's vbd-interface document).
    pub const fn handle(self) -> u32 {
        202 << 8 | (self.disk as u32) << 4 | self.partition as u32
    }
}

impl fmt::Display for Vdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xvd{}", char::from(b'a' + self.disk))?;
        if self.partition > 0 { write!(f, "{}", self.partition) } else { Ok(()) }
    }
}

/// A PCI function: segment, bus, device, function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciFunction {
    /// PCI segment, or domain.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device, below 32.
    pub device: u8,
    /// Function, below 8.
    pub function: u8,
}

impl PciFunction {
    /// Reads `00:02.0` or `0000:00:02.0`.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |text: &str, len: usize| (text.len() == len).then(|| u16::from_str_radix(text, 16).ok())?;
        let (place, function) = text.split_once('.')?;
        let (bus, device) = place.rsplit_once(':')?;
        let (segment, bus) = bus.split_once(':').unwrap_or(("0000", bus));
        let (device, function) = (hex(device, 2)?, hex(function, 1)?);
        if device >= 32 || function >= 8 {
            return None;
        }
        let bus = hex(bus, 2)? as u8;
        Some(Self { segment: hex(segment, 4)?, bus, device: device as u8, function: function as u8 })
    }

    /// Device and function in a byte, as `physdevop_pci_device_add` and others take it.
    pub const fn devfn(self) -> u8 {
        self.device << 3 | self.function
    }
}

impl fmt::Display for PciFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, bus, device, function } = self;
        write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn macs() {
        assert_eq!(Mac::parse("00:16:3e:0a:FF:01").unwrap().to_string(), "00:16:3e:0a:ff:01");
        for wrong in
            ["", "00:16:3e:0a:ff", "00:16:3e:0a:ff:01:02", "0:16:3e:0a:ff:01", "01:00:5e:00:00:01", "00:16:3e:0a:ff:g1"]
        {
            assert_eq!(Mac::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Mac::derived("web", 0), Mac::derived("web", 0));
        assert_ne!(Mac::derived("web", 0), Mac::derived("web", 1));
        assert!(Mac::derived("web", 0).to_string().starts_with("00:16:3e:"));
    }

    #[test]
    fn vdevs() {
        assert_eq!(Vdev::parse("xvda").unwrap().handle(), 51712);
        assert_eq!(Vdev::parse("xvdb3").unwrap().handle(), 51731);
        assert_eq!(Vdev::parse("xvdp15").unwrap().to_string(), "xvdp15");
        for wrong in ["", "xvd", "xvdq", "xvda0", "xvda16", "xvdaa", "hda", "xvd\u{e4}"] {
            assert_eq!(Vdev::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn pci_functions() {
        assert_eq!(PciFunction::parse("00:02.0").unwrap().to_string(), "0000:00:02.0");
        assert_eq!(PciFunction::parse("0001:fe:1f.7").unwrap().devfn(), 0xff);
        for wrong in ["", "2.0", "00:20.0", "00:02.8", "0:02.0", "00:02", "x:00:02.0", "00:0\u{e4}.0"] {
            assert_eq!(PciFunction::parse(wrong), None, "{wrong}");
        }
    }
}
