//! The store as its clients see it, message by message, and the advisories it was learnt from.

extern crate std;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::DomId;
use fuzz::{Choices, Tally, Target};
use proptest::prelude::*;
use ring_proto::store::{Header, MessageType as M};

use super::perms::Perms;
use super::quota::Quota;
use super::*;

/// A store with domains 0, 1 and 2; each has its directory, as the toolstack makes it.
fn store() -> Store {
    let mut store = Store::default();
    for id in [1, 2] {
        store.make(&format!("/local/domain/{id}"), Perms::shared_with(DomId(0), DomId(id))).unwrap();
        store.make(&format!("/local/domain/{id}/data"), Perms::owned(DomId(id), Access::NONE)).unwrap();
        store.introduce(DomId(id));
    }
    store
}

/// One message there and the reply back; events stay queued.
fn ask_in(store: &mut Store, domain: u16, tx_id: u32, kind: M, payload: &str) -> Result<String, String> {
    let header = Header { kind, req_id: 77, tx_id, len: payload.len() as u32 };
    store.request(DomId(domain), &header, payload.as_bytes());
    let client = store.clients.get_mut(&DomId(domain)).unwrap();
    let at = (0..client.len()).find(|at| client.peek(*at).header.kind != M::WATCH_EVENT).unwrap();
    let message = client.take(at).unwrap();
    assert_eq!((message.header.req_id, message.header.tx_id), (77, tx_id));
    assert_eq!(message.header.len as usize, message.payload.len());
    let text = String::from_utf8(message.payload.to_vec()).unwrap();
    let text = text.strip_suffix('\0').map(str::to_string).unwrap_or(text);
    if message.header.kind == M::ERROR { Err(text) } else { Ok(text) }
}

fn ask(store: &mut Store, domain: u16, kind: M, payload: &str) -> Result<String, String> {
    ask_in(store, domain, 0, kind, payload)
}

fn write(store: &mut Store, domain: u16, path: &str, value: &str) -> Result<String, String> {
    ask(store, domain, M::WRITE, &format!("{path}\0{value}"))
}

fn read(store: &mut Store, domain: u16, path: &str) -> Result<String, String> {
    ask(store, domain, M::READ, &format!("{path}\0"))
}

/// All events waiting for a domain, as `path token`.
fn events(store: &mut Store, domain: u16) -> Vec<String> {
    let mut found = Vec::new();
    while let Some(message) = store.next_message(DomId(domain)) {
        assert_eq!(message.header.kind, M::WATCH_EVENT);
        let text = String::from_utf8(message.payload.to_vec()).unwrap();
        found.push(text.trim_end_matches('\0').replace('\0', " "));
    }
    found
}

fn err<T>(name: &str) -> Result<T, String> {
    Err(name.to_string())
}

fn done() -> Result<String, String> {
    Ok("OK".to_string())
}

#[test]
fn nodes_are_written_read_listed_and_removed() {
    let mut s = store();
    assert_eq!(write(&mut s, 1, "data/a/b", "hello"), done());
    assert_eq!(read(&mut s, 1, "data/a/b"), Ok("hello".into()));
    assert_eq!(read(&mut s, 1, "/local/domain/1/data/a"), Ok("".into()), "made on the way");
    assert_eq!(ask(&mut s, 1, M::MKDIR, "data/c\0"), done());
    assert_eq!(ask(&mut s, 1, M::MKDIR, "data/a\0"), done(), "an existing node is left as it is");
    assert_eq!(ask(&mut s, 1, M::DIRECTORY, "data\0"), Ok("a\0c".into()));
    assert_eq!(ask(&mut s, 1, M::RM, "data/a\0"), done());
    assert_eq!(read(&mut s, 1, "data/a/b"), err("ENOENT"));
    assert_eq!(ask(&mut s, 1, M::RM, "data/a\0"), done(), "gone is gone");
    assert_eq!(ask(&mut s, 1, M::RM, "data/x/y\0"), err("ENOENT"));
    assert_eq!(ask(&mut s, 0, M::RM, "/\0"), err("EINVAL"));
}

#[test]
fn values_are_bytes() {
    let mut s = store();
    s.request(DomId(1), &Header { kind: M::WRITE, req_id: 1, tx_id: 0, len: 10 }, b"data/v\0\x00\xff\0");
    assert_eq!(&*s.next_message(DomId(1)).unwrap().payload, b"OK\0");
    s.request(DomId(1), &Header { kind: M::READ, req_id: 1, tx_id: 0, len: 7 }, b"data/v\0");
    assert_eq!(&*s.next_message(DomId(1)).unwrap().payload, b"\x00\xff\0");
}

