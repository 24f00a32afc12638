//! What is measured once for a model and answers many budgets: the original's outputs, whether rescaling channels helps, the
//! loss of each family alone in each format, and every choice that was run. In: a [`Question`]; out: numbers that `solve`
//! and `frontier` reason with. Losses come from the device's engine and are kept in the cache.

use crate::budget::{Choice, Family, Problem};
use crate::evaluate::{Judge, Vocabulary};
use crate::inputs::{self, Row};
use crate::loss::{Loss, Objective, Score, decides};
use crate::memo::{Digest, Memo};
use crate::progress::Watch;
use crate::quantise::{QuantiseError, Quantiser};
use crate::shift::{Reach, shifted_config};
use crate::solve::{Answer, Limits};
use crate::subject::image_of;
use crate::variant::{Preparation, Variant, Variants};
use anyhow::{Result, bail};
use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::artifact::{self, Provenance};
use thimble_shared::dtype::Format;
use thimble_shared::model::{Config, Graph, Kind, Model};

/// Multiply-accumulates that the loss of all families in all formats may take together. A large model's sensitivities are
/// measured on as many of the tuning rows as that allows; whatever is chosen between is run on all of them. Counted in work
/// and not in seconds, so that the answer is the same on every machine.
const SENSE_WORK: usize = 800_000_000_000;
/// The same for trying preparations.
const PREPARE_WORK: usize = 1_000_000_000_000;
/// Rows that other files of the model are held against it on.
const YARDSTICK_ROWS: usize = 32;
/// Never fewer rows than this, if there are as many.
const SENSE_ROWS: usize = 8;

/// The question, whatever the budget.
pub struct Question<'a> {
    /// The model as it came; what results are compared with.
    pub original: &'a Model,
    /// What is to be made smaller: the original, or what the levers left of it.
    pub source: &'a Model,
    /// How the source's vocabulary differs from the original's.
    pub vocabulary: Option<&'a Vocabulary>,
    /// Rows the choice is made on, in the original's ids.
    pub tune: &'a [Row],
    /// Rows its loss is reported on.
    pub report: &'a [Row],
    pub formats: &'a [Format],
    pub objective: Objective,
    pub onnx: LowerOptions,
    pub provenance: &'a Provenance,
}

/// What a preparation lost: the smallest model so prepared, and the one in int8 throughout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tried {
    pub preparation: Preparation,
    pub smallest: f64,
    pub int8: f64,
}

/// Another file of the model, to hold a loss against.
#[derive(Clone, Debug, PartialEq)]
pub struct Yardstick {
    pub name: &'static str,
    /// None where there is no such file.
    pub score: Option<Score>,
}

/// How a study may prepare models.
#[derive(Clone, Copy, Debug)]
pub struct PrepareOptions<'a> {
    /// Steps that are tried, in this order; none of them: rounding to nearest.
    pub steps: &'a [Step],
    /// Bytes that the smallest model must stay within, prepared as it is.
    pub most: u64,
}

pub struct Study<'a> {
    question: &'a Question<'a>,
    pub problem: Problem,
    tune: Judge<'a>,
    report: OnceCell<Judge<'a>>,
    /// The model choices are made of, and the source rounded without any preparation.
    chosen: Bench<'a>,
    plain: Bench<'a>,
    pub preparation: Preparation,
    pub tried: Vec<Tried>,
    /// What the source loses as it came, because of the levers; on the rows of the sensitivities.
    base: f64,
    /// Tuning rows the sensitivities were measured on.
    pub sense_rows: usize,
    /// Every choice run on the tuning rows, in the order they were run.
    runs: Vec<(Choice, Score)>,
    known: HashMap<Choice, usize>,
    sizes: Sizes<'a>,
}

