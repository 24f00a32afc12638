//! Panels that no kernel reads as they are, made into ones that some kernel does, in scratch memory: int4 to the int8 it
//! stands for, int8 to f32. Layouts are those of `thimble_shared::artifact::layout`.

use crate::engine::elementwise::multiversion;
#[cfg(not(target_arch = "aarch64"))]
use thimble_shared::artifact::layout::I4_OFFSET;
use thimble_shared::artifact::layout::{I4_BLOCK_BYTES, I8_GROUP, PANEL_ROWS};
use thimble_shared::dtype::I4_BLOCK;

/// Numbers of all channels of a panel at one group of inputs.
pub(super) const STEP: usize = PANEL_ROWS * I8_GROUP;
/// Steps that lie in the low halves of a block's bytes; as many lie in the high halves.
const HALF: usize = I4_BLOCK / I8_GROUP / 2;

multiversion! {
    /// int4 panels `[in/32][4][8][4]` with multipliers `[in/32][8]` to int8 panels `[depth/4][8][4]`. `depth`, the int8
    /// panels' padded input, may end in the middle of the last block.
    pub fn int4(bytes: &[u8], multipliers: &[u8], depth: usize, to: &mut [i8]) {
        let blocks = depth.div_ceil(I4_BLOCK);
        let panels = bytes
            .chunks_exact(blocks * I4_BLOCK_BYTES)
            .zip(multipliers.chunks_exact(blocks * PANEL_ROWS))
            .zip(to.chunks_exact_mut(depth * PANEL_ROWS));
        for ((bytes, multipliers), to) in panels {
            let bytes = bytes.as_chunks::<I4_BLOCK_BYTES>().0;
            let multipliers = multipliers.as_chunks::<PANEL_ROWS>().0;
            for ((bytes, multipliers), to) in bytes.iter().zip(multipliers).zip(to.chunks_mut(2 * HALF * STEP)) {
                let Some((low, high)) = to.split_first_chunk_mut::<I4_BLOCK_BYTES>() else {
                    break;
                };
                // Absent where the last block ends early.
                block(bytes, multipliers, low, high.first_chunk_mut());
            }
        }
    }
}

#[cfg(not(any(target_arch = "aarch64", target_arch = "arm")))]
use self::plain_block as block;
#[cfg(target_arch = "aarch64")]
use super::aarch64::expand_int4 as block;
#[cfg(target_arch = "arm")]
use super::neon32::{expand_int4 as block, expand_int8 as some_steps};

/// One block of an int4 panel as int8: the numbers in the low halves of its bytes and, where `high` is asked for, those in the high
/// halves, each times its channel's multiplier. 64-bit Arm has its own.
#[cfg(not(target_arch = "aarch64"))]
#[inline(always)]
pub(super) fn plain_block(
    bytes: &[u8; I4_BLOCK_BYTES],
    multipliers: &[u8; PANEL_ROWS],
    low: &mut [i8; I4_BLOCK_BYTES],
    high: Option<&mut [i8; I4_BLOCK_BYTES]>,
) {
    // Each channel's multiplier beside each of its four numbers.
    let mut times = [0i8; STEP];
    for (times, &m) in times.as_chunks_mut::<I8_GROUP>().0.iter_mut().zip(multipliers) {
        *times = [m as i8; I8_GROUP];
    }
    let half = |to: &mut [i8; I4_BLOCK_BYTES], nibble: fn(u8) -> u8| {
        for (bytes, to) in bytes.as_chunks::<STEP>().0.iter().zip(to.as_chunks_mut::<STEP>().0) {
            for i in 0..STEP {
                to[i] = (nibble(bytes[i]) as i8 - I4_OFFSET).wrapping_mul(times[i]);
            }
        }
    };
    half(low, |byte| byte & 15);
    if let Some(high) = high {
        half(high, |byte| byte >> 4);
    }
}

multiversion! {
    /// int8 panels `[depth/4][8][4]` to f32 panels `[k][8]`, `k` being the inputs without padding.
    pub fn int8(panels: &[i8], depth: usize, k: usize, to: &mut [f32]) {
        for (panel, to) in panels.chunks_exact(depth * PANEL_ROWS).zip(to.chunks_exact_mut(k * PANEL_ROWS)) {
            let done = some_steps(panel, to);
            for (step, to) in panel.as_chunks::<STEP>().0.iter().zip(to.chunks_mut(STEP)).skip(done) {
                for (c, to) in to.as_chunks_mut::<PANEL_ROWS>().0.iter_mut().enumerate() {
                    for (n, to) in to.iter_mut().enumerate() {
                        *to = f32::from(step[n * I8_GROUP + c]);
                    }
                }
            }
        }
    }
}

