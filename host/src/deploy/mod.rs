//! One board over ssh: look before sending, send what is missing under a temporary name, check its SHA-256, rename, run the
//! bench, bring the report back. A broken connection is taken up where it broke; nothing half sent ever has its final name.

pub mod inventory;
pub mod link;

use crate::package;
use crate::text::{percent, say, size};
use link::{Link, LinkError, quote};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thimble_shared::memory::Need;
use thimble_shared::report::Report;
use thimble_shared::target::Target;

/// Times a broken connection is taken up again.
const TRIES: u32 = 4;

/// What goes to the board.
pub struct Cargo {
    pub files: Vec<Item>,
    pub model: String,
    pub need: Need,
}

pub struct Item {
    pub from: PathBuf,
    pub name: String,
    pub sha256: String,
    pub bytes: u64,
    pub mode: &'static str,
}

pub struct Order<'a> {
    pub dir: &'a str,
    pub bench: &'a [String],
    pub max_ram: Option<u64>,
    pub keep: bool,
}

/// Why a board says no: nothing is broken, it just does not fit.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the board is {0}, thimble-device is for aarch64 (64-bit ARM): install a 64-bit system")]
    Architecture(String),
    #[error("{need} must be sent, the board has {free} free in {dir}", need = size(*.need), free = size(*.free))]
    Disk { need: u64, free: u64, dir: String },
    #[error(
        "the model is predicted to need {need} of RAM, the board has {available} available",
        need = size(*.need), available = size(*.available)
    )]
    Ram { need: u64, available: u64 },
    #[error("the kernel killed it: out of memory ({0} were available before)")]
    Killed(String),
    #[error("--keep needs {0} on the board")]
    Keep(&'static str),
}

#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the board: {0}")]
    Board(String),
    #[error("{path}: {problem}")]
    File { path: String, problem: String },
    #[error("{name} arrived damaged twice; is the board's storage sound?")]
    Damaged { name: String },
}

/// What a look at the board tells.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Look {
    pub arch: String,
    pub kernel: String,
    pub features: String,
    pub page_size: Option<u64>,
    pub mem_total: Option<u64>,
    pub mem_available: Option<u64>,
    pub disk_free: Option<u64>,
    /// Where the files lie, absolute.
    pub dir: String,
    pub systemd: bool,
    pub root: bool,
    pub user: String,
    /// SHA-256 of the files that are there.
    have: BTreeMap<String, String>,
    /// Bytes of those that are half there.
    part: BTreeMap<String, u64>,
}

#[derive(Debug)]
pub struct Deployed {
    pub look: Look,
    pub report: Report,
    /// Bytes that went over the link.
    pub sent: u64,
    /// Taken up again after this many breaks.
    pub breaks: u32,
}

/// The name of a file under way: another content has another name.
fn part_name(item: &Item) -> String {
    format!(".{}.{}.part", item.name, &item.sha256[..16])
}

pub fn deploy(link: &Link, cargo: &Cargo, order: &Order) -> Result<Deployed, DeployError> {
    let look = look(link, cargo, order)?;
    let missing: Vec<&Item> = cargo
        .files
        .iter()
        .filter(|f| look.have.get(&f.name) != Some(&f.sha256))
        .collect();
    check(&look, &missing, cargo, order)?;
    let (mut sent, mut breaks) = (0, 0);
    for item in missing {
        sent += send(link, &look, item, &mut breaks)?;
    }
    let report = bench(link, &look, cargo, order)?;
    let measured = report.model.sha256.as_deref();
    if let Some(model) = cargo.files.iter().find(|f| f.name == cargo.model)
        && measured.is_some_and(|sum| sum != model.sha256)
    {
        let told = format!(
            "{} was replaced while it was measured: does another deploy run?",
            cargo.model
        );
        return Err(DeployError::Board(told));
    }
    if order.keep {
        keep(link, &look, cargo, order)?;
    }
    Ok(Deployed {
        look,
        report,
        sent,
        breaks,
    })
}