#[test]
fn malformed_requests_get_einval() {
    let mut s = store();
    for (kind, payload) in [
        (M::READ, ""),
        (M::READ, "data"),
        (M::READ, "data\0x\0"),
        (M::READ, "da ta\0"),
        (M::WRITE, "data"),
        (M::WRITE, ""),
        (M::WATCH, "data\0"),
        (M::WATCH, "@other\0t\0"),
        (M::UNWATCH, "data\0t"),
        (M::TRANSACTION_END, "X\0"),
        (M::SET_PERMS, "data\0"),
        (M::GET_DOMAIN_PATH, "x\0"),
        (M::DIRECTORY_PART, "data\0-1\0"),
    ] {
        assert_eq!(ask(&mut s, 1, kind, payload), err("EINVAL"), "{kind:?} {payload:?}");
    }
    assert_eq!(ask(&mut s, 1, M(20), "x\0"), err("ENOSYS"));
    assert_eq!(ask(&mut s, 1, M(9999), ""), err("ENOSYS"));
}

#[test]
fn permissions_are_kept() {
    let mut s = store();
    write(&mut s, 1, "data/secret", "x").unwrap();
    let path = "/local/domain/1/data/secret";
    assert_eq!(read(&mut s, 2, path), err("EACCES"));
    assert_eq!(read(&mut s, 2, "/local/domain/1/data/none"), err("EACCES"), "not even whether it exists");
    assert_eq!(write(&mut s, 2, path, "y"), err("EACCES"));
    assert_eq!(ask(&mut s, 2, M::RM, &format!("{path}\0")), err("EACCES"));
    assert_eq!(ask(&mut s, 2, M::GET_PERMS, &format!("{path}\0")), err("EACCES"));
    assert_eq!(ask(&mut s, 1, M::SET_PERMS, "data/secret\0n1\0r2\0"), done());
    assert_eq!(read(&mut s, 2, path), Ok("x".into()));
    assert_eq!(ask(&mut s, 2, M::GET_PERMS, &format!("{path}\0")), Ok("n1\0r2".into()));
    assert_eq!(write(&mut s, 2, path, "y"), err("EACCES"));
    assert_eq!(ask(&mut s, 1, M::SET_PERMS, "data/secret\0n2\0"), err("EPERM"), "nodes are not given away");
    assert_eq!(ask(&mut s, 1, M::SET_PERMS, "data/secret\0b1\0"), done());
    assert_eq!(ask(&mut s, 2, M::SET_PERMS, &format!("{path}\0b2\0")), err("EACCES"), "writing is not owning");
    assert_eq!(write(&mut s, 1, "/local/domain/1/x", "y"), err("EACCES"), "the directory itself is dom0's");
    assert_eq!(write(&mut s, 1, "/tool", "y"), err("EACCES"));
}

#[test]
fn directories_in_parts() {
    let mut s = store();
    for at in 0..900 {
        write(&mut s, 1, &format!("data/name-{at:04}"), "").unwrap();
    }
    assert_eq!(ask(&mut s, 1, M::DIRECTORY, "data\0"), err("E2BIG"));
    let (mut names, mut generations) = (String::new(), Vec::new());
    loop {
        let part = ask(&mut s, 1, M::DIRECTORY_PART, &format!("data\0{}\0", names.len())).unwrap() + "\0";
        let (generation, rest) = part.split_once('\0').unwrap();
        generations.push(generation.to_string());
        names += rest;
        if names.ends_with("\0\0") {
            break;
        }
    }
    assert_eq!(names.split_terminator('\0').filter(|name| !name.is_empty()).count(), 900);
    assert!(generations.len() > 2 && generations.iter().all(|generation| *generation == generations[0]));
}

#[test]
fn watches_fire_at_once_below_and_relative() {
    let mut s = store();
    assert_eq!(ask(&mut s, 1, M::WATCH, "data\0tok\0"), done());
    assert_eq!(events(&mut s, 1), ["data tok"]);
    assert_eq!(ask(&mut s, 1, M::WATCH, "data\0tok\0"), err("EEXIST"));
    assert_eq!(ask(&mut s, 1, M::WATCH, "/local/domain/1/data/x\0abs\0"), done());
    events(&mut s, 1);
    write(&mut s, 1, "data/x/y", "1").unwrap();
    assert_eq!(events(&mut s, 1), ["data/x/y tok", "/local/domain/1/data/x/y abs"]);
    ask(&mut s, 0, M::RM, "/local/domain/1/data\0").unwrap();
    assert_eq!(events(&mut s, 1), ["data tok", "/local/domain/1/data/x abs"], "a watched node went with its parent");
    assert_eq!(ask(&mut s, 1, M::UNWATCH, "data\0tok\0"), done());
    assert_eq!(ask(&mut s, 1, M::UNWATCH, "data\0tok\0"), err("ENOENT"));
    ask(&mut s, 1, M::RESET_WATCHES, "\0").unwrap();
    s.put("/local/domain/1/data/x", "2").unwrap();
    assert!(events(&mut s, 1).is_empty());
}

