//! Stock tract on an ONNX file: loaded, fixed to the length of the ids (its fastest way), optimised, run on one thread.

use timing::{Failure, Job};
use tract_onnx::prelude::*;

type Model = Arc<RunnableModel<TypedFact, Box<dyn TypedOp>>>;

fn load(job: &Job) -> Result<Model, Failure> {
    let mut model = tract_onnx::onnx().model_for_path(&job.file).map_err(Failure::from)?;
    for input in 0..model.inputs.len() {
        model = model.with_input_fact(input, i64::fact([1, job.ids.len()]).into()).map_err(Failure::from)?;
    }
    model.into_optimized().and_then(|m| m.into_runnable()).map_err(Failure::from)
}

fn run(model: &mut Model, job: &Job) -> Result<Vec<f32>, Failure> {
    let row = |data: &[i64]| Tensor::from_shape(&[1, job.ids.len()], data).map(IntoTValue::into_tvalue);
    let inputs: TVec<TValue> = (0..model.model().inputs.len())
        .map(|slot| {
            let name = &model.model().node(model.model().inputs[slot].node).name;
            let data = match name.as_str() {
                "input_ids" => job.ids.clone(),
                "attention_mask" => vec![1; job.ids.len()],
                _ => vec![0; job.ids.len()],
            };
            row(&data)
        })
        .collect::<TractResult<_>>()
        .map_err(Failure::from)?;
    let outputs = model.run(inputs).map_err(Failure::from)?;
    Ok(outputs[0].to_plain_array_view::<f32>().map_err(Failure::from)?.iter().copied().collect())
}

fn main() -> Result<(), Failure> {
    Job::from_args()?.measure("tract", "0.23.9", load, run)
}
