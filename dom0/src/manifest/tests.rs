//! Manifests good and bad.

use alloc::vec::Vec;

use alloc::string::ToString;
use fuzz::{Choices, Tally, Target};
use proptest::prelude::*;

use super::*;

const TWO: &str = r#"
[[domain]]
name = "netback"
kernel = "netback.elf"
memory = 16
pci = ["00:02.0"]
serves = ["vif"]

[[domain]]
name = "web"
kernel = "web.elf"
ramdisk = "web.img"
cmdline = "port=80"
memory = 64
vcpus = 2
vif = [{ mac = "00:16:3e:00:00:01" }, { bridge = "br1", backend = "other" }]
disk = [{ target = "disk0:web", vdev = "xvda", mode = "r" }, { target = "ram:256M", vdev = "xvdb" }]
device = [{ class = "echo", params = "upper" }]
on_crash = "preserve"
autostart = false
"#;

#[test]
fn the_machine_below() {
    let manifest = parse(&format!(
        "[machine]\nmemory = 1024\ndisks = ['d.img', 'e.img']\nforward = ['2222:22', '81:10.0.2.16:80']\n{TWO}"
    ));
    let machine = manifest.unwrap().machine;
    assert_eq!((machine.memory, machine.disks.len()), (Some(1024), 2));
    let second = Forward { host: 81, guest: Some("10.0.2.16".parse().unwrap()), port: 80 };
    assert_eq!(machine.forward, [Forward { host: 2222, guest: None, port: 22 }, second]);
    for wrong in
        ["memory = 'a'", "disc = ['x']", "disks = 'x'", "forward = ['22']", "forward = ['0:22']", "forward = ['1:a:2']"]
    {
        let error = parse(&format!("[machine]\n{wrong}\n{TWO}")).unwrap_err();
        assert_eq!((error.mistakes.len(), error.mistakes[0].line), (1, 2), "{wrong}: {error}");
    }
    assert!(parse(&format!("machine = 1\n{TWO}")).is_err());
}

#[test]
fn a_manifest_with_everything() {
    let domains = parse(TWO).unwrap().domains;
    let [netback, web] = &domains[..] else { panic!("two domains") };
    assert_eq!((netback.name.as_str(), netback.memory, netback.vcpus), ("netback", 16, 1));
    assert_eq!(netback.pci, [PciFunction::parse("00:02.0").unwrap()]);
    assert_eq!((&netback.serves[..], netback.on_crash), (&[Class::VIF][..], Action::Restart));
    assert_eq!((web.memory, web.vcpus, web.autostart), (64, 2, false));
    assert_eq!(web.vifs[0].mac.to_string(), "00:16:3e:00:00:01");
    assert_eq!((web.vifs[1].bridge.as_str(), web.vifs[1].backend.as_deref()), ("br1", Some("other")));
    assert_eq!(
        web.disks.iter().map(|disk| (disk.vdev.handle(), disk.mode)).collect::<Vec<_>>(),
        [(51712, "r"), (51728, "w")]
    );
    assert_eq!(web.others, [Other { class: Class::new("echo"), params: "upper".into(), backend: None }]);
    assert_eq!((web.on_poweroff, web.on_reboot, web.on_crash), (Action::Destroy, Action::Restart, Action::Preserve));
}

#[test]
fn what_devices_offer() {
    let source = "name='a'\nkernel='k'\n\
        vif=[{features={gso=false,split_events=true,queues=2}},{}]\n\
        disk=[{target='d',vdev='xvda',features={persistent=true,queues=8}}]\n";
    let domain = parse(source).unwrap().domains.remove(0);
    assert_eq!(domain.vifs[0].features, [("gso", 0), ("split_events", 1), ("queues", 2)]);
    assert_eq!(
        (&domain.vifs[1].features[..], &domain.disks[0].features[..]),
        (&[][..], &[("persistent", 1), ("queues", 8)][..])
    );
    for (wrong, message) in [
        ("vif=[{features={gs0=false}}]", "no key `gs0` here; did you mean `gso`?"),
        (
            "vif=[{features={persistent=false}}]",
            "no key `persistent` here; valid: sg, gso, checksum, split_events, multicast, queues",
        ),
        ("vif=[{features={gso=0}}]", "`gso` must be true or false, not a value of type integer"),
        ("vif=[{features={queues=9}}]", "`queues` must be from 1 to 8"),
        ("vif=[{features='gso'}]", "`features` must be a table, not a value of type string"),
        (
            "disk=[{target='d',vdev='xvda',features={persistant=true}}]",
            "no key `persistant` here; did you mean `persistent`?",
        ),
    ] {
        let error = parse(&format!("name='a'\nkernel='k'\n{wrong}\n")).unwrap_err();
        assert_eq!((error.mistakes.len(), error.mistakes[0].message.as_str()), (1, message));
    }
}

