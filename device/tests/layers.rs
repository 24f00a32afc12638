//! One layer at a time against plain arithmetic written here in f64: every format and mixtures of them, masks with holes,
//! left padding and nothing but padding. int8 follows what the ONNX states; single roundings may fall the other way.

mod fixture;

use fixture::{Checkpoint, engine};
use thimble_device::engine::tensors::Tensor;
use thimble_device::{EngineOptions, Input};
use thimble_shared::dtype::{Format, InputRange};
use thimble_shared::model::weights::Weights;
use thimble_shared::model::{Activation, AttentionArithmetic, Config, Model};

struct Reference<'a> {
    config: &'a Config,
    weights: &'a Weights,
}

impl Reference<'_> {
    fn linear(&self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let bias = self.weights[&format!("{name}.bias")].to_f32();
        let ends = |x: &[f32]| {
            (
                x.iter().copied().fold(f32::MAX, f32::min),
                x.iter().copied().fold(f32::MIN, f32::max),
            )
        };
        let all: Vec<f32> = x.iter().flatten().map(|&v| v as f32).collect();
        let row = |x: &Vec<f64>| -> Vec<f64> {
            let k = x.len();
            let values = &self.weights[name];
            match values.format().input_range() {
                Some(range) => {
                    let (q, scales) = (values.int8s().unwrap(), values.scales());
                    let x: Vec<f32> = x.iter().map(|&v| v as f32).collect();
                    let per_token = |center: f32| {
                        let x: Vec<f32> = x.iter().map(|v| v - center).collect();
                        let a = x.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-30);
                        let x: Vec<i32> = x.iter().map(|v| (v * (127.0 / a)).round_ties_even() as i32).collect();
                        (x, a / 127.0, center)
                    };
                    let (x, step, center) = match range {
                        InputRange::Symmetric => per_token(0.0),
                        InputRange::Centered => {
                            let (least, most) = ends(&x);
                            per_token((most + least) * 0.5)
                        }
                        InputRange::Tensor => {
                            let (least, most) = ends(&all);
                            let (least, most) = (least.min(0.0), most.max(0.0));
                            let step = (most - least) / 255.0;
                            let zero = (-least / step).round_ties_even();
                            let uint8 = |v: &f32| ((v / step).round_ties_even() + zero).clamp(0.0, 255.0) as i32;
                            (x.iter().map(|v| uint8(v) - 128).collect(), step, step * (128.0 - zero))
                        }
                    };
                    let channel = |n: usize| {
                        let sum: i32 = q[n * k..][..k].iter().zip(&x).map(|(&w, &x)| i32::from(w) * x).sum();
                        let ones: i32 = q[n * k..][..k].iter().map(|&w| i32::from(w)).sum();
                        f64::from(sum as f32 * step * scales[n] + center * (ones as f32 * scales[n]) + bias[n])
                    };
                    (0..bias.len()).map(channel).collect()
                }
                None => {
                    let w = values.to_f32();
                    let dot = |n: usize| -> f64 { w[n * k..][..k].iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum() };
                    (0..bias.len()).map(|n| dot(n) + f64::from(bias[n])).collect()
                }
            }
        };
        x.iter().map(row).collect()
    }

    fn norm(&self, name: &str, x: &[Vec<f64>], residual: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (w, b) = (
            self.weights[&format!("{name}.weight")].to_f32(),
            self.weights[&format!("{name}.bias")].to_f32(),
        );
        let row = |(x, r): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
            let x: Vec<f64> = x.iter().zip(r).map(|(a, b)| a + b).collect();
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (variance + f64::from(self.config.layer_norm_eps)).sqrt();
            x.iter()
                .zip(&w)
                .zip(&b)
                .map(|((v, &w), &b)| (v - mean) * scale * f64::from(w) + f64::from(b))
                .collect()
        };
        x.iter().zip(residual).map(row).collect()
    }

    fn activate(&self, x: f64) -> f64 {
        match self.config.activation {
            Activation::GeluNew => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            Activation::Relu => x.max(0.0),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
        }
    }

    /// All rows of one sequence through group `group`.
    fn layer(&self, group: usize, x: &[Vec<f64>], keep: &[f32]) -> Vec<Vec<f64>> {
        let mut h = x.to_vec();
        let size = self.config.head_size();
        for inner in 0..self.config.inner_group_num {
            let at = |part: &str| format!("{group}.{inner}.{part}");
            let (q, k, v) = (
                self.linear(&at("q"), &h),
                self.linear(&at("k"), &h),
                self.linear(&at("v"), &h),
            );
            let mut context = vec![vec![0.0; self.config.hidden_size]; h.len()];
            for head in 0..self.config.num_attention_heads {
                let span = head * size..(head + 1) * size;
                let part = |x: &[Vec<f64>]| -> Vec<Vec<f64>> { x.iter().map(|x| x[span.clone()].to_vec()).collect() };
                let attended = attend(self.config.attention, [part(&q), part(&k), part(&v)], keep);
                for (out, attended) in context.iter_mut().zip(attended) {
                    out[span.clone()].copy_from_slice(&attended);
                }
            }
            let attended = self.norm(&at("attn_norm"), &self.linear(&at("o"), &context), &h);
            let mut up = self.linear(&at("up"), &attended);
            up.iter_mut().flatten().for_each(|v| *v = self.activate(*v));
            h = self.norm(&at("ffn_norm"), &self.linear(&at("down"), &up), &attended);
        }
        h
    }
}

