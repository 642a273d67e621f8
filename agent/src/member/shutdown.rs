//! Stopping everything on a machine that is being put away: no process, no mount and no immutable folder is left
//! behind. The drives keep their data and their marks, the members' files stay: the next start brings all back.
//!
//! The agent must not run meanwhile, or it starts the processes again.

use std::time::Duration;

use thiserror::Error;

use super::{MemberConfig, MemberId, mount, partition, process};

/// How long others may still use a file system before it is detached from under them.
const PATIENCE: Duration = Duration::from_secs(10);

/// What could not be put away.
#[derive(Debug, Error)]
#[error("{}", .0.join("; "))]
pub struct StopAllError(Vec<String>);

/// Stops every member's process, unmounts every member and removes the mount points below the data folder.
/// Answers the members concerned. Run again, it finds nothing to do.
///
/// # Errors
/// Names everything that could not be stopped, unmounted or removed; all the rest is done all the same.
pub async fn stop_all(config: &MemberConfig) -> Result<Vec<MemberId>, StopAllError> {
    let config = &MemberConfig {
        data_dir: config
            .data_dir
            .canonicalize()
            .unwrap_or_else(|_| config.data_dir.clone()),
        ..config.clone()
    };
    let members = mount::mount_points(&config.data_dir).map_err(|error| {
        StopAllError(vec![format!(
            "listing {}/mounts: {error}",
            config.data_dir.display()
        )])
    })?;
    let mut failures = Vec::new();
    for (id, _) in &members {
        if let Err(error) = stop_one(config, *id).await {
            failures.push(format!("member {id}: {error}"));
        }
    }
    if failures.is_empty() {
        // Made by the agent, and empty now; it is made again when it is needed.
        let _ = std::fs::remove_dir(config.data_dir.join("mounts"));
        Ok(members.into_iter().map(|(id, _)| id).collect())
    } else {
        Err(StopAllError(failures))
    }
}

async fn stop_one(config: &MemberConfig, id: MemberId) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    for mut running in process::find(config, id).map_err(text)? {
        running.stop().await.map_err(|error| error.to_string())?;
    }
    let (config, path) = (config.clone(), config.mount_point(id));
    let work = move || {
        let disk = mount::mounted_at(&path)?.and_then(|mounted| partition::disk_of(&config, mounted.number));
        mount::unmount(&path, true, PATIENCE)?;
        if let Some(disk) = disk {
            partition::forget(&config, &disk);
        }
        mount::remove_mount_point(&path)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| error.to_string())?
        .map_err(text)
}
