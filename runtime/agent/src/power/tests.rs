use super::*;

fn zone(celsius: f64) -> Zone {
    Zone { name: "thermal_zone0 cpu-thermal".into(), celsius, passive_c: None, critical_c: Some(110.0) }
}

fn hot(celsius: f64) -> Readings {
    Readings { zones: vec![zone(celsius)], ..Readings::default() }
}

fn battery(discharging: bool, percent: f64) -> Readings {
    let battery = Battery { name: "BAT0".into(), discharging, percent: Some(percent) };
    Readings { batteries: vec![battery], ..Readings::default() }
}

fn power() -> Power {
    Power::new(PowerConfig::default())
}

fn cause(power: &Power) -> Option<Cause> {
    power.paused().map(|(cause, _)| cause)
}

#[test]
fn heat_pauses_at_once_and_ends_cooler_and_later() {
    let mut power = power();
    assert!(!power.observe(0, &hot(79.9)));
    assert!(power.observe(10_000, &hot(80.0)));
    assert!(power.paused().is_some_and(|(cause, why)| cause == Cause::Heat && why.contains("80.0 °C")));
    // Just below the limit is not cool: without a distance it would flap.
    assert!(!power.observe(20_000, &hot(72.0)));
    assert!(!power.observe(80_000, &hot(71.9)));
    assert!(!power.observe(139_999, &hot(71.9)), "cool, but not for long enough");
    assert!(power.observe(140_000, &hot(71.9)));
    assert_eq!(cause(&power), None);
    let report = power.report();
    assert_eq!((report.pauses, report.paused_s, report.hottest_c), (1, 130, Some(71.9)));
    // A peak in between begins the wait again.
    power.observe(150_000, &hot(90.0));
    power.observe(160_000, &hot(60.0));
    power.observe(200_000, &hot(80.0));
    power.observe(210_000, &hot(60.0));
    assert!(!power.observe(221_000, &hot(60.0)));
    assert!(power.observe(270_000, &hot(60.0)));
}

#[test]
fn the_kernels_own_limits_count_where_they_are_lower() {
    let with = |passive_c, critical_c| Zone { passive_c, critical_c, ..zone(0.0) };
    let power = power();
    assert!((power.limit(&with(None, None)) - 80.0).abs() < 1e-9);
    assert!((power.limit(&with(Some(70.0), Some(90.0))) - 65.0).abs() < 1e-9);
    assert!((power.limit(&with(Some(99.0), Some(85.0))) - 70.0).abs() < 1e-9);
    assert!((power.limit(&with(Some(0.0), Some(-274.0))) - 80.0).abs() < 1e-9, "placeholders");
}

#[test]
fn a_zone_that_vanishes_keeps_its_last_word_for_a_while_only() {
    let mut power = power();
    power.observe(0, &hot(95.0));
    assert!(!power.observe(59_999, &Readings::default()));
    assert_eq!(cause(&power), Some(Cause::Heat));
    power.observe(60_000, &Readings::default());
    assert_eq!(power.report().hottest_c, None, "forgotten");
    assert!(power.observe(120_000, &Readings::default()));
    assert_eq!(cause(&power), None);
}

#[test]
fn a_battery_pauses_while_it_feeds_the_gateway_or_is_low() {
    let mut power = power();
    assert!(!power.observe(0, &battery(false, 35.0)));
    assert!(power.observe(10, &battery(true, 100.0)));
    assert_eq!(cause(&power), Some(Cause::Battery));
    power.observe(20, &battery(false, 100.0));
    assert!(power.observe(60_020, &battery(false, 100.0)));
    // Low, also while it charges; recovered is a little more than not low.
    assert!(power.observe(70_000, &battery(false, 29.0)));
    power.observe(80_000, &battery(false, 39.0));
    assert!(!power.observe(200_000, &battery(false, 39.0)));
    power.observe(210_000, &battery(false, 40.0));
    assert!(power.observe(270_000, &battery(false, 40.0)));
}

#[test]
fn a_gateway_that_lives_on_a_battery_may_train_above_the_level() {
    let mut power = Power::new(PowerConfig { on_battery: true, ..PowerConfig::default() });
    assert!(!power.observe(0, &battery(true, 31.0)));
    assert!(power.observe(10, &battery(true, 29.9)));
}

#[test]
fn too_little_voltage_pauses_and_another_cause_is_a_change() {
    let mut power = power();
    assert!(power.observe(0, &Readings { undervoltage: true, ..Readings::default() }));
    assert_eq!(cause(&power), Some(Cause::Undervoltage));
    assert!(power.observe(10, &Readings { undervoltage: true, ..hot(99.0) }));
    assert_eq!(cause(&power), Some(Cause::Heat));
    assert!(!power.observe(20, &hot(99.5)), "hotter is not news");
    assert_eq!(power.report().pauses, 1);
}
