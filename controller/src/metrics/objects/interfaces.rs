//! Interfaces, as a spec lists them.

use serde_json::Value as Json;

use super::super::sample::{Labels, Value};

/// What is said of each interface of a spec that has its network. Those that a spec leaves to defaults aren't listed.
pub(super) fn of<'a>(spec: Option<&'a Json>, labels: Labels<'a>) -> impl Iterator<Item = (Labels<'a>, Value)> {
    let list = move |path: &str| spec.and_then(|spec| spec.pointer(path)?.as_array()).into_iter().flatten();
    list("/domain/devices/interfaces").filter_map(move |interface| {
        let name = text(interface, "/name");
        let network = list("/networks").find(|network| text(network, "/name") == name)?;
        let network = match (network.get("pod"), network.pointer("/multus/networkName").and_then(Json::as_str)) {
            (Some(_), _) => "pod networking",
            (None, Some(multus)) => multus,
            (None, None) => return None,
        };
        let core = ["masquerade", "bridge", "sriov"].into_iter().find(|binding| interface.get(binding).is_some());
        let (kind, binding) = match (core, text(interface, "/binding/name")) {
            (Some(core), _) => ("core", core),
            (None, "") => ("", ""),
            (None, plugin) => ("plugin", plugin),
        };
        let model = Some(text(interface, "/model")).filter(|model| !model.is_empty()).unwrap_or("<none>");
        let labels = labels.and([
            ("vnic_name", name),
            ("binding_type", kind),
            ("network", network),
            ("binding_name", binding),
            ("model", model),
        ]);
        Some((labels, Value::Whole(1)))
    })
}

fn text<'a>(value: &'a Json, path: &str) -> &'a str {
    value.pointer(path).and_then(Json::as_str).unwrap_or_default()
}
