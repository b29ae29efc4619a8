//! Forecasts on rolling origins: modules are fitted once on the training windows, before the first origin.

use super::bench::{Bench, Early};
use loadonce_module::metrics::{mase, weighted_quantile_loss};
use loadonce_module::{Choice, Choose, Chooser, Decider, Head, Recipe, Served, overlap};
use serde::Serialize;

/// Figures of one module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// `moments`, `probe` or `ladder`.
    pub(crate) recipe: &'static str,
    /// What `module.choose` decided, where it had to: these are then the figures of what serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) choice: Option<Choice>,
    /// Training windows.
    pub(crate) samples: usize,
    /// Test origins.
    pub(crate) origins: usize,
    /// Mean absolute scaled error of the median over all origins and steps, by exit.
    pub(crate) mase: Vec<f64>,
    /// Weighted quantile loss, mean over the quantiles, by exit.
    pub(crate) wql: Vec<f64>,
    /// Share of the actual values between the outermost quantiles, by exit.
    pub(crate) coverage: Vec<f64>,
    /// The share that those quantiles promise.
    pub(crate) nominal: f64,
    /// What early exits do, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) early: Option<Early>,
}

/// Quantiles of `row` at every exit in the data's units, exit after exit, step after step.
fn quantiles(bench: &Bench<'_>, decider: &mut Decider, served: &Served<'_>, row: usize) -> Vec<Vec<f64>> {
    let (mean, unit) = bench.features.scales[row];
    let exits = bench.features.row(row).chunks_exact(bench.features.width).enumerate();
    exits
        .map(|(k, z)| {
            decider.exit(served, k, z);
            decider.outputs().iter().map(|&q| mean + unit * f64::from(q)).collect()
        })
        .collect()
}

/// Makes the module that serves. Where the manifest leaves the choice to held-out samples, these are the last training
/// windows, `sync.heldout` of all, and those whose horizon reaches into them are left out. The closed form that serves
/// is that of all training windows.
fn serve(bench: &Bench<'_>, recipe: Recipe) -> Result<(Vec<f32>, Option<Choice>), String> {
    let (rows, manifest) = (&bench.set.train, bench.manifest);
    let seed = manifest.training.seed;
    let Some(forecast) = &manifest.forecast else { return Err("the manifest has no [forecast]".into()) };
    if recipe == Recipe::Moments || manifest.module.choose == Choose::Trained {
        return Ok((bench.fit(recipe, rows, seed)?, None));
    }
    let count = (rows.len() as f64 * manifest.sync.heldout).ceil() as usize;
    let (first, heldout) = rows.split_at(rows.len() - count.min(rows.len()));
    let reaching = (forecast.horizon - 1) / forecast.every;
    let first = &first[..first.len().saturating_sub(reaching)];
    if manifest.module.choose == Choose::Moments || first.is_empty() || heldout.is_empty() {
        return Ok((bench.closed(recipe, rows)?, None));
    }
    let closed = bench.closed(recipe, first)?;
    let trained = bench.train(recipe, closed.clone(), first, heldout, seed)?;
    let shape = bench.shape(recipe);
    let offset = vec![0.0; shape.outputs];
    let alpha = overlap(forecast.horizon, forecast.every);
    let alpha = alpha.iter().sum::<f64>() / alpha.len() as f64;
    let heldout = bench.stored(heldout)?;
    let chooser = Chooser::new(shape, closed, trained.clone(), heldout, manifest.objective(), offset);
    let mut chooser = chooser.overlapping(alpha);
    let choice = loop {
        if let Some(choice) = chooser.step() {
            break choice;
        }
    };
    Ok((if choice.trained { trained } else { bench.closed(recipe, rows)? }, Some(choice)))
}

/// Makes and judges one module.
pub(crate) fn run(bench: &Bench<'_>, recipe: Recipe) -> Result<Figures, String> {
    let (shape, set, exits) = (bench.shape(recipe), bench.set, bench.features.exits);
    let Head::Forecast { quantiles: levels, .. } = shape.head else { return Err("it is no forecast".into()) };
    let Some(future) = &set.future else { return Err("the data file has no `future`".into()) };
    let forecast = bench.manifest.forecast.as_ref().ok_or("the manifest has no [forecast]")?;
    if future.horizon != forecast.horizon {
        return Err(format!("`forecast.horizon` is {}, the data holds {}", forecast.horizon, future.horizon));
    }
    let season = forecast.season.unwrap_or(1);
    let (params, choice) = serve(bench, recipe)?;
    let offset = vec![0.0; shape.offset_len()];
    let served = Served { params: &params, offset: &offset, alarms: &[] };
    let mut decider = Decider::new(shape);
    let rows: Vec<Vec<Vec<f64>>> =
        set.test.iter().map(|&row| quantiles(bench, &mut decider, &served, row)).collect();
    let actual: Vec<f64> =
        set.test.iter().flat_map(|&row| bench.actual(row)).map(|&value| f64::from(value)).collect();
    let (count, middle) = (levels.len(), levels.median());
    let level: Vec<f64> = levels.levels().collect();
    let scaled = |medians: &[f64], actual: &[f64]| {
        mase(medians, actual, &future.history, season).ok_or("the history repeats itself, or is too short")
    };
    let (mut errors, mut losses, mut coverage) = (Vec::new(), Vec::new(), Vec::new());
    for k in 0..exits {
        let all: Vec<f64> = rows.iter().flat_map(|row| &row[k]).copied().collect();
        let medians: Vec<f64> = all.chunks_exact(count).map(|step| step[middle]).collect();
        errors.push(scaled(&medians, &actual)?);
        let loss = weighted_quantile_loss(&all, &level, &actual);
        losses.push(loss.ok_or("all values to forecast are 0")?.1);
        let inside = all.chunks_exact(count).zip(&actual).filter(|(q, y)| q[0] <= **y && **y <= q[count - 1]);
        coverage.push(inside.count() as f64 / actual.len().max(1) as f64);
    }
    let mut figures = Figures {
        recipe: recipe.name(),
        choice,
        samples: set.train.len(),
        origins: set.test.len(),
        mase: errors,
        wql: losses,
        coverage,
        nominal: level[count - 1] - level[0],
        early: None,
    };
    if bench.early {
        let (first, second) = bench.halves();
        let (mut early, leaving) = bench.leave(recipe, &served, &first, second)?;
        let paths: Vec<Vec<Vec<f64>>> =
            leaving.rows.iter().map(|&row| quantiles(bench, &mut decider, &served, row)).collect();
        let truth: Vec<f64> =
            leaving.rows.iter().flat_map(|&row| bench.actual(row)).map(|&value| f64::from(value)).collect();
        let of = |exit: &dyn Fn(usize) -> usize| {
            let medians: Vec<f64> = paths
                .iter()
                .enumerate()
                .flat_map(|(i, row)| row[exit(i)].chunks_exact(count).map(|step| step[middle]))
                .collect();
            scaled(&medians, &truth)
        };
        early.figure = of(&|i| leaving.exits[i])?;
        early.figure_last = of(&|_| exits - 1)?;
        figures.early = Some(early);
    }
    Ok(figures)
}
