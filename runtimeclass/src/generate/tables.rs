//! Prints records as the tables of fields that [`crate::schema`] walks.

use std::fmt::Write as _;

use super::node::{Node, Record};

/// One file of tables.
#[derive(Default)]
pub(super) struct Tables<'a> {
    /// Tables that are there already, in the other file, which is `machine` in this one.
    base: Option<&'a Tables<'a>>,
    printed: Vec<(String, Record)>,
    text: String,
}

impl<'a> Tables<'a> {
    /// A file that need not have what is in `base`.
    pub(super) fn beyond(base: &'a Tables<'a>) -> Self {
        Self { base: Some(base), ..Self::default() }
    }

    /// Adds a record and whatever it holds, once; its name in Rust.
    pub(super) fn add(&mut self, record: &Record) -> String {
        let same = |(_, other): &&(String, Record)| {
            (&other.name, &other.fields, &other.known) == (&record.name, &record.fields, &record.known)
        };
        if let Some((name, _)) = self.base.and_then(|base| base.printed.iter().find(same)) {
            return format!("machine::{name}");
        }
        if let Some((name, _)) = self.printed.iter().find(same) {
            return name.clone();
        }
        let mut name = constant(&record.name);
        while self.printed.iter().any(|(taken, _)| *taken == name) {
            name.push_str("_2");
        }
        self.printed.push((name.clone(), record.clone()));
        let mut supported = String::new();
        for field in &record.fields {
            let function = if field.required { "required" } else { "optional" };
            write!(supported, "\n        {function}({:?}, {}),", field.name, self.kind(&field.node)).unwrap();
        }
        if !supported.is_empty() {
            supported.push_str("\n    ");
        }
        let known = &record.known;
        let table = format!(
            "pub(crate) static {name}: Fields = Fields {{\n    supported: &[{supported}],\n    known: &{known:?},\n}};\n\n"
        );
        self.text.push_str(&table);
        name
    }

    fn kind(&mut self, node: &Node) -> String {
        match node {
            Node::Any => "Any".to_owned(),
            Node::String | Node::Time => "String".to_owned(),
            Node::OneOf(names) => format!("OneOf(&{names:?})"),
            Node::Boolean => "Boolean".to_owned(),
            Node::Count => "COUNT".to_owned(),
            Node::Int32 => "INT32".to_owned(),
            Node::Int64 => "INT64".to_owned(),
            Node::Quantity => "Quantity".to_owned(),
            Node::IntOrString => "IntOrString".to_owned(),
            Node::Metadata => "Record(&OBJECT_META)".to_owned(),
            Node::List(_, node) => format!("List(&{})", self.kind(node)),
            Node::Map(node) => format!("Map(&{})", self.kind(node)),
            Node::Record(record) => format!("Record(&{})", self.add(record)),
        }
    }

    /// The file's text, which begins with `header`.
    pub(super) fn file(&self, header: &str) -> String {
        format!("{header}\n{}", self.text.trim_end()) + "\n"
    }
}

/// `VirtualMachineSpec` → `VIRTUAL_MACHINE_SPEC`, `CPUFeature` → `CPU_FEATURE`.
fn constant(name: &str) -> String {
    let chars: Vec<char> = name.rsplit('.').next().unwrap().chars().collect();
    let mut constant = String::new();
    for (index, char) in chars.iter().enumerate() {
        let after_lower = index > 0 && !chars[index - 1].is_ascii_uppercase();
        let before_lower = index > 0 && chars.get(index + 1).is_some_and(char::is_ascii_lowercase);
        if char.is_ascii_uppercase() && (after_lower || before_lower) {
            constant.push('_');
        }
        constant.push(char.to_ascii_uppercase());
    }
    constant
}
