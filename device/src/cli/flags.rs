//! The commands, and the options of those that end by themselves.

use Command::{Bench, Info, Run, Serve};

/// What the program is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Info,
    Run,
    Bench,
    Serve,
}

impl Command {
    /// All of them, in the order of the help.
    pub const ALL: [Command; 4] = [Info, Run, Bench, Serve];

    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Info => "info",
            Run => "run",
            Bench => "bench",
            Serve => "serve",
        }
    }
}

/// One option: a row of a table.
pub struct Flag {
    pub name: &'static str,
    /// What stands for its value in the help; empty where it takes none.
    pub value: &'static str,
    pub takes: &'static [Command],
    pub help: &'static str,
}

pub const FLAGS: [Flag; 20] = [
    Flag {
        name: "ids",
        value: "2,17,3",
        takes: &[Run, Bench],
        help: "token ids of one sequence, all of them real",
    },
    Flag {
        name: "input",
        value: "X.safetensors",
        takes: &[Run, Bench],
        help: "input_ids, attention_mask, token_type_ids (I64, [batch, seq]; the last two may be left out)",
    },
    Flag {
        name: "output",
        value: "Y.safetensors",
        takes: &[Run],
        help: "write every output there, as F32",
    },
    Flag {
        name: "seq",
        value: "N",
        takes: &[Info, Run, Bench],
        help: "pad --ids to N tokens; without ids or input, make up a sequence of N (default 128); info predicts RAM for it",
    },
    Flag {
        name: "batch",
        value: "N",
        takes: &[Bench],
        help: "sequences in one pass (default 1): the same one, N times",
    },
    Flag {
        name: "runs",
        value: "N",
        takes: &[Bench],
        help: "timed runs (default 50)",
    },
    Flag {
        name: "warmup",
        value: "N",
        takes: &[Bench],
        help: "runs before them that are not timed (default 5)",
    },
    Flag {
        name: "spread",
        value: "PERCENT",
        takes: &[Bench],
        help: "run until the mean is known to this, within 95 %, or the time is up",
    },
    Flag {
        name: "time",
        value: "SECONDS",
        takes: &[Bench],
        help: "stop timing after this (default 60 with --spread)",
    },
    Flag {
        name: "profile",
        value: "",
        takes: &[Bench],
        help: "then ten runs more, to say where the time goes: per op and layer",
    },
    Flag {
        name: "cold",
        value: "",
        takes: &[Bench],
        help: "put the file out of the page cache first, so that loading reads storage",
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
        help: "threads to compute on (default: physical cores)",
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
        help: "say no when peak memory is over this: 24MiB, 30MB, or bytes",
    },
    Flag {
        name: "max-p95",
        value: "MS",
        takes: &[Bench],
        help: "say no when 95 % of the runs are not within this",
    },
    Flag {
        name: "lock",
        value: "",
        takes: &[Run, Bench, Serve],
        help: "lock the model's pages in RAM, so none is evicted and read again",
    },
    Flag {
        name: "copy",
        value: "",
        takes: &[Info, Run, Bench, Serve],
        help: "read the model into RAM of its own, where nobody can write to it or cut it, instead of mapping it",
    },
    Flag {
        name: "sha256",
        value: "HEX",
        takes: &[Info, Run, Bench, Serve],
        help: "refuse a model with another SHA-256; bench looks when it has measured, which reading would change",
    },
    Flag {
        name: "json",
        value: "",
        takes: &[Info, Run, Bench],
        help: "print one JSON object",
    },
];
