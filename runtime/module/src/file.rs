//! The module file: safetensors with a documented metadata header, `docs/module-format.md`.

use std::collections::BTreeMap;

use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype as TensorType;

use crate::head::{Head, Quantiles};
use crate::shape::{Recipe, Shape, ShapeError};

/// Value of the metadata key `format`.
pub const FORMAT: &str = "loadonce-module/1";
/// Longest file that is read or written.
pub const MAX_FILE_BYTES: usize = 4 << 20;
/// Longest task name, bytes.
const MAX_TASK: usize = 64;
/// Longest class name, bytes.
const MAX_CLASS: usize = 128;

/// How tensors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE half precision; parameters are rounded to nearest.
    F16,
    /// IEEE single precision; parameters are exact.
    F32,
}

impl Dtype {
    fn name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::F32 => "F32",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Whether a module belongs to the lineage or to one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A version of the lineage; prior-free.
    Shared,
    /// Derived on a gateway, never leaves it; carries what that gateway adds to the outputs.
    Personal,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Personal => "personal",
        }
    }
}

/// A module with all that says what it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleFile {
    /// Task name, 1 to 64 bytes.
    pub task: String,
    /// Sizes and recipe.
    pub shape: Shape,
    /// Class names by class id, distinct, each 1 to 128 bytes; as many as a classify module has outputs, none for
    /// the other kinds.
    pub classes: Vec<String>,
    /// Fingerprint of the backbone, 64 lower-case hexadecimal digits.
    pub backbone: String,
    /// Version in the lineage; a personal module has the version of the shared one it was derived from.
    pub version: u64,
    /// blake3 of the module this one was made from, 64 lower-case hexadecimal digits, or empty.
    pub base: String,
    /// Shared or personal.
    pub role: Role,
    /// Added to the outputs, see [`Shape::offset_len`]; empty for a shared module.
    pub offset: Vec<f32>,
    /// Flat parameters, all finite.
    pub params: Vec<f32>,
}

/// Why a module file was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FileError {
    /// Longer than [`MAX_FILE_BYTES`].
    #[error("module file of {0} bytes is longer than {MAX_FILE_BYTES}; it is no module")]
    TooLong(usize),
    /// Not safetensors.
    #[error("module file is no safetensors file: {0}; fetch it again")]
    Container(String),
    /// Not this format.
    #[error(
        "module file has format {0:?}, this build reads {FORMAT:?}; upgrade the agent or fetch another version"
    )]
    Format(String),
    /// A metadata key is missing, unknown or has an unusable value.
    #[error("module file: metadata {key} {problem}; refuse the file and fetch it again")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Sizes outside their limits.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A tensor is missing, unknown, or of other type or dimensions than the shape asks for.
    #[error("module file: tensor {name} {problem}; refuse the file and fetch it again")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// NaN or infinity.
    #[error("module file: {0} holds NaN or infinity (or does not fit F16); refuse the module")]
    NotFinite(String),
    /// The parameters do not fill the shape.
    #[error("{got} parameters given, the shape has {want}")]
    Parameters {
        /// Given.
        got: usize,
        /// Expected.
        want: usize,
    },
}

