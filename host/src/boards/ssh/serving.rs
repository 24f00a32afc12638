//! The server that `deploy --serve` leaves on a board, asked by `ask` and taken away by `undeploy`. Program, model and tokenizer lie
//! together in a folder named by their contents; the unit file names the folder, and its rename is the one step that changes which
//! model is served. So a board that loses power at any moment starts with the old files or the new ones.

use super::link::{Link, LinkError, Told, quote};
use super::{Cargo, DEPLOYED, DeployError, Look, Refusal};
use crate::boards::package::unit::{Scope, Service, service, socket};
use crate::boards::package::{CHECK, PROGRAM, SERVICE, SOCKET};
use crate::render::text::size;
use thimble_device::image::digest::sha256;

/// Where the folders lie when the system's systemd starts the server.
const SYSTEM_FOLDERS: &str = "/usr/local/lib/thimble";
const SYSTEM_UNITS: &str = "/etc/systemd/system";
/// The same of a user, below the home directory.
const USER_FOLDERS: &str = ".local/share/thimble";
const USER_UNITS: &str = ".config/systemd/user";

/// What was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Whose systemd starts it.
    pub scope: Scope,
    /// The socket's path on the board.
    pub socket: String,
    /// Whether it starts with the board: a user's own does only where the user lingers.
    pub at_boot: bool,
}

/// Something that an earlier deploy left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Old {
    /// Absolute path on the board.
    pub path: String,
    /// Its size, in whole KiB of the disk.
    pub bytes: u64,
}

/// Old things and their sizes, for people.
pub fn listed(old: &[Old]) -> String {
    let each = old.iter().map(|one| format!("{} ({})", one.path, size(one.bytes)));
    each.collect::<Vec<_>>().join(", ")
}

/// What the scripts of one scope call things by.
struct Place {
    scope: Scope,
    sudo: &'static str,
    systemctl: &'static str,
    folders: String,
    units: String,
    /// Set before anything else.
    prelude: &'static str,
}

impl Place {
    /// Where the user may put a server: the system's place if it can be written to.
    fn of(look: &Look) -> Place {
        match (look.root, look.sudo) {
            (true, _) => Place::system(""),
            (false, true) => Place::system("sudo -n "),
            (false, false) => Place::user(),
        }
    }

    fn system(sudo: &'static str) -> Place {
        Place {
            scope: Scope::System,
            sudo,
            systemctl: "systemctl",
            folders: SYSTEM_FOLDERS.into(),
            units: SYSTEM_UNITS.into(),
            prelude: "home=$(cd && pwd -P)\n",
        }
    }

    fn user() -> Place {
        Place {
            scope: Scope::User,
            sudo: "",
            systemctl: "systemctl --user",
            folders: format!("\"$home\"/{USER_FOLDERS}"),
            units: format!("\"$home\"/{USER_UNITS}"),
            prelude: "home=$(cd && pwd -P)\nexport XDG_RUNTIME_DIR=/run/user/$(id -u)\n",
        }
    }
}

/// The board's word for a server that does not start; what it had before serves on.
const FAILED: i32 = 8;
/// The board's word for another deploy at the same place.
const BUSY: i32 = 7;

/// Puts what was sent where the server reads it, switches to it, and waits until it serves.
///
/// # Errors
/// Where a file cannot be written, or the server does not start: then the one before serves on.
pub fn serve(link: &Link, look: &Look, cargo: &Cargo, max_ram: Option<u64>) -> Result<Served, DeployError> {
    let place = Place::of(look);
    let told = link.run(&serve_script(&place, look, cargo, max_ram))?;
    match told.code {
        0 => {}
        FAILED => {
            return Err(DeployError::Board(format!(
                "the server does not start, the one before is back: {}",
                told.stderr
            )));
        }
        BUSY => {
            return Err(DeployError::Board(
                "another deploy starts a server there; run this again".into(),
            ));
        }
        _ if told.stderr.contains("sudo") => {
            return Err(Refusal::Serve("root, or a sudo that asks for no password".into()).into());
        }
        code => {
            return Err(DeployError::Board(format!(
                "starting the server ended with {code}: {}",
                told.stderr
            )));
        }
    }
    let said = |key: &str| {
        told.stdout
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .map(str::trim)
    };
    Ok(Served {
        scope: place.scope,
        socket: said("socket ").unwrap_or_default().into(),
        at_boot: place.scope == Scope::System || said("linger ") == Some("yes"),
    })
}

