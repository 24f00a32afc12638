//! Which tensors of the file hold one weight, and how its numbers get into them and out again: the numbers themselves
//! under the weight's name, int8 and int4 scales as `NAME.scale` (f32, one per row), int4 multipliers as `NAME.mult` (u8,
//! one per row and block). All payloads are little-endian.

use crate::artifact::layout::{I4_BLOCK_BYTES, PANEL_ROWS, PanelLayout, pack_int4, unpack_int4};
use crate::artifact::runtime::Order;
pub use crate::dtype::Part;
use crate::dtype::{Format, I4_BLOCK, I4_MULTIPLIER_MAX, I8_INPUTS, Levels, Numbers, Storage, Values};
use crate::model::{Kind, ModelSpec, WeightSpec};
use crate::onnx::writer::{DataType, Mapped};
use half::f16;
use std::io::{self, Write};
use std::ops::Range;

/// The tensor of one part of a weight, if the format has that part.
pub fn tensor(spec: &WeightSpec, format: Format, part: Part, order: Order) -> Option<Mapped> {
    let storage = format.storage();
    if !storage.has(part) {
        return None;
    }
    let (data_type, dims) = match part {
        Part::Scales => (DataType::F32, vec![spec.rows()]),
        Part::Multipliers => (DataType::U8, multiplier_dims(spec, storage, order)),
        Part::Numbers => (data_type(storage), number_dims(spec, storage, order)),
    };
    Some(Mapped {
        name: part.of(&spec.name),
        data_type,
        dims,
    })
}

/// The ONNX type of stored numbers; two int4 numbers share a byte.
fn data_type(storage: Storage) -> DataType {
    match storage {
        Storage::F32 => DataType::F32,
        Storage::F16 => DataType::F16,
        Storage::I8 => DataType::I8,
        Storage::I4 => DataType::U8,
    }
}

fn number_dims(spec: &WeightSpec, storage: Storage, order: Order) -> Vec<usize> {
    let layout = layout(spec, storage);
    match spec.kind {
        Kind::Linear if order == Order::Panels => layout.dims(),
        Kind::Linear => match storage {
            Storage::F32 | Storage::F16 | Storage::I8 => vec![layout.inp, layout.out],
            Storage::I4 => vec![layout.out, layout.blocks(), I4_BLOCK / 2],
        },
        Kind::Table | Kind::Vector => match storage {
            Storage::F32 | Storage::F16 | Storage::I8 => spec.shape.clone(),
            Storage::I4 => vec![spec.rows(), layout.blocks(), I4_BLOCK / 2],
        },
    }
}

fn multiplier_dims(spec: &WeightSpec, storage: Storage, order: Order) -> Vec<usize> {
    let layout = layout(spec, storage);
    match (spec.kind, order) {
        (Kind::Linear, Order::Panels) => layout.multiplier_dims(),
        (Kind::Linear, Order::Rows) | (Kind::Table | Kind::Vector, _) => vec![spec.rows(), layout.blocks(), 1],
    }
}

/// The panels of a linear weight, or a table seen as rows of columns.
fn layout(spec: &WeightSpec, storage: Storage) -> PanelLayout {
    PanelLayout::new(storage, spec.rows(), columns(spec))
}

/// Columns of a table, inputs of a linear weight; 1 of a vector.
fn columns(spec: &WeightSpec) -> usize {
    spec.shape.get(1).copied().unwrap_or(1)
}

/// The initializers a ModelSpec needs, in file order: small vectors and scales together, then the others weight by weight.
pub fn tensors(graph: &ModelSpec, order: Order) -> Vec<Mapped> {
    let specs = graph.config.weights();
    let (mut small, mut large) = (vec![], vec![]);
    for spec in &specs {
        if spec.kind == Kind::Vector {
            small.extend(tensor(spec, Format::F32, Part::Numbers, order));
        } else {
            let format = graph.format(&spec.name);
            small.extend(tensor(spec, format, Part::Scales, order));
            large.extend(tensor(spec, format, Part::Multipliers, order));
            large.extend(tensor(spec, format, Part::Numbers, order));
        }
    }
    small.extend(large);
    small
}

/// Whether a weight can stand in a format at all: int8 sums of too many inputs would overflow.
pub fn fits(spec: &WeightSpec, format: Format) -> bool {
    let summed = spec.kind == Kind::Linear && format.quantizes_input();
    !summed || spec.shape.get(1).is_none_or(|&inputs| inputs <= I8_INPUTS)
}

