//! Every op against plain arithmetic, written out in f64 or exact integers, at random shapes: one row, one column, one more
//! than a tile, lengths nothing divides. A failure names the seed of its case, which makes it again alone.

use crate::engine::context::Context;
use crate::engine::elementwise::tests::softmax;
use crate::engine::elementwise::{activate, layer_norm};
use crate::engine::kernels::pack::{quantize_centered, quantize_row};
use crate::engine::kernels::tests::{CASES, Random, size};
use crate::engine::kernels::{F32Kernel, I8Kernel, Kernels};
use crate::engine::ops::attention::Attention;
use crate::engine::ops::embed::Embed;
use crate::engine::ops::linear::Linear;
use crate::engine::ops::norm::Norm;
use crate::engine::threads::Pool;
use crate::engine::weight::Weights;
use crate::image::Image;
use std::sync::Arc;
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::artifact::{self, Artifact, Provenance};
use thimble_shared::board::memory;
use thimble_shared::dtype::{ACTIVATION_FLOOR, Format, InputRange, Values};
use thimble_shared::model::{Activation, AttentionArithmetic, Config, Head, Kind, Model};
use tract_core::internal::*;

/// Half the distance of two neighboring f32 near 1: the most one rounding changes, relative to the result.
const UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// One pair of kernels after the other, all this CPU has, on one thread or three.
fn context(case: u64) -> Arc<Context> {
    let (f32s, i8s) = (F32Kernel::available(), I8Kernel::available());
    let kernels = Kernels {
        f32: f32s[case as usize % f32s.len()].clone(),
        i8: i8s[case as usize % i8s.len()].clone(),
    };
    let threads = if case.is_multiple_of(4) { 3 } else { 1 };
    Context::new(kernels, Pool::new(threads).unwrap())
}

/// The kernel of this name, and the best one of what it does not multiply.
fn by_kernel(name: &str) -> Arc<Context> {
    Context::new(Kernels::choose(Some(name)).unwrap(), Pool::new(1).unwrap())
}

fn run(op: impl Into<Box<dyn TypedOp>>, inputs: Vec<Tensor>) -> Vec<Vec<f32>> {
    let mut model = TypedModel::default();
    let sources: Vec<OutletId> = inputs
        .iter()
        .enumerate()
        .map(|(i, t)| {
            model
                .add_source(format!("{i}"), t.datum_type().fact(t.shape()))
                .unwrap()
        })
        .collect();
    let outlets = model.wire_node("op", op, &sources).unwrap();
    model.select_output_outlets(&outlets).unwrap();
    let plan = model.into_runnable().unwrap();
    let outputs = plan
        .run(inputs.into_iter().map(IntoTValue::into_tvalue).collect())
        .unwrap();
    let floats = |t: TValue| t.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();
    outputs.into_iter().map(floats).collect()
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_shape(shape, values).unwrap()
}

/// Numbers of ordinary size, of a size that differs from row to row, or mostly zero.
fn numbers(random: &mut Random, rows: usize, width: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(rows * width);
    for _ in 0..rows {
        let (magnitude, kind) = (10f32.powi((random.next() % 9) as i32 - 4), random.next() % 4);
        all.extend((0..width).map(|_| match (kind, random.next() % 8) {
            (0, 1..) => 0.0,
            (1, 0) => 100.0 * magnitude * random.unit(),
            _ => magnitude * random.normal(),
        }));
    }
    all
}

struct Case {
    seed: u64,
    model: Model,
    image: Arc<Image>,
    artifact: Artifact,
    context: Arc<Context>,
}

impl Case {
    /// A model of random sizes in one format.
    fn new(seed: u64, format: Format) -> (Case, Random) {
        Case::mixed(seed, |_| format)
    }

