//! Tells the linker where `memory.x` is.

fn main() {
    println!("cargo:rerun-if-changed=memory.x");
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    println!("cargo:rustc-link-search={directory}");
    println!("cargo:rustc-link-arg=-Tlink.x");
}
