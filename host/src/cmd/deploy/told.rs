//! What `deploy` tells: of each board what was sent, measured, kept and served, as text and as JSON, and the history's line.

use super::DeployArgs;
use crate::boards::package::unit::Scope;
use crate::boards::reports::{self, Entry, ReportKind};
use crate::boards::ssh::inventory::Host;
use crate::boards::ssh::serving::{self, Served};
use crate::boards::ssh::{DeployError, Deployed};
use crate::cmd::outcome::Outcome;
use crate::render::text::{exact, printable, say, size};
use serde_json::{Value, json};
use thimble_device::bench::timing::{Limits, judge};
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::board::report::{Report, SCHEMA};
use thimble_shared::board::target::Target;

/// What is told of boards, added up over them.
#[derive(Default)]
pub(super) struct Told {
    several: bool,
    /// A tokenizer went to the boards.
    takes_texts: bool,
    text: String,
    entries: Vec<Entry>,
    json: Vec<Value>,
    no: bool,
    error: Option<String>,
}

impl Told {
    /// Of nothing yet: whether it is one of several boards, and whether they are sent a tokenizer.
    pub(super) fn new(several: bool, takes_texts: bool) -> Told {
        Told {
            several,
            takes_texts,
            ..Told::default()
        }
    }

    pub(super) fn word(&self) -> &'static str {
        match (&self.error, self.no) {
            (Some(_), _) => "failed",
            (None, true) => "no",
            (None, false) => "fits",
        }
    }

    pub(super) fn join(&mut self, other: Told) {
        self.text += &other.text;
        self.entries.extend(other.entries);
        self.json.extend(other.json);
        self.no |= other.no;
        self.error = self.error.take().or(other.error);
    }

    pub(super) fn add(
        &mut self,
        host: &Host,
        target: &Target,
        result: Result<Deployed, DeployError>,
        history: &[Entry],
        args: &DeployArgs,
    ) {
        match result {
            Ok(deployed) => self.board(host, target, deployed, history, args),
            Err(DeployError::Refused(refusal)) => {
                self.no = true;
                self.text += &format!("{}: no: {}\n", host.name, printable(&refusal.to_string()));
                self.json
                    .push(json!({"board": host.name, "fits": false, "reason": refusal.to_string()}));
            }
            Err(error) => {
                let error = self.failed(host, &error.to_string());
                self.json.push(json!({"board": host.name, "error": error}));
            }
        }
    }

    fn failed(&mut self, host: &Host, error: &str) -> String {
        let error = format!("{}: {error}", host.name);
        // Of a single board the program's last word is its first error.
        if self.several || self.error.is_some() {
            say(&format!("error: {}", printable(&error)));
        }
        self.error.get_or_insert(error.clone());
        error
    }

    /// Tells of one board, line by line as they are printed, so it is not cut into parts.
    fn board(&mut self, host: &Host, target: &Target, deployed: Deployed, history: &[Entry], args: &DeployArgs) {
        let Deployed {
            look,
            report,
            sent,
            breaks,
            kept,
            served,
            old,
        } = deployed;
        let report = timed(report, args.max_p95);
        let sent_text = match sent {
            0 => "everything was there already".to_string(),
            bytes => format!("sent {}", exact(bytes)),
        };
        let breaks_text = match breaks {
            0 => String::new(),
            n => format!(", taken up again {n} times"),
        };
        self.text += &format!(
            "{}: {sent_text}{breaks_text}; measured in {}\n",
            host.name,
            printable(&look.dir)
        );
        let against = reports::against_target(&report, target);
        for line in &against {
            self.text += &format!("  not as {} is listed: {}\n", target.name, printable(line));
        }
        let last = reports::last(history, &ReportKind::of(&host.name, &report));
        let changes = last
            .map(|l| reports::against_last(&report, &l.report))
            .unwrap_or_default();
        for line in &changes {
            let when = last.and_then(|l| l.time.as_deref()).unwrap_or("the last report");
            self.text += &format!("  since {}: {line}\n", printable(when));
        }
        if let (Some(peak), Some(available)) = (report.memory.peak_rss, look.mem_available) {
            self.text += &format!("  peak {} of {} available\n", size(peak), size(available));
        }
        if args.max_p95.is_some() && report.board.emulated.is_some() {
            self.text += "  --max-p95 is ignored: an emulated board has no time\n";
        }
        let mut errors = Vec::new();
        errors.extend(self.kept(host, kept.as_ref()));
        errors.extend(self.served(host, args, served.as_ref()));
        if !old.is_empty() {
            let listed = printable(&serving::listed(&old));
            self.text += &match args.clear_old {
                true => format!("  removed, unused: {listed}\n"),
                false => format!(
                    "  unused there: {listed}; thimble undeploy {} --old removes it, and so does deploy --clear-old\n",
                    host.to
                ),
            };
        }
        self.no |= !report.verdict.fits;
        let entry = Entry {
            schema: SCHEMA,
            time: Some(reports::now()),
            board: host.name.clone(),
            target: Some(target.name.clone()),
            report,
        };
        if let Err(error) = reports::append(&args.history, &entry) {
            errors.push(self.failed(host, &format!("measured, but not added to the history: {error}")));
            // What was measured is not lost: the line as the history would have it.
            let line = serde_json::to_string(&entry).unwrap_or_default();
            self.text += &format!("  the line that {} lacks:\n{line}\n", args.history.display());
        }
        let mut told = json!({
            "board": host.name, "fits": entry.report.verdict.fits, "sent": sent, "breaks": breaks, "dir": look.dir,
            "against_target": against, "against_last": changes, "report": entry.report,
        });
        if let Some(kept) = &kept {
            told["kept"] = kept.is_ok().into();
            if let Err(DeployError::Refused(refusal)) = kept {
                told["reason"] = refusal.to_string().into();
            }
        }
        if args.serve {
            told["served"] = matches!(served, Some(Ok(_))).into();
        }
        if let Some(Ok(served)) = &served {
            told["socket"] = served.socket.clone().into();
        }
        if let Some(Err(DeployError::Refused(refusal))) = &served {
            told["reason"] = refusal.to_string().into();
        }
        told["old"] = old.iter().map(|one| one.path.clone()).collect::<Vec<_>>().into();
        if !errors.is_empty() {
            told["error"] = errors.join("; ").into();
        }
        self.json.push(told);
        self.entries.push(entry);
    }

    /// Tells what came of --keep; the error, where there was one.
    fn kept(&mut self, host: &Host, kept: Option<&Result<(), DeployError>>) -> Option<String> {
        match kept {
            None => {}
            Some(Ok(())) => self.text += &format!("  kept: {} measures at every boot\n", crate::boards::package::CHECK),
            Some(Err(DeployError::Refused(refusal))) => {
                self.no = true;
                self.text += &format!("  not kept: {}\n", printable(&refusal.to_string()));
            }
            Some(Err(error)) => {
                self.text += "  not kept\n";
                return Some(self.failed(host, &format!("measured, but not kept: {error}")));
            }
        }
        None
    }

    /// Tells what came of --serve; the error, where there was one.
    fn served(
        &mut self,
        host: &Host,
        args: &DeployArgs,
        served: Option<&Result<Served, DeployError>>,
    ) -> Option<String> {
        match served {
            None if args.serve => {
                self.text += "  not served: the report does not hold the limits; what was served before serves on\n"
            }
            None => {}
            Some(Ok(served)) => {
                let ask = match self.takes_texts {
                    true => "--text \"…\"",
                    false => "--ids 2,…,3",
                };
                let socket = printable(&served.socket);
                self.text += &format!("  served at {socket}: thimble ask {} {ask}\n", host.to);
                if served.scope == Scope::User && !served.at_boot {
                    self.text += "  it ends with the last login; this line lets it start with the board: sudo loginctl enable-linger $USER\n";
                }
            }
            Some(Err(DeployError::Refused(refusal))) => {
                self.no = true;
                self.text += &format!("  not served: {}\n", printable(&refusal.to_string()));
            }
            Some(Err(error)) => {
                self.text += "  not served\n";
                return Some(self.failed(host, &format!("measured, but not served: {error}")));
            }
        }
        None
    }

    pub(super) fn outcome(self, json: bool, boards: usize) -> Outcome {
        let text = if json {
            format!("{:#}\n", json!({"schema": ANSWER_SCHEMA, "boards": self.json}))
        } else {
            let table = if self.entries.is_empty() {
                String::new()
            } else {
                format!("\n{}", reports::as_table(&self.entries))
            };
            format!("{}{table}", self.text)
        };
        match self.error {
            Some(error) if boards == 1 => Outcome::malformed(text, error),
            Some(_) => Outcome::malformed(text, "not every board is done".into()),
            None if self.no => Outcome::no(text),
            None => Outcome::yes(text),
        }
    }
}

