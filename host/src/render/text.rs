//! Text for terminals: aligned tables and sizes. Sizes are printed in binary units, beside exact bytes where they decide.

use super::listener::listener;
pub use super::terminal::{Verbosity, detail, remark, say, set_verbosity, verbosity};
use bytesize::ByteSize;
use std::io::{IsTerminal, Write};
use std::path::Path;
pub use thimble_shared::terminal::printable;
use thimble_shared::terminal::{acts, line};

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

/// A table with a header line; columns are as wide as their widest cell.
pub fn table(heads: &[&str], aligns: &[Align], rows: &[Vec<String>]) -> String {
    let columns = heads.len();
    let width = |c: usize| {
        let cells = rows.iter().map(|r| r.get(c).map_or(0, |s| s.chars().count()));
        cells.chain([heads[c].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut out = String::new();
        for (c, cell) in cells.iter().enumerate() {
            let fill = " ".repeat(widths[c].saturating_sub(cell.chars().count()));
            match aligns.get(c) {
                Some(Align::Right) => out.push_str(&format!("{fill}{cell}  ")),
                _ => out.push_str(&format!("{cell}{fill}  ")),
            }
        }
        out.trim_end().to_string() + "\n"
    };
    let mut out = line(heads.to_vec());
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

/// A line on stderr that says how far long work is; nothing where stderr is no terminal or the work is short.
pub struct Progress {
    what: &'static str,
    done: u64,
    total: u64,
    shown: u64,
}

/// Bytes of work below which nobody waits long enough to want a progress line.
const LEAST_SHOWN: u64 = 256 << 20;

impl Progress {
    /// A line named `what` for `total` bytes of work; it shows nothing below 256 MiB or where stderr is no terminal.
    pub fn new(what: &'static str, total: u64) -> Progress {
        let wanted = total >= LEAST_SHOWN
            && std::io::stderr().is_terminal()
            && verbosity() != Verbosity::Quiet
            && listener().is_none();
        Progress {
            what,
            done: 0,
            total: if wanted { total } else { 0 },
            shown: u64::MAX,
        }
    }

    /// Counts `bytes` as done and redraws the line when the percentage changes.
    pub fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        let Some(percent) = self.done.saturating_mul(100).checked_div(self.total) else {
            return;
        };
        if percent != self.shown {
            self.shown = percent;
            let _ = write!(std::io::stderr(), "\r{}: {percent} %", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.total > 0 {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// A path as a word of a shell's command line; one that starts with a dash would be taken for a flag.
pub fn shell_path(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.starts_with(b"-") {
        shell(&[b"./", bytes].concat())
    } else {
        shell(bytes)
    }
}

/// Bytes as one word of a shell's command line, with nothing in it that a shell or a terminal acts on.
pub fn shell(bytes: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"_./:=@%+,-".contains(b);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(plain) => text.to_string(),
        Ok(text) if !text.chars().any(acts) => format!("'{}'", text.replace('\'', "'\\''")),
        // Bash, zsh and POSIX 2024 read bytes by number in these quotes: in octal, which takes three digits and no more.
        _ => {
            let spelt = bytes.iter().map(|&b| match b {
                b' '..=b'~' if !b"'\\".contains(&b) => char::from(b).to_string(),
                b => format!("\\{b:03o}"),
            });
            format!("$'{}'", spelt.collect::<String>())
        }
    }
}

/// An error and its causes on one line, each said once: many errors already say their cause.
pub fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let chain = std::iter::successors(Some(error), |error| error.source());
    for cause in chain.map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    line(&text)
}

/// 12.3 MiB.
pub fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// 12.3 MiB (12,897,485 bytes).
pub fn exact(bytes: u64) -> String {
    format!("{} ({} bytes)", size(bytes), thousands(bytes))
}

/// 12,897,485.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// One decimal and a percent sign, e.g. `12.5 %`; `-` where the whole is 0.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        "-".into()
    } else {
        format!("{:.1} %", part as f64 / whole as f64 * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(12_582_912), "12,582,912");
        assert_eq!(size(12 << 20), "12.0 MiB");
        assert_eq!(percent(1, 3), "33.3 %");
    }

    #[test]
    fn errors_are_one_line_and_say_each_cause_once() {
        let io = std::io::Error::other("disk\nfull");
        let error = anyhow::Error::new(io)
            .context("cannot write x: disk\nfull")
            .context("x.onnx");
        assert_eq!(one_line(error.as_ref()), "x.onnx: cannot write x: disk full");
    }

    #[test]
    fn a_word_for_a_shell_is_what_the_shell_reads() {
        let words: [&[u8]; 9] = [
            b"model.onnx",
            b"",
            b"my model.onnx",
            b"it's $(touch x); `y` \\ \"z\"",
            b"~/*?[a]{b}!#&|<>",
            b"line\nbreak\ttab'quote\\slash",
            b"\x1b[31mred\x1b[0m7",
            "wörter \u{202e}xnno".as_bytes(),
            b"\xff\xfe not text",
        ];
        for word in words {
            let quoted = shell(word);
            assert!(!quoted.chars().any(acts), "{quoted}");
            let done = std::process::Command::new("bash")
                .args(["-c", &format!("printf %s {quoted}")])
                .output()
                .unwrap();
            assert_eq!(done.stdout, word, "{quoted}");
        }
        assert_eq!(shell(b"a/b-1.onnx"), "a/b-1.onnx");
        assert_eq!(shell_path(Path::new("-rf")), "./-rf");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["word".into(), "7".into()], vec!["q".into(), "1234".into()]];
        assert_eq!(
            table(&["weight", "bytes"], &[Align::Left, Align::Right], &rows),
            "weight  bytes\nword        7\nq        1234\n"
        );
    }
}
