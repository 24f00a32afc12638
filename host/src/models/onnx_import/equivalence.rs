//! The proof that an import is what the file computes: made-up inputs go through the file itself under tract-onnx and through
//! the rebuilt model in the engine, and every hidden state and output must agree. f16 and bf16 files are run with their numbers
//! widened to f32 on both sides, so that the same arithmetic is compared.

use super::cost::{self, Cost};
use super::ports::MaskForm;
use super::samples;
use super::{ImportError, Recognized};
use crate::models::image::image_of;
use crate::onnx::OnnxFile;
use crate::onnx::element;
use crate::onnx::flow::Flow;
use crate::onnx::slim::model_bytes;
use crate::render::text::{one_line, printable};
use half::{bf16, f16};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use thimble_device::engine::{Engine, EngineOptions, Input};
use thimble_shared::dtype;
use thimble_shared::model::Model;
use thimble_shared::onnx::reader;
use tract_onnx::pb;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{bail, format_err};

/// Largest difference that rounding explains, in standard deviations of what is compared: of f32, and of files whose constants
/// (1/√d, eps) were rounded to f16 or bf16.
const LIMIT: f64 = 1e-4;
/// A model may make more of rounding: so many times what it makes of a change of each weight by its last bit, up to a gap that
/// no rounding makes.
const ROUNDINGS: f64 = 32.0;
const MOST_LIMIT: f64 = 1e-2;
const F16_LIMIT: f64 = 2e-3;
const BF16_LIMIT: f64 = 1e-2;

/// Most tokens a file may fix its inputs at: a larger number is damage or an attack, and would take all memory.
const MOST_TOKENS: usize = 1 << 16;

const F32: i32 = element::F32 as i32;
const F16: i32 = element::F16 as i32;
const BF16: i32 = element::BF16 as i32;

/// What is to be said of a file that passes. Where its mask may be one of padding, that is tried too.
pub fn prove(file: &OnnxFile, recognized: &mut Recognized<'_>, model: &Model) -> Result<Vec<String>, ImportError> {
    let failed = match prove_as(file, recognized, model) {
        Err(e @ ImportError::Parts { .. }) => e,
        other => return other,
    };
    let Some(mask) = recognized
        .inputs
        .mask
        .filter(|_| recognized.inputs.form == MaskForm::Ones)
    else {
        return Err(failed);
    };
    recognized.inputs.form = MaskForm::Padding;
    let mut notes = prove_as(file, recognized, model).map_err(|_| failed)?;
    notes.push(format!(
        "its input '{}' is 1 where a token is padding; here attention_mask is 1 where it is real",
        printable(mask)
    ));
    Ok(notes)
}

fn prove_as(file: &OnnxFile, recognized: &Recognized<'_>, model: &Model) -> Result<Vec<String>, ImportError> {
    let shown = || file.path.display().to_string();
    let fixed = recognized.inputs.shape.iter().flatten();
    let tokens = fixed.fold(1usize, |n, &dim| n.saturating_mul(dim));
    if tokens > MOST_TOKENS {
        return Err(ImportError::Unsupported {
            file: shown(),
            problem: format!("its inputs are fixed at {tokens} tokens, and the proof runs {MOST_TOKENS} at most"),
        });
    }
    let inputs = samples::inputs(recognized);
    let costs: Vec<Cost> = inputs.iter().map(|i| Cost::of(&model.config, i)).collect();
    if let Some(problem) = cost::too_much(&costs, model_bytes(file)) {
        return Err(ImportError::Unsupported { file: shown(), problem });
    }
    let proto = proto(file, recognized).map_err(|e| ImportError::Runner {
        file: shown(),
        problem: one_line(e.as_ref()),
    })?;
    let unsupported = |e: TractError| ImportError::Unsupported {
        file: shown(),
        problem: one_line(e.as_ref()),
    };
    let view = file.view()?;
    let holds = |kind: i32| view.initializers.iter().any(|t| t.data_type == i64::from(kind));
    let limit = match (holds(BF16), holds(F16)) {
        (true, _) => BF16_LIMIT,
        (_, true) => F16_LIMIT,
        _ => LIMIT,
    };
    let image = image_of(model).map_err(|e| unsupported(e.into()))?;
    let engine = Engine::new(image, EngineOptions::default()).map_err(|e| unsupported(e.into()))?;
    let mut notes = Vec::new();
    for (input, cost) in inputs.into_iter().zip(costs) {
        let theirs = quiet(|| foreign(&proto, recognized, &input, cost)).map_err(|e| ImportError::Runner {
            file: shown(),
            problem: one_line(e.as_ref()),
        })?;
        let ours = ours(&engine, recognized, &input).map_err(unsupported)?;
        let moved = || moved(recognized, model, &input, &ours).map_err(unsupported);
        agree(&shown(), &input, (&ours, &theirs), limit, moved)?;
        if notes.is_empty() {
            notes = ranks(recognized, &ours, &theirs);
        }
    }
    Ok(notes)
}

