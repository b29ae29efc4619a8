//! Encoding a step of 40,000 parameters takes at most a mebibyte of memory, whatever the step looks like.
#![allow(missing_docs)]
#![allow(unsafe_code, reason = "an allocator that counts")]

use loadonce_delta::{Budget, Codec, encode_auto, encode_lossy};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is handed on to `System` unchanged; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that `work` needed at most at once, beside what was there before.
fn peak(work: impl FnOnce()) -> usize {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed) - before
}

// The only test of this program: nothing else allocates meanwhile.
#[test]
fn encoding_takes_at_most_a_mebibyte() {
    let smooth: Vec<f32> = (0..40_000u16).map(|i| f32::from(i % 251) / 250.0 - 0.5).collect();
    let spiky: Vec<f32> = (0..40_000u16).map(|i| if i % 97 == 0 { f32::from(i) } else { 1e-4 }).collect();
    for step in [smooth, spiky, vec![0.0; 40_000]] {
        for bits in [0.8, 4.0] {
            let budget = Budget { bits, seed: 3, row: 256 };
            for codec in [Codec::StepRotated, Codec::StepSparse] {
                let mut step = step.clone();
                let bytes = peak(|| drop(encode_lossy(codec, &mut step, &budget).expect("finite")));
                assert!(bytes <= 1 << 20, "{codec:?}: {bytes}");
            }
            let mut step = step.clone();
            let bytes = peak(|| drop(encode_auto(&mut step, &budget).expect("finite")));
            assert!(bytes <= 1 << 20, "auto: {bytes}");
        }
    }
}
