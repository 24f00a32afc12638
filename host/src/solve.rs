//! The main job: the model with the least measured loss within a byte budget. Channels are equalised first if that helps. Each family of weights is tried alone in each
//! format and its loss measured with the engine; all combinations are ranked by the sum; the best few that fit are run, and
//! the one that measures best is the answer.

use crate::budget::{Choice, Family, Problem, families};
use crate::equalise::equalise;
use crate::evaluate;
use crate::inputs::Row;
use crate::loss::{Loss, Outputs};
use crate::memo::Memo;
use crate::quantise::{QuantiseError, Quantiser};
use crate::subject::image_of;
use anyhow::{Result, bail};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use thimble_shared::artifact::{self, ArtifactError, Provenance};
use thimble_shared::graph::{Graph, Kind, Model};
use thimble_shared::lower::LowerOptions;
use thimble_shared::number::Format;

/// How many of the best-predicted choices are run before one is taken: as many as this many multiply-accumulates allow,
/// within bounds. Predictions add up the families' losses, so choices whose errors help or hurt each other are told apart
/// only by running them. Counted in work and not in seconds, so that the answer is the same on every machine.
const VERIFY_WORK: usize = 500_000_000_000;
const VERIFY_BOUNDS: (usize, usize) = (6, 64);

/// The question.
pub struct Task<'a> {
    /// The model as it came; what the result is compared with.
    pub source: &'a Model,
    /// Rows the choice is made on.
    pub tune: &'a [Row],
    /// Rows its loss is reported on.
    pub report: &'a [Row],
    pub formats: &'a [Format],
    pub budget: u64,
    pub onnx: LowerOptions,
    pub provenance: &'a Provenance,
}

/// The answer within the budget.
pub struct Plan {
    pub model: Model,
    pub problem: Problem,
    pub choice: Choice,
    pub bytes: u64,
    /// Sum of the families' losses.
    pub predicted: f64,
    /// The loss on the tuning rows, and how many choices were run to find the least.
    pub measured: f64,
    pub verified: usize,
    /// As the user feels it, on the report rows.
    pub loss: Loss,
    /// Whether channels were rescaled between adjacent weights, because the smallest model loses less so.
    pub equalised: bool,
    pub floor_loss: FloorLoss,
    /// What a larger budget would buy next: family, format, size of the file.
    pub next: Option<(&'static str, Format, u64)>,
}

/// Loss of the smallest model on the tuning rows, without and with rescaled channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloorLoss {
    pub plain: f64,
    pub equalised: f64,
}

/// No choice fits.
pub struct Floor {
    pub bytes: u64,
    pub formats: Vec<(Family, Format)>,
}

pub fn solve(task: &Task, mut progress: impl FnMut(&str)) -> Result<Result<Plan, Floor>> {
    let mut sizes = Sizes {
        task,
        known: HashMap::new(),
    };
    let families = families(&task.source.config);
    let unmeasured = Problem {
        loss: vec![vec![0.0; task.formats.len()]; families.len()],
        families,
        formats: task.formats.to_vec(),
    };
    let floor = unmeasured.floor();
    let bytes = sizes.exact(&unmeasured, &floor)?;
    if bytes > task.budget {
        let formats = floor.iter().map(|&i| task.formats[i]);
        return Ok(Err(Floor {
            bytes,
            formats: unmeasured.families.iter().cloned().zip(formats).collect(),
        }));
    }

    progress("running the original");
    let reference = evaluate::outputs(&image_of(task.source)?, task.tune)?;
    let smallest = unmeasured.formats_of(&floor);
    let plain = Bench::new(task, task.source, &reference);
    let equal = equalise(task.source);
    let balanced = Bench::new(task, &equal, &reference);
    progress("running the smallest model, plain and equalised");
    let floor_loss = FloorLoss {
        plain: plain.loss(&smallest)?,
        equalised: balanced.loss(&smallest)?,
    };
    let equalised = floor_loss.equalised < floor_loss.plain;
    let bench = if equalised { balanced } else { plain };
    let problem = bench.measure(unmeasured, &mut progress)?;

    let mut search = Search {
        bench: &bench,
        problem: &problem,
        best: None,
        run: BTreeSet::new(),
    };
    let finalists = problem.best_within(task.budget, finalists(task), |c| sizes.exact(&problem, c))?;
    let count = finalists.len();
    for (i, choice) in finalists.into_iter().map(|(c, _)| c.choice).enumerate() {
        progress(&format!("running finalist {} of {count}", i + 1));
        search.run(&choice)?;
    }
    search.run(&floor)?;
    if let Some(own) = problem.choice_of(&task.source.graph().formats)
        && sizes.exact(&problem, &own)? <= task.budget
    {
        search.run(&own)?;
    }
    // What the sum of losses cannot see: whether bytes that are left would still help.
    let upgrades = search
        .best
        .iter()
        .flat_map(|(choice, _)| problem.upgrades(choice))
        .collect::<Vec<_>>();
    for (family, format) in upgrades {
        let Some((mut choice, _)) = search.best.clone() else {
            break;
        };
        choice[family] = format;
        if sizes.exact(&problem, &choice)? <= task.budget {
            progress(&format!(
                "trying {} in {}",
                problem.families[family].name, problem.formats[format]
            ));
            search.run(&choice)?;
        }
    }
    bench.memo.save();
    let verified = search.run.len();
    let Some((choice, measured)) = search.best else {
        bail!("no combination of the formats gives finite outputs on these inputs");
    };
    progress("measuring the result");
    let model = bench.quantiser.model(&problem.formats_of(&choice))?;
    let loss = bench.report(&model)?;
    let next = problem.next_step(&choice, task.budget, |c| sizes.exact(&problem, c))?;
    let next = next.map(|(family, format, bytes)| (problem.families[family].name, problem.formats[format], bytes));
    Ok(Ok(Plan {
        model,
        bytes: sizes.exact(&problem, &choice)?,
        predicted: problem.predicted(&choice),
        choice,
        measured,
        verified,
        loss,
        next,
        problem,
        equalised,
        floor_loss,
    }))
}