/// One head's queries, keys and values, in the arithmetic the ONNX states.
fn attend(arithmetic: AttentionArithmetic, [q, k, v]: [Vec<Vec<f64>>; 3], keep: &[f32]) -> Vec<Vec<f64>> {
    let narrow = arithmetic == AttentionArithmetic::Int8;
    let (q, k) = match narrow {
        true => (rounded(&q), rounded(&k)),
        false => (q, k),
    };
    let one = |q: &Vec<f64>| {
        // A sequence without real tokens looks at all of its positions alike.
        let scores: Vec<f64> = k
            .iter()
            .zip(keep)
            .map(|(k, &keep)| {
                let dot: f64 = q.iter().zip(k).map(|(a, b)| a * b).sum();
                let score = dot / (q.len() as f64).sqrt();
                if keep == 0.0 { f64::from(f32::MIN) } else { score }
            })
            .collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut weights: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
        let mut values = v.clone();
        if narrow {
            // Each value's step goes into its weight, and the weights of a query are rounded together.
            for (weight, value) in weights.iter_mut().zip(&mut values) {
                let (int8s, step) = int8s(value);
                *weight *= step;
                *value = int8s;
            }
            let (int8s, step) = int8s(&weights);
            weights = int8s.iter().map(|weight| weight * step).collect();
        }
        let mut out = vec![0.0; q.len()];
        for (weight, v) in weights.iter().zip(&values) {
            for (o, v) in out.iter_mut().zip(v) {
                *o += weight * v;
            }
        }
        out
    };
    q.iter().map(one).collect()
}

/// The int8 numbers of a row over its range, and their step.
fn int8s(x: &[f64]) -> (Vec<f64>, f64) {
    let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let a = x.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-30);
    let int8s = x.iter().map(|v| f64::from((v * (127.0 / a)).round_ties_even()));
    (int8s.collect(), f64::from(a / 127.0))
}

/// What the int8 numbers of each row stand for.
fn rounded(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let row = |x: &Vec<f64>| {
        let (int8s, step) = int8s(x);
        int8s.iter().map(|q| q * step).collect()
    };
    rows.iter().map(row).collect()
}

