//! What the engine promises beyond numbers: the whole network lies in tract plans, padding is cut, bad inputs are refused
//! by name, and an observer sees what enters every linear map.

mod fixture;

use fixture::{Checkpoint, TINY, engine, image};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use thimble_device::engine::kernels::Kernels;
use thimble_device::{Engine, EngineOptions, Image, Input};
use thimble_shared::dtype::{Format, InputRange};
use thimble_shared::model::{AttentionArithmetic, Head, Kind, Role, Site};

fn sequence(engine: &Engine, seq: usize) -> Input {
    let ids = (0..seq).map(|i| (i * 13 % engine.config().vocab_size) as i64).collect();
    let shape = if engine.config().head == Head::MultipleChoice {
        vec![1, 1, seq]
    } else {
        vec![1, seq]
    };
    Input {
        shape,
        input_ids: ids,
        ..Input::default()
    }
}

/// Prints the plans, and fails when a weight of the network is used by no node of a plan, by more than one, or when a node
/// is neither ours nor one of the few tract ops that only pick and reshape.
#[test]
fn every_weight_is_used_inside_a_plan() {
    for name in TINY {
        let engine = engine(&Checkpoint::read(name).model(Format::I8));
        println!("{name}: {}", engine.describe());
        let mut uses: BTreeMap<String, usize> = BTreeMap::new();
        for plan in engine.plans() {
            for node in plan.model().nodes() {
                let op = node.op.name();
                let known = op.starts_with("thimble.") || ["Source", "Slice"].contains(&&*op) || op.contains("Rm");
                assert!(known, "{name}: node {} is {op}", node.name);
                for line in node.op.info().unwrap() {
                    for word in line.split([' ', ',', '[']) {
                        *uses.entry(word.to_string()).or_default() += 1;
                    }
                }
            }
        }
        let config = engine.config();
        for spec in config.weights() {
            let linear_bias = spec.kind == Kind::Vector && !spec.name.contains("norm");
            if linear_bias {
                continue; // part of its linear map
            }
            let want = if spec.name == "word" && config.tied_decoder {
                2
            } else {
                1
            };
            assert_eq!(uses.get(&spec.name), Some(&want), "{name}: {}", spec.name);
        }
        let inner: usize = engine
            .plans()
            .map(|p| p.to_string().matches("thimble.Attention").count())
            .sum();
        assert_eq!(inner, config.num_hidden_groups * config.inner_group_num, "{name}");
    }
}

#[test]
fn each_linear_map_is_observed_once_per_layer_it_runs_in() {
    for name in TINY {
        let engine = engine(&Checkpoint::read(name).model(Format::F16));
        let seen: Arc<Mutex<BTreeMap<(Role, Option<Site>, Option<usize>), (usize, usize)>>> = Arc::default();
        let sink = seen.clone();
        engine.observe(Some(Arc::new(move |input| {
            let key = (input.role, input.site, input.layer);
            let entry = (input.x.len() / input.width, input.width);
            assert!(
                sink.lock().unwrap().insert(key, entry).is_none(),
                "{:?} twice",
                input.role
            );
        })));
        engine.run(&sequence(&engine, 7)).unwrap();
        engine.observe(None);
        engine.run(&sequence(&engine, 7)).unwrap();
        let seen = seen.lock().unwrap();
        let config = engine.config();
        let mut expected = 0;
        for spec in config
            .weights()
            .iter()
            .filter(|s| s.kind == Kind::Linear && s.role != Role::Word)
        {
            match spec.site {
                Some(Site { group, .. }) => {
                    for (layer, _) in config.layer_groups().iter().enumerate().filter(|(_, g)| **g == group) {
                        assert_eq!(seen[&(spec.role, spec.site, Some(layer))], (7, spec.shape[1]));
                        expected += 1;
                    }
                }
                None => {
                    assert_eq!(seen[&(spec.role, None, None)].1, spec.shape[1]);
                    expected += 1;
                }
            }
        }
        expected += usize::from(config.tied_decoder);
        assert_eq!(seen.len(), expected, "{name}: {:?}", seen.keys());
    }
}