fn serve_script(place: &Place, look: &Look, cargo: &Cargo, max_ram: Option<u64>) -> String {
    let Place {
        sudo,
        systemctl,
        folders,
        units,
        prelude,
        ..
    } = place;
    let contents: String = cargo
        .files
        .iter()
        .map(|f| format!("{} {}\n", f.sha256, f.name))
        .collect();
    let id = &sha256(contents.as_bytes())[..16];
    let memory = max_ram.or(look.mem_total.map(|ram| ram / 2));
    let digest = cargo
        .files
        .iter()
        .find(|f| f.name == cargo.model)
        .map_or("", |f| f.sha256.as_str());
    // Where home is, only the board knows: the shell puts it in.
    const NEW: &str = "@NEW@";
    let (program, model) = (format!("{NEW}/{PROGRAM}"), format!("{NEW}/{}", cargo.model));
    let text = service(&Service {
        program: &program,
        model: &model,
        sha256: digest,
        memory,
        scope: place.scope,
    });
    let mut script = format!(
        "{prelude}umask 022\ncd {dir} || exit 3\n\
         exec 7>> .serve.lock; ! command -v flock > /dev/null || flock -w 120 7 || exit {BUSY}\n\
         folders={folders}; new=$folders/{id}; units={units}\n\
         {sudo}mkdir -p \"$folders\" \"$units\" || exit 5\n\
         if [ ! -d \"$new\" ]; then\n\
         {sudo}rm -rf \"$folders/.part\" && {sudo}mkdir -m 755 \"$folders/.part\" || exit 5\n",
        dir = quote(&look.dir)
    );
    for item in &cargo.files {
        let (name, sum, mode) = (quote(&item.name), &item.sha256, item.mode);
        script += &format!(
            "{sudo}cp {name} \"$folders/.part/\" && {sudo}chmod {mode} \"$folders/.part/\"{name} || exit 5\n\
             [ \"$(sha256sum < \"$folders/.part/\"{name} | cut -c 1-64)\" = {sum} ] || {{ echo {name} was replaced meanwhile >&2; exit 5; }}\n"
        );
    }
    // First the files are on the disk, then the folder has its name, and only then does a unit name the folder.
    script += &format!(
        "sync; {sudo}mv \"$folders/.part\" \"$new\" || exit 5\nsync\nfi\n\
         trap '{sudo}rm -f \"$units/{SOCKET}.part\" \"$units/{SERVICE}.part\" \"$units/.{SERVICE}.old\"; rm -f .unit.part' EXIT\n\
         printf %s {socket} > .unit.part && {sudo}cp .unit.part \"$units/{SOCKET}.part\" && {sudo}chmod 644 \"$units/{SOCKET}.part\" || exit 5\n\
         printf %s {service} | sed \"s|{NEW}|$new|g\" > .unit.part && {sudo}cp .unit.part \"$units/{SERVICE}.part\" && \
         {sudo}chmod 644 \"$units/{SERVICE}.part\" || exit 5\n\
         [ ! -f \"$units/{SERVICE}\" ] || {sudo}cp -p \"$units/{SERVICE}\" \"$units/.{SERVICE}.old\" || exit 5\n\
         sync\n\
         {sudo}mv -f \"$units/{SOCKET}.part\" \"$units/{SOCKET}\" && {sudo}mv -f \"$units/{SERVICE}.part\" \"$units/{SERVICE}\" || exit 5\n\
         sync\n\
         start() {{\n\
         {sudo}{systemctl} daemon-reload && {sudo}{systemctl} enable {SOCKET} {SERVICE} 2> /dev/null || return 1\n\
         {sudo}{systemctl} is-active --quiet {SOCKET} || {{ {sudo}{systemctl} stop {SERVICE}; {sudo}{systemctl} start {SOCKET}; }} || return 1\n\
         {sudo}{systemctl} reset-failed {SERVICE} 2> /dev/null; {sudo}{systemctl} restart {SERVICE}\n\
         }}\n\
         if ! start; then\n\
         why=$({sudo}{systemctl} status --no-pager -n 3 {SERVICE} 2> /dev/null | tail -n 1)\n\
         if [ -f \"$units/.{SERVICE}.old\" ]; then {sudo}mv -f \"$units/.{SERVICE}.old\" \"$units/{SERVICE}\"; sync; start; fi\n\
         echo \"${{why:-see systemctl status {SERVICE}}}\" >&2; exit {FAILED}\n\
         fi\n\
         sync\n\
         echo socket {listens}\n\
         [ -e /var/lib/systemd/linger/$(id -un) ] && echo linger yes\ntrue",
        socket = quote(&socket(place.scope)),
        service = quote(&text),
        listens = match place.scope {
            Scope::System => Scope::System.listens(),
            Scope::User => "$XDG_RUNTIME_DIR/thimble.sock",
        }
    );
    script
}

