//! The system's ssh as a link to one board: the user's configuration, keys and agent hold. One connection is kept open for
//! all commands (ControlMaster), so a password is asked for once. Scripts go in, output and exit code come out.

use crate::fs::scratch::Scratch;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One board that ssh leads to; the connection is made by the first command.
pub struct Link {
    /// As the user named it.
    pub to: String,
    port: Option<u16>,
    config: Option<PathBuf>,
    /// The control socket. Without it every command has a connection of its own.
    socket: Option<PathBuf>,
}

/// What a script came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The script's own exit code.
    pub code: i32,
    /// What it printed, without what the login shell said before and after.
    pub stdout: String,
    /// Its last words on stderr.
    pub stderr: String,
}

/// Why a script did not run, or nobody knows how it ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The ssh program cannot be started.
    #[error("ssh does not start: {0}; install it (Debian: apt-get install openssh-client)")]
    Start(std::io::Error),
    /// ssh could not connect, or the connection broke before the script ended.
    #[error("no connection to {to}: {problem}{}", remedy(.to, *.port, .problem))]
    Broken {
        /// The board.
        to: String,
        /// The port that was asked for.
        port: Option<u16>,
        /// The last words of ssh.
        problem: String,
    },
    /// The board answered, and its login shell did not run the script.
    #[error("{to}: its login shell does not start sh (exit {code}): {problem}")]
    Shell {
        /// The board.
        to: String,
        /// The login shell's exit code.
        code: i32,
        /// Its last words.
        problem: String,
    },
    /// A name that ssh or a shell would take for something else than a host.
    #[error("{0:?} cannot be where a board is: write USER@HOST or a name of your ssh configuration")]
    Name(String),
}

/// The line that mends what ssh complains of, where one does.
fn remedy(to: &str, port: Option<u16>, problem: &str) -> String {
    // An address of ssh's own form holds its port.
    let address = to.strip_prefix("ssh://").unwrap_or(to);
    let host = address.rsplit('@').next().unwrap_or(address);
    let (host, own) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => (name, port.parse().ok()),
        _ => (host, None),
    };
    let flag = port.or(own).map_or(String::new(), |port| format!("-p {port} "));
    let user = address
        .rsplit_once('@')
        .map_or(String::new(), |(user, _)| format!("{user}@"));
    let has = |words: &[&str]| words.iter().any(|word| problem.contains(word));
    if has(&["IDENTIFICATION HAS CHANGED"]) {
        format!("; where the board was set up anew: ssh-keygen -R {host}")
    } else if has(&["Host key verification failed"]) {
        format!(
            "; connect once and compare the key (ssh {flag}{user}{host}), or take it as it comes: ssh-keyscan {flag}{host} >> \
             ~/.ssh/known_hosts; of a board set up anew first ssh-keygen -R {host}"
        )
    } else if has(&["Permission denied", "Too many authentication failures"]) {
        format!("; give the board your key, which asks for its password once: ssh-copy-id {flag}{user}{host}")
    } else if has(&["Could not resolve hostname"]) {
        "; check the name, or give the board's address".to_string()
    } else if has(&["Connection refused"]) {
        "; is ssh switched on there (Raspberry Pi OS: sudo raspi-config, Interface Options), on this port?".to_string()
    } else if has(&["timed out", "No route to host"]) {
        "; is the board on, and in this network?".to_string()
    } else {
        String::new()
    }
}

/// ssh's own exit code for a connection that failed. A script that a signal ended gives the same, so what decides is whether
/// the script's end was seen.
const CONNECTION: i32 = 255;
/// Lines round what a script prints: a login shell may greet before, on both streams, and say farewell after.
const BEGIN: &str = "thimble-script-begins";
const END: &str = "thimble-script-ends";

impl Link {
    /// A link to `to`. `port` and `config` (a configuration file) are ssh's own where `None`; `socket` is the path of the control
    /// socket.
    ///
    /// # Errors
    /// [`LinkError::Name`].
    pub fn new(
        to: &str,
        port: Option<u16>,
        config: Option<PathBuf>,
        socket: Option<PathBuf>,
    ) -> Result<Link, LinkError> {
        // A name that begins with a dash would be an option to ssh, and so would a host after its user; a ProxyCommand hands
        // both to a shell.
        let plain = |c: char| c.is_alphanumeric() || "._-@:%+[]/".contains(c);
        if to.is_empty() || to.starts_with('-') || to.contains("@-") || !to.chars().all(plain) {
            return Err(LinkError::Name(to.into()));
        }
        Ok(Link {
            to: to.into(),
            port,
            config,
            socket,
        })
    }

