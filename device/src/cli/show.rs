//! Prints what the device program found, for people or as one JSON object. Sizes are shown in MiB (1024²), times in
//! milliseconds; what is not known is a dash here and null in JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use thimble_shared::decode;

use crate::Outputs;
use crate::engine::kernels::Kernels;
use crate::engine::tensors::Tensor;
use serde_json::{Value, json};
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::board::memory::Need;
use thimble_shared::board::report::{
    BoardReport, EngineReport, Faults, Latency, Memory, ModelReport, ProfileReport, Report, Thermal,
};
use thimble_shared::model::{AnswerKind, AttentionArithmetic, Config};
use thimble_shared::terminal::printable;

fn size(bytes: impl Into<Option<u64>>) -> String {
    bytes.into().map_or("-".to_string(), |b| {
        bytesize::ByteSize::b(b).display().iec().to_string()
    })
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_string(), |v| v.to_string())
}

fn ms(value: Option<f64>) -> String {
    value.map_or("-".to_string(), |v| format!("{v:.2}"))
}

/// "12 of i8, 3 of f32"
fn formats(model: &ModelReport) -> String {
    let mut count = BTreeMap::<&str, usize>::new();
    for format in model.formats.values() {
        *count.entry(format).or_default() += 1;
    }
    count
        .iter()
        .map(|(format, n)| format!("{n} of {format}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn model_lines(text: &mut String, model: &ModelReport) {
    let _ = writeln!(
        text,
        "model    {}  {}  weights: {}",
        model.file,
        size(model.bytes),
        formats(model)
    );
}

fn board_lines(text: &mut String, board: &BoardReport) {
    let name = board.model.as_deref().unwrap_or("unnamed board");
    let part = board
        .cpu_part
        .as_deref()
        .map_or(String::new(), |p| format!(", CPU part {p}"));
    let _ = writeln!(
        text,
        "board    {name}{part}, {} cores, {} MHz",
        or_dash(board.cores),
        or_dash(board.mhz)
    );
    let _ = writeln!(text, "features {}", board.features.join(" "));
    let limit = board
        .cgroup_limit
        .map_or(String::new(), |b| format!(", group limit {}", size(b)));
    let _ = writeln!(
        text,
        "memory   {} in all, {} available{limit}, pages of {}",
        size(board.mem_total),
        size(board.mem_available),
        size(board.page_size)
    );
    let governor = board
        .governor
        .as_deref()
        .map_or(String::new(), |g| format!(", governor {g}"));
    let _ = writeln!(text, "kernel   {}{governor}", or_dash(board.kernel.as_deref()));
    if let Some(emulator) = &board.emulated {
        let _ = writeln!(text, "note     this board is {emulator}: times mean nothing here");
    }
}

pub fn board(board: &BoardReport, json: bool) -> String {
    let (f32s, i8s) = Kernels::available();
    if json {
        return line(json!({
            "schema": ANSWER_SCHEMA, "version": env!("CARGO_PKG_VERSION"), "board": board,
            "kernels": {"f32": f32s, "i8": i8s}, "model": null,
        }));
    }
    let mut text = String::new();
    board_lines(&mut text, board);
    kernel_lines(&mut text, &f32s, &i8s);
    text
}

fn kernel_lines(text: &mut String, f32s: &[String], i8s: &[String]) {
    let _ = writeln!(
        text,
        "kernels  f32: {}; int8: {} (best first)",
        f32s.join(", "),
        i8s.join(", ")
    );
}

pub fn info(
    board: &BoardReport,
    model: &ModelReport,
    engine: &EngineReport,
    config: &Config,
    (seq, need): &(usize, Need),
    load_ms: f64,
    json: bool,
) -> String {
    let (f32s, i8s) = Kernels::available();
    if json {
        return line(json!({
            "schema": ANSWER_SCHEMA, "version": env!("CARGO_PKG_VERSION"), "board": board,
            "kernels": {"f32": f32s, "i8": i8s}, "model": model, "config": config,
            "engine": engine, "load_ms": load_ms, "seq": seq, "predicted": need,
        }));
    }
    let mut text = String::new();
    model_lines(&mut text, model);
    let _ = writeln!(
        text,
        "network  {} layers in {} groups, hidden {}, heads {}, vocabulary {}, up to {} tokens, head: {}{}{}",
        config.num_hidden_layers,
        config.num_hidden_groups,
        config.hidden_size,
        config.num_attention_heads,
        config.vocab_size,
        config.max_position_embeddings,
        config.head.name(),
        config
            .sentence
            .as_ref()
            .map_or(String::new(), |sentence| format!(" ({sentence})")),
        match config.attention {
            AttentionArithmetic::F32 => "",
            AttentionArithmetic::Int8 => ", attention in int8",
        }
    );
    let _ = writeln!(
        text,
        "engine   tract {}, {}, {} threads, loaded in {load_ms:.2} ms",
        engine.tract,
        engine.kernels.join(", "),
        engine.threads
    );
    let _ = writeln!(
        text,
        "RAM      {seq} tokens: {} predicted ({}){}",
        size(need.total()),
        parts(need),
        match need.tokenizer {
            0 => ", for token ids".to_string(),
            _ => format!("; with token ids alone {}", size(need.with_tokenizer(0).total())),
        }
    );
    board_lines(&mut text, board);
    kernel_lines(&mut text, &f32s, &i8s);
    text
}

/// "4.0 MiB program, 1.2 MiB activations, 11.4 MiB file"
fn parts(need: &Need) -> String {
    let (model, what) = match need.copy {
        0 => (need.file, "file"),
        copy => (copy, "copy of the file"),
    };
    let tokenizer = match need.tokenizer {
        0 => String::new(),
        bytes => format!(", {} tokenizer", size(bytes)),
    };
    format!(
        "{} program, {} activations, {} {what}{tokenizer}",
        size(need.program),
        size(need.activations),
        size(model)
    )
}

/// Ops summed over the layers, slowest first, then what the linear maps do, then the layers.
fn profile_lines(text: &mut String, profile: &ProfileReport) {
    let percent = |ms: f64, of: f64| if of > 0.0 { 100.0 * ms / of } else { 0.0 };
    let mut kinds = BTreeMap::<&str, (f64, u32)>::new();
    let mut layers = BTreeMap::<Option<u32>, f64>::new();
    for op in &profile.ops {
        let (ms, calls) = kinds.entry(&op.op).or_default();
        (*ms, *calls) = (*ms + op.ms, *calls + op.calls);
        *layers.entry(op.layer).or_default() += op.ms;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    let _ = writeln!(text, "profile  {:.3} ms a run, {} runs", profile.ms, profile.runs);
    let mut row = |name: &str, ms: f64, share: f64, calls: Option<u32>| {
        let calls = calls.map_or(String::new(), |n| format!("  {n} calls"));
        let _ = writeln!(text, "         {name:<20} {ms:>9.3} ms {share:>5.1} %{calls}");
    };
    for (name, (ms, calls)) in kinds {
        row(name, ms, percent(ms, profile.ms), Some(calls));
    }
    row("rest", profile.rest_ms, percent(profile.rest_ms, profile.ms), None);
    let inside: f64 = profile.linear_ms.values().sum();
    for (kind, &ms) in &profile.linear_ms {
        row(&format!("linear maps: {kind}"), ms, percent(ms, inside), None);
    }
    for (layer, ms) in layers {
        let name = layer.map_or("outside the layers".to_string(), |l| format!("layer {l}"));
        row(&name, ms, percent(ms, profile.ms), None);
    }
}

pub fn outputs(outputs: &Outputs, config: &Config, model: &ModelReport, ms: f64, json: bool) -> String {
    if json {
        let all: serde_json::Map<String, Value> = outputs
            .0
            .iter()
            .map(|(name, t)| (name.clone(), json!({"shape": t.shape, "data": t.data})))
            .collect();
        return line(
            json!({"schema": ANSWER_SCHEMA, "model": model, "ms": ms, "labels": labels(outputs, config), "outputs": all}),
        );
    }
    let mut text = String::new();
    for (row, (label, probability)) in labels(outputs, config).iter().flatten().enumerate() {
        let _ = writeln!(text, "row {row}: {} ({:.1} %)", printable(label), probability * 100.0);
    }
    for (name, tensor) in &outputs.0 {
        let _ = writeln!(text, "{name} {:?}: {}", tensor.shape, first_values(tensor));
    }
    let _ = writeln!(text, "{ms:.2} ms");
    text
}

fn first_values(tensor: &Tensor<f32>) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> = tensor.data.iter().take(SHOWN).map(|v| format!("{v:.5}")).collect();
    shown.join(" ") + if tensor.data.len() > SHOWN { " …" } else { "" }
}

/// The likeliest label of each row and its probability, where the head classifies sequences.
fn labels<'a>(outputs: &Outputs, config: &'a Config) -> Option<Vec<(&'a str, f64)>> {
    let logits = outputs
        .get("logits")
        .filter(|_| config.head.answer() == AnswerKind::Labels)?;
    let best = |row: &[f32]| {
        let at = decode::argmax(row)?;
        Some((config.labels.get(at)?.as_str(), decode::softmax(row)[at]))
    };
    logits.data.chunks_exact(config.labels.len().max(1)).map(best).collect()
}

pub fn report(report: &Report, json: bool) -> String {
    if json {
        // Not by way of a Value, which would sort the fields: the contract's order reads better.
        return serde_json::to_string(report).unwrap_or_default() + "\n";
    }
    let mut text = String::new();
    model_lines(&mut text, &report.model);
    board_lines(&mut text, &report.board);
    engine_lines(&mut text, report);
    latency_lines(&mut text, &report.latency_ms);
    memory_lines(&mut text, &report.memory, &report.faults);
    heat_lines(&mut text, report);
    if let Some(profile) = &report.profile {
        profile_lines(&mut text, profile);
    }
    for warning in &report.warnings {
        let _ = writeln!(text, "warning  {warning}");
    }
    if report.verdict.fits {
        text += "verdict  yes\n";
    }
    for reason in &report.verdict.reasons {
        let _ = writeln!(text, "verdict  no: {reason}");
    }
    text
}

/// What computes, and how long it took to be ready.
fn engine_lines(text: &mut String, report: &Report) {
    let e = &report.engine;
    let locked = match (e.locked, e.copied) {
        (true, _) => ", pages locked",
        (_, true) => ", model copied",
        _ => "",
    };
    let _ = writeln!(
        text,
        "engine   tract {}, {}, {} threads{locked}",
        e.tract,
        e.kernels.join(", "),
        e.threads
    );
    let _ = writeln!(
        text,
        "load     {} ms, first inference {} ms{}",
        ms(report.load_ms),
        ms(report.first_inference_ms),
        match report.cold_start {
            Some(true) => ", from storage",
            Some(false) => ", the page cache could not be emptied",
            None => "",
        }
    );
}

/// The runs, their mean and their percentiles.
fn latency_lines(text: &mut String, l: &Latency) {
    let _ = writeln!(
        text,
        "latency  {}{} tokens, {} runs after {} to warm up: mean {} ± {} ms",
        if l.batch > 1 {
            format!("{} × ", l.batch)
        } else {
            String::new()
        },
        l.seq,
        l.runs,
        l.warmup,
        ms(l.mean),
        ms(l.sd)
    );
    let _ = writeln!(
        text,
        "         min {}  p50 {}  p90 {}  p95 {}  p99 {}  max {}",
        ms(l.min),
        ms(l.p50),
        ms(l.p90),
        ms(l.p95),
        ms(l.p99),
        ms(l.max)
    );
}

/// Memory measured and predicted, and the page faults.
fn memory_lines(text: &mut String, m: &Memory, f: &Faults) {
    let _ = writeln!(
        text,
        "RAM      peak {}, {} before loading; now {} of its own, {} of files",
        size(m.peak_rss),
        size(m.baseline_rss),
        size(m.anon),
        size(m.file)
    );
    if let Some(need) = &m.predicted {
        let _ = writeln!(text, "         {} predicted: {}", size(need.total()), parts(need));
    }
    let _ = writeln!(
        text,
        "faults   {} major, {} minor in the timed runs",
        or_dash(f.major),
        or_dash(f.minor)
    );
}

/// Temperatures, and whether the clock was held down; what a machine does not tell is left out.
fn thermal(t: &Thermal) -> String {
    let degrees = match (t.start_c, t.end_c) {
        (Some(start), Some(end)) => Some(format!("{start:.1} °C to {end:.1} °C")),
        (Some(only), None) | (None, Some(only)) => Some(format!("{only:.1} °C")),
        (None, None) => None,
    };
    let throttled = t.throttled.map(|throttled| match throttled {
        true => "throttled".to_string(),
        false => "not throttled".to_string(),
    });
    let told: Vec<String> = degrees.into_iter().chain(throttled).collect();
    match told.is_empty() {
        true => "not told by this machine".to_string(),
        false => told.join(", "),
    }
}

/// Temperatures, and the energy of one inference where a sensor tells it.
fn heat_lines(text: &mut String, report: &Report) {
    let _ = writeln!(text, "thermal  {}", thermal(&report.thermal));
    if let Some(e) = &report.energy {
        let idle = e.idle_watts.map_or(String::new(), |w| format!(" ({w:.2} W idle)"));
        let _ = writeln!(
            text,
            "energy   {:.1} mJ per inference: {:.2} W{idle}, {} readings of {}",
            e.mj_per_inference, e.watts, e.readings, e.sensor
        );
    }
}

fn line(value: Value) -> String {
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperatures_that_nobody_tells_are_left_out() {
        let cases = [
            (
                (Some(40.0), Some(52.26), Some(false)),
                "40.0 °C to 52.3 °C, not throttled",
            ),
            ((None, Some(52.0), None), "52.0 °C"),
            ((None, None, Some(true)), "throttled"),
            ((None, None, None), "not told by this machine"),
        ];
        for ((start_c, end_c, throttled), want) in cases {
            let told = thermal(&Thermal {
                start_c,
                end_c,
                throttled,
            });
            assert_eq!(told, want);
        }
    }

    #[test]
    fn the_tokenizer_is_a_part_where_texts_are_served() {
        let need = Need {
            program: 1 << 20,
            activations: 1 << 20,
            file: 1 << 20,
            copy: 0,
            tokenizer: 0,
        };
        assert!(!parts(&need).contains("tokenizer"));
        let texts = need.with_tokenizer(2 << 20);
        assert_eq!(texts.total(), 5 << 20);
        assert!(parts(&texts).ends_with(", 2.0 MiB tokenizer"));
    }
}