/// Finds what earlier deploys left and nothing uses, and removes it if asked to: folders that no unit names, and files in the
/// deploy's folder that deploys put there and that are none of `cargo`.
///
/// # Errors
/// Where the link fails.
pub fn old(link: &Link, look: &Look, cargo: &Cargo, clear: bool) -> Result<Vec<Old>, DeployError> {
    let names: Vec<&str> = cargo.files.iter().map(|f| f.name.as_str()).collect();
    let sudo = if look.root || !look.sudo { "" } else { "sudo -n " };
    let told = link.run(&old_script(&look.dir, &names, sudo, clear))?;
    match told.code {
        0 => Ok(parse_old(&told)),
        _ => Err(DeployError::Board(told.stderr)),
    }
}

fn parse_old(told: &Told) -> Vec<Old> {
    let line = |line: &str| {
        let (kilobytes, path) = line.strip_prefix("old ")?.split_once(' ')?;
        Some(Old {
            path: path.into(),
            bytes: kilobytes.parse::<u64>().ok()?.checked_mul(1024)?,
        })
    };
    told.stdout.lines().filter_map(line).collect()
}

fn old_script(dir: &str, names: &[&str], sudo: &str, clear: bool) -> String {
    // What the measuring unit of `--keep` names is in use as well.
    let used: Vec<String> = names.iter().map(|name| quote(name)).collect();
    let remove = |sudo: &str| match clear {
        true => format!("{sudo}rm -rf \"$1\" || exit 5"),
        false => "true".into(),
    };
    format!(
        "home=$(cd && pwd -P)\n\
         used() {{ for known in {names}; do [ \"$1\" != \"$known\" ] || return 0; done; grep -qF \"/$1\\\"\" {SYSTEM_UNITS}/{CHECK} 2> /dev/null; }}\n\
         told() {{ echo old $(du -sk \"$1\" | cut -f 1) \"$1\"; }}\n\
         system() {{ told \"$1\"; {system}; }}\n\
         own() {{ told \"$1\"; {own}; }}\n\
         for unit in {SYSTEM_UNITS}/{SERVICE} \"$home\"/{USER_UNITS}/{SERVICE}; do\n\
         live=$(sed -n 's|^ExecStart=\\([^ ]*\\)/{PROGRAM} serve .*|\\1|p' \"$unit\" 2> /dev/null)\n\
         case $unit in {SYSTEM_UNITS}/*) folders={SYSTEM_FOLDERS} remove=system ;; *) folders=$home/{USER_FOLDERS} remove=own ;; esac\n\
         for folder in \"$folders\"/????????????????; do\n\
         [ ! -d \"$folder\" ] || [ \"$folder\" = \"$live\" ] || $remove \"$folder\"\n\
         done\n\
         done\n\
         cd {dir} 2> /dev/null || exit 0\n\
         here=$(pwd -P)\n\
         [ -f {DEPLOYED} ] || exit 0\n\
         while read -r name; do\n\
         case $name in ''|*/*|.*) continue ;; esac\n\
         used \"$name\" || [ ! -f \"$name\" ] || own \"$here/$name\"\n\
         done < {DEPLOYED}\ntrue",
        names = if used.is_empty() { "''".into() } else { used.join(" ") },
        system = remove(sudo),
        own = remove(""),
        dir = quote(dir)
    )
}

