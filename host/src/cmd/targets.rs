//! `thimble targets`: the boards known, or all that is known of one.

use super::outcome::Outcome;
use crate::boards::cost_model::{albert_base, need};
use crate::boards::ssh::link::{Link, Sockets};
use crate::boards::{profile_file, profiles, tools};
use crate::cmd::deploy::address;
use crate::fs::atomic;
use crate::render::text::{Align, percent, size, table};
use anyhow::{Context, Error, Result, bail};
use std::path::PathBuf;
use thimble_device::session::DEFAULT_SEQ;
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::artifact::{self, Provenance};
use thimble_shared::board::target::{Confidence, Figure, Target};
use thimble_shared::dtype::Format;
use thimble_shared::model::ModelSpec;

#[derive(Debug, clap::Args)]
pub struct TargetsArgs {
    /// Describe this board: a name, or the path of a target file
    pub name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Ask a running board over ssh, and print a target file of it
    #[arg(long, value_name = "USER@HOST", conflicts_with_all = ["name", "new"])]
    pub probe: Option<String>,
    /// Print a target file to fill in, for a board of this name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["name", "json"])]
    pub new: Option<String>,
    /// Write the target file there; one that exists is left alone
    #[arg(short, long, value_name = "FILE.toml")]
    pub output: Option<PathBuf>,
    /// The port ssh listens on there [default: ssh's own]
    #[arg(long, value_name = "N", requires = "probe", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// ssh configuration to use instead of yours
    #[arg(long, value_name = "FILE", requires = "probe")]
    pub ssh_config: Option<PathBuf>,
}

/// Writes a target file, or prints it.
fn written(args: &TargetsArgs, text: String) -> Result<Outcome> {
    let Some(path) = &args.output else {
        return Ok(Outcome::yes(text));
    };
    atomic::write_whole(path, text.as_bytes())?;
    Ok(Outcome::yes(format!(
        "{}: a target file; thimble targets {0} shows it\n",
        path.display()
    )))
}

/// A target file of a running board.
fn probed(args: &TargetsArgs, to: &str) -> Result<Outcome> {
    tools::need(&["ssh"])?;
    let (to, port) = address(to, args.port)?;
    let sockets = Sockets::new(&std::env::temp_dir());
    let link = Link::new(&to, port, args.ssh_config.clone(), sockets.socket(0))?;
    let target = profile_file::probe(&link).with_context(|| to.clone())?;
    if args.json {
        return written(
            args,
            format!(
                "{:#}\n",
                serde_json::json!({ "schema": ANSWER_SCHEMA, "target": target })
            ),
        );
    }
    written(args, profile_file::write(&target))
}

pub fn run(args: &TargetsArgs) -> Result<Outcome> {
    if let Some(path) = &args.output {
        if args.probe.is_none() && args.new.is_none() {
            bail!("--output goes with --probe or --new");
        }
        if path.exists() {
            bail!("{}: is there already; name another file", path.display());
        }
        atomic::can_be_written(path)?;
    }
    if let Some(name) = &args.new {
        let text = profile_file::template(name);
        profile_file::read(&text)
            .map(|target| target.problems())
            .and_then(|problems| problems.first().map_or(Ok(()), |problem| Err(problem.clone())))
            .map_err(|problem| Error::msg(format!("--new {name}: {problem}")))?;
        return written(args, text);
    }
    if let Some(to) = &args.probe {
        return probed(args, to);
    }
    match &args.name {
        Some(name) => {
            let target = profiles::find(name)?;
            Ok(Outcome::yes(if args.json {
                format!(
                    "{:#}\n",
                    serde_json::json!({ "schema": ANSWER_SCHEMA, "target": target })
                )
            } else {
                one(&target)
            }))
        }
        None => list(args),
    }
}