impl<'a> Study<'a> {
    /// Measures what every answer needs. `sizes` comes first because a budget below the floor needs no measuring.
    pub fn measure(sizes: Sizes<'a>, options: PrepareOptions<'_>, watch: &mut impl Watch) -> Result<Study<'a>> {
        let question = sizes.question;
        let tune = Judge::new(
            &question.original.config,
            question.original,
            question.tune.to_vec(),
            question.vocabulary,
        );
        let variants = Variants::new(question.source, question.tune, question.vocabulary);
        let made = Prepared::choose(&sizes, &variants, options, &tune, watch)?;
        let digest = Digest::of(question.original);
        let (preparation, quantiser) = (made.variant.preparation, made.quantiser);
        let chosen = Bench::new(question, &made.variant.digest, quantiser.clone(), &digest, tune.rows());
        let Some(first) = variants.make(Preparation::default())? else {
            bail!("there is no model to make smaller");
        };
        // What comes beside it rounds anew where that is asked for at all.
        let plain = Bench::new(
            question,
            &first.digest,
            Rc::new(first.quantiser()),
            &digest,
            tune.rows(),
        );

        sizes.become_of(made.variant.model.config.clone(), preparation.shifted);
        let mut problem = sizes.unmeasured()?;
        let count = problem.options.iter().map(Vec::len).sum();
        let rows = affordable_rows(question, SENSE_WORK, count);
        let some = tune.some(&inputs::sample(question.tune.len(), rows));
        let sense = Bench::new(question, &made.variant.digest, quantiser, &digest, some.rows());
        watch.stage(&format!("measuring {count} sensitivities on {rows} rows"), count);
        let base = sense.sensitivities(&some, &mut problem, watch)?;
        sense.memo.save();

        Ok(Study {
            question,
            problem,
            tune,
            report: OnceCell::new(),
            chosen,
            plain,
            preparation,
            tried: made.tried,
            base,
            sense_rows: rows,
            runs: vec![],
            known: HashMap::new(),
            sizes,
        })
    }

    pub fn question(&self) -> &'a Question<'a> {
        self.question
    }

    pub fn sizes(&self) -> &Sizes<'a> {
        &self.sizes
    }

    pub fn bytes(&self, choice: &Choice) -> Result<u64> {
        self.sizes.exact(&self.problem, choice)
    }

    /// The choice no budget goes below.
    pub fn floor(&self) -> Result<Choice> {
        self.sizes.smallest(&self.problem)
    }

    /// The choice's loss on the tuning rows, measured unless it was; whether it was new.
    pub fn run(&mut self, choice: &Choice) -> Result<bool> {
        if self.known.contains_key(choice) {
            return Ok(false);
        }
        let score = self.chosen.score(&self.tune, &self.problem.formats_of(choice))?;
        self.known.insert(choice.clone(), self.runs.len());
        self.runs.push((choice.clone(), score));
        Ok(true)
    }

    /// What a choice that was run measured.
    pub fn score_of(&self, choice: &Choice) -> Option<Score> {
        self.known.get(choice).map(|&at| self.runs[at].1)
    }

    /// What fp16, int8 rounded to nearest and half of an answer's bytes lose, for a reader who has no decisions to go by.
    pub fn yardsticks(&self, answer: &Answer) -> Result<Vec<Yardstick>> {
        if decides(&self.question.original.config) {
            return Ok(vec![]);
        }
        let source = &self.question.source.config;
        let uniform = |format: Format| Graph::uniform(source.clone(), format).formats;
        let half = self.best_run(&Limits::bytes(answer.bytes / 2))?;
        let rows = inputs::sample(self.question.report.len(), YARDSTICK_ROWS);
        let judge = self.reporter().some(&rows);
        // One model at a time is in memory.
        let measured = |name, model: Option<Model>| -> Result<Yardstick> {
            let loss = model.map(|model| judge.loss(&image_of(&model)?)).transpose()?;
            Ok(Yardstick {
                name,
                score: loss.map(|loss| loss.score()),
            })
        };
        Ok(vec![
            measured("fp16", self.plain.made(&uniform(Format::F16))?)?,
            measured("int8 to nearest", self.plain.made(&uniform(Format::I8))?)?,
            measured("half the bytes", half.map(|half| self.model(&half.choice)).transpose()?)?,
        ])
    }

    /// Every choice run so far, with what it measured.
    pub fn runs(&self) -> &[(Choice, Score)] {
        &self.runs
    }

    pub fn objective(&self, score: &Score) -> f64 {
        score.objective(self.question.objective)
    }

    /// The sum of what the levers and the families lose.
    pub fn predicted(&self, choice: &Choice) -> f64 {
        self.base + self.problem.predicted(choice)
    }

    pub fn known(&self, choice: &Choice) -> bool {
        self.known.contains_key(choice)
    }

    /// Keeps what was learnt for other questions of the same model.
    pub fn save(&self) {
        self.chosen.memo.save();
        self.plain.memo.save();
    }

    pub fn model(&self, choice: &Choice) -> Result<Model> {
        Ok(self.chosen.quantiser.model(&self.problem.formats_of(choice))?)
    }

    /// The loss on the rows kept for the report.
    pub fn report(&self, model: &Model) -> Result<Loss> {
        self.reporter().loss(&image_of(model)?)
    }

    /// What rounding the source to nearest in the same formats loses, without rescaling: on the tuning and the report rows.
    pub fn baseline(&self, choice: &Choice) -> Result<(f64, Option<Loss>)> {
        let formats = self.problem.formats_of(choice);
        let tuned = self
            .plain
            .score(&self.tune, &formats)?
            .objective(self.question.objective);
        let made = self.plain.made(&formats)?;
        Ok((tuned, made.map(|model| self.report(&model)).transpose()?))
    }

    fn reporter(&self) -> &Judge<'a> {
        let q = self.question;
        self.report
            .get_or_init(|| Judge::new(&q.original.config, q.original, q.report.to_vec(), q.vocabulary))
    }
}

