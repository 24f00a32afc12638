//! `thimble shrink`: the ONNX file with the least measured loss under a byte budget.

use crate::board;
use crate::cli::{Outcome, ShrinkArgs};
use crate::cmd::{export, verify};
use crate::inputs::{self, Inputs, Row};
use crate::loss::decides;
use crate::solve::{Plan, Task, solve};
use crate::study::Floor;
use crate::subject::Subject;
use crate::text::{Align, exact, percent, say, size, table, thousands};
use anyhow::{Result, bail};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use thimble_shared::number::Format;

/// Rows the loss is reported on, beside those the choice is made on.
const REPORT_ROWS: usize = 256;
/// With fewer rows than this, choice and report share them all.
const SPLIT_FROM: usize = 16;

pub fn run(args: &ShrinkArgs) -> Result<Outcome> {
    let target = args.target.as_deref().map(board::find).transpose()?;
    let subject = Subject::open(&args.source)?;
    if let Some(output) = &args.output {
        export::refuse_inputs(&subject, output)?;
    }
    let config = subject.config().clone();
    if args.min_agreement.is_some() && !decides(&config) {
        bail!(
            "--min-agreement: a model with head {} decides nothing",
            config.head.name()
        );
    }
    let onnx = args.onnx.over(subject.options());
    let (provenance, tokenizer) = export::provenance(&subject)?;
    let inputs = inputs::load(
        args.calibrate.as_deref(),
        &config,
        subject.tokenizer(),
        Some(args.rows.saturating_add(REPORT_ROWS)),
    )?;
    if !inputs.given {
        say("warning: no --calibrate: the loss is measured on made-up token sequences and says little about real text");
    }
    if inputs.truncated > 0 {
        say(&format!(
            "warning: {} texts were longer than the model's positions and were cut",
            inputs.truncated
        ));
    }
    let mut formats = args.formats.clone();
    formats.sort();
    formats.dedup();
    let (tune, report) = split(&inputs, args.rows);
    let source = subject.model()?;
    let task = Task {
        source: &source,
        tune: &tune,
        report: &report,
        formats: &formats,
        budget: args.budget.as_u64(),
        onnx,
        provenance: &provenance,
    };
    let plan = match solve(&task, progress)? {
        Ok(plan) => plan,
        Err(floor) => return Ok(refuse(args, &formats, &floor)),
    };
    progress("");

    let mut reasons = Vec::new();
    if let Some(least) = args.min_agreement {
        let share = plan.loss.agreement.unwrap_or(0.0);
        if share < least {
            reasons.push(format!(
                "agreement {share:.4} is below --min-agreement {least}; a larger budget may keep it"
            ));
        }
    }
    let ram = target.as_ref().and_then(|t| Some((t, t.ram_available.as_ref()?.value)));
    if let Some((t, available)) = ram.filter(|(_, available)| plan.bytes > *available) {
        reasons.push(format!(
            "{} leaves {} of RAM, the file alone has {}",
            t.board,
            size(available),
            size(plan.bytes)
        ));
    }
    let write = reasons.is_empty() && !args.dry_run;
    let written = match &args.output {
        Some(output) if write => Some(export::write(&subject, &plan.model, onnx, output)?),
        _ => None,
    };
    let text = if args.json {
        format!(
            "{:#}\n",
            as_json(
                args,
                &plan,
                inputs.given,
                tokenizer.as_ref().map(String::len),
                &reasons,
                written.is_some()
            )
        )
    } else {
        let mut text = as_text(args, &plan, tune.len(), report.len());
        if let Some((t, available)) = ram {
            text.push_str(&format!(
                "{}: the file takes {} of the {} its system leaves\n",
                t.board,
                percent(plan.bytes, available),
                size(available)
            ));
        }
        match &written {
            Some(written) => text.push_str(&written.report()),
            None if reasons.is_empty() => text.push_str("dry run: nothing was written\n"),
            None => reasons
                .iter()
                .for_each(|r| text.push_str(&format!("no: {r}; nothing was written\n"))),
        }
        text
    };
    Ok(if reasons.is_empty() {
        Outcome::yes(text)
    } else {
        Outcome::no(text)
    })
}

/// Rows to choose on and rows to report on: apart where there are enough, so that no loss is reported on rows tuned on.
pub fn split(inputs: &Inputs, tune: usize) -> (Vec<Row>, Vec<Row>) {
    let rows = &inputs.rows;
    if rows.len() < SPLIT_FROM {
        return (rows.clone(), rows.clone());
    }
    let chosen: BTreeSet<usize> = inputs::sample(rows.len(), tune.min(rows.len() / 2))
        .into_iter()
        .collect();
    let pick = |want: bool| {
        let side = rows.iter().enumerate().filter(|(i, _)| chosen.contains(i) == want);
        side.map(|(_, row)| row.clone()).collect()
    };
    (pick(true), pick(false))
}