/// Bytes a weight takes in a format in panels, scales and multipliers included; alignment and node text come on top. By rows it
/// takes no more: there is no padding.
pub fn weight_bytes(spec: &WeightSpec, format: Format) -> usize {
    let parts = Part::ALL
        .into_iter()
        .filter_map(|part| tensor(spec, format, part, Order::Panels));
    parts.map(|t| t.bytes()).sum()
}

/// Bytes of f32 numbers that are encoded or decoded at a time.
const CHUNK: usize = 1 << 18;

/// The rows of a weight, whole panels at a time: a chunk is stored as a weight of so many rows would be, one after the other. A
/// matrix whose outputs are columns is one chunk.
fn chunks(spec: &WeightSpec, order: Order) -> impl Iterator<Item = (WeightSpec, Range<usize>)> + '_ {
    let rows = spec.rows();
    let row_bytes = 4 * columns(spec).max(1);
    let step = match (spec.kind, order) {
        (Kind::Linear, Order::Rows) => rows.max(1),
        (Kind::Linear, Order::Panels) | (Kind::Table | Kind::Vector, _) => {
            (CHUNK / row_bytes / PANEL_ROWS * PANEL_ROWS).max(PANEL_ROWS)
        }
    };
    (0..rows).step_by(step).map(move |start| {
        let end = rows.min(start + step);
        let mut part = spec.clone();
        part.shape[0] = end - start;
        (part, start..end)
    })
}

/// Writes what [`payload`] gives, some panels at a time.
///
/// # Errors
/// Those of `out`.
pub fn write_payload(
    spec: &WeightSpec,
    values: &Values,
    part: Part,
    order: Order,
    out: &mut dyn Write,
) -> io::Result<()> {
    let panels = spec.kind == Kind::Linear;
    match (part, values.numbers()) {
        // What lies in memory as it does in the file.
        (Part::Scales, numbers) => out.write_all(bytemuck::cast_slice(numbers.scales())),
        (Part::Numbers, Numbers::F32(v)) if !panels => out.write_all(bytemuck::cast_slice(v)),
        (Part::Numbers, Numbers::F16(v)) if !panels => out.write_all(bytemuck::cast_slice(v)),
        (Part::Numbers, Numbers::I8 { q, .. }) if !panels => out.write_all(bytemuck::cast_slice(q)),
        (Part::Numbers | Part::Multipliers, _) => {
            for (some, rows) in chunks(spec, order) {
                out.write_all(&payload(&some, &values.some_rows(rows, columns(spec)), part, order))?;
            }
            Ok(())
        }
    }
}

