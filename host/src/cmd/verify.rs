//! `thimble verify`: how far apart two models are, on the same inputs, in the device's engine.

use crate::cli::{Outcome, VerifyArgs};
use crate::evaluate;
use crate::inputs;
use crate::loss::Loss;
use crate::subject::Subject;
use crate::text::{Align, table};
use anyhow::{Result, bail};

pub fn run(args: &VerifyArgs) -> Result<Outcome> {
    let reference = Subject::open(&args.reference)?;
    let candidate = Subject::open(&args.candidate)?;
    let config = reference.config().clone();
    if config.head != candidate.config().head {
        bail!(
            "the reference's head is {}, the candidate's {}",
            config.head.name(),
            candidate.config().head.name()
        );
    }
    let inputs = inputs::load(args.inputs.as_deref(), &config, reference.tokenizer(), args.rows)?;
    let a = evaluate::outputs(&reference.image()?, &inputs.rows)?;
    let b = evaluate::outputs(&candidate.image()?, &inputs.rows)?;
    let loss = evaluate::compare(config.head, &inputs.rows, &a, &b);
    let mut reasons = Vec::new();
    if let Some(least) = args.min_agreement {
        match loss.agreement {
            Some(share) if share < least => reasons.push(format!("agreement {share:.4} is below {least}")),
            Some(_) => {}
            None => bail!(
                "--min-agreement: a model with head {} decides nothing; use --max-abs",
                config.head.name()
            ),
        }
    }
    if let Some(most) = args.max_abs {
        for (name, d) in loss.outputs.iter().filter(|(_, d)| d.max_abs > most) {
            reasons.push(format!("{name} differs by {:.3e}, more than {most:e}", d.max_abs));
        }
    }
    let text = if args.json {
        let mut json = serde_json::to_value(&loss)?;
        json["schema"] = 1.into();
        json["calibrated"] = inputs.given.into();
        json["reasons"] = reasons.clone().into();
        format!("{json:#}\n")
    } else {
        let no = reasons.iter().map(|r| format!("no: {r}\n")).collect::<String>();
        describe(&loss) + &no
    };
    Ok(if reasons.is_empty() {
        Outcome::yes(text)
    } else {
        Outcome::no(text)
    })
}

/// The loss as a person reads it.
pub fn describe(loss: &Loss) -> String {
    let mut text = String::new();
    if let (Some(agreement), Some(kl)) = (loss.agreement, loss.kl) {
        text.push_str(&format!(
            "agreement {:.2} % of {} decisions, KL {kl:.3e} nats\n",
            agreement * 100.0,
            loss.decisions
        ));
    }
    if let (Some(before), Some(after)) = (loss.reference_accuracy, loss.accuracy) {
        text.push_str(&format!(
            "accuracy {:.2} %, the reference's {:.2} %\n",
            after * 100.0,
            before * 100.0
        ));
    }
    let rows: Vec<Vec<String>> = loss
        .outputs
        .iter()
        .map(|(name, d)| {
            let relative = d.rms / d.reference_std.max(f64::MIN_POSITIVE);
            vec![
                name.clone(),
                format!("{:.3e}", d.max_abs),
                format!("{relative:.3e}"),
                format!("{:.7}", d.cosine),
            ]
        })
        .collect();
    let aligns = [Align::Left, Align::Right, Align::Right, Align::Right];
    text + &table(&["output", "max |Δ|", "RMS / std", "cosine"], &aligns, &rows)
}