/// Multiply-accumulates of the linear maps for the rows.
pub fn work(config: &Config, rows: &[Row]) -> usize {
    let tokens: usize = rows.iter().map(|row| row.input_ids.len()).sum();
    let linear = config.weights().into_iter().filter(|w| w.kind == Kind::Linear);
    let weights: usize = linear.map(|w| w.elements()).sum();
    weights
        .saturating_mul(config.num_hidden_layers)
        .saturating_mul(tokens)
        .max(1)
}

/// As many of the tuning rows as `evaluations` of the model on each may take `most` multiply-accumulates for.
fn affordable_rows(question: &Question, most: usize, evaluations: usize) -> usize {
    let all = question.tune.len();
    let each = work(&question.source.config, question.tune) / all.max(1);
    let rows = most / each.max(1) / evaluations.max(1);
    rows.clamp(SENSE_ROWS.min(all), all)
}

/// The preparation that was chosen, and all that were tried.
struct Prepared {
    variant: Variant,
    quantiser: Rc<Quantiser<'static>>,
    tried: Vec<Tried>,
}

impl Prepared {
    /// Tries one step after another and keeps those that lower the loss of the smallest model and of int8 throughout, taken
    /// together, each relative to what it lost unprepared.
    fn choose(
        sizes: &Sizes,
        variants: &Variants,
        options: PrepareOptions<'_>,
        tune: &Judge,
        watch: &mut impl Watch,
    ) -> Result<Prepared> {
        let question = sizes.question;
        let Some(first) = variants.make(Preparation::default())? else {
            bail!("there is no model to make smaller");
        };
        let mut best = Prepared {
            quantiser: Rc::new(first.quantiser()),
            variant: first,
            tried: vec![],
        };
        if options.steps.is_empty() {
            return Ok(best);
        }
        let tries = options.steps.len() + 1;
        watch.stage("preparing the model in each way", tries);
        let rows = affordable_rows(question, PREPARE_WORK, 2 * tries);
        let some = tune.some(&inputs::sample(question.tune.len(), rows));
        let original = Digest::of(question.original);
        // What loses least is what most families will be in.
        let int8 = [Format::W8, Format::I8A]
            .into_iter()
            .find(|f| question.formats.contains(f));
        let int8 = int8.unwrap_or(Format::I8);
        let mut measure = |variant: &Variant, quantiser: &Rc<Quantiser<'static>>| -> Result<Tried> {
            watch.step(&variant.preparation.to_string());
            let problem = Problem::unmeasured(&variant.model.config, question.formats);
            let bench = Bench::new(question, &variant.digest, quantiser.clone(), &original, some.rows());
            let lost = |choice: &Choice| -> Result<f64> {
                let score = bench.score(&some, &problem.formats_of(choice))?;
                Ok(score.objective(question.objective))
            };
            let tried = Tried {
                preparation: variant.preparation,
                smallest: lost(&problem.floor())?,
                int8: lost(&problem.mostly(int8))?,
            };
            bench.memo.save();
            Ok(tried)
        };
        let plain = measure(&best.variant, &best.quantiser)?;
        let relative = |tried: &Tried| share(tried.smallest, plain.smallest) + share(tried.int8, plain.int8);
        let mut least = relative(&plain);
        best.tried.push(plain);
        for &step in options.steps {
            let Some(next) = step.after(best.variant.preparation, sizes, variants, options.most)? else {
                continue;
            };
            let quantiser = Rc::new(next.quantiser());
            let tried = measure(&next, &quantiser)?;
            let loss = relative(&tried);
            if loss < least * step.worth() {
                (least, best.variant, best.quantiser) = (loss, next, quantiser);
            }
            best.tried.push(tried);
            // What a preparation gathered goes as soon as another one is known to be better.
            variants.keep(&[Preparation::default(), best.variant.preparation]);
        }
        Ok(best)
    }
}

