//! rten on an ONNX file. Its thread count comes from RTEN_NUM_THREADS; the comparison sets it.

use rten::{Model, NodeId, ValueOrView};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use timing::{Failure, Job};

struct Loaded {
    model: Model,
    inputs: Vec<(NodeId, String)>,
    output: NodeId,
}

fn load(job: &Job) -> Result<Loaded, Failure> {
    let model = Model::load_file(&job.file)?;
    let inputs = model
        .input_ids()
        .iter()
        .map(|&id| (id, model.node_info(id).and_then(|n| n.name().map(str::to_string)).unwrap_or_default()))
        .collect();
    let output = *model.output_ids().first().ok_or("the model has no output")?;
    Ok(Loaded { model, inputs, output })
}

fn run(loaded: &mut Loaded, job: &Job) -> Result<Vec<f32>, Failure> {
    let inputs = loaded
        .inputs
        .iter()
        .map(|(id, name)| {
            let data: Vec<i32> = match name.as_str() {
                "input_ids" => job.ids.iter().map(|&id| id as i32).collect(),
                "attention_mask" => vec![1; job.ids.len()],
                _ => vec![0; job.ids.len()],
            };
            (*id, ValueOrView::from(NdTensor::from_data([1, job.ids.len()], data)))
        })
        .collect();
    let [output] = loaded.model.run_n(inputs, [loaded.output], None)?;
    let output: rten_tensor::Tensor<f32> = output.try_into()?;
    Ok(output.to_vec())
}

fn main() -> Result<(), Failure> {
    Job::from_args()?.measure("rten", "0.27.0", load, run)
}
