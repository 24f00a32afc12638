//! `thimble inspect`: where the bytes of a file are, and why.

use super::outcome::Outcome;
use crate::fs::atomic::{self, write_whole};
use crate::inspect::causes::title;
use crate::inspect::growth::Growth;
use crate::inspect::{Explanation, explain, html};
use crate::models::checkpoint;
use crate::models::model_file::onnx_in;
use crate::onnx::OnnxFile;
use crate::render::text::{Align, exact, percent, printable, remark, table, thousands};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use thimble_device::image::mmap::ModelMap;
use thimble_shared::file_kind::FileKind;

#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Read this ONNX file
    pub file: PathBuf,
    /// Compare sizes with the checkpoint it came from, or with another ONNX file
    #[arg(long, value_name = "SRC")]
    pub against: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write a self-contained HTML page with a map of the file
    #[arg(long, value_name = "OUT.html")]
    pub html: Option<PathBuf>,
}

/// Rows of a foreign file worth printing; `--json` has them all.
const MOST_ROWS: usize = 20;

pub fn run(args: &InspectArgs) -> Result<Outcome> {
    args.html.as_deref().map_or(Ok(()), atomic::can_be_written)?;
    let explanation = explain(&args.file)?;
    let against = args.against.as_deref().map(bytes_of).transpose()?;
    if let Some(page) = &args.html {
        atomic::refuse_inputs(page, inputs(args)?.iter().map(PathBuf::as_path))?;
        write_whole(page, html::page(&explanation, against).as_bytes())?;
        remark(&format!("{}: written", printable(&page.display().to_string())));
    }
    let text = if args.json {
        let mut json = serde_json::to_value(&explanation)?;
        json["against_bytes"] = against.into();
        json["growth"] = serde_json::to_value(against.map(|bytes| Growth::of(&explanation.account, bytes)))?;
        json["total_bytes"] = explanation.account.total().into();
        format!("{json:#}\n")
    } else {
        print(&explanation, against)
    };
    if explanation.differences.is_empty() {
        return Ok(Outcome::yes(text));
    }
    let differences = explanation.differences.join("; ");
    let file = args.file.display();
    Ok(Outcome::malformed(
        text,
        format!("{file}: nodes and metadata contradict each other: {differences}"),
    ))
}

/// Everything that is read: the file and what it is compared with, each with the files beside it that hold its weights.
fn inputs(args: &InspectArgs) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in [Some(&args.file), args.against.as_ref()].into_iter().flatten() {
        let onnx = if path == &args.file {
            Some(path.clone())
        } else {
            onnx_at(path)?
        };
        all.push(path.clone());
        match onnx {
            Some(onnx) => all.extend(OnnxFile::open(&onnx)?.paths()),
            None => all.extend(checkpoint::files(path)?),
        }
    }
    Ok(all)
}

/// The ONNX file that `path` is, or that stands for the folder; none where a checkpoint lies there.
fn onnx_at(path: &Path) -> Result<Option<PathBuf>> {
    if path.is_dir() {
        let exported = onnx_in(path)?;
        return Ok(exported.filter(|_| !checkpoint::holds_weights(path)));
    }
    if checkpoint::is_checkpoint(path) {
        return Ok(None);
    }
    let kind = FileKind::of(ModelMap::open(path, false)?.bytes());
    Ok((!kind.is_checkpoint()).then(|| path.to_path_buf()))
}

/// Size of the model to compare with: a checkpoint's weights, or an ONNX file with what it refers to.
fn bytes_of(path: &Path) -> Result<u64> {
    let Some(onnx) = onnx_at(path)? else {
        return Ok(checkpoint::weight_file_bytes(path)?);
    };
    let file = OnnxFile::open(&onnx)?;
    // Whatever else it may be, ten bytes of anything are nothing to compare with.
    if file.view()?.nodes.is_empty() {
        bail!(
            "{}: it holds no nodes, so there is nothing to compare with",
            path.display()
        );
    }
    let beside: usize = file
        .externals()
        .filter_map(|(_, bytes)| bytes.ok().map(<[u8]>::len))
        .sum();
    Ok((file.bytes().len() + beside) as u64)
}