fn look(link: &Link, cargo: &Cargo, order: &Order) -> Result<Look, DeployError> {
    let mut script = format!(
        "cd 2>/dev/null\n\
         echo arch $(uname -m)\necho kernel $(uname -r)\necho page $(getconf PAGESIZE 2>/dev/null)\necho user $(id -un)\n\
         echo uid $(id -u)\n\
         sed -n 's/^MemTotal: *\\([0-9]*\\) kB/total \\1/p;s/^MemAvailable: *\\([0-9]*\\) kB/available \\1/p' /proc/meminfo\n\
         echo features $(sed -n 's/^Features[^:]*://p' /proc/cpuinfo | head -n 1)\n\
         [ -d /run/systemd/system ] && echo systemd yes\n\
         mkdir -p -- {dir} && cd -- {dir} || exit 3\n\
         echo dir \"$(pwd)\"\n\
         echo disk $(df -Pk . | tail -n 1 | awk '{{print $4}}')\n",
        // "-" alone would be where the shell came from.
        dir = quote(&match order.dir.starts_with('-') {
            true => format!("./{}", order.dir),
            false => order.dir.to_string(),
        })
    );
    for item in &cargo.files {
        let (name, part) = (quote(&item.name), quote(&part_name(item)));
        script += &format!(
            "[ -f {name} ] && echo have {name} $(sha256sum < {name})\n\
             [ -f {part} ] && echo part {name} $(wc -c < {part})\n\
             for old in .{name}.*.part; do [ \"$old\" = {part} ] || rm -f \"$old\"; done\n"
        );
    }
    let told = link.run(&(script + "true"))?;
    if told.code == 3 {
        return Err(DeployError::Board(format!("{}: {}", order.dir, told.stderr)));
    }
    if told.code != 0 {
        return Err(DeployError::Board(told.stderr));
    }
    Ok(parse(&told.stdout))
}

fn parse(text: &str) -> Look {
    let mut look = Look::default();
    for line in text.lines() {
        let (key, value) = line.trim_end().split_once(' ').unwrap_or((line, ""));
        let kilobytes = || value.parse::<u64>().ok().and_then(|k| k.checked_mul(1024));
        let mut words = value.split_whitespace();
        match key {
            "arch" => look.arch = value.into(),
            "kernel" => look.kernel = value.into(),
            "features" => look.features = value.into(),
            "page" => look.page_size = value.parse().ok(),
            "user" => look.user = value.into(),
            "uid" => look.root = value == "0",
            "total" => look.mem_total = kilobytes(),
            "available" => look.mem_available = kilobytes(),
            "disk" => look.disk_free = kilobytes(),
            "dir" => look.dir = value.into(),
            "systemd" => look.systemd = true,
            "have" => {
                if let (Some(name), Some(sum)) = (words.next(), words.next()) {
                    look.have.insert(name.into(), sum.into());
                }
            }
            "part" => {
                if let (Some(name), Some(Ok(bytes))) = (words.next(), words.next().map(str::parse)) {
                    look.part.insert(name.into(), bytes);
                }
            }
            _ => {}
        }
    }
    look
}

fn check(look: &Look, missing: &[&Item], cargo: &Cargo, order: &Order) -> Result<(), Refusal> {
    if look.arch != "aarch64" && look.arch != "arm64" {
        return Err(Refusal::Architecture(look.arch.clone()));
    }
    let to_send = missing
        .iter()
        .map(|f| f.bytes - look.part.get(&f.name).copied().unwrap_or(0).min(f.bytes));
    let need: u64 = to_send.sum();
    // File systems want some room of their own.
    if let Some(free) = look.disk_free.filter(|free| need > 0 && *free < need + (256 << 10)) {
        return Err(Refusal::Disk {
            need,
            free,
            dir: look.dir.clone(),
        });
    }
    if let Some(available) = look.mem_available.filter(|a| *a < cargo.need.total()) {
        return Err(Refusal::Ram {
            need: cargo.need.total(),
            available,
        });
    }
    if order.keep && !look.systemd {
        return Err(Refusal::Keep("systemd"));
    }
    // Both are written into a unit, where blanks, quotes and % mean something.
    let plain = |text: &str, also: &[u8]| text.bytes().all(|b| b.is_ascii_alphanumeric() || also.contains(&b));
    if order.keep && !(plain(&look.dir, b"/._-+") && plain(&look.user, b"._-")) {
        return Err(Refusal::Keep(
            "a --dir and a user of letters, digits, dots and dashes, for the unit file,",
        ));
    }
    Ok(())
}

/// The board's word for a part that is not as long as it was.
const GREW: i32 = 6;

