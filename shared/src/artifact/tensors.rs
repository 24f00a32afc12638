//! Which tensors of the file hold one weight, and how its numbers get into them and out again: the numbers themselves
//! under the weight's name, int8 and int4 scales as `NAME.scale` (f32, one per row), int4 multipliers as `NAME.mult` (u8,
//! one per row and block). All payloads are little-endian.

use crate::artifact::layout::{I4_BLOCK_BYTES, PANEL_ROWS, PanelLayout, pack_int4, unpack_int4};
use crate::dtype::{Format, I4_BLOCK, I4_MULTIPLIER_MAX, I4_RANGE, I8_INPUTS, Values};
use crate::model::{Kind, ModelSpec, WeightSpec};
use crate::onnx::writer::{DataType, Mapped};
use half::f16;
use std::io::{self, Write};
use std::ops::Range;

/// What a stored tensor holds of its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The numbers themselves, under the weight's own name.
    Numbers,
    /// One f32 per row, as `NAME.scale`.
    Scales,
    /// One u8 per row and block of an int4 weight, as `NAME.mult`.
    Multipliers,
}

impl Part {
    /// Every part: the small ones first.
    pub const ALL: [Part; 3] = [Part::Scales, Part::Multipliers, Part::Numbers];

    /// Name of the initializer that holds this part of a weight.
    pub fn of(self, weight: &str) -> String {
        match self {
            Part::Numbers => weight.to_string(),
            Part::Scales => format!("{weight}.scale"),
            Part::Multipliers => format!("{weight}.mult"),
        }
    }
}

/// The tensor of one part of a weight, if the format has that part.
pub fn tensor(spec: &WeightSpec, format: Format, part: Part) -> Option<Mapped> {
    let (data_type, dims) = match part {
        Part::Scales if format.has_scales() => (DataType::F32, vec![spec.rows()]),
        Part::Multipliers if format == Format::I4 => (DataType::U8, multiplier_dims(spec)),
        Part::Scales | Part::Multipliers => return None,
        Part::Numbers => {
            let data_type = match format {
                Format::F32 => DataType::F32,
                Format::F16 => DataType::F16,
                Format::W8 | Format::I8 | Format::I8A => DataType::I8,
                Format::I4 => DataType::U8,
            };
            let dims = match (spec.kind, format) {
                (Kind::Linear, _) => layout(spec, format).dims(),
                (_, Format::I4) => vec![spec.rows(), row_blocks(spec), I4_BLOCK / 2],
                _ => spec.shape.clone(),
            };
            (data_type, dims)
        }
    };
    Some(Mapped {
        name: part.of(&spec.name),
        data_type,
        dims,
    })
}

/// The panels of a linear weight, or a table seen as rows of columns.
fn layout(spec: &WeightSpec, format: Format) -> PanelLayout {
    PanelLayout::new(format, spec.rows(), spec.shape.get(1).copied().unwrap_or(1))
}

/// int4 blocks of a table's row.
fn row_blocks(spec: &WeightSpec) -> usize {
    layout(spec, Format::I4).blocks()
}

fn multiplier_dims(spec: &WeightSpec) -> Vec<usize> {
    match spec.kind {
        Kind::Linear => layout(spec, Format::I4).multiplier_dims(),
        Kind::Table | Kind::Vector => vec![spec.rows(), row_blocks(spec), 1],
    }
}

/// The initializers a ModelSpec needs, in file order: small vectors and scales together, then the others weight by weight.
pub fn tensors(graph: &ModelSpec) -> Vec<Mapped> {
    let specs = graph.config.weights();
    let (mut small, mut large) = (vec![], vec![]);
    for spec in &specs {
        if spec.kind == Kind::Vector {
            small.extend(tensor(spec, Format::F32, Part::Numbers));
        } else {
            let format = graph.format(&spec.name);
            small.extend(tensor(spec, format, Part::Scales));
            large.extend(tensor(spec, format, Part::Multipliers));
            large.extend(tensor(spec, format, Part::Numbers));
        }
    }
    small.extend(large);
    small
}

/// Whether a weight can stand in a format at all: int8 sums of too many inputs would overflow.
pub fn fits(spec: &WeightSpec, format: Format) -> bool {
    let summed = spec.kind == Kind::Linear && format.quantises_input();
    !summed || spec.shape.get(1).is_none_or(|&inputs| inputs <= I8_INPUTS)
}