#[test]
fn one_domain_at_the_top() {
    let manifest = parse("name = \"a\"\nkernel = \"k\"\n[[vif]]\nmac = \"00:16:3e:00:00:02\"\n").unwrap();
    assert_eq!((manifest.domains.len(), manifest.domains[0].vifs.len()), (1, 1));
}

#[test]
fn a_manifest_full_of_mistakes() {
    let source = r#"[[domain]]
name = "we b"
kernal = "web.elf"
memory = 2
vcpus = "two"
vif = [{ mac = "01:00:00:00:00:01", brige = "x" }]
disk = [{ target = "ram:", vdev = "hda" }, { vdev = "xvda" }, 7]
pci = ["2.0"]
device = [{ class = "vif" }, { params = "x" }]
serves = ["net", "Net"]
on_crash = "restrat"
autostart = 1
"#;
    let error = parse(source).unwrap_err();
    let seen: Vec<(usize, &str)> =
        error.mistakes.iter().map(|mistake| (mistake.line, mistake.message.as_str())).collect();
    let expected = [
        (1, "`kernel` is missing"),
        (2, "`we b` is no name: letters, digits, `-` and `_`, at most 64, not `dom0`"),
        (3, "no key `kernal` here; did you mean `kernel`?"),
        (4, "`memory` must be from 4 to 1048576"),
        (5, "`vcpus` must be a number, not a value of type string"),
        (6, "`mac` must be an address like 00:16:3e:00:00:01"),
        (6, "no key `brige` here; did you mean `bridge`?"),
        (7, "`target` must be `ram:SIZE` (K, M or G), a disk, or `DISK:PARTITION`"),
        (7, "`vdev` must be xvda to xvdp, or one with a partition's number"),
        (7, "`target` is missing"),
        (7, "`disk` must be an array of tables, not a value of type integer"),
        (8, "`2.0` is no PCI function, as in 00:02.0"),
        (9, "`class` must be a class without a key of its own, as in echo"),
        (9, "`class` is missing"),
        (10, "`Net` is no device class: vif, vbd, or a driver's own, as in echo"),
        (11, "`restrat` is no value for `on_crash`; did you mean `restart`?"),
        (12, "`autostart` must be true or false, not a value of type integer"),
    ];
    assert_eq!(seen, expected);
    let shown = error.to_string();
    assert!(shown.contains(
        "line 3, column 1: no key `kernal` here; did you mean `kernel`?\n  3 | kernal = \"web.elf\"\n    | ^^^^^^\n"
    ));
}

#[test]
fn a_class_that_is_almost_served() {
    let driver = |serves: &str| format!("[[domain]]\nname='d'\nkernel='k'\nserves=['{serves}']\n");
    for (serves, device, complaint) in [
        ("zebra", "device=[{class='zebra'}]", None),
        ("zebra", "device=[{class='usb'}]", None),
        ("zebar", "device=[{class='zebra'}]", Some("no domain here serves `zebra`, but one serves `zebar`")),
        ("vfi", "vif=[{backend='netback'}]", None),
        ("vfi", "vif=[{}]", Some("no domain here serves `vif`, but one serves `vfi`")),
        ("vdb", "disk=[{target='d',vdev='xvda'}]", Some("no domain here serves `vbd`, but one serves `vdb`")),
        ("vbd", "vif=[{}]", None),
    ] {
        let parsed = parse(&format!("{}[[domain]]\nname='a'\nkernel='k'\n{device}\n", driver(serves)));
        let seen =
            parsed.err().map(|error| (error.mistakes.len(), error.mistakes[0].line, error.mistakes[0].message.clone()));
        assert_eq!(seen, complaint.map(|text| (1, 6, text.to_string())), "{serves} {device}");
    }
}