/// What `undeploy` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The server, its units and its folders.
    Server,
    /// That, the measuring unit, and all that deploys put into their folder.
    All,
    /// Only what nothing uses.
    Old,
}

/// Takes a deployed server off a board; gives a line for each thing that was removed.
///
/// # Errors
/// Where the link fails, or something cannot be removed.
pub fn undeploy(link: &Link, dir: &str, removal: Removal) -> Result<Vec<String>, DeployError> {
    let sudo = "if [ \"$(id -u)\" = 0 ]; then sudo=; else sudo='sudo -n'; fi\n";
    let told = match removal {
        Removal::Old => {
            // The model that was deployed last into the folder stays: its report is the one that counts.
            let may = link.run("[ \"$(id -u)\" = 0 ] && echo root; sudo -n true 2> /dev/null && echo sudo; true")?;
            let sudo = match may.stdout.contains("root") || !may.stdout.contains("sudo") {
                true => "",
                false => "sudo -n ",
            };
            let newest = newest_script(dir);
            let names = link.run(&newest)?;
            let names: Vec<&str> = names.stdout.lines().filter(|name| !name.is_empty()).collect();
            link.run(&old_script(dir, &names, sudo, true))?
        }
        removal => link.run(&(sudo.to_string() + &undeploy_script(dir, removal == Removal::All)))?,
    };
    match (told.code, removal) {
        (0, Removal::Old) => Ok(parse_old(&told)
            .iter()
            .map(|one| format!("{} ({})", one.path, size(one.bytes)))
            .collect()),
        (0, _) => Ok(told
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix("removed "))
            .map(String::from)
            .collect()),
        _ if told.stderr.contains("sudo") => Err(DeployError::Board(
            "root, or a sudo that asks for no password, is needed to remove the server".into(),
        )),
        _ => Err(DeployError::Board(told.stderr)),
    }
}

/// The names of the newest model in the folder and of what belongs to it.
fn newest_script(dir: &str) -> String {
    format!(
        "cd {} 2> /dev/null || exit 0\n\
         echo {PROGRAM}\n\
         model=$(ls -t -- *.onnx 2> /dev/null | head -n 1)\n\
         [ -z \"$model\" ] || {{ echo \"$model\"; echo \"${{model%.onnx}}.tokenizer.json\"; }}\ntrue",
        quote(dir)
    )
}

