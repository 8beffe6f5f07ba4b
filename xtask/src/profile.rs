//! `cargo xtask profile ROW`: where the instructions of one operation go, by image, function and source line.
//!
//! A plugin of QEMU counts every block of code that runs while a row of `bench core` is measured, or, for a load of the
//! other benches, in a run with N operations and in one with 2N, whose difference by N is one operation. The loads of `bench
//! linux` mark their rows as those of `bench core` do.

use crate::bench::{core, devices, linux};
use crate::build::{CORE, Part, build, built};
use crate::counts::{self, Block, Blocks};
use crate::elf32::Image;
use crate::metadata::Metadata;
use crate::place::Place;
use crate::process::stdout_of;
use crate::toolchain::Route;
use crate::unable;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Times that a row of `bench core` is measured.
const TIMES: f64 = 101.0;

/// What to profile.
#[derive(clap::Args)]
pub struct Options {
    /// A row: core/grant_copy_64, net/guest_to_guest_1500, blk/read_4k_depth_32, linux/fork_exec
    row: String,
    /// How many functions, and how many lines
    #[arg(long, default_value_t = 25)]
    lines: usize,
    /// The row of bench core or bench linux on Debian's Xen, which has no symbols
    #[arg(long)]
    xen: bool,
}

/// One executable, as it runs.
struct Code {
    name: String,
    path: PathBuf,
    image: Image,
}

/// Instructions by image and address.
type Counted = BTreeMap<(usize, u64), f64>;

/// What runs that is no image of ours.
const OTHERS: [&str; 3] = ["Xen", "Linux, kernels", "elsewhere"];

/// Which of [`OTHERS`] has code at an address (public/arch-x86/xen-x86_64.h; Documentation/x86/x86_64/mm.rst).
fn other(va: u64) -> usize {
    match va {
        0xffff_8000_0000_0000..0xffff_8800_0000_0000 => 0,
        0xffff_ffff_8100_0000.. => 1,
        _ => 2,
    }
}

/// Where modules of Linux are loaded from on (Documentation/x86/x86_64/mm.rst).
const MODULES: u64 = 0xffff_ffff_c000_0000;

/// Runs it and prints what it found.
pub fn command(place: &Place, options: &Options) -> Result<()> {
    build(place, &Part::ALL)?;
    let (blocks, by) = match options.row.split('/').next() {
        Some("core") => (of_core(place, &options.row, options.xen)?, TIMES),
        Some("linux") => of_linux(place, &options.row, options.xen)?,
        _ => of_load(place, &options.row)?,
    };
    let codes = codes(place, options.xen)?;
    let counted = count(&codes, &blocks, by);
    let total: f64 = counted.values().sum();
    println!("{}: {total:.0} instructions", options.row);
    let mut images: BTreeMap<usize, f64> = BTreeMap::new();
    counted.iter().for_each(|((image, _), count)| *images.entry(*image).or_default() += count);
    let name = |image: usize| codes.get(image).map_or_else(|| OTHERS[image - codes.len()], |code| code.name.as_str());
    print("by image", &images.iter().map(|(image, count)| (name(*image).to_string(), *count)).collect(), total, 10);
    let (mut functions, lines) = resolve(place, &codes, &counted)?;
    if options.row.starts_with("linux/") {
        functions.extend(of_kernel(&linux::symbols(place)?, &counted, codes.len() + 1));
    }
    print("by function (what is inlined counts as its caller's)", &functions, total, options.lines);
    if !options.xen {
        print("by line of ours, and where it is inlined", &lines, total, options.lines);
    }
    Ok(())
}

/// Instructions by function of the kernel, which is image `index`.
fn of_kernel(symbols: &BTreeMap<u64, String>, counted: &Counted, index: usize) -> BTreeMap<String, f64> {
    let mut functions = BTreeMap::new();
    for ((_, va), count) in counted.range((index, 0)..=(index, u64::MAX)) {
        let known = symbols.range(..=va).next_back().filter(|_| *va < MODULES);
        let name = known.map_or("modules (blkfront, netfront)", |(_, name)| name);
        *functions.entry(format!("Linux  {name}")).or_default() += count;
    }
    functions
}

/// Instructions of one operation of a load, by the image whose they are.
pub fn by_image(place: &Place, load: &str) -> Result<BTreeMap<String, f64>> {
    let (blocks, by) = of_load(place, load)?;
    let codes = codes(place, false)?;
    let mut images = BTreeMap::new();
    for ((image, _), count) in count(&codes, &blocks, by) {
        let name = codes.get(image).map_or("elsewhere", |code| code.name.as_str());
        *images.entry(name.to_string()).or_default() += count;
    }
    images.retain(|_, count| *count >= 0.5);
    Ok(images)
}

fn print(title: &str, counts: &BTreeMap<String, f64>, total: f64, most: usize) {
    println!("\n{title}");
    let mut rows: Vec<_> = counts.iter().filter(|(_, count)| **count >= 0.5).collect();
    rows.sort_by(|a, b| b.1.total_cmp(a.1));
    for (name, count) in rows.into_iter().take(most) {
        println!("{count:10.1} {:5.1} %  {name}", 100.0 * count / total.max(1.0));
    }
}