fn erf(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while n < 300.0 {
        n += 1.0;
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    if x.abs() > 5.0 {
        x.signum()
    } else {
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }
}

/// Hidden states of two sequences of eleven tokens, from the model's own embedding.
fn hidden(model: &Model) -> Tensor<f32> {
    let (rows, seq) = (2, 11);
    let ids: Vec<i64> = (0..rows * seq)
        .map(|i| (i * 37 % model.config.vocab_size) as i64)
        .collect();
    let mut shape = vec![rows, seq];
    if model.config.head == thimble_shared::model::Head::MultipleChoice {
        shape.insert(0, 1);
    }
    let input = Input {
        shape,
        input_ids: ids,
        ..Input::default()
    };
    engine(model).hidden_states(&input).unwrap().swap_remove(0)
}

/// Largest and root-mean-square difference of one layer from the reference, over both sequences.
fn compare(model: &Model, kernel: Option<&str>, keep: &[f32]) -> (f64, f64) {
    let options = EngineOptions {
        force_kernel: kernel.map(str::to_string),
        threads: 2,
    };
    let engine = thimble_device::Engine::new(fixture::image(model), options).unwrap();
    let hidden = hidden(model);
    let (seq, width) = (hidden.shape[1], hidden.shape[2]);
    let reference = Reference {
        config: &model.config,
        weights: &model.weights,
    };
    let layer = engine.layers() - 1;
    let got = engine.run_layer(layer, &hidden, keep).unwrap();
    let group = model.config.layer_groups()[layer];
    let (mut max, mut squares) = (0f64, 0f64);
    for (i, one) in hidden.data.chunks(seq * width).enumerate() {
        let rows: Vec<Vec<f64>> = one
            .chunks(width)
            .map(|r| r.iter().map(|&v| f64::from(v)).collect())
            .collect();
        let want = reference.layer(group, &rows, &keep[i * seq..][..seq]);
        for (g, w) in got.data[i * seq * width..].iter().zip(want.iter().flatten()) {
            max = max.max((f64::from(*g) - w).abs());
            squares += (f64::from(*g) - w).powi(2);
        }
    }
    (max, (squares / hidden.data.len() as f64).sqrt())
}

fn keeps() -> Vec<(&'static str, Vec<f32>)> {
    let mask = |a: &str, b: &str| format!("{a}{b}").bytes().map(|c| f32::from(c - b'0')).collect();
    vec![
        ("all real", mask("11111111111", "11111111111")),
        ("right padding", mask("11111111111", "11110000000")),
        ("left padding", mask("00001111111", "11111111111")),
        ("holes", mask("10110100101", "01111011110")),
        ("nothing real", mask("00000000000", "11111000000")),
    ]
}

#[test]
fn layers_of_float_arithmetic_agree_for_every_mask() {
    for name in fixture::TINY {
        let checkpoint = Checkpoint::read(name);
        for format in [Format::F32, Format::F16, Format::W8] {
            for (mask, keep) in keeps() {
                let (max, _) = compare(&checkpoint.model(format), None, &keep);
                assert!(max < 1e-5, "{name} {format} {mask}: {max}");
            }
        }
    }
}

#[test]
fn layers_of_int8_arithmetic_agree_but_for_single_roundings() {
    for name in fixture::TINY.iter().chain(&["albert-deb", "albert-brackets"]) {
        for format in [Format::I8, Format::I8A, Format::I4] {
            let model = Checkpoint::read(name).model(format);
            for (mask, keep) in keeps() {
                let (max, rms) = compare(&model, None, &keep);
                // One flipped rounding in the first of two inner layers has moved the tokens by an RMS of 0.0028.
                assert!(max < 0.05 && rms < 4e-3, "{name} {format} {mask}: max {max}, rms {rms}");
            }
        }
    }
}

#[test]
fn layers_with_int8_attention_agree_but_for_single_roundings() {
    for name in fixture::TINY.iter().chain(&["albert-deb", "albert-brackets"]) {
        for format in [Format::F32, Format::I8] {
            let mut model = Checkpoint::read(name).model(format);
            model.config.attention = AttentionArithmetic::Int8;
            for (mask, keep) in keeps() {
                let (max, rms) = compare(&model, None, &keep);
                assert!(max < 0.05 && rms < 4e-3, "{name} {format} {mask}: max {max}, rms {rms}");
            }
        }
    }
}

#[test]
fn layers_whose_inputs_have_one_range_agree_but_for_single_roundings() {
    for name in fixture::TINY.iter().chain(&["albert-deb", "albert-brackets"]) {
        let model = Checkpoint::read(name).model(Format::I8T);
        let (_, keep) = keeps().swap_remove(0);
        let (max, rms) = compare(&model, None, &keep);
        // A step is that of the token with the widest range, so a flipped rounding is larger than with a range a token: measured
        // 0.049 and 0.013.
        assert!(max < 0.1 && rms < 0.02, "{name}: max {max}, rms {rms}");
    }
}

#[test]
fn layers_of_mixed_formats_agree() {
    let apart = |f: &Format| f.input_range() != Some(InputRange::Tensor);
    let formats: Vec<Format> = Format::ALL.into_iter().filter(apart).collect();
    let pick = |name: &str| formats[name.bytes().map(usize::from).sum::<usize>() % formats.len()];
    for name in ["albert-tiny-groups", "albert-mlm-tiny", "albert-seq-tiny"] {
        for (mask, keep) in keeps() {
            let (max, rms) = compare(&Checkpoint::read(name).mixed(pick), None, &keep);
            assert!(max < 0.05 && rms < 2e-3, "{name} {mask}: max {max}, rms {rms}");
        }
    }
}

#[test]
fn every_int8_kernel_gives_the_same_layer_bit_for_bit() {
    let checkpoint = Checkpoint::read("albert-deb");
    for format in [Format::I8, Format::I8A] {
        check_kernels(&checkpoint.model(format));
    }
}

fn check_kernels(model: &Model) {
    let hidden = hidden(model);
    let keep = vec![1.0; hidden.shape[0] * hidden.shape[1]];
    let (_, names) = thimble_device::engine::kernels::Kernels::available();
    // The f32 kernel must stay the same one, since attention runs on it: only names that are no f32 kernel's qualify.
    let (f32s, _) = thimble_device::engine::kernels::Kernels::available();
    let run = |name: Option<&String>, threads| {
        let options = EngineOptions {
            force_kernel: name.cloned(),
            threads,
        };
        let engine = thimble_device::Engine::new(fixture::image(model), options).unwrap();
        engine.run_layer(0, &hidden, &keep).unwrap()
    };
    let want = run(None, 1);
    for name in names.iter().filter(|n| !f32s.contains(n)) {
        for threads in [1, 2, 5] {
            assert_eq!(run(Some(name), threads), want, "{name}, {threads} threads");
        }
    }
}

#[test]
fn a_layer_of_albert_base_agrees_in_every_format() {
    let checkpoint = Checkpoint::base();
    for (format, max_allowed, rms_allowed) in [
        (Format::F32, 2e-5, 1e-6),
        (Format::F16, 2e-5, 1e-6),
        (Format::W8, 2e-5, 1e-6),
        (Format::I8, 0.05, 1e-3),
        (Format::I8A, 0.05, 1e-3),
        (Format::I4, 0.05, 1e-3),
    ] {
        let (max, rms) = compare(&checkpoint.model(format), None, &[1.0; 22]);
        println!("{format}: max {max:.2e}, rms {rms:.2e}");
        assert!(max < max_allowed && rms < rms_allowed, "{format}: max {max}, rms {rms}");
    }
}
