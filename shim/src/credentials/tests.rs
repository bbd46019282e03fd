use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use vireo_runtimeclass::kubevirt::v1::VirtualMachineInstanceSpec;
use vireo_runtimeclass::parse_vmi;

use super::*;
use crate::guest_agent::tests::agent;

const IDS: (u32, u32) = (1000, 1000);

fn spec(credentials: &Value) -> VirtualMachineInstanceSpec {
    parse_vmi(&json!({"domain": {"devices": {}}, "accessCredentials": credentials}).to_string()).unwrap()
}

/// A secret as the kubelet mounts it, and its container.
fn secret(name: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, oci_spec::runtime::Spec) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    write(&dir, "..1", files);
    let mount = json!({
        "destination": format!("/var/run/kubevirt-private/secret/{name}-access-cred"),
        "type": "bind",
        "source": dir.path(),
    });
    (dir, serde_json::from_value(json!({"ociVersion": "1.1.0", "mounts": [mount]})).unwrap())
}

/// Puts a new version in the place of the one before, as the kubelet does.
fn write(dir: &tempfile::TempDir, version: &str, files: &[(&str, &str)]) {
    fs::create_dir(dir.path().join(version)).unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(version).join(name), content).unwrap();
    }
    symlink(version, dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
}

fn keys_by_agent(users: &[&str]) -> Value {
    json!([{"sshPublicKey": {
        "source": {"secret": {"secretName": "keys"}},
        "propagationMethod": {"qemuGuestAgent": {"users": users}},
    }}])
}

#[test]
fn cloud_init_is_told_the_keys_of_its_way() {
    let mut spec = spec(&json!([]));
    spec.access_credentials = serde_json::from_value(json!([
        {"sshPublicKey": {"source": {"secret": {"secretName": "keys"}}, "propagationMethod": {"noCloud": {}}}},
        {"sshPublicKey": {"source": {"secret": {"secretName": "none"}}, "propagationMethod": {"configDrive": {}}}},
    ]))
    .unwrap();
    let (_dir, oci) = secret("keys", &[("a", "ssh-rsa A\n\n  ssh-rsa B \n"), ("b", "ssh-rsa C")]);
    let keys = by_cloud_init(&spec, &oci, IDS, |method| method.no_cloud.is_some()).unwrap();
    assert_eq!(keys, ["ssh-rsa A", "ssh-rsa B", "ssh-rsa C"]);
    let error = by_cloud_init(&spec, &oci, IDS, |method| method.config_drive.is_some()).unwrap_err();
    let expected = "spec.accessCredentials[1].sshPublicKey: the secret is not mounted at \
        /var/run/kubevirt-private/secret/none-access-cred; the pod has to mount it there";
    assert_eq!(chain(&error), expected);
}

#[test]
fn secrets_that_cannot_be_read_are_refused_by_their_field() {
    let (dir, oci) = secret("keys", &[("a", "ssh-rsa A")]);
    let refusal = || chain(&by_agent(&spec(&keys_by_agent(&["root"])), &oci, IDS).unwrap_err());
    assert_eq!(by_agent(&spec(&keys_by_agent(&["root"])), &oci, IDS).unwrap().len(), 1);
    let file = dir.path().join("..1/a");
    fs::write(&file, [0xFF]).unwrap();
    assert_eq!(refusal(), "spec.accessCredentials[0].sshPublicKey: a is no text");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refusal().contains("a can't be opened: Permission denied"), "{}", refusal());
}

/// What an agent is asked: the command and its arguments. It refuses as often as told.
fn asked(refusals: usize) -> (Agent, mpsc::UnboundedReceiver<(String, Value)>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (reboots, rebooted) = tokio::sync::watch::channel(0);
    let (ours, port) = Agent::pair("test".to_owned(), rebooted).unwrap();
    port.set_nonblocking(true).unwrap();
    let left = std::sync::atomic::AtomicUsize::new(refusals);
    tokio::spawn(agent(UnixStream::from_std(port).unwrap(), move |command, arguments| {
        // The machine is there as long as its agent.
        let _machine = &reboots;
        if !command.starts_with("guest-ssh") && !command.starts_with("guest-set") {
            return (command != "guest-sync-delimited")
                .then(|| "{\"error\": {\"class\": \"X\", \"desc\": \"no\"}}\n".into());
        }
        sender.send((command.to_owned(), arguments.clone())).unwrap();
        let refuse =
            left.fetch_update(std::sync::atomic::Ordering::SeqCst, std::sync::atomic::Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        Some(match refuse {
            Ok(_) => "{\"error\": {\"class\": \"X\", \"desc\": \"no such user\"}}\n".into(),
            Err(_) => "{\"return\": {}}\n".into(),
        })
    }));
    (ours, receiver)
}

#[tokio::test]
async fn keys_are_set_by_the_agent_and_again_when_their_secret_changes() {
    let (dir, oci) = secret("keys", &[("a", "ssh-rsa A\n")]);
    let credentials = by_agent(&spec(&keys_by_agent(&["root", "web"])), &oci, IDS).unwrap();
    let (agent, mut asked) = asked(0);
    let propagation = Propagation::begin("test".to_owned(), agent, credentials);
    for keys in [json!(["ssh-rsa A"]), json!(["ssh-rsa B", "ssh-rsa C"])] {
        for user in ["root", "web"] {
            let (command, arguments) = asked.recv().await.unwrap();
            assert_eq!(command, "guest-ssh-add-authorized-keys");
            assert_eq!(arguments, json!({"username": user, "keys": keys, "reset": true}));
        }
        if keys == json!(["ssh-rsa A"]) {
            write(&dir, "..2", &[("b", "ssh-rsa B\nssh-rsa C")]);
        }
    }
    drop(propagation);
}

#[tokio::test]
async fn passwords_are_set_and_what_fails_is_tried_again() {
    let (_dir, oci) = secret("passwords", &[("root", "pa ss\n"), ("nobody", "\n")]);
    let credentials = json!([{"userPassword": {
        "source": {"secret": {"secretName": "passwords"}},
        "propagationMethod": {"qemuGuestAgent": {}},
    }}]);
    let credentials = by_agent(&spec(&credentials), &oci, IDS).unwrap();
    let (agent, mut asked) = asked(1);
    let _propagation = Propagation::begin("test".to_owned(), agent, credentials);
    for _ in 0..2 {
        let (command, arguments) = asked.recv().await.unwrap();
        assert_eq!(command, "guest-set-user-password");
        assert_eq!(arguments, json!({"username": "root", "password": "cGEgc3M=", "crypted": false}));
    }
}