    /// A model of random sizes, each weight in its own format.
    fn mixed(seed: u64, format: impl Fn(&str) -> Format) -> (Case, Random) {
        let mut random = Random(seed << 20);
        let heads = size(&mut random, 5);
        let config = Config {
            family: thimble_shared::model::ModelFamily::Albert,
            vocab_size: size(&mut random, 70),
            embedding_size: size(&mut random, 90),
            hidden_size: heads * size(&mut random, 40),
            num_hidden_layers: 1,
            num_hidden_groups: 1,
            inner_group_num: 1,
            num_attention_heads: heads,
            intermediate_size: size(&mut random, 150),
            max_position_embeddings: size(&mut random, 40),
            type_vocab_size: size(&mut random, 3),
            layer_norm_eps: 1e-12,
            activation: Activation::GeluNew,
            head: Head::MaskedLm,
            tied_decoder: random.next().is_multiple_of(2),
            pooler: false,
            multi_label: false,
            regression: false,
            hidden_shift: false,
            sentence: None,
            attention: AttentionArithmetic::F32,
            labels: vec![],
        };
        let weights = config.weights().into_iter().map(|w| {
            let format = if w.kind == Kind::Vector {
                Format::F32
            } else {
                format(&w.name)
            };
            let data: Vec<f32> = (0..w.elements()).map(|_| random.normal()).collect();
            (w.name.clone(), Values::round_to_nearest(format, &data, w.rows()))
        });
        let model = Model {
            weights: weights.collect(),
            config: config.clone(),
        };
        let bytes = artifact::write(&model, LowerOptions::default(), &Provenance::default()).unwrap();
        let case = Case {
            seed,
            artifact: artifact::open(&bytes).unwrap(),
            image: Image::copy(&bytes),
            context: context(seed),
            model,
        };
        (case, random)
    }

    fn weights(&self) -> Weights<'_> {
        Weights::new(&self.image, &self.artifact)
    }

    fn f32s(&self, name: &str) -> Vec<f32> {
        self.model.weights[name].to_f32()
    }

    fn name(&self) -> String {
        let config = &self.model.config;
        format!("seed {}, {:?}, {config:?}", self.seed, self.context)
    }
}

/// `x · wᵀ + b` with what may be lost on the way: every product and every sum rounds once.
fn product(x: &[f32], w: &[f32], bias: f32) -> (f64, f64) {
    let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
    let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
    let roundings = (x.len() + 4) as f64 * UNIT;
    (
        sum + f64::from(bias),
        roundings * (size + f64::from(bias).abs()) + f64::from(f32::MIN_POSITIVE),
    )
}

/// The sum the ONNX states for an int8 weight, to the last bit; `all` are the values of the whole tensor that the token `x` is of.
fn quantized(range: InputRange, all: &[f32], x: &[f32], q: &[i8], scale: f32, bias: f32) -> f32 {
    let ends = |x: &[f32]| {
        (
            x.iter().copied().fold(f32::MAX, f32::min),
            x.iter().copied().fold(f32::MIN, f32::max),
        )
    };
    let per_token = |center: f32| {
        let off: Vec<f32> = x.iter().map(|x| x - center).collect();
        let most = off.iter().fold(0f32, |m, v| m.max(v.abs())).max(ACTIVATION_FLOOR);
        let inverse = 127.0 / most;
        let int8s: Vec<i32> = off.iter().map(|x| (x * inverse).round_ties_even() as i32).collect();
        assert!(int8s.iter().all(|q| q.abs() <= 127));
        (int8s, most / 127.0, center)
    };
    let (int8s, step, center) = match range {
        InputRange::Symmetric => per_token(0.0),
        InputRange::Centered => {
            let (least, greatest) = ends(x);
            per_token((greatest + least) * 0.5)
        }
        InputRange::Tensor => {
            let (least, greatest) = ends(all);
            let (least, greatest) = (least.min(0.0), greatest.max(0.0));
            let step = if least == greatest {
                1.0
            } else {
                (greatest - least) / 255.0
            };
            let zero = (-least / step).round_ties_even().clamp(0.0, 255.0);
            let uint8 = |x: &f32| ((x / step).round_ties_even() + zero).clamp(0.0, 255.0) as i32;
            (x.iter().map(|x| uint8(x) - 128).collect(), step, step * (128.0 - zero))
        }
    };
    let sum: i32 = int8s.iter().zip(q).map(|(x, &q)| x * i32::from(q)).sum();
    let product = sum as f32 * step * scale;
    let ones: i32 = q.iter().map(|&q| i32::from(q)).sum();
    match range.is_moved() {
        false => product + bias,
        true => product + center * (ones as f32 * scale) + bias,
    }
}

