//! What a model is predicted to need on a board before it has been there: memory of its own (program, activations) and the
//! pages of its file. Bytes; held against a measurement by a test on the virtual board.

use thimble_shared::graph::Config;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Need {
    /// Cannot be dropped by the kernel.
    pub own: u64,
    /// Pages of the file: can be dropped and read again, slowly.
    pub file: u64,
}

impl Need {
    pub fn total(self) -> u64 {
        self.own + self.file
    }
}

/// The program and its heap before any activation.
const PROGRAM: u64 = 4 << 20;

/// For one sequence of `seq` tokens. Activations are some six rows of the hidden size and one of the intermediate per token
/// in f32, and the attention scores of all heads.
pub fn predict(config: &Config, file_bytes: u64, seq: u64) -> Need {
    let (hidden, wide) = (config.hidden_size as u64, config.intermediate_size as u64);
    let rows = seq.saturating_mul(6 * hidden + wide).saturating_mul(4);
    let scores = (config.num_attention_heads as u64)
        .saturating_mul(seq.saturating_mul(seq))
        .saturating_mul(4);
    Need {
        own: PROGRAM.saturating_add(rows).saturating_add(scores),
        file: file_bytes,
    }
}