/// What ran while a row of `bench core` was measured.
fn of_core(place: &Place, row: &str, xen: bool) -> Result<Vec<(Block, f64)>> {
    let (kernel, side) = match xen {
        true => (crate::xen::image(place, place.no_install)?, "xen"),
        false => (built(place, Part::Core, "").context("the core did not build")?, "ferrule"),
    };
    let rows = core::run(place, &kernel, side, core::EVEN, Blocks::None)?;
    let Some(found) = rows.iter().find(|found| found.name == row) else {
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let others = [devices::loads(), linux::loads()].concat();
        unable!("no row is called {row}; there are: {} and {}", names.join(", "), others.join(", "));
    };
    core::run(place, &kernel, side, core::EVEN, Blocks::Row(found.number))?;
    let text = std::fs::read_to_string(place.logs("bench")?.join(format!("core-{side}.counts")))?;
    Ok(counts::blocks(&text).into_iter().map(|block| (block, 1.0)).collect())
}

/// What ran in a row of `bench linux`, and how many operations it made.
fn of_linux(place: &Place, row: &str, xen: bool) -> Result<(Vec<(Block, f64)>, f64)> {
    let Some((blocks, count)) = linux::trace(place, row, xen)? else {
        unable!("no load is called {row}; there are: {}", linux::loads().join(", "));
    };
    Ok((blocks.into_iter().map(|block| (block, 1.0)).collect(), count))
}

/// What ran in a load with 2N operations, less what ran in one with N; and N.
fn of_load(place: &Place, row: &str) -> Result<(Vec<(Block, f64)>, f64)> {
    let plugin = counts::plugin(place)?;
    let dir = place.logs("bench")?;
    let files = ["profile-once.counts", "profile-twice.counts"].map(|name| dir.join(name));
    let [once, twice] = files.each_ref().map(|file| counts::args(&plugin, file, Blocks::All));
    let Some(count) = devices::trace(place, row, [&once, &twice])? else {
        unable!("no load is called {row}; there are: core/..., linux/... and {}", devices::loads().join(", "));
    };
    let mut blocks = Vec::new();
    for (file, sign) in files.iter().zip([-1.0, 1.0]) {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        blocks.extend(counts::blocks(&text).into_iter().map(|block| (block, sign)));
    }
    Ok((blocks, count as f64))
}

/// The executables that may run, with symbols and lines.
fn codes(place: &Place, xen: bool) -> Result<Vec<Code>> {
    if xen {
        return Ok(Vec::new());
    }
    let route = Route::ready().context("no compiler for the images")?;
    let metadata = Metadata::read(place)?;
    let mut names = BTreeSet::from([CORE]);
    let runs = |package: &&crate::metadata::Package| package.dependencies.iter().any(|d| d.name == "domain-rt");
    names.extend(metadata.packages.iter().filter(runs).flat_map(|package| package.bins()));
    let paths = names.into_iter().map(|name| (name, route.artefact(place, name))).filter(|(_, path)| path.is_file());
    let code = |(name, path): (&str, PathBuf)| {
        let image = Image::parse(&std::fs::read(&path)?)?;
        Ok(Code { name: name.into(), path, image })
    };
    paths.map(code).collect()
}

impl Code {
    /// Whether these bytes are what it has at this address.
    fn holds(&self, va: u64, bytes: &[u8]) -> bool {
        self.image.segments.iter().any(|segment| {
            let at = va.checked_sub(segment.vaddr).and_then(|at| usize::try_from(at).ok());
            at.and_then(|at| segment.bytes.get(at..)).is_some_and(|code| code.starts_with(bytes))
        })
    }
}

/// Instructions by image and address, of one operation.
fn count(codes: &[Code], blocks: &[(Block, f64)], by: f64) -> Counted {
    let mut counted = Counted::new();
    for (block, sign) in blocks {
        let len = block.sizes.iter().map(|size| usize::from(*size)).sum::<usize>().min(block.bytes.len());
        let bytes = block.bytes.get(..len).unwrap_or_default();
        let image = codes.iter().position(|code| code.holds(block.va, bytes));
        let image = image.unwrap_or_else(|| codes.len() + other(block.va));
        let mut va = block.va;
        for size in &block.sizes {
            *counted.entry((image, va)).or_default() += sign * block.count as f64 / by;
            va += u64::from(*size);
        }
    }
    counted
}