#[test]
fn padding_changes_nothing_and_comes_back_as_zeros() {
    for name in [
        "albert-tiny-groups",
        "albert-tok-tiny",
        "albert-qa-tiny",
        "albert-mlm-tiny",
    ] {
        for format in Format::ALL {
            let engine = engine(&Checkpoint::read(name).model(format));
            let short = sequence(&engine, 6);
            let mut long = short.clone();
            long.shape[1] = 17;
            long.input_ids.resize(17, 0);
            long.attention_mask = Some((0..17).map(|i| i64::from(i < 6)).collect());
            let (short, long) = (engine.run(&short).unwrap(), engine.run(&long).unwrap());
            for ((name, a), (_, b)) in short.0.iter().zip(&long.0) {
                if a.shape == b.shape {
                    assert_eq!(a, b);
                    continue;
                }
                assert_eq!(b.shape[1], 17, "{name}");
                assert_eq!(a.data, b.data[..a.data.len()]);
                assert!(b.data[a.data.len()..].iter().all(|&v| v == 0.0));
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbors() {
    // But where the inputs of all rows have one range.
    let apart = |f: &Format| f.input_range() != Some(InputRange::Tensor);
    for format in Format::ALL.into_iter().filter(apart) {
        let engine = engine(&Checkpoint::read("albert-tiny-groups").model(format));
        let ids: Vec<i64> = (0..24).map(|i| i * 5 % 131).collect();
        let mask: Vec<i64> = (0..24).map(|i| i64::from(i != 3 && i < 20)).collect();
        let both = Input {
            shape: vec![2, 12],
            input_ids: ids.clone(),
            attention_mask: Some(mask.clone()),
            token_type_ids: None,
        };
        let both = engine.run(&both).unwrap();
        for row in 0..2 {
            let span = row * 12..(row + 1) * 12;
            let one = Input {
                shape: vec![1, 12],
                input_ids: ids[span.clone()].to_vec(),
                attention_mask: Some(mask[span.clone()].to_vec()),
                token_type_ids: None,
            };
            let one = engine.run(&one).unwrap();
            let (a, b) = (
                one.get("last_hidden_state").unwrap(),
                both.get("last_hidden_state").unwrap(),
            );
            let real = mask[span.clone()].iter().rposition(|&m| m == 1).unwrap() + 1;
            let width = 48;
            for (x, y) in a.data[..real * width].iter().zip(&b.data[row * 12 * width..]) {
                assert!((x - y).abs() < 1e-5, "{format} row {row}: {x} and {y}");
            }
        }
    }
}

/// Of int8 maps and int8 attention, by every kernel: padding, a batch and a kernel change no bit.
#[test]
fn int8_attention_gives_the_same_bits_padded_in_a_batch_and_by_every_kernel() {
    let mut model = Checkpoint::read("albert-tiny-groups").model(Format::I8);
    model.config.attention = AttentionArithmetic::Int8;
    let image = image(&model);
    let width = model.config.hidden_size;
    let (rows, seq) = (3, 23);
    let real = |row: usize| seq - 4 * row;
    let ids = |row: usize| -> Vec<i64> { (0..real(row)).map(|i| ((i * 5 + row * 7) % 131) as i64).collect() };
    // One key in the middle is masked, too.
    let mask = |row: usize| -> Vec<i64> { (0..real(row)).map(|i| i64::from(i != 3)).collect() };
    let padded = |of: &dyn Fn(usize) -> Vec<i64>| -> Vec<i64> {
        let each = (0..rows).map(|row| {
            let mut all = of(row);
            all.resize(seq, 0);
            all
        });
        each.flatten().collect()
    };
    let mut before: Option<Vec<u32>> = None;
    for kernel in Kernels::available().1 {
        let options = EngineOptions {
            threads: 2,
            force_kernel: Some(kernel.clone()),
        };
        let engine = Engine::new(image.clone(), options).unwrap();
        assert!(engine.describe().contains(&kernel));
        let run = |shape: Vec<usize>, input_ids: Vec<i64>, mask: Vec<i64>| -> Vec<u32> {
            let input = Input {
                shape,
                input_ids,
                attention_mask: Some(mask),
                token_type_ids: None,
            };
            let outputs = engine.run(&input).unwrap();
            outputs
                .get("last_hidden_state")
                .unwrap()
                .data
                .iter()
                .map(|x| x.to_bits())
                .collect()
        };
        let all = run(vec![rows, seq], padded(&ids), padded(&mask));
        for row in 0..rows {
            let alone = run(vec![1, real(row)], ids(row), mask(row));
            assert_eq!(
                alone,
                all[row * seq * width..][..real(row) * width],
                "{kernel}, row {row}"
            );
        }
        // "portable" names an f32 kernel as well, whose sums run in another order.
        if kernel != "portable" && before.replace(all.clone()).is_some_and(|before| before != all) {
            panic!("{kernel} gives other bits");
        }
    }
}

#[test]
fn rows_without_a_real_token_are_computed_over_their_whole_length() {
    let engine = engine(&Checkpoint::read("albert-tok-tiny").model(Format::F32));
    let mut input = sequence(&engine, 9);
    input.attention_mask = Some(vec![0; 9]);
    let masked = engine.run(&input).unwrap();
    assert!(masked.0[0].1.data.iter().all(|v| v.is_finite()));
    assert!(masked.0[0].1.data[8 * 5..].iter().any(|&v| v != 0.0));
    input.attention_mask = None;
    assert_ne!(masked, engine.run(&input).unwrap());
}

#[test]
fn bad_inputs_are_refused_by_name() {
    let engine = engine(&Checkpoint::read("albert-seq-tiny").model(Format::F32));
    let good = sequence(&engine, 4);
    type Spoil = fn(&mut Input);
    let cases: [(&str, Spoil); 11] = [
        ("input_ids[2] is 97", |i| i.input_ids[2] = 97),
        ("input_ids[0] is -1", |i| i.input_ids[0] = -1),
        ("input_ids has 3 values", |i| i.input_ids.truncate(3)),
        ("attention_mask has 1 values", |i| i.attention_mask = Some(vec![1])),
        ("attention_mask[1] is 2", |i| i.attention_mask = Some(vec![1, 2, 1, 1])),
        ("token_type_ids has 5 values", |i| i.token_type_ids = Some(vec![0; 5])),
        ("token_type_ids[3] is 2", |i| i.token_type_ids = Some(vec![0, 0, 0, 2])),
        ("33 tokens", |i| {
            i.shape[1] = 33;
            i.input_ids = vec![1; 33];
        }),
        ("[batch, seq]", |i| i.shape = vec![1, 1, 4]),
        ("[batch, seq]", |i| i.shape = vec![0, 4]),
        ("has 4 values", |i| i.shape = vec![usize::MAX, 4]),
    ];
    engine.run(&good).unwrap();
    for (want, spoil) in cases {
        let mut input = good.clone();
        spoil(&mut input);
        let error = engine.run(&input).unwrap_err().to_string();
        assert!(error.contains(want), "{error} does not say {want}");
    }
}

#[test]
fn damaged_files_and_unknown_kernels_are_errors() {
    let file = fixture::file(&Checkpoint::read("albert-seq-tiny").model(Format::I8));
    for len in [0, 10, file.len() / 2, file.len() - 1] {
        assert!(Engine::new(Image::copy(&file[..len]), EngineOptions::default()).is_err());
    }
    let options = EngineOptions {
        force_kernel: Some("warp".into()),
        threads: 1,
    };
    let error = Engine::new(Image::copy(&file), options).err().unwrap().to_string();
    let (f32s, _) = Kernels::available();
    assert!(error.contains("warp") && error.contains(&f32s[0]), "{error}");
}