/// A loss in units of another.
fn share(loss: f64, of: f64) -> f64 {
    if loss == of {
        1.0
    } else {
        loss / of.max(f64::MIN_POSITIVE)
    }
}

/// One step of preparation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Step {
    /// Subtract the mean of each channel from what linear maps read
    Shift,
    /// Rescale channels between adjacent weights
    Rescale,
    /// Split outlier channels behind the activation function
    Split,
    /// Round with regard to what the tuning rows multiply the numbers by
    Calibrate,
}

/// All steps, in the order they are tried.
pub const STEPS: [Step; 4] = [Step::Shift, Step::Rescale, Step::Split, Step::Calibrate];

impl Step {
    /// The share of the loss that must be left at most for the step to be taken. Channels that are split cost bytes and time.
    fn worth(self) -> f64 {
        match self {
            Step::Shift | Step::Rescale | Step::Calibrate => 1.0,
            Step::Split => 0.97,
        }
    }

    /// The variant with this step done as well, if the smallest model then stays within `most` bytes.
    fn after(self, done: Preparation, sizes: &Sizes, variants: &Variants, most: u64) -> Result<Option<Variant>> {
        // With bytes for half precision throughout, `down` need not quantise what it reads.
        let halves = Graph::uniform(sizes.question.source.config.clone(), Format::F16).formats;
        if self == Step::Split && most >= sizes.of(&halves)? {
            return Ok(None);
        }
        let reaches = match self {
            Step::Shift => [Some(Reach::Everywhere), Some(Reach::Inside)],
            Step::Rescale | Step::Split | Step::Calibrate => [Some(done.shifted), None],
        };
        for shifted in reaches.into_iter().flatten() {
            let next = variants.make(match self {
                Step::Shift => Preparation { shifted, ..done },
                Step::Rescale => Preparation { rescaled: true, ..done },
                Step::Split => Preparation { split: true, ..done },
                Step::Calibrate => Preparation {
                    calibrated: true,
                    ..done
                },
            })?;
            if let Some(next) = next
                && sizes.floor_of(&next.model.config, shifted)? <= most
            {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }
}

/// Exact file sizes, remembered.
pub struct Sizes<'a> {
    question: &'a Question<'a>,
    /// The network whose files are sized, and how far it is shifted.
    network: RefCell<(Config, Reach)>,
    known: RefCell<HashMap<Choice, u64>>,
    /// Bytes that every file has beside payloads and scales.
    least_overhead: u64,
}

impl<'a> Sizes<'a> {
    pub fn new(question: &'a Question<'a>) -> Result<Sizes<'a>> {
        let config = &question.source.config;
        let graph = Graph::uniform(config.clone(), Format::F32);
        let whole = artifact::size(&graph, question.onnx, question.provenance)? as u64;
        let weights = config.weights();
        let matrices = weights.iter().filter(|w| w.kind != Kind::Vector);
        let payload: u64 = matrices
            .map(|w| thimble_shared::artifact::tensors::weight_bytes(w, Format::F32) as u64)
            .sum();
        // No format has fewer nodes than f32; alignment may differ by less than its unit for every tensor.
        let alignment = (thimble_shared::artifact::layout::ALIGNMENT * weights.len()) as u64;
        Ok(Sizes {
            question,
            network: RefCell::new((config.clone(), Reach::Nowhere)),
            known: RefCell::default(),
            least_overhead: whole.saturating_sub(payload).saturating_sub(alignment),
        })
    }

