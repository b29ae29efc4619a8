//! Dense kernels in f64, in a fixed order, so that the same input gives the same bits on every machine.

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Lower Cholesky factor in place; false if the matrix is not positive definite. The upper part is left alone.
pub(crate) fn cholesky(matrix: &mut [f64], d: usize) -> bool {
    for i in 0..d {
        for j in 0..=i {
            let (above, row) = matrix.split_at(i * d);
            let other = if i == j { &row[..j] } else { &above[j * d..j * d + j] };
            let rest = row[j] - dot(&row[..j], other);
            let value = if i == j { rest.sqrt() } else { rest / above[j * d + j] };
            if !value.is_finite() || (i == j && value < 1e-9) {
                return false;
            }
            matrix[i * d + j] = value;
        }
    }
    true
}

/// Solves L Lᵀ x = b in place.
pub(crate) fn cholesky_solve(factor: &[f64], b: &mut [f64]) {
    let d = b.len();
    for i in 0..d {
        b[i] = (b[i] - dot(&factor[i * d..i * d + i], &b[..i])) / factor[i * d + i];
    }
    for i in (0..d).rev() {
        let mut rest = b[i];
        for j in i + 1..d {
            rest -= factor[j * d + i] * b[j];
        }
        b[i] = rest / factor[i * d + i];
    }
}

/// L⁻¹ of a lower factor, `d × d`, zeros above the diagonal.
pub(crate) fn lower_inverse(factor: &[f64], d: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; d * d];
    for i in 0..d {
        let pivot = factor[i * d + i];
        for j in 0..i {
            // Row i of L⁻¹ from the rows above it: (L⁻¹)ᵢⱼ = −Σₖ Lᵢₖ (L⁻¹)ₖⱼ / Lᵢᵢ.
            let left = factor[i * d + j];
            let (above, row) = inverse.split_at_mut(i * d);
            for (cell, value) in row[..=j].iter_mut().zip(&above[j * d..=j * d + j]) {
                *cell -= left * value;
            }
        }
        for cell in &mut inverse[i * d..i * d + i] {
            *cell /= pivot;
        }
        inverse[i * d + i] = 1.0 / pivot;
    }
    inverse
}

/// A symmetric matrix from its packed upper triangle, row by row.
pub(crate) fn unpack(packed: impl IntoIterator<Item = f64>, d: usize) -> Vec<f64> {
    let mut matrix = vec![0.0; d * d];
    let mut packed = packed.into_iter();
    for i in 0..d {
        for j in i..d {
            let value = packed.next().unwrap_or(0.0);
            matrix[i * d + j] = value;
            matrix[j * d + i] = value;
        }
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRIX: [f64; 9] = [4.0, 2.0, 0.4, 2.0, 5.0, 1.0, 0.4, 1.0, 3.0];

    #[test]
    fn cholesky_solves() {
        let mut factor = MATRIX;
        assert!(cholesky(&mut factor, 3));
        let mut x = [1.0, -2.0, 0.5];
        cholesky_solve(&factor, &mut x);
        for (row, want) in MATRIX.chunks(3).zip([1.0, -2.0, 0.5]) {
            assert!((dot(row, &x) - want).abs() < 1e-12);
        }
    }

    #[test]
    fn the_inverse_factor_whitens() {
        let mut factor = MATRIX;
        assert!(cholesky(&mut factor, 3));
        let inverse = lower_inverse(&factor, 3);
        for i in 0..3 {
            for j in 0..3 {
                let right: Vec<f64> =
                    MATRIX.chunks(3).map(|row| dot(row, &inverse[j * 3..j * 3 + 3])).collect();
                let value = dot(&inverse[i * 3..i * 3 + 3], &right);
                assert!((value - f64::from(u8::from(i == j))).abs() < 1e-12, "{i} {j}: {value}");
            }
        }
    }

    #[test]
    fn a_packed_triangle_becomes_symmetric() {
        assert_eq!(unpack([1.0, 2.0, 3.0], 2), [1.0, 2.0, 2.0, 3.0]);
    }
}
