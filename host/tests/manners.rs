//! How the program behaves round its work: what it refuses before it begins, what it takes from files and variables, what it says.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    support::fixture(name).canonicalize().unwrap()
}

/// The program in `dir`, which knows nothing of the user who runs the tests.
fn thimble(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thimble"));
    command.current_dir(dir).env("HOME", dir).env("THIMBLE_CACHE", "");
    for name in [
        "THIMBLE_DEVICE",
        "XDG_DATA_HOME",
        "XDG_CACHE_HOME",
        "DEBFULLNAME",
        "DEBEMAIL",
        "EMAIL",
        "NO_COLOR",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it printed on stdout and stderr, where it ends with `code`.
fn told(command: &mut Command, code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert_eq!(status.code(), Some(code), "{command:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

fn exported(dir: &Path) -> PathBuf {
    let file = dir.join("model.onnx");
    told(
        thimble(dir)
            .arg("export")
            .arg(fixture("albert-seq-tiny"))
            .arg("-o")
            .arg(&file),
        0,
    );
    file
}

/// The head of an aarch64 program, which is all that is asked of one here.
fn program(path: &Path) {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(18, 0);
    elf.extend([183, 0]);
    elf.resize(4096, 0);
    fs::write(path, elf).unwrap();
}

#[test]
fn outputs_that_cannot_be_are_refused_before_the_work() {
    let dir = TempDir::new().unwrap();
    let deb = fixture("albert-deb");
    let model = exported(dir.path());
    fs::write(dir.path().join("file"), "x").unwrap();
    let cases: [(&[&str], &str); 7] = [
        (
            &["export", "SRC", "-o", "/proc/x.onnx"],
            "nothing can be written in /proc",
        ),
        (
            &["export", "SRC", "-o", "no/x.onnx"],
            "no/x.onnx: there is no folder no; make it first",
        ),
        (&["export", "SRC", "-o", "file/x.onnx"], "file is no folder"),
        (
            &["shrink", "SRC", "--budget", "1MiB", "-o", "no/x.onnx"],
            "no/x.onnx: there is no folder",
        ),
        (
            &["shrink", "SRC", "--frontier", "--svg", "no/x.svg"],
            "no/x.svg: there is no folder",
        ),
        (&["slim", "THEIRS", "-o", "no/x.onnx"], "no/x.onnx: there is no folder"),
        (&["package", "MODEL", "-o", "no/x.deb"], "no/x.deb: there is no folder"),
    ];
    for (arguments, want) in cases {
        let mut command = thimble(dir.path());
        command.args(arguments.iter().map(|word| match *word {
            "SRC" => deb.clone().into_os_string(),
            "MODEL" => model.clone().into_os_string(),
            "THEIRS" => fixture("exported/qa_torch2.6.onnx").into_os_string(),
            word => word.into(),
        }));
        let begin = std::time::Instant::now();
        let (_, stderr) = told(&mut command, 2);
        assert!(stderr.contains(want) && stderr.trim().lines().count() == 1, "{stderr}");
        assert!(
            begin.elapsed().as_secs() < 20,
            "{arguments:?} took {:?}",
            begin.elapsed()
        );
    }
}

#[test]
fn the_boards_program_is_found_and_a_wrong_name_is_no_silence() {
    let dir = TempDir::new().unwrap();
    let model = exported(dir.path());
    let package = |name: &str| {
        let mut command = thimble(dir.path());
        command.arg("package").arg(&model).arg("-o").arg(name);
        command
    };
    let (_, stderr) = told(package("x.deb").env("THIMBLE_DEVICE", "gone"), 2);
    assert!(
        stderr.contains("gone") && stderr.contains("THIMBLE_DEVICE names it"),
        "{stderr}"
    );
    let data = dir.path().join(".local/share/thimble");
    fs::create_dir_all(&data).unwrap();
    program(&data.join("thimble-device-aarch64"));
    let named = dir.path().join("named");
    program(&named);
    let (_, stderr) = told(package("a.deb").args(["-v", "--device-program", "named"]), 0);
    assert!(
        stderr.contains("the board's program: named (--device-program)"),
        "{stderr}"
    );
    // Who packages is found where it is not said.
    assert!(
        stderr.contains("note: the package's maintainer is ") && stderr.contains('@'),
        "{stderr}"
    );
    let jo = [("DEBFULLNAME", "Jo Doe"), ("DEBEMAIL", "jo@example.org")];
    let (_, stderr) = told(package("b.deb").env("THIMBLE_DEVICE", &named).envs(jo), 0);
    assert!(stderr.contains("Jo Doe <jo@example.org>"), "{stderr}");
    assert!(stderr.contains("named (THIMBLE_DEVICE)"), "{stderr}");
    let (_, stderr) = told(&mut package("d.deb"), 0);
    assert!(stderr.contains("thimble-device-aarch64 (your data folder)"), "{stderr}");
    let (_, stderr) = told(package("c.deb").args(["-q", "--device-program", "named"]), 0);
    assert!(
        stderr.starts_with("warning: ") && stderr.lines().count() == 1,
        "{stderr}"
    );
    assert!(
        ["a.deb", "b.deb", "c.deb"]
            .iter()
            .all(|name| dir.path().join(name).is_file())
    );
}

#[test]
fn a_system_that_is_mounted_needs_no_target() {
    let dir = TempDir::new().unwrap();
    let model = exported(dir.path());
    program(&dir.path().join("device"));
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/os-release"), "ID=debian\n").unwrap();
    let install = || {
        let mut command = thimble(dir.path());
        command
            .arg("install")
            .arg(&model)
            .args(["--rootfs", "root", "--device-program", "device"]);
        command
    };
    let (_, stderr) = told(&mut install(), 0);
    assert!(stderr.contains("does not say which board it is for"), "{stderr}");
    fs::write(root.join("etc/armbian-release"), "BOARD=jetson-nano\n").unwrap();
    let (_, stderr) = told(&mut install(), 0);
    assert!(stderr.contains("the system there is for jetson-nano"), "{stderr}");
}

#[test]
fn what_a_project_has_in_common_is_taken_from_its_file() {
    let dir = TempDir::new().unwrap();
    let source = fixture("albert-seq-tiny");
    fs::write(
        dir.path().join("thimble.toml"),
        format!("source = {:?}\ntarget = \"pi-4\"\n", source.display()),
    )
    .unwrap();
    let (_, stderr) = told(thimble(dir.path()).args(["export", "-o", "x.onnx"]), 0);
    assert!(
        stderr.contains("note: from thimble.toml: source ") && !stderr.contains("target"),
        "{stderr}"
    );
    assert!(dir.path().join("x.onnx").is_file());
    // The command line wins, and is not commented on.
    let (_, stderr) = told(thimble(dir.path()).arg("export").arg(&source).args(["-o", "y.onnx"]), 0);
    assert!(!stderr.contains("thimble.toml"), "{stderr}");
    fs::write(dir.path().join("thimble.toml"), "suorce = \"x\"\n").unwrap();
    let (_, stderr) = told(thimble(dir.path()).args(["export", "-o", "z.onnx"]), 2);
    assert!(
        stderr.contains("thimble.toml: unknown key 'suorce'; did you mean source?"),
        "{stderr}"
    );
    told(thimble(dir.path()).arg("targets"), 0);
    // A wrong value names the file that has it, also where notes are left out.
    fs::write(dir.path().join("thimble.toml"), "target = \"pi4\"\n").unwrap();
    let (_, stderr) = told(thimble(dir.path()).args(["-q", "emulate", "y.onnx"]), 2);
    assert!(
        stderr.contains("from thimble.toml: target pi4") && stderr.contains("pi-4"),
        "{stderr}"
    );
}

#[test]
fn options_that_lack_are_named_with_all_that_would_do() {
    let dir = TempDir::new().unwrap();
    let model = exported(dir.path());
    let cases: [(&[&str], &[&str]); 5] = [
        (
            &["shrink", "MODEL", "-o", "x.onnx"],
            &[
                "--budget",
                "--max-ram",
                "--max-latency",
                "--min-agreement",
                "--frontier",
            ],
        ),
        (&["run", "MODEL"], &["--text", "--texts", "--ids"]),
        (&["run", "MODEL", "--ids", "2,x"], &["--ids", "'2,x'", "like 2,17,3"]),
        (&["install", "MODEL"], &["--rootfs", "--image"]),
        (
            &["deploy", "MODEL"],
            &["--to", "--target", "--inventory", "thimble.toml"],
        ),
    ];
    for (arguments, wants) in cases {
        let mut command = thimble(dir.path());
        command.args(arguments.iter().map(|word| match *word {
            "MODEL" => model.clone().into_os_string(),
            word => word.into(),
        }));
        let (_, stderr) = told(&mut command, 2);
        assert!(wants.iter().all(|want| stderr.contains(want)), "{stderr}");
    }
    let (_, stderr) = told(
        thimble(dir.path()).args(["emulate", "x", "--target", "pi-4", "--max-ram", "24"]),
        2,
    );
    assert!(stderr.contains("24MiB"), "{stderr}");
    let (_, stderr) = told(thimble(dir.path()).arg("report").arg(&model), 2);
    assert!(stderr.contains("is a model, no bench report"), "{stderr}");
}

#[test]
fn lines_of_a_file_are_run_and_empty_texts_are_warned_of() {
    let dir = TempDir::new().unwrap();
    let deb = fixture("albert-deb");
    fs::write(dir.path().join("lines"), "perl module\n\n  \nruby gem\n").unwrap();
    let run = |options: &[&str]| {
        let mut command = thimble(dir.path());
        command.arg("run").arg(&deb).args(options);
        command
    };
    let (stdout, _) = told(&mut run(&["--texts", "lines"]), 0);
    let texts: Vec<&str> = stdout.lines().filter(|line| !line.starts_with("  ")).collect();
    assert_eq!(texts, ["perl module", "ruby gem"]);
    let (stdout, _) = told(&mut run(&["--texts", "lines", "--json"]), 0);
    let answers: Vec<serde_json::Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (alone, _) = told(&mut run(&["--text", "ruby gem", "--json"]), 0);
    assert_eq!(answers[1], serde_json::from_str::<serde_json::Value>(&alone).unwrap());
    for text in ["", "  "] {
        let (_, stderr) = told(&mut run(&["--text", text]), 0);
        assert!(stderr.contains("warning: a text is empty or blank"), "{stderr}");
    }
    // A tokenizer that lies elsewhere.
    told(
        run(&["--text", "perl"])
            .arg("--tokenizer")
            .arg(deb.join("tokenizer.json")),
        0,
    );
}

#[test]
fn what_a_server_lacks_is_told_before_it_is_shipped() {
    let dir = TempDir::new().unwrap();
    program(&dir.path().join("device"));
    let model = exported(dir.path());
    let device = ["--device-program", "device"];
    let package = |options: &[&str]| {
        let mut command = thimble(dir.path());
        command
            .arg("package")
            .arg(&model)
            .args(["-o", "x.deb"])
            .args(device)
            .args(options);
        command
    };
    let (_, stderr) = told(&mut package(&[]), 0);
    assert!(stderr.contains("takes token ids only"), "{stderr}");
    let (_, stderr) = told(&mut package(&["--max-ram", "1MiB"]), 0);
    assert!(stderr.contains("warning: --max-ram 1.0 MiB is below"), "{stderr}");
    // What an earlier install left is named; so is a tokenizer that two models would share.
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/os-release"), "ID=debian\n").unwrap();
    let install = |model: &Path| {
        let mut command = thimble(dir.path());
        command
            .arg("install")
            .arg(model)
            .args(["--rootfs", "root"])
            .args(device);
        command
    };
    let (stdout, _) = told(&mut install(&model), 0);
    assert!(
        stdout.contains("it answers at /run/thimble.sock, to token ids") && !stdout.contains("left from before"),
        "{stdout}"
    );
    let other = dir.path().join("other.onnx");
    let export = |source: &str, output: &str| {
        let mut command = thimble(dir.path());
        command.arg("export").arg(fixture(source)).args(["-o", output]);
        told(&mut command, 0).1
    };
    export("albert-deb", "other.onnx");
    let (stdout, _) = told(&mut install(&other), 0);
    assert!(
        stdout.contains(", to texts and token ids")
            && stdout.contains("left from before")
            && stdout.contains("/model.onnx"),
        "{stdout}"
    );
    let stderr = export("wild/c05_spiece_only", "other");
    assert!(
        stderr.contains("warning: other.tokenizer.json is the tokenizer of other.onnx, too"),
        "{stderr}"
    );
    assert!(!export("wild/c05_spiece_only", "other").contains("is the tokenizer of"));
}

#[test]
fn near_misses_are_answered() {
    let dir = TempDir::new().unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["targets", "pi4"], "did you mean pi-4?"),
        (&["quantize", "x"], "'shrink'"),
        (&["exprot", "x"], "'export'"),
        (&["export", "x", "--presicion", "i8"], "--precision"),
    ];
    for (arguments, want) in cases {
        let (_, stderr) = told(thimble(dir.path()).args(arguments), 2);
        assert!(stderr.contains(want), "{stderr}");
    }
    let (stdout, _) = told(thimble(dir.path()).arg("--version"), 0);
    assert!(
        ["commit: ", "tract: 0.", "built for: "]
            .iter()
            .all(|word| stdout.contains(word)),
        "{stdout}"
    );
}

#[test]
fn shells_and_man_get_what_they_read() {
    let dir = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let (script, _) = told(thimble(dir.path()).args(["completions", shell]), 0);
        assert!(script.contains("thimble") && script.contains("shrink"), "{shell}");
    }
    let (page, _) = told(thimble(dir.path()).arg("man"), 0);
    assert!(page.contains(".TH thimble 1"), "{page}");
    fs::create_dir(dir.path().join("man1")).unwrap();
    let (names, _) = told(thimble(dir.path()).args(["man", "man1"]), 0);
    assert!(
        names.lines().count() > 12 && names.contains("man1/thimble-shrink.1"),
        "{names}"
    );
    let page = fs::read_to_string(dir.path().join("man1/thimble-shrink.1")).unwrap();
    assert!(page.contains("thimble\\-shrink") && page.contains("Examples"), "{page}");
    told(thimble(dir.path()).args(["man", "gone"]), 2);
    let done = thimble(dir.path()).args(["doctor", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(
        json["tools"]
            .as_array()
            .unwrap()
            .iter()
            .any(|tool| tool["name"] == "ssh" && tool["install"].is_string())
    );
    assert_eq!(done.status.code(), Some(if json["ready"] == true { 0 } else { 1 }));
}

#[test]
fn a_target_file_to_fill_in_is_a_target() {
    let dir = TempDir::new().unwrap();
    told(
        thimble(dir.path()).args(["targets", "--new", "my-board", "-o", "x.toml"]),
        0,
    );
    let (stdout, _) = told(thimble(dir.path()).args(["targets", "x.toml"]), 0);
    assert!(stdout.contains("my-board") && stdout.contains("unverified"), "{stdout}");
    let (_, stderr) = told(thimble(dir.path()).args(["targets", "--new", "y", "-o", "x.toml"]), 2);
    assert!(stderr.contains("is there already"), "{stderr}");
    fs::write(dir.path().join("z.toml"), "name = \"z\"\n").unwrap();
    let (_, stderr) = told(thimble(dir.path()).args(["targets", "z.toml"]), 2);
    assert!(
        ["cpu (", "cores (", "ram_total ("]
            .iter()
            .all(|field| stderr.contains(field)),
        "{stderr}"
    );
}

/// A program of this name in `dir/bin`, which comes first in the path.
fn stand_in(dir: &Path, name: &str, script: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let path = bin.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

#[test]
fn a_board_is_asked_over_ssh_and_what_fails_says_how_to_mend_it() {
    let dir = TempDir::new().unwrap();
    stand_in(dir.path(), "uname", "echo aarch64");
    // What ssh would have a login shell run there runs here.
    let path = stand_in(
        dir.path(),
        "ssh",
        "for last; do :; done; case $* in *'-O exit'*) exit 0;; esac; exec sh -c \"$last\"",
    );
    let probe = || {
        let mut command = thimble(dir.path());
        command
            .args(["targets", "--probe", "pi@kitchen:2222", "-o", "x.toml"])
            .env("PATH", &path);
        command
    };
    told(&mut probe(), 0);
    let (stdout, _) = told(thimble(dir.path()).args(["targets", "x.toml", "--json"]), 0);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let cores = std::fs::read_to_string("/proc/cpuinfo")
        .unwrap()
        .lines()
        .filter(|l| l.starts_with("processor"))
        .count();
    assert_eq!(json["target"]["cores"]["value"], cores, "{json}");
    fs::remove_file(dir.path().join("x.toml")).unwrap();
    for (words, want) in [
        (
            "Host key verification failed.",
            "ssh-keyscan -p 2222 kitchen >> ~/.ssh/known_hosts",
        ),
        (
            "pi@kitchen: Permission denied (publickey,password).",
            "ssh-copy-id -p 2222 pi@kitchen",
        ),
    ] {
        stand_in(dir.path(), "ssh", &format!("echo '{words}' >&2; exit 255"));
        let (_, stderr) = told(&mut probe(), 2);
        assert!(stderr.contains(words) && stderr.contains(want), "{stderr}");
    }
    assert!(!dir.path().join("x.toml").exists());
}

#[test]
fn the_nearest_that_fits_fits() {
    let dir = TempDir::new().unwrap();
    let source = fixture("albert-seq-tiny");
    let cases: [&[&str]; 3] = [
        &["--budget", "1KiB"],
        &["--max-ram", "1MiB"],
        &["--budget", "100MiB", "--max-ram", "1MiB"],
    ];
    for flags in cases {
        let shrink = |flags: &[&str]| {
            let mut command = thimble(dir.path());
            command
                .arg("shrink")
                .arg(&source)
                .args(["-q", "--dry-run", "--nearest", "--rows", "4"])
                .args(flags);
            command
        };
        let (stdout, _) = told(&mut shrink(flags), 1);
        let advice = stdout
            .split("nearest that fits: ")
            .nth(1)
            .unwrap()
            .split(';')
            .next()
            .unwrap();
        let advised: Vec<&str> = advice.split(' ').collect();
        told(&mut shrink(&advised), 0);
    }
}

#[test]
fn rows_of_a_table_are_verified_on() {
    let dir = TempDir::new().unwrap();
    let model = dir.path().join("deb.onnx");
    told(
        thimble(dir.path())
            .arg("export")
            .arg(fixture("albert-deb"))
            .args(["--precision", "INT8", "-o"])
            .arg(&model),
        0,
    );
    fs::write(
        dir.path().join("rows.csv"),
        "body,kind\n\"parser, for tables\",rust\nweb server,net\n",
    )
    .unwrap();
    let verify = |columns: &[&str], code: i32| {
        let mut command = thimble(dir.path());
        command
            .arg("verify")
            .arg(fixture("albert-deb"))
            .arg(&model)
            .args(["--inputs", "rows.csv"])
            .args(columns);
        told(&mut command, code)
    };
    let (_, stderr) = verify(&[], 2);
    assert!(
        stderr.contains("'body', 'kind'") && stderr.contains("--text-column"),
        "{stderr}"
    );
    let (stdout, stderr) = verify(&["--text-column", "body", "--label-column", "kind"], 0);
    assert!(
        stdout.contains("of 2 decisions") && stdout.contains("accuracy"),
        "{stdout}"
    );
    assert!(
        stderr.contains("rows.csv: read as CSV: texts from 'body', labels from 'kind'"),
        "{stderr}"
    );
}

#[test]
fn who_interrupts_a_shrink_is_told_what_is_kept() {
    let dir = TempDir::new().unwrap();
    let cases = [
        ("", "interrupted: no file was written\n"),
        ("cache", "the same command goes on from them\n"),
    ];
    for (cache, want) in cases {
        let mut command = thimble(dir.path());
        command
            .arg("shrink")
            .arg(fixture("albert-deb"))
            .args(["--budget", "640KiB", "-o", "x.onnx"]);
        command
            .env("THIMBLE_CACHE", cache)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        // The first stage is said when the work begins, behind warnings and notes.
        let mut line = String::from("note");
        while line.starts_with("warning") || line.starts_with("note") {
            line.clear();
            assert!(
                stderr.read_line(&mut line).unwrap() > 0,
                "it ended before it began to measure"
            );
        }
        let id = libc::pid_t::try_from(child.id()).unwrap();
        // SAFETY: a signal to a child that was not waited for.
        assert_eq!(unsafe { libc::kill(id, libc::SIGINT) }, 0);
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(libc::SIGINT),
            "{rest}"
        );
        assert!(rest.ends_with(want), "{rest}");
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(left.iter().all(|name| name == "cache" || name == ".cache"), "{left:?}");
    }
}
