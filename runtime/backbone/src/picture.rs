//! Pictures: bounded decoding, luma and chroma, resampling to the backbone's square, and turning it upright.

use std::io::{Cursor, ErrorKind};

use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::inputs::PATCH_SIDE;
use crate::refusal::InputError;
use crate::resample::resample;

/// Most rows and most columns of a picture.
pub const MAX_PICTURE_SIDE: u32 = 8192;
/// Most bytes of decoded pixels, such as 4096 × 4096 in 8-bit RGBA.
pub(crate) const MAX_DECODED_BYTES: u64 = 64 << 20;
/// The same for a progressive JPEG. Its decoder holds every coefficient of every colour in 16 bits until the last
/// scan, two bytes beside each byte decoded; so the most that any picture takes stays about the same.
pub(crate) const MAX_PROGRESSIVE_BYTES: u64 = 20 << 20;
/// Where the end marker of a JPEG is looked for: cameras pad and append a little.
const JPEG_TAIL: usize = 4096;

/// Square planes in 0..=1 (chroma in −1..=1), row by row, upright.
pub(crate) struct Planes {
    /// `side` × `side`.
    pub(crate) luma: Vec<f64>,
    /// B − Y and R − Y, `side / 2` × `side / 2`; of a grey picture all zero.
    pub(crate) chroma: Option<[Vec<f64>; 2]>,
}

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

/// Whether a JPEG's frame header is that of a progressive one (ITU-T T.81, table B.1: SOF2, 6, 10 and 14). What breaks
/// the order of markers is for the decoder to refuse.
fn progressive(payload: &[u8]) -> bool {
    let mut rest = payload.get(2..).unwrap_or_default();
    while let [0xff, marker, body @ ..] = rest {
        match marker {
            // A fill byte.
            0xff => rest = &rest[1..],
            0xc2 | 0xc6 | 0xca | 0xce => return true,
            // Another frame, or pixels.
            0xc0 | 0xc1 | 0xc3 | 0xc5 | 0xc7 | 0xc9 | 0xcb | 0xcd | 0xcf | 0xda => return false,
            _ => {
                let Some((length, _)) = body.split_first_chunk::<2>() else { return false };
                rest = body.get(usize::from(u16::from_be_bytes(*length))..).unwrap_or_default();
            }
        }
    }
    false
}

/// Other formats that plants send, by magic bytes, for an error that names them.
fn foreign(payload: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| payload.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    Some(match () {
        () if at(0, b"GIF8") => "a GIF",
        () if at(0, b"RIFF") && at(8, b"WEBP") => "a WebP",
        () if at(0, b"BM") => "a BMP",
        () if at(0, b"II*\0") || at(0, b"MM\0*") => "a TIFF",
        () if at(4, b"ftyp") => "a HEIF or AVIF",
        () => return None,
    })
}