/// Reads a weight from its parts some rows at a time and hands each chunk, a weight of so many rows, to `each`; `read` is told
/// which bytes are not needed again. The parts have exactly the bytes their tensors state.
fn read_chunks<'a, E>(
    spec: &WeightSpec,
    (format, order): (Format, Order),
    get: impl Fn(Part) -> Result<&'a [u8], E>,
    read: &dyn Fn(&'a [u8]),
    mut each: impl FnMut(&WeightSpec, Values) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = Vec::new();
    for part in Part::ALL {
        if tensor(spec, format, part, order).is_some() {
            left.push((part, get(part)?));
        }
    }
    for (some, _) in chunks(spec, order) {
        let mut now = Vec::with_capacity(left.len());
        for (part, bytes) in &mut left {
            let len = tensor(&some, format, *part, order).map_or(0, |t| t.bytes());
            let (head, rest) = bytes.split_at(len.min(bytes.len()));
            *bytes = rest;
            now.push((*part, head));
        }
        let of = |part: Part| {
            now.iter()
                .find(|(p, _)| *p == part)
                .map_or(&[][..], |(_, bytes)| *bytes)
        };
        each(&some, values(&some, (format, order), |part| Ok(of(part)))?)?;
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
    (format, order): (Format, Order),
    get: impl Fn(Part) -> Result<&'a [u8], E>,
    read: &dyn Fn(&'a [u8]),
) -> Result<Values, E> {
    let mut all: Option<Values> = None;
    read_chunks(spec, (format, order), get, read, |_, some| {
        match &mut all {
            None => all.insert(some).reserve(spec.elements()),
            Some(all) => all.append(some),
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
    (format, order): (Format, Order),
    get: impl Fn(Part) -> Result<&'a [u8], E>,
    read: &dyn Fn(&'a [u8]),
) -> Result<Option<String>, E> {
    let mut found = None;
    read_chunks(spec, (format, order), get, read, |some, values| {
        found = found.take().or_else(|| problem(some, &values));
        Ok(())
    })?;
    Ok(found)
}

/// The payload of one part. `values` must have the elements `spec` states.
pub fn payload(spec: &WeightSpec, values: &Values, part: Part, order: Order) -> Vec<u8> {
    let layout = layout(spec, values.format().storage());
    let panels = spec.kind == Kind::Linear && order == Order::Panels;
    let turned = spec.kind == Kind::Linear && order == Order::Rows;
    match (part, values.numbers()) {
        (Part::Numbers, Numbers::F32(v)) if turned => bytes_of(&transposed(v, layout.inp)),
        (Part::Numbers, Numbers::F16(v)) if turned => bytes_of(&transposed(v, layout.inp)),
        (Part::Numbers, Numbers::I8 { q, .. }) if turned => bytes_of(&transposed(q, layout.inp)),
        (Part::Numbers, Numbers::F32(v)) if panels => bytes_of(&layout.scatter(v, 0.0)),
        (Part::Numbers, Numbers::F16(v)) if panels => bytes_of(&layout.scatter(v, f16::ZERO)),
        (Part::Numbers, Numbers::I8 { q, .. }) if panels => bytes_of(&layout.scatter(q, 0)),
        (Part::Numbers, Numbers::I4 { q, .. }) if panels => pack_int4(&layout.scatter(q, 0), I4_BLOCK_BYTES),
        (Part::Numbers, Numbers::F32(v)) => bytes_of(v),
        (Part::Numbers, Numbers::F16(v)) => bytes_of(v),
        (Part::Numbers, Numbers::I8 { q, .. }) => bytes_of(q),
        (Part::Numbers, Numbers::I4 { q, .. }) => {
            let rows = q.chunks_exact(layout.inp).flat_map(|row| {
                let padding = std::iter::repeat_n(0, layout.padded_in() - layout.inp);
                row.iter().copied().chain(padding)
            });
            pack_int4(&rows.collect::<Vec<i8>>(), row_half(order))
        }
        (Part::Scales, numbers) => bytes_of(numbers.scales()),
        (Part::Multipliers, Numbers::I4 { multipliers, .. }) if panels => {
            let mut stored = vec![0; layout.padded_out() * layout.blocks()];
            for (n, row) in multipliers.chunks_exact(layout.blocks()).enumerate() {
                for (b, &m) in row.iter().enumerate() {
                    stored[layout.multiplier_index(n, b)] = m;
                }
            }
            stored
        }
        (Part::Multipliers, Numbers::I4 { multipliers, .. }) => multipliers.clone(),
        (Part::Multipliers, Numbers::F32(_) | Numbers::F16(_) | Numbers::I8 { .. }) => vec![],
    }
}

/// Undoes [`payload`]: a weight from its parts, each of exactly the bytes its tensor states.
///
/// # Errors
/// Those of `get`.
pub fn values<'a, E>(
    spec: &WeightSpec,
    (format, order): (Format, Order),
    get: impl Fn(Part) -> Result<&'a [u8], E>,
) -> Result<Values, E> {
    let storage = format.storage();
    let layout = layout(spec, storage);
    let panels = spec.kind == Kind::Linear && order == Order::Panels;
    let turned = spec.kind == Kind::Linear && order == Order::Rows;
    let stored = get(Part::Numbers)?;
    let scales = || get(Part::Scales).map(f32s);
    let numbers = match storage {
        Storage::F32 if turned => Numbers::F32(transposed(&f32s(stored), layout.out)),
        Storage::F16 if turned => Numbers::F16(transposed(&f16s(stored), layout.out)),
        Storage::F32 if panels => Numbers::F32(layout.gather(&f32s(stored))),
        Storage::F32 => Numbers::F32(f32s(stored)),
        Storage::F16 if panels => Numbers::F16(layout.gather(&f16s(stored))),
        Storage::F16 => Numbers::F16(f16s(stored)),
        Storage::I8 => {
            let stored = bytemuck::cast_slice::<u8, i8>(stored);
            let q = match (panels, turned) {
                (true, _) => layout.gather(stored),
                (_, true) => transposed(stored, layout.out),
                _ => stored.to_vec(),
            };
            let scales = scales()?;
            Numbers::I8 { q, scales }
        }
        Storage::I4 => {
            let factors = get(Part::Multipliers)?;
            let (q, multipliers) = if panels {
                let blocks = layout.blocks();
                let at = |n| (0..blocks).map(move |b| factors[layout.multiplier_index(n, b)]);
                let q = layout.gather(&unpack_int4(stored, I4_BLOCK_BYTES));
                (q, (0..layout.out).flat_map(at).collect())
            } else {
                let padded = unpack_int4(stored, row_half(order));
                let rows = padded.chunks_exact(layout.padded_in());
                (
                    rows.flat_map(|row| &row[..layout.inp]).copied().collect(),
                    factors.to_vec(),
                )
            };
            let scales = scales()?;
            Numbers::I4 { q, multipliers, scales }
        }
    };
    Ok(Values::new(format, numbers))
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
    let said = match values.numbers() {
        Numbers::F32(v) => float_problem(v).map(str::to_string),
        Numbers::F16(v) => v
            .iter()
            .any(|x| !x.is_finite())
            .then(|| "holds NaN or a value beyond fp16's ±65504; store it as f32 or i8".into()),
        Numbers::I8 { q, .. } => outside(format, q)
            .map(|(q, name, Levels { least, most })| format!("holds {q}; {name} weights lie in [{least}, {most}]")),
        Numbers::I4 { q, multipliers, .. } => {
            let layout = layout(spec, format.storage());
            if multipliers.len() != rows * layout.blocks() {
                Some("has another number of multipliers than blocks".into())
            } else if let Some((_, name, Levels { least, most })) = outside(format, q) {
                Some(format!("holds a number outside {name}'s [{least}, {most}]"))
            } else {
                let good = |m: &u8| (1..=I4_MULTIPLIER_MAX).contains(m);
                (!multipliers.iter().all(good)).then(|| "has a multiplier outside 1 to 15".into())
            }
        }
    };
    let vector = spec.kind == Kind::Vector && format != Format::F32;
    let others = scale_problem(values.scales()).or(vector.then_some("vectors are stored as f32"));
    said.or(others.map(str::to_string))
}

/// The first number that is no level of a format, with the name of the format's numbers and their levels.
fn outside(format: Format, q: &[i8]) -> Option<(i8, &'static str, Levels)> {
    let levels = format.row().levels?;
    let found = levels.first_outside(q)?;
    Some((found, format.row().numbers.row().alias, levels))
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

/// Numbers between those that share a byte in rows of int4: half a block where the device reads them, none where ONNX Runtime does.
fn row_half(order: Order) -> usize {
    match order {
        Order::Panels => I4_BLOCK / 2,
        Order::Rows => 1,
    }
}

/// Rows of `cols` numbers as columns.
fn transposed<T: Copy>(rows: &[T], cols: usize) -> Vec<T> {
    (0..cols)
        .flat_map(|c| rows.iter().skip(c).step_by(cols.max(1)).copied())
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
        let all = Format::ALL
            .into_iter()
            .flat_map(|f| [Order::Panels, Order::Rows].map(|order| (f, order)));
        for kind in [Kind::Linear, Kind::Table] {
            for &(out, inp) in shapes {
                let data: Vec<f32> = (0..out * inp).map(|i| ((i * 37) % 251) as f32 - 125.0).collect();
                let spec = spec(kind, &[out, inp]);
                for (format, order) in all.clone() {
                    let stored = Values::round_to_nearest(format, &data, out);
                    assert_eq!(problem(&spec, &stored), None);
                    let parts = Part::ALL.map(|part| payload(&spec, &stored, part, order));
                    for (part, bytes) in Part::ALL.iter().zip(&parts) {
                        let stated = tensor(&spec, format, *part, order).map_or(0, |t| t.bytes());
                        assert_eq!(bytes.len(), stated, "{out}x{inp} {format} {part:?} {order:?}");
                    }
                    let get = |part| {
                        let at = Part::ALL.iter().position(|p| *p == part);
                        Ok::<_, ()>(parts[at.unwrap()].as_slice())
                    };
                    assert_eq!(
                        values(&spec, (format, order), get),
                        Ok(stored),
                        "{out}x{inp} {format} {order:?}"
                    );
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
        assert_eq!(tensor(&spec, Format::F16, Part::Scales, Order::Panels), None);
        assert_eq!(tensor(&spec, Format::I8, Part::Multipliers, Order::Panels), None);
        assert_eq!(weight_bytes(&spec, Format::I4), 4 * 4 + 8 + I4_BLOCK_BYTES);
    }
}