#[test]
fn linear_maps_at_random_shapes() {
    for seed in 0..CASES {
        let format = Format::ALL[seed as usize % Format::ALL.len()];
        let (case, random) = Case::new(seed, format);
        check_linears(&case, random);
    }
}

/// Maps of one input, each in a format of its own: the input is packed once for every kind there is.
#[test]
fn linear_maps_of_several_formats_at_random_shapes() {
    let all = Format::ALL.len();
    for seed in 0..CASES {
        let mixed = |name: &str| {
            let place = match name {
                "0.0.q" => seed as usize,
                "0.0.k" => seed as usize / all,
                _ => seed as usize / all + 1,
            };
            Format::ALL[place % all]
        };
        let (case, random) = Case::mixed(seed, mixed);
        check_linears(&case, random);
    }
}

fn check_linears(case: &Case, mut random: Random) {
    let tied = case.model.config.tied_decoder;
    let sets: [(&[&str], &str); 4] = [
        (&["0.0.q", "0.0.k", "0.0.v"], ""),
        (&["map"], ""),
        (&["0.0.up"], ""),
        (&[if tied { "word" } else { "mlm.decoder" }], "mlm.decoder.bias"),
    ];
    for (names, bias) in sets {
        let weights = case.weights();
        let linear = names.iter().map(|n| match bias {
            "" => weights.linear(n, &format!("{n}.bias")).unwrap(),
            bias => weights.linear(n, bias).unwrap(),
        });
        let weights: Vec<_> = linear.collect();
        let (rows, width) = (size(&mut random, 40), weights[0].layout.inp);
        let x = numbers(&mut random, rows, width);
        let op = Linear {
            weights: weights.clone(),
            activation: None,
            context: case.context.clone(),
        };
        let outputs = run(op, vec![tensor(&[1, rows, width], &x)]);
        for ((name, weight), got) in names.iter().zip(&weights).zip(outputs) {
            let (values, out) = (&case.model.weights[*name], weight.layout.out);
            let (w, int8s, bias) = (values.to_f32(), values.int8s(), weight.bias());
            assert_eq!(got.len(), rows * out);
            for (i, &got) in got.iter().enumerate() {
                let (t, c) = (i / out, i % out);
                let (all, x, of) = (&x[..], &x[t * width..][..width], c * width..(c + 1) * width);
                let what = || format!("{name} token {t} channel {c}: {}", case.name());
                match (&int8s, values.format().input_range()) {
                    (Some(q), Some(range)) => {
                        let want = quantized(range, all, x, &q[of], values.scales()[c], bias[c]);
                        assert_eq!(got.to_bits(), want.to_bits(), "{got} not {want}, {}", what());
                    }
                    _ => {
                        let (want, loss) = product(x, &w[of], bias[c]);
                        let error = (f64::from(got) - want).abs();
                        assert!(error <= loss, "{got} not {want} within {loss}, {}", what());
                    }
                }
            }
        }
    }
}

#[test]
fn embeddings_at_random_shapes() {
    for seed in 0..CASES {
        let format = Format::ALL[seed as usize % Format::ALL.len()];
        let (case, mut random) = Case::new(seed, format);
        let config = &case.model.config;
        let (batch, seq) = (size(&mut random, 3), config.max_position_embeddings);
        let mut below =
            |n: usize| -> Vec<i64> { (0..batch * seq).map(|_| (random.next() % n as u64) as i64).collect() };
        let (ids, types) = (below(config.vocab_size), below(config.type_vocab_size));
        let weights = case.weights();
        let op = Embed {
            word: weights.table("word").unwrap(),
            kind: weights.table("type").unwrap(),
            position: weights.table("position").unwrap(),
            context: case.context.clone(),
        };
        let shaped = |v: &[i64]| Tensor::from_shape(&[batch, seq], v).unwrap();
        let got = run(op, vec![shaped(&ids), shaped(&types)]).remove(0);
        let [word, kind, position] = ["word", "type", "position"].map(|n| case.f32s(n));
        let width = config.embedding_size;
        for (i, &got) in got.iter().enumerate() {
            let (t, j) = (i / width, i % width);
            let at = |table: &[f32], row: usize| table[row * width + j];
            // In the order the rows are added: the same roundings, so the same bits.
            let want = at(&word, ids[t] as usize) + at(&kind, types[t] as usize) + at(&position, t % seq);
            assert_eq!(got, want, "token {t} column {j}: {}", case.name());
        }
    }
}

