//! `thimble deploy`: one board, or all of an inventory, over ssh; the report is compared with the target, the limits and the
//! board's last report, and added to the history.

use crate::board;
use crate::cli::{DeployArgs, Outcome};
use crate::deploy::inventory::{self, Host};
use crate::deploy::link::Link;
use crate::deploy::{Cargo, DeployError, Deployed, Order, deploy, item, surprises};
use crate::package::PROGRAM;
use crate::predict::need;
use crate::reports::{self, Entry};
use crate::subject::{Subject, tokenizer_beside};
use crate::text::{exact, printable, say, size};
use crate::virtual_board::device_program;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::sync::Mutex;
use thimble_shared::report::SCHEMA;
use thimble_shared::target::Target;

/// Boards done at the same time.
const AT_ONCE: usize = 8;

pub fn run(args: &DeployArgs) -> Result<Outcome> {
    let subject = Subject::open(&args.file)?;
    let Subject::File(file) = &subject else {
        bail!(
            "{}: a board runs files of thimble's; make one with thimble export or shrink",
            args.file.display()
        );
    };
    let graph = &file.artifact.graph;
    let program = device_program(args.device_program.as_deref())?;
    let name = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name == PROGRAM {
        bail!(
            "{}: rename it: the device program has this name on the board",
            args.file.display()
        );
    }
    let mut files = vec![
        item(&program, PROGRAM.into(), "755")?,
        item(&args.file, name.clone(), "644")?,
    ];
    let tokenizer = tokenizer_beside(&args.file);
    if tokenizer.is_file() {
        let name = tokenizer.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(item(&tokenizer, name, "644")?);
    }
    let positions = graph.config.max_position_embeddings;
    let seq = args.seq.unwrap_or(positions.min(128));
    let cargo = Cargo {
        need: need(&graph.config, Some(&graph.formats), files[1].bytes, seq),
        files,
        model: name,
    };
    let mut bench = vec!["--seq".to_string(), seq.to_string()];
    let mut option = |flag: &str, value: Option<String>| {
        bench.extend(value.into_iter().flat_map(|value| [flag.to_string(), value]));
    };
    option("--runs", args.runs.map(|n| n.to_string()));
    option("--threads", args.threads.map(|n| n.to_string()));
    option("--max-ram", args.max_ram.map(|r| r.as_u64().to_string()));
    option("--max-p95", args.max_p95.map(|ms| ms.to_string()));
    let order = Order {
        dir: &args.dir,
        bench: &bench,
        max_ram: args.max_ram.map(|r| r.as_u64()),
        keep: args.keep,
    };
    let history = match args.history.exists() {
        true => reports::load(&args.history)?,
        false => Vec::new(),
    };
    let hosts = match (&args.inventory, &args.to) {
        (Some(path), _) => inventory::read(path)?,
        (None, Some(to)) => vec![Host {
            name: to.clone(),
            to: to.clone(),
            port: None,
            target: None,
        }],
        (None, None) => bail!("give --to or --inventory"),
    };
    if hosts.is_empty() {
        bail!("the inventory names no host");
    }
    // A wrong target must be known before the first board is touched.
    let jobs = hosts
        .into_iter()
        .map(|host| {
            let named = host.target.as_deref().or(args.target.as_deref());
            let named =
                named.with_context(|| format!("{}: no thimble_target in the inventory and no --target", host.name))?;
            let target = board::find(named).with_context(|| host.name.clone())?;
            Ok((host, target))
        })
        .collect::<Result<Vec<_>>>()?;
    let done = Mutex::new(Vec::new());
    let next = Mutex::new(0..jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..jobs.len().min(AT_ONCE) {
            scope.spawn(|| {
                while let Some(at) = next.lock().ok().and_then(|mut n| n.next()) {
                    let (host, _) = &jobs[at];
                    let result = Link::new(&host.to, host.port, args.ssh_config.clone())
                        .map_err(DeployError::from)
                        .and_then(|link| deploy(&link, &cargo, &order));
                    if let Ok(mut done) = done.lock() {
                        done.push((at, result));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(at, _)| *at);
    let mut told = Told {
        several: jobs.len() > 1,
        ..Told::default()
    };
    for (at, result) in done {
        let (host, target) = &jobs[at];
        told.add(host, target, result, &history, args)?;
    }
    Ok(told.outcome(args.json, jobs.len()))
}

#[derive(Default)]
struct Told {
    several: bool,
    text: String,
    entries: Vec<Entry>,
    json: Vec<Value>,
    no: bool,
    error: Option<String>,
}

impl Told {
    fn add(
        &mut self,
        host: &Host,
        target: &Target,
        result: Result<Deployed, DeployError>,
        history: &[Entry],
        args: &DeployArgs,
    ) -> Result<()> {
        match result {
            Ok(deployed) => self.board(host, target, deployed, history, args),
            Err(DeployError::Refused(refusal)) => {
                self.no = true;
                self.text += &format!("{}: no: {refusal}\n", host.name);
                self.json
                    .push(json!({"board": host.name, "fits": false, "reason": refusal.to_string()}));
                Ok(())
            }
            Err(error) => {
                let error = format!("{}: {error}", host.name);
                self.json.push(json!({"board": host.name, "error": error}));
                self.error.get_or_insert(error.clone());
                // Of a single board the program's last word is this error.
                if self.several {
                    say(&format!("error: {error}"));
                }
                Ok(())
            }
        }
    }

    fn board(
        &mut self,
        host: &Host,
        target: &Target,
        deployed: Deployed,
        history: &[Entry],
        args: &DeployArgs,
    ) -> Result<()> {
        let Deployed {
            look,
            report,
            sent,
            breaks,
        } = deployed;
        // Emulators have a clock too: what it says must not enter the history as a time.
        let report = if report.board.emulated.is_some() {
            report.without_times()
        } else {
            report
        };
        let sent_text = match sent {
            0 => "everything was there already".to_string(),
            bytes => format!("sent {}", exact(bytes)),
        };
        let breaks_text = match breaks {
            0 => String::new(),
            n => format!(", taken up again {n} times"),
        };
        self.text += &format!(
            "{}: {sent_text}{breaks_text}; measured in {}\n",
            host.name,
            printable(&look.dir)
        );
        let against = [surprises(&look, target), reports::against_target(&report, target)].concat();
        for line in &against {
            self.text += &format!("  not as {} is listed: {}\n", target.name, printable(line));
        }
        let last = reports::last(history, &reports::Kind::of(&host.name, &report));
        let changes = last
            .map(|l| reports::against_last(&report, &l.report))
            .unwrap_or_default();
        for line in &changes {
            let when = last.and_then(|l| l.time.as_deref()).unwrap_or("the last report");
            self.text += &format!("  since {when}: {line}\n");
        }
        if let (Some(peak), Some(available)) = (report.memory.peak_rss, look.mem_available) {
            self.text += &format!("  peak {} of {} available\n", size(peak), size(available));
        }
        if args.keep {
            self.text += &format!("  kept: {} measures at every boot\n", crate::package::UNIT);
        }
        self.no |= !report.verdict.fits;
        let entry = Entry {
            schema: SCHEMA,
            time: Some(reports::now()),
            board: host.name.clone(),
            target: Some(target.name.clone()),
            report,
        };
        reports::append(&args.history, &entry)?;
        self.json.push(json!({
            "board": host.name, "fits": entry.report.verdict.fits, "sent": sent, "breaks": breaks, "dir": look.dir,
            "against_target": against, "against_last": changes, "report": entry.report,
        }));
        self.entries.push(entry);
        Ok(())
    }

    fn outcome(self, json: bool, boards: usize) -> Outcome {
        let text = if json {
            format!("{:#}\n", json!({"schema": 1, "boards": self.json}))
        } else {
            let table = if self.entries.is_empty() {
                String::new()
            } else {
                format!("\n{}", reports::as_table(&self.entries))
            };
            format!("{}{table}", self.text)
        };
        match self.error {
            Some(error) if boards == 1 => Outcome::malformed(text, error),
            Some(_) => Outcome::malformed(text, "not every board was reached".into()),
            None if self.no => Outcome::no(text),
            None => Outcome::yes(text),
        }
    }
}
