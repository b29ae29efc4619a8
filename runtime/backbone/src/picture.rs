//! Pictures: bounded decoding, luma, and resampling to the backbone's square.

use std::io::{Cursor, ErrorKind};

use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::input::{InputError, MAX_PICTURE_SIDE, PICTURE_SIDE};
use crate::resample::resample;

/// Most bytes of decoded pixels: the largest allowed picture with 8-bit RGBA.
const MAX_DECODED_BYTES: u64 = 64 << 20;
/// Where the end marker of a JPEG is looked for: cameras pad and append a little.
const JPEG_TAIL: usize = 4096;

/// Format by magic bytes.
pub(crate) fn sniff(payload: &[u8]) -> Option<ImageFormat> {
    if payload.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some(ImageFormat::Png)
    } else if payload.starts_with(&[0xff, 0xd8, 0xff]) {
        Some(ImageFormat::Jpeg)
    } else {
        None
    }
}

/// Whether the last bytes hold a JPEG's end-of-image marker. The decoder fills a missing rest with grey
/// without a word, so a cut file has to be recognized here.
pub(crate) fn jpeg_ends(payload: &[u8]) -> bool {
    payload[payload.len().saturating_sub(JPEG_TAIL)..].windows(2).any(|pair| pair == [0xff, 0xd9])
}

/// Decodes a PNG or JPEG and returns [`PICTURE_SIDE`] × [`PICTURE_SIDE`] grey values in 0..=1, row by row.
pub(crate) fn read(payload: &[u8]) -> Result<Vec<f64>, InputError> {
    let Some(format) = sniff(payload) else {
        return Err(InputError::WrongModality {
            expected: "a PNG or JPEG picture",
            got: "neither PNG nor JPEG",
        });
    };
    let name = if format == ImageFormat::Png { "PNG" } else { "JPEG" };
    let truncated = || InputError::PictureTruncated { format: name, bytes: payload.len() };
    if format == ImageFormat::Jpeg && !jpeg_ends(payload) {
        return Err(truncated());
    }

    let explain = |error: ImageError| match error {
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => truncated(),
        error => InputError::PictureDamaged { format: name, what: error.to_string() },
    };
    // The sides are checked below, by an error that names them, before a pixel is decoded; the decoder's
    // own limit bounds everything else it allocates.
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(payload), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(explain)?;

    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    let side = 1..=MAX_PICTURE_SIDE;
    if !side.contains(&width) || !side.contains(&height) || decoder.total_bytes() > MAX_DECODED_BYTES {
        return Err(InputError::PictureTooLarge { width, height, depth: color.bits_per_pixel() });
    }
    let Some(grey) = grey_of(color) else {
        return Err(InputError::PictureDamaged {
            format: name,
            what: format!("pixels of {color:?} are not known"),
        });
    };
    let mut bytes = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut bytes).map_err(explain)?;

    Ok(square(&bytes, width as usize, usize::from(color.bytes_per_pixel()), grey))
}

/// Resamples every row to [`PICTURE_SIDE`] columns, then every column to as many rows. Only one row of the
/// full picture exists in f64 at a time.
fn square(bytes: &[u8], width: usize, pixel: usize, grey: fn(&[u8]) -> f64) -> Vec<f64> {
    let mut narrow = Vec::new();
    let mut row = Vec::with_capacity(width);
    for line in bytes.chunks_exact(width * pixel) {
        row.clear();
        row.extend(line.chunks_exact(pixel).map(|pixel| grey(pixel) / 255.0));
        resample(&row, PICTURE_SIDE, &mut narrow);
    }
    let mut pixels = vec![0.0; PICTURE_SIDE * PICTURE_SIDE];
    let (mut column, mut short) =
        (Vec::with_capacity(narrow.len() / PICTURE_SIDE), Vec::with_capacity(PICTURE_SIDE));
    for at in 0..PICTURE_SIDE {
        column.clear();
        column.extend(narrow.iter().skip(at).step_by(PICTURE_SIDE));
        short.clear();
        resample(&column, PICTURE_SIDE, &mut short);
        for (y, &value) in short.iter().enumerate() {
            pixels[y * PICTURE_SIDE + at] = value;
        }
    }
    pixels
}

/// Grey in 0..=255 of one pixel's bytes (16-bit samples in native order, as the decoder writes them).
fn grey_of(color: ColorType) -> Option<fn(&[u8]) -> f64> {
    fn byte(pixel: &[u8], at: usize) -> f64 {
        f64::from(pixel[at])
    }
    fn word(pixel: &[u8], at: usize) -> f64 {
        f64::from(u16::from_ne_bytes([pixel[2 * at], pixel[2 * at + 1]])) / 257.0
    }
    fn luma(sample: fn(&[u8], usize) -> f64, pixel: &[u8]) -> f64 {
        (299.0 * sample(pixel, 0) + 587.0 * sample(pixel, 1) + 114.0 * sample(pixel, 2)) / 1000.0
    }
    Some(match color {
        ColorType::L8 | ColorType::La8 => |pixel| byte(pixel, 0),
        ColorType::L16 | ColorType::La16 => |pixel| word(pixel, 0),
        ColorType::Rgb8 | ColorType::Rgba8 => |pixel| luma(byte, pixel),
        ColorType::Rgb16 | ColorType::Rgba16 => |pixel| luma(word, pixel),
        _ => return None,
    })
}