/// What attention reads, of random sizes, with a mask that has holes.
struct Attended {
    /// Sequences, tokens, heads and the width of a head.
    sizes: [usize; 4],
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    keep: Vec<f32>,
}

impl Attended {
    fn new(seed: u64) -> Attended {
        let mut random = Random(seed << 20 | 1);
        let (batch, heads, width) = (size(&mut random, 3), size(&mut random, 4), size(&mut random, 40));
        // One more than the queries of a block, now and then.
        let seq = if seed.is_multiple_of(10) {
            memory::QUERIES + 1
        } else {
            size(&mut random, 50)
        };
        let hidden = heads * width;
        let mut some = || -> Vec<f32> { (0..batch * seq * hidden).map(|_| random.normal()).collect() };
        let (q, k, v) = (some(), some(), some());
        let keep = (0..batch * seq).map(|_| f32::from(u8::from(!random.next().is_multiple_of(5))));
        Attended {
            sizes: [batch, seq, heads, width],
            q,
            k,
            v,
            keep: keep.collect(),
        }
    }

    fn run(&self, arithmetic: AttentionArithmetic, context: Arc<Context>) -> Vec<f32> {
        let [batch, seq, heads, width] = self.sizes;
        let op = Attention {
            heads,
            arithmetic,
            context,
        };
        let shape = [batch, seq, heads * width];
        let inputs = vec![
            tensor(&shape, &self.q),
            tensor(&shape, &self.k),
            tensor(&shape, &self.v),
            tensor(&[batch, seq], &self.keep),
        ];
        run(op, inputs).remove(0)
    }

    /// The numbers of one token's head.
    fn row<'a>(&self, x: &'a [f32], [b, h, t]: [usize; 3]) -> &'a [f32] {
        let [_, seq, heads, width] = self.sizes;
        &x[((b * seq + t) * heads + h) * width..][..width]
    }

    /// Every head of every sequence.
    fn heads(&self) -> impl Iterator<Item = (usize, usize)> {
        let [batch, _, heads, _] = self.sizes;
        (0..batch).flat_map(move |b| (0..heads).map(move |h| (b, h)))
    }
}

#[test]
fn attention_at_random_shapes() {
    for seed in 0..CASES {
        let case = Attended::new(seed);
        let [batch, seq, heads, width] = case.sizes;
        let (q, k, v, keep) = (&case.q, &case.k, &case.v, &case.keep);
        let hidden = heads * width;
        let got = case.run(AttentionArithmetic::F32, context(seed));
        for (b, h) in case.heads() {
            let row = |x: &[f32], t: usize| case.row(x, [b, h, t]).to_vec();
            let kept = &keep[b * seq..][..seq];
            let none = kept.iter().all(|&k| k == 0.0);
            for t in 0..seq {
                let (mut sums, mut loss) = (vec![0f64; seq], 0f64);
                for (j, sum) in sums.iter_mut().enumerate() {
                    let (score, lost) = product(&row(q, t), &row(k, j), 0.0);
                    let scale = 1.0 / (width as f64).sqrt();
                    *sum = if none { 0.0 } else { score * scale };
                    loss = loss.max((lost + 8.0 * UNIT * score.abs()) * scale);
                }
                let used = |j: usize| none || kept[j] != 0.0;
                let most = (0..seq).filter(|&j| used(j)).fold(f64::MIN, |m, j| m.max(sums[j]));
                let weights: Vec<f64> = (0..seq)
                    .map(|j| if used(j) { (sums[j] - most).exp() } else { 0.0 })
                    .collect();
                let total: f64 = weights.iter().sum();
                // A wrong score changes its weight by as much, relatively, and the total by no more.
                let relative = 2.0 * loss + 4e-7 + (2 * seq + 8) as f64 * UNIT;
                for d in 0..width {
                    let values = (0..seq).map(|j| f64::from(row(v, j)[d]));
                    let terms: Vec<f64> = values.zip(&weights).map(|(v, w)| v * w / total).collect();
                    let want: f64 = terms.iter().sum();
                    let size: f64 = terms.iter().map(|t| t.abs()).sum();
                    let got = f64::from(got[(b * seq + t) * hidden + h * width + d]);
                    let most = relative * size + 1e-30;
                    assert!(
                        (got - want).abs() <= most,
                        "{got} not {want} within {most}: seed {seed}, {batch}x{seq}x{heads}x{width}, token {t}"
                    );
                }
            }
        }
    }
}

