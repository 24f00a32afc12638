//! Nothing to do: a build script is what lets this package ask for the features of `cc` that the whole workspace has.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
