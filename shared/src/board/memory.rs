//! RAM of one inference, from a model's shape alone: what the engine holds at the same time, in bytes. `thimble-device info
//! --seq N` and the host's predictions state it, `thimble-device bench` prints it beside what was measured.

use crate::artifact::tensors::weight_bytes;
use crate::dtype::{Format, InputRange, Storage};
use crate::model::{AttentionArithmetic, Config, Kind, Role};
use std::collections::BTreeMap;

/// Queries that pass attention at a time.
pub const QUERIES: usize = 16;

/// Bytes of panels that a thread expands at a time.
const EXPANDED: u64 = 96 << 10;

/// Bytes of the word table that become resident with one token: its row's page, and what kernels map around it.
const AROUND: u64 = 96 << 10;

/// Tokens that pass a layer's feed-forward part at a time, at most; each time, its weights are read anew.
const BLOCK: usize = 160;

/// Into how many tokens at a time so many are cut: evenly, and all of them where they are few.
pub fn block(tokens: usize) -> usize {
    let blocks = tokens.div_ceil(BLOCK).max(1);
    tokens.div_ceil(blocks).next_multiple_of(16).min(tokens)
}

/// What is resident beside model and activations: the program's own pages, the runtime's and its plans'.
pub const PROGRAM: u64 = 4864 << 10;

/// What opening a model and inference add to what is resident of a program before: plans, and code that has not run yet.
pub const GROWTH: u64 = 2400 << 10;

/// What a server holds beside one inference: its threads and lines, and tensors of other lengths that are kept.
pub const SERVER: u64 = 1700 << 10;

/// The peak of one inference, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Need {
    /// [`PROGRAM`]: the program's own pages, the runtime's and its plans', bytes.
    pub program: u64,
    /// Tensors, packed inputs and scratch memory that are alive at once, bytes.
    pub activations: u64,
    /// Pages of the model file: the kernel can drop them and read them again, slowly.
    pub file: u64,
    /// The model in memory of the program's own, in place of those pages (`--copy`).
    #[serde(default)]
    pub copy: u64,
    /// What serving texts takes beside computing token ids; 0 where only ids are computed, bytes.
    #[serde(default)]
    pub tokenizer: u64,
}

impl Need {
    /// All parts together, bytes; stops at `u64::MAX` instead of wrapping.
    pub fn total(self) -> u64 {
        let model = self.file.saturating_add(self.copy);
        let program = self.program.saturating_add(self.tokenizer);
        program.saturating_add(self.activations).saturating_add(model)
    }

    /// The same for a program that splits texts, which takes it so many bytes more.
    pub fn with_tokenizer(self, bytes: u64) -> Need {
        Need {
            tokenizer: bytes,
            ..self
        }
    }

    /// The same for a program that reads the file into memory of its own.
    pub fn copied(self) -> Need {
        Need {
            file: 0,
            copy: self.copy.saturating_add(self.file),
            ..self
        }
    }
}

/// What is computed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Sequences of the batch.
    pub rows: usize,
    /// Tokens per sequence, padding included.
    pub seq: usize,
    /// Threads that attention is spread over, each with scratch memory of its own.
    pub threads: usize,
}

/// Bytes of tensors, packed inputs and scratch memory that are alive at once. `formats` are those of the linear weights;
/// naming more of them than there are gives an upper bound.
pub fn activations(config: &Config, formats: &[Format], work: Work) -> u64 {
    let tokens = (work.rows as u64).saturating_mul(work.seq as u64);
    let [hidden, inner, embedding] =
        [config.hidden_size, config.intermediate_size, config.embedding_size].map(|n| n as u64);
    // Where one range is that of a whole tensor, the feed-forward part cannot be cut.
    let whole = formats.iter().any(|f| f.input_range() == Some(InputRange::Tensor));
    let count = usize::try_from(tokens).unwrap_or(usize::MAX);
    let block = if whole { tokens } else { block(count) as u64 };
    // f32 tensors by size, as many of each as are alive at once, each kept for the next layer: query, key and value beside
    // their input; what lies between the two last maps; embeddings; the decoder's logits, in the plan and handed out.
    let logits = if config.head.has_decoder() {
        2 * config.vocab_size as u64
    } else {
        0
    };
    let tensors = 4 * (4 * hidden + embedding + logits);
    // Inputs of linear maps as their kernels read them. What is too small for the next map is kept beside what is not.
    let has = |range| formats.iter().any(|f| f.input_range() == Some(range));
    let ranges = InputRange::ALL.into_iter().filter(|range| has(*range)).count() as u64;
    let float = formats.iter().any(|f| !f.quantizes_input());
    // Query, key and value may read the same input over several ranges.
    let narrow = ranges * (embedding + hidden) + u64::from(float) * 4 * (embedding + hidden);
    let wide = ranges.min(1) * inner + u64::from(float) * 4 * inner;
    let expands = formats.iter().any(|f| match f.storage() {
        Storage::F32 => false,
        Storage::I8 => !f.quantizes_input(),
        Storage::F16 | Storage::I4 => true,
    });
    // Per thread: attention, and panels that are expanded.
    let attention = attention(config, work.seq as u64) + u64::from(expands) * EXPANDED;
    // A block that is as large as a hidden state is one that query, key or value leave.
    let between = if block.saturating_mul(inner) == tokens.saturating_mul(hidden) {
        0
    } else {
        block.saturating_mul(4 * inner + wide)
    };
    tokens
        .saturating_mul(tensors + narrow)
        .saturating_add(between)
        .saturating_add((work.threads as u64).max(1).saturating_mul(attention))
}

/// Bytes that attention holds per thread: keys, values, a few queries, their scores and results.
fn attention(config: &Config, seq: u64) -> u64 {
    let size = config.hidden_size as u64 / (config.num_attention_heads as u64).max(1);
    let queries = QUERIES as u64;
    match config.attention {
        AttentionArithmetic::F32 => 4 * (2 * seq * size + 3 * queries * size + queries * seq),
        AttentionArithmetic::Int8 => {
            let (depth, keys) = (size.next_multiple_of(16), seq.next_multiple_of(16));
            // Keys and values with their steps; int8 queries and weights, as wide as any kernel reads them; scores and results.
            keys * (2 * depth + 8) + (2 + 4) * queries * (depth + keys)
        }
    }
}

/// Bytes of the model file that one inference leaves alone: rows of the word table that no token names.
pub fn unread(config: &Config, formats: &BTreeMap<String, Format>, work: Work) -> u64 {
    let tokens = (work.rows as u64).saturating_mul(work.seq as u64);
    let weights = config.weights();
    let table = weights.iter().find(|w| w.role == Role::Word && w.kind == Kind::Table);
    table.map_or(0, |table| {
        let format = formats.get(&table.name).copied().unwrap_or(Format::F32);
        (weight_bytes(table, format) as u64).saturating_sub(tokens.saturating_mul(AROUND))
    })
}

/// The formats of the weights that linear maps read, a tied decoder's table among them; f32 where none is named.
pub fn linears<'a>(config: &'a Config, formats: &'a BTreeMap<String, Format>) -> impl Iterator<Item = Format> + 'a {
    let linear = config.weights().into_iter().filter(|w| w.kind == Kind::Linear);
    linear.map(|w| formats.get(&w.name).copied().unwrap_or(Format::F32))
}

/// The whole of it, where `file` bytes of the model's file are read.
pub fn need(config: &Config, formats: &[Format], work: Work, file: u64) -> Need {
    Need {
        program: PROGRAM,
        activations: activations(config, formats, work),
        file,
        copy: 0,
        tokenizer: 0,
    }
}
