//! One stored object of any kind.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Unread;
use crate::parse::{ParseError, Problems, refuse_if_any, typed};
use crate::schema::{self, Fields, optional, required};
use crate::validate::{self, Problem};

/// A kind of object.
pub trait Kind: fmt::Debug + Clone + PartialEq + Send + Sync + 'static {
    /// What users write.
    type Spec: Clone + PartialEq + Serialize + DeserializeOwned;
    /// What the controller writes.
    type Status: fmt::Debug + Clone + PartialEq + Send + Sync + Serialize + DeserializeOwned;
    /// Whether it lives in a namespace or in the cluster: one of kube's resource scopes.
    type Scope;
    /// Its group.
    const GROUP: &'static str;
    /// The versions that it is served in, the first of which is stored; they differ in nothing but the name.
    const VERSIONS: &'static [&'static str];
    /// Its name.
    const KIND: &'static str;
    /// Its name in paths.
    const PLURAL: &'static str;

    /// The rules on a spec whose fields are all right, each problem with its path from the object's root.
    fn rules(_: &Self::Spec) -> Vec<Problem> {
        Vec::new()
    }

    #[doc(hidden)]
    fn fields() -> &'static SpecFields;
}

/// The table of a kind's fields; only this crate makes one.
#[derive(Debug)]
#[doc(hidden)]
pub struct SpecFields(pub(crate) &'static Fields);

/// The status of a kind that has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NoStatus {}

/// An object as the API server stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound = "")]
pub struct Object<K: Kind> {
    /// Group and version.
    pub api_version: String,
    /// The kind's name.
    pub kind: String,
    /// Name, namespace and the like.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What its user wrote, unread: [`Self::spec`] reads it.
    #[serde(rename = "spec")]
    pub unread: Unread,
    /// What the controller wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<K::Status>,
}

impl<K: Kind> Object<K> {
    /// A new object.
    ///
    /// # Errors
    /// Where `spec` can't be JSON: none of this crate's specs.
    pub fn new(metadata: ObjectMeta, spec: &K::Spec) -> serde_json::Result<Self> {
        let api_version = format!("{}/{}", K::GROUP, K::VERSIONS[0]);
        Ok(Self {
            api_version,
            kind: K::KIND.to_owned(),
            metadata,
            unread: serde_json::to_value(spec)?.into(),
            status: None,
        })
    }

    /// Reads the spec.
    ///
    /// # Errors
    /// Every problem of it at once.
    pub fn spec(&self) -> Result<K::Spec, ParseError> {
        let spec = typed(self.unread.value(), K::fields().0, "spec")?;
        refuse_if_any(K::rules(&spec))?;
        Ok(spec)
    }

    /// Reads a whole document, as admission sees it, whose spec is then right too.
    ///
    /// # Errors
    /// Every problem of the document at once.
    pub fn parse(mut document: Value) -> Result<Self, ParseError> {
        let versions: Vec<_> = K::VERSIONS.iter().map(|version| format!("{}/{version}", K::GROUP)).collect();
        let versions: Vec<_> = versions.iter().map(String::as_str).collect();
        // Said before its fields are: another kind of object would only give a list of unknown ones.
        let other = validate::type_meta(&document, &versions, K::KIND).err();
        refuse_if_any(other.into_iter().collect())?;
        let mut problems = Vec::new();
        schema::check(&mut document, &ROOT, "", &mut problems);
        if let Some(spec) = document.get_mut("spec") {
            schema::check(spec, K::fields().0, "spec", &mut problems);
        }
        refuse_if_any(problems)?;
        let Value::Object(mut parts) = document else { return Err(refused("", "must be an object")) };
        let mut part = |name| parts.remove(name).unwrap_or_default();
        let object = Self {
            metadata: read("metadata", part("metadata"))?.unwrap_or_default(),
            status: read("status", part("status"))?,
            unread: part("spec").into(),
            api_version: read("apiVersion", part("apiVersion"))?.unwrap_or_default(),
            kind: K::KIND.to_owned(),
        };
        object.spec()?;
        Ok(object)
    }
}

/// A part that isn't read by a table.
fn read<T: DeserializeOwned>(name: &str, value: Value) -> Result<Option<T>, ParseError> {
    serde_json::from_value(value).map_err(|error| refused(name, &error.to_string()))
}

fn refused(path: &str, what: &str) -> ParseError {
    ParseError::Refused(Problems(vec![Problem::new(path, what)]))
}

/// What every kind has.
static ROOT: Fields = Fields {
    supported: &[
        required("apiVersion", schema::Kind::String),
        required("kind", schema::Kind::String),
        optional("metadata", schema::Kind::Any),
        required("spec", schema::Kind::Any),
        optional("status", schema::Kind::Any),
    ],
    known: &[],
};

impl<K: Kind> kube::Resource for Object<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        K::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        K::VERSIONS[0].into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
