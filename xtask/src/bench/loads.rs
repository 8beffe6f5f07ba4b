//! What `bench rings`, `net` and `blk` measure: who takes part, and the loads.

use std::fmt::Write;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Messages without payload, through the class `echo`.
    Rings,
    /// Packets from guest to guest.
    Net,
    /// Packets from a guest to the NIC.
    Nic,
    /// Requests to a RAM disk.
    Blk,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Rings, Kind::Net, Kind::Nic, Kind::Blk];
}

/// Who takes part, and the loads.
pub struct Setup {
    /// The driver domain: its manifest.
    driver: &'static str,
    /// Its name.
    pub backend: &'static str,
    /// What it counts its operations as.
    pub counts: &'static str,
    /// Guests that are there all the time: their manifests.
    always: &'static str,
    /// Those of them whose time counts.
    pub others: &'static [&'static str],
    /// The image of the guest that works.
    kernel: &'static str,
    /// What the machine has besides.
    pub hardware: &'static [&'static str],
    /// The loads.
    pub loads: Vec<Load>,
}

/// How a load runs, each time in a guest of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// With its operations.
    Once,
    /// With twice as many.
    Twice,
    /// With as many as take some tenths of a second.
    Wall,
}

impl Round {
    /// All of them.
    const ALL: [Round; 3] = [Round::Once, Round::Twice, Round::Wall];
}

/// One load.
pub struct Load {
    /// Its row.
    pub name: String,
    /// The guest's command line without the count.
    line: String,
    /// Its devices and vCPUs, as in a manifest.
    domain: String,
    /// Its memory in MiB.
    memory: u64,
    /// Its operations.
    pub count: u64,
    /// Those by wall time.
    wall: u64,
    /// Bytes that each of them moves.
    pub bytes: u64,
    /// Its latencies count, as a histogram; else its instructions.
    pub timed: bool,
    /// Whose instructions they are is told by image as well.
    pub split: bool,
    /// Left out of the short form.
    pub long: bool,
}

impl Load {
    fn new(name: String, line: String, domain: &str, count: u64) -> Load {
        let (domain, wall) = (domain.into(), 2 * count);
        Load { name, line, domain, memory: 8, count, wall, bytes: 0, timed: false, split: false, long: false }
    }

    /// How many operations it is.
    pub fn operations(&self, round: Round) -> u64 {
        match round {
            Round::Once => self.count,
            Round::Twice => 2 * self.count,
            Round::Wall => self.wall,
        }
    }

    /// Of so many bytes each.
    fn of(self, bytes: u64) -> Load {
        Load { bytes, ..self }
    }
}

const ECHOBACK: &str = "name = 'echoback'\nkernel = 'echoback'\nmemory = 8\nserves = ['echo']\n";
const NETBACK: &str = "name = 'netback'\nkernel = 'netback'\nmemory = 16\nserves = ['vif']\n";
const NETBACK_NIC: &str = "name = 'netback'\nkernel = 'netback'\nmemory = 32\nserves = ['vif']\npci = ['00:02.0']\n";
const BLKBACK: &str = "name = 'blkback'\nkernel = 'blkback'\nmemory = 48\nserves = ['vbd']\n";
const SINK: &str = "name = 'receiver'\nkernel = 'bench-rings'\nmemory = 8\ncmdline = 'large'\n\
                    vif = [{ mac = '00:16:3e:00:00:01' }]\n";
const VIF: &str = "vif = [{ mac = '00:16:3e:00:00:02' }]";
const DISK: &str = "disk = [{ target = 'ram:16M', vdev = 'xvda', mode = 'w' }]";
/// QEMU's user network; what is sent to it ends there. Packets are taken by a timer of the machine's, not when the host
/// comes to it.
const NIC: &[&str] = &[
    "-netdev",
    "user,id=net0,restrict=on",
    "-device",
    "virtio-net-pci,netdev=net0,addr=2,ioeventfd=off,tx=timer,x-txtimer=50000",
];

/// The setup of a kind.
pub fn setup(kind: Kind) -> Setup {
    match kind {
        Kind::Rings => Setup {
            driver: ECHOBACK,
            backend: "echoback",
            counts: "requests",
            always: "",
            others: &[],
            kernel: "echo",
            hardware: &[],
            loads: rings(),
        },
        Kind::Net => {
            let load = |bytes| {
                let line = format!("send=00:16:3e:00:00:01 bytes={bytes} count=");
                let split = bytes != 500;
                Load { split, ..Load::new(format!("net/guest_to_guest_{bytes}"), line, VIF, 8_000).of(bytes) }
            };
            // What Linux sends: 45 segments, with one header.
            let line = "send=00:16:3e:00:00:01 large bytes=65226 count=";
            let large = Load::new("net/guest_to_guest_gso_64k".into(), line.into(), VIF, 800).of(65_226);
            let line = "send=00:16:3e:00:00:01 ping bytes=64 count=";
            let ping = Load::new("net/round_trip_64".into(), line.into(), VIF, 1_600);
            let loads = [64, 500, 1500]
                .map(load)
                .into_iter()
                .chain([Load { split: true, ..large }, Load { timed: true, ..ping }]);
            Setup {
                driver: NETBACK,
                backend: "netback",
                counts: "packets",
                always: SINK,
                others: &["receiver"],
                kernel: "bench-rings",
                hardware: &[],
                loads: loads.collect(),
            }
        }
        Kind::Nic => {
            let load = |bytes| {
                let line = format!("send=52:55:0a:00:02:02 away bytes={bytes} count=");
                let load = Load::new(format!("net/guest_to_nic_{bytes}"), line, VIF, 8_000).of(bytes);
                Load { split: bytes == 1500, ..load }
            };
            Setup {
                driver: NETBACK_NIC,
                backend: "netback",
                counts: "packets",
                always: "",
                others: &[],
                kernel: "bench-rings",
                hardware: NIC,
                loads: [64, 500, 1500].map(load).into(),
            }
        }
        Kind::Blk => Setup {
            driver: BLKBACK,
            backend: "blkback",
            counts: "requests",
            always: "",
            others: &[],
            kernel: "bench-rings",
            hardware: &[],
            loads: blocks(),
        },
    }
}

