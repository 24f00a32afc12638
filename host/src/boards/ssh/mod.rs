//! One board over ssh: look before sending, send what is missing under a temporary name, check its SHA-256, rename, run the
//! bench, bring the report back. A broken connection is taken up where it broke; nothing half sent ever has its final name.

mod cargo;
pub mod inventory;
pub mod link;
mod probe;
pub mod serving;

use crate::boards::package;
use crate::boards::reports;
use crate::boards::system;
use crate::fs::atomic::FileError;
use crate::render::progress::{doing, stage};
use crate::render::text::{percent, remark, say, size};
pub use cargo::{Cargo, Cargoes, Item, item};
use link::{Link, LinkError, quote};
pub use probe::{Look, Refusal};
use probe::{check, look};
use serving::{Old, Served};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use thimble_device::image::mmap::MapError;
use thimble_shared::board::architecture::System;
use thimble_shared::board::report::Report;

/// Times in a row that a connection is taken up again without a byte more on the board: with the pauses between, a minute.
const TRIES: u32 = 6;
/// Looks, 3 s apart, at a file that another deploy sends and that does not grow.
const LOOKS: u32 = 40;
/// Minutes after which a part that nobody adds to is abandoned: a deploy whose link broke gives up much sooner.
const ABANDONED: u32 = 10;
/// Tries, 5 s apart, to measure where another deploy measures: half an hour.
const WAITS: u32 = 360;

/// Longer every time: what broke a connection may take a while to go away.
fn pause(tries: u32) -> Duration {
    Duration::from_secs(1 << tries.min(5))
}

/// What is done on the board.
pub struct Order<'a> {
    /// Folder for the files; a relative one starts at the home directory.
    pub dir: &'a str,
    /// Arguments of `thimble-device bench` after the model.
    pub bench: &'a [String],
    /// Most bytes of peak memory; the bench and, with `keep`, the unit hold the program to it.
    pub max_ram: Option<u64>,
    /// Leave a systemd unit that measures at boot.
    pub keep: bool,
    /// Leave a server that answers requests.
    pub serve: bool,
    /// Remove what earlier deploys left and nothing uses.
    pub clear_old: bool,
    /// Say each stage on a line where no bar is drawn; of several boards the lines would run together.
    pub stages: bool,
}

impl Order<'_> {
    fn stage(&self, what: &str) {
        match self.stages {
            true => stage(what),
            false => doing(what),
        }
    }
}

/// Why a deploy did not end with a report.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The model cannot be on this board.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection could not be made or was lost for good.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A command on the board failed, or answered what nobody understands; its words.
    #[error("the board: {0}")]
    Board(String),
    /// A file here cannot be read, or was written to while it was sent.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file here cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The bench was killed, and not for certain by the kernel for memory; what is known.
    #[error("killed (signal 9); most often that is for memory, {0}")]
    Killed(String),
    /// Another deploy holds the lock on a file and sends nothing.
    #[error("{name}: another deploy holds it and makes no progress; end that one, or remove {dir}/.lock")]
    Held {
        /// Name of the file.
        name: String,
        /// Folder on the board.
        dir: String,
    },
    /// Another deploy has held the lock on measuring for half an hour.
    #[error(
        "another deploy has been measuring in {dir} for half an hour; end its thimble-device on the board, or remove {dir}/.bench.lock"
    )]
    Busy {
        /// Folder on the board.
        dir: String,
    },
    /// A file had the wrong SHA-256 twice after it was sent.
    #[error("{name} arrived damaged twice; is the board's storage sound?")]
    Damaged {
        /// Name of the file.
        name: String,
    },
}

