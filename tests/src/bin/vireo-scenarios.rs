//! Scenarios.
use vireo_tests::cri::{Cri, v1};
fn main() -> anyhow::Result<()> {
    let mut cri = Cri::connect()?;
    println!("{:?}", cri.version(v1::VersionRequest::default())?);
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "a".into(),
            uid: "u".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        log_directory: "/tmp/logs".into(),
        linux: Some(v1::LinuxPodSandboxConfig { cgroup_parent: "/kubepods/poda".into(), ..Default::default() }),
        ..Default::default()
    };
    let pod = cri
        .run_pod_sandbox(v1::RunPodSandboxRequest { config: Some(config), runtime_handler: "".into() })?
        .pod_sandbox_id;
    println!(
        "{:?}",
        cri.pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false })?
    );
    println!("{:?}", cri.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod.clone() })?);
    println!("{:?}", cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: pod.clone() })?);
    Ok(())
}
