//! Which gateway has which samples: uneven class mixes, drawn from a seed.

use loadonce_module::Random;

/// Concentration of the Dirichlet distribution of class mixes.
const ALPHA: f64 = 0.1;
/// Draws until a gateway has two classes; one draw fails with a probability of about a half.
const MAX_DRAWS: usize = 1000;

/// Uniform in (0, 1).
fn uniform(random: &mut Random) -> f64 {
    ((random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// Gamma(a, 1) for 0 < a ≤ 1 (Ahrens & Dieter 1974, algorithm GS).
fn gamma(random: &mut Random, a: f64) -> f64 {
    let b = 1.0 + a / std::f64::consts::E;
    loop {
        let p = b * uniform(random);
        let v = uniform(random);
        if p <= 1.0 {
            let x = p.powf(1.0 / a);
            if v <= (-x).exp() {
                return x;
            }
        } else {
            let x = -((b - p) / a).ln();
            if v <= x.powf(a - 1.0) {
                return x;
            }
        }
    }
}

/// A draw from the symmetric Dirichlet distribution over `n` shares; they sum to 1.
pub(crate) fn dirichlet(random: &mut Random, n: usize) -> Vec<f64> {
    loop {
        let mut shares: Vec<f64> = (0..n).map(|_| gamma(random, ALPHA)).collect();
        let total: f64 = shares.iter().sum();
        // All of them can underflow together; such a draw carries no direction.
        if total > 0.0 {
            for share in &mut shares {
                *share /= total;
            }
            return shares;
        }
    }
}

/// Index drawn by `weights`; `None` when all are zero.
pub(crate) fn draw(random: &mut Random, weights: &[f64]) -> Option<usize> {
    let total: f64 = weights.iter().sum();
    let mut rest = uniform(random) * total;
    let mut last = None;
    for (i, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = Some(i);
        rest -= weight;
        if rest < 0.0 {
            break;
        }
    }
    last
}

fn distinct(labels: impl Iterator<Item = usize>) -> usize {
    let mut seen: Vec<usize> = labels.collect();
    seen.sort_unstable();
    seen.dedup();
    seen.len()
}

/// Every gateway draws a class mix and by it `each` samples from `pool` (sample indices per class), none of which
/// goes to two gateways; mixes that yield a single class are drawn again. `None` when the pool is too small.
pub(crate) fn by_mix(
    random: &mut Random,
    mut pool: Vec<Vec<usize>>,
    gateways: usize,
    each: usize,
) -> Option<Vec<Vec<usize>>> {
    for class in &mut pool {
        random.shuffle(class);
    }
    (0..gateways)
        .map(|_| {
            (0..MAX_DRAWS).find_map(|_| {
                let mix = dirichlet(random, pool.len());
                let mut left: Vec<usize> = pool.iter().map(Vec::len).collect();
                let mut classes = Vec::with_capacity(each);
                for _ in 0..each {
                    let weights: Vec<f64> = mix
                        .iter()
                        .zip(&left)
                        .map(|(share, left)| if *left > 0 { *share } else { 0.0 })
                        .collect();
                    let class = draw(random, &weights)?;
                    left[class] -= 1;
                    classes.push(class);
                }
                if distinct(classes.iter().copied()) < 2 {
                    return None;
                }
                let mut taken: Vec<usize> = classes.iter().filter_map(|&class| pool[class].pop()).collect();
                random.shuffle(&mut taken);
                Some(taken)
            })
        })
        .collect()
}

/// Deals out the whole `pool` (sample indices per class), each sample to one gateway: first every gateway takes
/// one sample of each of two classes, drawn by its own class mix, then the rest goes by class mix times a drawn
/// size. `None` when the pool cannot give every gateway two classes.
pub(crate) fn dealt_out(
    random: &mut Random,
    pool: &[Vec<usize>],
    gateways: usize,
) -> Option<Vec<Vec<usize>>> {
    (0..MAX_DRAWS).find_map(|_| {
        let mut pool = pool.to_vec();
        for class in &mut pool {
            random.shuffle(class);
        }
        let mixes: Vec<Vec<f64>> = (0..gateways).map(|_| dirichlet(random, pool.len())).collect();
        let sizes = dirichlet(random, gateways);
        let mut dealt = vec![Vec::new(); gateways];
        for (mix, own) in mixes.iter().zip(&mut dealt) {
            let mut first = None;
            for _ in 0..2 {
                // A mix can give all but one class a share of zero; the small constant lets the others in.
                let weight = |class: usize| {
                    if pool[class].is_empty() || first == Some(class) { 0.0 } else { mix[class] + 1e-9 }
                };
                let weights: Vec<f64> = (0..pool.len()).map(weight).collect();
                let class = draw(random, &weights)?;
                own.extend(pool[class].pop());
                first = Some(class);
            }
        }
        for (class, samples) in pool.iter_mut().enumerate() {
            while let Some(sample) = samples.pop() {
                let weights: Vec<f64> =
                    mixes.iter().zip(&sizes).map(|(mix, size)| mix[class] * size + 1e-9).collect();
                dealt[draw(random, &weights)?].push(sample);
            }
        }
        for own in &mut dealt {
            random.shuffle(own);
        }
        Some(dealt)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(classes: usize, each: usize) -> Vec<Vec<usize>> {
        (0..classes).map(|class| (0..each).map(|i| class * each + i).collect()).collect()
    }

    fn classes(own: &[usize], each: usize) -> usize {
        distinct(own.iter().map(|sample| sample / each))
    }

    fn all_different(parts: &[Vec<usize>]) -> bool {
        let all = parts.iter().flatten();
        distinct(all.clone().copied()) == all.count()
    }

    #[test]
    fn gamma_has_its_mean_and_variance() {
        let mut random = Random::new(1);
        let draws: Vec<f64> = (0..40_000).map(|_| gamma(&mut random, 0.5)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        assert!((variance - 0.5).abs() < 0.05, "{variance}");
    }

    #[test]
    fn a_drawn_index_has_weight() {
        let mut random = Random::new(2);
        assert_eq!(draw(&mut random, &[0.0, 0.0]), None);
        let counts = (0..10_000).fold([0; 3], |mut counts, _| {
            counts[draw(&mut random, &[1.0, 0.0, 3.0]).unwrap()] += 1;
            counts
        });
        assert_eq!(counts[1], 0);
        assert!((2300..2700).contains(&counts[0]), "{counts:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_gateway_has_two_classes_and_its_own_samples(seed: u64, gateways in 2usize..=16) {
            let parts = by_mix(&mut Random::new(seed), pool(10, 90), gateways, 20).unwrap();
            prop_assert_eq!(parts.len(), gateways);
            prop_assert!(all_different(&parts));
            for own in &parts {
                prop_assert_eq!(own.len(), 20);
                prop_assert!(classes(own, 90) >= 2);
            }
        }

        #[test]
        fn every_recording_goes_to_one_gateway(seed: u64, gateways in 2usize..=16) {
            let parts = dealt_out(&mut Random::new(seed), &pool(4, 10), gateways).unwrap();
            prop_assert!(all_different(&parts));
            prop_assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 40);
            prop_assert!(parts.iter().all(|own| classes(own, 10) >= 2));
        }
    }

    #[test]
    fn a_seed_means_the_same_split_for_ever_and_a_small_pool_is_refused() {
        let draw = |seed| by_mix(&mut Random::new(seed), pool(10, 90), 10, 20);
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        assert_eq!(by_mix(&mut Random::new(1), pool(2, 5), 3, 20), None);
        assert_eq!(dealt_out(&mut Random::new(1), &pool(2, 3), 4), None);
    }
}