fn bad(key: &str, problem: &'static str) -> FileError {
    FileError::Metadata { key: key.to_owned(), problem }
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_name(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && !text.chars().any(char::is_control)
}

impl ModuleFile {
    fn check(&self) -> Result<(), FileError> {
        self.shape.validate()?;
        if !is_name(&self.task, MAX_TASK) {
            return Err(bad("task", "is not 1 to 64 bytes without control characters"));
        }
        let classes = if self.shape.head == Head::Classify { self.shape.outputs } else { 0 };
        if self.classes.len() != classes {
            return Err(bad("classes", "does not have one name per output of a classify module"));
        }
        if !self.classes.iter().all(|class| is_name(class, MAX_CLASS)) {
            return Err(bad("classes", "has a name that is not 1 to 128 bytes without control characters"));
        }
        let mut sorted: Vec<&String> = self.classes.iter().collect();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(bad("classes", "names a class twice"));
        }
        if !is_hash(&self.backbone) {
            return Err(bad("backbone", "is not 64 lower-case hexadecimal digits"));
        }
        if !self.base.is_empty() && !is_hash(&self.base) {
            return Err(bad("base", "is neither empty nor 64 lower-case hexadecimal digits"));
        }
        let want = if self.role == Role::Personal { self.shape.offset_len() } else { 0 };
        let key = offset_key(self.shape.head);
        if self.offset.len() != want {
            return Err(bad(
                key,
                "does not have one entry per output it is added to (personal) or is not absent (shared)",
            ));
        }
        if self.offset.iter().any(|p| !p.is_finite()) {
            return Err(FileError::NotFinite(key.to_owned()));
        }
        if self.params.len() != self.shape.parameters() {
            return Err(FileError::Parameters { got: self.params.len(), want: self.shape.parameters() });
        }
        Ok(())
    }

    fn metadata(&self) -> BTreeMap<&'static str, String> {
        let list = |value: serde_json::Value| value.to_string();
        let mut map = BTreeMap::from([
            ("format", FORMAT.to_owned()),
            ("task", self.task.clone()),
            ("kind", self.shape.head.name().to_owned()),
            ("recipe", self.shape.recipe.name().to_owned()),
            ("rank", self.shape.recipe.rank().to_string()),
            ("exits", self.shape.exits.to_string()),
            ("features", self.shape.features.to_string()),
            ("outputs", self.shape.outputs.to_string()),
            ("backbone", self.backbone.clone()),
            ("version", self.version.to_string()),
            ("base", self.base.clone()),
            ("role", self.role.name().to_owned()),
        ]);
        match self.shape.head {
            Head::Classify => {
                map.insert("classes", list(serde_json::json!(self.classes)));
            }
            Head::Forecast { horizon, quantiles } => {
                map.insert("horizon", horizon.to_string());
                map.insert("quantiles", list(serde_json::json!(quantiles.thousandths())));
            }
            Head::Anomaly => {}
        }
        if self.role == Role::Personal && self.shape.offset_len() > 0 {
            // The shortest decimal that reads back as the same f32.
            let numbers: Vec<String> = self.offset.iter().map(|p| format!("{p:?}")).collect();
            map.insert(offset_key(self.shape.head), format!("[{}]", numbers.join(",")));
        }
        map
    }

    /// The file's bytes; the same content always gives the same bytes.
    pub fn encode(&self, dtype: Dtype) -> Result<Vec<u8>, FileError> {
        self.check()?;
        let mut header = String::from("{\"__metadata__\":");
        header.push_str(&serde_json::json!(self.metadata()).to_string());
        let mut data = Vec::with_capacity(self.params.len() * dtype.bytes());
        for spec in self.shape.tensors() {
            let start = data.len();
            for &p in &self.params[spec.range] {
                let rounded = f16::from_f32(p);
                let fits = match dtype {
                    Dtype::F16 => rounded.is_finite(),
                    Dtype::F32 => p.is_finite(),
                };
                if !fits {
                    return Err(FileError::NotFinite(spec.name));
                }
                match dtype {
                    Dtype::F16 => data.extend_from_slice(&rounded.to_le_bytes()),
                    Dtype::F32 => data.extend_from_slice(&p.to_le_bytes()),
                }
            }
            let dims: Vec<String> = spec.dims.iter().map(ToString::to_string).collect();
            let entry = format!(
                ",\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{start},{}]}}",
                spec.name,
                dtype.name(),
                dims.join(","),
                data.len(),
            );
            header.push_str(&entry);
        }
        header.push('}');
        // Tensor data begin at a multiple of 8, as the container asks for.
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let length = 8 + header.len() + data.len();
        if length > MAX_FILE_BYTES {
            return Err(FileError::TooLong(length));
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&(header.len() as u64).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&data);
        Ok(bytes)
    }

    /// Reads a file; every part is checked, and no more is allocated than a few times the input's length.
    pub fn decode(bytes: &[u8]) -> Result<Self, FileError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(FileError::TooLong(bytes.len()));
        }
        let container = |error: safetensors::SafeTensorError| FileError::Container(error.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(container)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(container)?;
        let empty = std::collections::HashMap::new();
        let map = header.metadata().as_ref().unwrap_or(&empty);
        let mut fields = Fields { map, read: 0 };
        let format = fields.text("format").unwrap_or_default();
        if format != FORMAT {
            return Err(FileError::Format(format.chars().take(40).collect()));
        }
        let head = fields.head()?;
        let shape = fields.shape(head)?;
        let classes: Vec<String> = if head == Head::Classify {
            serde_json::from_str(fields.text("classes")?)
                .map_err(|_| bad("classes", "is not a JSON list of names"))?
        } else {
            Vec::new()
        };
        let role = match fields.text("role")? {
            "shared" => Role::Shared,
            "personal" => Role::Personal,
            _ => return Err(bad("role", "is neither shared nor personal")),
        };
        let offset = if role == Role::Personal && shape.offset_len() > 0 {
            let key = offset_key(head);
            parse_numbers(key, fields.text(key)?, shape.offset_len())?
        } else {
            Vec::new()
        };
        let mut module = Self {
            task: fields.text("task")?.to_owned(),
            backbone: fields.text("backbone")?.to_owned(),
            version: fields.number("version")?,
            base: fields.text("base")?.to_owned(),
            params: Vec::new(),
            shape,
            classes,
            role,
            offset,
        };
        if fields.read != map.len() {
            return Err(bad("(any)", "has a key this format does not know"));
        }
        module.read_tensors(&tensors)?;
        module.check()?;
        Ok(module)
    }

    fn read_tensors(&mut self, tensors: &SafeTensors<'_>) -> Result<(), FileError> {
        let specs = self.shape.tensors();
        let mut dtype = None;
        for spec in &specs {
            let refuse = |problem| FileError::Tensor { name: spec.name.clone(), problem };
            let view = tensors.tensor(&spec.name).map_err(|_| refuse("is missing"))?;
            if view.shape() != spec.dims {
                return Err(refuse("has other dimensions than the sizes in the metadata ask for"));
            }
            if *dtype.get_or_insert(view.dtype()) != view.dtype() {
                return Err(refuse("has another type than the tensors before it"));
            }
            match view.dtype() {
                TensorType::F32 => self.params.extend(
                    view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
                ),
                TensorType::F16 => self
                    .params
                    .extend(view.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
                _ => return Err(refuse("is neither F16 nor F32")),
            }
            if self.params[spec.range.start..].iter().any(|p| !p.is_finite()) {
                return Err(FileError::NotFinite(spec.name.clone()));
            }
        }
        if tensors.len() != specs.len() {
            let known = |name: &&str| specs.iter().all(|spec| spec.name != **name);
            let name = tensors.names().into_iter().find(known).unwrap_or_default();
            let name = name.chars().take(40).collect();
            return Err(FileError::Tensor { name, problem: "does not belong to this recipe" });
        }
        Ok(())
    }
}

