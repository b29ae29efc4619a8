//! Eigenvalues and eigenvectors of symmetric matrices.

/// Eigenvalues below this share of the largest are rounding.
const RELATIVE_ZERO: f64 = 1e-9;

/// Eigenvalues, largest first, and orthonormal eigenvectors of a symmetric matrix.
pub(crate) struct Spectrum {
    n: usize,
    pub(crate) values: Vec<f64>,
    /// Row `i` is the eigenvector of `values[i]`; its largest component is positive.
    vectors: Vec<f64>,
}

impl Spectrum {
    /// Cyclic Jacobi rotations (Golub & Van Loan, "Matrix Computations", §8.5): slow, but only additions,
    /// multiplications, divisions and square roots in a fixed order.
    pub(crate) fn of(matrix: &[f64], n: usize) -> Self {
        let mut a: Vec<f64> = matrix.to_vec();
        for i in 0..n {
            for j in 0..i {
                let mean = 0.5 * (a[i * n + j] + a[j * n + i]);
                a[i * n + j] = mean;
                a[j * n + i] = mean;
            }
        }
        let mut v = vec![0.0; n * n];
        v.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
        let norm: f64 = a.iter().map(|x| x * x).sum();
        for _sweep in 0..40 {
            let off: f64 = (0..n * n).filter(|i| i / n != i % n).map(|i| a[i] * a[i]).sum();
            if off <= 1e-24 * norm {
                break;
            }
            for p in 0..n {
                for q in p + 1..n {
                    rotate(&mut a, &mut v, n, p, q);
                }
            }
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]));
        let mut vectors = Vec::with_capacity(n * n);
        for &i in &order {
            let row = &v[i * n..(i + 1) * n];
            let largest =
                row.iter().copied().fold(0.0, |best: f64, x| if x.abs() > best.abs() { x } else { best });
            vectors.extend(row.iter().map(|x| if largest < 0.0 { -x } else { *x }));
        }
        Self { n, values: order.iter().map(|&i| a[i * n + i]).collect(), vectors }
    }

    pub(crate) fn vector(&self, i: usize) -> &[f64] {
        &self.vectors[i * self.n..(i + 1) * self.n]
    }

    /// Eigenvalues that are not rounding.
    pub(crate) fn nonzero(&self) -> usize {
        let floor = self.values[0] * RELATIVE_ZERO;
        self.values.iter().filter(|&&value| value > floor && value > 0.0).count()
    }
}

/// One rotation that zeroes `a[p][q]`; `v` collects the rotations, eigenvectors as rows.
fn rotate(a: &mut [f64], v: &mut [f64], n: usize, p: usize, q: usize) {
    let off = a[p * n + q];
    if off == 0.0 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * off);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    for i in 0..n {
        let (x, y) = (a[i * n + p], a[i * n + q]);
        a[i * n + p] = c * x - s * y;
        a[i * n + q] = s * x + c * y;
    }
    for i in 0..n {
        let (x, y) = (a[p * n + i], a[q * n + i]);
        a[p * n + i] = c * x - s * y;
        a[q * n + i] = s * x + c * y;
        let (x, y) = (v[p * n + i], v[q * n + i]);
        v[p * n + i] = c * x - s * y;
        v[q * n + i] = s * x + c * y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jacobi_gives_eigenvectors() {
        let matrix = [4.0, 1.0, -2.0, 1.0, 2.0, 0.0, -2.0, 0.0, 3.0];
        let spectrum = Spectrum::of(&matrix, 3);
        assert!((spectrum.values.iter().sum::<f64>() - 9.0).abs() < 1e-12);
        for (i, value) in spectrum.values.iter().enumerate() {
            let x = spectrum.vector(i);
            for (row, x_row) in matrix.chunks(3).zip(x) {
                let product: f64 = row.iter().zip(x).map(|(a, b)| a * b).sum();
                assert!((product - value * x_row).abs() < 1e-9);
            }
        }
        assert!(spectrum.values.is_sorted_by(|a, b| a >= b));
    }
}