/// int8 numbers of a row over its range, and their step, as the ONNX states them.
fn int8s(x: &[f32]) -> (Vec<i32>, f32) {
    let most = x.iter().fold(0f32, |m, v| m.max(v.abs())).max(ACTIVATION_FLOOR);
    let inverse = 127.0 / most;
    let int8s = x.iter().map(|x| (x * inverse).round_ties_even() as i32).collect();
    (int8s, most / 127.0)
}

#[test]
fn int8_attention_at_random_shapes() {
    for seed in 0..CASES {
        let case = Attended::new(seed);
        let [_, seq, _, width] = case.sizes;
        let got = case.run(AttentionArithmetic::Int8, context(seed));
        for (b, h) in case.heads() {
            let all = |x: &[f32]| -> Vec<(Vec<i32>, f32)> { (0..seq).map(|t| int8s(case.row(x, [b, h, t]))).collect() };
            let (queries, keys, values) = (all(&case.q), all(&case.k), all(&case.v));
            let kept = &case.keep[b * seq..][..seq];
            let none = kept.iter().all(|&k| k == 0.0);
            for (t, (query, query_step)) in queries.iter().enumerate() {
                let score = |(key, step): &(Vec<i32>, f32)| {
                    let sum: i32 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    f64::from(sum as f32 * step * query_step) / (width as f64).sqrt()
                };
                let scores: Vec<f64> = keys.iter().map(|key| if none { 0.0 } else { score(key) }).collect();
                let used = |j: usize| none || kept[j] != 0.0;
                let most = (0..seq).filter(|&j| used(j)).fold(f64::MIN, |m, j| m.max(scores[j]));
                let weight = |j: usize| if used(j) { (scores[j] - most).exp() } else { 0.0 };
                let total: f64 = (0..seq).map(weight).sum();
                let weights: Vec<f64> = (0..seq).map(|j| weight(j) * f64::from(values[j].1)).collect();
                let largest = weights.iter().copied().fold(0.0, f64::max);
                for d in 0..width {
                    let (mut sum, mut edges) = (0f64, 0f64);
                    for (weight, (value, _)) in weights.iter().zip(&values) {
                        let exact = weight / largest * 127.0;
                        let value = f64::from(value[d]);
                        sum += exact.round_ties_even() * value;
                        // A weight that the rounding of f32 may move across an edge moves by a whole step.
                        if ((exact - exact.floor()) - 0.5).abs() < 127.0 * 1e-5 {
                            edges += value.abs();
                        }
                    }
                    let step = largest / 127.0 / total;
                    let at = case.row(&got, [b, h, t])[d];
                    let allowed = step * (edges + 1e-5 * (1.0 + sum.abs()));
                    assert!(
                        (f64::from(at) - sum * step).abs() <= allowed,
                        "{at} not {} within {allowed}: seed {seed}, {:?}, token {t}",
                        sum * step,
                        case.sizes
                    );
                }
            }
        }
    }
}

/// All kernels multiply the same int8 numbers, and what they are multiplied by is computed alike: the same bits. What else stands
/// in the batch changes none, and neither does padding behind a sequence.
#[test]
fn int8_attention_has_the_same_bits_by_every_kernel_and_beside_anything() {
    let alone = |case: &Attended, b: usize, tokens: usize| {
        let [_, seq, heads, width] = case.sizes;
        let part = |x: &[f32], each: usize| x[b * seq * each..][..tokens * each].to_vec();
        let hidden = heads * width;
        Attended {
            sizes: [1, tokens, heads, width],
            q: part(&case.q, hidden),
            k: part(&case.k, hidden),
            v: part(&case.v, hidden),
            keep: part(&case.keep, 1),
        }
    };
    for seed in 0..CASES / 4 {
        let mut case = Attended::new(seed);
        let [batch, seq, heads, width] = case.sizes;
        // The last third of the first sequence is padding.
        let real = seq - seq / 3;
        case.keep[..seq].fill(0.0);
        case.keep[..real].fill(1.0);
        let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
        let portable = case.run(AttentionArithmetic::Int8, by_kernel("portable"));
        for name in Kernels::available().1 {
            let got = case.run(AttentionArithmetic::Int8, by_kernel(&name));
            assert_eq!(bits(&got), bits(&portable), "{name}, seed {seed}, {:?}", case.sizes);
        }
        let hidden = heads * width;
        for b in 0..batch {
            let tokens = if b == 0 { real } else { seq };
            let one = alone(&case, b, tokens).run(AttentionArithmetic::Int8, by_kernel("portable"));
            let of_batch = &portable[b * seq * hidden..][..tokens * hidden];
            assert_eq!(bits(&one), bits(of_batch), "row {b}, seed {seed}, {:?}", case.sizes);
        }
    }
}

