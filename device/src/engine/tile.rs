//! Parts of a tensor that several tasks fill and change at the same time, each its own rows and columns.

use crate::engine::threads::Pool;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use tract_core::internal::*;

/// A tensor `[rows, stride]`, borrowed, that several tasks read and fill at the same time, each its own columns.
pub struct Columns<'a> {
    start: *mut f32,
    pub rows: usize,
    stride: usize,
    tensor: PhantomData<&'a mut [f32]>,
}

// SAFETY: a borrow of f32 numbers, which may be used on any thread; the memory is reached only through the method below, whose
// callers promise that no two tasks share columns.
unsafe impl Send for Columns<'_> {}
// SAFETY: as above.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// The columns of a tensor whose leading dimensions make `rows`.
    pub fn of(tensor: &'a mut Tensor, rows: usize) -> TractResult<Columns<'a>> {
        let stride = tensor.shape().last().copied().unwrap_or(0);
        ensure!(
            tensor.len() == rows * stride,
            "{:?} has not {rows} rows",
            tensor.shape()
        );
        Ok(Columns {
            start: tensor.as_ptr_mut::<f32>()?,
            rows,
            stride,
            tensor: PhantomData,
        })
    }

    /// The same columns of some rows.
    pub fn part(&self, rows: Range<usize>) -> Columns<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        Columns {
            start: self.start.wrapping_add(rows.start * self.stride),
            rows: rows.len(),
            stride: self.stride,
            tensor: PhantomData,
        }
    }

    /// A part of some rows, to be written whole.
    ///
    /// # Safety
    ///
    /// While the result lives, nobody else reads or writes these columns of these rows.
    ///
    /// # Panics
    ///
    /// Where the tensor has no such part.
    pub unsafe fn fresh(&self, rows: Range<usize>, columns: Range<usize>) -> Fresh<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(columns.start <= columns.end && columns.end <= self.stride);
        Fresh(Tile {
            // `of` found so many numbers in one allocation.
            start: self.start.wrapping_add(rows.start * self.stride + columns.start),
            stride: self.stride,
            shape: [rows.len(), columns.len()],
            tensor: PhantomData,
        })
    }
}

/// Part of a tensor that one task has for itself.
pub struct Tile<'a> {
    start: *mut f32,
    stride: usize,
    shape: [usize; 2],
    tensor: PhantomData<&'a mut [f32]>,
}

impl<'a> Tile<'a> {
    /// A slice as one row.
    #[cfg(test)]
    pub fn of(slice: &'a mut [f32]) -> Tile<'a> {
        Tile {
            start: slice.as_mut_ptr(),
            stride: slice.len(),
            shape: [1, slice.len()],
            tensor: PhantomData,
        }
    }

    /// Rows of the tile.
    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// One row of the tile.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        let [rows, width] = self.shape;
        assert!(row < rows);
        // SAFETY: whoever made the tile gave it these rows and columns of a tensor alone, and they have been written; it is
        // borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), width) }
    }
}

/// The same, perhaps not yet written.
pub struct Fresh<'a>(Tile<'a>);

impl<'a> Fresh<'a> {
    /// Rows of the tile.
    pub fn rows(&self) -> usize {
        self.0.shape[0]
    }

    /// One row of the tile.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [MaybeUninit<f32>] {
        let [rows, width] = self.0.shape;
        assert!(row < rows);
        // SAFETY: as in `Tile::row`, and whatever the numbers are, they are `MaybeUninit`.
        unsafe { std::slice::from_raw_parts_mut(self.0.start.add(row * self.0.stride).cast(), width) }
    }

    /// The tile as what was written.
    ///
    /// # Safety
    ///
    /// Every number of every row has been written.
    pub unsafe fn written(self) -> Tile<'a> {
        self.0
    }
}

/// Cuts a tensor, its leading dimensions taken for rows, into tiles of `shape` rows and columns, and hands each to a task: row
/// by row of tiles, each from left to right.
pub fn each_tile(
    pool: &Pool,
    tensor: &mut Tensor,
    shape: [usize; 2],
    f: impl Fn(usize, Tile<'_>) + Sync,
) -> TractResult<()> {
    let [height, width] = shape;
    let stride = tensor.shape().last().copied().unwrap_or(0);
    let rows = tensor.len().checked_div(stride).unwrap_or(0);
    ensure!(
        height > 0 && width > 0 && rows.is_multiple_of(height) && stride.is_multiple_of(width),
        "{:?} is no grid of {height} by {width}",
        tensor.shape()
    );
    let columns = &Columns::of(tensor, rows)?;
    let across = stride / width;
    // The pool gives every task once, and tiles do not overlap.
    pool.each(rows / height * across, |task| {
        let (row, column) = (task / across * height, task % across * width);
        // SAFETY: one task alone has these rows and columns, of a tensor that was written.
        f(task, unsafe {
            columns.fresh(row..row + height, column..column + width).written()
        });
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_a_grid_and_each_has_its_own_numbers() {
        let mut tensor = Tensor::zero::<f32>(&[2, 3, 4]).unwrap();
        for pool in [Pool::inline(), Pool::new(2).unwrap()] {
            each_tile(&pool, &mut tensor, [3, 2], |task, mut tile| {
                for row in 0..3 {
                    let numbers = tile.row(row);
                    assert_eq!(numbers.len(), 2);
                    numbers.fill(task as f32);
                }
            })
            .unwrap();
            let tensor = tensor.try_as_plain_ram().unwrap();
            let found: Vec<f32> = tensor.as_slice::<f32>().unwrap().to_vec();
            let want = |i: usize| (i / 12 * 2 + i % 4 / 2) as f32;
            assert!(found.iter().enumerate().all(|(i, &x)| x == want(i)), "{found:?}");
        }
        for shape in [[4, 2], [3, 3], [0, 2]] {
            let error = each_tile(&Pool::inline(), &mut tensor, shape, |_, _| {}).unwrap_err();
            assert!(error.to_string().contains("is no grid"), "{error}");
        }
    }
}