/// Bytes a weight takes in a format, scales and multipliers included; alignment and node text come on top.
pub fn weight_bytes(spec: &WeightSpec, format: Format) -> usize {
    let parts = Part::ALL.into_iter().filter_map(|part| tensor(spec, format, part));
    parts.map(|t| t.bytes()).sum()
}

/// Bytes of f32 numbers that are encoded or decoded at a time.
const CHUNK: usize = 1 << 18;

/// The rows of a weight, whole panels at a time: a chunk is stored as a weight of so many rows would be, one after the other.
fn chunks(spec: &WeightSpec) -> impl Iterator<Item = (WeightSpec, Range<usize>)> + '_ {
    let rows = spec.rows();
    let row_bytes = 4 * spec.shape.get(1).copied().unwrap_or(1).max(1);
    let step = (CHUNK / row_bytes / PANEL_ROWS * PANEL_ROWS).max(PANEL_ROWS);
    (0..rows).step_by(step).map(move |start| {
        let end = rows.min(start + step);
        let mut part = spec.clone();
        part.shape[0] = end - start;
        (part, start..end)
    })
}

/// Some rows of a weight as a weight of their own.
fn rows_of(spec: &WeightSpec, values: &Values, rows: Range<usize>) -> Values {
    let times = |n: usize| rows.start * n..rows.end * n;
    let cols = spec.shape.get(1).copied().unwrap_or(1);
    let (numbers, scales) = (times(cols), rows.clone());
    match values {
        Values::F32(v) => Values::F32(v[numbers].to_vec()),
        Values::F16(v) => Values::F16(v[numbers].to_vec()),
        Values::W8 { q, scales: s } => Values::W8 {
            q: q[numbers].to_vec(),
            scales: s[scales].to_vec(),
        },
        Values::I8 { q, scales: s } => Values::I8 {
            q: q[numbers].to_vec(),
            scales: s[scales].to_vec(),
        },
        Values::I8A { q, scales: s } => Values::I8A {
            q: q[numbers].to_vec(),
            scales: s[scales].to_vec(),
        },
        Values::I4 {
            q,
            multipliers,
            scales: s,
        } => Values::I4 {
            q: q[numbers].to_vec(),
            multipliers: multipliers[times(row_blocks(spec))].to_vec(),
            scales: s[scales].to_vec(),
        },
    }
}

/// Writes what [`payload`] gives, some panels at a time.
///
/// # Errors
/// Those of `out`.
pub fn write_payload(spec: &WeightSpec, values: &Values, part: Part, out: &mut dyn Write) -> io::Result<()> {
    let panels = spec.kind == Kind::Linear;
    match (part, values) {
        // What lies in memory as it does in the file.
        (Part::Scales, values) => out.write_all(bytemuck::cast_slice(values.scales())),
        (Part::Numbers, Values::F32(v)) if !panels => out.write_all(bytemuck::cast_slice(v)),
        (Part::Numbers, Values::F16(v)) if !panels => out.write_all(bytemuck::cast_slice(v)),
        (Part::Numbers, Values::W8 { q, .. } | Values::I8 { q, .. } | Values::I8A { q, .. }) if !panels => {
            out.write_all(bytemuck::cast_slice(q))
        }
        (Part::Numbers | Part::Multipliers, values) => {
            for (some, rows) in chunks(spec) {
                out.write_all(&payload(&some, &rows_of(spec, values, rows), part))?;
            }
            Ok(())
        }
    }
}

/// Reads a weight from its parts some rows at a time and hands each chunk, a weight of so many rows, to `each`; `read` is told
/// which bytes are not needed again. The parts have exactly the bytes their tensors state.
fn read_chunks<'a, E>(
    spec: &WeightSpec,
    format: Format,
    get: impl Fn(Part) -> Result<&'a [u8], E>,
    read: &dyn Fn(&'a [u8]),
    mut each: impl FnMut(&WeightSpec, Values) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = Vec::new();
    for part in Part::ALL {
        if tensor(spec, format, part).is_some() {
            left.push((part, get(part)?));
        }
    }
    for (some, _) in chunks(spec) {
        let mut now = Vec::with_capacity(left.len());
        for (part, bytes) in &mut left {
            let len = tensor(&some, format, *part).map_or(0, |t| t.bytes());
            let (head, rest) = bytes.split_at(len.min(bytes.len()));
            *bytes = rest;
            now.push((*part, head));
        }
        let of = |part: Part| {
            now.iter()
                .find(|(p, _)| *p == part)
                .map_or(&[][..], |(_, bytes)| *bytes)
        };
        each(&some, values(&some, format, |part| Ok(of(part)))?)?;
        now.iter().for_each(|(_, bytes)| read(bytes));
    }
    Ok(())
}

