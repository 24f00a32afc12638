//! The engine against Hugging Face's own outputs, for every head, in f32 and f16, with every kernel this CPU has.

mod fixture;

use fixture::{Checkpoint, TINY, distance, engine, golden, image};
use thimble_device::engine::kernels::Kernels;
use thimble_device::{Engine, EngineOptions};
use thimble_shared::dtype::Format;

fn agree(engine: &Engine, name: &str, tolerance: f32) {
    for case in golden(name) {
        let outputs = engine.run(&case.input).unwrap();
        let mut compared = 0;
        for (output, tensor) in &outputs.0 {
            let (shape, want) = &case.outputs[output];
            assert_eq!(&tensor.shape, shape, "{} {output}", case.name);
            let far = distance(&tensor.data, shape, want, &case.input);
            assert!(far < tolerance, "{} {output}: {far} apart", case.name);
            compared += 1;
        }
        assert!(compared > 0, "{}", case.name);
    }
}

#[test]
fn f32_agrees_with_hugging_face_for_every_head() {
    for name in TINY.iter().chain(&["albert-deb"]) {
        agree(&engine(&Checkpoint::read(name).model(Format::F32)), name, 1e-4);
    }
}

#[test]
fn f16_weights_stay_close_for_every_head() {
    for name in TINY {
        agree(&engine(&Checkpoint::read(name).model(Format::F16)), name, 2e-2);
    }
}

#[test]
fn albert_base_agrees_with_hugging_face() {
    agree(
        &engine(&Checkpoint::base().model(Format::F32)),
        "albert-base-rand",
        1e-4,
    );
}

#[test]
fn every_kernel_and_several_threads_agree_with_hugging_face() {
    let (f32s, i8s) = Kernels::available();
    for name in ["albert-tiny-groups", "albert-mlm-tiny"] {
        let image = image(&Checkpoint::read(name).model(Format::F32));
        for kernel in f32s.iter().chain(&i8s) {
            for threads in [1, 3] {
                let options = EngineOptions {
                    threads,
                    force_kernel: Some(kernel.clone()),
                };
                agree(&Engine::new(image.clone(), options).unwrap(), name, 1e-4);
            }
        }
    }
}