/// Sends one file and gives the bytes that went over the link.
fn send(link: &Link, look: &Look, item: &Item, breaks: &mut u32) -> Result<u64, DeployError> {
    let at = |e: std::io::Error| DeployError::File {
        path: item.from.display().to_string(),
        problem: e.to_string(),
    };
    let (dir, part) = (quote(&look.dir), quote(&part_name(item)));
    let (sum, mode, name) = (&item.sha256, item.mode, quote(&item.name));
    let mut there = look.part.get(&item.name).copied().unwrap_or(0);
    let mut sent = 0;
    let (mut waited, mut abandoned) = (false, false);
    for damaged in [false, true] {
        let mut attempt = 1;
        loop {
            if there > item.bytes {
                there = 0;
                link.run(&format!("cd {dir} && rm -f {part}"))?;
            }
            if there > 0 {
                say(&format!(
                    "{}: {} goes on at {}",
                    link.to,
                    item.name,
                    percent(there, item.bytes)
                ));
            }
            let mut file = File::open(&item.from).map_err(at)?;
            file.seek(SeekFrom::Start(there)).map_err(at)?;
            let before = there;
            // Two deploys may send the same file: the second sees the lock, where there is a flock, and neither adds to what
            // grew since it looked.
            let lock = match abandoned {
                true => String::new(),
                false => format!("exec 9>> .lock; ! command -v flock > /dev/null || flock -n 9 || exit {GREW}\n"),
            };
            let script = format!(
                "cd {dir} || exit 3\n\
                 {lock}\
                 [ \"$(cat {part} 2>/dev/null | wc -c)\" -eq {there} ] || exit {GREW}\n\
                 cat >> {part}"
            );
            match link.feed(&script, &mut file.take(item.bytes - there)) {
                Ok(told) if told.code == 0 => {
                    sent += item.bytes - before;
                    break;
                }
                Ok(told) if told.code == GREW => {
                    if !waited {
                        say(&format!("{}: another deploy sends {} too", link.to, item.name));
                    }
                    let look = format!(
                        "cd {dir} || exit 3\n\
                         [ \"$(sha256sum < {name} 2>/dev/null | cut -c 1-64)\" = {sum} ] && echo have && exit 0\n\
                         cat {part} 2>/dev/null | wc -c"
                    );
                    let told = link.run(&look)?;
                    if told.stdout.trim() == "have" {
                        return Ok(sent);
                    }
                    let size = told.stdout.trim().parse().unwrap_or(0);
                    // A sender whose link died may hold its lock for hours, but what it sent does not grow.
                    abandoned = waited && size == there;
                    (there, waited) = (size, true);
                    std::thread::sleep(Duration::from_secs(3));
                }
                Ok(told) => return Err(DeployError::Board(format!("{}: {}", item.name, told.stderr))),
                Err(e) if attempt == TRIES => return Err(e.into()),
                Err(e) => {
                    *breaks += 1;
                    say(&format!("{}: {e}; once more", link.to));
                    link.reset();
                    std::thread::sleep(Duration::from_secs(u64::from(attempt)));
                    attempt += 1;
                    let told = link.run(&format!("cd {dir} && wc -c < {part} 2>/dev/null || echo 0"))?;
                    there = told.stdout.trim().parse().unwrap_or(0);
                    sent += there.saturating_sub(before);
                }
            }
        }
        let finish = format!(
            "cd {dir} || exit 3\n\
             [ -f {part} ] || [ \"$(sha256sum < {name} 2>/dev/null | cut -c 1-64)\" != {sum} ] || exit 0\n\
             [ \"$(sha256sum < {part} | cut -c 1-64)\" = {sum} ] || {{ rm -f {part}; exit 4; }}\n\
             chmod {mode} {part} && sync && mv -f {part} {name}"
        );
        let told = link.run(&finish)?;
        match told.code {
            0 => return Ok(sent),
            4 if !damaged => there = 0,
            4 => break,
            _ => return Err(DeployError::Board(told.stderr)),
        }
    }
    Err(DeployError::Damaged {
        name: item.name.clone(),
    })
}

fn bench(link: &Link, look: &Look, cargo: &Cargo, order: &Order) -> Result<Report, DeployError> {
    let options: Vec<String> = order.bench.iter().map(|o| quote(o)).collect();
    let command = format!(
        "cd {} && ./thimble-device bench {} --json {}",
        quote(&look.dir),
        quote(&cargo.model),
        options.join(" ")
    );
    let told = link.run(&command)?;
    match told.code {
        0 | 1 => serde_json::from_str(told.stdout.trim())
            .map_err(|e| DeployError::Board(format!("its report cannot be read: {e}; {}", told.stderr))),
        137 => Err(Refusal::Killed(look.mem_available.map_or("unknown bytes".into(), size)).into()),
        code => Err(DeployError::Board(format!(
            "thimble-device ended with {code}: {}",
            told.stderr
        ))),
    }
}

