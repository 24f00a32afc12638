//! Attention as the ONNX nodes that state it: query, key and value maps, the products of each head in f32 or of int8 numbers, and
//! the heads side by side.

use super::Lowering;
use super::steps::Scope;
use crate::dtype::ACTIVATION_FLOOR;
use crate::model::{AttentionArithmetic, Role};
use crate::onnx::writer::{Attr, DataType};

impl Lowering<'_> {
    pub(super) fn attention(&mut self, x: &str, scope: &Scope, out: &str) {
        let (heads, size) = (self.config.num_attention_heads as i64, self.config.head_size() as i64);
        if self.options.runtime.is_onnxruntime() {
            let map = |l: &mut Self, role: Role| {
                let weight = scope.weight(role);
                l.linear(x, &weight, &format!("{weight}.bias"), &scope.name(role.name()))
            };
            let [q, k, v] = [Role::Query, Role::Key, Role::Value].map(|role| map(self, role));
            let attributes = [
                Attr::Int("num_heads", heads),
                Attr::Float("mask_filter_value", f32::MIN),
            ];
            self.microsoft("MultiHeadAttention", &[&q, &k, &v, "", scope.mask], out, &attributes);
            return;
        }
        let arithmetic = self.config.attention;
        let split = self.ints("heads", &[0, 0, heads, size]);
        let merge = self.ints("merged", &[0, 0, heads * size]);
        let mut head = |role: Role, perm: [i64; 4]| {
            let (weight, part) = (scope.weight(role), role.name());
            let y = self.linear(x, &weight, &format!("{weight}.bias"), &scope.name(part));
            let y = self.node("Reshape", &[&y, &split], &format!("{y}s"), &[]);
            let perm = [Attr::Ints("perm", perm.to_vec())];
            self.node("Transpose", &[&y], &format!("{}h", scope.name(part)), &perm)
        };
        let by_head = [0, 2, 1, 3];
        let q = head(Role::Query, by_head);
        let k = match arithmetic {
            AttentionArithmetic::F32 => head(Role::Key, [0, 2, 3, 1]),
            // Each token's numbers lie together while they are quantized.
            AttentionArithmetic::Int8 => head(Role::Key, by_head),
        };
        let v = head(Role::Value, by_head);
        let scale = 1.0 / (size as f32).sqrt();
        let context = match arithmetic {
            AttentionArithmetic::F32 => self.products([&q, &k, &v], scale, scope),
            AttentionArithmetic::Int8 => self.int8_products([&q, &k, &v], scale, scope),
        };
        let perm = [Attr::Ints("perm", by_head.to_vec())];
        let context = self.node("Transpose", &[&context], &scope.name("pvt"), &perm);
        self.node("Reshape", &[&context, &merge], out, &[]);
    }

    /// softmax(q · k · scale + mask) · v, the keys `[.., size, seq]`.
    fn products(&mut self, [q, k, v]: [&str; 3], scale: f32, scope: &Scope) -> String {
        let scale = self.float("score_scale", scale);
        let scores = self.node("MatMul", &[q, k], &scope.name("qk"), &[]);
        let probs = self.weights_of(&scores, &scale, scope);
        self.node("MatMul", &[&probs, v], &scope.name("pv"), &[])
    }

    /// The same of int8 numbers, queries, keys and values `[.., seq, size]`, each over the range of its token. A value's step is
    /// constant along its token alone, so it multiplies the token's weight, before the weights of a query are quantized over
    /// their range: `(Σ round(p · step · 127/a) · v) · (a/127)`, `a` being the largest `p · step`.
    fn int8_products(&mut self, [q, k, v]: [&str; 3], scale: f32, scope: &Scope) -> String {
        let (q8, q_step) = self.quantize(q);
        let (k8, k_step) = self.quantize(k);
        let (v8, v_step) = self.quantize(v);
        let across = [Attr::Ints("perm", vec![0, 1, 3, 2])];
        let mut turned = |x: &str| self.node("Transpose", &[x], &format!("{x}.t"), &across);
        let (k8, k_step, v_step) = (turned(&k8), turned(&k_step), turned(&v_step));

        let scale = self.float("score_scale", scale);
        let acc = self.node("MatMulInteger", &[&q8, &k8], &scope.name("qk.acc"), &[]);
        let acc = self.cast(&acc, DataType::F32, &scope.name("qk.accf"));
        let scores = self.node("Mul", &[&acc, &k_step], &scope.name("qk.key"), &[]);
        let scores = self.node("Mul", &[&scores, &q_step], &scope.name("qk"), &[]);
        let probs = self.weights_of(&scores, &scale, scope);

        let weights = self.node("Mul", &[&probs, &v_step], &scope.name("weights"), &[]);
        let floor = self.float("floor", ACTIVATION_FLOOR);
        let most = self.reduce("ReduceMax", &weights, &format!("{weights}.max"));
        let most = self.node("Max", &[&most, &floor], &format!("{weights}.amax"), &[]);
        let (w8, w_step) = self.round(&weights, &most);
        let acc = self.node("MatMulInteger", &[&w8, &v8], &scope.name("pv.acc"), &[]);
        let acc = self.cast(&acc, DataType::F32, &scope.name("pv.accf"));
        self.node("Mul", &[&acc, &w_step], &scope.name("pv"), &[])
    }

    /// The softmax of scaled and masked scores.
    fn weights_of(&mut self, scores: &str, scale: &str, scope: &Scope) -> String {
        let scores = self.node("Mul", &[scores, scale], &scope.name("scaled"), &[]);
        let scores = self.node("Add", &[&scores, scope.mask], &scope.name("scores"), &[]);
        self.node("Softmax", &[&scores], &scope.name("probs"), &[Attr::Int("axis", -1)])
    }
}
