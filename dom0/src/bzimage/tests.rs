use super::*;
use fuzz::{Choices, Tally, Target};
use proptest::prelude::*;

/// A kernel that the fixtures were made from: text and calls, so that xz's x86 filter has something to do.
fn kernel() -> Vec<u8> {
    let mut out = b"\x7fELF".to_vec();
    let mut v: u32 = 12345;
    while out.len() < 40_000 {
        v = v.wrapping_mul(1_103_515_245).wrapping_add(12345) & 0x7fff_ffff;
        match v & 64 {
            0 => out.extend([0xe8].into_iter().chain((v & 0xffff).to_le_bytes())),
            _ => out.extend(alloc::format!("ferrule kernel {} ", v >> 20).bytes()),
        }
    }
    out.truncate(40_000);
    out
}

/// `gzip -n -9`, `xz --check=crc32 --x86 --lzma2=dict=32MiB`, `zstd -22 --ultra`, `lz4 -l -9`, each but gzip with the
/// length behind it.
const PAYLOADS: [(Kind, &[u8]); 4] = [
    (Kind::Gzip, include_bytes!("fixtures/gzip")),
    (Kind::Xz, include_bytes!("fixtures/xz")),
    (Kind::Zstd, include_bytes!("fixtures/zstd")),
    (Kind::Lz4, include_bytes!("fixtures/lz4")),
];