/// All boards known, and what ALBERT-base would take of each.
fn list(args: &TargetsArgs) -> Result<Outcome> {
    let all = profiles::all()?;
    let (base, seq) = (albert_base(), DEFAULT_SEQ);
    let graph = ModelSpec::uniform(base, Format::I8);
    let file = artifact::size(&graph, LowerOptions::default(), &Provenance::default())?;
    let need = need(&graph.config, Some(&graph.formats), file as u64, seq).with_tokenizer(thimble_text::ALBERT_RAM);
    if args.json {
        let json = serde_json::json!({ "schema": ANSWER_SCHEMA, "targets": all, "albert_base_int8": need });
        return Ok(Outcome::yes(format!("{json:#}\n")));
    }
    let rows = all
        .iter()
        .map(|t| {
            vec![
                t.name.clone(),
                t.board.clone(),
                format!("{} × {}", t.cores.value, t.cpu),
                ram(t),
                t.ram_available.as_ref().map_or("unknown".into(), |f| size(f.value)),
                percent(need.total(), t.ram_available.as_ref().unwrap_or(&t.ram_total).value),
                t.features.value.join(" "),
            ]
        })
        .collect::<Vec<_>>();
    let heads = [
        "name",
        "board",
        "cores",
        "RAM",
        "available",
        "ALBERT-base i8",
        "features",
    ];
    let aligns = [
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Right,
        Align::Left,
    ];
    let predicted = format!(
        "ALBERT-base in i8 at {seq} tokens is predicted to need {} of RAM for texts: {} for the program, {} for activations, {} for the \
         file, {} for the tokenizer, which token ids do without\n",
        size(need.total()),
        size(need.program),
        size(need.activations),
        size(need.file),
        size(need.tokenizer)
    );
    Ok(Outcome::yes(table(&heads, &aligns, &rows) + &predicted))
}

/// The RAM it is sold with: 1, 2, 4, 8 GiB.
fn ram(t: &Target) -> String {
    let all: Vec<String> = t.ram_sizes().into_iter().map(|s| size(s).replace(".0 ", " ")).collect();
    let unit = |text: &str| text.rsplit_once(' ').map(|(_, unit)| unit.to_string());
    let mut told = Vec::new();
    for (at, text) in all.iter().enumerate() {
        let same = all.get(at + 1).is_some_and(|next| unit(next) == unit(text));
        let number = text.split(' ').next().unwrap_or(text);
        told.push(if same { number } else { text }.to_string());
    }
    told.join(", ")
}

fn one(t: &Target) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |what: &str, value: String, confidence: Confidence, source: &str| {
        let trust = match confidence {
            Confidence::Verified => "",
            Confidence::Unverified => "unverified: ",
        };
        rows.push(vec![what.to_string(), value, format!("{trust}{source}")]);
    };
    let bytes = |f: &Figure<u64>| (size(f.value), f.confidence, f.source.clone());
    let (c, s) = (t.cores.value.to_string(), &t.cores);
    row("cores", format!("{c} × {}", t.cpu), s.confidence, &s.source);
    row(
        "clock",
        format!("{} MHz", t.clock_mhz.value),
        t.clock_mhz.confidence,
        &t.clock_mhz.source,
    );
    row(
        "features",
        t.features.value.join(" "),
        t.features.confidence,
        &t.features.source,
    );
    let sizes = [
        ("RAM", Some(&t.ram_total)),
        ("RAM seen by Linux", t.ram_seen.as_ref()),
        ("RAM available", t.ram_available.as_ref()),
        ("page", Some(&t.page_size)),
        ("L1d", Some(&t.l1d)),
        ("L2", Some(&t.l2)),
        ("L3", t.l3.as_ref()),
    ];
    for (what, figure) in sizes.into_iter().filter_map(|(w, f)| Some((w, f?))) {
        let (value, confidence, source) = bytes(figure);
        row(what, value, confidence, &source);
        if let ("RAM", Some(variants)) = (what, &t.ram_variants) {
            row("RAM sizes", ram(t), variants.confidence, &variants.source);
        }
    }
    let notes: String = t.notes.iter().map(|n| format!("note: {n}\n")).collect();
    format!(
        "{} ({}), {}\nbuilt for {}, emulated as {}\n\n{}{notes}",
        t.board,
        t.name,
        t.soc,
        t.rustc_target,
        t.qemu_cpu,
        table(
            &["figure", "value", "source"],
            &[Align::Left, Align::Left, Align::Left],
            &rows
        )
    )
}
