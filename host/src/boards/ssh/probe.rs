//! A look at a board before anything is sent: what it is and has, and whether the model can be there.

use super::{Cargo, DeployError, Item, Order, SUM, part_name};
use crate::boards::device_binary::VARIABLE;
use crate::boards::package;
use crate::boards::ssh::link::{Link, quote};
use crate::render::text::size;
use std::collections::BTreeMap;
use std::path::Path;
use thimble_shared::board::architecture::{Architecture, Unsupported};

/// Why a board says no: nothing is broken, it just does not fit.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No device program is built for the board.
    #[error("the board is {0}")]
    Architecture(Unsupported),
    /// The program that the user named does not start on the board.
    #[error(
        "the board runs {programs}, the thimble-device that was named is for {named}; without --device-program and {VARIABLE} \
         thimble chooses"
    )]
    Program {
        /// What the board runs.
        programs: Architecture,
        /// What the program is for.
        named: Architecture,
    },
    /// The disk has no room for what is missing.
    #[error("{need} must be sent, the board has {free} free in {dir}", need = size(*.need), free = size(*.free))]
    Disk {
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        free: u64,
        /// Folder on the board.
        dir: String,
    },
    /// The model is predicted to need more RAM than is available.
    #[error(
        "the model is predicted to need {need} of RAM, the board has {available} available",
        need = size(*.need), available = size(*.available)
    )]
    Ram {
        /// Bytes of the prediction.
        need: u64,
        /// Bytes available.
        available: u64,
    },
    /// The limit that the server would be held to is below what it is predicted to need.
    #[error(
        "the server is predicted to need {need} and may have {limit}, half of the board's RAM; --max-ram gives it more",
        need = size(*.need), limit = size(*.limit)
    )]
    Limit {
        /// Bytes of the prediction.
        need: u64,
        /// Bytes of the limit.
        limit: u64,
    },
    /// The CPU lacks a feature that every kernel uses; its name.
    #[error("the board's CPU has no {0}, which every part of thimble-device needs")]
    Features(&'static str),
    /// The kernel's pages are larger than the program is linked for.
    #[error("the board has pages of {page}, thimble-device is linked for {largest} at most: build it anew", page = size(*.page), largest = size(*.largest))]
    Page {
        /// The board's page size, bytes.
        page: u64,
        /// Largest page the program can be mapped with, bytes.
        largest: u64,
    },
    /// The kernel killed the bench for memory; what was available before, for people.
    #[error("the kernel killed it: out of memory ({0} were available before)")]
    Killed(String),
    /// `--keep` cannot be done; what is missing.
    #[error("--keep needs {0} on the board")]
    Keep(&'static str),
    /// `--serve` cannot be done; what is missing, or in the way, and what mends it.
    #[error("--serve needs {0}")]
    Serve(String),
}

/// What a look at the board tells.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Look {
    /// `uname -r`.
    pub kernel: String,
    /// The `Features` line of the first CPU in /proc/cpuinfo; empty where there is none.
    pub features: String,
    /// Bytes; `None` where the board does not say.
    pub page_size: Option<u64>,
    /// `MemTotal`, bytes.
    pub mem_total: Option<u64>,
    /// `MemAvailable`, bytes.
    pub mem_available: Option<u64>,
    /// Bytes free on the file system of `dir`.
    pub disk_free: Option<u64>,
    /// Where the files lie, absolute.
    pub dir: String,
    /// Whether systemd runs the board.
    pub systemd: bool,
    /// Whether the unit's name was put out of use there.
    pub masked: bool,
    /// Whether the user is root.
    pub root: bool,
    /// Whether the user may become root without a password.
    pub sudo: bool,
    /// Whether the user has a systemd of its own there.
    pub own_systemd: bool,
    /// Unit of the server that is masked.
    pub masked_server: Option<String>,
    /// The server's unit that a package or an image brought.
    pub packaged: Option<String>,
    /// Name of the user that ssh logs in as.
    pub user: String,
    /// SHA-256 of the files that are there.
    pub(super) have: BTreeMap<String, String>,
    /// Bytes of those that are half there.
    pub(super) part: BTreeMap<String, u64>,
    /// Whether halves of other contents lie there.
    pub(super) old: bool,
}

