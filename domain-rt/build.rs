//! Hands the linker arguments of a domain image to the packages that have one.
//!
//! Such a package depends on this one and has this build script:
//! ```ignore
//! fn main() {
//!     let args = std::env::var("DEP_DOMAIN_RT_LINK_ARGS").unwrap_or_default();
//!     args.split_whitespace().for_each(|arg| println!("cargo:rustc-link-arg-bins={arg}"));
//! }
//! ```
fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo:rerun-if-changed={dir}/image.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:link_args=-T{dir}/image.ld -no-pie --build-id=none -znoexecstack -zmax-page-size=4096");
    }
}