fn bzimage(payload: &[u8]) -> Vec<u8> {
    const OFFSET: usize = 0x40;
    let mut file = alloc::vec![0; 3 * SECTOR + OFFSET];
    file[SETUP_SECTORS] = 2;
    file[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xaa]);
    file[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
    file[VERSION..VERSION + 2].copy_from_slice(&0x20fu16.to_le_bytes());
    file[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&(OFFSET as u32).to_le_bytes());
    file[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file.extend(b"what follows the payload");
    file
}

/// Unpacks at one go; nothing if the file is no bzImage.
fn unpack(file: &[u8]) -> Result<Option<Vec<u8>>, BzError> {
    let Some(mut unpacking) = Unpacking::begin(file)? else { return Ok(None) };
    while unpacking.step()? {}
    Ok(Some(unpacking.finish()))
}

#[test]
fn every_kind_unpacks() {
    for (kind, payload) in PAYLOADS {
        assert_eq!(unpack(&bzimage(payload)), Ok(Some(kernel())), "{kind}");
    }
}

#[test]
fn what_is_no_bzimage_is_left_alone() {
    assert_eq!(unpack(&kernel()), Ok(None));
    assert_eq!(unpack(b""), Ok(None));
}

#[test]
fn a_file_that_ends_early_is_said_to() {
    let whole = bzimage(PAYLOADS[1].1);
    for length in [VERSION, PAYLOAD_OFFSET, 3 * SECTOR, whole.len() - 100] {
        assert_eq!(unpack(&whole[..length]), Err(BzError::Truncated), "{length}");
    }
}

#[test]
fn headers_that_cannot_be_followed_are_refused() {
    let mut old = bzimage(PAYLOADS[0].1);
    old[VERSION] = 7;
    old[VERSION + 1] = 2;
    assert_eq!(unpack(&old), Err(BzError::Protocol(0x207)));
    assert_eq!(unpack(&bzimage(b"BZh9 and so on")), Err(BzError::Compression(*b"BZh9")));
    let huge = [PAYLOADS[1].1, &u32::MAX.to_le_bytes()].concat();
    assert_eq!(unpack(&bzimage(&huge)), Err(BzError::Size(u32::MAX)));
}

#[test]
fn a_length_that_is_not_the_data_s_is_corruption() {
    for (kind, payload) in PAYLOADS {
        for wrong in [39_999u32, 40_001, 1] {
            let mut payload = payload.to_vec();
            let at = payload.len() - 4;
            payload[at..].copy_from_slice(&wrong.to_le_bytes());
            assert_eq!(unpack(&bzimage(&payload)), Err(BzError::Corrupt(kind)), "{kind}, {wrong}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn broken_payloads_never_panic(which in 0..4usize, at in 4..9100usize, bit in 0..8u32, cut in 0..200usize) {
        let (_, payload) = PAYLOADS[which];
        let (data, length) = payload.split_at(payload.len() - 4);
        let mut broken = [&data[..data.len() - cut], length].concat();
        if let Some(byte) = broken.get_mut(at) {
            *byte ^= 1 << bit;
        }
        // What it comes to is the data's affair, but never more than was said.
        if let Ok(Some(out)) = unpack(&bzimage(&broken)) {
            prop_assert_eq!(out.len(), 40_000);
        }
    }
}

/// bzImages with header, lengths and payload changed. Most have payloads of a few bytes.
struct Mutated(Vec<Vec<u8>>);

impl Target for Mutated {
    const NAME: &'static str = "bzimage";
    const EPISODE: u64 = 10_000;
    const SUCCEED: u64 = 5;
    const REACHED: &'static [(&'static str, &'static str)] = &[
        ("follow", "ok"),
        ("follow", "none"),
        ("follow", "Protocol"),
        ("follow", "Truncated"),
        ("follow", "Compression"),
        ("follow", "Size"),
        ("unpack", "ok"),
        ("unpack", "Corrupt"),
    ];

    fn new(_: &mut Choices<'_>) -> Self {
        Self(PAYLOADS.iter().map(|(_, payload)| bzimage(payload)).collect())
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        let name = |error: &BzError| match error {
            BzError::Protocol(_) => "Protocol",
            BzError::Truncated => "Truncated",
            BzError::Compression(_) => "Compression",
            BzError::Size(_) => "Size",
            BzError::NoMemory(_) => "NoMemory",
            BzError::Corrupt(_) => "Corrupt",
        };
        const FIELDS: [usize; 6] = [SETUP_SECTORS, BOOT_FLAG, MAGIC, VERSION, PAYLOAD_OFFSET, PAYLOAD_LENGTH];
        let which = c.below(4);
        let body = c.one_in(2000);
        let mut file = core::mem::take(&mut self.0[which]);
        let length = file.len();
        let place = |c: &mut Choices<'_>| match body {
            true => 3 * SECTOR + 0x40 + c.below(length - 3 * SECTOR - 0x40),
            false if c.one_in(3) => 3 * SECTOR + 0x40 + c.below(4),
            false => FIELDS[c.below(6)] + c.below(4),
        };
        let changes: Vec<(usize, u8)> = (0..c.below(3)).map(|_| (place(c), c.byte())).collect();
        let old: Vec<u8> = changes.iter().map(|(at, byte)| core::mem::replace(&mut file[*at], *byte)).collect();
        let shown = if c.one_in(4) { &file[..c.below(length)] } else { &file[..] };
        if body {
            let done = unpack(shown);
            let all = done.as_ref().is_ok_and(|out| out.as_ref().is_none_or(|out| out.len() <= MAX_BYTES));
            assert!(all || done.is_err());
            tally.note_result("unpack", &done, name);
        } else {
            match packed(shown) {
                Ok(None) => tally.note("follow", "none"),
                done => {
                    assert!(
                        done.as_ref().is_ok_and(|p| p.as_ref().is_some_and(|p| p.bytes as usize <= MAX_BYTES))
                            || done.is_err()
                    );
                    tally.note_result("follow", &done, name);
                }
            }
        }
        changes.iter().zip(old).rev().for_each(|((at, _), old)| file[*at] = old);
        self.0[which] = file;
    }
}

#[test]
fn mutated_images() {
    fuzz::slice::<Mutated>(20_000);
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz bzimage"]
fn campaign_bzimage() {
    fuzz::campaign::<Mutated>();
}
