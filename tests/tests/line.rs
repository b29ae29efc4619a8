//! 64 kbit/s, 5 % loss and 800 ms each way: modules and deltas still arrive.

use std::time::Duration;

use loadonce_tests::badline::{BAD, large, travel, travel_with_cut};
use loadonce_tests::line::Quality;
use loadonce_tests::site::digits;

#[test]
fn module_and_delta_arrive_over_a_bad_line() {
    let trip = travel(&digits(1, 1, 12), 12, Some(BAD), 0);
    println!("{}", trip.figures());
    let crossed = trip.crossed.expect("there was a line");
    assert!(crossed.lost > 0, "nothing was lost, so nothing was tried");
    assert_eq!(trip.connects, 1, "the connection did not hold");
}

/// The sums of this task take about five chunks. Without resuming, all that had arrived before the cut would cross
/// again.
#[test]
fn what_arrived_before_a_connection_broke_is_not_sent_again() {
    const CUT_AT: u64 = 50_000;
    let quality =
        Quality { bits_per_s: 4_000_000, delay: Duration::from_millis(5), lost_per_mille: 0, seed: 1 };
    let whole = travel(&large(12), 12, Some(quality), 0);
    let broken = travel_with_cut(&large(12), 12, quality, CUT_AT);
    println!("{}\n{}", whole.figures(), broken.figures());
    assert_eq!((whole.connects, broken.connects), (1, 2));
    let up = |trip: &loadonce_tests::badline::Trip| trip.crossed.expect("there was a line").up;
    assert!(up(&whole) > CUT_AT + 30_000, "the cut came after the work");
    // A chunk that was on its way, and what a new connection begins with.
    assert!(up(&broken) < up(&whole) + 30_000, "{} after a cut, {} without", up(&broken), up(&whole));
}