/// Messages, so many in flight; by events and by polling, from guests of one vCPU and of two.
fn rings() -> Vec<Load> {
    let mut loads = Vec::new();
    for (vcpus, polling) in [(1, false), (1, true), (2, false), (2, true)] {
        for window in [1, 8, 32] {
            let mut name = format!("rings/echo_64_batch{window}");
            name += if vcpus > 1 { "_vcpus2" } else { "" };
            name += if polling { "_polling" } else { "" };
            let (word, params) = if polling { ("poll ", ", params = 'poll'") } else { ("", "") };
            let line = format!("{word}window={window} messages=");
            let domain = format!("vcpus = {vcpus}\ndevice = [{{ class = 'echo'{params} }}]");
            let long = window == 8 && name.len() > "rings/echo_64_batch8".len();
            // Where each message is waited for, a message takes long.
            let count = if window == 1 { 4_000 } else { 20_000 };
            loads.push(Load { long, ..Load::new(name, line, &domain, count) });
        }
    }
    loads
}

fn blocks() -> Vec<Load> {
    let mut loads = Vec::new();
    for (kib, depth) in [(4u64, 1), (4, 8), (4, 32), (128, 1), (128, 8), (128, 32)] {
        for way in ["read", "write"] {
            let line = format!("disk={way} kib={kib} depth={depth} count=");
            let split = way == "read" && depth != 8;
            let count = 8_000 / kib;
            // A buffer each, and its pages.
            let memory = 8 + 2 * kib * depth / 1024;
            let name = format!("blk/{way}_{kib}k_depth_{depth}");
            let wall = if kib == 4 { 400 * depth.max(8) } else { 600 };
            loads.push(Load { split, memory, wall, ..Load::new(name, line, DISK, count).of(kib << 10) });
        }
    }
    for depth in [1, 8, 32] {
        let line = format!("disk=read kib=4 depth={depth} latency count=");
        loads.push(Load { timed: true, ..Load::new(format!("blk/latency_4k_depth_{depth}"), line, DISK, 2_000) });
    }
    loads
}

impl Setup {
    /// The guest that runs a load.
    pub fn guest(load: usize, round: Round) -> String {
        format!("load{load}{}", ["a", "b", "w"][round as usize])
    }

    /// What dom0 is told.
    pub fn manifest(&self) -> String {
        let fixed = [self.driver, self.always].into_iter().filter(|domain| !domain.is_empty());
        let mut text: String = fixed.map(|domain| format!("[[domain]]\n{domain}")).collect();
        for (index, load) in self.loads.iter().enumerate() {
            for round in Round::ALL {
                let (name, count) = (Self::guest(index, round), load.operations(round));
                let (kernel, Load { line, domain, memory, .. }) = (self.kernel, load);
                let _ = write!(text, "[[domain]]\nname = '{name}'\nkernel = '{kernel}'\ncmdline = '{line}{count}'\n");
                let _ = write!(text, "memory = {memory}\nautostart = false\non_poweroff = 'preserve'\n{domain}\n");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dom0::manifest::parse;

    #[test]
    fn manifests_are_whole() {
        for kind in Kind::ALL {
            let setup = setup(kind);
            let parsed = parse(&setup.manifest()).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            assert_eq!(parsed.domains.len(), 1 + setup.others.len() + 3 * setup.loads.len(), "{kind:?}");
            assert!(parsed.domains.iter().any(|domain| domain.name == setup.backend));
        }
    }

    #[test]
    fn the_short_form_has_both_ways_and_both_numbers_of_vcpus() {
        let loads = setup(Kind::Rings).loads;
        let short: Vec<&str> = loads.iter().filter(|load| !load.long).map(|load| load.name.as_str()).collect();
        for name in ["_batch8", "_batch32", "_batch1_polling", "_batch32_vcpus2", "_batch32_vcpus2_polling"] {
            assert!(short.contains(&format!("rings/echo_64{name}").as_str()), "{name} in {short:?}");
        }
        assert!(short.len() < loads.len());
    }
}
