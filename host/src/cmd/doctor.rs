//! `thimble doctor`: what is missing for which command, and the line that gets it.

use super::outcome::Outcome;
use crate::boards::device_binary::{self, locate};
use crate::boards::tools::{TOOLS, Tool};
use crate::render::text::{Align, table};
use anyhow::Result;
use serde_json::json;
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::board::architecture::Architecture;

#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &DoctorArgs) -> Result<Outcome> {
    let tools: Vec<(&Tool, Option<String>)> = TOOLS
        .iter()
        .map(|tool| (tool, tool.found().map(|path| path.display().to_string())))
        .collect();
    let programs = Architecture::ALL.map(|one| (one, locate(None, one)));
    let [(_, usual), _] = &programs;
    let missing: Vec<&Tool> = tools
        .iter()
        .filter(|(_, found)| found.is_none())
        .map(|(tool, _)| *tool)
        .collect();
    // Who has boards of one kind needs no program for the other.
    let has_program = programs.iter().any(|(_, program)| program.is_ok());
    let whole = has_program && missing.iter().all(|tool| tool.optional);
    if args.json {
        let each = tools.iter().map(|(tool, found)| {
            json!({
                "name": tool.name, "found": found, "does": tool.does, "commands": tool.commands, "optional": tool.optional,
                "install": tool.install(),
            })
        });
        let json = json!({
            "schema": ANSWER_SCHEMA,
            "ready": whole,
            "device_program": usual.as_ref().ok().map(|found| found.path.display().to_string()),
            "device_program_problem": usual.as_ref().err().map(ToString::to_string),
            "device_programs": programs.iter().map(|(one, program)| {
                let path = program.as_ref().ok().map(|found| found.path.display().to_string());
                (one.name().to_string(), path.into())
            }).collect::<serde_json::Map<_, _>>(),
            "tools": each.collect::<Vec<_>>(),
        });
        return Ok(answer(format!("{json:#}\n"), whole));
    }
    let mut rows: Vec<Vec<String>> = programs
        .iter()
        .map(|(one, program)| {
            let state = match program {
                Ok(found) => format!("{} ({})", found.path.display(), found.how),
                Err(_) if has_program => "missing, not always needed".to_string(),
                Err(_) => "missing".to_string(),
            };
            let needed = "deploy, emulate, package, install".to_string();
            vec![format!("the board's program, {}", one.name()), needed, state]
        })
        .collect();
    rows.extend(tools.iter().map(|(tool, found)| {
        let state = match (found, tool.optional) {
            (Some(path), _) => path.clone(),
            (None, true) => "missing, not always needed".to_string(),
            (None, false) => "missing".to_string(),
        };
        vec![tool.name.to_string(), tool.commands.join(", "), state]
    }));
    let mut text = table(&["program", "needed by", "found"], &[Align::Left; 3], &rows);
    for tool in &missing {
        text += &format!("\n{}: {}\n  {}\n", tool.name, tool.does, tool.install());
    }
    for (one, program) in &programs {
        if let Err(error) = program {
            text += &format!("\n{error}\n  {}, or {}=FILE\n", one.build(), device_binary::VARIABLE);
        }
    }
    text += match whole {
        true => "\nevery command can run\n",
        false => "\nexport, shrink, inspect, slim, verify, run, report and targets need none of these\n",
    };
    Ok(answer(text, whole))
}

/// A no where something that is always needed is missing.
fn answer(text: String, whole: bool) -> Outcome {
    match whole {
        true => Outcome::yes(text),
        false => Outcome::no(text),
    }
}
