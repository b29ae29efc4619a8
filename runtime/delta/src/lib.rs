//! Delta codec: parameter steps and sums to bytes and exactly back.