/// Installs and enables the unit, as root or with a sudo that asks nothing.
fn keep(link: &Link, look: &Look, cargo: &Cargo, order: &Order) -> Result<(), DeployError> {
    let unit = package::unit(&look.dir, &cargo.model, order.max_ram, Some(&look.user));
    let sudo = if look.root { "" } else { "sudo -n " };
    let path = format!("/etc/systemd/system/{}", package::UNIT);
    // In steps that every board's tools can do: there are systems without `install`. The file comes to lie beside its place
    // as root's own, and takes it whole.
    let script = format!(
        "cd {dir} && cat > .{name}.part && {sudo}cp .{name}.part {path}.part && rm -f .{name}.part && \
         {sudo}chmod 644 {path}.part && {sudo}mv -f {path}.part {path} && \
         {sudo}systemctl daemon-reload && {sudo}systemctl enable {name}",
        name = package::UNIT,
        dir = quote(&look.dir)
    );
    let told = link.feed(&script, &mut unit.as_bytes())?;
    match told.code {
        0 => Ok(()),
        _ if told.stderr.contains("sudo") => Err(Refusal::Keep("root, or a sudo that asks for no password,").into()),
        _ => Err(DeployError::Board(told.stderr)),
    }
}

/// What the look shows that the target file says otherwise; the report tells the rest.
pub fn surprises(look: &Look, target: &Target) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(page) = look.page_size.filter(|p| *p != target.page_size.value) {
        found.push(format!(
            "pages of {}, expected {}",
            size(page),
            size(target.page_size.value)
        ));
    }
    if let Some(total) = look.mem_total.filter(|t| *t > target.ram_total.value) {
        found.push(format!(
            "{} of RAM, more than the smallest {}",
            size(total),
            target.board
        ));
    }
    found
}

/// A file to send, read once for its checksum.
pub fn item(from: &Path, name: String, mode: &'static str) -> Result<Item, DeployError> {
    use sha2::{Digest, Sha256};
    let at = |e: std::io::Error| DeployError::File {
        path: from.display().to_string(),
        problem: e.to_string(),
    };
    if !package::plain_name(&name) {
        return Err(DeployError::File {
            path: from.display().to_string(),
            problem: format!("rename it: {}", package::PLAIN_NAME),
        });
    }
    let (mut file, mut hasher, mut bytes) = (File::open(from).map_err(at)?, Sha256::new(), 0u64);
    let mut piece = vec![0u8; 1 << 16];
    loop {
        match file.read(&mut piece).map_err(at)? {
            0 => break,
            n => {
                hasher.update(&piece[..n]);
                bytes += n as u64;
            }
        }
    }
    Ok(Item {
        from: from.to_path_buf(),
        name,
        sha256: hasher.finalize().iter().map(|b| format!("{b:02x}")).collect(),
        bytes,
        mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Look {
        parse(
            "arch aarch64\nkernel 6.1\npage 4096\nuser pi\nuid 1000\ntotal 500000\navailable 300000\n\
             features fp asimd\nsystemd yes\ndir /home/pi/.thimble\ndisk 90000\n\
             have m.onnx aa  -\npart t.json 17\nnoise\n",
        )
    }

    #[test]
    fn a_look_is_understood() {
        let look = board();
        assert_eq!(
            (look.arch.as_str(), look.page_size, look.disk_free),
            ("aarch64", Some(4096), Some(90_000 * 1024))
        );
        assert_eq!((look.have["m.onnx"].as_str(), look.part["t.json"]), ("aa", 17));
        assert!(look.systemd && !look.root);
    }

    #[test]
    fn a_board_that_does_not_fit_is_refused_before_anything_is_sent() {
        let item = Item {
            from: "x".into(),
            name: "m.onnx".into(),
            sha256: "b".repeat(64),
            bytes: 50 << 20,
            mode: "644",
        };
        let cargo = |bytes| Cargo {
            files: vec![],
            model: "m.onnx".into(),
            need: Need {
                program: bytes,
                activations: 0,
                file: 0,
            },
        };
        let order = |keep| Order {
            dir: "d",
            bench: &[],
            max_ram: None,
            keep,
        };
        let said = |look: &Look, need, keep| {
            check(look, &[&item], &cargo(need), &order(keep))
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
        };
        assert_eq!(said(&board(), 1, true), "");
        let mut half = Look {
            disk_free: Some(10 << 20),
            ..board()
        };
        half.part.insert("m.onnx".into(), 45 << 20);
        assert_eq!(said(&half, 1, false), "", "what is there already needs no room");
        let cases = [
            (
                Look {
                    arch: "armv7l".into(),
                    ..board()
                },
                1,
                false,
                "armv7l",
            ),
            (
                Look {
                    disk_free: Some(1 << 20),
                    ..board()
                },
                1,
                false,
                "free",
            ),
            (board(), 1 << 40, false, "RAM"),
            (
                Look {
                    systemd: false,
                    ..board()
                },
                1,
                true,
                "systemd",
            ),
        ];
        for (look, need, keep, part) in cases {
            assert!(said(&look, need, keep).contains(part), "{part}");
        }
    }
}