/// One line that is rewritten on a terminal; nothing elsewhere.
fn progress(text: &str) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        // Progress is a courtesy: a closed stderr must not stop the work.
        let _ = write!(err, "\r\x1b[K{text}");
        let _ = err.flush();
    }
}

fn refuse(args: &ShrinkArgs, formats: &[Format], floor: &Floor) -> Outcome {
    let mut parts: Vec<(String, u64)> = floor
        .formats
        .iter()
        .map(|(f, format)| (format!("{} in {format}", f.name), f.bytes(*format) as u64))
        .collect();
    parts.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    let text = if args.json {
        let json = json!({
            "schema": 1, "verdict": "over budget", "written": false, "budget": args.budget.as_u64(), "floor": floor.bytes,
            "floor_parts": parts.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect::<Vec<_>>(),
        });
        format!("{json:#}\n")
    } else {
        let biggest: Vec<String> = parts
            .iter()
            .take(4)
            .map(|(name, bytes)| format!("{name} {} ({})", size(*bytes), percent(*bytes, floor.bytes)))
            .collect();
        let list = formats.iter().map(Format::to_string).collect::<Vec<_>>().join(", ");
        format!(
            "no: a budget of {} is below the floor of {}, the smallest file in the formats {list}\n\
             the floor is set by {}\nnearest that fits: --budget {}; nothing was written\n",
            exact(args.budget.as_u64()),
            exact(floor.bytes),
            biggest.join(", "),
            floor.bytes
        )
    };
    Outcome::no(text)
}

fn as_text(args: &ShrinkArgs, plan: &Plan, tuned: usize, reported: usize) -> String {
    let rows: Vec<Vec<String>> = plan
        .problem
        .families
        .iter()
        .zip(&plan.choice)
        .enumerate()
        .map(|(i, (family, &choice))| {
            let format = plan.problem.options[i][choice];
            let bytes = family.bytes(format) as u64;
            vec![
                family.name.to_string(),
                format.to_string(),
                thousands(bytes),
                percent(bytes, plan.bytes),
                format!("{:.2e}", plan.problem.loss[i][choice]),
            ]
        })
        .collect();
    let aligns = [Align::Left, Align::Left, Align::Right, Align::Right, Align::Right];
    let mut text = table(&["weights", "format", "bytes", "share", "loss alone"], &aligns, &rows);
    text.push_str(&format!(
        "\n{} of {}: {} used\n",
        exact(plan.bytes),
        exact(args.budget.as_u64()),
        percent(plan.bytes, args.budget.as_u64())
    ));
    text.push_str(&match &plan.next {
        Some((family, format, bytes)) => format!("next step up: {family} in {format} makes {}\n", exact(*bytes)),
        None => "no format on offer would lose less\n".to_string(),
    });
    text.push_str(&format!(
        "loss predicted {:.3e}, measured {:.3e} on {tuned} tuning rows ({} choices run)\n",
        plan.predicted, plan.measured, plan.verified
    ));
    text.push_str(&format!(
        "channels {}: the smallest model's loss is {:.3e} as it came, {:.3e} with channels rescaled between adjacent weights\n",
        if plan.equalised { "rescaled" } else { "left as they were" },
        plan.floor_loss.plain,
        plan.floor_loss.equalised
    ));
    text.push_str(&format!(
        "\non {reported} rows for the report:\n{}\n",
        verify::describe(&plan.loss)
    ));
    text
}

fn as_json(
    args: &ShrinkArgs,
    plan: &Plan,
    calibrated: bool,
    tokenizer: Option<usize>,
    reasons: &[String],
    written: bool,
) -> serde_json::Value {
    let families: Vec<_> = plan
        .problem
        .families
        .iter()
        .zip(&plan.choice)
        .enumerate()
        .map(|(i, (family, &choice))| {
            let format = plan.problem.options[i][choice];
            json!({
                "name": family.name, "format": format.to_string(), "bytes": family.bytes(format),
                "weights": family.weights.iter().map(|w| &w.name).collect::<Vec<_>>(),
                "loss_alone": plan.problem.options[i].iter().zip(&plan.problem.loss[i])
                    .map(|(f, l)| (f.to_string(), json!(l))).collect::<serde_json::Map<_, _>>(),
            })
        })
        .collect();
    json!({
        "schema": 1,
        "verdict": if reasons.is_empty() { "fits" } else { "refused" },
        "reasons": reasons,
        "written": written,
        "budget": args.budget.as_u64(),
        "bytes": plan.bytes,
        "tokenizer_bytes": tokenizer,
        "calibrated": calibrated,
        "families": families,
        "predicted_loss": plan.predicted,
        "measured_loss": plan.measured,
        "equalised": plan.equalised,
        "floor_loss": { "plain": plan.floor_loss.plain, "equalised": plan.floor_loss.equalised },
        "next_step": plan.next.as_ref().map(|(family, format, bytes)| json!({"family": family, "format": format.to_string(), "bytes": bytes})),
        "loss": plan.loss,
    })
}