/// The report without times where the board is software: emulators have a clock too, and what it says must not be judged or
/// enter the history as a time. Elsewhere the limit is judged as the board itself would.
fn timed(report: Report, max_p95_ms: Option<f64>) -> Report {
    if report.board.emulated.is_some() {
        return report.without_times();
    }
    let limits = Limits {
        max_p95_ms,
        ..Limits::default()
    };
    let verdict = judge(limits, None, &report.latency_ms);
    let mut report = report;
    report.verdict.fits &= verdict.fits;
    report.verdict.reasons.extend(verdict.reasons);
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boards::profiles;

    #[test]
    fn a_limit_of_time_is_judged_where_time_is_real() {
        let mut report = crate::boards::reports::tests::report();
        let p95 = report.latency_ms.p95.unwrap();
        for (limit, fits) in [(None, true), (Some(p95), true), (Some(p95 / 2.0), false)] {
            let judged = timed(report.clone(), limit).verdict;
            assert_eq!((judged.fits, judged.reasons.len()), (fits, usize::from(!fits)));
        }
        report.board.emulated = Some("qemu-system".into());
        let judged = timed(report, Some(p95 / 2.0));
        assert!(judged.verdict.fits && judged.latency_ms.p95.is_none());
    }

    #[test]
    fn a_report_is_told_though_neither_history_nor_unit_can_be_written() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            args: DeployArgs,
        }
        let line = [
            "x",
            "m.onnx",
            "--to",
            "board",
            "--target",
            "pi-4",
            "--keep",
            "--history",
            "/nowhere/h.jsonl",
        ];
        let args = Line::parse_from(line).args;
        let host = Host {
            name: "board".into(),
            to: "board".into(),
            port: None,
            target: None,
        };
        let deployed = Deployed {
            look: crate::boards::ssh::Look::default(),
            report: crate::boards::reports::tests::report(),
            sent: 0,
            breaks: 0,
            kept: Some(Err(DeployError::Board("Failed to enable unit".into()))),
            served: None,
            old: Vec::new(),
        };
        let mut told = Told::default();
        told.add(&host, &profiles::find("pi-4").unwrap(), Ok(deployed), &[], &args);
        let errors = told.json[0]["error"].to_string();
        assert!(
            errors.contains("Failed to enable unit") && errors.contains("/nowhere/h.jsonl"),
            "{errors}"
        );
        assert_eq!(told.json[0]["report"]["memory"]["peak_rss"], 1 << 24);
        let line = told.text.lines().find(|l| l.starts_with('{')).unwrap();
        let entry: Entry = serde_json::from_str(line).unwrap();
        assert_eq!(entry.report, crate::boards::reports::tests::report());
        let outcome = told.outcome(false, 1);
        assert_eq!(outcome.code, 2);
        assert!(outcome.text.contains("5.10") && outcome.error.unwrap().contains("Failed to enable unit"));
    }
}