/// Metadata lookups that count the keys read, so that an unknown one is noticed.
struct Fields<'a> {
    map: &'a std::collections::HashMap<String, String>,
    read: usize,
}

impl<'a> Fields<'a> {
    fn text(&mut self, key: &str) -> Result<&'a str, FileError> {
        let value = self.map.get(key).ok_or_else(|| bad(key, "is missing"))?;
        self.read += 1;
        Ok(value)
    }

    /// A decimal number in its only spelling.
    fn number(&mut self, key: &str) -> Result<u64, FileError> {
        let text = self.text(key)?;
        match text.parse::<u64>() {
            Ok(number) if number.to_string() == text => Ok(number),
            _ => Err(bad(key, "is not a decimal number")),
        }
    }

    fn size(&mut self, key: &str) -> Result<usize, FileError> {
        usize::try_from(self.number(key)?).map_err(|_| bad(key, "is too large"))
    }

    fn head(&mut self) -> Result<Head, FileError> {
        match self.text("kind")? {
            "classify" => Ok(Head::Classify),
            "anomaly" => Ok(Head::Anomaly),
            "forecast" => {
                let horizon =
                    u16::try_from(self.number("horizon")?).map_err(|_| bad("horizon", "is too large"))?;
                let problem = "is not a JSON list of rising thousandths with 500 among them";
                let quantiles = serde_json::from_str::<Vec<u16>>(self.text("quantiles")?)
                    .ok()
                    .and_then(|levels| Quantiles::new(&levels).ok())
                    .ok_or_else(|| bad("quantiles", problem))?;
                Ok(Head::Forecast { horizon, quantiles })
            }
            _ => Err(bad("kind", "is neither classify, forecast nor anomaly")),
        }
    }

    fn shape(&mut self, head: Head) -> Result<Shape, FileError> {
        let rank = self.size("rank")?;
        let recipe = match (self.text("recipe")?, rank) {
            ("moments", 0) => Recipe::Moments,
            ("probe", 0) => Recipe::Probe,
            ("ladder", rank) => Recipe::Ladder { rank },
            ("moments" | "probe", _) => return Err(bad("rank", "is not 0 for a linear recipe")),
            _ => return Err(bad("recipe", "is neither moments, probe nor ladder")),
        };
        let (exits, features, outputs) = (self.size("exits")?, self.size("features")?, self.size("outputs")?);
        let shape = Shape { recipe, head, exits, features, outputs };
        shape.validate()?;
        Ok(shape)
    }
}

/// The metadata key of what is added to a personal module's outputs.
fn offset_key(head: Head) -> &'static str {
    match head {
        Head::Classify => "prior",
        Head::Forecast { .. } | Head::Anomaly => "shift",
    }
}

fn parse_numbers(key: &str, text: &str, want: usize) -> Result<Vec<f32>, FileError> {
    let problem = || bad(key, "is not a JSON list of numbers");
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or_else(problem)?;
    // One more than allowed is enough to be refused by the length check.
    inner.split(',').take(want + 1).map(|number| number.trim().parse().map_err(|_| problem())).collect()
}

#[cfg(test)]
mod tests;
