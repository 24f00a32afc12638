//! The solver against brute force: every combination of family and format of a real model is run, and within each budget
//! the combination the solver picked must lose no more than the best one found, up to the precision of the losses. The model is
//! not prepared for that: another preparation is another set of numbers to choose from. Prepared, it must lose less than all of
//! them where every weight is rounded.

use std::collections::BTreeMap;
use std::path::Path;
use thimble::budget::preparations::STEPS;
use thimble::budget::problem::{Choice, families};
use thimble::budget::solver::{Task, solve};
use thimble::eval::{dataset, runner};
use thimble::models::image::image_of;
use thimble::models::model_file::ModelSource;
use thimble::quantize::quantizer::Quantizer;
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::artifact::{self, Provenance};
use thimble_shared::dtype::Format;
use thimble_shared::model::ModelSpec;

/// Every combination runs on all of these.
const ROWS: usize = 6;

#[test]
fn the_solver_finds_what_brute_force_finds() {
    compare(&[Format::F16, Format::I8], &[560_000, 640_000, 760_000, 900_000]);
}

/// 6561 models, some five minutes: `cargo test --release -p thimble --test brute_force -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn the_solver_finds_what_brute_force_finds_in_all_formats() {
    compare(
        &Format::ALL,
        &[560_000, 640_000, 760_000, 900_000, 1_200_000, 1_600_000],
    );
}

fn compare(offered: &[Format], budgets: &[u64]) {
    let model_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/albert-deb");
    let subject = ModelSource::open(&model_dir).unwrap();
    let source = subject.model().unwrap();
    let jsonl = model_dir.join("test.jsonl");
    let rows = dataset::load(Some(&jsonl), &source.config, subject.tokenizer(), Some(ROWS))
        .unwrap()
        .rows;
    let families = families(&source.config);
    let quantizer = Quantizer::new(&source);
    let reference = runner::outputs(&image_of(&source).unwrap(), &rows).unwrap();

    let mut all: Vec<(u64, f64)> = Vec::new();
    let mut choice: Choice = vec![0; families.len()];
    loop {
        let formats: BTreeMap<String, Format> = families
            .iter()
            .zip(&choice)
            .flat_map(|(f, &i)| f.weights.iter().map(move |w| (w.name.clone(), offered[i])))
            .collect();
        let graph = ModelSpec {
            config: source.config.clone(),
            formats: formats.clone(),
        };
        let bytes = artifact::size(&graph, LowerOptions::default(), &Provenance::default()).unwrap() as u64;
        let outputs = runner::outputs(&image_of(&quantizer.model(&formats).unwrap()).unwrap(), &rows).unwrap();
        all.push((
            bytes,
            runner::compare(&source.config, &rows, &reference, &outputs)
                .unwrap()
                .objective(),
        ));
        let Some(at) = choice.iter().position(|&i| i + 1 < offered.len()) else {
            break;
        };
        choice[at] += 1;
        choice[..at].fill(0);
    }
    assert_eq!(all.len(), offered.len().pow(families.len() as u32));

    for &budget in budgets {
        let provenance = Provenance::default();
        let task = |steps| Task {
            source: &source,
            tune: &rows,
            report: &rows,
            formats: offered,
            steps,
            budget,
            onnx: LowerOptions::default(),
            provenance: &provenance,
        };
        let solved = |steps| match solve(&task(steps), |_| {}).unwrap() {
            Ok(plan) => plan,
            Err(_) => panic!("{budget} bytes are above the floor"),
        };
        let plan = solved(&[]);
        let fitting = all.iter().filter(|(bytes, _)| *bytes <= budget);
        let best = fitting.map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
        println!(
            "{budget}: solver {:.4e} in {} bytes, brute force {best:.4e}",
            plan.measured, plan.bytes
        );
        assert!(plan.bytes <= budget);
        assert!(
            plan.measured <= best * 1.10 + 1e-9,
            "budget {budget}: {:.4e}, brute force finds {best:.4e}",
            plan.measured
        );
        if budget == budgets[0] {
            let prepared = solved(&STEPS).measured;
            assert!(prepared < best, "prepared {prepared:.4e}, brute force {best:.4e}");
        }
    }
}
