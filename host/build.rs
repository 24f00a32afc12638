//! Lists `targets/*.toml` into the program, so that adding a board means adding one file.

use std::fmt::Write;
use std::path::Path;

fn main() {
    // As cargo runs it: where this was compiled may be gone, in a target directory that checkouts share.
    let host = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the package's directory");
    let dir = Path::new(&host).join("targets");
    println!("cargo:rerun-if-changed={}", dir.display());
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .expect("targets leads to the folder of the repository")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    let mut list = String::from("&[\n");
    for file in files {
        println!("cargo:rerun-if-changed={}", file.display());
        let path = file.canonicalize().expect("a listed file exists");
        let name = path
            .file_name()
            .expect("a file has a name")
            .to_string_lossy()
            .into_owned();
        writeln!(list, "({name:?}, include_str!({:?})),", path.display()).expect("writing to a String succeeds");
    }
    list.push(']');
    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(Path::new(&out).join("targets.rs"), list).expect("OUT_DIR is writable");
}