fn undeploy_script(dir: &str, all: bool) -> String {
    let everything = format!(
        "if [ -f {SYSTEM_UNITS}/{CHECK} ]; then\n\
         $sudo systemctl disable {CHECK} 2> /dev/null\n\
         $sudo rm -f {SYSTEM_UNITS}/{CHECK} || exit 5\n\
         $sudo systemctl daemon-reload; echo removed {SYSTEM_UNITS}/{CHECK}\n\
         fi\n\
         cd {dir} 2> /dev/null || exit 0\n\
         here=$(pwd -P)\n\
         if [ -f {DEPLOYED} ]; then\n\
         while read -r name; do\n\
         case $name in ''|*/*|.*) continue ;; esac\n\
         [ ! -f \"$name\" ] || {{ rm -f \"$name\" && echo removed \"$here/$name\"; }} || exit 5\n\
         done < {DEPLOYED}\n\
         fi\n\
         rm -f {DEPLOYED} .lock .bench.lock .serve.lock .unit.part\n\
         cd && rmdir \"$here\" 2> /dev/null && echo removed \"$here\"\ntrue",
        dir = quote(dir)
    );
    format!(
        "home=$(cd && pwd -P); export XDG_RUNTIME_DIR=/run/user/$(id -u)\n\
         if [ -f {SYSTEM_UNITS}/{SERVICE} ]; then\n\
         $sudo systemctl disable --now {SOCKET} {SERVICE} 2> /dev/null || $sudo true || exit 5\n\
         $sudo rm -f {SYSTEM_UNITS}/{SERVICE} {SYSTEM_UNITS}/{SOCKET} || exit 5\n\
         $sudo systemctl daemon-reload; $sudo systemctl reset-failed {SERVICE} 2> /dev/null\n\
         echo removed {SYSTEM_UNITS}/{SERVICE}\n\
         fi\n\
         if [ -d {SYSTEM_FOLDERS} ]; then $sudo rm -rf {SYSTEM_FOLDERS} && echo removed {SYSTEM_FOLDERS} || exit 5; fi\n\
         if [ -f \"$home\"/{USER_UNITS}/{SERVICE} ]; then\n\
         systemctl --user disable --now {SOCKET} {SERVICE} 2> /dev/null\n\
         rm -f \"$home\"/{USER_UNITS}/{SERVICE} \"$home\"/{USER_UNITS}/{SOCKET} || exit 5\n\
         systemctl --user daemon-reload 2> /dev/null\n\
         echo removed \"$home\"/{USER_UNITS}/{SERVICE}\n\
         fi\n\
         if [ -d \"$home\"/{USER_FOLDERS} ]; then rm -rf \"$home\"/{USER_FOLDERS} && echo removed \"$home\"/{USER_FOLDERS} || exit 5; fi\n\
         {}\ntrue",
        if all { &everything } else { "" }
    )
}

/// Asks the board's server with its own program: `arguments` are those of `thimble-device ask`, `input` what it reads.
///
/// # Errors
/// Where the link fails. [`NO_SERVER`] is the exit code of a board without a server.
pub fn ask(link: &Link, arguments: &[String], input: &mut dyn std::io::Read) -> Result<Told, LinkError> {
    let words: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
    let script = format!(
        "home=$(cd && pwd -P); own=/run/user/$(id -u)/thimble.sock\n\
         for unit in \"$home\"/{USER_UNITS}/{SERVICE} {SYSTEM_UNITS}/{SERVICE} /usr/lib/systemd/system/{SERVICE} /lib/systemd/system/{SERVICE}; do\n\
         [ -f \"$unit\" ] || continue\n\
         program=$(sed -n 's|^ExecStart=\\([^ ]*/{PROGRAM}\\) serve .*|\\1|p' \"$unit\")\n\
         [ -x \"$program\" ] || continue\n\
         case $unit in \"$home\"/*) socket=$own ;; *) socket={} ;; esac\n\
         exec \"$program\" ask --socket \"$socket\" {}\n\
         done\nexit {NO_SERVER}",
        Scope::System.listens(),
        words.join(" ")
    );
    link.feed(&script, input)
}

/// The exit code of [`ask`] where no unit of a server is there.
pub const NO_SERVER: i32 = 9;

#[cfg(test)]
mod tests {
    use super::super::probe::tests::board;
    use super::super::tests::some_file;
    use super::super::{Item, Look};
    use super::*;
    use std::path::Path;
    use std::process::Command;
    use thimble_shared::board::architecture::Architecture;
    use thimble_shared::board::memory::Need;