/// The choices run so far, and the one that measured least.
struct Search<'a> {
    bench: &'a Bench<'a>,
    problem: &'a Problem,
    best: Option<(Choice, f64)>,
    run: BTreeSet<Choice>,
}

impl Search<'_> {
    fn run(&mut self, choice: &Choice) -> Result<()> {
        if self.run.insert(choice.clone()) {
            let loss = self.bench.loss(&self.problem.formats_of(choice))?;
            if loss.is_finite() && self.best.as_ref().is_none_or(|(_, least)| loss < *least) {
                self.best = Some((choice.clone(), loss));
            }
        }
        Ok(())
    }
}

/// How many choices to run.
fn finalists(task: &Task) -> usize {
    let tokens: usize = task.tune.iter().map(|row| row.input_ids.len()).sum();
    let config = &task.source.config;
    let linear: usize = config
        .weights()
        .iter()
        .filter(|w| w.kind == Kind::Linear)
        .map(|w| w.elements())
        .sum();
    let work = linear.saturating_mul(config.num_hidden_layers).saturating_mul(tokens);
    (VERIFY_WORK / work.max(1)).clamp(VERIFY_BOUNDS.0, VERIFY_BOUNDS.1)
}

/// Exact file sizes, remembered.
struct Sizes<'a> {
    task: &'a Task<'a>,
    known: HashMap<Choice, u64>,
}

impl Sizes<'_> {
    fn exact(&mut self, problem: &Problem, choice: &Choice) -> Result<u64, ArtifactError> {
        if let Some(&bytes) = self.known.get(choice) {
            return Ok(bytes);
        }
        let graph = Graph {
            config: self.task.source.config.clone(),
            formats: problem.formats_of(choice),
        };
        let bytes = artifact::size(&graph, self.task.onnx, self.task.provenance)? as u64;
        self.known.insert(choice.clone(), bytes);
        Ok(bytes)
    }
}

/// Runs candidates and compares them with the f32 model.
struct Bench<'a> {
    task: &'a Task<'a>,
    quantiser: Quantiser<'a>,
    /// The original's outputs on the tuning rows.
    reference: &'a [Outputs],
    memo: Memo,
}

impl<'a> Bench<'a> {
    /// `model` computes the same as the task's source, perhaps with other weights.
    fn new(task: &'a Task<'a>, model: &'a Model, reference: &'a [Outputs]) -> Self {
        Bench {
            task,
            quantiser: Quantiser::new(model),
            reference,
            memo: Memo::open(model, task.tune),
        }
    }

    fn loss(&self, formats: &BTreeMap<String, Format>) -> Result<f64> {
        self.memo.loss(formats, || {
            let model = match self.quantiser.model(formats) {
                Ok(model) => model,
                // A family that does not fit fp16 is a choice nobody takes, not a failure.
                Err(QuantiseError::F16Overflow { .. }) => return Ok(f64::INFINITY),
                Err(other) => return Err(other.into()),
            };
            let outputs = evaluate::outputs(&image_of(&model)?, self.task.tune)?;
            let config = &self.task.source.config;
            Ok(evaluate::compare(config, self.task.tune, self.reference, &outputs)?.objective())
        })
    }

    /// Fills in the loss of every family alone in every format, all others as they came.
    fn measure(&self, mut problem: Problem, progress: &mut impl FnMut(&str)) -> Result<Problem> {
        let own = self.task.source.graph().formats;
        let total = problem.families.len() * problem.formats.len();
        for family in 0..problem.families.len() {
            for (i, format) in problem.formats.clone().into_iter().enumerate() {
                let done = family * problem.formats.len() + i + 1;
                let name = problem.families[family].name;
                progress(&format!("measuring {done} of {total}: {name} in {format}"));
                let mut formats = own.clone();
                formats.extend(
                    problem.families[family]
                        .weights
                        .iter()
                        .map(|w| (w.name.clone(), format)),
                );
                // As it came is the reference itself.
                problem.loss[family][i] = if formats == own { 0.0 } else { self.loss(&formats)? };
            }
        }
        Ok(problem)
    }

    fn report(&self, model: &Model) -> Result<Loss> {
        let (source, rows) = (self.task.source, self.task.report);
        let reference = evaluate::outputs(&image_of(source)?, rows)?;
        let outputs = evaluate::outputs(&image_of(model)?, rows)?;
        evaluate::compare(&source.config, rows, &reference, &outputs)
    }
}
