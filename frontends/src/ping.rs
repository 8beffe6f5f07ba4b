//! Echo requests (ICMP), one at a time.
//!
//! embassy-net's own `PingManager` wakes itself without end while it waits for the answer.

use core::net::Ipv4Addr;
use domain_rt::time;
use embassy_net::Stack;
use embassy_net::icmp::{IcmpEndpoint, IcmpSocket, PacketMetadata};
use embassy_time::{Duration, with_timeout};
use smoltcp::wire::IpAddress;

/// Types of message.
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// What makes these requests this domain's; the stack sees to that.
const IDENT: u16 = 0xfe22;
/// Bytes of a message: type, code, checksum, identifier, sequence number, and 56 bytes of data, as is usual.
const LEN: usize = 64;

/// Memory of a [`Pinger`].
#[derive(Debug)]
pub struct Buffers {
    receive: ([PacketMetadata; 4], [u8; 4 * LEN]),
    send: ([PacketMetadata; 4], [u8; 4 * LEN]),
}

impl Default for Buffers {
    fn default() -> Self {
        let empty = || ([PacketMetadata::EMPTY; 4], [0; 4 * LEN]);
        Self { receive: empty(), send: empty() }
    }
}

/// Sends requests and waits for their answers.
pub struct Pinger<'a> {
    socket: IcmpSocket<'a>,
    sequence: u16,
}

impl core::fmt::Debug for Pinger<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pinger({} sent)", self.sequence)
    }
}

impl<'a> Pinger<'a> {
    /// Makes the socket; `None` if there is one already.
    pub fn new(stack: Stack<'a>, Buffers { receive, send }: &'a mut Buffers) -> Option<Self> {
        let mut socket = IcmpSocket::new(stack, &mut receive.0, &mut receive.1, &mut send.0, &mut send.1);
        socket.bind(IcmpEndpoint::Ident(IDENT)).ok()?;
        Some(Self { socket, sequence: 0 })
    }

    /// The time until the answer came; `None` if none comes within `patience`.
    pub async fn ping(&mut self, target: Ipv4Addr, patience: Duration) -> Option<Duration> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = request(self.sequence);
        let start = time::now();
        let answered = async {
            self.socket.send_to(&message, IpAddress::Ipv4(target)).await.ok()?;
            let mut answer = [0; LEN];
            loop {
                let (len, from) = self.socket.recv_from(&mut answer).await.ok()?;
                let is_it = answer.get(..len).is_some_and(|answer| answers(answer, &message));
                if is_it && from == IpAddress::Ipv4(target) {
                    return Some(Duration::from_nanos(time::now() - start));
                }
            }
        };
        with_timeout(patience, answered).await.ok().flatten()
    }
}

/// A request; its checksum is the stack's to make.
fn request(sequence: u16) -> [u8; LEN] {
    let mut message = [0x2a; LEN];
    let ([i, d], [s, q]) = (IDENT.to_be_bytes(), sequence.to_be_bytes());
    let head = [ECHO_REQUEST, 0, 0, 0, i, d, s, q];
    message.iter_mut().zip(head).for_each(|(byte, value)| *byte = value);
    message
}

/// Whether a message answers this request: the same but for its type and checksum.
fn answers(answer: &[u8], request: &[u8; LEN]) -> bool {
    answer.starts_with(&[ECHO_REPLY, 0]) && answer.get(4..) == request.get(4..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_answers() {
        let message = request(7);
        let mut answer = message;
        assert!(!answers(&answer, &message), "a request");
        (answer[0], answer[2], answer[3]) = (ECHO_REPLY, 0xaa, 0xbb);
        assert!(answers(&answer, &message));
        assert!(!answers(&answer, &request(8)), "to another");
        assert!(!answers(&answer[..LEN - 1], &message) && !answers(&[], &message));
        answer[LEN - 1] ^= 1;
        assert!(!answers(&answer, &message), "with other data");
    }
}
