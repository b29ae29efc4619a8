//! The few dense kernels everything else is made of.

/// Eight independent partial sums, because the compiler may not reorder one floating-point sum itself.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let mut lanes = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            lanes[i] += x[i] * y[i];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// `y += alpha * x`.
pub(crate) fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += alpha * x;
    }
}

/// `out = matrix * x + bias` for a row-major matrix of `out.len()` rows.
pub(crate) fn affine(matrix: &[f32], bias: &[f32], x: &[f32], out: &mut [f32]) {
    for ((out, row), bias) in out.iter_mut().zip(matrix.chunks_exact(x.len())).zip(bias) {
        *out = dot(row, x) + bias;
    }
}

/// `matrix += column * rowᵀ`.
pub(crate) fn add_outer(column: &[f32], row: &[f32], matrix: &mut [f32]) {
    for (&c, out) in column.iter().zip(matrix.chunks_exact_mut(row.len())) {
        axpy(c, row, out);
    }
}

/// `out += matrixᵀ * x` for a row-major matrix of `x.len()` rows.
pub(crate) fn add_transposed(matrix: &[f32], x: &[f32], out: &mut [f32]) {
    for (&x, row) in x.iter().zip(matrix.chunks_exact(out.len())) {
        axpy(x, row, out);
    }
}

pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
