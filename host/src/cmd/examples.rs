//! The examples below each command's help. `cli` puts them there; a test parses every line.

pub const EXPORT: &str = "\
Examples:
  thimble export ./my-albert -o model.onnx
  thimble export ./my-albert --precision i8 -o small.onnx
  thimble export theirs.onnx -o ours.onnx";

pub const SHRINK: &str = "\
Examples:
  thimble shrink ./my-albert --budget 4MiB --calibrate validation.csv -o small.onnx
  thimble shrink ./my-albert --min-agreement 0.99 --calibrate validation.jsonl -o small.onnx
  thimble shrink ./my-albert --max-ram 24MiB --target pi-zero-2w --calibrate texts.txt --dry-run
  thimble shrink ./my-albert --frontier --calibrate validation.csv --html frontier.html";

pub const INSPECT: &str = "\
Examples:
  thimble inspect model.onnx
  thimble inspect model.onnx --against ./my-albert --html page.html";

pub const SLIM: &str = "\
Examples:
  thimble slim model.onnx -o smaller.onnx";

pub const GRAFT: &str = "\
Examples:
  thimble graft kokoro.onnx --encoder small.onnx -o kokoro-small.onnx --dequantize";

pub const VERIFY: &str = "\
Examples:
  thimble verify ./my-albert small.onnx --inputs test.csv
  thimble verify ./my-albert small.onnx --inputs test.jsonl --min-agreement 0.98";

pub const RUN: &str = "\
Examples:
  thimble run small.onnx --text \"a parser for tables\"
  thimble run small.onnx --ids 2,17,3 --json";

pub const TARGETS: &str = "\
Examples:
  thimble targets
  thimble targets pi-zero-2w
  thimble targets --probe pi@kitchen -o kitchen.toml
  thimble targets --new orange-pi-zero-3 -o orange-pi-zero-3.toml";

pub const EMULATE: &str = "\
Examples:
  thimble emulate small.onnx --target pi-zero-2w
  thimble emulate small.onnx --target pi-4 --find-min-ram";

pub const DEPLOY: &str = "\
Examples:
  thimble deploy small.onnx --target pi-4 --to pi@kitchen
  thimble deploy small.onnx --target pi-4 --to pi@kitchen:2222 --max-p95 120
  thimble deploy small.onnx --target pi-4 --to pi@kitchen --serve
  thimble deploy small.onnx --inventory hosts.ini";

pub const ASK: &str = "\
Examples:
  thimble ask pi@kitchen --text \"a parser for tables\"
  thimble ask pi@kitchen --json < texts.txt > answers.jsonl";

pub const UNDEPLOY: &str = "\
Examples:
  thimble undeploy pi@kitchen
  thimble undeploy pi@kitchen --old";

pub const REPORT: &str = "\
Examples:
  thimble report thimble-reports.jsonl
  thimble report thimble-reports.jsonl --html report.html";

pub const PACKAGE: &str = "\
Examples:
  thimble package small.onnx -o small.deb
  thimble package small.onnx -o small.deb --name my-model --release 1.2 --maintainer \"Jo Doe <jo@example.org>\"";

pub const INSTALL: &str = "\
Examples:
  thimble install small.onnx --image raspios.img --target pi-4
  thimble install small.onnx --rootfs /media/jo/rootfs";

pub const DOCTOR: &str = "\
Examples:
  thimble doctor
  thimble doctor --json";

pub const COMPLETIONS: &str = "\
Examples:
  thimble completions bash > ~/.local/share/bash-completion/completions/thimble
  thimble completions zsh > ~/.zfunc/_thimble
  thimble completions fish > ~/.config/fish/completions/thimble.fish";

pub const MAN: &str = "\
Examples:
  thimble man | man -l -
  thimble man ~/.local/share/man/man1";
