//! The inputs of a proof, made up for what was recognized: the shapes it fixes, the ids it knows, masks of every form.

use super::Recognized;
use super::ports::MaskForm;
use thimble_device::engine::Input;
use thimble_shared::random::Random;

/// Which tokens of a proof's input are real, for `row` and place `at` in a row of `seq`.
type Mask = fn(row: usize, at: usize, seq: usize) -> bool;

/// Inputs of different lengths, of the shape the file fixes: padded on the right and on the left, with holes, up to the last
/// position, and ending in each of the smallest ids, one of which a file may take for padding of its own accord.
pub fn inputs(recognized: &Recognized<'_>) -> Vec<Input> {
    let config = &recognized.config;
    let fixed = |i: usize| recognized.inputs.shape.get(i).copied().flatten();
    let rank = if config.head.takes_choices() { 3 } else { 2 };
    let longest = config.max_position_embeddings;
    let mut random = Random(0x7468_696d_626c_6532);
    let mut draw = |n: usize| random.below(n) as i64;
    let mut all = Vec::new();
    let all_real: Mask = |_, _, _| true;
    let right: Mask = |row, at, seq| at == 0 || at + (row * 2 + 3) % seq.max(1) < seq;
    // A row without a real token promises nothing.
    let left: Mask = |row, at, seq| at > row + 1 || at + 2 > seq;
    let holes: Mask = |row, at, _| at == 0 || (at + row) % 3 != 0;
    let cases = [
        (1, 9, all_real, None),
        (2, 16, right, None),
        (3, 7, left, None),
        (1, 12, holes, None),
        (2, 8, all_real, Some(0)),
        (1, 8, all_real, Some(1)),
        (1, 8, all_real, Some(2)),
        (1, 8, all_real, Some(3)),
        (1, longest, right, None),
        // Masked tokens are compared with nothing, and the last positions are the ones a cap would change.
        (1, longest, all_real, None),
    ];
    for (batch, seq, real, ending) in cases {
        if recognized.inputs.right_padded && [left as usize, holes as usize].contains(&(real as usize)) {
            continue;
        }
        let mut shape = vec![fixed(0).unwrap_or(batch)];
        if rank == 3 {
            shape.push(fixed(1).unwrap_or(2));
        }
        shape.push(fixed(rank - 1).unwrap_or(seq.min(longest)));
        let (count, seq) = (shape.iter().product::<usize>(), shape[rank - 1]);
        let mut mask: Vec<i64> = (0..count)
            .map(|i| i64::from(real(i / seq, i % seq, seq) || seq < 3))
            .collect();
        let mut id = |i: usize| match ending {
            Some(last) if i % seq + 3 >= seq => last,
            _ => draw(config.vocab_size),
        };
        let mut input_ids: Vec<i64> = (0..count).map(&mut id).collect();
        if let MaskForm::Id(padding) = recognized.inputs.form {
            for (id, real) in input_ids.iter_mut().zip(&mut mask) {
                if *real == 0 {
                    *id = padding;
                }
                *real = i64::from(*id != padding);
            }
        }
        let types = recognized.inputs.types.is_some();
        let masked = recognized.inputs.mask.is_some() || recognized.inputs.form != MaskForm::Ones;
        all.push(Input {
            input_ids,
            attention_mask: masked.then_some(mask),
            token_type_ids: types.then(|| (0..count).map(|_| draw(config.type_vocab_size)).collect()),
            shape,
        });
    }
    all
}
