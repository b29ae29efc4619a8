//! A rotation that both sides know from a seed: random signs, then the Hadamard transform, block by block.
//!
//! Afterwards the coordinates of a block are nearly normal with one variance, whatever they were before (DRIVE,
//! Vargaftik et al. 2021; EDEN, Vargaftik et al. 2022). Blocks are powers of two, so no padding is needed: the
//! length is cut into blocks of [`LARGEST`] and then into ever smaller ones. Only f32 additions, subtractions and
//! multiplications in a fixed order, so that the inverse has the same bits everywhere.

/// Largest block.
const LARGEST: usize = 4096;

/// Rotates in place.
pub(crate) fn rotate(values: &mut [f32], seed: u32) {
    each_block(values, seed, |block, signs| {
        flip(block, signs);
        hadamard(block);
    });
}

/// The inverse of [`rotate`], but for rounding.
pub(crate) fn rotate_back(values: &mut [f32], seed: u32) {
    each_block(values, seed, |block, signs| {
        hadamard(block);
        flip(block, signs);
    });
}

fn each_block(values: &mut [f32], seed: u32, mut work: impl FnMut(&mut [f32], &mut Signs)) {
    let mut signs = Signs(u64::from(seed));
    let mut rest = values;
    while !rest.is_empty() {
        let size = (1 << rest.len().ilog2()).min(LARGEST);
        let (block, after) = rest.split_at_mut(size);
        work(block, &mut signs);
        rest = after;
    }
}

/// `SplitMix64` (Steele, Lea and Flood 2014), 64 signs a draw.
struct Signs(u64);

impl Signs {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn flip(block: &mut [f32], signs: &mut Signs) {
    for piece in block.chunks_mut(64) {
        let bits = signs.next();
        for (i, value) in piece.iter_mut().enumerate() {
            *value = f32::from_bits(value.to_bits() ^ ((bits >> i & 1) as u32) << 31);
        }
    }
}

/// The orthonormal transform of a block of 2ᵏ values, in place.
fn hadamard(block: &mut [f32]) {
    let size = block.len();
    let mut half = 1;
    while half < size {
        for pair in block.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (size as f32).sqrt();
    for value in block {
        *value *= scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_lengths_and_comes_back() {
        for n in [0, 1, 2, 3, 100, 4096, 4097, 10_000] {
            let values: Vec<f32> = (0..n).map(|i: i32| ((i * 37 % 101) - 50) as f32 / 7.0).collect();
            let mut turned = values.clone();
            rotate(&mut turned, 7);
            let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            assert!((norm(&turned) - norm(&values)).abs() <= 1e-5 * norm(&values));
            rotate_back(&mut turned, 7);
            assert!(turned.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-4), "{n}");
        }
    }

    #[test]
    fn one_large_value_is_spread_over_its_block() {
        let mut values = vec![0.0; 4096];
        values[5] = 64.0;
        rotate(&mut values, 1);
        assert!(values.iter().all(|v| v.abs().to_bits() == 1f32.to_bits()));
        // Another seed, other signs.
        let turn = |seed| {
            let mut values: Vec<f32> = (0..100u8).map(f32::from).collect();
            rotate(&mut values, seed);
            values
        };
        assert!(turn(1) != turn(2) && turn(1) == turn(1));
    }
}
