//! `multicall(entries, count)` (`xen.h`).

wire_struct! {
    /// One call of a batch.
    pub struct MulticallEntry {
        /// Hypercall number.
        pub op: u64,
        /// Out: its result.
        pub result: u64,
        /// Its arguments.
        pub args: [u64; 5],
        /// A sixth, which no hypercall has.
        pub _unused: u64,
    }
}
layout!(MulticallEntry: 64; result @ 8, args @ 16);
