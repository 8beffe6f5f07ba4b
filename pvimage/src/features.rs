//! The features a kernel supports or requires (xen/features.h), from the notes FEATURES and SUPPORTED_FEATURES.

use crate::error::{ImageError, Note};

/// Feature bits, numbered as in xen/features.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// What the kernel says it can use.
    pub supported: u64,
    /// What it says it cannot do without.
    pub required: u64,
}

/// Bit of `writable_page_tables`.
pub const WRITABLE_PAGE_TABLES: u8 = 0;
/// Bit of `dom0`: the kernel can be the initial domain.
pub const DOM0: u8 = 11;

/// Names as they stand in the FEATURES note; the index is the bit.
const NAMES: [&str; 18] = [
    "writable_page_tables",
    "writable_descriptor_tables",
    "auto_translated_physmap",
    "supervisor_mode_kernel",
    "pae_pgdir_above_4gb",
    "mmu_pt_update_preserve_ad",
    "highmem_assist",
    "gnttab_map_avail_bits",
    "hvm_callback_vector",
    "hvm_safe_pvclock",
    "hvm_pirqs",
    "dom0",
    "grant_map_identity",
    "memory_op_vnode_supported",
    "ARM_SMCCC_supported",
    "linux_rsdp_unrestricted",
    "not_direct_mapped",
    "direct_mapped",
];

impl Features {
    /// Whether the kernel supports feature `bit`.
    pub const fn supports(self, bit: u8) -> bool {
        self.supported & (1 << bit) != 0
    }

    /// Adds a FEATURES string: names separated by `|`, a `!` before those the kernel requires.
    pub(crate) fn add_names(&mut self, text: &[u8]) -> Result<(), ImageError> {
        for word in text.split(|byte| *byte == b'|').filter(|word| !word.is_empty()) {
            let (required, name) = match word {
                [b'!', name @ ..] => (true, name),
                name => (false, name),
            };
            if name.is_empty() {
                return Err(ImageError::BadNote(Note::Features));
            }
            // A feature newer than this table may be used, but nothing can be promised about it.
            let Some(bit) = (0u8..).zip(NAMES).find(|(_, known)| known.as_bytes() == name).map(|(bit, _)| bit) else {
                if required {
                    return Err(ImageError::UnknownFeature);
                }
                continue;
            };
            self.supported |= 1 << bit;
            self.required |= u64::from(required) << bit;
        }
        Ok(())
    }

    pub(crate) fn add_supported(&mut self, bits: u64) {
        self.supported |= bits;
    }

    /// A required feature that no builder can give a PV domain.
    ///
    /// `!writable_page_tables` binds only the builder, which hands over read-only tables either way; the kernels that
    /// say so (Linux) mean that they can do without it being announced.
    pub(crate) fn impossible(self) -> Option<u8> {
        const NEVER: u64 = 1 << 2 | 1 << 3; // auto_translated_physmap, supervisor_mode_kernel
        let bits = self.required & NEVER;
        (bits != 0).then(|| bits.trailing_zeros() as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Features, ImageError> {
        let mut features = Features::default();
        features.add_names(text.as_bytes()).map(|()| features)
    }

    #[test]
    fn linux_features() {
        let features = parse("!writable_page_tables|pae_pgdir_above_4gb").unwrap();
        assert_eq!(features, Features { supported: 0x11, required: 1 });
        assert_eq!(features.impossible(), None);
    }

    #[test]
    fn unknown_is_harmless_until_required() {
        assert_eq!(parse("pae_pgdir_above_4gb||newer"), Ok(Features { supported: 0x10, required: 0 }));
        assert_eq!(parse("!newer"), Err(ImageError::UnknownFeature));
        assert_eq!(parse("a|!"), Err(ImageError::BadNote(Note::Features)));
    }

    #[test]
    fn impossible_features_are_named() {
        assert_eq!(parse("!supervisor_mode_kernel").unwrap().impossible(), Some(3));
        assert_eq!(parse("auto_translated_physmap").unwrap().impossible(), None);
    }
}