fn print(e: &Explanation, against: Option<u64>) -> String {
    let mut text = format!("{}: {}\n", printable(&e.file), exact(e.bytes));
    let growth = against.map(|bytes| (bytes, Growth::of(&e.account, bytes)));
    match (&e.head, e.layers) {
        (Some(head), Some(layers)) => text.push_str(&format!(
            "ALBERT with {layers} layers, head: {head}{}{}, {} parameters, opset {}\n",
            e.sentence
                .as_ref()
                .map_or(String::new(), |sentence| format!(" ({sentence})")),
            e.attention
                .map_or(String::new(), |arithmetic| format!(", attention in {arithmetic}")),
            thousands(e.parameters()),
            e.opset
        )),
        _ => text.push_str(&format!(
            "not thimble's: an ONNX file by '{}', opset {}\n",
            printable(&e.producer),
            e.opset
        )),
    }
    for piece in e.account.files.iter().skip(1) {
        text.push_str(&format!("with {}: {}\n", piece.name, exact(piece.bytes)));
    }
    if let Some((bytes, growth)) = &growth {
        text.push_str(&format!(
            "compared with: {}; this file is {:.3} times that\n",
            exact(*bytes),
            growth.factor
        ));
    }
    if e.kind == "onnx" {
        text.push('\n');
        text.push_str(&causes(e, growth.map(|(_, growth)| growth).filter(|g| g.bytes > 0)));
        text.push_str(&types(e));
        text.push_str(&fixes(e));
    }
    text.push('\n');
    text.push_str(&parts(e));
    for note in &e.account.notes {
        text.push_str(&format!("\n{note}\n"));
    }
    text
}

/// Bytes by cause; where it has grown, each cause's share of the growth.
fn causes(e: &Explanation, growth: Option<Growth>) -> String {
    let total = e.account.total();
    let shown = |share: Option<f64>| share.map_or(String::new(), |s| format!("{:.1} %", s * 100.0));
    let share = |cause| growth.as_ref().and_then(|g| g.causes.get(cause)?.share);
    let mut rows: Vec<_> = e.account.causes.iter().collect();
    rows.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    let row = |why: &str, bytes: u64, share: Option<f64>| {
        vec![why.to_string(), thousands(bytes), percent(bytes, total), shown(share)]
    };
    let mut rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(cause, &bytes)| row(title(*cause), bytes, share(cause)))
        .collect();
    rows.push(row("total", total, growth.as_ref().map(|_| 1.0)));
    let aligns = [Align::Left, Align::Right, Align::Right, Align::Right];
    let mut text = table(&["why", "bytes", "share", "of the growth"], &aligns, &rows);
    if let Some(Growth { weights, .. }) = growth {
        text.push_str(&format!(
            "the weights themselves take {} bytes {} than what it is compared with ({} of the growth)\n",
            thousands(weights.bytes.unsigned_abs()),
            if weights.bytes < 0 { "less" } else { "more" },
            shown(weights.share)
        ));
    }
    text
}

fn types(e: &Explanation) -> String {
    let list: Vec<String> = e
        .account
        .payload
        .iter()
        .map(|(element, bytes)| format!("{element} {}", thousands(*bytes)))
        .collect();
    format!("payload by element type: {}\n", list.join(", "))
}

fn fixes(e: &Explanation) -> String {
    if e.fixes.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = e
        .fixes
        .iter()
        .map(|f| {
            vec![
                thousands(f.saves),
                thousands(f.bytes),
                f.command.clone(),
                f.what.clone(),
            ]
        })
        .collect();
    let aligns = [Align::Right, Align::Right, Align::Left, Align::Left];
    format!(
        "\n{}",
        table(&["saves", "leaves", "command", "what it does"], &aligns, &rows)
    )
}

fn parts(e: &Explanation) -> String {
    let total = e.account.total();
    let cut = if e.kind == "onnx" { MOST_ROWS } else { usize::MAX };
    let row = |name: &str, bytes: u64| {
        let empty = String::new;
        vec![
            name.to_string(),
            empty(),
            empty(),
            thousands(bytes),
            percent(bytes, total),
            empty(),
        ]
    };
    let mut rows: Vec<Vec<String>> = e
        .parts
        .iter()
        .take(cut)
        .map(|p| {
            let shape = p.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×");
            vec![
                printable(&p.name),
                shape,
                p.format.clone(),
                thousands(p.bytes),
                percent(p.bytes, total),
                p.uses.to_string(),
            ]
        })
        .collect();
    if let Some(more) = e.parts.get(cut..).filter(|m| !m.is_empty()) {
        let bytes = more.iter().map(|p| p.bytes).sum();
        rows.push(row(&format!("{} smaller ones", more.len()), bytes));
    }
    rows.push(row("nodes, names, metadata, alignment", e.rest));
    rows.push(row("total", total));
    let aligns = [
        Align::Left,
        Align::Right,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Right,
    ];
    table(&["weight", "shape", "format", "bytes", "share", "uses"], &aligns, &rows)
}
