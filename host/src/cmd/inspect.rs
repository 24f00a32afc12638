//! `thimble inspect`: where the bytes of a file are.

use crate::cli::{InspectArgs, Outcome};
use crate::explain::{Explanation, explain};
use crate::source;
use crate::subject::read_file;
use crate::text::{Align, exact, percent, table, thousands};
use anyhow::{Context, Result};
use std::path::Path;

/// Rows of a foreign file worth printing; `--json` has them all.
const MOST_ROWS: usize = 60;

pub fn run(args: &InspectArgs) -> Result<Outcome> {
    let file = read_file(&args.file)?;
    let explanation =
        explain(&args.file.display().to_string(), &file).with_context(|| args.file.display().to_string())?;
    let against = args.against.as_deref().map(bytes_of).transpose()?;
    let text = if args.json {
        let mut json = serde_json::to_value(&explanation)?;
        json["against_bytes"] = against.into();
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

/// Size of the model to compare with: a checkpoint's weights, or an ONNX file.
fn bytes_of(path: &Path) -> Result<u64> {
    if path.extension().is_some_and(|e| e == "onnx") {
        return Ok(std::fs::metadata(path)
            .with_context(|| path.display().to_string())?
            .len());
    }
    Ok(source::weight_file_bytes(path)?)
}

fn print(e: &Explanation, against: Option<u64>) -> String {
    let mut text = format!("{}: {}\n", e.file, exact(e.bytes));
    match (&e.head, e.layers) {
        (Some(head), Some(layers)) => text.push_str(&format!(
            "ALBERT with {layers} layers, head: {head}, {} parameters, opset {}\n",
            thousands(e.parameters()),
            e.opset
        )),
        _ => text.push_str(&format!(
            "not thimble's: an ONNX file by '{}', opset {}\n",
            e.producer, e.opset
        )),
    }
    if let Some(bytes) = against {
        text.push_str(&format!(
            "compared with: {}; this file is {:.3} times that\n",
            exact(bytes),
            e.bytes as f64 / bytes as f64
        ));
    }
    text.push('\n');
    let mut rows: Vec<Vec<String>> = e
        .parts
        .iter()
        .take(MOST_ROWS)
        .map(|p| {
            let shape = p.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×");
            vec![
                p.name.clone(),
                shape,
                p.format.clone(),
                thousands(p.bytes),
                percent(p.bytes, e.bytes),
                p.uses.to_string(),
            ]
        })
        .collect();
    if let Some(more) = e.parts.get(MOST_ROWS..).filter(|m| !m.is_empty()) {
        let bytes = more.iter().map(|p| p.bytes).sum();
        rows.push(vec![
            format!("{} smaller ones", more.len()),
            String::new(),
            String::new(),
            thousands(bytes),
            percent(bytes, e.bytes),
            String::new(),
        ]);
    }
    let rest = "nodes, names, metadata, alignment";
    rows.push(vec![
        rest.into(),
        String::new(),
        String::new(),
        thousands(e.rest),
        percent(e.rest, e.bytes),
        String::new(),
    ]);
    rows.push(vec![
        "total".into(),
        String::new(),
        String::new(),
        thousands(e.bytes),
        percent(e.bytes, e.bytes),
        String::new(),
    ]);
    let aligns = [
        Align::Left,
        Align::Right,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Right,
    ];
    text.push_str(&table(
        &["weight", "shape", "format", "bytes", "share", "uses"],
        &aligns,
        &rows,
    ));
    text
}