/// Whether every place agrees within `limit`, or within what a change of every weight by its last bit moves it by.
///
/// # Errors
/// The first place that does not.
fn agree(
    file: &str,
    input: &Input,
    (ours, theirs): (&[(String, Values)], &[Values]),
    limit: f64,
    moved: impl Fn() -> Result<Vec<f64>, ImportError>,
) -> Result<(), ImportError> {
    let mut rounding: Option<Vec<f64>> = None;
    for (i, (place, values)) in ours.iter().enumerate() {
        let Some(gap) = gap(input, values, &theirs[i]) else {
            return Err(ImportError::Shapes {
                file: file.to_string(),
                place: place.clone(),
                theirs: theirs[i].shape.clone(),
                ours: values.shape.clone(),
            });
        };
        let mut limit = limit;
        if gap > limit && gap <= MOST_LIMIT {
            let steps = match rounding.take() {
                Some(steps) => steps,
                None => moved()?,
            };
            limit = limit
                .max(ROUNDINGS * steps.get(i).copied().unwrap_or(0.0))
                .min(MOST_LIMIT);
            rounding = Some(steps);
        }
        if gap > limit || gap.is_nan() {
            return Err(ImportError::Parts {
                file: file.to_string(),
                place: place.clone(),
                gap,
                limit,
            });
        }
    }
    Ok(())
}

/// Notes on outputs that have another number of dimensions here than in the file.
fn ranks(recognized: &Recognized<'_>, ours: &[(String, Values)], theirs: &[Values]) -> Vec<String> {
    let outputs = ours.iter().zip(theirs).skip(recognized.states.len());
    let mut notes = Vec::new();
    for (((_, our), their), (theirs, ours)) in outputs.zip(&recognized.outputs) {
        let (has, given) = (their.shape.len(), our.shape.len());
        if has != given {
            notes.push(format!(
                "'{}' has {has} dimensions; here {ours} has {given}",
                printable(theirs)
            ));
        }
    }
    notes
}

