//! What `thimble shrink` says of its plans, refusals and frontiers: as text for people, or as one JSON object.

use super::ShrinkArgs;
use super::beside::{
    attention_json, attention_text, preparation_json, prepared_text, trade_json, trade_text, yardstick_json,
    yardsticks_text,
};
use super::bounds::Bounds;
use crate::budget::attention::Attention;
use crate::budget::frontier::Point;
use crate::budget::question::Question;
use crate::budget::sizes::Floor;
use crate::budget::solver::Plan;
use crate::cmd::export::Written;
use crate::cmd::verify;
use crate::render::text::{Align, Verbosity, exact, percent, size, table, thousands, verbosity};
use serde_json::{Value, json};
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::board::target::Target;
use thimble_shared::dtype::Format;
use thimble_shared::model::ModelSpec;

/// Everything that is said whatever the answer.
pub struct About<'a> {
    pub args: &'a ShrinkArgs,
    pub bounds: &'a Bounds,
    pub target: Option<&'a Target>,
    pub tuned: usize,
    pub reported: usize,
    /// Whether the report's rows are others than those the choice was made on.
    pub held_out: bool,
    pub calibrated: bool,
    pub tokenizer: Option<usize>,
    /// Levers pulled, and the bytes each saves.
    pub savings: Vec<(&'static str, u64)>,
    /// How attention came to its arithmetic, once that is settled.
    pub attention: Option<Attention>,
    pub question: &'a Question<'a>,
}