    /// A board in a directory: its home, with paths of the system put there, and programs that only note how they are called.
    struct Imitated {
        dir: tempfile::TempDir,
    }

    impl Imitated {
        fn new() -> Imitated {
            let dir = tempfile::tempdir().unwrap();
            for folder in ["home/.thimble", "bin", "etc/systemd/system", "usr/local/lib"] {
                std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            }
            let tool = |name: &str, text: &str| {
                use std::os::unix::fs::PermissionsExt;
                let path = dir.path().join("bin").join(name);
                std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            };
            let root = dir.path().display();
            tool(
                "systemctl",
                &format!(
                    "echo \"$@\" >> {root}/calls; case \" $* \" in *\" restart \"*) [ ! -e {root}/broken ] ;; esac"
                ),
            );
            tool("sync", "true");
            Imitated { dir }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.dir.path().join(name)
        }

        fn run(&self, script: &str) -> Told {
            let root = self.dir.path().display().to_string();
            let script = script
                .replace("/etc/systemd", &format!("{root}/etc/systemd"))
                .replace("/usr/local/lib", &format!("{root}/usr/local/lib"));
            let done = Command::new("sh")
                .args(["-c", &script])
                .env("HOME", self.path("home"))
                .env("PATH", format!("{root}/bin:{}", std::env::var("PATH").unwrap()))
                .output()
                .unwrap();
            Told {
                code: done.status.code().unwrap(),
                stdout: String::from_utf8(done.stdout).unwrap(),
                stderr: String::from_utf8(done.stderr).unwrap(),
            }
        }

        fn look(&self) -> Look {
            Look {
                dir: self.path("home/.thimble").display().to_string(),
                root: true,
                ..board()
            }
        }

        /// Files in the deploy's folder, and what they are.
        fn cargo(&self, model: &str, content: &str) -> Cargo {
            let item = |name: &str, content: &str| {
                std::fs::write(self.path("home/.thimble").join(name), content).unwrap();
                Item {
                    file: some_file(),
                    name: name.into(),
                    sha256: sha256(content.as_bytes()),
                    bytes: content.len() as u64,
                    mode: "644",
                }
            };
            Cargo {
                files: vec![item(PROGRAM, "program"), item(model, content)],
                model: model.into(),
                need: Need {
                    program: 0,
                    activations: 0,
                    file: 0,
                    copy: 0,
                    tokenizer: 0,
                },
                architecture: Architecture::Aarch64,
                largest_page: None,
            }
        }

        fn unit(&self) -> String {
            std::fs::read_to_string(self.path("etc/systemd/system/thimble.service")).unwrap_or_default()
        }

        fn folders(&self) -> usize {
            std::fs::read_dir(self.path("usr/local/lib/thimble")).unwrap().count()
        }
    }

    fn program_of(unit: &str) -> &str {
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        line.split(' ').next().unwrap()
    }

