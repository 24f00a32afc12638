//! The system's ssh as a link to one board: the user's configuration, keys and agent hold. One connection is kept open for
//! all commands (ControlMaster), so a password is asked for once. Scripts go in, output and exit code come out.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub struct Link {
    /// As the user named it.
    pub to: String,
    port: Option<u16>,
    config: Option<PathBuf>,
    /// Holds the control socket; gone with the link.
    dir: tempfile::TempDir,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("ssh does not start: {0}; install it (Debian: apt-get install openssh-client)")]
    Start(std::io::Error),
    #[error("no connection to {to}: {problem}")]
    Broken { to: String, problem: String },
    #[error("{0:?} cannot be where a board is: write USER@HOST or a name of your ssh configuration")]
    Name(String),
}

/// ssh's own exit code for a connection that failed.
const CONNECTION: i32 = 255;

impl Link {
    pub fn new(to: &str, port: Option<u16>, config: Option<PathBuf>) -> Result<Link, LinkError> {
        // A name that begins with a dash would be an option to ssh, and so would a host after its user; a ProxyCommand hands
        // both to a shell.
        let plain = |c: char| c.is_alphanumeric() || "._-@:%+[]/".contains(c);
        if to.is_empty() || to.starts_with('-') || to.contains("@-") || !to.chars().all(plain) {
            return Err(LinkError::Name(to.into()));
        }
        let dir = tempfile::Builder::new()
            .prefix("thimble-")
            .tempdir()
            .map_err(LinkError::Start)?;
        Ok(Link {
            to: to.into(),
            port,
            config,
            dir,
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
        let socket = format!("ControlPath={}/%C", self.dir.path().display());
        for option in [
            "ControlMaster=auto",
            &socket,
            "ControlPersist=20",
            "ConnectTimeout=20",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=6",
        ] {
            ssh.args(["-o", option]);
        }
        ssh
    }

    pub fn run(&self, script: &str) -> Result<Told, LinkError> {
        self.feed(script, &mut std::io::empty())
    }

    /// Runs `script` in the board's sh, `input` on its stdin.
    pub fn feed(&self, script: &str, input: &mut dyn Read) -> Result<Told, LinkError> {
        let mut child = self
            .ssh()
            .args(["-T", "--", &self.to])
            // The user's login shell may be any: sh does the work.
            .arg(format!("exec sh -c {}", quote(script)))
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
        let stderr = crate::text::printable(stderr.trim().lines().last().unwrap_or("").trim());
        match status.code() {
            Some(CONNECTION) | None => Err(LinkError::Broken {
                to: self.to.clone(),
                problem: if stderr.is_empty() {
                    "it broke off".into()
                } else {
                    stderr
                },
            }),
            Some(code) => Ok(Told { code, stdout, stderr }),
        }
    }

    /// Forgets a connection that may be dead.
    pub fn reset(&self) {
        let _ = self
            .ssh()
            .args(["-O", "exit", "--", &self.to])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reset();
    }
}

/// A word as sh reads it back.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(Link::new(bad, None, None).is_err(), "{bad:?}");
        }
        for good in [
            "pi@kitchen",
            "kitchen.local",
            "pi@fe80::1%eth0",
            "ssh://pi@host:22",
            "größe",
        ] {
            assert!(Link::new(good, None, None).is_ok(), "{good:?}");
        }
    }
}