impl About<'_> {
    fn budget(&self) -> Option<u64> {
        self.bounds.bytes_given.then_some(self.bounds.limits.bytes)
    }

    pub fn below_floor(&self, floor: &Floor) -> String {
        let each = floor.formats.iter();
        let mut parts: Vec<(String, u64)> = each
            .map(|(f, format)| (format!("{} in {format}", f.name), f.bytes(*format) as u64))
            .collect();
        parts.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        if self.args.json {
            let json = json!({
                "schema": ANSWER_SCHEMA, "verdict": "over budget", "written": false, "budget": self.budget(), "floor": floor.bytes,
                "fits": self.bounds.fitting(self.args.budget.map(|b| b.as_u64()), floor.bytes),
                "floor_parts": parts.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect::<Vec<_>>(),
            });
            return format!("{json:#}\n");
        }
        let biggest: Vec<String> = parts
            .iter()
            .take(4)
            .map(|(name, bytes)| format!("{name} {} ({})", size(*bytes), percent(*bytes, floor.bytes)))
            .collect();
        let formats = self.question.formats.iter();
        let list = formats.map(Format::to_string).collect::<Vec<_>>().join(", ");
        let fits = self.bounds.fitting(self.args.budget.map(|b| b.as_u64()), floor.bytes);
        format!(
            "no: {} is below the floor of {}, the smallest file in the formats {list}\n\
             the floor is set by {}\nnearest that fits: {fits}; nothing was written\n",
            self.bounds.byte_limit(),
            exact(floor.bytes),
            biggest.join(", "),
        )
    }

    /// A no without a plan.
    pub fn refused(&self, reasons: &[String], points: Option<&[Point]>) -> String {
        if self.args.json {
            let mut json =
                json!({ "schema": ANSWER_SCHEMA, "verdict": "refused", "reasons": reasons, "written": false });
            if let Some(points) = points {
                json["frontier"] = self.points_json(points);
            }
            return format!("{json:#}\n");
        }
        let no: String = reasons
            .iter()
            .map(|r| format!("no: {r}; nothing was written\n"))
            .collect();
        points.map_or(String::new(), |p| self.points_text(p) + "\n") + &no
    }

    /// The frontier alone.
    pub fn frontier(&self, points: &[Point], drawn: &[String]) -> String {
        if self.args.json {
            let json = json!({
                "schema": ANSWER_SCHEMA, "written": false, "drawn": drawn, "calibrated": self.calibrated,
                "objective": self.question.objective.name(), "tuned_rows": self.tuned, "reported_rows": self.reported,
                "held_out": self.held_out, "frontier": self.points_json(points),
            });
            return format!("{json:#}\n");
        }
        self.points_text(points) + &drawn_text(drawn)
    }

    pub fn plan(
        &self,
        plan: &Plan,
        points: Option<&[Point]>,
        drawn: &[String],
        reasons: &[String],
        written: Option<&Written>,
    ) -> String {
        if self.args.json {
            let mut json = self.plan_json(plan, reasons, written.is_some());
            if let Some(points) = points {
                json["frontier"] = self.points_json(points);
                json["drawn"] = json!(drawn);
            }
            return format!("{json:#}\n");
        }
        let mut text = points.map_or(String::new(), |p| self.points_text(p) + &drawn_text(drawn) + "\n");
        text += &self.headline(plan);
        text += &yardsticks_text(plan);
        text += &self.plan_text(plan);
        match written {
            Some(written) => text += &written.report(),
            None if reasons.is_empty() => text += "dry run: nothing was written\n",
            None => reasons
                .iter()
                .for_each(|r| text += &format!("no: {r}; nothing was written\n")),
        }
        text
    }

    /// The most bytes of a file, and the flag that says so.
    pub fn byte_limit(&self) -> Option<(u64, String)> {
        let flag = match self.args.budget.map(|b| b.as_u64()) == self.budget() {
            true => "--budget",
            false => "what --max-ram leaves for the file",
        };
        Some((self.budget()?, flag.to_string()))
    }

    /// Whose rows the loss is reported on.
    pub fn rows_reported(&self) -> String {
        if self.held_out {
            format!("{} rows held out", self.reported)
        } else {
            format!("the {} rows it was chosen on, too few to hold any out", self.reported)
        }
    }

    /// Size, factor and loss: the first line anybody reads.
    fn headline(&self, plan: &Plan) -> String {
        let whole = self.fp32_bytes().unwrap_or(plan.bytes);
        let score = plan.loss.score();
        format!(
            "{}, {:.2} times smaller than f32: {}, {}\n",
            exact(plan.bytes),
            whole as f64 / plan.bytes.max(1) as f64,
            score.word().name(),
            score.felt(),
        )
    }

    /// Bytes of the original in fp32 throughout.
    fn fp32_bytes(&self) -> Option<u64> {
        let question = self.question;
        let graph = ModelSpec::uniform(question.original.config.clone(), Format::F32);
        let bytes = thimble_shared::artifact::size(&graph, question.onnx, question.provenance).ok()?;
        Some(bytes as u64)
    }

    fn plan_text(&self, plan: &Plan) -> String {
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
                    match plan.problem.loss[i][choice] {
                        loss if loss.is_finite() => format!("{loss:.2e}"),
                        // Nobody measured it alone.
                        _ => "-".to_string(),
                    },
                ]
            })
            .collect();
        let aligns = [Align::Left, Align::Left, Align::Right, Align::Right, Align::Right];
        let mut text = table(&["weights", "format", "bytes", "share", "loss alone"], &aligns, &rows) + "\n";
        text += &match self.budget() {
            Some(budget) => format!(
                "{} of {}: {} used{}\n",
                exact(plan.bytes),
                exact(budget),
                percent(plan.bytes, budget),
                self.beside_budget()
            ),
            None => format!("{}\n", exact(plan.bytes)),
        };
        text += &match &plan.next {
            Some((family, format, bytes)) => format!("next step up: {family} in {format} makes {}\n", exact(*bytes)),
            None if self.bounds.bytes_given => "no format on offer would lose less\n".to_string(),
            None => String::new(),
        };
        for (lever, bytes) in &self.savings {
            text += &format!("--{lever} saves {}\n", exact(*bytes));
        }
        if verbosity() == Verbosity::Verbose {
            text += &self.search_text(plan);
        }
        text += &self
            .attention
            .map_or(String::new(), |attention| attention_text(&attention));
        text += &format!("\non {}:\n{}\n", self.rows_reported(), verify::describe(&plan.loss));
        text + &self.board_text(plan)
    }

    /// How the choice was found: what was predicted and measured, what was weighed, and how the model was prepared.
    fn search_text(&self, plan: &Plan) -> String {
        let (predicted, measured) = (plan.predicted, plan.measured);
        let found = format!(
            "{} predicted {predicted:.3e}, measured {measured:.3e} on {} tuning rows ({} choices run; sensitivities on {} rows)\n",
            self.question.objective.name(),
            self.tuned,
            plan.verified,
            plan.sense_rows
        );
        found + &trade_text(plan) + &prepared_text(plan)
    }

    /// The tokenizer is a file of its own: a budget of the model's file does not count it.
    fn beside_budget(&self) -> String {
        match self.tokenizer {
            Some(bytes) => format!(
                "; the tokenizer beside it has {}, which the budget does not count",
                size(bytes as u64)
            ),
            None => String::new(),
        }
    }

    fn board_text(&self, plan: &Plan) -> String {
        let mut text = String::new();
        let seq = self.bounds.seq;
        if self.bounds.max_ram.is_some() || self.target.is_some() {
            let needed = self.bounds.predicted_ram(plan.bytes);
            text += &format!(
                "predicted, not measured: {} of RAM at {seq} tokens{}",
                exact(needed),
                match self.bounds.tokenizer {
                    0 => ", of token ids".to_string(),
                    bytes => format!(" of a text, {} of it for the tokenizer", size(bytes)),
                }
            );
            text += &match self.target.and_then(|t| Some((t, t.ram_available.as_ref()?.value))) {
                Some((t, available)) => format!(
                    ", {} of the {} the system of {} leaves\n",
                    percent(needed, available),
                    size(available),
                    t.board
                ),
                None => "\n".to_string(),
            };
        }
        let ms = self.bounds.predicted_ms(&plan.problem.formats_of(&plan.choice));
        if let (Some(ms), Some(target), Some(latency)) = (ms, self.target, &self.bounds.latency) {
            text += &format!(
                "predicted, not measured: {ms:.1} ms for {seq} tokens on {}, at best on all {} cores{}\n",
                target.board,
                target.cores.value,
                if latency.counts_traffic {
                    ""
                } else {
                    "; its profile has no bandwidth, so memory traffic is not counted"
                }
            );
        }
        text
    }

    fn plan_json(&self, plan: &Plan, reasons: &[String], written: bool) -> Value {
        let each = plan.problem.families.iter().zip(&plan.choice).enumerate();
        let families: Vec<_> = each
            .map(|(i, (family, &choice))| {
                let options = &plan.problem.options[i];
                let losses = options.iter().zip(&plan.problem.loss[i]);
                json!({
                    "name": family.name, "format": options[choice].to_string(), "bytes": family.bytes(options[choice]),
                    "weights": family.weights.iter().map(|w| &w.name).collect::<Vec<_>>(),
                    "loss_alone": losses.map(|(f, l)| (f.to_string(), json!(l))).collect::<serde_json::Map<_, _>>(),
                })
            })
            .collect();
        let next = plan.next.as_ref();
        let floor: Vec<serde_json::Value> = plan
            .tried
            .iter()
            .map(|tried| {
                let how = tried.preparation;
                json!({
                    "shifted": how.shifted, "rescaled": how.rescaled, "split": how.split, "calibrated": how.calibrated,
                    "loss": tried.smallest, "int8_loss": tried.int8,
                })
            })
            .collect();
        json!({
            "schema": ANSWER_SCHEMA,
            "verdict": if reasons.is_empty() { "fits" } else { "refused" },
            "reasons": reasons,
            "written": written,
            "budget": self.budget(),
            "bytes": plan.bytes,
            "tokenizer_bytes": self.tokenizer,
            "calibrated": self.calibrated,
            "objective": self.question.objective.name(),
            "families": families,
            "levers": self.savings.iter().map(|(name, bytes)| json!({"name": name, "saves": bytes})).collect::<Vec<_>>(),
            "predicted_loss": plan.predicted,
            "measured_loss": plan.measured,
            "choices_run": plan.verified,
            "tuned_rows": self.tuned,
            "sensitivity_rows": plan.sense_rows,
            "reported_rows": self.reported,
            "held_out": self.held_out,
            "preparation": preparation_json(plan),
            "word": plan.loss.score().word(),
            "yardsticks": plan.yardsticks.iter().map(yardstick_json).collect::<Vec<_>>(),
            "trade": plan.trade.as_ref().map(trade_json),
            "attention": self.attention.as_ref().map(attention_json),
            "floor_loss": floor,
            "next_step": next.map(|(family, format, bytes)| json!({"family": family, "format": format.to_string(), "bytes": bytes})),
            "predicted": {
                "seq": self.bounds.seq,
                "ram": self.bounds.predicted_ram(plan.bytes),
                "tokenizer": self.bounds.tokenizer,
                "latency_ms": self.bounds.predicted_ms(&plan.problem.formats_of(&plan.choice)),
            },
            "loss": plan.loss,
        })
    }

    fn points_json(&self, points: &[Point]) -> Value {
        let objective = self.question.objective;
        let point = |p: &Point| {
            json!({
                "bytes": p.answer.bytes,
                "formats": p.formats.iter().map(|(name, f)| (name.to_string(), json!(f.to_string()))).collect::<serde_json::Map<_, _>>(),
                "measured_loss": p.answer.measured,
                "reported_loss": p.loss.score().objective(objective),
                "loss": p.loss,
                "baseline": p.baseline.as_ref().map(|b| json!({
                    "measured_loss": b.measured,
                    "reported_loss": b.loss.as_ref().map(|l| l.score().objective(objective)),
                    "loss": b.loss,
                })),
            })
        };
        points.iter().map(point).collect()
    }

    fn points_text(&self, points: &[Point]) -> String {
        let objective = self.question.objective;
        let decides = points.iter().any(|p| p.loss.agreement.is_some());
        let baseline = points.iter().any(|p| p.baseline.is_some());
        let largest = points.last().map_or(1, |p| p.answer.bytes);
        let share = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{:.2} %", x * 100.0));
        let (tuned, reported) = (
            format!("{}, tuned on", objective.name()),
            format!("{}, reported", objective.name()),
        );
        let mut heads = vec!["bytes", "share", &tuned, &reported];
        if decides {
            heads.extend(["agreement", "95 %"]);
        }
        if baseline {
            heads.push("rounded to nearest");
            heads.extend(decides.then_some("agreement"));
        }
        let rows: Vec<Vec<String>> = points
            .iter()
            .map(|p| {
                let mut row = vec![
                    thousands(p.answer.bytes),
                    percent(p.answer.bytes, largest),
                    format!("{:.3e}", p.answer.measured),
                    format!("{:.3e}", p.loss.score().objective(objective)),
                ];
                if decides {
                    let (low, high) = p.loss.agreement_interval.unwrap_or((0.0, 1.0));
                    row.push(share(p.loss.agreement));
                    row.push(format!("{:.2} to {:.2} %", low * 100.0, high * 100.0));
                }
                if let Some(b) = &p.baseline {
                    let loss = b.loss.as_ref();
                    row.push(loss.map_or("-".into(), |l| format!("{:.3e}", l.score().objective(objective))));
                    row.extend(decides.then(|| share(loss.and_then(|l| l.agreement))));
                }
                row
            })
            .collect();
        let aligns = vec![Align::Right; heads.len()];
        format!(
            "{}reported on {}\n",
            table(&heads, &aligns, &rows),
            self.rows_reported()
        )
    }
}

fn drawn_text(drawn: &[String]) -> String {
    drawn
        .iter()
        .map(|path| format!("{path}: the frontier drawn\n"))
        .collect()
}
