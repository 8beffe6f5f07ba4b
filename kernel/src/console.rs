//! The serial console, COM1.

use core::fmt::{self, Write};

use ferrule_core::Privilege;
use ferrule_core::sync::Lock;
use heapless::Deque;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{IER, LSR};
use uart_16550::{Config, Uart16550};

use crate::keys;
use crate::machine::{Machine, core};

/// COM1's first port.
const COM1: u16 = 0x3f8;
/// COM1's interrupt line.
pub const LINE: u32 = 4;

static UART: Lock<Machine, Option<Uart16550<PioBackend>>> = Lock::<Machine, _>::new(None);

/// Sets the port to 115200 baud, and its receive interrupt on.
pub fn init() {
    // SAFETY: nobody else touches these ports: no domain is ever given them.
    let uart = unsafe { Uart16550::new_port(COM1) };
    if let Ok(mut uart) = uart {
        let _ = uart.init(Config { interrupts: IER::DATA_READY, ..Config::default() });
        *UART.lock() = Some(uart);
    }
}

/// Writes bytes as they are, but each newline as carriage return and newline.
pub fn write(text: &[u8]) {
    if let Some(uart) = UART.lock().as_mut() {
        put(uart, text);
    }
}

fn put(uart: &mut Uart16550<PioBackend>, text: &[u8]) {
    for line in text.split_inclusive(|&b| b == b'\n') {
        match line.split_last() {
            Some((b'\n', rest)) => {
                uart.send_bytes_exact(rest);
                uart.send_bytes_exact(b"\r\n");
            }
            _ => uart.send_bytes_exact(line),
        }
    }
}

/// Waits until what was written has left the port.
pub fn drain() {
    let mut uart = UART.lock();
    while uart.as_mut().is_some_and(|uart| !uart.lsr().contains(LSR::TRANSMITTER_EMPTY)) {}
}

/// What was typed and not yet read. When it is full, what is typed is lost.
static TYPED: Lock<Machine, Deque<u8, 1024>> = Lock::<Machine, _>::new(Deque::new());

/// Takes bytes that were typed.
pub fn read(to: &mut [u8]) -> usize {
    let mut typed = TYPED.lock();
    to.iter_mut().map_while(|slot| typed.pop_front().map(|byte| *slot = byte)).count()
}

/// The port's interrupt: takes what was typed. Ctrl-A three times in a row switches between the console's reader and the
/// debug keys (`keys`).
pub fn received() {
    let mut bytes = [0; 64];
    loop {
        let count = UART.lock().as_mut().map_or(0, |uart| uart.receive_bytes(&mut bytes));
        if count == 0 {
            return;
        }
        for &byte in &bytes[..count] {
            if !keys::take(byte) {
                let _ = TYPED.lock().push_back(byte);
            }
        }
        core().send_global_virq(Privilege::CONSOLE, abi::Virq::CONSOLE);
    }
}

/// Writes even if the lock is held, for a panic: whoever holds it may be this CPU.
pub fn write_anyway(text: fmt::Arguments<'_>) {
    if let Some(mut uart) = UART.try_lock() {
        if let Some(uart) = uart.as_mut() {
            let _ = Writer(uart).write_fmt(text);
        }
        return;
    }
    // SAFETY: the machine is about to stop; at worst two texts mix.
    if let Ok(mut uart) = unsafe { Uart16550::new_port(COM1) } {
        let _ = Writer(&mut uart).write_fmt(text);
    }
}

struct Writer<'a>(&'a mut Uart16550<PioBackend>);

impl Write for Writer<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        put(self.0, s.as_bytes());
        Ok(())
    }
}

/// Writes a line of the core's own to the console, and to the ring that `dmesg` reads. Needs the core to be made.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::machine::core().log(format_args!($($text)*)) };
}
