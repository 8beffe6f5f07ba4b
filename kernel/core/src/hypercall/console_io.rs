//! `console_io` (18): the machine's console.
//!
//! - Arguments: the command (0 write, 1 read); the number of bytes; their address.
//! - Returns: 0 for a write; the number of bytes for a read, which does not wait.
//! - Faults: EFAULT. E2BIG: a read of 2 GiB or more. EPERM: a read without the console's privilege. ENOSYS: no such
//!   command.
//! - Notes: with the console's privilege bytes go out as they are. Other domains may write, as under a Xen built with
//!   CONFIG_VERBOSE_DEBUG (else they would get EPERM): printable bytes, whole lines, each marked with the domain,
//!   at most [`LINES_PER_SECOND`]; lines beyond are dropped and counted. Preemptible between pieces of 128 bytes.
//! - Source: `xen.h`.

use crate::log::Line;
use crate::{Args, Caller, HcResult, Platform, Stop, refuse_if};
use abi::{Errno, Vaddr};

/// Lines a second that a domain without the console's privilege may write.
pub const LINES_PER_SECOND: u32 = 100;
/// Bytes that are taken at once.
const PIECE: usize = 128;

/// What a domain has written of a line, and how fast.
#[derive(Default)]
pub struct Writer {
    line: Line<180>,
    second: u64,
    /// Lines in that second, those that were dropped among them.
    lines: u32,
}

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [command, ..] = *a;
    match command as u32 {
        0 => write(c, a),
        1 => read(c, a),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn write<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [_, count, buffer, ..] = a;
    *count = u64::from(*count as u32);
    while *count > 0 {
        let mut piece = [0u8; PIECE];
        let len = (*count).min(PIECE as u64) as usize;
        let piece = piece.get_mut(..len).unwrap_or_default();
        c.get_to(*buffer, piece)?;
        if c.domain.privilege.contains(crate::Privilege::CONSOLE) {
            c.core.owner_writes(piece);
        } else {
            lines(c, piece);
        }
        *count -= len as u64;
        *buffer = buffer.wrapping_add(len as u64);
        if *count > 0 && c.core.platform.preempt() {
            return Err(Stop::PREEMPTED);
        }
    }
    Ok(0)
}

/// Appends to the domain's line, and writes it out at its end.
fn lines<P: Platform>(c: &Caller<'_, P>, text: &[u8]) {
    let mut writer = c.domain.console.lock();
    for &byte in text {
        let shown = matches!(byte, b'\t' | b' '..=b'~');
        if byte == b'\n' || shown && writer.line.is_full() {
            end_line(c, &mut writer);
        }
        if shown {
            let _ = writer.line.push(byte);
        }
    }
}

/// Writes the domain's line out, unless there were too many in this second.
fn end_line<P: Platform>(c: &Caller<'_, P>, writer: &mut Writer) {
    let (id, second) = (c.domain.id.0, c.core.platform.now() / 1_000_000_000);
    if writer.second != second {
        let dropped = writer.lines.saturating_sub(LINES_PER_SECOND);
        if dropped > 0 {
            c.core.log(format_args!("d{id}: {dropped} lines dropped"));
        }
        (writer.second, writer.lines) = (second, 0);
    }
    writer.lines = writer.lines.saturating_add(1);
    if writer.lines <= LINES_PER_SECOND {
        c.core.log_bare(format_args!("(d{id}) {}", core::str::from_utf8(&writer.line).unwrap_or_default()));
    }
    writer.line.clear();
}

fn read<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    c.need(crate::Privilege::CONSOLE)?;
    let [_, count, buffer, ..] = *a;
    let count = u64::from(count as u32);
    refuse_if(count > i32::MAX as u64, Errno::E2BIG)?;
    let mut piece = [0u8; PIECE];
    let mut done = 0u64;
    loop {
        let want = (count - done).min(PIECE as u64) as usize;
        let got = c.core.platform.console_read(piece.get_mut(..want).unwrap_or_default());
        if got == 0 {
            break;
        }
        let typed = piece.get(..got).unwrap_or_default();
        c.core.platform.copy_to_guest(c.space()?, Vaddr(buffer.wrapping_add(done)), typed)?;
        done += got as u64;
    }
    Ok(done as i64)
}