#[test]
fn syntax_errors_have_a_place() {
    let error = parse("name = \"a\"\nkernel = \nmemory = 4\n").unwrap_err();
    assert_eq!(error.mistakes[0].line, 2);
    let error = parse("name = \"a\"\nname = \"b\"\n").unwrap_err();
    assert_eq!(error.mistakes[0].line, 2);
    assert!(error.to_string().contains("name = \"b\""));
}

#[test]
fn names_and_disks_are_unique() {
    let twice = "[[domain]]\nname='a'\nkernel='k'\n[[domain]]\nname='a'\nkernel='k'\n";
    assert_eq!(parse(twice).unwrap_err().mistakes[0].message, "a second domain `a`");
    let disks = "name='a'\nkernel='k'\ndisk=[{target='d',vdev='xvda'},{target='e',vdev='xvda'}]\n";
    assert_eq!(parse(disks).unwrap_err().mistakes[0].message, "a second disk `xvda`");
    for name in ["", "dom0", "7", "a/b", "Domain-0"] {
        let source = format!("name='{name}'\nkernel='k'\n");
        assert_eq!(parse(&source).unwrap_err().mistakes.len(), 1, "{name}");
    }
}

#[test]
fn targets() {
    for good in ["ram:256M", "ram:1G", "ram:4096", "disk0", "disk0:3", "disk0:EFI-system"] {
        assert!(is_target(good), "{good}");
    }
    for bad in ["", "ram:", "ram:0", "ram:MM", "ram:1MM", ":3", "disk0:", "disk 0", "ram"] {
        assert!(!is_target(bad), "{bad}");
    }
}

proptest! {
    #[test]
    fn anything_is_read_or_refused_with_a_place(text in any::<String>(), cut in any::<prop::sample::Index>(), byte in any::<char>()) {
        let check = |source: &str| if let Err(error) = parse(source) {
            assert!(!error.mistakes.is_empty() && !error.to_string().is_empty());
            assert!(error.mistakes.iter().all(|mistake| mistake.line <= source.matches('\n').count() + 1));
        };
        check(&text);
        let mut broken = String::from(TWO);
        let at = cut.index(broken.len());
        broken.replace_range(at..at + 1, &byte.to_string());
        check(&broken);
        broken.truncate(broken.char_indices().map(|(at, _)| at).take_while(|other| *other <= at).last().unwrap_or(0));
        check(&broken);
    }
}

/// A manifest with pieces of it changed, cut, doubled or put elsewhere.
struct Mutated;

impl Target for Mutated {
    const NAME: &'static str = "manifest";
    const EPISODE: u64 = 1000;
    const SUCCEED: u64 = 1;
    const REACHED: &'static [(&'static str, &'static str)] = &[("parse", "ok"), ("parse", "refused")];

    fn new(_: &mut Choices<'_>) -> Self {
        Self
    }

    fn step(&mut self, c: &mut Choices<'_>, tally: &mut Tally) {
        const PIECES: [&str; 14] = [
            "=",
            "\"",
            "[",
            "]",
            "[[domain]]",
            "{",
            "}",
            "\n",
            "memory = 64",
            "-1",
            "99999999999999999999",
            "true",
            "\u{0}",
            "vif = [{}]",
        ];
        let mut text = String::from(TWO);
        for _ in 0..1 + c.below(4) {
            let (from, to) = (c.below(text.len() + 1), c.below(text.len() + 1));
            let (from, to) =
                (text.floor_char_boundary(from.min(to)), text.floor_char_boundary(from.max(to).min(from.min(to) + 40)));
            match c.below(4) {
                0 => text.replace_range(from..to, ""),
                1 => text.insert_str(from, PIECES[c.below(PIECES.len())]),
                2 => {
                    let piece = text[from..to].to_string();
                    let at = text.floor_char_boundary(c.below(text.len() + 1));
                    text.insert_str(at, &piece);
                }
                _ => text.insert(from, char::from(c.byte())),
            }
        }
        let parsed = parse(&text);
        if let Err(error) = &parsed {
            assert!(!error.mistakes.is_empty() && !error.to_string().is_empty());
            assert!(error.mistakes.iter().all(|mistake| mistake.line <= text.matches('\n').count() + 1));
        }
        tally.note("parse", if parsed.is_ok() { Tally::OK } else { "refused" });
    }
}

#[test]
fn mutated_manifests() {
    fuzz::slice::<Mutated>(1_000);
}

#[test]
#[ignore = "a campaign: cargo xtask fuzz manifest"]
fn campaign_manifest() {
    fuzz::campaign::<Mutated>();
}
