//! What a model is predicted to need on a board, from its shape and the board's profile alone: RAM in bytes, time of one
//! inference in nanoseconds. Predictions choose between models before a board is at hand; `thimble-device bench` measures.
//! docs/shrink.md states the formulas and where their constants come from.

use std::collections::BTreeMap;
use thimble_device::session::DEFAULT_SEQ;
use thimble_shared::artifact::tensors::weight_bytes;
use thimble_shared::board::memory::{self, Need, Work};
use thimble_shared::board::target::Target;
use thimble_shared::dtype::Format;
use thimble_shared::model::network::uses;
use thimble_shared::model::{Activation, AttentionArithmetic, Config, Head, Kind, ModelSpec, WeightSpec};

/// Threads the device program computes with unless told otherwise: the cores of most boards.
const CORES: usize = 4;

/// Peak RAM in bytes of one sequence. Without `formats` of the linear weights, the most any could need.
pub fn need(config: &Config, formats: Option<&BTreeMap<String, Format>>, file: u64, seq: usize) -> Need {
    let linears: Vec<Format> = match formats {
        Some(formats) => memory::linears(config, formats).collect(),
        None => vec![Format::F32, Format::I8],
    };
    let work = Work {
        rows: 1,
        seq,
        threads: CORES,
    };
    let unread = formats.map_or(0, |formats| memory::unread(config, formats, work));
    memory::need(config, &linears, work, file.saturating_sub(unread))
}

/// Peak RAM in bytes of serving a model that has a tokenizer.json of these bytes, where it has one: of one text at a time.
pub fn serving(graph: &ModelSpec, file: u64, seq: usize, tokenizer: Option<&[u8]>) -> Need {
    let need = need(&graph.config, Some(&graph.formats), file, seq);
    // Over time its texts name every row of the word table.
    let need = Need { file, ..need };
    match tokenizer {
        Some(json) => need.with_tokenizer(thimble_text::ram(json)),
        None => Need {
            program: need.program + memory::SERVER,
            ..need
        },
    }
}

/// Tokens predictions are made for when no sequence length is fixed.
pub fn usual_seq(config: &Config) -> usize {
    config.max_position_embeddings.min(DEFAULT_SEQ)
}

/// More tokens than the model has positions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--seq {seq}: the model takes at most {most} tokens")]
pub struct TooLong {
    /// Tokens asked for.
    pub seq: usize,
    /// Tokens the model takes.
    pub most: usize,
}

/// The length that was asked for, if the model takes it, or the usual one.
pub fn seq_of(config: &Config, asked: Option<u32>) -> Result<usize, TooLong> {
    let most = config.max_position_embeddings;
    match asked.map(|n| n as usize) {
        None => Ok(usual_seq(config)),
        Some(seq) if seq <= most => Ok(seq),
        Some(seq) => Err(TooLong { seq, most }),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--max-latency: the profile of {target} has no {field}, which the prediction needs; add it to a copy of the file and give its path"
)]
pub struct NoPace {
    target: String,
    field: &'static str,
}

/// How fast a board multiplies at best, on all its cores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Multiply-accumulates per nanosecond.
    f32: f64,
    int8: f64,
    /// Bytes of weights per nanosecond; None where the profile does not say and traffic is not counted.
    memory: Option<f64>,
}

impl Pace {
    pub fn of(target: &Target) -> Result<Pace, NoPace> {
        let missing = |field| NoPace {
            target: target.name.clone(),
            field,
        };
        let flops = target
            .f32_gflops_per_core
            .as_ref()
            .ok_or(missing("f32_gflops_per_core"))?;
        if !(flops.value.is_finite() && flops.value > 0.0) {
            return Err(missing("f32_gflops_per_core above 0"));
        }
        // One multiply-accumulate is two operations.
        let f32 = flops.value / 2.0 * f64::from(target.cores.value);
        let has = |feature: &str| target.features.value.iter().any(|f| f == feature);
        // int8 against f32 of the kernels in use: SDOT has four products per lane. Without it products are widened, which
        // doubles the rate of out-of-order cores and hardly helps a Cortex-A53.
        let gain = match target.cpu.as_str() {
            _ if has("asimddp") => 4.0,
            "Cortex-A53" | "Cortex-A55" | "Cortex-A35" => 1.0,
            _ => 2.0,
        };
        Ok(Pace {
            f32,
            int8: f32 * gain,
            memory: target
                .bandwidth
                .as_ref()
                .map(|b| b.value as f64 / 1e9)
                .filter(|b| *b > 0.0),
        })
    }

    pub fn counts_traffic(&self) -> bool {
        self.memory.is_some()
    }