/// Values with their shape; the leading dims are the input's where they are per token.
struct Values {
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// The file as tract takes it: external data in, f16 widened, every hidden state an output.
fn proto(file: &OnnxFile, recognized: &Recognized<'_>) -> TractResult<pb::ModelProto> {
    let mut proto = tract_onnx::onnx().proto_model_for_read(&mut file.bytes())?;
    let Some(graph) = proto.graph.as_mut() else {
        bail!("it holds no graph");
    };
    let view = file.view()?;
    for (tensor, view) in graph.initializer.iter_mut().zip(&view.initializers) {
        if view.external {
            tensor.raw_data = file.payload(view)?.into_owned();
            tensor.external_data.clear();
            tensor.data_location = None;
        }
        widen(tensor, view, file)?;
    }
    for (node, seen) in graph.node.iter_mut().zip(&view.nodes) {
        for (attribute, encoded) in node.attribute.iter_mut().zip(&seen.attributes) {
            if let (Some(tensor), Some(view)) = (attribute.t.as_mut(), reader::attribute(encoded)?.tensor) {
                widen(tensor, &view, file)?;
            }
            if node.op_type == "Cast" && attribute.name == "to" && [F16, BF16].map(i64::from).contains(&attribute.i) {
                attribute.i = i64::from(F32);
            }
        }
    }
    for port in &mut graph.input {
        if let Some(kind) = element(port).filter(|kind| [F16, BF16].contains(kind)) {
            *kind = F32;
        }
    }
    // Declared shapes name symbols that the concrete ones below would contradict.
    graph.value_info.clear();
    let wanted = recognized
        .states
        .iter()
        .copied()
        .chain(recognized.outputs.iter().map(|(name, _)| *name));
    let wanted: Vec<&str> = wanted.collect();
    // tract need not see what none of these is computed from: it may be anything, and any amount of it.
    let needed = Flow::of(&view)?.needed(wanted.iter().copied());
    graph
        .node
        .retain(|n| n.output.iter().any(|o| needed.contains(o.as_str())));
    graph.initializer.retain(|t| needed.contains(t.name.as_str()));
    let kept: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let stored: HashSet<&str> = view.initializers.iter().map(|t| t.name).collect();
    // An input that nothing needs belongs to a larger graph.
    graph.input.retain(|i| {
        needed.contains(i.name.as_str()) && (kept.contains(i.name.as_str()) || !stored.contains(i.name.as_str()))
    });
    graph.output = wanted
        .into_iter()
        .map(|name| pb::ValueInfoProto {
            name: name.to_string(),
            ..Default::default()
        })
        .collect();
    Ok(proto)
}

fn widen(tensor: &mut pb::TensorProto, view: &reader::TensorView<'_>, file: &OnnxFile) -> TractResult<()> {
    let wide: fn([u8; 2]) -> f32 = match tensor.data_type {
        F16 => |b| f16::from_le_bytes(b).to_f32(),
        BF16 => |b| bf16::from_le_bytes(b).to_f32(),
        _ => return Ok(()),
    };
    let bytes = file.payload(view)?;
    tensor.raw_data = bytes
        .chunks_exact(2)
        .flat_map(|b| wide([b[0], b[1]]).to_le_bytes())
        .collect();
    tensor.int32_data.clear();
    tensor.data_type = F32;
    Ok(())
}

/// What the file says under tract: hidden states, then outputs.
fn foreign(proto: &pb::ModelProto, recognized: &Recognized<'_>, input: &Input, cost: Cost) -> TractResult<Vec<Values>> {
    let onnx = tract_onnx::onnx()
        .with_ignore_value_info(true)
        .with_ignore_output_shapes(true);
    let mut model = onnx.with_ignore_output_types(true).model_for_proto_model(proto)?;
    let mut feeds = tvec![];
    let count = input.input_ids.len();
    let seq = input.shape.last().copied().unwrap_or(1).max(1);
    for port in 0..model.inputs.len() {
        let name = model.node(model.inputs[port].node).name.clone();
        let mut shape = input.shape.clone();
        let values = if name == recognized.inputs.ids {
            input.input_ids.clone()
        } else if Some(name.as_str()) == recognized.inputs.types {
            input.token_type_ids.clone().unwrap_or(vec![0; count])
        } else if Some(name.as_str()) == recognized.inputs.positions {
            (0..count).map(|i| (i % seq) as i64).collect()
        } else if Some(name.as_str()) == recognized.inputs.mask {
            let mask = input.attention_mask.clone().unwrap_or(vec![1; count]);
            match recognized.inputs.form {
                MaskForm::Ones | MaskForm::Id(_) => mask,
                MaskForm::Padding => mask.iter().map(|real| 1 - real).collect(),
                MaskForm::Lengths => {
                    shape = vec![count / seq];
                    mask.chunks(seq).map(|row| row.iter().sum()).collect()
                }
            }
        } else if recognized.inputs.shapes.contains(&name.as_str()) {
            vec![0; count]
        } else {
            bail!("it reads an input '{}'", printable(&name));
        };
        let tensor = Tensor::from_shape(&shape, &values)?;
        let kind = input_type(proto, &name);
        let tensor = tensor.cast_to_dt(kind)?.into_owned();
        model.set_input_fact(port, kind.fact(&shape).into())?;
        feeds.push(tensor.into_tvalue());
    }
    let results = cost::typed(model, cost)?
        .into_optimized()?
        .into_runnable()?
        .run(feeds)?;
    results
        .into_iter()
        .map(|value| {
            Ok(Values {
                shape: value.shape().to_vec(),
                data: value.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec(),
            })
        })
        .collect()
}

/// What an input holds as the file declares it.
fn input_type(proto: &pb::ModelProto, name: &str) -> DatumType {
    let mut ports = proto.graph.iter().flat_map(|g| g.input.iter().cloned());
    match ports.find(|p| p.name == name).as_mut().and_then(element) {
        Some(1) => DatumType::F32,
        Some(6) => DatumType::I32,
        Some(9) => DatumType::Bool,
        Some(11) => DatumType::F64,
        _ => DatumType::I64,
    }
}

/// The declared element type of a tensor, by ONNX's number.
fn element(port: &mut pb::ValueInfoProto) -> Option<&mut i32> {
    let pb::type_proto::Value::TensorType(tensor) = port.r#type.as_mut()?.value.as_mut()?;
    Some(&mut tensor.elem_type)
}

/// The same in the engine, each with its place in words.
fn ours(engine: &Engine, recognized: &Recognized<'_>, input: &Input) -> TractResult<Vec<(String, Values)>> {
    let mut all = Vec::new();
    for (i, state) in engine.hidden_states(input)?.into_iter().enumerate() {
        let place = if i == 0 {
            "the embedding".to_string()
        } else {
            format!("layer {i}")
        };
        all.push((
            place,
            Values {
                shape: state.shape,
                data: state.data,
            },
        ));
    }
    let outputs = engine.run(input)?;
    for (_, name) in &recognized.outputs {
        let value = outputs
            .get(name)
            .ok_or_else(|| format_err!("the engine gives no {name}"))?;
        all.push((
            format!("the output {name}"),
            Values {
                shape: value.shape.clone(),
                data: value.data.clone(),
            },
        ));
    }
    Ok(all)
}

/// How far a change of every weight by its last bit moves what the model gives, place by place.
fn moved(
    recognized: &Recognized<'_>,
    model: &Model,
    input: &Input,
    ours: &[(String, Values)],
) -> TractResult<Vec<f64>> {
    let mut nudged = model.clone();
    for name in model.weights.keys() {
        let Some(list) = nudged.weights.get_mut(name).and_then(dtype::Values::f32s_mut) else {
            continue;
        };
        for (i, v) in list.iter_mut().enumerate() {
            // Up and down by turns that no order of the weights follows.
            let up = i.wrapping_mul(2_654_435_761) >> 16 & 1 == 0;
            *v = if up { v.next_up() } else { v.next_down() };
        }
    }
    let engine = Engine::new(image_of(&nudged)?, EngineOptions::default())?;
    let theirs = self::ours(&engine, recognized, input)?;
    let gaps = ours.iter().zip(&theirs).map(|((_, a), (_, b))| gap(input, a, b));
    Ok(gaps.map(|gap| gap.unwrap_or(0.0)).collect())
}

/// Largest difference over what is promised, in standard deviations of theirs. Tokens whose mask is 0, and tokens the engine
/// has not computed because all after them are masked, are promised to nobody. None where the shapes do not fit.
fn gap(input: &Input, ours: &Values, theirs: &Values) -> Option<f64> {
    let seq = input.shape.last().copied().unwrap_or(1).max(1);
    let count = input.input_ids.len();
    let computed = ours.shape.iter().rev().nth(1).copied().unwrap_or(0);
    let mut pairs: Vec<(f64, f64)> = Vec::new();
    // Tools that make Gemm of MatMul and Add flatten batch and sequence into one dimension.
    let flat = theirs.shape.first() == Some(&count);
    let apart = theirs.shape.contains(&seq) && theirs.shape.len() >= input.shape.len();
    if theirs.data.len().is_multiple_of(count) && theirs.data.len() > count / seq && (flat || apart) {
        let width = theirs.data.len() / count;
        let ours_seq = if ours.data.len() == theirs.data.len() {
            seq
        } else {
            computed
        };
        for i in 0..count {
            let (row, at) = (i / seq, i % seq);
            let real = input.attention_mask.as_ref().is_none_or(|m| m[i] == 1);
            if !real || at >= ours_seq {
                continue;
            }
            for c in 0..width {
                let a = ours.data.get((row * ours_seq + at) * width + c);
                let b = theirs.data.get(i * width + c);
                pairs.push((
                    f64::from(a.copied().unwrap_or(f32::NAN)),
                    f64::from(b.copied().unwrap_or(f32::NAN)),
                ));
            }
        }
    } else if ours.data.len() == theirs.data.len() {
        pairs = ours
            .data
            .iter()
            .zip(&theirs.data)
            .map(|(a, b)| (f64::from(*a), f64::from(*b)))
            .collect();
    }
    if pairs.is_empty() {
        return None;
    }
    let mean = pairs.iter().map(|(_, b)| b).sum::<f64>() / pairs.len() as f64;
    let variance = pairs.iter().map(|(_, b)| (b - mean).powi(2)).sum::<f64>() / pairs.len() as f64;
    // A handful of logits may lie close together by chance.
    let scale = variance.sqrt().max(0.05);
    let gaps = pairs.iter().map(|(a, b)| (a - b).abs() / scale);
    Some(gaps.fold(
        0.0,
        |most: f64, gap| if gap.is_nan() { f64::NAN } else { most.max(gap) },
    ))
}

/// Runs what may panic inside tract, and makes an error of it.
fn quiet<T>(work: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(work));
    std::panic::set_hook(before);
    match result {
        Ok(result) => result,
        Err(cause) => {
            let said = cause
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| cause.downcast_ref::<&str>().copied());
            Err(format_err!(
                "it stops inside tract: {}",
                said.unwrap_or("no reason given")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_states_are_compared_token_by_token_however_they_are_laid_out() {
        let input = Input {
            input_ids: vec![5; 6],
            attention_mask: Some(vec![1, 1, 0, 1, 0, 0]),
            token_type_ids: None,
            shape: vec![2, 3],
        };
        // The engine leaves out the last token, which is masked in both rows.
        let ours = Values {
            shape: vec![2, 2, 2],
            data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 99.0, 99.0],
        };
        let theirs = |shape: &[usize], first: f32| Values {
            shape: shape.to_vec(),
            data: vec![first, 2.0, 3.0, 4.0, 0.0, 0.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0],
        };
        for shape in [&[2, 3, 2][..], &[6, 2]] {
            assert_eq!(gap(&input, &ours, &theirs(shape, 1.0)), Some(0.0));
            assert!(gap(&input, &ours, &theirs(shape, 1.5)).unwrap() > 0.1);
        }
        let one = Values {
            shape: vec![2, 2],
            data: vec![1.0; 4],
        };
        assert_eq!(gap(&input, &ours, &one), None, "values of one position");
    }
}
