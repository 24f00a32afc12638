//! The rows of the option table that `serve` takes, and how their values are read.

use std::time::Duration;

use super::flags::{Command, Flag};
use crate::serve::settings::Settings;

const TAKES: &[Command] = &[Command::Serve];

pub const FLAGS: [Flag; 11] = [
    Flag {
        name: "socket",
        value: "PATH",
        takes: TAKES,
        help: "listen on this Unix socket, for many clients at once, instead of stdin and stdout",
    },
    Flag {
        name: "mode",
        value: "0660",
        takes: TAKES,
        help: "set the socket's permissions (default {})",
    },
    Flag {
        name: "batch",
        value: "N",
        takes: TAKES,
        help: "compute at most this many sequences together (default {})",
    },
    Flag {
        name: "tokens",
        value: "N",
        takes: TAKES,
        help: "compute at most this many tokens together, padding included (default {}, or one sequence)",
    },
    Flag {
        name: "linger",
        value: "MS",
        takes: TAKES,
        help: "wait this long for more requests before computing (default {})",
    },
    Flag {
        name: "queue",
        value: "N",
        takes: TAKES,
        help: "stop reading when this many requests wait (default {})",
    },
    Flag {
        name: "max-line",
        value: "SIZE",
        takes: TAKES,
        help: "refuse a longer request line (default {})",
    },
    Flag {
        name: "max-unsent",
        value: "SIZE",
        takes: TAKES,
        help: "stop reading from a client with more unsent answers (default {})",
    },
    Flag {
        name: "timeout",
        value: "SECONDS",
        takes: TAKES,
        help: "drop a client of the socket that takes no answer for this long (default {})",
    },
    Flag {
        name: "clients",
        value: "N",
        takes: TAKES,
        help: "accept at most this many clients of the socket (default {})",
    },
    Flag {
        name: "tokenizer",
        value: "X.json",
        takes: &[Command::Run, Command::Serve],
        help: "use this tokenizer.json for text (default: the one beside FILE)",
    },
];

/// The default of one of [`FLAGS`], as the help prints it.
pub fn default_of(flag: &Flag) -> Option<String> {
    let default = Settings::default();
    match flag.name {
        "mode" => Some(format!("{:04o}", default.mode)),
        "batch" => Some(default.batch.to_string()),
        "tokens" => Some(default.tokens.to_string()),
        "linger" => Some(default.linger.as_millis().to_string()),
        "queue" => Some(default.queue.to_string()),
        "max-line" => Some(format!("{}MiB", default.max_line >> 20)),
        "max-unsent" => Some(format!("{}MiB", default.max_unsent >> 20)),
        "timeout" => Some(default.timeout.as_secs().to_string()),
        "clients" => Some(default.clients.to_string()),
        _ => None,
    }
}

/// Stores the text of one of [`FLAGS`]; on failure says what would have been right. `positive` and `size` read a number
/// from 1 to a bound, and bytes.
pub fn set(
    settings: &mut Settings,
    flag: &str,
    text: &str,
    positive: impl Fn(usize) -> Result<usize, String>,
    size: impl Fn() -> Result<u64, String>,
) -> Result<(), String> {
    let bytes = |least: u64| match size()? {
        n if (least..=1 << 30).contains(&n) => Ok(n as usize),
        _ => Err(format!("{least} bytes to 1GiB are possible")),
    };
    let duration = |unit: f64, most: f64, wanted: &str| {
        let value = text.parse::<f64>().ok().filter(|v| (0.0..=most).contains(v));
        value
            .map(|v| Duration::from_secs_f64(v * unit))
            .ok_or(wanted.to_string())
    };
    match flag {
        "mode" => {
            let mode = u32::from_str_radix(text, 8).ok().filter(|m| m & !0o777 == 0);
            settings.mode = mode.ok_or("octal permissions are needed, like 0600 or 0660")?;
        }
        "batch" => settings.batch = positive(1024)?,
        "tokens" => settings.tokens = positive(1 << 20)?,
        "linger" => settings.linger = duration(1e-3, 60_000.0, "milliseconds are needed, up to 60000")?,
        "queue" => settings.queue = positive(1 << 16)?,
        "max-line" => settings.max_line = bytes(64)?,
        "max-unsent" => settings.max_unsent = bytes(1)?,
        "timeout" => {
            settings.timeout =
                duration(1.0, 86_400.0, "seconds are needed, up to a day (86400)")?.max(Duration::from_millis(1));
        }
        "clients" => settings.clients = positive(4096)?,
        _ => {}
    }
    Ok(())
}
