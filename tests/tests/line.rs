//! 64 kbit/s, 5 % loss and 800 ms each way: modules and deltas still arrive.

use loadonce_tests::badline::{BAD, travel};
use loadonce_tests::site::digits;

#[test]
fn module_and_delta_arrive_over_a_bad_line() {
    let trip = travel(&digits(1, 1, 12), 12, Some(BAD));
    println!("{}", trip.figures());
    let crossed = trip.crossed.expect("there was a line");
    assert!(crossed.lost > 0, "nothing was lost, so nothing was tried");
    assert_eq!(trip.connects, 1, "the connection did not hold");
}