    /// Families and the formats on offer; an error where no format suits a family.
    pub fn unmeasured(&self) -> Result<Problem> {
        let problem = Problem::unmeasured(&self.network.borrow().0, self.question.formats);
        match problem.homeless() {
            None => Ok(problem),
            Some(family) => {
                let offered: Vec<String> = self.question.formats.iter().map(Format::to_string).collect();
                bail!("--formats {}: none of them suits {}", offered.join(","), family.name)
            }
        }
    }

    /// From here on sizes are those of a network that was prepared.
    fn become_of(&self, config: Config, reach: Reach) {
        self.known.borrow_mut().clear();
        self.network.replace((config, reach));
    }

    /// The smallest file of another network, so shifted.
    fn floor_of(&self, config: &Config, reach: Reach) -> Result<u64> {
        let (own, own_reach) = self.network.borrow().clone();
        self.become_of(config.clone(), reach);
        let floor = self.floor().map(|floor| floor.bytes);
        self.become_of(own, own_reach);
        floor
    }

    /// What payloads and scales can have at most in a file of `bytes`.
    pub fn payload_within(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.least_overhead)
    }

    pub fn exact(&self, problem: &Problem, choice: &Choice) -> Result<u64> {
        if let Some(&bytes) = self.known.borrow().get(choice) {
            return Ok(bytes);
        }
        let bytes = self.of(&problem.formats_of(choice))?;
        self.known.borrow_mut().insert(choice.clone(), bytes);
        Ok(bytes)
    }

    /// The size of the source in these formats.
    pub fn of(&self, formats: &BTreeMap<String, Format>) -> Result<u64> {
        let (config, reach) = &*self.network.borrow();
        let graph = Graph {
            config: shifted_config(config, formats, *reach),
            formats: formats.clone(),
        };
        Ok(artifact::size(&graph, self.question.onnx, self.question.provenance)? as u64)
    }

    /// The choice whose whole file is smallest. The fewest payload bytes need not be it: in a small model the nodes that unpack
    /// a format weigh more than what the format saves. So families change one by one, from there and from each format
    /// throughout, for as long as the file shrinks.
    pub fn smallest(&self, problem: &Problem) -> Result<Choice> {
        let least = problem.floor();
        let mut starts = vec![least.clone()];
        for &format in self.question.formats {
            let of =
                |(options, least): (&Vec<Format>, &usize)| options.iter().position(|f| *f == format).unwrap_or(*least);
            starts.push(problem.options.iter().zip(&least).map(of).collect());
        }
        let mut best = (self.exact(problem, &least)?, least);
        for mut choice in starts {
            let mut bytes = self.exact(problem, &choice)?;
            loop {
                let before = bytes;
                for family in 0..choice.len() {
                    for option in 0..problem.options[family].len() {
                        let kept = std::mem::replace(&mut choice[family], option);
                        let other = self.exact(problem, &choice)?;
                        if other < bytes {
                            bytes = other;
                        } else {
                            choice[family] = kept;
                        }
                    }
                }
                if bytes == before {
                    break;
                }
            }
            if bytes < best.0 {
                best = (bytes, choice);
            }
        }
        Ok(best.1)
    }

    /// The smallest file, and the format of each family in it.
    pub fn floor(&self) -> Result<Floor> {
        let problem = self.unmeasured()?;
        let choice = self.smallest(&problem)?;
        let formats = (0..choice.len()).map(|i| problem.format(i, &choice));
        Ok(Floor {
            bytes: self.exact(&problem, &choice)?,
            formats: problem.families.iter().cloned().zip(formats).collect(),
        })
    }
}

/// What no budget goes below.
pub struct Floor {
    pub bytes: u64,
    pub formats: Vec<(Family, Format)>,
}

