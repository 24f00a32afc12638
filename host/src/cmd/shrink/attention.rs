//! `--attention`: the arithmetics that the file may have, each with what the flags leave of bytes and time, and the choice between
//! them. int8 attention comes first where both may be had: its nodes take bytes, which the search keeps free.

use super::bounds::Bounds;
use super::{Chosen, ShrinkArgs, choose};
use crate::budget::answer::Limits;
use crate::budget::attention::Attention;
use crate::budget::question::Question;
use crate::budget::sensitivity::Search;
use crate::budget::sizes::{Floor, Sizes};
use crate::eval::metrics::Score;
use crate::render::progress::Bar;
use anyhow::{Result, bail};
use thimble_shared::artifact::runtime::Runtime;
use thimble_shared::board::target::Target;
use thimble_shared::model::AttentionArithmetic;

/// Fewest tokens that int8 attention is weighed for: with fewer it takes as long as f32.
const LEAST_SEQ: usize = 32;

/// How attention is to multiply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AttentionArg {
    /// Take int8 if its measured loss is good, or little more than that of f32
    #[default]
    Auto,
    /// Multiply in f32
    F32,
    /// Multiply int8 numbers: faster, and a little less exact
    Int8,
}

impl AttentionArg {
    /// The arithmetic that choices are measured in.
    pub fn measured_in(self) -> AttentionArithmetic {
        match self {
            AttentionArg::Auto | AttentionArg::F32 => AttentionArithmetic::F32,
            AttentionArg::Int8 => AttentionArithmetic::Int8,
        }
    }
}

/// An arithmetic that the file may have, and what the flags then leave.
pub struct Way {
    attention: AttentionArithmetic,
    bounds: Bounds,
}

/// What the flags leave open.
pub struct Open {
    /// int8, where it may be weighed against f32.
    fast: Option<Way>,
    /// What was asked for, else f32.
    own: Way,
    /// Why int8 is not weighed; empty where one was asked for.
    why: &'static str,
}

/// The ways that keep to the limits.
pub struct Ways<'w> {
    /// What is tried first: `fast` where there is one, else `own`.
    first: &'w Way,
    fast: Option<&'w Way>,
    own: Option<&'w Way>,
    /// Why int8 is not weighed.
    why: &'static str,
}

/// Why no file can be made, with what the flags leave.
pub enum Refusal {
    Floor(Floor),
    TooSlow(String),
}

/// What is settled: formats, arithmetic, and the limits they keep to.
pub struct Settled<'w> {
    pub chosen: Chosen,
    pub attention: Attention,
    pub bounds: &'w Bounds,
}

impl Open {
    /// What the flags leave open.
    ///
    /// # Errors
    /// int8 attention for another runtime, and a target that no time is predicted for.
    pub fn of(
        args: &ShrinkArgs,
        question: &Question,
        target: Option<&Target>,
        sizes: &Sizes,
        tokenizer: Option<&str>,
    ) -> Result<Open> {
        let runtime = question.onnx.runtime;
        if args.attention == AttentionArg::Int8 && runtime != Runtime::Board {
            bail!("--attention int8 is for boards; --for {runtime} leaves attention to that runtime");
        }
        let way = |attention| -> Result<Way> {
            sizes.attend_in(attention);
            Ok(Way {
                attention,
                bounds: Bounds::of(args, question, attention, target, sizes, tokenizer)?,
            })
        };
        let weighs = args.attention == AttentionArg::Auto && runtime == Runtime::Board;
        Ok(Open {
            fast: weighs.then(|| way(AttentionArithmetic::Int8)).transpose()?,
            own: way(args.attention.measured_in())?,
            why: match args.attention {
                AttentionArg::Auto => "int8 is for boards",
                AttentionArg::F32 | AttentionArg::Int8 => "",
            },
        })
    }

