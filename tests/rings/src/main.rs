//! What `cargo xtask bench rings` runs on the host: ring-proto's halves on two pinned threads, beside other crates' queues.
//!
//! `ring-bench` does each case some times and prints `ROW name who nanoseconds` (of one entry or one pair, the least) and
//! `NOTE name value` for notifications by request. `ring-bench alone NAME COUNT` does COUNT operations of a case on one thread, for tools that
//! count instructions. The peer in C (`peer.c`) takes and prints the same.
#![forbid(unsafe_code)]

mod oneway;
mod pair;
mod reqrsp;

/// What to run: the default set, or the whole matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Set {
    Short,
    Full,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["alone", name, count] => {
            let count = count.parse().expect("COUNT is a number");
            let done = oneway::alone(name, count) || reqrsp::alone(name, count);
            assert!(done, "no case is called {name}");
        }
        [] | ["full"] => {
            let set = if args.is_empty() { Set::Short } else { Set::Full };
            println!("ROW rings/pingpong cache-line {:.2}", pair::least(pair::ping_pong));
            oneway::run(set);
            reqrsp::run(set);
        }
        _ => panic!("usage: ring-bench [full | alone NAME COUNT]"),
    }
}
