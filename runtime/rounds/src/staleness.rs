//! What a step counts for when versions were cut since its base.

/// Fractional bits of a staleness weight.
pub const STALENESS_BITS: u32 = 16;

/// 1/√(1 + s) as an integer in units of 2⁻¹⁶, rounded down, for a step whose base is `s` versions old: 65,536 for
/// a step from the newest version, 46,340 for the one before it, 32,768 for a base three versions old.
///
/// Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation" (`FedBuff`), §5; the polynomial
/// family of Xie et al. 2019, "Asynchronous Federated Optimization", §5.2, with a = ½. Integers, so that it is
/// the same on every machine: ⌊√(2³² / (1 + s))⌋.
pub fn staleness_weight(s: u64) -> u32 {
    const ONE: u64 = 1 << (2 * STALENESS_BITS);
    // At most √2³² = 65,536; the division's own rounding is below one unit of the root's square.
    (ONE / s.saturating_add(1)).isqrt() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_are_fixed_for_ever() {
        let weights = [0, 1, 2, 3, 8, 15, 99, 1000].map(staleness_weight);
        assert_eq!(weights, [65_536, 46_340, 37_837, 32_768, 21_845, 16_384, 6553, 2071]);
        assert_eq!(staleness_weight(u64::MAX), 0);
    }

    #[test]
    fn they_are_one_over_the_root_and_only_fall() {
        for s in 0..100_000u64 {
            let exact = 65_536.0 / (1.0 + s as f64).sqrt();
            let weight = staleness_weight(s);
            assert!((f64::from(weight) - exact).abs() < 1.0, "{s}: {weight} {exact}");
            assert!(weight >= staleness_weight(s + 1), "{s}");
        }
    }
}
