//! The seam to the backbone: how a task's samples are described to it.

use loadonce_backbone::{InputError, InputSpec};
use loadonce_control::Input;

/// The manifest's declaration as the backbone takes it; both write it alike.
pub(crate) fn describe(input: &Input) -> Result<InputSpec, InputError> {
    serde_json::to_value(input)
        .and_then(serde_json::from_value)
        .map_err(|error| InputError::Spec { what: error.to_string() })
}
