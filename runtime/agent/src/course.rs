//! Forecasts label themselves: what a later window of a series holds is the label of an earlier one.

use crate::input::Place;
use std::collections::VecDeque;

/// Most values that are waited for, over all windows of a task: a quarter megabyte.
const MAX_VALUES: usize = 32_768;
/// How far, in steps, times may be off the grid of a series.
const SLACK: f64 = 0.1;

/// A window whose values to come are not all known.
struct Waiting {
    id: String,
    place: Place,
    /// One per step; NaN while unknown.
    values: Vec<f64>,
    missing: usize,
}

/// The windows of one task that wait for their values, oldest first.
pub(crate) struct Courses {
    step_s: f64,
    horizon: usize,
    queue: VecDeque<Waiting>,
    /// Windows given up because others came and their values did not.
    pub dropped: u64,
}

impl Courses {
    /// For a task with this many seconds from one value to the next, and this many steps ahead.
    pub(crate) fn new(step_s: f64, horizon: usize) -> Self {
        Self { step_s, horizon, queue: VecDeque::new(), dropped: 0 }
    }

    /// Takes a window that ends at `place` and holds `values`, oldest first. Returns the windows whose values are
    /// now all known, with them.
    pub(crate) fn window(&mut self, id: &str, place: Place, values: &[f64]) -> Vec<(String, Vec<f64>)> {
        let mut known = Vec::new();
        self.queue.retain_mut(|waiting| {
            if waiting.id == id {
                return false;
            }
            waiting.learn(&place, values, self.step_s);
            if waiting.missing > 0 {
                return true;
            }
            known.push((std::mem::take(&mut waiting.id), std::mem::take(&mut waiting.values)));
            false
        });
        let (values, missing) = (vec![f64::NAN; self.horizon], self.horizon);
        self.queue.push_back(Waiting { id: id.to_owned(), place, values, missing });
        while self.queue.len() * self.horizon > MAX_VALUES {
            self.queue.pop_front();
            self.dropped += 1;
        }
        known
    }

    /// A window that was labelled by somebody waits no longer.
    pub(crate) fn forget(&mut self, id: &str) {
        self.queue.retain(|waiting| waiting.id != id);
    }

    /// How many windows wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

impl Waiting {
    fn learn(&mut self, place: &Place, values: &[f64], step_s: f64) {
        let steps = (place.time - self.place.time) / step_s;
        let later = steps.round();
        // Of a window that ends more steps later than it is long nothing reaches back; the bound keeps integers small.
        let most = (values.len() + self.values.len()) as f64;
        if self.place.series != place.series
            || (steps - later).abs() > SLACK
            || !(1.0..=most).contains(&later)
        {
            return;
        }
        let later = later as usize;
        for (h, slot) in self.values.iter_mut().enumerate() {
            // Step h + 1 of this window is as many values before the end of the later one.
            let Some(back) = later.checked_sub(h + 1) else { break };
            let Some(value) = values.len().checked_sub(back + 1).map(|at| values[at]) else { continue };
            if slot.is_nan() && value.is_finite() {
                *slot = value;
                self.missing -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: f64) -> Place {
        Place { time, series: String::new() }
    }

    /// The window of a series x(t) = t that ends at step `end` and holds `length` values.
    fn window(courses: &mut Courses, end: usize, length: usize) -> Vec<(String, Vec<f64>)> {
        let values: Vec<f64> = (end + 1 - length..=end).map(|t| t as f64).collect();
        courses.window(&format!("w{end}"), at(60.0 * end as f64), &values)
    }

    #[test]
    fn windows_that_overlap_follow_each_other_or_leave_a_gap() {
        let mut courses = Courses::new(60.0, 3);
        for end in 10..13 {
            assert!(window(&mut courses, end, 4).is_empty());
        }
        assert_eq!(window(&mut courses, 13, 4), [("w10".to_owned(), vec![11.0, 12.0, 13.0])]);
        // One long window labels all that wait, one by one with their own.
        let labels = window(&mut courses, 17, 6);
        assert_eq!(labels.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["w11", "w12", "w13"]);
        assert_eq!(labels[2].1, [14.0, 15.0, 16.0]);
        // 17 waits for 18 to 20; the next window holds 22 to 25 only.
        assert!(window(&mut courses, 25, 4).is_empty());
        // In pieces, too: 26 from one, 27 and 28 from another.
        assert!(window(&mut courses, 26, 1).is_empty());
        assert_eq!(window(&mut courses, 28, 2), [("w25".to_owned(), vec![26.0, 27.0, 28.0])]);
    }

    #[test]
    fn other_series_and_other_grids_say_nothing() {
        let mut courses = Courses::new(60.0, 1);
        window(&mut courses, 5, 3);
        let north = Place { time: 360.0, series: "north".into() };
        assert!(courses.window("n", north, &[1.0, 2.0]).is_empty());
        assert!(courses.window("off", at(390.0), &[1.0, 2.0]).is_empty());
        assert!(courses.window("early", at(240.0), &[1.0, 2.0]).is_empty());
        assert!(courses.window("far", at(1e11), &[1.0, 2.0]).is_empty());
        assert_eq!(courses.window("jitter", at(363.0), &[1.0, 7.0])[0], ("w5".to_owned(), vec![7.0]));
    }

    #[test]
    fn what_waits_is_bounded_and_drops_are_counted() {
        let mut courses = Courses::new(1.0, 192);
        for i in 0..1000 {
            courses.window(&format!("w{i}"), Place { time: 0.0, series: i.to_string() }, &[]);
        }
        assert_eq!((courses.len(), courses.dropped), (MAX_VALUES / 192, 1000 - (MAX_VALUES / 192) as u64));
        courses.forget("w999");
        assert_eq!(courses.len(), MAX_VALUES / 192 - 1);
        courses.window("w998", at(0.0), &[]);
        assert_eq!(courses.len(), MAX_VALUES / 192 - 1, "the same id waits once");
    }
}
