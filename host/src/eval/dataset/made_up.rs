//! Token sequences made up where no rows are given: the same every time, so that results can be repeated.

use super::Row;
use thimble_shared::model::Config;
use thimble_shared::random::Random;

/// Rows made up when none are given.
pub(super) const MADE_UP: usize = 64;
/// Longest made-up sequence.
const MADE_UP_TOKENS: usize = 64;

/// `count` token sequences of different lengths, seeded: `[CLS]`, random tokens, `[SEP]`, every other one a pair; for a masked LM
/// some tokens are masked, for multiple choice each row has three choices.
pub fn made_up(config: &Config, count: usize, seed: u64) -> Vec<Row> {
    let (mut random, ids) = (Random(seed), config.family.row().ids);
    let words = config.vocab_size.saturating_sub(ids.words as usize).max(1);
    let longest = config.max_tokens().min(MADE_UP_TOKENS);
    let shortest = longest.min(8);
    let masks = config.head.has_decoder();
    let mut rows = Vec::with_capacity(count);
    for i in 0..count {
        let seq = shortest + random.below(longest - shortest + 1);
        let choices = if config.head.takes_choices() { 3 } else { 1 };
        let mut row = Row {
            attention_mask: vec![1; choices * seq],
            ..Row::default()
        };
        row.shape = if config.head.takes_choices() {
            vec![1, choices, seq]
        } else {
            vec![1, seq]
        };
        for _ in 0..choices {
            // The first text ends here; without a second one it ends with the sequence.
            let end = if i % 2 == 1 && seq >= 5 {
                2 + random.below(seq - 4)
            } else {
                seq - 1
            };
            for at in 0..seq {
                let id = match at {
                    0 => ids.cls,
                    _ if at == end || at == seq - 1 => ids.sep,
                    _ if masks && random.below(7) == 0 => ids.mask,
                    _ => ids.words + random.below(words) as i64,
                };
                row.input_ids.push(id.min(config.vocab_size as i64 - 1));
                row.token_type_ids
                    .push(i64::from(at > end && config.type_vocab_size > 1));
            }
        }
        rows.push(row);
    }
    rows
}