    fn ssh(&self) -> Command {
        let mut ssh = Command::new("ssh");
        if let Some(config) = &self.config {
            ssh.arg("-F").arg(config);
        }
        if let Some(port) = self.port {
            ssh.arg("-p").arg(port.to_string());
        }
        let (master, socket) = match &self.socket {
            Some(socket) => ("ControlMaster=auto", format!("ControlPath={}", socket.display())),
            None => ("ControlMaster=no", "ControlPath=none".into()),
        };
        for option in [
            master,
            &socket,
            "ControlPersist=20",
            "ConnectTimeout=20",
            "ServerAliveInterval=5",
            // A board that measures on all its cores answers late.
            "ServerAliveCountMax=12",
        ] {
            ssh.args(["-o", option]);
        }
        ssh
    }

    /// Runs `script` in the board's sh with nothing on its stdin.
    ///
    /// # Errors
    /// Any [`LinkError`] but [`LinkError::Name`]. A script that fails is no error: see [`Told::code`].
    pub fn run(&self, script: &str) -> Result<Told, LinkError> {
        self.feed(script, &mut std::io::empty())
    }

    /// Runs `script` in the board's sh, `input` on its stdin.
    ///
    /// # Errors
    /// Those of [`Link::run`].
    pub fn feed(&self, script: &str, input: &mut dyn Read) -> Result<Told, LinkError> {
        let mut child = self
            .ssh()
            .args(["-T", "--", &self.to])
            .arg(wrapped(script))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(LinkError::Start)?;
        let mut collect = Vec::new();
        for stream in [
            child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
            child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
        ] {
            collect.push(std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = stream.map(|mut s| s.read_to_end(&mut bytes));
                String::from_utf8_lossy(&bytes).into_owned()
            }));
        }
        if let Some(mut stdin) = child.stdin.take() {
            // A pipe that breaks says less than ssh's own exit code and words.
            let _ = std::io::copy(input, &mut stdin).and_then(|_| stdin.flush());
        }
        let status = child.wait().map_err(LinkError::Start)?;
        let mut texts = collect.into_iter().map(|t| t.join().unwrap_or_default());
        let (stdout, stderr) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        let code = status.code().unwrap_or(CONNECTION);
        let said = last_words(between(&stderr).map_or(stderr.as_str(), |(said, _)| said));
        match between(&stdout) {
            Some((stdout, Some(code))) => Ok(Told {
                code,
                stdout: stdout.into(),
                stderr: said,
            }),
            None if code != CONNECTION => Err(LinkError::Shell {
                to: self.to.clone(),
                code,
                problem: said,
            }),
            _ => Err(LinkError::Broken {
                to: self.to.clone(),
                port: self.port,
                problem: if said.is_empty() { "it broke off".into() } else { said },
            }),
        }
    }

    /// Ends the connection, which may be dead.
    pub fn reset(&self) {
        if self.socket.as_ref().is_none_or(|socket| !socket.exists()) {
            return;
        }
        let _ = self
            .ssh()
            .args(["-O", "exit", "--", &self.to])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// Where the control sockets of one run lie; gone with this.
pub struct Sockets {
    dir: Option<Scratch>,
}

/// The longest directory theirs lies in: a socket's path has 107 bytes, of which ssh takes 17 for a temporary name.
const LONGEST: usize = 60;

impl Sockets {
    /// In `temp`, or in /tmp where ssh would not read that path as it is (blanks part it, % and quotes mean something) or it is
    /// too long.
    pub fn new(temp: &Path) -> Sockets {
        let plain = |dir: &Path| {
            let bytes = dir.as_os_str().as_encoded_bytes();
            bytes.len() <= LONGEST && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(b))
        };
        let mut dirs = [temp, Path::new("/tmp")].into_iter().filter(|dir| plain(dir));
        Sockets {
            dir: dirs.find_map(|dir| Scratch::within(dir).ok()),
        }
    }

    /// The one of the run's `n`th link.
    pub fn socket(&self, n: usize) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.path().join(n.to_string()))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reset();
    }
}

/// The command for the login shell, which may be any: sh does the work, in a shell of its own whose end another one tells.
fn wrapped(script: &str) -> String {
    let round = format!("echo {BEGIN}; echo {BEGIN} >&2; sh -c \"$1\"; printf '\\n{END} %s\\n' $?");
    format!("exec sh -c {} sh {}", quote(&round), quote(script))
}

/// What a script printed, and the code it ended with if its end was seen.
fn between(stream: &str) -> Option<(&str, Option<i32>)> {
    let line = format!("{BEGIN}\n");
    // What a greeting left without an end of line stands before it.
    let (_, rest) = stream.split_once(&line)?;
    let end = rest.rfind(&format!("\n{END} "));
    let code = end.and_then(|at| rest[at + 1..].lines().next()?.rsplit(' ').next()?.parse().ok());
    match (end, code) {
        (Some(at), Some(code)) => Some((&rest[..at], Some(code))),
        _ => Some((rest, None)),
    }
}

fn last_words(text: &str) -> String {
    crate::render::text::printable(text.trim().lines().last().unwrap_or_default())
}