/// What a deploy came to.
#[derive(Debug)]
pub struct Deployed {
    /// The board as it was found.
    pub look: Look,
    /// What the bench measured.
    pub report: Report,
    /// Bytes that went over the link.
    pub sent: u64,
    /// Taken up again after this many breaks.
    pub breaks: u32,
    /// With --keep, what came of it: a report that was measured is not lost because of it.
    pub kept: Option<Result<(), DeployError>>,
    /// With --serve, what came of it.
    pub served: Option<Result<Served, DeployError>>,
    /// What earlier deploys left and nothing uses; removed by now with --clear-old.
    pub old: Vec<Old>,
}

/// The name of a file under way: another content has another name.
fn part_name(item: &Item) -> String {
    format!(".{}.{}.part", item.name, &item.sha256[..16])
}

/// Sends what the board lacks, runs the bench there and brings its report back.
///
/// # Errors
/// Any [`DeployError`]. What was sent stays on the board for the next try.
pub fn deploy(link: &Link, cargoes: &Cargoes, order: &Order) -> Result<Deployed, DeployError> {
    order.stage(&format!("{}: looking at the board", link.to));
    let cargo = cargoes.for_system(ask(link)?)?;
    if cargo.architecture != cargoes.usual && !cargoes.named {
        remark(&format!(
            "{}: it runs {}, and gets the program for it",
            link.to, cargo.architecture
        ));
    }
    let look = look(link, cargo, order)?;
    let missing: Vec<&Item> = cargo
        .files
        .iter()
        .filter(|f| look.have.get(&f.name) != Some(&f.sha256))
        .collect();
    check(&look, &missing, cargo, order)?;
    let (mut sent, mut breaks) = (0, 0);
    if look.old {
        persist(link, &clear(&look, &cargo.files), &mut breaks)?;
    }
    for item in &missing {
        order.stage(&format!("{}: sending {}, {}", link.to, item.name, size(item.bytes)));
        sent += send(link, &look, item, &missing, &mut breaks)?;
    }
    if !missing.is_empty() {
        place(link, &look, &missing, &mut breaks)?;
    }
    order.stage(&format!("{}: measuring", link.to));
    let report = bench(link, &look, cargo, order, &mut breaks)?;
    let measured = report.model.sha256.as_deref();
    if let Some(model) = cargo.files.iter().find(|f| f.name == cargo.model)
        && measured.is_some_and(|sum| sum != model.sha256)
    {
        let told = format!(
            "{} was replaced before it was measured: does another deploy run?",
            cargo.model
        );
        return Err(DeployError::Board(told));
    }
    let kept = order.keep.then(|| keep(link, &look, cargo, order));
    // A model that does not hold its limits does not take the place of one that does.
    let served = (order.serve && report.verdict.fits).then(|| {
        order.stage(&format!("{}: starting the server", link.to));
        serving::serve(link, &look, cargo, order.max_ram)
    });
    let old = serving::old(link, &look, cargo, order.clear_old);
    let old = old.unwrap_or_else(|e| {
        remark(&format!("{}: what earlier deploys left is not known: {e}", link.to));
        Vec::new()
    });
    Ok(Deployed {
        look,
        report,
        sent,
        breaks,
        kept,
        served,
        old,
    })
}

/// What the board runs.
fn ask(link: &Link) -> Result<System, DeployError> {
    let told = link.run(&format!("{}true", system::SCRIPT))?;
    Ok(system::told(&told.stdout).map_err(Refusal::Architecture)?)
}

/// The file in the folder that lists what deploys put there.
const DEPLOYED: &str = ".deployed";

/// The part of a part's name that tells the content, as a pattern.
const SUM: &str = "????????????????";

/// Removes halves of other contents, but none that another deploy may still be sending: under the lock, where there is a
/// flock, and only what has not grown for a while, because a sender whose link broke holds no lock until it is back.
fn clear(look: &Look, files: &[Item]) -> String {
    let mut script = format!(
        "cd {} || exit 3\nexec 9>> .lock; ! command -v flock > /dev/null || flock -n 9 || exit 0\n",
        quote(&look.dir)
    );
    for item in files {
        script += &format!(
            "find . -maxdepth 1 -type f -name {} ! -name {} -mmin +{ABANDONED} -exec rm -f '{{}}' \\; 2> /dev/null\n",
            quote(&format!(".{}.{SUM}.part", item.name)),
            quote(&part_name(item))
        );
    }
    script + "true"
}

