//! Lists `targets/*.toml` into the program, so that adding a board means adding one file, and tells it what `--version` says: the
//! commit and the machine it is built for.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

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
    println!("cargo:rustc-env=THIMBLE_COMMIT={}", commit(Path::new(&host)));
    let triple = std::env::var("TARGET").expect("cargo names the target");
    println!("cargo:rustc-env=THIMBLE_TRIPLE={triple}");
}

/// The commit that is built: as `THIMBLE_COMMIT` says, or git. Only of a release: a program that is built after every change must not
/// be built again after every commit.
fn commit(dir: &Path) -> String {
    println!("cargo:rerun-if-env-changed=THIMBLE_COMMIT");
    if let Ok(named) = std::env::var("THIMBLE_COMMIT")
        && named.chars().all(|c| c.is_ascii_graphic())
        && !named.is_empty()
    {
        return named;
    }
    if std::env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return "not told by a development build".into();
    }
    let git = |arguments: &[&str]| -> Option<String> {
        let done = Command::new("git").arg("-C").arg(dir).args(arguments).output().ok()?;
        let text = String::from_utf8(done.stdout).ok()?;
        done.status.success().then(|| text.trim().to_string())
    };
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--path-format=absolute", "--git-path", name]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into())
}