    #[test]
    fn a_server_is_switched_as_a_whole_and_what_is_old_is_told() {
        let board = Imitated::new();
        let serve = |cargo: &Cargo| board.run(&serve_script(&Place::of(&board.look()), &board.look(), cargo, None));
        let first = board.cargo("a.onnx", "old");
        let told = serve(&first);
        assert_eq!(told.code, 0, "{}", told.stderr);
        assert!(told.stdout.contains("socket /run/thimble.sock"));
        let unit = board.unit();
        let program = Path::new(program_of(&unit)).to_path_buf();
        assert_eq!(std::fs::read(program.with_file_name("a.onnx")).unwrap(), b"old");
        assert!(unit.contains(&format!("--sha256 {}", sha256(b"old"))) && unit.contains("MemoryMax=256000000"));
        let calls = std::fs::read_to_string(board.path("calls")).unwrap();
        assert!(calls.contains("enable thimble.socket thimble.service") && calls.contains("restart thimble.service"));
        // Again is the same; another model is another folder, and the one before is old.
        assert_eq!(
            (serve(&first).code, board.folders(), board.unit() == unit),
            (0, 1, true)
        );
        let second = board.cargo("b.onnx", "new");
        assert_eq!((serve(&second).code, board.folders()), (0, 2));
        std::fs::write(
            board.path("home/.thimble/.deployed"),
            "thimble-device\na.onnx\nb.onnx\n../x\n",
        )
        .unwrap();
        let look = board.look();
        let names = [PROGRAM, "b.onnx"];
        let found = parse_old(&board.run(&old_script(&look.dir, &names, "", false)));
        let paths: Vec<&str> = found.iter().map(|old| old.path.as_str()).collect();
        assert_eq!(paths.len(), 2, "{paths:?}");
        assert!(paths[0] == program.parent().unwrap().to_str().unwrap() && paths[1].ends_with(".thimble/a.onnx"));
        board.run(&old_script(&look.dir, &names, "", true));
        assert!(!program.exists() && !board.path("home/.thimble/a.onnx").exists());
        assert!(Path::new(program_of(&board.unit())).exists() && board.path("home/.thimble/b.onnx").exists());
    }

    #[test]
    fn a_server_that_does_not_start_gives_way_to_the_one_before() {
        let board = Imitated::new();
        let serve = |cargo: &Cargo| {
            board.run(&serve_script(
                &Place::of(&board.look()),
                &board.look(),
                cargo,
                Some(1 << 20),
            ))
        };
        assert_eq!(serve(&board.cargo("a.onnx", "old")).code, 0);
        let unit = board.unit();
        std::fs::write(board.path("broken"), "").unwrap();
        assert_eq!(serve(&board.cargo("a.onnx", "new")).code, FAILED);
        assert_eq!(board.unit(), unit);
        let left = std::fs::read_dir(board.path("etc/systemd/system")).unwrap();
        let mut names: Vec<_> = left.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [SERVICE, SOCKET]);
    }

    #[test]
    fn a_file_that_is_not_what_was_sent_is_not_served() {
        let board = Imitated::new();
        let cargo = board.cargo("a.onnx", "sent");
        std::fs::write(board.path("home/.thimble/a.onnx"), "another deploy's").unwrap();
        let told = board.run(&serve_script(&Place::of(&board.look()), &board.look(), &cargo, None));
        assert_eq!(told.code, 5);
        assert!(told.stderr.contains("was replaced meanwhile") && board.unit().is_empty());
    }

    #[test]
    fn undeploy_removes_what_deploy_made_and_nothing_else() {
        let board = Imitated::new();
        let cargo = board.cargo("a.onnx", "model");
        assert_eq!(
            board
                .run(&serve_script(&Place::of(&board.look()), &board.look(), &cargo, None))
                .code,
            0
        );
        let dir = board.path("home/.thimble");
        std::fs::write(dir.join(".deployed"), "thimble-device\na.onnx\n").unwrap();
        std::fs::write(dir.join("mine.onnx"), "not deploy's").unwrap();
        let run = |all| board.run(&("sudo=\n".to_string() + &undeploy_script(dir.to_str().unwrap(), all)));
        let told = run(false);
        assert_eq!(told.code, 0, "{}", told.stderr);
        assert!(
            board.unit().is_empty() && !board.path("usr/local/lib/thimble").exists() && dir.join("a.onnx").exists()
        );
        let told = run(true);
        assert_eq!(told.code, 0, "{}", told.stderr);
        assert!(!dir.join("a.onnx").exists() && !dir.join(PROGRAM).exists() && dir.join("mine.onnx").exists());
        std::fs::remove_file(dir.join("mine.onnx")).unwrap();
        run(true);
        assert!(!dir.exists());
        assert_eq!(run(true).stdout.trim(), "", "again there is nothing to remove");
    }
}
