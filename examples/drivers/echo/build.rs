//! Links driver and guest as domain images.
fn main() {
    let args = std::env::var("DEP_DOMAIN_RT_LINK_ARGS").unwrap_or_default();
    args.split_whitespace().for_each(|arg| println!("cargo:rustc-link-arg-bins={arg}"));
}
