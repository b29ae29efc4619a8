//! Features and targets as integers.

use super::SumsError;

/// Fractional bits of a quantized feature.
const SCALE_BITS: u32 = 12;

/// A feature as a multiple of 2⁻¹²: clamped to ±8, rounded to nearest, ties to even. 8.0 saturates at 32767;
/// NaN gives 0, so check with [`quantize_all`] wherever features enter.
pub fn quantize(z: f32) -> i16 {
    // The product is exact (a power of two); the cast saturates at 32767.
    (z.clamp(-8.0, 8.0) * f32::from(1u16 << SCALE_BITS)).round_ties_even() as i16
}

/// The feature a quantized value stands for.
pub fn dequantize(q: i16) -> f32 {
    f32::from(q) / f32::from(1u16 << SCALE_BITS)
}

/// Quantizes a sample's features and refuses NaN and infinities.
pub fn quantize_all(z: &[f32], out: &mut [i16]) -> Result<(), SumsError> {
    if z.len() != out.len() {
        return Err(SumsError::Length { what: "features", got: z.len(), want: out.len() });
    }
    if let Some(index) = z.iter().position(|x| !x.is_finite()) {
        return Err(SumsError::NotFinite { index });
    }
    for (out, &z) in out.iter_mut().zip(z) {
        *out = quantize(z);
    }
    Ok(())
}
