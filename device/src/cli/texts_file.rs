//! A file with a text a line, or stdin: lines of bounded length, in UTF-8, blank ones skipped.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::error::CliError;

/// Longest line, bytes: as long as a request of `serve` may be.
const LONGEST: u64 = 1 << 20;

/// The texts that are still to come.
pub struct Texts {
    name: String,
    lines: Box<dyn BufRead>,
    number: u64,
}

impl Texts {
    /// The lines of a file; `-` is stdin.
    ///
    /// # Errors
    /// [`CliError::Texts`].
    pub fn open(path: &Path) -> Result<Texts, CliError> {
        let name = path.display().to_string();
        let lines: Box<dyn BufRead> = match path.as_os_str() == "-" {
            true => Box::new(BufReader::new(io::stdin())),
            false => match File::open(path) {
                Ok(file) => Box::new(BufReader::new(file)),
                Err(source) => return Err(CliError::Texts { file: name, source }),
            },
        };
        Ok(Texts { name, lines, number: 0 })
    }

    /// The error of this file.
    pub fn failed(&self, source: io::Error) -> CliError {
        CliError::Texts {
            file: self.name.clone(),
            source,
        }
    }

    /// The next text without its end of line; `None` at the end.
    ///
    /// # Errors
    /// [`CliError::Texts`] where a line is too long or no UTF-8.
    pub fn next(&mut self) -> Result<Option<String>, CliError> {
        loop {
            let mut line = Vec::new();
            self.number += 1;
            let read = self.lines.by_ref().take(LONGEST + 1).read_until(b'\n', &mut line);
            if read.map_err(|e| self.failed(e))? == 0 {
                return Ok(None);
            }
            if line.len() as u64 > LONGEST {
                let told = format!("line {} is longer than {LONGEST} bytes", self.number);
                return Err(self.failed(io::Error::other(told)));
            }
            let Ok(text) = String::from_utf8(line) else {
                let told = format!("line {} is no UTF-8", self.number);
                return Err(self.failed(io::Error::other(told)));
            };
            let text = text.trim_end_matches(['\n', '\r']);
            if !text.trim().is_empty() {
                return Ok(Some(text.to_string()));
            }
        }
    }
}