/// Instructions by function and by line.
fn resolve(place: &Place, codes: &[Code], counted: &Counted) -> Result<(BTreeMap<String, f64>, BTreeMap<String, f64>)> {
    let (mut functions, mut lines) = (BTreeMap::new(), BTreeMap::new());
    for (index, code) in codes.iter().enumerate() {
        let here = counted.range((index, 0)..=(index, u64::MAX)).filter(|(_, count)| count.abs() >= 0.01);
        let here: Vec<(u64, f64)> = here.map(|((_, va), count)| (*va, *count)).collect();
        if here.is_empty() {
            continue;
        }
        for ((_, count), frames) in here.iter().zip(frames(&code.path, here.iter().map(|(va, _)| *va))?) {
            let function = frames.last().map_or("?", |(function, _)| function.as_str());
            *functions.entry(format!("{}  {function}", code.name)).or_default() += count;
            *lines.entry(format!("{}  {}", code.name, shown(place, &frames))).or_default() += count;
        }
    }
    Ok((functions, lines))
}

/// The innermost line of ours, and what it is inlined into, two levels of it.
fn shown(place: &Place, frames: &[(String, String)]) -> String {
    let root = place.root.display().to_string();
    let ours = frames.iter().filter_map(|(_, line)| line.strip_prefix(&root)).map(|line| line.trim_start_matches('/'));
    let ours: Vec<&str> = ours.take(3).collect();
    match ours.is_empty() {
        true => frames.first().map_or("?".into(), |(function, _)| function.clone()),
        false => ours.join("  <- "),
    }
}

/// The frames of each address, innermost first: function, and file with line.
fn frames(path: &Path, addresses: impl Iterator<Item = u64>) -> Result<Vec<Vec<(String, String)>>> {
    let list: String = addresses.map(|va| format!("{va:#x}\n")).collect();
    // As a file of options: there are too many for a command line.
    let input = path.with_extension("addresses");
    std::fs::write(&input, list)?;
    let mut addr2line = Command::new("addr2line");
    addr2line.args(["-a", "-i", "-f", "-C", "-e"]).arg(path).arg(format!("@{}", input.display()));
    let text = stdout_of(&mut addr2line)?;
    let _ = std::fs::remove_file(input);
    Ok(parse(&text))
}

/// addr2line's output: an address, then function and line in turn.
fn parse(text: &str) -> Vec<Vec<(String, String)>> {
    let mut all: Vec<Vec<(String, String)>> = Vec::new();
    let mut function = None;
    for line in text.lines() {
        match (function.take(), all.last_mut()) {
            (None, _) if line.starts_with("0x") => all.push(Vec::new()),
            (None, _) => function = Some(line.to_string()),
            (Some(function), Some(frames)) => frames.push((function, line.to_string())),
            (Some(_), None) => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf32::Segment;

    fn code(name: &str, bytes: &[u8]) -> Code {
        let bytes = bytes.to_vec();
        let segment = Segment { vaddr: 0x1000, paddr: 0, mem_size: 0x1000, flags: 5, bytes };
        Code { name: name.into(), path: PathBuf::new(), image: Image { entry: 0, segments: vec![segment] } }
    }

    #[test]
    fn a_block_belongs_to_the_image_with_its_bytes() {
        let codes = [code("a", &[1, 2, 3, 4]), code("b", &[1, 2, 3, 5])];
        let block = |va, bytes: &[u8]| Block { va, count: 10, sizes: vec![1, 3], bytes: bytes.to_vec() };
        let blocks = [(block(0x1000, &[1, 2, 3, 5]), 1.0), (block(0x1000, &[9, 9, 9, 9]), 1.0)];
        let counted: Vec<_> = count(&codes, &blocks, 5.0).into_iter().collect();
        assert_eq!(counted, [((1, 0x1000), 2.0), ((1, 0x1001), 2.0), ((4, 0x1000), 2.0), ((4, 0x1001), 2.0)]);
    }

    #[test]
    fn what_ran_in_both_runs_is_no_part_of_the_operation() {
        let codes = [code("a", &[1, 2])];
        let block = |count| Block { va: 0x1000, count, sizes: vec![1], bytes: vec![1, 2] };
        let counted = count(&codes, &[(block(30), -1.0), (block(50), 1.0)], 10.0);
        assert_eq!(counted[&(0, 0x1000)], 2.0);
    }

    #[test]
    fn code_of_linux_belongs_to_the_function_before_it_and_to_no_function_in_a_module() {
        let symbols =
            BTreeMap::from([(0xffff_ffff_8100_0000, "first".into()), (0xffff_ffff_8100_0010, "second".into())]);
        let at = |va: u64| ((1, va), 3.0);
        let counted =
            Counted::from([at(0xffff_ffff_8100_0004), at(0xffff_ffff_8100_0014), at(MODULES + 4), ((0, MODULES), 9.0)]);
        let functions: Vec<_> = of_kernel(&symbols, &counted, 1).into_iter().collect();
        let named = |name: &str| (format!("Linux  {name}"), 3.0);
        assert_eq!(functions, [named("first"), named("modules (blkfront, netfront)"), named("second")]);
    }

    #[test]
    fn frames_are_read_innermost_first() {
        let frames = parse("0x1\nf\n/a.rs:1\ng\n/b.rs:2\n0x2\nh\n??:0\n");
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0], [("f".to_string(), "/a.rs:1".to_string()), ("g".to_string(), "/b.rs:2".to_string())]);
    }
}