    /// Nanoseconds one weight takes in a format over the whole inference.
    pub fn weight(&self, config: &Config, weight: &WeightSpec, format: Format, seq: usize) -> u64 {
        let (passes, tokens) = uses(config, weight, seq);
        let macs = (weight.elements() * passes * tokens) as f64;
        let rate = if format.quantizes_input() { self.int8 } else { self.f32 };
        let streamed = (weight_bytes(weight, format) * passes) as f64;
        (macs / rate + self.memory.map_or(0.0, |m| streamed / m)).ceil() as u64
    }

    /// Nanoseconds of what no format changes: attention's own products.
    pub fn attention(&self, config: &Config, seq: usize) -> u64 {
        let macs = 2 * seq * seq * config.hidden_size * config.num_hidden_layers * config.inner_group_num;
        let rate = match config.attention {
            AttentionArithmetic::F32 => self.f32,
            AttentionArithmetic::Int8 => self.int8,
        };
        (macs as f64 / rate).ceil() as u64
    }

    /// Nanoseconds of one inference.
    pub fn inference(&self, config: &Config, formats: &BTreeMap<String, Format>, seq: usize) -> u64 {
        let weights = config.weights().into_iter().filter(|w| w.kind != Kind::Vector);
        let each = weights.map(|w| {
            let format = formats.get(&w.name).copied().unwrap_or(Format::F32);
            self.weight(config, &w, format, seq)
        });
        self.attention(config, seq) + each.sum::<u64>()
    }
}

/// albert-base-v2, as its config.json says.
pub fn albert_base() -> Config {
    Config {
        family: thimble_shared::model::ModelFamily::Albert,
        vocab_size: 30_000,
        embedding_size: 128,
        hidden_size: 768,
        num_hidden_layers: 12,
        num_hidden_groups: 1,
        inner_group_num: 1,
        num_attention_heads: 12,
        intermediate_size: 3072,
        max_position_embeddings: 512,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        activation: Activation::GeluNew,
        head: Head::None,
        tied_decoder: false,
        pooler: true,
        labels: Vec::new(),
        multi_label: false,
        regression: false,
        hidden_shift: false,
        sentence: None,
        attention: AttentionArithmetic::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boards::profiles;

    #[test]
    fn the_layers_of_albert_base_multiply_as_often_as_they_do() {
        let config = albert_base();
        let macs: usize = config
            .weights()
            .iter()
            .map(|w| {
                let (passes, tokens) = uses(&config, w, 16);
                w.elements() * passes * tokens
            })
            .sum();
        // 12 layers of 7,077,888 weights, the map, and the pooler once.
        assert_eq!(macs, 16 * (12 * 7_077_888 + 768 * 128) + 768 * 768);
    }

    #[test]
    fn boards_come_in_the_order_of_their_cores() {
        let config = albert_base();
        let time = |board: &str, format| {
            let pace = Pace::of(&profiles::find(board).unwrap()).unwrap();
            pace.inference(&config, &ModelSpec::uniform(config.clone(), format).formats, 128)
        };
        for format in [Format::F32, Format::I8] {
            assert!(time("pi-5", format) < time("pi-4", format) && time("pi-4", format) < time("pi-zero-2w", format));
        }
        assert!(time("pi-5", Format::I8) < time("pi-5", Format::F32) / 2);
    }

    #[test]
    fn a_profile_without_a_rate_is_no_ground_for_a_prediction() {
        let mut target = profiles::find("pi-4").unwrap();
        target.f32_gflops_per_core = None;
        assert!(
            Pace::of(&target)
                .unwrap_err()
                .to_string()
                .contains("f32_gflops_per_core")
        );
    }

    /// Peak RSS on virtual boards, bytes (`thimble emulate --target pi-4`), measured before long inputs passed the feed-forward
    /// maps a block at a time: up to 128 tokens that changes little.
    #[test]
    fn ram_is_predicted_as_it_was_measured() {
        let cases = [
            (46_762_563, 16, 37_052_416),
            (46_762_563, 128, 49_872_896),
            (11_939_267, 16, 13_910_016),
            (11_939_267, 128, 20_942_848),
        ];
        let config = albert_base();
        for (file, seq, measured) in cases {
            let format = if file > 20_000_000 { Format::F32 } else { Format::I8 };
            let formats = ModelSpec::uniform(config.clone(), format).formats;
            let predicted = need(&config, Some(&formats), file, seq).total();
            assert!(
                predicted > measured && predicted < measured * 11 / 10,
                "{file} at {seq}: {predicted}"
            );
        }
    }
}
