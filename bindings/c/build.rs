//! Gives the shared library its name for the loader: programs ask for the interface they were linked with.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libthimble.so.0");
}
