//! What is shown of machines.

use std::time::{Duration, Instant};

use anyhow::Result;
use vireo_runtimeclass::machine_service::v1;

use super::client::{Client, all, name};
use super::{answered, ask, word};

/// Between the two looks of `top`.
const INTERVAL: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

/// Which machines there are.
pub(super) async fn ps() -> Result<()> {
    println!("{:<40} {:<8} {:<6} {:>8}  CONTAINER", "POD", "STATE", "AGENT", "PID");
    for (_, info) in all().await? {
        let agent = if info.agent_connected { "yes" } else { "no" };
        let id: String = info.id.chars().take(13).collect();
        println!("{:<40} {:<8} {agent:<6} {:>8}  {id}", name(&info), word(info.state()), info.pid);
    }
    Ok(())
}

/// What they use.
pub(super) async fn top() -> Result<()> {
    let mut first = Vec::new();
    for (mut client, info) in all().await? {
        // One that has just gone isn't shown.
        let Ok(usage) = answered(client.usage(ask(v1::UsageRequest {})).await) else { continue };
        first.push((client, info, usage.cpu_nanoseconds, Instant::now()));
    }
    tokio::time::sleep(INTERVAL).await;
    println!("{:<40} {:>7} {:>10} {:>10}", "POD", "CPU %", "MEMORY", "LIMIT");
    for (mut client, info, before, since) in first {
        let Ok(usage) = answered(client.usage(ask(v1::UsageRequest {})).await) else { continue };
        let percent = percent(usage.cpu_nanoseconds.saturating_sub(before), since.elapsed());
        let limit = match usage.memory_limit_bytes {
            0 => "-".to_owned(),
            bytes => format!("{} MiB", bytes / MIB),
        };
        let memory = format!("{} MiB", usage.memory_bytes / MIB);
        println!("{:<40} {percent:>7} {memory:>10} {limit:>10}", name(&info));
    }
    Ok(())
}

/// Of one CPU.
fn percent(used: u64, elapsed: Duration) -> u128 {
    u128::from(used) * 100 / elapsed.as_nanos().max(1)
}

/// What a guest's agent says.
pub(super) async fn guest(mut client: Client) -> Result<()> {
    let info = answered(client.guest_info(ask(v1::GuestInfoRequest {})).await)?;
    println!("host     {}", info.host_name);
    println!("system   {}", info.os_pretty_name);
    println!("kernel   {} {}", info.kernel_release, info.machine);
    println!("agent    {}", info.agent_version);
    // Agents leave out what they can't tell.
    if let Ok(found) = answered(client.guest_users(ask(v1::GuestUsersRequest {})).await) {
        for user in found.users {
            println!("user     {}", user.name);
        }
    }
    if let Ok(found) = answered(client.guest_file_systems(ask(v1::GuestFileSystemsRequest {})).await) {
        for system in found.file_systems {
            let (used, total) = (system.used_bytes / MIB, system.total_bytes / MIB);
            println!("mounted  {} on {} ({}), {used} of {total} MiB", system.name, system.mount_point, system.r#type);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_cpu_is_100_percent() {
        assert_eq!(percent(1_000_000_000, Duration::from_secs(1)), 100);
        assert_eq!(percent(0, Duration::ZERO), 0);
    }
}