pub(super) fn look(link: &Link, cargo: &Cargo, order: &Order) -> Result<Look, DeployError> {
    let mut script = format!(
        "cd 2>/dev/null\n\
         echo kernel $(uname -r)\necho page $(getconf PAGESIZE 2>/dev/null)\necho user $(id -un)\n\
         echo uid $(id -u)\n\
         sed -n 's/^MemTotal: *\\([0-9]*\\) kB/total \\1/p;s/^MemAvailable: *\\([0-9]*\\) kB/available \\1/p' /proc/meminfo\n\
         echo features $(sed -n 's/^Features[^:]*://p' /proc/cpuinfo | head -n 1)\n\
         [ -d /run/systemd/system ] && echo systemd yes\n\
         for own in /etc /run; do [ \"$(readlink $own/systemd/system/{unit})\" = {mask} ] && echo masked yes; done\n\
         for unit in {socket} {service}; do [ \"$(readlink /etc/systemd/system/$unit)\" = {mask} ] && echo unmask $unit; done\n\
         for lib in /usr/lib /lib; do [ -f $lib/systemd/system/{service} ] && echo packaged $lib/systemd/system/{service}; done\n\
         sudo -n true 2> /dev/null && echo sudo yes\n\
         [ -S /run/user/$(id -u)/systemd/private ] && echo own yes\n\
         mkdir -p -- {dir} && cd -- {dir} || exit 3\n\
         printf 'dir %s\\n' \"$(pwd -P)\"\n\
         echo disk $(df -Pk . | tail -n 1 | awk '{{print $4}}')\n",
        unit = package::CHECK,
        socket = package::SOCKET,
        service = package::SERVICE,
        mask = package::MASK,
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
             for old in .{name}.{SUM}.part; do [ \"$old\" = {part} ] || [ ! -f \"$old\" ] || echo old yes; done\n"
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
            "masked" => look.masked = true,
            "sudo" => look.sudo = true,
            "own" => look.own_systemd = true,
            "unmask" => look.masked_server = Some(value.into()),
            "packaged" => look.packaged = Some(value.into()),
            "old" => look.old = true,
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

pub(super) fn check(look: &Look, missing: &[&Item], cargo: &Cargo, order: &Order) -> Result<(), Refusal> {
    // Features choose between kernels; this one all for 64 bits take for granted. A board may not list any, and one that asks for 32
    // bits is told the other name.
    let has = |feature: &str| look.features.split_whitespace().any(|f| f == feature);
    let lacks = !look.features.is_empty() && !Architecture::ALL.iter().any(|one| has(one.vectors()));
    if lacks && cargo.architecture == Architecture::Aarch64 {
        return Err(Refusal::Features(cargo.architecture.vectors()));
    }
    if let (Some(page), Some(largest)) = (look.page_size, cargo.largest_page)
        && page > largest
    {
        return Err(Refusal::Page { page, largest });
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
    if order.keep && look.masked {
        return Err(Refusal::Keep(
            "a unit that is not masked (systemctl unmask thimble-check.service)",
        ));
    }
    // The unit has a /tmp and a /var/tmp of its own, with nothing in them.
    let private = |dir: &str| Path::new(&look.dir).starts_with(dir);
    if order.keep && (private("/tmp") || private("/var/tmp")) {
        return Err(Refusal::Keep(
            "a --dir outside of /tmp and /var/tmp, which the unit does not see,",
        ));
    }
    if order.serve {
        can_serve(look)?;
        // A limit that a user gave is the user's to decide.
        let half = look.mem_total.map(|ram| ram / 2).filter(|_| order.max_ram.is_none());
        if let Some(limit) = half.filter(|limit| *limit < cargo.need.total()) {
            return Err(Refusal::Limit {
                need: cargo.need.total(),
                limit,
            });
        }
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

fn can_serve(look: &Look) -> Result<(), Refusal> {
    let no = |why: String| Err(Refusal::Serve(why));
    if !look.systemd {
        return no("systemd on the board; without it start thimble-device serve by hand (docs/serve.md)".into());
    }
    if let Some(unit) = &look.masked_server {
        return no(format!("a unit that is not masked: systemctl unmask {unit}"));
    }
    let alone = look.root || look.sudo;
    if let Some(unit) = look.packaged.as_ref().filter(|_| alone) {
        return no(format!(
            "a board without the server of a package or an image: upgrade that package, or remove it first (dpkg -S {unit} names it)"
        ));
    }
    if !alone && !look.own_systemd {
        return no(format!(
            "root, a sudo that asks for no password, or a systemd of the user's own, which this line starts: sudo loginctl enable-linger {}",
            look.user
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use thimble_shared::board::memory::Need;

    pub(in crate::boards::ssh) fn board() -> Look {
        parse(
            "kernel 6.1\npage 4096\nuser pi\nuid 1000\ntotal 500000\navailable 300000\n\
             features fp asimd\nsystemd yes\ndir /home/pi/.thimble\ndisk 90000\n\
             have m.onnx aa  -\npart t.json 17\nnoise\n",
        )
    }

    #[test]
    fn a_look_is_understood() {
        let look = board();
        assert_eq!(
            (look.kernel.as_str(), look.page_size, look.disk_free),
            ("6.1", Some(4096), Some(90_000 * 1024))
        );
        assert_eq!((look.have["m.onnx"].as_str(), look.part["t.json"]), ("aa", 17));
        assert!(look.systemd && !look.root);
    }

    // One case a reason to refuse, all against the same board, so it is not cut into parts.
    #[test]
    fn a_board_that_does_not_fit_is_refused_before_anything_is_sent() {
        let item = Item {
            file: crate::boards::ssh::tests::some_file(),
            name: "m.onnx".into(),
            sha256: "b".repeat(64),
            bytes: 50 << 20,
            mode: "644",
        };
        let cargo = |bytes| Cargo {
            files: vec![],
            model: "m.onnx".into(),
            architecture: Architecture::Aarch64,
            largest_page: Some(0x1_0000),
            need: Need {
                program: bytes,
                activations: 0,
                file: 0,
                copy: 0,
                tokenizer: 0,
            },
        };
        let order = |keep| Order {
            dir: "d",
            bench: &[],
            max_ram: None,
            keep,
            serve: false,
            clear_old: false,
            stages: false,
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
                    features: "fp half".into(),
                    ..board()
                },
                1,
                false,
                "no asimd",
            ),
            (
                Look {
                    page_size: Some(0x2_0000),
                    ..board()
                },
                1,
                false,
                "pages of 128.0 KiB",
            ),
            (
                Look {
                    masked: true,
                    ..board()
                },
                1,
                true,
                "unmask",
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
