//! The commands, and the options of those that end by themselves.

use crate::bench::report::{DEFAULT_RUNS, DEFAULT_SECONDS, DEFAULT_WARMUP};
use crate::serve::settings::Settings;
use crate::session::{DEFAULT_BATCH, DEFAULT_SEQ};
use Command::{Ask, Bench, Info, Run, Serve};

/// What the program is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Info,
    Run,
    Bench,
    Serve,
    Ask,
}

impl Command {
    /// All of them, in the order of the help.
    pub const ALL: [Command; 5] = [Info, Run, Bench, Serve, Ask];

    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Info => "info",
            Run => "run",
            Bench => "bench",
            Serve => "serve",
            Ask => "ask",
        }
    }
}

/// One option: a row of a table.
pub struct Flag {
    pub name: &'static str,
    /// What stands for its value in the help; empty where it takes none.
    pub value: &'static str,
    pub takes: &'static [Command],
    /// `{}` stands for the default.
    pub help: &'static str,
}

/// The default of one of [`FLAGS`], as the help prints it.
pub fn default_of(flag: &Flag) -> Option<String> {
    match flag.name {
        "seq" => Some(DEFAULT_SEQ.to_string()),
        "batch" => Some(DEFAULT_BATCH.to_string()),
        "runs" => Some(DEFAULT_RUNS.to_string()),
        "warmup" => Some(DEFAULT_WARMUP.to_string()),
        "timeout" => Some(Settings::default().timeout.as_secs().to_string()),
        "time" => Some(DEFAULT_SECONDS.to_string()),
        _ => None,
    }
}

pub const FLAGS: [Flag; 25] = [
    Flag {
        name: "text",
        value: "TEXT",
        takes: &[Run, Ask],
        help: "run on this text and print the answer; given several times, sentence embeddings are compared",
    },
    Flag {
        name: "pair",
        value: "TEXT",
        takes: &[Run, Ask],
        help: "add a second text: the context of a question; for multiple choice, give it once per choice",
    },
    Flag {
        name: "texts",
        value: "FILE",
        takes: &[Run, Ask],
        help: "answer each line of this file (- is stdin), one after another",
    },
    Flag {
        name: "ids",
        value: "2,17,3",
        takes: &[Run, Bench, Ask],
        help: "run on these token ids of one sequence; the mask is 1 for all of them",
    },
    Flag {
        name: "input",
        value: "X.safetensors",
        takes: &[Run, Bench],
        help: "read input_ids, attention_mask, token_type_ids (I64, [batch, seq]; the last two are optional)",
    },
    Flag {
        name: "output",
        value: "Y.safetensors",
        takes: &[Run],
        help: "write every output to this file, as F32",
    },
    Flag {
        name: "seq",
        value: "N",
        takes: &[Info, Run, Bench],
        help: "pad --ids to N tokens; without ids or input, make up N tokens (default {}); info predicts the RAM for N",
    },
    Flag {
        name: "batch",
        value: "N",
        takes: &[Bench],
        help: "compute the same sequence N times in one pass (default {})",
    },
    Flag {
        name: "runs",
        value: "N",
        takes: &[Bench],
        help: "time this many runs (default {})",
    },
    Flag {
        name: "warmup",
        value: "N",
        takes: &[Bench],
        help: "run this often before timing starts (default {})",
    },
    Flag {
        name: "spread",
        value: "PERCENT",
        takes: &[Bench],
        help: "run until the 95 % interval of the mean is this narrow, or --time is over",
    },
    Flag {
        name: "time",
        value: "SECONDS",
        takes: &[Bench],
        help: "stop timing after this long (default {} with --spread)",
    },
    Flag {
        name: "profile",
        value: "",
        takes: &[Bench],
        help: "add ten runs that show the time of each op and layer",
    },
    Flag {
        name: "cold",
        value: "",
        takes: &[Bench],
        help: "evict the file from the page cache first, so that loading reads from storage",
    },
    Flag {
        name: "pin",
        value: "0,1",
        takes: &[Run, Bench, Serve],
        help: "compute on these cores only",
    },
    Flag {
        name: "threads",
        value: "N",
        takes: &[Info, Run, Bench, Serve],
        help: "compute on this many threads (default: physical cores)",
    },
    Flag {
        name: "kernel",
        value: "NAME",
        takes: &[Info, Run, Bench, Serve],
        help: "compute with this kernel instead of the best one (info lists them)",
    },
    Flag {
        name: "max-ram",
        value: "SIZE",
        takes: &[Bench],
        help: "exit 1 when peak memory exceeds this: 24MiB, 30MB, or bytes",
    },
    Flag {
        name: "max-p95",
        value: "MS",
        takes: &[Bench],
        help: "exit 1 when the 95th percentile of the latency exceeds this",
    },
    Flag {
        name: "lock",
        value: "",
        takes: &[Run, Bench, Serve],
        help: "lock the model's pages in RAM, so that none is evicted",
    },
    Flag {
        name: "copy",
        value: "",
        takes: &[Info, Run, Bench, Serve],
        help: "read the model into private RAM instead of mapping it, so that later writes to the file have no effect",
    },
    Flag {
        name: "sha256",
        value: "HEX",
        takes: &[Info, Run, Bench, Serve],
        help: "refuse a model with another SHA-256; bench verifies after measuring, so that hashing does not warm the page cache",
    },
    Flag {
        name: "json",
        value: "",
        takes: &[Info, Run, Bench, Ask],
        help: "print one JSON object; ask prints one for each answer",
    },
    Flag {
        name: "socket",
        value: "PATH",
        takes: &[Ask],
        help: "ask the server at this socket (default: the user's own thimble.sock, else /run/thimble.sock)",
    },
    Flag {
        name: "timeout",
        value: "SECONDS",
        takes: &[Ask],
        help: "wait this long for an answer, and for a server that starts again (default {})",
    },
];