/// A weight from its parts, as [`values`] reads it; `read` is told which bytes are not needed again.
///
/// # Errors
/// Those of `get`.
pub fn read<'a, E>(
    spec: &WeightSpec,
    format: Format,
    get: impl Fn(Part) -> Result<&'a [u8], E>,
    read: &dyn Fn(&'a [u8]),
) -> Result<Values, E> {
    let mut all: Option<Values> = None;
    read_chunks(spec, format, get, read, |_, some| {
        match &mut all {
            None => all = Some(with_room(some, spec.elements())),
            Some(all) => append(all, some),
        }
        Ok(())
    })?;
    // Without rows there are no chunks.
    Ok(all.unwrap_or_else(|| Values::round_to_nearest(format, &[], spec.rows())))
}

/// What makes the stored parts of a weight unfit, if anything does: what [`problem`] says of its numbers.
///
/// # Errors
/// Those of `get`.
pub fn stored_problem<'a, E>(
    spec: &WeightSpec,
    format: Format,
    get: impl Fn(Part) -> Result<&'a [u8], E>,
    read: &dyn Fn(&'a [u8]),
) -> Result<Option<String>, E> {
    let mut found = None;
    read_chunks(spec, format, get, read, |some, values| {
        found = found.take().or_else(|| problem(some, &values));
        Ok(())
    })?;
    Ok(found)
}

fn with_room(mut values: Values, elements: usize) -> Values {
    let more = elements.saturating_sub(values.len());
    match &mut values {
        Values::F32(v) => v.reserve_exact(more),
        Values::F16(v) => v.reserve_exact(more),
        Values::W8 { q, .. } | Values::I8 { q, .. } | Values::I8A { q, .. } | Values::I4 { q, .. } => {
            q.reserve_exact(more)
        }
    }
    values
}

/// Adds the rows of `more`, which is in the same format.
fn append(all: &mut Values, more: Values) {
    match (all, more) {
        (Values::F32(a), Values::F32(b)) => a.extend(b),
        (Values::F16(a), Values::F16(b)) => a.extend(b),
        (Values::W8 { q, scales }, Values::W8 { q: b, scales: s })
        | (Values::I8 { q, scales }, Values::I8 { q: b, scales: s })
        | (Values::I8A { q, scales }, Values::I8A { q: b, scales: s }) => {
            q.extend(b);
            scales.extend(s);
        }
        (
            Values::I4 { q, multipliers, scales },
            Values::I4 {
                q: b,
                multipliers: m,
                scales: s,
            },
        ) => {
            q.extend(b);
            multipliers.extend(m);
            scales.extend(s);
        }
        (all, more) => unreachable!("{} rows beside {} ones", more.format(), all.format()),
    }
}

/// The payload of one part. `values` must have the elements `spec` states.
pub fn payload(spec: &WeightSpec, values: &Values, part: Part) -> Vec<u8> {
    let layout = layout(spec, values.format());
    let panels = spec.kind == Kind::Linear;
    match (part, values) {
        (Part::Numbers, Values::F32(v)) if panels => bytes_of(&layout.scatter(v, 0.0)),
        (Part::Numbers, Values::F16(v)) if panels => bytes_of(&layout.scatter(v, f16::ZERO)),
        (Part::Numbers, Values::F32(v)) => bytes_of(v),
        (Part::Numbers, Values::F16(v)) => bytes_of(v),
        (Part::Numbers, Values::W8 { q, .. } | Values::I8 { q, .. } | Values::I8A { q, .. }) if panels => {
            bytes_of(&layout.scatter(q, 0))
        }
        (Part::Numbers, Values::W8 { q, .. } | Values::I8 { q, .. } | Values::I8A { q, .. }) => bytes_of(q),
        (Part::Numbers, Values::I4 { q, .. }) if panels => pack_int4(&layout.scatter(q, 0), I4_BLOCK_BYTES),
        (Part::Numbers, Values::I4 { q, .. }) => {
            let rows = q.chunks_exact(layout.inp).flat_map(|row| {
                let padding = std::iter::repeat_n(0, layout.padded_in() - layout.inp);
                row.iter().copied().chain(padding)
            });
            pack_int4(&rows.collect::<Vec<i8>>(), I4_BLOCK / 2)
        }
        (Part::Scales, values) => bytes_of(values.scales()),
        (Part::Multipliers, Values::I4 { multipliers, .. }) if panels => {
            let mut stored = vec![0; layout.padded_out() * layout.blocks()];
            for (n, row) in multipliers.chunks_exact(layout.blocks()).enumerate() {
                for (b, &m) in row.iter().enumerate() {
                    stored[layout.multiplier_index(n, b)] = m;
                }
            }
            stored
        }
        (Part::Multipliers, Values::I4 { multipliers, .. }) => multipliers.clone(),
        (Part::Multipliers, _) => vec![],
    }
}

