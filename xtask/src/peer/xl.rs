//! A manifest as xl reads it: a file a domain, and an archive with all of them and their images for the dom0's initramfs.

use crate::cpio::Archive;
use crate::unable;
use anyhow::{Context, Result};
use dom0::manifest::{Action, Disk, Domain, Manifest};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One domain, in the terms of xl.cfg(5).
pub fn config(domain: &Domain) -> String {
    let action = |action| match action {
        Action::Destroy => "destroy",
        Action::Restart => "restart",
        Action::Preserve => "preserve",
    };
    let quoted = |items: Vec<String>| items.iter().map(|item| format!("'{item}'")).collect::<Vec<_>>().join(", ");
    let vifs = domain.vifs.iter().map(|vif| format!("mac={},bridge={}", vif.mac, vif.bridge)).collect();
    let mode = |disk: &Disk| if disk.mode == "r" { "r" } else { "w" };
    let disks =
        domain.disks.iter().map(|disk| format!("phy:/dev/by-name/{},{},{}", disk.target, disk.vdev, mode(disk)));
    let ramdisk = domain.ramdisk.iter().map(|name| format!("ramdisk = '/images/{name}'\n")).collect::<String>();
    format!(
        "type = 'pv'\nname = '{}'\nkernel = '/images/{}'\n{ramdisk}cmdline = '{}'\nmemory = {}\nvcpus = {}\n\
         vif = [{}]\ndisk = [{}]\non_poweroff = '{}'\non_reboot = '{}'\non_crash = '{}'\n",
        domain.name,
        domain.kernel,
        domain.cmdline,
        domain.memory,
        domain.vcpus,
        quoted(vifs),
        quoted(disks.collect()),
        action(domain.on_poweroff),
        action(domain.on_reboot),
        action(domain.on_crash),
    )
}

/// The RAM disks that domains name, each once: parameters of Linux's module, then the names, a line each.
fn ram_disks(manifest: &Manifest) -> Result<String> {
    let targets = manifest.domains.iter().flat_map(|domain| &domain.disks).map(|disk| disk.target.as_str());
    let sizes: BTreeMap<&str, u64> = targets.filter_map(|target| Some((target, kib(target)?))).collect();
    let Some(size) = sizes.values().next() else { return Ok(String::new()) };
    if sizes.len() > 1 {
        unable!("the peer's RAM disks are all of one size: {:?}", sizes.keys());
    }
    let names: String = sizes.keys().map(|name| format!("{name}\n")).collect();
    Ok(format!("rd_nr={} rd_size={size}\n{names}", sizes.len()))
}

/// The size of `ram:SIZE`.
pub fn kib(target: &str) -> Option<u64> {
    let size = target.strip_prefix("ram:")?;
    let (number, unit) = size.split_at_checked(size.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "K" => Some(number),
        "M" => number.checked_mul(1 << 10),
        "G" => number.checked_mul(1 << 20),
        _ => None,
    }
}

/// All that the dom0 needs to know of a manifest, and the images by their names.
pub fn archive(manifest: &Manifest, images: &[(String, PathBuf)]) -> Result<Vec<u8>> {
    let folders = ["etc", "etc/xen", "images"].into_iter().fold(Archive::default(), Archive::folder);
    // dom0's memory is what Xen's command line gave it.
    let folders = folders.file("etc/xen/xl.conf", 0o644, b"autoballoon=\"off\"\n");
    let mut archive = folders.file("etc/ram", 0o644, ram_disks(manifest)?.as_bytes());
    for domain in &manifest.domains {
        archive = archive.file(&format!("etc/xen/{}.cfg", domain.name), 0o644, config(domain).as_bytes());
    }
    for (name, path) in images {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        archive = archive.file(&format!("images/{name}"), 0o644, &bytes);
    }
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dom0::manifest::parse;

    fn manifest(more: &str) -> Manifest {
        parse(&format!("name = 'linux'\nkernel = 'k'\nramdisk = 'r'\ncmdline = 'quiet'\nvcpus = 2\n{more}")).unwrap()
    }

    #[test]
    fn a_domain_is_told_in_xl_s_terms() {
        let manifest = manifest(
            "vif = [{ mac = '00:16:3e:00:00:01' }]\ndisk = [{ target = 'vda:client', vdev = 'xvda', mode = 'w!' }]",
        );
        let text = config(&manifest.domains[0]);
        for line in [
            "kernel = '/images/k'",
            "ramdisk = '/images/r'",
            "cmdline = 'quiet'",
            "memory = 32",
            "vcpus = 2",
            "vif = ['mac=00:16:3e:00:00:01,bridge=xenbr0']",
            "disk = ['phy:/dev/by-name/vda:client,xvda,w']",
            "on_reboot = 'restart'",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn ram_disks_are_of_one_size() {
        let one = "{ target = 'ram:16M', vdev = 'xvda', mode = 'w' }";
        assert_eq!(ram_disks(&manifest(&format!("disk = [{one}]"))).unwrap(), "rd_nr=1 rd_size=16384\nram:16M\n");
        assert_eq!(ram_disks(&manifest("")).unwrap(), "");
        let two = "{ target = 'ram:8M', vdev = 'xvdb', mode = 'w' }";
        assert!(ram_disks(&manifest(&format!("disk = [{one}, {two}]"))).is_err());
    }
}