/// As many steps as assembly does; returns how many. Compilers make vectors of the rest, but for 32-bit Arm.
#[cfg(not(target_arch = "arm"))]
#[inline(always)]
fn some_steps(_: &[i8], _: &mut [f32]) -> usize {
    0
}

/// The sum of each channel's numbers, of int8 panels `[depth/4][8][4]`; padding is 0 and adds nothing.
pub fn row_sums(panels: &[i8], depth: usize) -> impl Iterator<Item = i32> + '_ {
    panels.chunks_exact(depth * PANEL_ROWS).flat_map(|panel| {
        let lanes = lane_sums(panel);
        let channels = lanes.as_chunks::<I8_GROUP>().0;
        std::array::from_fn::<i32, PANEL_ROWS, _>(|n| channels[n].iter().sum())
    })
}

multiversion! {
    /// One panel's numbers summed over its steps.
    fn lane_sums(panel: &[i8]) -> [i32; STEP] {
        /// Numbers whose sum is sure to fit an i16.
        const SHORT: usize = 256;
        let mut all = [0i32; STEP];
        for steps in panel.as_chunks::<STEP>().0.chunks(SHORT) {
            let mut short = [0i16; STEP];
            for step in steps {
                for (sum, &q) in short.iter_mut().zip(step) {
                    *sum += i16::from(q);
                }
            }
            for (all, &sum) in all.iter_mut().zip(&short) {
                *all += i32::from(sum);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use thimble_shared::artifact::layout::PanelLayout;
    use thimble_shared::artifact::runtime::Order;
    use thimble_shared::artifact::tensors::{Part, payload};
    use thimble_shared::dtype::{Format, Numbers, Storage, Values};
    use thimble_shared::model::weight::{Kind, Role, Slot, WeightSpec};

    #[test]
    fn row_sums_are_exact_at_the_largest_numbers() {
        for (out, inp) in [(8, 16), (17, 1100), (24, 65_536), (3, 5)] {
            let layout = PanelLayout::new(Storage::I8, out, inp);
            let rows: Vec<i8> = (0..out * inp)
                .map(|i| match i / inp % 3 {
                    0 => 127,
                    1 => -127,
                    _ => ((i * 37) % 255) as i8,
                })
                .collect();
            let want: Vec<i32> = rows
                .chunks(inp)
                .map(|row| row.iter().map(|&q| i32::from(q)).sum())
                .collect();
            let panels = layout.scatter(&rows, 0);
            let found: Vec<i32> = super::row_sums(&panels, layout.padded_in()).take(out).collect();
            assert_eq!(found, want, "{out}x{inp}");
        }
    }

    /// What the format stores, expanded, is what a file in the format expanded to would store.
    #[test]
    fn expanded_panels_are_those_of_the_wider_format() {
        for (out, inp) in [(8, 32), (17, 48), (9, 5), (24, 70), (8, 16)] {
            let data: Vec<f32> = (0..out * inp).map(|i| ((i * 37) % 251) as f32 - 125.0).collect();
            let spec = WeightSpec {
                name: "w".into(),
                shape: vec![out, inp],
                kind: Kind::Linear,
                role: Role::Head("w"),
                slot: Slot::Whole,
                site: None,
            };
            let wide = PanelLayout::new(Storage::I8, out, inp);
            let depth = wide.padded_in();

            let int4 = Values::round_to_nearest(Format::I4, &data, out);
            let (q, scales) = (int4.int8s().unwrap(), int4.scales().to_vec());
            let int8 = Values::new(Format::I8, Numbers::I8 { q, scales });
            let mut found = vec![1i8; wide.bytes()];
            let (bytes, multipliers) = (
                payload(&spec, &int4, Part::Numbers, Order::Panels),
                payload(&spec, &int4, Part::Multipliers, Order::Panels),
            );
            super::int4(&bytes, &multipliers, depth, &mut found);
            let int8 = payload(&spec, &int8, Part::Numbers, Order::Panels);
            assert_eq!(found, bytemuck::cast_slice::<u8, i8>(&int8), "{out}x{inp}");

            let mut found = vec![1f32; wide.padded_out() * inp];
            super::int8(bytemuck::cast_slice(&int8), depth, inp, &mut found);
            let floats: Vec<f32> = int4.int8s().unwrap().iter().map(|&q| f32::from(q)).collect();
            // Which lie anywhere.
            let floats = payload(&spec, &Values::f32(floats), Part::Numbers, Order::Panels);
            let floats: Vec<f32> = floats.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
            assert_eq!(found, floats, "{out}x{inp}");
        }
    }
}