#[test]
fn the_reply_precedes_its_events() {
    let mut s = store();
    let header = Header { kind: M::WATCH, req_id: 5, tx_id: 0, len: 7 };
    s.request(DomId(1), &header, b"data\0t\0");
    let kinds: Vec<M> = core::iter::from_fn(|| s.next_message(DomId(1))).map(|message| message.header.kind).collect();
    assert_eq!(kinds, [M::WATCH, M::WATCH_EVENT]);
}

#[test]
fn only_dom0_hears_of_others() {
    let mut s = store();
    for domain in [0, 1] {
        ask(&mut s, domain, M::WATCH, "@introduceDomain\0i\0").unwrap();
        ask(&mut s, domain, M::WATCH, "@releaseDomain\0r\0").unwrap();
        events(&mut s, domain);
    }
    s.introduce(DomId(3));
    s.introduce(DomId(3));
    s.release(DomId(3));
    assert_eq!(events(&mut s, 0), ["@introduceDomain i", "@releaseDomain r"]);
    assert!(events(&mut s, 1).is_empty());
}

#[test]
fn transactions_are_atomic_and_isolated() {
    let mut s = store();
    write(&mut s, 1, "data/a", "old").unwrap();
    ask(&mut s, 1, M::WATCH, "data\0t\0").unwrap();
    events(&mut s, 1);
    let id: u32 = ask(&mut s, 1, M::TRANSACTION_START, "\0").unwrap().parse().unwrap();
    assert_eq!(ask_in(&mut s, 1, id, M::WRITE, "data/a\0new"), done());
    assert_eq!(ask_in(&mut s, 1, id, M::WRITE, "data/b\0new"), done());
    assert_eq!(ask_in(&mut s, 1, id, M::READ, "data/a\0"), Ok("new".into()));
    assert_eq!(read(&mut s, 1, "data/a"), Ok("old".into()));
    assert!(events(&mut s, 1).is_empty());
    assert_eq!(ask_in(&mut s, 1, id, M::TRANSACTION_START, "\0"), err("EBUSY"));
    assert_eq!(ask_in(&mut s, 1, id, M::TRANSACTION_END, "T\0"), done());
    assert_eq!(read(&mut s, 1, "data/b"), Ok("new".into()));
    assert_eq!(events(&mut s, 1), ["data/a t", "data/b t"]);
    assert_eq!(ask_in(&mut s, 1, id, M::READ, "data/a\0"), err("ENOENT"), "it is over");
    assert_eq!(ask_in(&mut s, 2, 1, M::TRANSACTION_END, "T\0"), err("ENOENT"), "another's");
}

