//! Transport checksums of frames that the backend knows nothing about.

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

/// Whether the TCP or UDP checksum of an IPv4 frame holds; true for what has none, which the stack looks at itself.
pub(super) fn holds(frame: &[u8]) -> bool {
    let Ok(frame) = EthernetFrame::new_checked(frame) else { return true };
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return true;
    }
    let Ok(packet) = Ipv4Packet::new_checked(frame.payload()) else { return true };
    if packet.more_frags() || packet.frag_offset() != 0 {
        return true;
    }
    let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
    match packet.next_header() {
        IpProtocol::Tcp => TcpPacket::new_checked(packet.payload()).map_or(true, |tcp| tcp.verify_checksum(&from, &to)),
        IpProtocol::Udp => UdpPacket::new_checked(packet.payload()).map_or(true, |udp| udp.verify_checksum(&from, &to)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use smoltcp::wire::{EthernetAddress, Ipv4Address};

    fn frame(protocol: IpProtocol, header: usize) -> Vec<u8> {
        let mut bytes = vec![0; 14 + 20 + header + 5];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        frame.set_ethertype(EthernetProtocol::Ipv4);
        frame.set_dst_addr(EthernetAddress::BROADCAST);
        let len = (20 + header + 5) as u16;
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        packet.set_version(4);
        packet.set_header_len(20);
        packet.set_total_len(len);
        packet.set_next_header(protocol);
        packet.set_src_addr(Ipv4Address::new(10, 0, 2, 15));
        packet.set_dst_addr(Ipv4Address::new(10, 0, 2, 16));
        let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
        if protocol == IpProtocol::Udp {
            let mut udp = UdpPacket::new_unchecked(packet.payload_mut());
            udp.set_len(13);
            udp.payload_mut().copy_from_slice(b"hello");
            udp.fill_checksum(&from, &to);
        } else {
            let mut tcp = TcpPacket::new_unchecked(packet.payload_mut());
            tcp.set_header_len(20);
            tcp.payload_mut().copy_from_slice(b"hello");
            tcp.fill_checksum(&from, &to);
        }
        bytes
    }

    #[test]
    fn a_flipped_bit_shows() {
        for (protocol, header) in [(IpProtocol::Udp, 8), (IpProtocol::Tcp, 20)] {
            let mut bytes = frame(protocol, header);
            assert!(holds(&bytes));
            if let Some(last) = bytes.last_mut() {
                *last ^= 4;
            }
            assert!(!holds(&bytes));
        }
    }

    #[test]
    fn what_is_no_packet_is_left_to_the_stack() {
        assert!(holds(&[]) && holds(&[0; 14]) && holds(&[0xff; 60]));
        let mut bytes = frame(IpProtocol::Udp, 8);
        bytes.truncate(30);
        assert!(holds(&bytes));
    }
}
