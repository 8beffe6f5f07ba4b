//! `console_io(op, count, buffer)` (`xen.h`).

open_enum! {
    /// Sub-operations.
    pub struct ConsoleOp(u32) {
        /// Writes `count` bytes.
        WRITE = 0;
        /// Reads up to `count` bytes; returns how many.
        READ = 1;
    }
}
