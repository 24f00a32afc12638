//! What the flags leave to choose from: bytes from --budget and --max-ram, predicted time from --max-latency. Predictions
//! are made from the model's shape and the target's profile, and every sentence about them says so.

use super::ShrinkArgs;
use crate::boards::cost_model::{Pace, need, usual_seq};
use crate::budget::answer::Limits;
use crate::budget::branch_and_bound::Limit;
use crate::budget::question::Question;
use crate::budget::sizes::Sizes;
use crate::render::text::{exact, size};
use anyhow::Result;
use std::collections::BTreeMap;
use thimble_shared::board::target::Target;
use thimble_shared::dtype::Format;
use thimble_shared::model::{AttentionArithmetic, Config};

pub struct Bounds {
    pub limits: Limits,
    /// Whether any flag limits the bytes.
    pub bytes_given: bool,
    /// Tokens the predictions are for.
    pub seq: usize,
    /// RAM predicted beside the file.
    pub ram_beside: u64,
    /// That of the tokenizer in it.
    pub tokenizer: u64,
    pub max_ram: Option<u64>,
    pub latency: Option<Latency>,
}

pub struct Latency {
    pace: Pace,
    config: Config,
    seq: usize,
    most_ms: f64,
    /// Predicted of the fastest formats.
    fastest_ms: f64,
    pub counts_traffic: bool,
}

const NANOSECONDS: f64 = 1e6;

impl Bounds {
    pub fn of(
        args: &ShrinkArgs,
        question: &Question,
        attention: AttentionArithmetic,
        target: Option<&Target>,
        sizes: &Sizes,
        tokenizer: Option<&str>,
    ) -> Result<Bounds> {
        let config = &Config {
            attention,
            ..question.source.config.clone()
        };
        let seq = question.onnx.seq.unwrap_or_else(|| usual_seq(config));
        // Formats are not chosen yet.
        let tokenizer = tokenizer.map_or(0, |json| thimble_text::ram(json.as_bytes()));
        let ram_beside = need(config, None, 0, seq).with_tokenizer(tokenizer).total();
        let max_ram = args.max_ram.map(|ram| ram.as_u64());
        let by_ram = max_ram.map(|ram| ram.saturating_sub(ram_beside));
        let bytes = [args.budget.map(|b| b.as_u64()), by_ram].into_iter().flatten().min();
        let mut bounds = Bounds {
            limits: Limits::bytes(bytes.unwrap_or(u64::MAX)),
            bytes_given: bytes.is_some(),
            seq,
            ram_beside,
            tokenizer,
            max_ram,
            latency: None,
        };
        if let (Some(most_ms), Some(target)) = (args.max_latency, target) {
            let pace = Pace::of(target)?;
            let problem = sizes.unmeasured()?;
            let cost: Vec<Vec<u64>> = problem
                .families
                .iter()
                .zip(&problem.options)
                .map(|(family, options)| {
                    let time = |f: Format| family.weights.iter().map(|w| pace.weight(config, w, f, seq)).sum();
                    options.iter().map(|&f| time(f)).collect()
                })
                .collect();
            let rest = pace.attention(config, seq);
            let fastest: u64 = cost.iter().map(|c| c.iter().min().copied().unwrap_or(0)).sum();
            bounds.limits.time = Some(Limit {
                cost,
                most: ((most_ms * NANOSECONDS) as u64).saturating_sub(rest),
            });
            bounds.latency = Some(Latency {
                counts_traffic: pace.counts_traffic(),
                pace,
                config: config.clone(),
                seq,
                most_ms,
                fastest_ms: (rest + fastest) as f64 / NANOSECONDS,
            });
        }
        Ok(bounds)
    }

    /// A clear no where even the fastest formats are too slow.
    pub fn too_slow(&self) -> Option<String> {
        let latency = self.latency.as_ref().filter(|l| l.fastest_ms > l.most_ms)?;
        Some(format!(
            "in the fastest formats {} tokens are predicted to take {:.1} ms at best, more than --max-latency {}",
            latency.seq, latency.fastest_ms, latency.most_ms
        ))
    }

    /// Where the board's system does not leave what the file is predicted to need.
    pub fn beyond_board(&self, target: Option<&Target>, bytes: u64) -> Option<String> {
        let target = target?;
        let available = target.ram_available.as_ref()?.value;
        let needed = bytes.saturating_add(self.ram_beside);
        (needed > available).then(|| {
            format!(
                "{} leaves {} of RAM, the file with {} tokens is predicted to need {}",
                target.board,
                size(available),
                self.seq,
                size(needed)
            )
        })
    }

    pub fn predicted_ram(&self, bytes: u64) -> u64 {
        bytes.saturating_add(self.ram_beside)
    }

    /// The flags with which a file of `bytes` fits: each that was given and is too small is raised, and none that is large enough.
    pub fn fitting(&self, budget: Option<u64>, bytes: u64) -> String {
        let ram = self.predicted_ram(bytes);
        let mut flags = Vec::new();
        if let Some(budget) = budget {
            flags.push(format!("--budget {}", budget.max(bytes)));
        }
        if let Some(max_ram) = self.max_ram {
            flags.push(format!("--max-ram {}", max_ram.max(ram)));
        }
        if flags.is_empty() {
            flags.push(format!("--budget {bytes}"));
        }
        flags.join(" ")
    }

    pub fn predicted_ms(&self, formats: &BTreeMap<String, Format>) -> Option<f64> {
        let l = self.latency.as_ref()?;
        Some(l.pace.inference(&l.config, formats, l.seq) as f64 / NANOSECONDS)
    }

    /// Which flag limits the bytes, and to how many.
    pub fn byte_limit(&self) -> String {
        let bytes = exact(self.limits.bytes);
        match self.max_ram {
            Some(ram) if self.limits.bytes == ram.saturating_sub(self.ram_beside) => format!(
                "--max-ram {} leaves {bytes} for the file (at {} tokens the program is predicted to need {} beside it{})",
                size(ram),
                self.seq,
                size(self.ram_beside),
                match self.tokenizer {
                    0 => String::new(),
                    bytes => format!(", {} of it for the tokenizer", size(bytes)),
                }
            ),
            _ => format!("a budget of {bytes}"),
        }
    }
}
