//! Tells the programs what their `--version` says: the commit and the machine they are built for.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // As cargo runs it: where this was compiled may be gone, in a target directory that checkouts share.
    let dir = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the package's directory");
    println!("cargo:rustc-env=THIMBLE_COMMIT={}", commit(Path::new(&dir)));
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