/// The board's word for a part that is not as long as it was.
const GREW: i32 = 6;

/// A script that may be run twice, run until it is: a connection that breaks is taken up again.
fn persist(link: &Link, script: &str, breaks: &mut u32) -> Result<link::Told, LinkError> {
    match link.run(script) {
        Err(broken @ LinkError::Broken { .. }) => again(link, script, broken, &mut 0, breaks),
        told => told,
    }
}

/// The same after `broken`; `tries` have been made since there was progress.
fn again(
    link: &Link,
    script: &str,
    mut broken: LinkError,
    tries: &mut u32,
    breaks: &mut u32,
) -> Result<link::Told, LinkError> {
    *breaks += 1;
    while *tries < TRIES {
        remark(&format!("{}: {broken}; once more", link.to));
        link.reset();
        std::thread::sleep(pause(*tries));
        *tries += 1;
        match link.run(script) {
            Err(error @ LinkError::Broken { .. }) => broken = error,
            told => return told,
        }
    }
    Err(broken)
}

/// A number that a script printed.
fn number(told: &link::Told) -> Result<u64, DeployError> {
    let text = told.stdout.trim();
    text.parse()
        .map_err(|_| DeployError::Board(format!("a size was asked for, it said {text:?} {}", told.stderr)))
}

/// Gives what was sent its names, in one go: whoever stops before leaves what was there, and of a model, its tokenizer and the
/// program none without the others. Another deploy may have been faster with the same.
fn place(link: &Link, look: &Look, sent: &[&Item], breaks: &mut u32) -> Result<(), DeployError> {
    // Of two deploys each has its turn; a lock that a dead sender holds must not stop this.
    let mut script = format!(
        "cd {} || exit 3\nexec 9>> .lock; ! command -v flock > /dev/null || flock -w 5 9\n",
        quote(&look.dir)
    );
    for item in sent {
        let (part, name) = (quote(&part_name(item)), quote(&item.name));
        script += &format!(
            "if [ -f {part} ]; then mv -f {part} {name} || exit 5\n\
             elif [ \"$(sha256sum < {name} 2>/dev/null | cut -c 1-64)\" != {} ]; then echo {name} is gone >&2; exit 5; fi\n",
            item.sha256
        );
    }
    // Whoever clears up later removes only what a deploy put there.
    for item in sent {
        let name = quote(&item.name);
        script += &format!("grep -qxF {name} {DEPLOYED} 2> /dev/null || echo {name} >> {DEPLOYED}\n");
    }
    match persist(link, &(script + "sync"), breaks)? {
        told if told.code == 0 => Ok(()),
        told => Err(DeployError::Board(told.stderr)),
    }
}