/// Undoes [`payload`]: a weight from its parts, each of exactly the bytes its tensor states.
///
/// # Errors
/// Those of `get`.
pub fn values<'a, E>(
    spec: &WeightSpec,
    format: Format,
    get: impl Fn(Part) -> Result<&'a [u8], E>,
) -> Result<Values, E> {
    let layout = layout(spec, format);
    let panels = spec.kind == Kind::Linear;
    let numbers = get(Part::Numbers)?;
    let scales = || get(Part::Scales).map(f32s);
    let int8s = || {
        let stored = bytemuck::cast_slice::<u8, i8>(numbers);
        if panels { layout.gather(stored) } else { stored.to_vec() }
    };
    Ok(match format {
        Format::F32 if panels => Values::F32(layout.gather(&f32s(numbers))),
        Format::F32 => Values::F32(f32s(numbers)),
        Format::F16 if panels => Values::F16(layout.gather(&f16s(numbers))),
        Format::F16 => Values::F16(f16s(numbers)),
        Format::W8 => Values::W8 {
            q: int8s(),
            scales: scales()?,
        },
        Format::I8 => Values::I8 {
            q: int8s(),
            scales: scales()?,
        },
        Format::I8A => Values::I8A {
            q: int8s(),
            scales: scales()?,
        },
        Format::I4 => {
            let stored = get(Part::Multipliers)?;
            let (q, multipliers) = if panels {
                let blocks = layout.blocks();
                let at = |n| (0..blocks).map(move |b| stored[layout.multiplier_index(n, b)]);
                let q = layout.gather(&unpack_int4(numbers, I4_BLOCK_BYTES));
                (q, (0..layout.out).flat_map(at).collect())
            } else {
                let padded = unpack_int4(numbers, I4_BLOCK / 2);
                let rows = padded.chunks_exact(layout.padded_in());
                (
                    rows.flat_map(|row| &row[..layout.inp]).copied().collect(),
                    stored.to_vec(),
                )
            };
            let scales = scales()?;
            Values::I4 { q, multipliers, scales }
        }
    })
}

/// What makes `values` unfit to be stored as the weight `spec`.
pub fn problem(spec: &WeightSpec, values: &Values) -> Option<String> {
    let (format, rows) = (values.format(), spec.rows());
    if values.len() != spec.elements() {
        return Some(format!("{} values for shape {:?}", values.len(), spec.shape));
    }
    if format.has_scales() && values.scales().len() != rows {
        return Some(format!("{} scales for {rows} rows", values.scales().len()));
    }
    let said = match values {
        Values::F32(v) => float_problem(v),
        Values::F16(v) => v
            .iter()
            .any(|x| !x.is_finite())
            .then_some("holds NaN or a value beyond fp16's ±65504; store it as f32 or i8"),
        Values::W8 { q, .. } | Values::I8 { q, .. } | Values::I8A { q, .. } => q
            .contains(&i8::MIN)
            .then_some("holds -128; int8 weights lie in [-127, 127]"),
        Values::I4 { q, multipliers, .. } => {
            if multipliers.len() != rows * row_blocks(spec) {
                Some("has another number of multipliers than blocks")
            } else if q.iter().any(|q| !(I4_RANGE.0..=I4_RANGE.1).contains(q)) {
                Some("holds a number outside int4's [-8, 7]")
            } else {
                let good = |m: &u8| (1..=I4_MULTIPLIER_MAX).contains(m);
                (!multipliers.iter().all(good)).then_some("has a multiplier outside 1 to 15")
            }
        }
    };
    let said = said.or(scale_problem(values.scales()));
    let vector = spec.kind == Kind::Vector && format != Format::F32;
    said.or(vector.then_some("vectors are stored as f32"))
        .map(str::to_string)
}