#[test]
fn norms_at_random_shapes() {
    for seed in 0..CASES {
        let (case, mut random) = Case::new(seed, Format::F32);
        let (rows, width) = (size(&mut random, 40), case.model.config.hidden_size);
        let (x, residual) = (numbers(&mut random, rows, width), numbers(&mut random, rows, width));
        let weights = case.weights();
        let op = Norm {
            weight: weights.vector("0.0.attn_norm.weight", width).unwrap(),
            bias: weights.vector("0.0.attn_norm.bias", width).unwrap(),
            eps: case.model.config.layer_norm_eps,
            context: case.context.clone(),
        };
        let shape = [1, rows, width];
        let got = run(op, vec![tensor(&shape, &x), tensor(&shape, &residual)]).remove(0);
        let (w, b) = (case.f32s("0.0.attn_norm.weight"), case.f32s("0.0.attn_norm.bias"));
        for (t, got) in got.chunks_exact(width).enumerate() {
            let at = |i: usize| t * width + i;
            let sums: Vec<f32> = (0..width).map(|i| x[at(i)] + residual[at(i)]).collect();
            check_norm(&sums, &w, &b, got, &case.name());
        }
    }
}

/// LayerNorm in f64. Taking the mean off loses digits of what is left when it is small beside what was there, and all of
/// them in a row of equal numbers.
fn check_norm(x: &[f32], w: &[f32], b: &[f32], got: &[f32], name: &str) {
    let n = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let deviation = (variance + 1e-12).sqrt();
    let most = x.iter().fold(0f64, |m, &v| m.max(f64::from(v).abs()));
    let lost = (n + 8.0) * UNIT * most / deviation;
    for (i, &got) in got.iter().enumerate() {
        let normal = (f64::from(x[i]) - mean) / deviation;
        let want = normal * f64::from(w[i]) + f64::from(b[i]);
        let scale = f64::from(w[i]).abs() * (1.0 + normal.abs());
        let loss = scale * (lost + (n + 8.0) * UNIT) + 2.0 * UNIT * want.abs() + 1e-30;
        assert!(
            (f64::from(got) - want).abs() <= loss,
            "{got} not {want} within {loss}: {i} of {n}, {name}"
        );
    }
}