/// Sends one file, which stays under its temporary name, and gives the bytes that went over the link.
fn send(link: &Link, look: &Look, item: &Item, all: &[&Item], breaks: &mut u32) -> Result<u64, DeployError> {
    let (dir, part) = (quote(&look.dir), quote(&part_name(item)));
    let length = format!("cd {dir} || exit 3\ncat {part} 2>/dev/null | wc -c");
    let mut there = look.part.get(&item.name).copied().unwrap_or(0);
    let mut sent = 0;
    let (mut tries, mut looks, mut abandoned) = (0, 0, false);
    for damaged in [false, true] {
        loop {
            if there > item.bytes {
                there = 0;
                persist(link, &format!("cd {dir} && rm -f {part}"), breaks)?;
            }
            if there > 0 {
                say(&format!(
                    "{}: {} goes on at {}",
                    link.to,
                    item.name,
                    percent(there, item.bytes)
                ));
            }
            let before = there;
            let script = append_script(look, item, all, there, abandoned);
            match feed_rest(link, &script, item, there)? {
                Ok(told) if told.code == 0 => {
                    sent += item.bytes - before;
                    break;
                }
                Ok(told) if told.code == GREW => {
                    if looks == 0 {
                        remark(&format!("{}: another deploy sends {} too", link.to, item.name));
                    }
                    let told = persist(link, &look_again_script(look, item), breaks)?;
                    if told.stdout.trim() == "have" {
                        return Ok(sent);
                    }
                    let size = number(&told)?;
                    // A sender whose link died may hold its lock for hours, but what it sent does not grow.
                    abandoned = looks > 0 && size == there;
                    looks = if size > there { 1 } else { looks + 1 };
                    if looks > LOOKS {
                        return Err(DeployError::Held {
                            name: item.name.clone(),
                            dir: look.dir.clone(),
                        });
                    }
                    there = size;
                    std::thread::sleep(Duration::from_secs(3));
                }
                Ok(told) => return Err(DeployError::Board(format!("{}: {}", item.name, told.stderr))),
                Err(broken @ LinkError::Broken { .. }) => {
                    there = number(&again(link, &length, broken, &mut tries, breaks)?)?;
                    sent += there.saturating_sub(before);
                    if there > before {
                        tries = 0;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        let told = persist(link, &finish_script(look, item), breaks)?;
        match told.code {
            0 => return Ok(sent),
            // Before the board is blamed.
            4 if item.file.sha256()? != item.sha256 => {
                let problem = "it was written to while it was sent; run this again";
                return Err(FileError::new(item.file.path(), problem).into());
            }
            4 if !damaged => there = 0,
            4 => break,
            _ => return Err(DeployError::Board(told.stderr)),
        }
    }
    Err(DeployError::Damaged {
        name: item.name.clone(),
    })
}

/// Runs `script` on the rest of a file, from `there` on. The outer error is the file's, the inner one the link's.
fn feed_rest(link: &Link, script: &str, item: &Item, there: u64) -> Result<Result<link::Told, LinkError>, DeployError> {
    let mut file = Rest {
        file: item.file.file(),
        at: there,
        failed: None,
    };
    let told = link.feed(script, &mut (&mut file).take(item.bytes - there));
    match file.failed {
        Some(e) => Err(FileError::new(item.file.path(), e).into()),
        None => Ok(told),
    }
}

/// Adds what it reads to the part of a file that is there, as long as that is `there` bytes long.
fn append_script(look: &Look, item: &Item, all: &[&Item], there: u64, abandoned: bool) -> String {
    let (dir, part) = (quote(&look.dir), quote(&part_name(item)));
    // A disk that is full is left as it was: halves would only keep others from it.
    let halves: Vec<String> = all.iter().map(|item| quote(&part_name(item))).collect();
    let halves = halves.join(" ");
    // Two deploys may send the same file: the second sees the lock, where there is a flock, and neither adds to what
    // grew since it looked.
    let lock = match abandoned {
        true => String::new(),
        false => format!("exec 9>> .lock; ! command -v flock > /dev/null || flock -n 9 || exit {GREW}\n"),
    };
    format!(
        "cd {dir} || exit 3\n\
         {lock}\
         [ \"$(cat {part} 2>/dev/null | wc -c)\" -eq {there} ] || exit {GREW}\n\
         cat >> {part} || {{ rm -f {halves}; exit 5; }}"
    )
}

/// Tells whether the board has the file by now, or else how much of it.
fn look_again_script(look: &Look, item: &Item) -> String {
    let (dir, part) = (quote(&look.dir), quote(&part_name(item)));
    let (sum, name) = (&item.sha256, quote(&item.name));
    format!(
        "cd {dir} || exit 3\n\
         [ \"$(sha256sum < {name} 2>/dev/null | cut -c 1-64)\" = {sum} ] && echo have && exit 0\n\
         cat {part} 2>/dev/null | wc -c"
    )
}

/// Holds what was sent to its SHA-256 and gives it its mode; 4 is the exit code of another sum.
fn finish_script(look: &Look, item: &Item) -> String {
    let (dir, part) = (quote(&look.dir), quote(&part_name(item)));
    let (sum, mode, name) = (&item.sha256, item.mode, quote(&item.name));
    format!(
        "cd {dir} || exit 3\n\
         [ -f {part} ] || [ \"$(sha256sum < {name} 2>/dev/null | cut -c 1-64)\" != {sum} ] || exit 0\n\
         [ \"$(sha256sum < {part} | cut -c 1-64)\" = {sum} ] || {{ rm -f {part}; exit 4; }}\n\
         chmod {mode} {part} && sync"
    )
}

/// What a shell says of a program that SIGKILL ended.
const KILLED: i32 = 137;
/// The board's word for a bench that waits for another; the device program has no such exit code.
const BUSY: i32 = 7;

fn bench(link: &Link, look: &Look, cargo: &Cargo, order: &Order, breaks: &mut u32) -> Result<Report, DeployError> {
    let options: Vec<String> = order.bench.iter().map(|o| quote(o)).collect();
    // One at a time, where there is a flock: two would measure each other, and so would one that a broken link left behind.
    // The kernel counts whom it killed for memory, for everybody to read.
    let script = format!(
        "cd {} || exit 3\n\
         exec 8>> .bench.lock; ! command -v flock > /dev/null || flock -n 8 || exit {BUSY}\n\
         kills() {{ sed -n 's/^oom_kill //p' /proc/vmstat 2>/dev/null; }}\n\
         before=$(kills)\n\
         ./thimble-device bench {} --json {}\n\
         code=$?\n\
         [ $code -ne {KILLED} ] || echo killed $before $(kills)\n\
         exit $code",
        quote(&look.dir),
        quote(&cargo.model),
        options.join(" ")
    );
    let mut waits = 0;
    let told = loop {
        let told = persist(link, &script, breaks)?;
        if told.code != BUSY {
            break told;
        }
        if waits == 0 {
            remark(&format!("{}: another deploy measures there; waiting", link.to));
        }
        if waits == WAITS {
            return Err(DeployError::Busy { dir: look.dir.clone() });
        }
        waits += 1;
        std::thread::sleep(Duration::from_secs(5));
    };
    match told.code {
        0 | 1 => reports::parse(&told.stdout).map_err(|e| DeployError::Board(format!("{e} {}", told.stderr))),
        KILLED => Err(killed(&told.stdout, look)),
        code => Err(DeployError::Board(format!(
            "thimble-device ended with {code}: {}",
            told.stderr
        ))),
    }
}

/// What to make of a kill: "killed BEFORE AFTER" are the kernel's counts of kills for memory.
fn killed(told: &str, look: &Look) -> DeployError {
    let available = look.mem_available.map_or("unknown bytes".into(), size);
    let words = told.lines().find_map(|line| line.strip_prefix("killed "));
    let counts: Vec<u64> = words
        .into_iter()
        .flat_map(str::split_whitespace)
        .filter_map(|n| n.parse().ok())
        .collect();
    match counts[..] {
        [before, after] if after > before => Refusal::Killed(available).into(),
        [_, _] => DeployError::Killed(format!(
            "but the kernel counts no such kill: earlyoom, systemd-oomd or a person did it ({available} were available before)"
        )),
        _ => DeployError::Killed(format!("{available} were available before; see dmesg on the board")),
    }
}

/// Installs and enables the unit, as root or with a sudo that asks nothing.
fn keep(link: &Link, look: &Look, cargo: &Cargo, order: &Order) -> Result<(), DeployError> {
    // Without the model's digest: a later deploy replaces the model, and that one's report has its own.
    let at = |name: &str| format!("{}/{name}", look.dir);
    let (program, model) = (at(package::PROGRAM), at(&cargo.model));
    let unit = package::unit::check(&program, &model, order.bench, order.max_ram, Some(&look.user));
    let sudo = if look.root { "" } else { "sudo -n " };
    let path = format!("/etc/systemd/system/{}", package::CHECK);
    // In steps that every board's tools can do: there are systems without `install`. The file comes to lie beside its place
    // as root's own, and takes it whole.
    let script = format!(
        "cd {dir} || exit 3\n\
         trap 'rm -f .{name}.part; [ ! -e {path}.part ] || {sudo}rm -f {path}.part' EXIT\n\
         cat > .{name}.part && {sudo}cp .{name}.part {path}.part && {sudo}chmod 644 {path}.part && \
         {sudo}mv -f {path}.part {path} && {sudo}systemctl daemon-reload && {sudo}systemctl enable {name}",
        name = package::CHECK,
        dir = quote(&look.dir)
    );
    let told = link.feed(&script, &mut unit.as_bytes())?;
    match told.code {
        0 => Ok(()),
        _ if told.stderr.contains("sudo") => Err(Refusal::Keep("root, or a sudo that asks for no password,").into()),
        _ => Err(DeployError::Board(told.stderr)),
    }
}

/// The rest of a file, from `at` on, however many read it at a time.
struct Rest<'a> {
    file: &'a File,
    at: u64,
    /// What a link takes for the end.
    failed: Option<std::io::Error>,
}

impl Read for Rest<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.at).unwrap_or_else(|e| {
            self.failed = Some(e);
            0
        });
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::probe::tests::board;
    use super::*;
    use std::sync::Arc;
    use thimble_device::image::mmap::ModelFile;

    #[test]
    fn a_kill_is_for_memory_where_the_kernel_counts_it() {
        let look = board();
        let said = |told: &str| killed(told, &look);
        assert!(matches!(said("killed 3 4\n"), DeployError::Refused(Refusal::Killed(_))));
        for (told, part) in [
            ("killed 3 3", "counts no such kill"),
            ("killed  ", "dmesg"),
            ("", "dmesg"),
        ] {
            let error = said(told);
            assert!(
                matches!(error, DeployError::Killed(_)) && error.to_string().contains(part),
                "{error}"
            );
        }
    }

    pub fn some_file() -> Arc<ModelFile> {
        Arc::new(ModelFile::open(&std::env::current_exe().unwrap()).unwrap())
    }

    #[test]
    fn only_halves_that_nobody_sends_are_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let look = Look {
            dir: dir.path().display().to_string(),
            ..board()
        };
        let item = Item {
            file: some_file(),
            name: "m.onnx".into(),
            sha256: "b".repeat(64),
            bytes: 1,
            mode: "644",
        };
        let own = part_name(&item);
        let day = Duration::from_secs(86_400);
        let (old, fresh) = (".m.onnx.aaaaaaaaaaaaaaaa.part", ".m.onnx.cccccccccccccccc.part");
        let other = ".m.onnx.gz.aaaaaaaaaaaaaaaa.part";
        for name in [old, fresh, other, &own] {
            let file = File::create(dir.path().join(name)).unwrap();
            if name != fresh {
                file.set_modified(std::time::SystemTime::now() - day).unwrap();
            }
        }
        let cleared = |name: &str| {
            let done = std::process::Command::new("sh")
                .args(["-c", &clear(&look, std::slice::from_ref(&item))])
                .status();
            assert!(done.unwrap().success());
            !dir.path().join(name).exists()
        };
        let sender = File::create(dir.path().join(".lock")).unwrap();
        sender.lock().unwrap();
        assert!(!cleared(old));
        drop(sender);
        assert!(cleared(old));
        assert!(!cleared(fresh) && !cleared(other) && !cleared(&own));
    }

    #[test]
    fn pauses_grow_to_half_a_minute() {
        let pauses: Vec<u64> = (0..TRIES + 2).map(|n| pause(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 32, 32]);
    }
}