/// What makes f32 numbers unfit to be stored.
pub fn float_problem(numbers: &[f32]) -> Option<&'static str> {
    let bad = numbers.iter().any(|x| !x.is_finite());
    bad.then_some("holds NaN or an infinity")
}

/// What makes scales unfit. Zero is the scale of a row of zeros, and a subnormal one that of a row of very small numbers.
pub fn scale_problem(scales: &[f32]) -> Option<&'static str> {
    let bad = scales.iter().any(|x| !x.is_finite() || *x < 0.0);
    bad.then_some("has a scale that is negative, NaN or infinite")
}

/// f32 from little-endian bytes.
pub fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

fn f16s(bytes: &[u8]) -> Vec<f16> {
    bytes
        .chunks_exact(2)
        .map(|b| f16::from_le_bytes([b[0], b[1]]))
        .collect()
}

fn bytes_of<T: bytemuck::NoUninit>(values: &[T]) -> Vec<u8> {
    // The layout is defined little-endian, and a big-endian host would have to swap here.
    const {
        assert!(
            cfg!(target_endian = "little"),
            "thimble stores little-endian numbers and runs on such machines only"
        )
    };
    bytemuck::cast_slice(values).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Role, weight::Slot};

    fn spec(kind: Kind, shape: &[usize]) -> WeightSpec {
        WeightSpec {
            name: "w".into(),
            shape: shape.to_vec(),
            kind,
            role: Role::Head("w"),
            slot: Slot::Whole,
            site: None,
        }
    }

    #[test]
    fn every_format_comes_back_from_its_payloads_at_awkward_shapes() {
        let shapes = [
            (9, 33),
            (1, 1),
            (8, 16),
            (9, 17),
            (97, 12),
            (24, 40),
            (7, 3),
            (16, 64),
            (9, 65),
        ];
        // An interpreter takes its time.
        let shapes = if cfg!(miri) { &shapes[..2] } else { &shapes };
        for kind in [Kind::Linear, Kind::Table] {
            for &(out, inp) in shapes {
                let data: Vec<f32> = (0..out * inp).map(|i| ((i * 37) % 251) as f32 - 125.0).collect();
                let spec = spec(kind, &[out, inp]);
                for format in Format::ALL {
                    let stored = Values::round_to_nearest(format, &data, out);
                    assert_eq!(problem(&spec, &stored), None);
                    let parts = Part::ALL.map(|part| payload(&spec, &stored, part));
                    for (part, bytes) in Part::ALL.iter().zip(&parts) {
                        let stated = tensor(&spec, format, *part).map_or(0, |t| t.bytes());
                        assert_eq!(bytes.len(), stated, "{out}x{inp} {format} {part:?}");
                    }
                    let get = |part| {
                        let at = Part::ALL.iter().position(|p| *p == part);
                        Ok::<_, ()>(parts[at.unwrap()].as_slice())
                    };
                    assert_eq!(values(&spec, format, get), Ok(stored), "{out}x{inp} {format}");
                }
            }
        }
    }

    #[test]
    fn int8_sums_have_a_most() {
        let spec = |inputs| spec(Kind::Linear, &[8, inputs]);
        for format in [Format::I8, Format::I8A, Format::I4] {
            assert!(fits(&spec(I8_INPUTS), format) && !fits(&spec(I8_INPUTS + 1), format));
        }
        assert!(fits(&spec(I8_INPUTS + 1), Format::W8));
    }

    #[test]
    fn a_scale_of_a_float_has_no_tensor() {
        let spec = spec(Kind::Linear, &[4, 4]);
        assert_eq!(tensor(&spec, Format::F16, Part::Scales), None);
        assert_eq!(tensor(&spec, Format::I8, Part::Multipliers), None);
        assert_eq!(weight_bytes(&spec, Format::I4), 4 * 4 + 8 + I4_BLOCK_BYTES);
    }
}