#[test]
fn transactions_conflict_only_when_they_must() {
    type Step = (M, &'static str);
    let cases: [(&[Step], Step, bool); 10] = [
        (&[(M::READ, "data/a\0"), (M::WRITE, "data/z\0x")], (M::WRITE, "data/a\0y"), true),
        (&[(M::READ, "data/a\0")], (M::WRITE, "data/a\0y"), false), // read only: as if before
        (&[(M::WRITE, "data/a\0x")], (M::WRITE, "data/b\0y"), false),
        (&[(M::WRITE, "data/n\0x")], (M::WRITE, "data/m\0y"), false), // siblings
        (&[(M::WRITE, "data/n\0x")], (M::WRITE, "data/n\0y"), true),
        (&[(M::WRITE, "data/d/n\0x")], (M::WRITE, "data/d/m\0y"), true), // both make data/d
        (&[(M::DIRECTORY, "data\0"), (M::WRITE, "data/z\0x")], (M::WRITE, "data/m\0y"), true),
        (&[(M::DIRECTORY, "data\0"), (M::WRITE, "data/z\0x")], (M::WRITE, "data/a\0y"), false),
        (&[(M::RM, "data/a\0")], (M::WRITE, "data/a/b\0y"), true),
        (&[(M::READ, "data/q\0"), (M::WRITE, "data/z\0x")], (M::WRITE, "data/q\0y"), true), // was absent
    ];
    for (steps, other, conflict) in cases {
        let mut s = store();
        write(&mut s, 1, "data/a", "0").unwrap();
        write(&mut s, 1, "data/b", "0").unwrap();
        let id: u32 = ask(&mut s, 1, M::TRANSACTION_START, "\0").unwrap().parse().unwrap();
        for (kind, payload) in steps {
            let _ = ask_in(&mut s, 1, id, *kind, payload);
        }
        ask(&mut s, 1, other.0, other.1).unwrap();
        let end = ask_in(&mut s, 1, id, M::TRANSACTION_END, "T\0");
        assert_eq!(end, if conflict { err("EAGAIN") } else { done() }, "{steps:?} with {other:?}");
    }
}

#[test]
fn domains_introduced_and_released_over_the_wire() {
    let mut s = store();
    let header = |kind| Header { kind, req_id: 1, tx_id: 0, len: 0 };
    let act = s.request(DomId(0), &header(M::INTRODUCE), b"9\x001234\x007\0");
    assert_eq!(act, Some(Act::Introduce(DomId(9), abi::Pfn(1234), abi::Port(7))));
    s.next_message(DomId(0));
    assert_eq!(ask(&mut s, 1, M::IS_DOMAIN_INTRODUCED, "9\0"), Ok("T".into()));
    assert_eq!(s.request(DomId(0), &header(M::RELEASE), b"9\0"), Some(Act::Release(DomId(9))));
    s.next_message(DomId(0));
    assert_eq!(ask(&mut s, 1, M::IS_DOMAIN_INTRODUCED, "9\0"), Ok("F".into()));
    assert_eq!(ask(&mut s, 0, M::RELEASE, "9\0"), err("ENOENT"));
    assert_eq!(ask(&mut s, 0, M::RELEASE, "0\0"), err("ENOENT"));
    assert_eq!(ask(&mut s, 1, M::GET_DOMAIN_PATH, "42\0"), Ok("/local/domain/42".into()));
    for (kind, payload) in [
        (M::INTRODUCE, "1\x000\x001\0"),
        (M::RELEASE, "2\0"),
        (M::RESUME, "2\0"),
        (M::CONTROL, "help\0"),
        (M::SET_TARGET, "2\x001\0"),
    ] {
        assert_eq!(ask(&mut s, 1, kind, payload), err("EACCES"), "{kind:?}");
    }
    assert!(s.is_introduced(DomId(2)));
    assert_eq!(ask(&mut s, 0, M::SET_TARGET, "2\x001\0"), err("EACCES"), "refused to everybody");
}

#[test]
fn quotas_hold_and_name_the_domain() {
    let mut s = store();
    let hit = |s: &mut Store, quota| {
        let hits = s.take_quota_hits();
        assert_eq!(
            hits.iter().map(|hit| (hit.domain, hit.quota, hit.times)).collect::<Vec<_>>(),
            [(DomId(1), quota, 1)]
        );
    };
    assert_eq!(write(&mut s, 1, "data/big", &"x".repeat(2049)), err("ENOSPC"));
    hit(&mut s, Quota::NodeSize);
    for at in 0..128 {
        ask(&mut s, 1, M::WATCH, &format!("w\0{at}\0")).unwrap();
    }
    assert_eq!(ask(&mut s, 1, M::WATCH, "w\0x\0"), err("ENOSPC"));
    hit(&mut s, Quota::Watches);
    events(&mut s, 1);
    for _ in 0..10 {
        ask(&mut s, 1, M::TRANSACTION_START, "\0").unwrap();
    }
    assert_eq!(ask(&mut s, 1, M::TRANSACTION_START, "\0"), err("ENOSPC"));
    hit(&mut s, Quota::Transactions);
    s.reset(DomId(1));
    let id: u32 = ask(&mut s, 1, M::TRANSACTION_START, "\0").unwrap().parse().unwrap();
    let full = (0..3000).find_map(|_| ask_in(&mut s, 1, id, M::WRITE, "data/a\0x").err());
    assert_eq!(full.as_deref(), Some("ENOSPC"), "the same node again and again costs memory too");
    hit(&mut s, Quota::TransactionNodes);
    s.reset(DomId(1));
    let made = (0..2000).take_while(|at| write(&mut s, 1, &format!("data/{at}"), "").is_ok()).count();
    assert_eq!(made, 999, "and data itself makes 1000");
    hit(&mut s, Quota::Nodes);
    assert_eq!(s.nodes_of(DomId(1)), 1000);
    write(&mut s, 1, "data/5", "more").unwrap();
    ask(&mut s, 1, M::RM, "data/7\0").unwrap();
    write(&mut s, 1, "data/new", "").unwrap();
    assert_eq!(write(&mut s, 2, "data/x", ""), done(), "domain 2 has its own");
    for at in 0..2000 {
        s.put(&format!("/many/{at}"), "").unwrap();
    }
}

#[test]
fn a_transaction_is_no_way_around_the_node_quota() {
    let mut s = store();
    for at in 0..600 {
        write(&mut s, 1, &format!("data/{at}"), "").unwrap();
    }
    let open = |s: &mut Store| ask(s, 1, M::TRANSACTION_START, "\0").unwrap().parse::<u32>().unwrap();
    let (first, second) = (open(&mut s), open(&mut s));
    for at in 0..300 {
        ask_in(&mut s, 1, first, M::WRITE, &format!("data/f{at}\0")).unwrap();
        ask_in(&mut s, 1, second, M::WRITE, &format!("data/s{at}\0")).unwrap();
    }
    assert_eq!(ask_in(&mut s, 1, first, M::TRANSACTION_END, "T\0"), done());
    assert_eq!(ask_in(&mut s, 1, second, M::TRANSACTION_END, "T\0"), err("ENOSPC"));
    assert_eq!(s.nodes_of(DomId(1)), 901);
}

#[test]
fn who_does_not_take_its_messages_gets_no_more() {
    let mut s = store();
    ask(&mut s, 1, M::WATCH, "data\0t\0").unwrap();
    for _ in 0..10 {
        s.put("/local/domain/1/data/same", "x").unwrap();
    }
    assert_eq!(events(&mut s, 1).len(), 2, "the same event does not queue twice");
    for at in 0..5000 {
        s.put(&format!("/local/domain/1/data/{at}"), "x").unwrap();
    }
    assert!(!s.accepts(DomId(1)));
    assert_eq!(s.take_quota_hits()[0].quota, Quota::Outstanding);
    assert!(events(&mut s, 1).len() < 3000);
    assert!(s.accepts(DomId(1)));
    assert!(s.accepts(DomId(2)));
}

/// XSA-115: a watch tells nothing about nodes its owner may not read.
#[test]
fn xsa_115_watches_leak_nothing() {
    let mut s = store();
    for path in ["/local/domain/1", "/", "/local/domain/1/data/secret"] {
        ask(&mut s, 2, M::WATCH, &format!("{path}\0t\0")).unwrap();
    }
    events(&mut s, 2);
    write(&mut s, 1, "data/secret", "x").unwrap();
    write(&mut s, 1, "data/secret/deep", "x").unwrap();
    ask(&mut s, 1, M::RM, "data/secret\0").unwrap();
    assert!(events(&mut s, 2).is_empty());
    write(&mut s, 1, "data/open", "x").unwrap();
    ask(&mut s, 1, M::SET_PERMS, "data/open\0r1\0").unwrap();
    assert!(!events(&mut s, 2).is_empty());
    ask(&mut s, 1, M::SET_PERMS, "data/open\0n1\0").unwrap();
    assert!(!events(&mut s, 2).is_empty(), "could be read before");
    write(&mut s, 1, "data/open", "y").unwrap();
    assert!(events(&mut s, 2).is_empty());
}

/// XSA-322: a new domain with a dead one's number inherits nothing.
#[test]
fn xsa_322_a_dead_domain_leaves_nothing() {
    let mut s = store();
    write(&mut s, 1, "data/mine", "x").unwrap();
    write(&mut s, 2, "data/shared", "x").unwrap();
    ask(&mut s, 2, M::SET_PERMS, "data/shared\0n2\0b1\0").unwrap();
    ask(&mut s, 1, M::WATCH, "data\0t\0").unwrap();
    let id: u32 = ask(&mut s, 1, M::TRANSACTION_START, "\0").unwrap().parse().unwrap();
    assert_eq!(write(&mut s, 1, "/local/domain/2/data/shared", "y"), done());
    s.release(DomId(1));
    assert_eq!(s.nodes_of(DomId(1)), 0);
    s.introduce(DomId(1));
    assert_eq!(read(&mut s, 1, "data/mine"), err("EACCES"));
    assert_eq!(read(&mut s, 1, "/local/domain/2/data/shared"), err("EACCES"));
    assert_eq!(ask_in(&mut s, 1, id, M::READ, "data\0"), err("ENOENT"));
    s.put("/local/domain/1/data", "z").unwrap();
    assert!(events(&mut s, 1).is_empty());
    assert_eq!(read(&mut s, 1, "/local/domain/1"), err("EACCES"), "the old permission is struck off");
}

/// The root cannot be removed with whoever dom0 gave it to: it is dom0's again.
#[test]
fn xsa_322_the_root_is_not_a_dead_domain_s() {
    let mut s = store();
    ask(&mut s, 0, M::SET_PERMS, "/\0n1\0r2\0").unwrap();
    s.release(DomId(1));
    s.introduce(DomId(1));
    assert_eq!(ask(&mut s, 0, M::GET_PERMS, "/\0"), Ok("r0".to_string()));
    assert_eq!(write(&mut s, 1, "/mine", "x"), err("EACCES"));
    assert_eq!(clean(&s.counts), clean(&recount(&s)));
}

/// XSA-323: paths longer than allowed, in every request that takes one.
#[test]
fn xsa_323_path_length() {
    let mut s = store();
    let (absolute, relative) = (format!("/{}", "x".repeat(3072)), "y".repeat(2049));
    for kind in [M::READ, M::DIRECTORY, M::MKDIR, M::RM, M::GET_PERMS] {
        for path in [&absolute, &relative] {
            assert_eq!(ask(&mut s, 0, kind, &format!("{path}\0")), err("EINVAL"));
            assert_eq!(ask(&mut s, 0, M::WATCH, &format!("{path}\0t\0")), err("EINVAL"));
        }
    }
}

/// XSA-417, 418: owners and depths that would upset the accounts or the stack.
#[test]
fn xsa_418_depth() {
    let mut s = store();
    assert_eq!(write(&mut s, 1, &format!("data{}", "/d".repeat(1000)), ""), err("EINVAL"));
    assert_eq!(write(&mut s, 1, &format!("data{}", "/d".repeat(60)), ""), done());
    assert_eq!(s.nodes_of(DomId(1)), 61);
    s.release(DomId(1));
    assert_eq!(s.counts.values().filter(|count| **count < 0).count(), 0);
}

/// What owners the tree holds, counted node by node.
/// What other domains, the toolstack and the domain itself can do between any two requests of a transaction, and how the
/// rest of it goes then. The accounts are right at each step, and all of it is done in the end or nothing.
#[test]
fn a_transaction_is_interrupted_at_every_step_by_each_who_can() {
    const STEPS: [(M, &str); 7] = [
        (M::WRITE, "data/a/b\0new"),
        (M::MKDIR, "data/c\0"),
        (M::READ, "data/old\0"),
        (M::RM, "data/old\0"),
        (M::SET_PERMS, "data/c\0n1\0r2\0"),
        (M::DIRECTORY, "data\0"),
        (M::WRITE, "data/c/d\0new"),
    ];
    type Between = (fn(&mut Store), Result<String, String>);
    let own = |s: &mut Store, path: &str| s.put(&format!("/local/domain/1/data/{path}"), "else").unwrap();
    let conflict: fn(&mut Store) = |s| s.put("/local/domain/1/data/old", "else").unwrap();
    let between: [Between; 6] = [
        (|s| s.put("/local/domain/2/data/x", "else").unwrap(), done()),
        (|s| assert_eq!(ask(s, 2, M::TRANSACTION_START, "\0").map(|_| ()), Ok(())), done()),
        (conflict, err("EAGAIN")),
        (|s| s.delete("/local/domain/1/data/old").unwrap(), err("EAGAIN")),
        (|s| s.reset(DomId(1)), err("ENOENT")),
        (
            |s| {
                s.release(DomId(1));
                assert_eq!((s.nodes_of(DomId(1)), s.transactions.len()), (0, 0));
                s.introduce(DomId(1));
            },
            err("ENOENT"),
        ),
    ];
    let mut taken = 0;
    for (interruption, expected) in &between {
        for step in 0..=STEPS.len() {
            let mut s = store();
            own(&mut s, "old");
            let id: u32 = ask(&mut s, 1, M::TRANSACTION_START, "\0").unwrap().parse().unwrap();
            for (index, (kind, payload)) in STEPS.iter().enumerate() {
                if index == step {
                    interruption(&mut s);
                    taken += 1;
                }
                let _ = ask_in(&mut s, 1, id, *kind, payload);
                assert_eq!(clean(&s.counts), clean(&recount(&s)), "before it is over nothing is counted");
            }
            if step == STEPS.len() {
                interruption(&mut s);
                taken += 1;
            }
            assert_eq!(ask_in(&mut s, 1, id, M::TRANSACTION_END, "T\0"), *expected, "step {step}");
            assert_eq!(clean(&s.counts), clean(&recount(&s)));
            let made = ["a/b", "c/d"].map(|path| s.get(&format!("/local/domain/1/data/{path}")));
            let all = expected.is_ok().then(|| "new".to_string());
            assert_eq!(made, [all.clone(), all], "all of it or nothing");
            // And the teardown, whatever state that left.
            s.release(DomId(1));
            assert_eq!(s.nodes_of(DomId(1)), 0);
            assert!(s.transactions.keys().all(|context| context.domain != DomId(1)));
            assert_eq!(clean(&s.counts), clean(&recount(&s)));
        }
    }
    assert_eq!(taken, between.len() * (STEPS.len() + 1));
}

fn recount(store: &Store) -> Counts {
    let mut counts = Counts::new();
    store.tree.each(&mut |_, node| *counts.entry(node.perms.owner()).or_default() += 1);
    counts
}

fn clean(counts: &Counts) -> Counts {
    counts.iter().filter(|(_, count)| **count != 0).map(|(domain, count)| (*domain, *count)).collect()
}

/// A store, and domains that send it any messages whatever: nothing panics, every request is answered once, and the
/// accounts are right.
struct World(Store);

impl Target for World {
    const NAME: &'static str = "store";
    const EPISODE: u64 = 300;
    const REACHED: &'static [(&'static str, &'static str)] = &[
        ("DIRECTORY", "ok"),
        ("READ", "ok"),
        ("GET_PERMS", "ok"),
        ("WATCH", "ok"),
        ("UNWATCH", "ok"),
        ("TRANSACTION_START", "ok"),
        ("TRANSACTION_END", "ok"),
        ("WRITE", "ok"),
        ("MKDIR", "ok"),
        ("RM", "ok"),
        ("SET_PERMS", "ok"),
        ("GET_DOMAIN_PATH", "ok"),
        ("READ", "ENOENT"),
        ("READ", "EACCES"),
        ("WRITE", "EINVAL"),
        ("WRITE", "EACCES"),
        ("WATCH", "EEXIST"),
        ("UNWATCH", "ENOENT"),
        ("TRANSACTION_END", "EAGAIN"),
        ("TRANSACTION_END", "ENOENT"),
        ("another", "ENOSYS"),
        ("forget", "ok"),
    ];

    fn new(_: &mut Choices<'_>) -> Self {
        Self(store())
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        const WORDS: [&str; 12] = [
            "data\0",
            "data/a\0",
            "data/a/b\0",
            "/\0",
            "/local/domain/1/data\0",
            "/x/y\0",
            "n1\0",
            "b2\0",
            "T\0",
            "1\0",
            "@releaseDomain\0",
            "",
        ];
        // Operations by number, and what they are counted as.
        const NAMES: [(M, &str); 13] = [
            (M::DIRECTORY, "DIRECTORY"),
            (M::READ, "READ"),
            (M::GET_PERMS, "GET_PERMS"),
            (M::WATCH, "WATCH"),
            (M::UNWATCH, "UNWATCH"),
            (M::TRANSACTION_START, "TRANSACTION_START"),
            (M::TRANSACTION_END, "TRANSACTION_END"),
            (M::WRITE, "WRITE"),
            (M::MKDIR, "MKDIR"),
            (M::RM, "RM"),
            (M::SET_PERMS, "SET_PERMS"),
            (M::GET_DOMAIN_PATH, "GET_DOMAIN_PATH"),
            (M::RESET_WATCHES, "RESET_WATCHES"),
        ];
        let s = &mut self.0;
        let domain = DomId(c.below(3) as u16);
        if c.one_in(400) {
            // A domain ends, and another has its number.
            let gone = DomId(1 + c.below(2) as u16);
            s.release(gone);
            assert_eq!(s.nodes_of(gone), 0);
            s.introduce(gone);
            return tally.note("forget", Tally::OK);
        }
        let kind = if c.one_in(12) { M(c.below(24) as u32) } else { NAMES[c.below(NAMES.len())].0 };
        let transaction = if c.one_in(2) {
            0
        } else {
            s.transactions.keys().find(|key| key.domain == domain).map_or(1, |key| key.transaction)
        };
        let mut payload = Vec::from(match kind {
            M::TRANSACTION_END if !c.one_in(4) => ["T\0", "F\0"][c.below(2)],
            M::TRANSACTION_START if !c.one_in(4) => "\0",
            M::GET_DOMAIN_PATH if !c.one_in(4) => "1\0",
            _ => {
                let most = if c.one_in(4) { 12 } else { 5 };
                WORDS[c.below(most)]
            }
        });
        match c.below(6) {
            0 => payload.extend(b"b1\0r2\0"),
            1 => payload.extend(b"1\x002\0"),
            2 => payload.extend([c.byte(), c.byte(), c.byte()]),
            3 | 4 if matches!(kind, M::WATCH | M::UNWATCH) => payload.extend(b"token\0"),
            3 if kind == M::SET_PERMS => {
                payload.extend(format!("{}{}\0", ["n", "b", "r", "w"][c.below(4)], domain.0).bytes())
            }
            _ => {}
        }
        let header = Header { kind, req_id: 3, tx_id: transaction, len: payload.len() as u32 };
        let introduced = s.is_introduced(domain);
        s.request(domain, &header, &payload);
        let mut outcome = None;
        while let Some(message) = s.next_message(domain) {
            if message.header.kind == M::WATCH_EVENT {
                continue;
            }
            assert!(outcome.is_none(), "answered twice");
            let error = message.header.kind == M::ERROR;
            outcome = Some(if error { String::from_utf8(message.payload.to_vec()).unwrap() } else { Tally::OK.into() });
        }
        assert_eq!(outcome.is_some(), introduced, "one answer, for those who were let in");
        let Some(outcome) = outcome else { return s.introduce(domain) };
        let name = NAMES.iter().find(|(known, _)| *known == kind).map_or("another", |(_, name)| name);
        tally.note(name, outcome.trim_end_matches('\0'));
        if c.one_in(8) {
            assert_eq!(clean(&s.counts), clean(&recount(s)));
        }
    }

    fn end(self) {
        assert_eq!(clean(&self.0.counts), clean(&recount(&self.0)));
    }
}