#[test]
fn rows_of_any_length_are_normalized_weighed_and_quantized() {
    for seed in 0..CASES {
        let mut random = Random(seed << 20 | 2);
        let len = size(&mut random, 200);
        let x = numbers(&mut random, 1, len);
        let name = format!("seed {seed}, {len} numbers");

        let (w, b): (Vec<f32>, Vec<f32>) = (0..len).map(|_| (random.normal(), random.normal())).unzip();
        let mut got = x.clone();
        layer_norm(&mut got, None, &w, &b, 1e-12);
        check_norm(&x, &w, &b, &got, &name);

        let scores: Vec<f32> = (0..len).map(|_| 20.0 * random.normal()).collect();
        let keep: Vec<f32> = (0..len)
            .map(|_| f32::from(u8::from(!random.next().is_multiple_of(3))))
            .collect();
        let got = softmax(&scores, Some(&keep), 0.5);
        let used = |i: usize| keep[i] != 0.0 || keep.iter().all(|&k| k == 0.0);
        let score = |i: usize| {
            if keep[i] == 0.0 {
                0.0
            } else {
                f64::from(scores[i]) * 0.5
            }
        };
        let most = (0..len).filter(|&i| used(i)).fold(f64::MIN, |m, i| m.max(score(i)));
        let weight = |i: usize| if used(i) { (score(i) - most).exp() } else { 0.0 };
        let total: f64 = (0..len).map(weight).sum();
        for (i, &got) in got.iter().enumerate() {
            let want = weight(i) / total;
            let loss = want * (8e-7 + (len as f64 + 2.0 * (score(i) - most).abs()) * UNIT) + 1e-37;
            assert!(
                (f64::from(got) - want).abs() <= loss,
                "softmax {i}: {got} not {want}, {name}"
            );
            assert!(used(i) || got == 0.0, "softmax {i}: a masked key weighs {got}, {name}");
        }

        let mut q = vec![0i8; len];
        let (scale, center) = quantize_centered(&x, &mut q);
        let greatest = x.iter().copied().fold(f32::MIN, f32::max);
        let least = x.iter().copied().fold(f32::MAX, f32::min);
        assert_eq!(center, (greatest + least) * 0.5, "{name}");
        let most = (greatest - center).max(center - least).max(ACTIVATION_FLOOR);
        assert_eq!(scale, most / 127.0, "{name}");
        for (q, x) in q.iter().zip(&x) {
            let wide = (x - center) * (127.0 / most);
            assert_eq!(f32::from(*q), wide.round_ties_even(), "{x}, {name}");
        }

        let mut q = vec![0i8; len];
        let scale = quantize_row(&x, &mut q);
        let most = x.iter().fold(0f32, |m, v| m.max(v.abs())).max(ACTIVATION_FLOOR);
        assert_eq!(scale, most / 127.0, "{name}");
        for (q, x) in q.iter().zip(&x) {
            assert_eq!(f32::from(*q), (x * (127.0 / most)).round_ties_even(), "{x}, {name}");
        }
    }
}

#[test]
fn extreme_numbers_stay_what_they_are() {
    let sizes = [0.0, 1e-45, 1e-38, 1e-20, 1.0, 88.0, 104.0, 1e4, 1e19, 1e30];
    let inputs: Vec<f32> = sizes.into_iter().flat_map(|x| [x, -x]).collect();
    let cases: [(Activation, fn(f64) -> f64); 5] = [
        // Beyond ±6 both forms of GELU are the number itself or nothing, to the last bit of an f32 near 1.
        (Activation::Gelu, |x| {
            if x.abs() < 1e-19 {
                0.5 * x
            } else if x == 1.0 {
                0.8413447460685429
            } else if x == -1.0 {
                -0.15865525393145707
            } else {
                x.max(0.0)
            }
        }),
        (Activation::GeluNew, |x| {
            0.5 * x * (1.0 + (0.7978845608028654 * (x + 0.044715 * x.powi(3))).tanh())
        }),
        (Activation::Relu, |x| x.max(0.0)),
        (Activation::Silu, |x| x / (1.0 + (-x).exp())),
        (Activation::Tanh, f64::tanh),
    ];
    for (activation, want) in cases {
        let mut got = inputs.clone();
        activate(activation, &mut got);
        for (&x, &y) in inputs.iter().zip(&got) {
            let want = want(f64::from(x));
            // e^x ends at e^±88, so what should vanish is some 1e-38 of the number.
            let loss = 1.5e-6 * want.abs().max(1.0) + 1e-38 * f64::from(x).abs();
            assert!(
                (f64::from(y) - want).abs() <= loss,
                "{activation:?}({x}) = {y} not {want}"
            );
        }
        let mut nan = [f32::NAN, 1.0];
        activate(activation, &mut nan);
        assert!(
            activation == Activation::Relu || nan[0].is_nan(),
            "{activation:?} hides a NaN"
        );
    }
    // The largest number there is, beside others: no int8 goes past 127.
    for most in [f32::MAX, 1e30, f32::MIN_POSITIVE, 1e-45] {
        let mut q = [0; 4];
        quantize_row(&[most, -most, most / 2.0, 0.0], &mut q);
        let want = if most < ACTIVATION_FLOOR {
            [0; 4]
        } else {
            [127, -127, 64, 0]
        };
        assert_eq!(q, want, "{most}");
        quantize_centered(&[most, -most, most / 2.0, 0.0], &mut q);
        assert_eq!(q, want, "{most} around the middle");
    }
}
