//! The decompressors, each a few bytes at a time into one buffer that will hold everything.

use alloc::boxed::Box;
use core::fmt;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress_with_limit, inflate_flags};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use xz4rust::{XzDecoder, XzNextBlockResult};

/// How a payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Gzip,
    Xz,
    Zstd,
    Lz4,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        })
    }
}

impl Kind {
    /// By the first bytes. LZ4 is in its legacy frame, as the kernel's build makes it.
    pub const fn of(first: [u8; 4]) -> Option<Self> {
        match first {
            [0x1f, 0x8b, 8, _] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X'] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd] => Some(Self::Zstd),
            [0x02, 0x21, 0x4c, 0x18] => Some(Self::Lz4),
            _ => None,
        }
    }
}

/// Largest window that an xz or zstd payload may want: the kernel's build uses up to 128 MiB.
const MAX_WINDOW: usize = 128 << 20;
/// What an LZ4 legacy block unpacks to, at most; all but the last do.
const LZ4_BLOCK: usize = 8 << 20;
/// Bytes behind a payload that tell its length, and no part of it.
const LENGTH: usize = 4;

/// A decompressor and what it has not read yet.
#[derive(Debug)]
pub struct Codec<'a> {
    input: &'a [u8],
    state: State,
}

enum State {
    Gzip(Box<DecompressorOxide>),
    Xz(Box<XzDecoder<'static>>),
    Zstd(Box<FrameDecoder>),
    Lz4,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

impl<'a> Codec<'a> {
    /// For a payload of this kind; nothing if its header is broken.
    pub fn new(kind: Kind, payload: &'a [u8]) -> Option<Self> {
        let body = payload.get(..payload.len().checked_sub(LENGTH)?)?;
        let (input, state) = match kind {
            Kind::Gzip => (gzip_body(payload)?, State::Gzip(Box::default())),
            Kind::Xz => (body, State::Xz(XzDecoder::in_heap_with_alloc_dict_size(0, MAX_WINDOW))),
            Kind::Zstd => {
                let (mut input, mut decoder) = (body, Box::new(FrameDecoder::new()));
                decoder.set_max_window_size(MAX_WINDOW as u64);
                decoder.init(&mut input).ok()?;
                (input, State::Zstd(decoder))
            }
            Kind::Lz4 => (body.get(4..)?, State::Lz4),
        };
        Some(Self { input, state })
    }

    /// Unpacks into `out` from `done` on, to `until` or somewhat beyond. Where it came to, and whether there is more;
    /// nothing if the data is broken.
    pub fn step(&mut self, out: &mut [u8], done: usize, until: usize) -> Option<(usize, bool)> {
        match &mut self.state {
            State::Gzip(decoder) => {
                let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
                let limit = until - done;
                let (status, read, wrote) = decompress_with_limit(decoder, self.input, out, done, limit, flags);
                self.input = self.input.get(read..)?;
                match status {
                    TINFLStatus::Done => Some((done + wrote, false)),
                    TINFLStatus::HasMoreOutput if wrote > 0 => Some((done + wrote, true)),
                    _ => None,
                }
            }
            State::Xz(decoder) => {
                // At the end of `out` there is still the stream's own end to be read.
                let result = decoder.decode(self.input, out.get_mut(done..until)?).ok()?;
                self.input = self.input.get(result.input_consumed()..)?;
                let more = !matches!(result, XzNextBlockResult::EndOfStream(..));
                (result.made_progress() || !more).then_some((done + result.output_produced(), more))
            }
            State::Zstd(decoder) => {
                let finished =
                    decoder.decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBytes(until - done)).ok()?;
                let wrote = ruzstd::io::Read::read(decoder.as_mut(), out.get_mut(done..)?).ok()?;
                let more = !finished || decoder.can_collect() > 0;
                (wrote > 0 || !more).then_some((done + wrote, more))
            }
            State::Lz4 => {
                let Some((size, rest)) = self.input.split_first_chunk() else { return Some((done, false)) };
                let (block, rest) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
                let end = out.len().min(done + LZ4_BLOCK);
                let wrote = lz4_flex::block::decompress_into(block, out.get_mut(done..end)?).ok()?;
                self.input = rest;
                Some((done + wrote, !rest.is_empty()))
            }
        }
    }
}

/// What is behind a gzip header (RFC 1952, section 2.3).
fn gzip_body(payload: &[u8]) -> Option<&[u8]> {
    const HCRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let flags = *payload.get(3)?;
    let mut rest = payload.get(10..)?;
    if flags & EXTRA != 0 {
        let (length, after) = rest.split_first_chunk()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            rest = rest.get(rest.iter().position(|&byte| byte == 0)? + 1..)?;
        }
    }
    rest.get(if flags & HCRC != 0 { 2 } else { 0 }..)
}