#[test]
fn hostile_clients() {
    fuzz::slice::<World>(10_000);
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz store"]
fn campaign_store() {
    fuzz::campaign::<World>();
}

proptest! {
    /// The same from bytes, so that what fails shrinks.
    #[test]
    fn random_requests(bytes in prop::collection::vec(any::<u8>(), 1..700)) {
        fuzz::run::<World>(&bytes);
    }

    /// Two transactions that both commit have the effect of one after the other.
    #[test]
    fn commits_are_serial(first in prop::collection::vec((0usize..4, 0usize..5), 1..6), second in prop::collection::vec((0usize..4, 0usize..5), 1..6)) {
        let paths = ["data/a", "data/b", "data/a/c", "data/d/e", "data"];
        let run = |s: &mut Store, tx, steps: &[(usize, usize)], value: &str| -> Vec<Result<String, String>> {
            steps.iter().map(|(op, path)| match op {
                0 => ask_in(s, 1, tx, M::WRITE, &format!("{}\0{value}", paths[*path])),
                1 => ask_in(s, 1, tx, M::READ, &format!("{}\0", paths[*path])),
                2 => ask_in(s, 1, tx, M::RM, &format!("{}\0", paths[*path])),
                _ => ask_in(s, 1, tx, M::DIRECTORY, &format!("{}\0", paths[*path])),
            }).collect()
        };
        let dump = |s: &Store| { let mut all = Vec::new(); s.tree.each(&mut |path, node| all.push((path.clone(), node.value.clone()))); all };
        let fresh = || { let mut s = store(); write(&mut s, 1, "data/a", "0").unwrap(); s };
        let mut s = fresh();
        let open = |s: &mut Store| ask(s, 1, M::TRANSACTION_START, "\0").unwrap().parse::<u32>().unwrap();
        let (one, two) = (open(&mut s), open(&mut s));
        let seen = [run(&mut s, one, &first, "1"), run(&mut s, two, &second, "2")];
        ask_in(&mut s, 1, one, M::TRANSACTION_END, "T\0").unwrap();
        let committed = ask_in(&mut s, 1, two, M::TRANSACTION_END, "T\0").is_ok();
        let orders: &[[bool; 2]] = if committed { &[[false, true], [true, false]] } else { &[] };
        let serial = orders.iter().any(|order| {
            let mut t = fresh();
            let mut results = [Vec::new(), Vec::new()];
            for second_now in order {
                let (steps, value) = if *second_now { (&second, "2") } else { (&first, "1") };
                results[usize::from(*second_now)] = run(&mut t, 0, steps, value);
            }
            results == seen && dump(&t) == dump(&s)
        });
        prop_assert!(serial || !committed);
    }
}
