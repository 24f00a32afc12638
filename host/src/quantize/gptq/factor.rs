//! Cholesky factors of second moments, `H = Rᵀ·R` with `R` upper triangular, by blocks so that almost all of the work is
//! matrix products (crate `matrixmultiply`). Row-major throughout.

/// Columns factored at a time.
const BLOCK: usize = 64;

/// A matrix as the products take it: numbers, distance between rows, distance between columns.
pub type View<'a> = (&'a [f32], usize, usize);

/// `C += alpha · A · B` with `A` of `[m, k]` and `B` of `[k, n]`.
pub fn multiply_add([m, k, n]: [usize; 3], alpha: f32, a: View<'_>, b: View<'_>, c: (&mut [f32], usize, usize)) {
    let end = |rows: usize, cols: usize, rs: usize, cs: usize| match (rows, cols) {
        (0, _) | (_, 0) => 0,
        _ => (rows - 1) * rs + (cols - 1) * cs + 1,
    };
    assert!(a.0.len() >= end(m, k, a.1, a.2) && b.0.len() >= end(k, n, b.1, b.2) && c.0.len() >= end(m, n, c.1, c.2));
    // SAFETY: by the assertion every element the strides reach lies inside its slice, and `c` is borrowed mutably, so it
    // overlaps neither `a` nor `b`.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            alpha,
            a.0.as_ptr(),
            a.1 as isize,
            a.2 as isize,
            b.0.as_ptr(),
            b.1 as isize,
            b.2 as isize,
            1.0,
            c.0.as_mut_ptr(),
            c.1 as isize,
            c.2 as isize,
        );
    }
}

/// The upper factor `R` of `h`, `[n, n]`; what lies below the diagonal is left as it was. None when `h` is not positive
/// definite in f32.
pub fn cholesky(mut h: Vec<f32>, n: usize) -> Option<Vec<f32>> {
    for start in (0..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        for i in start..end {
            // Sums in f64: the pivots are what loses precision.
            let before: f64 = (start..i).map(|p| f64::from(h[p * n + i]).powi(2)).sum();
            let pivot = (f64::from(h[i * n + i]) - before).sqrt();
            if !(pivot.is_finite() && pivot > 0.0) {
                return None;
            }
            h[i * n + i] = pivot as f32;
            let (above, row) = h.split_at_mut(i * n);
            let row = &mut row[i + 1..n];
            for p in start..i {
                let (factor, other) = (above[p * n + i], &above[p * n + i + 1..(p + 1) * n]);
                row.iter_mut().zip(other).for_each(|(r, o)| *r -= factor * o);
            }
            let inverse = (1.0 / pivot) as f32;
            row.iter_mut().for_each(|r| *r *= inverse);
        }
        if end < n {
            // The rows just made, once more as an operand of their own: the product writes below them.
            let made: Vec<f32> = (start..end)
                .flat_map(|p| &h[p * n + end..(p + 1) * n])
                .copied()
                .collect();
            let (rest, depth) = (n - end, end - start);
            // Only tiles on and above the diagonal are ever read.
            for at in (0..rest).step_by(4 * BLOCK) {
                let rows = rest.min(at + 4 * BLOCK) - at;
                let columns = &made[at..];
                let target = &mut h[(end + at) * n + end + at..];
                multiply_add(
                    [rows, depth, rest - at],
                    -1.0,
                    (columns, 1, rest),
                    (columns, rest, 1),
                    (target, n, 1),
                );
            }
        }
    }
    Some(h)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_multiplies_back() {
        for n in [1, 5, 64, 65, 200, 331] {
            // Moments of some vectors, and a ridge.
            let x: Vec<f32> = (0..3 * n * n)
                .map(|i| ((i * 7919 + i / 13) % 1000) as f32 / 500.0 - 1.0)
                .collect();
            let mut h = vec![0.0; n * n];
            multiply_add([n, 3 * n, n], 1.0, (&x, 1, n), (&x, n, 1), (&mut h, n, 1));
            (0..n).for_each(|i| h[i * n + i] += 0.1);
            let r = cholesky(h.clone(), n).unwrap();
            let scale = h.iter().fold(0f32, |m, v| m.max(v.abs()));
            for i in 0..n {
                for j in i..n {
                    let sum: f64 = (0..=i).map(|p| f64::from(r[p * n + i]) * f64::from(r[p * n + j])).sum();
                    assert!((sum as f32 - h[i * n + j]).abs() < 1e-4 * scale, "{n}: [{i}, {j}]");
                }
            }
        }
        assert!(cholesky(vec![1.0, 2.0, 2.0, 1.0], 2).is_none(), "not positive definite");
        assert!(cholesky(vec![f32::NAN], 1).is_none());
    }
}
