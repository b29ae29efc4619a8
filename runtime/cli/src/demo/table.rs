//! The table a person reads at the end.

use super::metrics::Interval;
use super::report::Report;
use std::fmt::Write;

const EXPLANATION: &str = "\
Accuracy in percent. Own class mix: test samples weighted as the gateway's own labels are; mean over gateways, and
the worst gateway.
before      no module: always the gateway's most frequent label
alone       the best way found, on the test set, of training on the gateway's own labels only; named below
shared      the module all gateways hold, byte for byte the same, without any prior
federated   the personal module each gateway derived from it; it never leaves the gateway
even test   the shared module where every class counts the same
exit        mean exit that answered test samples (1 is the shallowest); early exits open only where enough
            unlabelled samples prove that they agree with the last exit
same        live answers equal to those of the last exit
";

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn points(interval: &Interval) -> String {
    let [mean, low, high] = [interval.mean, interval.low, interval.high].map(|share| 100.0 * share);
    format!("{mean:+.1} points, 95 % interval {low:+.1} to {high:+.1}")
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// The table and the lines under it.
pub(crate) fn table(report: &Report) -> String {
    let head = [
        "task",
        "labels",
        "before",
        "worst",
        "alone",
        "worst",
        "shared",
        "worst",
        "federated",
        "worst",
        "even test",
        "exit",
        "same",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for task in &report.tasks {
        rows.push([
            task.name.clone(),
            task.labels.to_string(),
            percent(task.before),
            percent(task.worst_before),
            percent(task.alone),
            percent(task.worst_alone),
            percent(task.shared),
            percent(task.worst_shared),
            percent(task.federated),
            percent(task.worst_federated),
            percent(task.even_test),
            format!("{:.2}", task.mean_exit),
            percent(task.agreement),
        ]);
    }
    let mut text = format!(
        "{} gateways, {}\n\n{}\n",
        report.gateways,
        if report.seeds == 1 {
            "one federation".to_owned()
        } else {
            format!("mean of {} federations", report.seeds)
        },
        aligned(&rows)
    );
    text.push_str(EXPLANATION);
    text.push('\n');
    for task in &report.tasks {
        writeln!(text, "{}: alone is best with {}", task.name, task.alone_recipe).expect(TAKES_ANY);
        if let (Some(mean), Some(worst)) = (&task.difference, &task.worst_difference) {
            writeln!(text, "{}: federated less alone, mean gateway: {}", task.name, points(mean))
                .expect(TAKES_ANY);
            writeln!(text, "{}: federated less alone, worst gateway: {}", task.name, points(worst))
                .expect(TAKES_ANY);
        }
    }
    text.push_str(&further(report));
    let bytes = &report.bytes;
    writeln!(
        text,
        "\nUplinks of all gateways, everything included: {} up, {} down in {:.0} rounds.\n\
         The whole backbone in fp32 for the same rounds: {}, {:.0} times as much.\n\
         Memory of an agent: {:.1} MB, of which the backbone {:.1} MB. Time per federation: {:.0} s.",
        megabytes(bytes.up),
        megabytes(bytes.down),
        report.rounds,
        megabytes(bytes.full_model),
        bytes.ratio,
        report.agent.rss_mb,
        report.agent.backbone_mb,
        report.seconds,
    )
    .expect(TAKES_ANY);
    text
}

const FURTHER: &str = "\
Live answers on samples that no gateway had seen, the same for all; mean over gateways, and the worst one.
relative error  mean absolute error of the forecast's median; that of seasonal naive is 1, less is better
roc auc         share of pairs of a normal and an anomalous sample in which the anomalous one scores higher
alone           the same module made of the gateway's own samples only
promised, was   what the outer quantiles hold of the values to come; what share of normal samples raises an alarm
found           anomalies that raise an alarm
";

/// The table of the other kinds.
fn further(report: &Report) -> String {
    let head = [
        "task",
        "figure",
        "samples",
        "before",
        "alone",
        "worst",
        "federated",
        "worst",
        "promised",
        "was",
        "found",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    let figure = |value: f64| format!("{value:.3}");
    let share = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), percent);
    for task in &report.further {
        rows.push([
            task.name.clone(),
            task.metric.replace('_', " "),
            task.samples.to_string(),
            figure(task.before),
            figure(task.alone),
            figure(task.worst_alone),
            figure(task.federated),
            figure(task.worst_federated),
            percent(task.promised),
            share(task.held),
            share(task.found),
        ]);
    }
    format!(
        "\nTwo further kinds of tasks on the same backbone, labelled by nobody\n\n{}\n{FURTHER}",
        aligned(&rows)
    )
}

const TAKES_ANY: &str = "a String takes any text";

/// Columns of equal width: the first to the left, numbers to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(&cells.collect::<Vec<_>>().join("  "));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::report::tests::run;

    #[test]
    fn columns_line_up_and_every_column_is_explained() {
        let text = table(&Report::new(&[run(0, [0.8, 0.9])]));
        let lines: Vec<&str> = text.lines().collect();
        let head = lines.iter().position(|line| line.starts_with("task")).unwrap();
        assert_eq!(lines[head].len(), lines[head + 1].len(), "{text}");
        assert!(
            lines[head + 1].contains("85.0       80.0") || lines[head + 1].contains("85.0   80.0"),
            "{text}"
        );
        for column in ["before", "alone", "shared", "federated", "even test", "exit", "same"] {
            assert!(EXPLANATION.lines().any(|line| line.starts_with(column)), "{column}");
        }
        let further = lines.iter().position(|line| line.starts_with("demand")).unwrap();
        assert!(lines[further].contains("relative error") && lines[further].contains("80.0  75.0"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
        assert!(!text.contains("interval"));
    }

    #[test]
    fn several_federations_show_the_interval() {
        let text = table(&Report::new(&[run(0, [0.8, 0.9]), run(1, [0.9, 0.9])]));
        assert!(text.contains("mean of 2 federations") && text.contains("95 % interval"), "{text}");
    }
}
