//! Which images make up Vireo, and how they are named.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vireo_runtimeclass::cluster::KubeVirtSpec;
use vireo_runtimeclass::kubevirt::v1::PullPolicy;

/// An image's name: `registry/name:tag` or `registry/name@digest`. What comes before the last slash is the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    registry: String,
    name: String,
    /// With its separator.
    version: String,
}

impl Image {
    pub(super) fn parse(text: &str) -> Self {
        let (registry, rest) = text.rsplit_once('/').unwrap_or(("", text));
        let at = rest.find('@').or_else(|| rest.find(':')).unwrap_or(rest.len());
        Self { registry: registry.to_owned(), name: rest[..at].to_owned(), version: rest[at..].to_owned() }
    }

    /// The same image where a KubeVirt object says that it is.
    fn of(&self, spec: &KubeVirtSpec) -> Self {
        let tag = spec.image_tag.as_ref().filter(|tag| !tag.is_empty()).map(|tag| format!(":{tag}"));
        Self {
            registry: spec.image_registry.clone().unwrap_or_else(|| self.registry.clone()),
            name: self.name.clone(),
            version: tag.unwrap_or_else(|| self.version.clone()),
        }
    }
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.registry.is_empty() { "" } else { "/" };
        write!(f, "{}{slash}{}{}", self.registry, self.name, self.version)
    }
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    /// The controller's image.
    pub(super) controller: Image,
    /// The agents' image.
    pub(super) agent: Image,
    /// When images are pulled.
    pub(super) pull: PullPolicy,
    /// The version: the images' tag or digest.
    pub(super) version: String,
    /// Where the images are.
    pub(super) registry: String,
    /// What the images and the place come to, as text (`targetDeploymentConfig`), and in one number.
    pub(super) config: String,
    pub(super) id: String,
}

impl Release {
    /// What `spec` wants of the images that the operator knows.
    pub(super) fn of(spec: &KubeVirtSpec, namespace: &str, controller: &Image, agent: &Image) -> Self {
        let (controller, agent) = (controller.of(spec), agent.of(spec));
        let version = controller.version.trim_start_matches([':', '@']).to_owned();
        let registry = controller.registry.clone();
        let config = json!({
            "namespace": namespace,
            "registry": registry,
            "kubeVirtVersion": version,
            "images": [controller.to_string(), agent.to_string()],
        })
        .to_string();
        let id = hash(&Value::String(config.clone()));
        let pull = spec.image_pull_policy.unwrap_or(PullPolicy::IfNotPresent);
        Self { controller, agent, pull, version, registry, config, id }
    }
}

/// Tells contents apart: 40 hexadecimal digits.
pub(super) fn hash(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest[..20].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_where_the_object_says() {
        let own = Image::parse("localhost:5000/vireo/vireo-controller:0.1.0");
        let agent = Image::parse("localhost:5000/vireo/vireo-agent@sha256:abc");
        let release = |spec: Value| Release::of(&serde_json::from_value(spec).unwrap(), "kubevirt", &own, &agent);
        let as_it_is = release(json!({}));
        assert_eq!(as_it_is.controller.to_string(), "localhost:5000/vireo/vireo-controller:0.1.0");
        assert_eq!(as_it_is.agent.to_string(), "localhost:5000/vireo/vireo-agent@sha256:abc");
        assert_eq!((as_it_is.version.as_str(), as_it_is.registry.as_str()), ("0.1.0", "localhost:5000/vireo"));
        let other = release(json!({"imageRegistry": "mirror/x", "imageTag": "0.2.0"}));
        assert_eq!(other.controller.to_string(), "mirror/x/vireo-controller:0.2.0");
        assert_eq!(other.agent.to_string(), "mirror/x/vireo-agent:0.2.0");
        assert_ne!(other.id, as_it_is.id);
        assert_eq!(Image::parse("vireo-controller").to_string(), "vireo-controller");
    }
}