    /// The ways whose smallest file, and fastest formats, keep to the limits. `smallest` says whether the smallest file is asked for.
    ///
    /// # Errors
    /// What laying out a file may meet.
    pub fn ways(&self, sizes: &Sizes, smallest: bool) -> Result<Result<Ways<'_>, Refusal>> {
        let (fast, why) = match &self.fast {
            None => (None, self.why),
            Some(_) if smallest => (None, "the smallest file is asked for, and int8 has more nodes"),
            Some(way) if way.bounds.seq < LEAST_SEQ => (None, "so few tokens take int8 as long"),
            Some(way) if way.refusal(sizes)?.is_some() => (None, "the limits leave no room for the nodes of int8"),
            Some(way) => (Some(way), ""),
        };
        let (first, own) = match (fast, self.own.refusal(sizes)?) {
            (None, Some(refusal)) => return Ok(Err(refusal)),
            (None, None) => (&self.own, Some(&self.own)),
            (Some(fast), Some(_)) => (fast, None),
            (Some(fast), None) => (fast, Some(&self.own)),
        };
        sizes.attend_in(first.attention);
        Ok(Ok(Ways { first, fast, own, why }))
    }

    /// What the flags leave where int8 is not weighed.
    pub fn bounds(&self) -> &Bounds {
        &self.own.bounds
    }
}

impl Way {
    fn refusal(&self, sizes: &Sizes) -> Result<Option<Refusal>> {
        sizes.attend_in(self.attention);
        let floor = sizes.floor()?;
        Ok(match self.bounds.too_slow() {
            _ if floor.bytes > self.bounds.limits.bytes => Some(Refusal::Floor(floor)),
            Some(reason) => Some(Refusal::TooSlow(reason)),
            None => None,
        })
    }
}

impl<'w> Ways<'w> {
    /// What the way that is tried first leaves.
    pub fn bounds(&self) -> &'w Bounds {
        &self.first.bounds
    }

    /// The limits of the frontier. Its files have attention in the arithmetic that is not weighed against another.
    pub fn of_frontier(&self, search: &mut Search) -> &'w Limits {
        let way = self.own.unwrap_or(self.first);
        search.attend_in(way.attention);
        &way.bounds.limits
    }

    /// Chooses formats and the arithmetic of attention; the reason where there are none.
    ///
    /// # Errors
    /// What running the model may meet.
    pub fn settle(
        &self,
        search: &mut Search,
        args: &ShrinkArgs,
        smallest: Option<f64>,
        watch: &mut Bar,
    ) -> Result<Result<Settled<'w>, String>> {
        let (mut fast, mut why) = (None, self.why);
        if let Some(way) = self.fast {
            search.attend_in(way.attention);
            match choose(search, args, &way.bounds, smallest, watch)? {
                Ok((answer, trade)) => match search.with_int8_attention(&answer, watch)? {
                    Some(int8) => fast = Some(((answer, trade), int8, way)),
                    None => why = "query, key and value maps are not all of integers",
                },
                Err(reason) => {
                    if self.own.is_none() {
                        return Ok(Err(reason));
                    }
                    why = "no formats leave room for the nodes of int8";
                }
            }
        }
        let is_settled = |int8: &Score| search.is_settled(args.prefer, int8);
        let own = match (&fast, self.own) {
            (Some((_, int8, _)), _) if is_settled(int8) => None,
            (_, Some(way)) => {
                search.attend_in(way.attention);
                Some((choose(search, args, &way.bounds, smallest, watch)?, way))
            }
            (_, None) => None,
        };
        let Some(((answer, trade), int8, way)) = fast else {
            return Ok(match own {
                Some((Ok(chosen), way)) => Ok(Settled {
                    chosen,
                    attention: Attention::Given(way.attention, why),
                    bounds: &way.bounds,
                }),
                Some((Err(reason), _)) => Err(reason),
                None => Err(format!("attention in f32 is predicted to take too long, and {why}")),
            });
        };
        let mut attention = Attention::Weighed {
            taken: way.attention,
            f32: answer.score,
            int8,
        };
        if let Some((Ok(chosen), way)) = own {
            attention = search.weigh_attention(args.prefer, chosen.0.score, int8);
            if attention.arithmetic() == way.attention {
                let bounds = &way.bounds;
                return Ok(Ok(Settled {
                    chosen,
                    attention,
                    bounds,
                }));
            }
        }
        search.attend_in(way.attention);
        Ok(Ok(Settled {
            chosen: (search.answer_in(attention, answer), trade),
            attention,
            bounds: &way.bounds,
        }))
    }
}
