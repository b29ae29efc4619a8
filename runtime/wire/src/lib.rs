//! Topics, frames, limits and transfer state machines: bytes in, bytes out, no I/O and no clock.
