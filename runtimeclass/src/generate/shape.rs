//! KubeVirt's own fields, from `kubevirt.txt`.

use std::collections::BTreeMap;

/// KubeVirt's definitions by name.
pub(super) struct Shapes(BTreeMap<&'static str, Vec<Member>>);

/// A field of a definition.
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// A definition, of KubeVirt or (after `k8s.`) of Kubernetes, or a scalar.
    Named(&'static str),
    List(Merge, Box<Shape>),
    Map(Box<Shape>),
    Nullable(Box<Shape>),
}

/// How server-side apply merges a list.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Merge {
    Atomic,
    Set,
    Keys(Vec<&'static str>),
}

impl Shapes {
    pub(super) fn read() -> Self {
        let lines = include_str!("kubevirt.txt").lines().filter(|line| !line.starts_with('#'));
        Self(lines.map(|line| line.split_once(':').unwrap()).map(|(name, fields)| (name, members(fields))).collect())
    }

    /// The fields of a definition of KubeVirt's.
    pub(super) fn get(&self, name: &str) -> Option<&[Member]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

fn members(fields: &'static str) -> Vec<Member> {
    let member = |field: &'static str| {
        let (name, shape) = field.split_once('=').unwrap();
        Member { name: name.trim_end_matches('!'), shape: Shape::read(shape) }
    };
    fields.split_whitespace().map(member).collect()
}

impl Shape {
    fn read(text: &'static str) -> Self {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').unwrap();
            let (merge, inner) = match inner.split_once('|') {
                Some(("set", inner)) => (Merge::Set, inner),
                Some((keys, inner)) => (Merge::Keys(keys.split(',').collect()), inner),
                None => (Merge::Atomic, inner),
            };
            Self::List(merge, Box::new(Self::read(inner)))
        } else if let Some(inner) = text.strip_prefix('{') {
            Self::Map(Box::new(Self::read(inner.strip_suffix('}').unwrap())))
        } else if let Some(inner) = text.strip_suffix('?') {
            Self::Nullable(Box::new(Self::read(inner)))
        } else {
            Self::Named(text)
        }
    }
}
