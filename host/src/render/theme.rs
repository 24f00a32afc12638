//! One look for every page and drawing: the colors of `colors.txt`, the rules of `pages.css`, and the page around a body. A
//! number format has the same color everywhere, and a text or a pattern beside it tells it too. Light or dark is the reader's choice.

use super::html::written;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::fmt::Write;
use thimble_shared::dtype::{Format, Storage};

const COLORS: &str = include_str!("colors.txt");
const RULES: &str = include_str!("pages.css");

/// What a colored mark stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Tone {
    /// Numbers of 32 bits.
    F32,
    /// Numbers of 16 bits.
    F16,
    /// Numbers of 8 bits, with the scales beside them.
    I8,
    /// Numbers of 4 bits, with what stands beside them.
    I4,
    /// Numbers of any other kind.
    Other,
    /// Bytes stored again or needed by nothing.
    Waste,
    /// Bytes that are no weights.
    Graph,
}

impl Tone {
    /// The name of its color, and of the class that paints with it.
    pub const fn class(self) -> &'static str {
        match self {
            Tone::F32 => "f32",
            Tone::F16 => "f16",
            Tone::I8 => "i8",
            Tone::I4 => "i4",
            Tone::Other => "other",
            Tone::Waste => "waste",
            Tone::Graph => "graph",
        }
    }

    /// Of thimble's number formats and of ONNX's element types; a name that is neither is of another kind.
    pub fn of_format(name: &str) -> Tone {
        match name.parse::<Format>().map(Format::storage) {
            Ok(Storage::F32) => Tone::F32,
            Ok(Storage::F16) => Tone::F16,
            Ok(Storage::I8) => Tone::I8,
            Ok(Storage::I4) => Tone::I4,
            Err(_) => match name {
                "bf16" => Tone::F16,
                "u8" | "f8e4m3fn" | "f8e4m3fnuz" | "f8e5m2" | "f8e5m2fnuz" => Tone::I8,
                "u4" | "f4e2m1" => Tone::I4,
                _ => Tone::Other,
            },
        }
    }
}

/// The colors: name, light, dark.
fn colors() -> impl Iterator<Item = [&'static str; 3]> {
    let lines = COLORS.lines().filter(|line| !line.starts_with("//"));
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some([words.next()?, words.next()?, words.next()?])
    })
}

/// A whole page without scripts that fetches nothing. `more` are rules of this page alone. It is well-formed XML where the body is.
pub(crate) fn page(title: &str, more: &str, body: Markup) -> String {
    written(html! {
        (DOCTYPE)
        html xmlns="http://www.w3.org/1999/xhtml" lang="en" {
            head {
                meta charset="utf-8" {}
                meta name="viewport" content="width=device-width, initial-scale=1" {}
                title { (title) }
                style { (PreEscaped(variables())) (PreEscaped(RULES)) (PreEscaped(more)) }
            }
            body { main { (body) } }
        }
    })
}

/// The colors as variables, light and dark.
fn variables() -> String {
    let all = |at: usize| {
        let each = colors().map(|color| format!("--{}:{};", color[0], color[at]));
        each.collect::<String>()
    };
    format!(
        ":root{{color-scheme:light dark;{}}}\n@media(prefers-color-scheme:dark){{:root{{{}}}}}\n",
        all(1),
        all(2)
    )
}

/// The rules of a drawing that may stand alone, where not every reader of SVG knows variables: for each color `NAME` the classes
/// `f-NAME`, which fills with it, and `s-NAME`, which draws lines with it. A dark browser takes the second set.
pub(crate) fn drawing_rules() -> String {
    let all = |at: usize| {
        colors().fold(String::new(), |mut rules, color| {
            let (name, value) = (color[0], color[at]);
            let _ = write!(rules, ".f-{name}{{fill:{value}}}.s-{name}{{stroke:{value}}}");
            rules
        })
    };
    format!("{}\n@media(prefers-color-scheme:dark){{{}}}", all(1), all(2))
}

/// A word in its color's box: the name of a number format, as a rule.
pub(crate) fn chip(tone: Tone, word: &str) -> Markup {
    html! { span class={ "chip " (tone.class()) } { (word) } }
}

/// The square that a color is explained with; `class` is that of a [`Tone`], or of a rule that paints a background.
pub(crate) fn key(class: &str) -> Markup {
    html! { span class={ "key " (class) } {} }
}

/// A table. Within an element of the class "many" its rows become cards where the window is not broad: there each cell has its
/// column's head before it.
pub(crate) struct Table<'a> {
    /// Heads of the columns, and whether a column holds numbers.
    pub heads: &'a [(&'a str, bool)],
    /// A class, "sum" or "part", and its cells.
    pub rows: Vec<(&'static str, Vec<Markup>)>,
}

impl Table<'_> {
    /// Its markup.
    pub fn markup(&self) -> Markup {
        let class = |number: bool| if number { "n" } else { "t" };
        html! {
            table {
                thead { tr { @for (head, number) in self.heads { th class=(class(*number)) scope="col" { (head) } } } }
                tbody {
                    @for (kind, cells) in &self.rows {
                        tr class=[(!kind.is_empty()).then_some(kind)] {
                            @if cells.len() == 1 {
                                th scope="rowgroup" colspan=(self.heads.len()) { (cells[0]) }
                            } @else {
                                @for ((head, number), cell) in self.heads.iter().zip(cells) {
                                    td class=(class(*number)) data-head=(head) { (cell) }
                                }
                            }
                        }
                        "\n"
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WCAG's contrast of two colors.
    fn contrast(a: &str, b: &str) -> f64 {
        let light = |color: &str| {
            let part = |at: usize| {
                let value = f64::from(u8::from_str_radix(&color[at..at + 2], 16).unwrap()) / 255.0;
                match value <= 0.04045 {
                    true => value / 12.92,
                    false => ((value + 0.055) / 1.055).powf(2.4),
                }
            };
            0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
        };
        let (a, b) = (light(a), light(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn colors_can_be_told_from_what_they_lie_on() {
        for scheme in [1, 2] {
            let of = |name: &str| colors().find(|color| color[0] == name).unwrap()[scheme];
            for text in ["ink", "soft"] {
                for behind in ["back", "panel"] {
                    assert!(contrast(of(text), of(behind)) >= 4.5, "{text} on {behind}");
                }
            }
            let tones = ["f32", "f16", "i8", "i4", "other", "waste", "graph"];
            for mark in tones.into_iter().chain(["own", "file", "mid"]) {
                assert!(contrast(of(mark), of("back")) >= 3.0, "{mark}");
            }
            for mark in tones {
                assert!(contrast(of("on"), of(mark)) >= 4.5, "text on {mark}");
            }
        }
    }

    #[test]
    fn a_format_has_one_color_whoever_names_it() {
        for (names, tone) in [
            (&["f32"][..], Tone::F32),
            (&["f16", "bf16"], Tone::F16),
            (&["w8", "i8", "i8a", "i8t", "u8"], Tone::I8),
            (&["i4", "w4", "u4"], Tone::I4),
            (&["i64", "bool", "no format"], Tone::Other),
        ] {
            for name in names {
                assert_eq!(Tone::of_format(name), tone, "{name}");
            }
        }
        for format in Format::ALL {
            let class = Tone::of_format(format.name()).class();
            assert!(colors().any(|color| color[0] == class) && RULES.contains(&format!(".{class}{{")));
        }
    }
}
