//! `thimble.toml` in the working directory: what is the same for every command of a project is said once. In: the command line and
//! the file's text; out: the command line with what it leaves open, and what was taken. What stands on the command line wins.

use std::ffi::OsString;
use thimble_shared::spelling::nearest;
use thimble_shared::terminal::printable;
use toml::{Table, Value};

/// The file's name.
pub const FILE: &str = "thimble.toml";

/// What one key of the file is to one command.
struct Row {
    key: &'static str,
    command: &'static str,
    /// The option it stands for; empty for the first positional.
    option: &'static str,
    /// Options that leave no room for it.
    unless: &'static [&'static str],
}

const fn row(key: &'static str, command: &'static str, option: &'static str, unless: &'static [&'static str]) -> Row {
    Row {
        key,
        command,
        option,
        unless,
    }
}

const ROWS: &[Row] = &[
    row("source", "export", "", &[]),
    row("source", "shrink", "", &[]),
    row("budget", "shrink", "--budget", &["--frontier"]),
    row("calibrate", "shrink", "--calibrate", &[]),
    row("target", "shrink", "--target", &[]),
    row("inputs", "verify", "--inputs", &[]),
    row("target", "emulate", "--target", &[]),
    row("target", "deploy", "--target", &[]),
    row("to", "deploy", "--to", &["--inventory"]),
    row("hosts", "deploy", "--inventory", &["--to", "--port"]),
    row("target", "install", "--target", &[]),
    row("maintainer", "package", "--maintainer", &[]),
];

/// A command line and what the file added to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filled {
    pub arguments: Vec<OsString>,
    /// Keys and values, as they are told; empty where nothing was taken.
    pub taken: Vec<String>,
}

impl Filled {
    /// What was taken of the file, in a line.
    pub fn note(&self) -> String {
        format!("note: from {FILE}: {}", self.taken.join(", "))
    }
}

/// The command line filled in from the file's text. `lacks_first` says whether clap misses a positional of these arguments.
///
/// # Errors
/// Where the text is no TOML, or a key is none or holds no text.
pub fn fill(arguments: &[OsString], text: &str, lacks_first: impl Fn(&[OsString]) -> bool) -> Result<Filled, String> {
    let mut filled = Filled {
        arguments: arguments.to_vec(),
        taken: Vec::new(),
    };
    let is_command = |word: &OsString| ROWS.iter().any(|row| word.to_str() == Some(row.command));
    // Only options that stand alone come before the command.
    let at = arguments
        .iter()
        .skip(1)
        .position(|word| !word.as_encoded_bytes().starts_with(b"-"));
    let Some(at) = at.map(|at| at + 1).filter(|&at| is_command(&arguments[at])) else {
        return Ok(filled);
    };
    let command = arguments[at].to_string_lossy().into_owned();
    // Who asks for help, or ends the options by hand, is asked nothing.
    let stop = |word: &OsString| ["-h", "--help", "--"].iter().any(|known| word.to_str() == Some(known));
    if arguments.iter().any(stop) {
        return Ok(filled);
    }
    let table = read(text)?;
    let given = |option: &str| {
        arguments.iter().any(|word| {
            let word = word.to_string_lossy();
            word == option || word.strip_prefix(option).is_some_and(|rest| rest.starts_with('='))
        })
    };
    for row in ROWS.iter().filter(|row| row.command == command) {
        let Some(value) = table.get(row.key) else { continue };
        let value = text_of(row.key, value)?;
        if row.option.is_empty() {
            if !lacks_first(&filled.arguments) {
                continue;
            }
            filled.arguments.insert(at + 1, value.clone().into());
        } else if given(row.option) || row.unless.iter().any(|option| given(option)) {
            continue;
        } else {
            // One word: a value may begin with a dash.
            filled.arguments.push(format!("{}={value}", row.option).into());
        }
        filled.taken.push(format!("{} {}", row.key, printable(&value)));
    }
    Ok(filled)
}

fn read(text: &str) -> Result<Table, String> {
    let table: Table = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_string())?;
    let known = || ROWS.iter().map(|row| row.key);
    if let Some(strange) = table.keys().find(|key| known().all(|name| name != key.as_str())) {
        let mut keys: Vec<&str> = known().collect();
        keys.sort_unstable();
        keys.dedup();
        let meant = nearest(strange, known()).map_or(String::new(), |name| format!("did you mean {name}? "));
        return Err(format!(
            "unknown key '{}'; {meant}known are {}",
            printable(strange),
            keys.join(", ")
        ));
    }
    if table.contains_key("to") && table.contains_key("hosts") {
        return Err("to names one board and hosts an inventory; give one".into());
    }
    Ok(table)
}

fn text_of(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        _ => Err(format!("{key} must be a text, like {key} = \"…\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(line: &str, text: &str) -> Result<(String, String), String> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        // As clap would: a positional is a word behind the command that no option takes.
        let lacks = |words: &[OsString]| !words.iter().any(|word| word == "model" || word == "theirs");
        let filled = fill(&arguments, text, lacks)?;
        let words: Vec<String> = filled
            .arguments
            .iter()
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        Ok((words.join(" "), filled.taken.join(", ")))
    }

    const TEXT: &str =
        "source = \"model\"\nbudget = \"4MiB\"\ncalibrate = \"rows.csv\"\ntarget = \"pi-4\"\nto = \"pi@kitchen\"\n";

    #[test]
    fn what_the_command_line_leaves_open_is_taken_and_told() {
        let cases = [
            (
                "thimble shrink -o x.onnx",
                "thimble shrink model -o x.onnx --budget=4MiB --calibrate=rows.csv --target=pi-4",
                "source model, budget 4MiB, calibrate rows.csv, target pi-4",
            ),
            (
                "thimble -q shrink theirs --budget 1MiB --calibrate=b.csv --target pi-5",
                "thimble -q shrink theirs --budget 1MiB --calibrate=b.csv --target pi-5",
                "",
            ),
            (
                "thimble shrink theirs --frontier --target pi-5",
                "thimble shrink theirs --frontier --target pi-5 --calibrate=rows.csv",
                "calibrate rows.csv",
            ),
            (
                "thimble deploy x.onnx",
                "thimble deploy x.onnx --target=pi-4 --to=pi@kitchen",
                "target pi-4, to pi@kitchen",
            ),
            (
                "thimble deploy x.onnx --inventory h",
                "thimble deploy x.onnx --inventory h --target=pi-4",
                "target pi-4",
            ),
            ("thimble inspect x.onnx", "thimble inspect x.onnx", ""),
            ("thimble shrink --help", "thimble shrink --help", ""),
            ("thimble", "thimble", ""),
        ];
        for (line, want, taken) in cases {
            assert_eq!(filled(line, TEXT).unwrap(), (want.into(), taken.into()), "{line}");
        }
    }

    #[test]
    fn a_spoilt_file_is_told_by_its_key() {
        let cases = [
            ("bugdet = \"1MiB\"", "unknown key 'bugdet'; did you mean budget?"),
            ("budget = 1.5", "budget must be a text"),
            ("budget = [", "TOML parse error"),
            ("to = \"a\"\nhosts = \"b\"", "give one"),
        ];
        for (text, want) in cases {
            let error = filled("thimble shrink x", text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
        // Commands that take nothing of it do not read it.
        assert!(filled("thimble slim x", "nonsense").is_ok());
    }
}