/// A word as sh reads it back.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_lies_where_ssh_can_have_it() {
        let (short, root) = (
            tempfile::tempdir_in("/tmp").unwrap(),
            tempfile::tempdir_in("/tmp").unwrap(),
        );
        let lies_in = |temp: &Path| {
            let socket = Sockets::new(temp).socket(99_999).unwrap();
            assert!(socket.as_os_str().len() + 17 <= 107, "{socket:?}");
            socket.ancestors().nth(2).unwrap().to_path_buf()
        };
        assert_eq!(lies_in(short.path()), short.path());
        for odd in ["a b", "50%", &"x".repeat(61 - root.path().as_os_str().len())] {
            let odd = root.path().join(odd);
            std::fs::create_dir(&odd).unwrap();
            assert_eq!(lies_in(&odd), Path::new("/tmp"));
        }
        assert_eq!(lies_in(&root.path().join("missing")), Path::new("/tmp"));
    }

    #[test]
    fn words_survive_the_shell() {
        for word in ["a b", "it's", "$(id)", "`id`", "\"", "\\", ";rm -rf", "a\nb", "*"] {
            let out = Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word);
        }
    }

    #[test]
    fn a_login_shell_that_talks_is_not_taken_for_the_script() {
        let told = |before: &str, script: &str, after: &str| {
            let command = format!("{before}\nsh -c {}\n{after}", quote(&wrapped(script)));
            let out = Command::new("sh").args(["-c", &command]).output().unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            let errors = String::from_utf8(out.stderr).unwrap();
            let (said, code) = between(&text).map(|(said, code)| (said.to_string(), code)).unwrap();
            (said, code, last_words(between(&errors).unwrap().0))
        };
        let talk = "printf 'Welcome!\\n{\"fits\": true}\\n17'; echo 'have you mail?' >&2";
        for (before, after) in [
            ("true", "true"),
            (talk, "echo bye; echo bye >&2; exit 7"),
            ("set -x", "false"),
        ] {
            assert_eq!(told(before, "echo 5; exit 4", after).0, "5\n");
            assert_eq!(told(before, "printf 5", after).1, Some(0));
            assert_eq!(
                told(before, "kill -9 $$", after).1,
                Some(137),
                "its end is seen all the same"
            );
        }
        assert_eq!(
            told(talk, "echo 'no such file' >&2; exit 3", "true"),
            (String::new(), Some(3), "no such file".into())
        );
        // A link that breaks shows a beginning and no end.
        assert_eq!(
            between("motd\nthimble-script-begins\nhalf a li"),
            Some(("half a li", None))
        );
        assert_eq!(between("motd\nbash: sh: not found\n"), None);
    }

    #[test]
    fn what_ssh_complains_of_ends_in_the_line_that_mends_it() {
        let cases = [
            (
                "pi@kitchen",
                None,
                "Host key verification failed.",
                "ssh-keyscan kitchen >> ~/.ssh/known_hosts",
            ),
            (
                "pi@kitchen",
                Some(2222),
                "Host key verification failed.",
                "(ssh -p 2222 pi@kitchen)",
            ),
            (
                "pi@kitchen",
                None,
                "pi@kitchen: Permission denied (publickey,password).",
                "ssh-copy-id pi@kitchen",
            ),
            (
                "ssh://pi@kitchen:2222",
                None,
                "Permission denied (publickey).",
                "ssh-copy-id -p 2222 pi@kitchen",
            ),
            (
                "kitchen",
                Some(22),
                "Permission denied (publickey).",
                "ssh-copy-id -p 22 kitchen",
            ),
            (
                "x",
                None,
                "ssh: Could not resolve hostname x: Name or service not known",
                "check the name",
            ),
            (
                "x",
                None,
                "ssh: connect to host x port 22: Connection refused",
                "raspi-config",
            ),
        ];
        for (to, port, problem, want) in cases {
            let error = LinkError::Broken {
                to: to.into(),
                port,
                problem: problem.into(),
            };
            let error = error.to_string();
            assert!(
                error.contains(problem) && error.ends_with(want) || error.contains(want),
                "{error}"
            );
        }
        assert_eq!(remedy("x", None, "it broke off"), "");
    }

    #[test]
    fn a_name_is_never_an_option_to_ssh() {
        for bad in [
            "-oProxyCommand=id",
            "pi@-oProxyCommand=id",
            "",
            "a b",
            "a\nb",
            "a`id`",
            "$(id)@host",
            "a;id",
            "a'b",
            "a\u{202e}b",
        ] {
            assert!(Link::new(bad, None, None, None).is_err(), "{bad:?}");
        }
        for good in [
            "pi@kitchen",
            "kitchen.local",
            "pi@fe80::1%eth0",
            "ssh://pi@host:22",
            "größe",
        ] {
            assert!(Link::new(good, None, None, None).is_ok(), "{good:?}");
        }
    }
}
