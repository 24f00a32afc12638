//! What stands beside a plan: what other files of the model lose, what was weighed between integer arithmetic and f32, and how
//! the model was prepared. As lines for people, or as parts of the JSON object.

use crate::budget::attention::Attention;
use crate::budget::integer_arithmetic::Trade;
use crate::budget::sensitivity::Yardstick;
use crate::budget::solver::Plan;
use crate::eval::metrics::Score;
use crate::quantize::shift::Reach;
use crate::render::text::{Align, table};
use serde_json::{Value, json};
use thimble_shared::dtype::Format;

/// What other files of the model lose, and the rule behind the word.
pub fn yardsticks_text(plan: &Plan) -> String {
    let score = plan.loss.score();
    let each: Vec<String> = plan
        .yardsticks
        .iter()
        .map(|y| match &y.score {
            Ok(score) => format!("{} {:.4} ({:.4})", y.name, score.relative_rms(), score.plain_rms()),
            Err(why) => format!("{} {why}", y.name),
        })
        .collect();
    let beside = match each.is_empty() {
        true => String::new(),
        false => format!("beside it: {}; ", each.join(", ")),
    };
    format!("{beside}{}\n\n", score.rule())
}

pub fn yardstick_json(yardstick: &Yardstick) -> Value {
    let score = yardstick.score.as_ref();
    json!({
        "name": yardstick.name,
        "relative_rms": score.ok().map(Score::plain_rms),
        "channel_rms": score.ok().map(Score::relative_rms),
        "why": score.err(),
    })
}

/// What was weighed between integer arithmetic and f32.
pub fn trade_text(plan: &Plan) -> String {
    let Some(trade) = &plan.trade else { return String::new() };
    let said = |score: Score| format!("{} ({})", score.felt(), score.word().name());
    let mut text = "arithmetic: integers in every linear map".to_string();
    if !trade.wide.is_empty() {
        let wide: Vec<String> = trade
            .wide
            .iter()
            .map(|(name, format)| format!("{name} ({format})"))
            .collect();
        let time: Vec<String> = trade.time.iter().map(|(cpu, t)| format!("{t:.2} on {cpu}")).collect();
        text = format!("arithmetic: f32 in {}", wide.join(", "));
        if !time.is_empty() {
            text += "; predicted time relative to integers throughout (--prefer speed): ";
            text += &time.join(", ");
        }
    }
    text += &format!("; on the tuning rows {}", said(trade.chosen));
    text += &match trade.with {
        _ if trade.takes_w8() => format!(", without w8 {}", said(trade.without)),
        Some(with) => format!(", with w8 at best {}, which is not enough for its time", said(with)),
        None => ", without w8; --prefer loss would use it wherever it loses less".to_string(),
    };
    text + "\n"
}

/// In which arithmetic attention multiplies, and why.
pub fn attention_text(attention: &Attention) -> String {
    let said = |score: Score| format!("{} ({})", score.felt(), score.word().name());
    match *attention {
        Attention::Given(arithmetic, "") => format!("attention in {arithmetic}, as asked\n"),
        Attention::Given(arithmetic, why) => format!("attention in {arithmetic}: {why}\n"),
        Attention::Weighed { taken, f32, int8 } => format!(
            "attention in {taken}: on the tuning rows int8 gives {}, f32 {}\n",
            said(int8),
            said(f32)
        ),
    }
}

pub fn attention_json(attention: &Attention) -> Value {
    let (why, scores) = match *attention {
        Attention::Given(_, why) => (Some(why).filter(|why| !why.is_empty()), None),
        Attention::Weighed { f32, int8, .. } => (None, Some((f32, int8))),
    };
    json!({
        "arithmetic": attention.arithmetic(), "why": why,
        "f32": scores.map(|(f32, _)| score_json(f32)), "int8": scores.map(|(_, int8)| score_json(int8)),
    })
}

fn score_json(score: Score) -> Value {
    json!({
        "word": score.word(), "relative_rms": score.plain_rms(), "channel_rms": score.relative_rms(),
        "agreement": score.agreement().rate(),
    })
}

pub fn trade_json(trade: &Trade) -> Value {
    let wide = trade.wide.iter();
    let w8 = wide.clone().filter(|(_, format)| *format == Format::W8);
    json!({
        "w8": w8.map(|(name, _)| name).collect::<Vec<_>>(),
        "f32_arithmetic": wide.map(|(name, f)| (name.to_string(), json!(f.to_string()))).collect::<serde_json::Map<_, _>>(),
        // The first name of `without_w8`.
        "integer": score_json(trade.without),
        "without_w8": score_json(trade.without), "with_w8": trade.with.map(score_json), "chosen": score_json(trade.chosen),
        "time": trade.time.iter().map(|(cpu, t)| (cpu.to_string(), json!(t))).collect::<serde_json::Map<_, _>>(),
    })
}

/// How the model was prepared: what came of it in the formats chosen.
pub fn preparation_json(plan: &Plan) -> Value {
    let (how, done) = (plan.preparation, &plan.done);
    let shifted = if done.shifted.is_empty() {
        Reach::Nowhere
    } else {
        how.shifted
    };
    json!({
        "shifted": shifted, "rescaled": how.rescaled, "split": how.split, "calibrated": !done.calibrated.is_empty(),
        "shifted_inputs_of": done.shifted, "rounded_by_calibration": done.calibrated, "rounded_to_nearest": done.nearest,
    })
}

/// How the model was prepared, and what each way lost.
pub fn prepared_text(plan: &Plan) -> String {
    let rows: Vec<Vec<String>> = plan
        .tried
        .iter()
        .map(|tried| {
            let losses = [tried.smallest, tried.int8].map(|loss| format!("{loss:.3e}"));
            [vec![tried.preparation.to_string()], losses.to_vec()].concat()
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let aligns = [Align::Left, Align::Right, Align::Right];
    let chosen = format!("prepared: {}\n", plan.preparation.describe(&plan.done));
    chosen + &table(&["prepared", "smallest file loses", "i8 throughout"], &aligns, &rows)
}
