//! From text to types: nothing else makes a VM spec out of what a user wrote.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kubevirt::v1::{VirtualMachine, VirtualMachineInstanceSpec, fields};
use crate::schema::{self, Fields};
use crate::validate::{self, Problem};

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is no JSON.
    #[error("not valid JSON")]
    Json(#[source] serde_json::Error),
    /// It asks for what can't be had.
    #[error("{0}")]
    Refused(Problems),
}

/// Everything wrong with a document, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Reads a `VirtualMachineInstanceSpec` from JSON (the annotation [`crate::pod::ANNOTATION_VMI`]). Paths in errors start
/// with `spec`, as in a `VirtualMachineInstance`.
///
/// # Errors
/// Every problem of the document at once.
pub fn parse_vmi(json: &str) -> Result<VirtualMachineInstanceSpec, ParseError> {
    let value = serde_json::from_str(json).map_err(ParseError::Json)?;
    let spec: VirtualMachineInstanceSpec = typed(value, &fields::VIRTUAL_MACHINE_INSTANCE_SPEC, "spec")?;
    refuse_if_any(validate::instance_spec(&spec, "spec"))?;
    Ok(spec)
}

/// Reads a `VirtualMachine` from an already decoded document.
///
/// # Errors
/// Every problem of the document at once.
pub fn parse_virtual_machine(document: Value) -> Result<VirtualMachine, ParseError> {
    // Said before its fields are: another kind of object would only give a list of unknown ones.
    validate::type_meta(&document, &["kubevirt.io/v1"], "VirtualMachine")
        .map_err(|problem| ParseError::Refused(Problems(vec![problem])))?;
    let vm: VirtualMachine = typed(document, &fields::VIRTUAL_MACHINE, "")?;
    refuse_if_any(validate::virtual_machine(&vm))?;
    Ok(vm)
}

pub(crate) fn typed<T: DeserializeOwned>(
    mut value: Value,
    fields: &'static Fields,
    path: &str,
) -> Result<T, ParseError> {
    let mut problems = Vec::new();
    schema::check(&mut value, fields, path, &mut problems);
    refuse_if_any(problems)?;
    serde_json::from_value(value).map_err(ParseError::Json)
}

pub(crate) fn refuse_if_any(problems: Vec<Problem>) -> Result<(), ParseError> {
    if problems.is_empty() { Ok(()) } else { Err(ParseError::Refused(Problems(problems))) }
}
