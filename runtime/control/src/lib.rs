//! JSON control messages and the task manifest, one home for both sides.