/// Makes candidates of one variant and remembers their scores on one set of rows.
struct Bench<'a> {
    question: &'a Question<'a>,
    quantiser: Rc<Quantiser<'static>>,
    memo: Memo,
}

impl<'a> Bench<'a> {
    fn new(
        question: &'a Question<'a>,
        variant: &Digest,
        quantiser: Rc<Quantiser<'static>>,
        original: &Digest,
        rows: &[Row],
    ) -> Bench<'a> {
        Bench {
            question,
            quantiser,
            memo: Memo::open(&[original, variant], rows),
        }
    }

    /// The model in these formats; None where a number does not fit its format.
    fn made(&self, formats: &BTreeMap<String, Format>) -> Result<Option<Model>> {
        match self.quantiser.model(formats) {
            Ok(model) => Ok(Some(model)),
            Err(QuantiseError::F16Overflow { .. }) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    fn score(&self, judge: &Judge, formats: &BTreeMap<String, Format>) -> Result<Score> {
        self.memo.score(formats, || {
            match self.made(formats)? {
                Some(model) => Ok(judge.loss(&image_of(&model)?)?.score()),
                // A family that does not fit fp16 is a choice nobody takes, not a failure.
                None => Ok(Score::IMPOSSIBLE),
            }
        })
    }

    /// Fills in what every family alone loses in every format, all others as they came, beyond what the source loses as it
    /// came; gives that.
    fn sensitivities(&self, judge: &Judge, problem: &mut Problem, watch: &mut impl Watch) -> Result<f64> {
        let question = self.question;
        let own = question.source.graph().formats;
        // As it came is the reference itself, unless levers were pulled.
        let base = if std::ptr::eq(question.source, question.original) {
            0.0
        } else {
            self.score(judge, &own)?.objective(question.objective)
        };
        for family in 0..problem.families.len() {
            for (i, format) in problem.options[family].clone().into_iter().enumerate() {
                watch.step(&format!("{} in {format}", problem.families[family].name));
                let mut formats = own.clone();
                let weights = problem.families[family].weights.iter();
                formats.extend(weights.map(|w| (w.name.clone(), format)));
                problem.loss[family][i] = if formats == own {
                    0.0
                } else {
                    self.score(judge, &formats)?.objective(question.objective) - base
                };
            }
        }
        Ok(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::model::{Activation, Head};

    /// The search leaves out what cannot fit by payload; it must never leave out what does fit.
    #[test]
    fn no_file_has_less_beside_its_payload_than_is_assumed() {
        for (head, tied_decoder) in [
            (Head::None, false),
            (Head::MaskedLm, true),
            (Head::QuestionAnswering, false),
        ] {
            let config = Config {
                vocab_size: 61,
                embedding_size: 12,
                hidden_size: 24,
                num_hidden_layers: 3,
                num_hidden_groups: 2,
                inner_group_num: 1,
                num_attention_heads: 2,
                intermediate_size: 40,
                max_position_embeddings: 16,
                type_vocab_size: 2,
                layer_norm_eps: 1e-12,
                activation: Activation::Gelu,
                head,
                tied_decoder,
                pooler: false,
                labels: vec![],
                multi_label: false,
                regression: false,
                hidden_shift: false,
            };
            let weights = config.weights().into_iter();
            let source = Model {
                weights: weights
                    .map(|w| {
                        (
                            w.name.clone(),
                            thimble_shared::dtype::Values::F32(vec![0.0; w.elements()]),
                        )
                    })
                    .collect(),
                config,
            };
            let question = Question {
                original: &source,
                source: &source,
                vocabulary: None,
                tune: &[],
                report: &[],
                formats: &Format::ALL,
                objective: Objective::Error,
                onnx: LowerOptions::default(),
                provenance: &Provenance::default(),
            };
            let sizes = Sizes::new(&question).unwrap();
            let problem = sizes.unmeasured().unwrap();
            for candidate in problem.ranked(u64::MAX, vec![]).step_by(137) {
                let exact = sizes.exact(&problem, &candidate.choice).unwrap();
                assert!(candidate.bytes <= sizes.payload_within(exact), "{:?}", candidate.choice);
            }
        }
    }
}