/// Decodes a PNG or JPEG: its luma at `side`, and where `colour` is asked its chroma at half of it.
pub(crate) fn read(payload: &[u8], side: usize, colour: bool) -> Result<Planes, InputError> {
    let Some(format) = sniff(payload) else {
        return Err(match foreign(payload) {
            Some(format) => InputError::PictureFormat { format },
            None => {
                InputError::WrongModality { expected: "a PNG or JPEG picture", got: "neither PNG nor JPEG" }
            }
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
    let mut decoder = reader.into_decoder().map_err(explain)?;

    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    let sides = 1..=MAX_PICTURE_SIDE;
    let slow = format == ImageFormat::Jpeg && progressive(payload);
    let limit = if slow { MAX_PROGRESSIVE_BYTES } else { MAX_DECODED_BYTES };
    if !sides.contains(&width) || !sides.contains(&height) || decoder.total_bytes() > limit {
        let depth = color.bits_per_pixel();
        return Err(InputError::PictureTooLarge { width, height, depth, megabytes: limit >> 20 });
    }
    let Some(samples) = Samples::of(color) else {
        return Err(InputError::PictureDamaged {
            format: name,
            what: format!("pixels of {color:?} are not known"),
        });
    };
    // A damaged tag is no reason to refuse the picture.
    let orientation = decoder.orientation().map_or(1, Orientation::to_exif);
    let mut bytes = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut bytes).map_err(explain)?;

    let line = width as usize * usize::from(color.bytes_per_pixel());
    let plane =
        |side: usize, value: Plane| upright(&square(&bytes, line, samples, side, value), side, orientation);
    let half = side / 2;
    let chroma = match colour {
        false => None,
        true if samples.colours == 1 => Some([vec![0.0; half * half], vec![0.0; half * half]]),
        true => Some([plane(half, Plane::Blue), plane(half, Plane::Red)]),
    };
    Ok(Planes { luma: plane(side, Plane::Luma), chroma })
}

#[derive(Clone, Copy)]
enum Plane {
    Luma,
    /// B − Y.
    Blue,
    /// R − Y.
    Red,
}

/// How a pixel's bytes hold its colours; alpha is passed over.
#[derive(Clone, Copy)]
struct Samples {
    /// 1 or 3.
    colours: usize,
    alpha: bool,
    /// 16-bit samples in native order, as the decoder writes them, instead of bytes.
    wide: bool,
}

impl Samples {
    fn of(color: ColorType) -> Option<Self> {
        let (colours, alpha, wide) = match color {
            ColorType::L8 => (1, false, false),
            ColorType::La8 => (1, true, false),
            ColorType::Rgb8 => (3, false, false),
            ColorType::Rgba8 => (3, true, false),
            ColorType::L16 => (1, false, true),
            ColorType::La16 => (1, true, true),
            ColorType::Rgb16 => (3, false, true),
            ColorType::Rgba16 => (3, true, true),
            _ => return None,
        };
        Some(Self { colours, alpha, wide })
    }

    fn bytes(self) -> usize {
        (self.colours + usize::from(self.alpha)) * if self.wide { 2 } else { 1 }
    }

    /// One sample of a pixel in 0..=255.
    fn sample(self, pixel: &[u8], at: usize) -> f64 {
        if self.wide {
            f64::from(u16::from_ne_bytes([pixel[2 * at], pixel[2 * at + 1]])) / 257.0
        } else {
            f64::from(pixel[at])
        }
    }

    /// A plane's value of a pixel, 0..=1 or −1..=1.
    fn value(self, pixel: &[u8], plane: Plane) -> f64 {
        if self.colours == 1 {
            return self.sample(pixel, 0) / 255.0;
        }
        let [red, green, blue] = [0, 1, 2].map(|at| self.sample(pixel, at));
        let luma = (299.0 * red + 587.0 * green + 114.0 * blue) / 1000.0;
        match plane {
            Plane::Luma => luma / 255.0,
            Plane::Blue => (blue - luma) / 255.0,
            Plane::Red => (red - luma) / 255.0,
        }
    }
}

/// Resamples every row to `side` columns, then every column to as many rows. Only one row of the full picture
/// exists in f64 at a time.
fn square(bytes: &[u8], line: usize, samples: Samples, side: usize, plane: Plane) -> Vec<f64> {
    let mut narrow = Vec::new();
    let mut row = Vec::with_capacity(line / samples.bytes());
    for line in bytes.chunks_exact(line) {
        row.clear();
        row.extend(line.chunks_exact(samples.bytes()).map(|pixel| samples.value(pixel, plane)));
        resample(&row, side, &mut narrow);
    }
    let mut pixels = vec![0.0; side * side];
    let (mut column, mut short) = (Vec::with_capacity(narrow.len() / side), Vec::with_capacity(side));
    for at in 0..side {
        column.clear();
        column.extend(narrow.iter().skip(at).step_by(side));
        short.clear();
        resample(&column, side, &mut short);
        for (y, &value) in short.iter().enumerate() {
            pixels[y * side + at] = value;
        }
    }
    pixels
}

/// Applies an EXIF orientation (1 to 8) to a square. Resampling treats rows and columns alike, so turning the small
/// square is the same as turning the picture, and costs nothing.
fn upright(square: &[f64], side: usize, orientation: u8) -> Vec<f64> {
    let last = side - 1;
    let source = |y: usize, x: usize| match orientation {
        2 => (y, last - x),
        3 => (last - y, last - x),
        4 => (last - y, x),
        5 => (x, y),
        6 => (last - x, y),
        7 => (last - x, last - y),
        8 => (x, last - y),
        _ => (y, x),
    };
    let at = |index: usize| {
        let (y, x) = source(index / side, index % side);
        square[y * side + x]
    };
    (0..side * side).map(at).collect()
}

/// Pixels of a square, a multiple of [`PATCH_SIDE`] wide, in the order of tokens: blocks row-major, and each block
/// row-major.
pub(crate) fn tile(square: &[f64]) -> Vec<f64> {
    let side = square.len().isqrt();
    let blocks = side / PATCH_SIDE;
    let mut tiled = Vec::with_capacity(square.len());
    for block in 0..blocks * blocks {
        let (top, left) = (block / blocks * PATCH_SIDE, block % blocks * PATCH_SIDE);
        for row in top..top + PATCH_SIDE {
            let from = row * side + left;
            tiled.extend_from_slice(&square[from..from + PATCH_SIDE]);
        }
    }
    tiled
}
