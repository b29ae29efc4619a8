//! Modules: schema, file format, forward and backward passes, optimizers, exact sums.
